"""The house stands: floors, sizes, and what a message may cost.

``docs/explanation/house.rst`` explains what is checked here.
"""

from __future__ import annotations

import ast
import configparser
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.servers.vhost import VirtualHost

ROOT = Path(__file__).parent.parent

#: The floors from the ground up. A room is a module or a package; the longest
#: name that fits counts.
FLOORS = [
    {"carrot", "carrot.exceptions", "carrot.utils"},
    {
        *("carrot.serialization", "carrot.topology", "carrot.broker", "carrot.confirms"),
        *("carrot.conninfo", "carrot.names", "carrot.options"),
    },
    {"carrot.backends.base"},
    {
        "carrot.backends",
        "carrot.backends.queue",
        "carrot.backends.pyamqplib",
        "carrot.recovery",
    },
    {"carrot.messaging", "carrot.connection", "carrot.pool"},
    {"carrot.__main__", "carrot.cli", "carrot.demo", "carrot.testing"},
]
PURE = FLOORS[0] | FLOORS[1]
#: Rooms of one floor that do not know each other.
STRANGERS = [
    {"carrot.messaging", "carrot.connection"},
    {"carrot.messaging", "carrot.pool"},
    {"carrot.backends.queue", "carrot.backends.pyamqplib"},
    {"carrot.backends", "carrot.backends.queue"},
    {"carrot.backends", "carrot.backends.pyamqplib"},
    {"carrot.recovery", "carrot.backends"},
    {"carrot.recovery", "carrot.backends.queue"},
    {"carrot.recovery", "carrot.backends.pyamqplib"},
]
#: The one exception: an old name that people import from the wrong door.
TOLERATED = {("carrot.messaging", "carrot.connection")}

#: What does I/O, runs threads, or asks a clock.
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "os", "select", "selectors", "signal"),
    *("socket", "ssl", "subprocess", "time"),
}
DRIVERS = {"amqp", "kombu", "pika", "amqpstorm", "rabbitpy", "vine"}

LONGEST_FILE, LONGEST_FUNCTION = 500, 60
#: Python calls for one message, the standard library's aside.
SEND_CALLS, RECEIVE_CALLS = 12, 24


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of carrot."""
    trees = {}
    for path in (ROOT / "carrot").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        trees[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return trees


def imports(module: str, typing_too: bool = True) -> Iterator[str]:
    """Yield what a module imports, wherever in it, as full names of modules.

    :param typing_too: also what only type checkers import.
    """
    tree = modules()[module]
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if not typing_too and isinstance(node, ast.If) and is_for_typing(node):
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def is_for_typing(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def room_of(module: str) -> str:
    """Return the room that a module of carrot belongs to."""
    rooms = set().union(*FLOORS)
    while module not in rooms - {"carrot"} and "." in module:
        if module.count(".") == 1:
            raise AssertionError(f"{module} is in no room: give it one in FLOORS")
        module = module.rpartition(".")[0]
    return module


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def ways() -> Iterator[tuple[str, str, str, str]]:
    """Yield who imports whom: module, its room, imported module, its room."""
    for module in modules():
        for other in imports(module):
            if other in modules() and room_of(module) != room_of(other):
                yield module, room_of(module), other, room_of(other)


# -- rooms and floors


def test_imports_go_down() -> None:
    """No room imports from a floor above its own."""
    upward = [
        f"{module} imports {other}"
        for module, room, other, below in ways()
        if floor_of(below) > floor_of(room)
    ]
    assert upward == []


def test_strangers() -> None:
    """Rooms that should not know each other do not."""
    known = [
        f"{module} imports {other}"
        for module, room, other, below in ways()
        if {room, below} in STRANGERS and (module, other) not in TOLERATED
    ]
    assert known == []


def test_no_cycles() -> None:
    """No import leads back to where it began, lazy ones included."""
    graph = {
        module: {other for other in imports(module, typing_too=False) if other in modules()}
        for module in modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_edges_are_imported_by_nobody() -> None:
    """What people run or test with is no part of what they use."""
    edges = FLOORS[-1]
    assert [way for way in ways() if way[3] in edges and way[1] not in edges] == []


def test_pure_rooms_do_no_io() -> None:
    """The ground and the pure floor import nothing that does I/O or asks a clock."""
    allowed = {
        ("carrot.utils", "time"),  # the deadline of one public call
        ("carrot.serialization.registry", "os"),  # the variable CARROT_ACCEPT_CONTENT
        ("carrot.conninfo", "ssl"),  # the names of its constants
    }
    found = {
        (module, name.partition(".")[0])
        for module in modules()
        if room_of(module) in PURE
        for name in imports(module)
        if name.partition(".")[0] in IMPURE
    }
    assert found <= allowed


def test_drivers_stay_below() -> None:
    """Only the backend of a driver imports the driver."""
    found = {
        (room_of(module), name)
        for module in modules()
        for name in imports(module)
        if name.partition(".")[0] in DRIVERS
    }
    assert {room for room, _ in found} == {"carrot.backends.pyamqplib"}


def test_foreign_packages_live_in_one_room() -> None:
    """A package that is not ours is known to one room."""
    rooms: dict[str, set[str]] = {}
    for module in modules():
        for name in imports(module):
            package = name.partition(".")[0]
            if package != "carrot" and package not in sys.stdlib_module_names:
                rooms.setdefault(package, set()).add(room_of(module))
    assert {package: who for package, who in rooms.items() if len(who) > 1} == {}


def test_the_package_imports_nothing() -> None:
    """carrot/__init__ is metadata only."""
    assert list(imports("carrot")) == []


@pytest.mark.parametrize("door", ["carrot.messaging", "carrot.connection", "carrot.backends"])
def test_doors_load_no_driver(door: str) -> None:
    """Importing messaging or connection loads no driver and no backend."""
    program = (
        f"import sys, {door}\n"
        f"print(*({DRIVERS} & set(sys.modules)))\n"
        "print(*(m for m in sys.modules if m.startswith('carrot.backends.p')))\n"
        "print(*(m for m in sys.modules if m.startswith('carrot.backends.q')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


# -- sizes


def sources() -> list[Path]:
    """Return every hand-written Python file."""
    folders = [ROOT / name for name in ("carrot", "tests", "docs")]
    written = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in written if "_build" not in path.parts]


def test_files_are_short() -> None:
    """No file is longer than 500 lines."""
    lengths = {str(p.relative_to(ROOT)): p.read_text().count("\n") for p in sources()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_functions_are_short() -> None:
    """No function is longer than 60 lines, what its docstring promises aside."""
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": length
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := code_lines(node)) > LONGEST_FUNCTION
    }
    assert long == {}


def test_the_top_level_is_tidy() -> None:
    """Nothing lies beside the folders and files that the user chose."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a clone")
    allowed = {"carrot", "tests", "docs", "setup.py", "README.rst", "LICENSE", "tox.ini"}
    top = {name.partition("/")[0] for name in tracked if not name.startswith(".")}
    assert top - allowed <= {"pyproject.toml"}
    sections = configparser.ConfigParser()
    sections.read(ROOT / "pyproject.toml")
    assert sections.sections() == ["build-system"]


