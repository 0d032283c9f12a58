"""Write the manual's page of behaviours: ``python -m tests.contract.behaviour_table``.

Runs the tests of :class:`carrot.testing.BrokerBehaviours` in memory and on each
RabbitMQ at hand, and writes what came out, side by side.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from carrot.testing import BrokerBehaviours

PAGE = Path(__file__).parents[2] / "docs/reference/behaviours.rst"
TESTS = {
    "memory": "tests/contract/test_memory.py::TestMemoryBehaviours",
    "RabbitMQ": "tests/contract/test_rabbitmq.py::TestRabbitMQBehaviours",
}
HEAD = """\
Behaviours of the brokers
=========================

The in-memory broker is to behave as RabbitMQ does. Each line is a test of
:class:`carrot.testing.BrokerBehaviours`, run over each broker by
``python -m tests.contract.behaviour_table``, which wrote this page.

.. list-table::
   :header-rows: 1
   :widths: 64 12 12 12

   * - Behaviour
     - in memory
     - RabbitMQ 3.10
     - RabbitMQ 4.0
"""


def behaviours() -> dict[str, str]:
    """Return the promise of each test, by name, in the order of the source."""
    found: dict[str, str] = {}
    for base in BrokerBehaviours.__bases__:
        for name, function in vars(base).items():
            if name.startswith("test_"):
                promise = inspect.getdoc(function) or ""
                found[name] = " ".join(promise.split("\n\n")[0].split())
    return found


def results() -> dict[tuple[str, str], str]:
    """Run the tests; return the outcome by name of the test and broker."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}"]
        subprocess.run([*command, *TESTS.values()], check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        outcomes: dict[tuple[str, str], set[str]] = {}
        for case in cases:
            name, _, parameters = case.attrib["name"].rstrip("]").partition("[")
            where = "memory"
            if "RabbitMQ" in case.attrib["classname"]:
                where = "4.0" if parameters.startswith("4.0") else "3.10"
            trouble = {child.tag for child in case} & {"failure", "error", "skipped"}
            outcomes.setdefault((name, where), set()).update(trouble or {"yes"})
    return {
        key: "yes" if found == {"yes"} else "no" if found & {"failure", "error"} else "not run"
        for key, found in outcomes.items()
    }


def main() -> int:
    """Write the page; return 1 where a behaviour is not as promised."""
    outcomes = results()
    lines = []
    for name, promise in behaviours().items():
        lines.append(f"   * - {promise}")
        for where in ("memory", "3.10", "4.0"):
            lines.append(f"     - {outcomes.get((name, where), 'not run')}")
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")
    return int(set(outcomes.values()) != {"yes"})


if __name__ == "__main__":
    sys.exit(main())