# -- the cost of a message


def calls_of(action: Callable[[], Any], aside: tuple[str, ...] = ()) -> list[str]:
    """Return the Python functions that an action called, outside the standard library.

    :param aside: rooms of carrot that are not counted, as paths.
    """
    stdlib, site = (sysconfig.get_path(name) for name in ("stdlib", "purelib"))
    calls: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        ours = not code.co_filename.startswith((stdlib, "<")) or code.co_filename.startswith(
            site
        )
        if event == "call" and ours and not any(room in code.co_filename for room in aside):
            calls.append(f"{Path(code.co_filename).stem}.{code.co_name}:{code.co_firstlineno}")

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    # The action and the callback are the application's.
    return [call for call in calls if not call.startswith("test_house.")]


def typical(runs: list[list[str]]) -> list[str]:
    """Return the run of median length."""
    return next(run for run in runs if len(run) == statistics.median_low(map(len, runs)))


def check_budgets(connection: BrokerConnection, aside: tuple[str, ...] = ()) -> None:
    received = []

    def settle(message_data: Any, message: Any) -> None:
        received.append(message_data)
        message.ack()

    consumer = Consumer(connection, queue="house", exchange="house", routing_key="house")
    consumer.register_callback(settle)
    consumer.qos(prefetch_count=250)
    with Publisher(connection, exchange="house", routing_key="house") as publisher:
        sends = [calls_of(lambda: publisher.send({"n": 1}), aside) for _ in range(21)]
    consumer.consume()
    receives = [calls_of(lambda: connection.drain_events(timeout=10), aside) for _ in range(21)]
    consumer.close()
    assert received == [{"n": 1}] * 21
    assert len(typical(sends)) <= SEND_CALLS, typical(sends)
    assert len(typical(receives)) <= RECEIVE_CALLS, typical(receives)


@pytest.mark.usefixtures("no_collector")
def test_calls_in_memory() -> None:
    """In memory a warm send, and a receive with its ack, keep the budget of calls.

    What RabbitMQ's server would do is not counted: routing, queueing, confirming.
    """
    servers_part = ("/carrot/broker/", "/carrot/topology.py", "/queue/driver.py")
    with BrokerConnection("memory://house") as connection:
        check_budgets(connection, aside=servers_part)


@pytest.mark.usefixtures("no_collector")
def test_calls_on_rabbitmq(rabbitmq_newest: VirtualHost) -> None:
    """On RabbitMQ a warm send, and a receive with its ack, keep the budget of calls."""
    with BrokerConnection(rabbitmq_newest.url) as connection:
        check_budgets(connection)
