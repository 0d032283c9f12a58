"""The benchmark works; how fast anything is, no test says."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import amqp.serialization
import pytest

from tests.bench import docs
from tests.bench.__main__ import main, written
from tests.bench.plan import CONTENDERS, SIZES, Scale, choose
from tests.bench.promises import PROMISES, verdicts
from tests.bench.raw import Tally, body_of, encoded
from tests.bench.results import Results, Spread
from tests.bench.runner import NEAR, steps
from tests.bench.target import target_of_url


def sample(task: str, client: str, mode: str, numbers: dict[str, Any], **over: Any) -> Any:
    said = {
        "round": 0,
        "task": task,
        "size": "85",
        "link": NEAR,
        "client": client,
        "mode": mode,
    }
    return {**said, "numbers": numbers, **over}


def some_results() -> Results:
    fast, slow = ({"count": 100, "cpu": cpu, "wall": cpu} for cpu in (0.0005, 0.01))
    late = {"count": 3, "seconds": [0.003, 0.001, 0.002]}
    return Results(
        {"broker": "RabbitMQ <4.0>"},
        [
            *(sample("publish", "kombu", "plain", slow, round=turn) for turn in range(3)),
            sample("publish", "carrot", "window", fast),
            sample("publish", "rabbitmq-c", "plain", fast),
            sample("consume", "carrot", "window", slow, size="1m"),
            sample("latency", "carrot", "window", late),
            sample("latency", "pika", "each", late),
        ],
        {"rabbitpy": "not installed"},
    )


def test_small_message_is_85_bytes() -> None:
    """The message called 85 bytes of JSON is that long, and as long as its name says."""
    assert {name: len(body_of(size)) for name, size in SIZES.items()} == {
        name: size.bytes for name, size in SIZES.items()
    }


def test_raw_frames_are_what_amqp_says() -> None:
    """The ready-made frames hold the properties and the body that clients send."""
    frames = encoded(1, "ex", "key", SIZES["64k"], 4096)
    method_end = 7 + int.from_bytes(frames[3:7], "big") + 1
    properties, _ = amqp.serialization.decode_properties_basic(frames, method_end + 7 + 12)
    assert properties == {
        "content_type": "application/data",
        "content_encoding": "binary",
        "delivery_mode": 2,
    }
    assert frames.count(b"x") == 65536 + 1  # the body, and the exchange's name


def test_everybody_takes_turns() -> None:
    """Each round holds each client's steps once, in an order that changes."""
    todo = list(steps(Scale.quick(), ["85"], CONTENDERS))
    orders = [
        [step.contender for step in todo if (step.round, step.task, step.link) == wanted]
        for wanted in ((0, "publish", NEAR), (1, "publish", NEAR))
    ]
    assert set(orders[0]) == set(orders[1]) == set(CONTENDERS)
    assert orders[0] != orders[1]


def test_unknown_names_are_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """A client or size that is not there ends the program with the names that are."""
    with pytest.raises(ValueError, match=r"celery.*kombu"):
        choose(["celery"])
    assert main(["--sizes", "3"]) == 2
    assert "16, 85, 1k, 64k, 1m" in capsys.readouterr().err


def test_what_cannot_be_done_is_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad options and files are one line and a status, before anything is measured."""
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    for options, words in [
        (["--read", str(tmp_path / "none.json")], "No such file"),
        (["--read", str(other)], "nothing that --json wrote"),
        (["--json", str(tmp_path / "none" / "x.json")], "No such file"),
        (["--quick", "--write-docs"], "without --only, --sizes and --quick"),
        (["--url", "amqp://127.0.0.1:1//"], "refused"),
    ]:
        assert main(options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("tests.bench: ") and words in line
    for option in ("--rounds=0", "--messages=-1", "--rounds=x"):
        with pytest.raises(SystemExit):
            main([option])
        assert option.partition("=")[2] in capsys.readouterr().err.splitlines()[-1]


def test_confirms_are_counted_once() -> None:
    """Single and multiple confirms, in any order and cut anywhere, count each message once."""
    tally = Tally()
    acks = [(2, False), (3, True), (5, False), (4, False), (7, True)]
    data = b"".join(
        b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x50" + tag.to_bytes(8, "big") + bytes([many]) + b"\xce"
        for tag, many in acks
    )
    for at in range(0, len(data), 5):
        tally.feed(data[at : at + 5])
    assert tally.confirmed == 7


def test_spread() -> None:
    """A spread is the median and the extremes."""
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_promises_are_judged() -> None:
    """A promise holds or not by the ratio of the medians, and says beside whom."""
    found = {verdict.promise: verdict for verdict in verdicts(some_results())}
    kombu = found[PROMISES[0]]
    assert (round(kombu.ratio, 3), kombu.beside, kombu.holds) == (0.05, "kombu", True)
    assert {verdict.promise.figure for verdict in found.values()} == {"cpu", "p50", "p99"}


def test_report_names_all() -> None:
    """The report shows figures, ratios, promises and failures."""
    report = written(some_results())
    for words in (
        "RabbitMQ <4.0>",
        "Publish, 85 B JSON",
        "Latency",
        "kombu",
        "failed: rabbitpy",
    ):
        assert words in report
    line = next(line for line in report.splitlines() if "kombu's unconfirmed" in line)
    assert line.split()[-6:] == ["5", "100", "0.05", "<=", "0.2", "yes"]


def test_docs_are_written(tmp_path: Path) -> None:
    """Charts are well-formed SVG, and every file that the manual's page names is written."""
    docs.write(some_results(), tmp_path)
    for chart in tmp_path.glob("*.svg"):
        assert ElementTree.parse(chart).getroot().tag.endswith("svg")
    page = (docs.FOLDER.parent / "benchmarks.rst").read_text()
    included = {line.split("/")[-1] for line in page.splitlines() if "include::" in line}
    assert included == {path.name for path in tmp_path.glob("*.inc")}


def test_url_is_read() -> None:
    """A broker URL says host, port, user, password and virtual host."""
    target = target_of_url("amqp://us%40er:p%2Fw@example.com:5673/a%2Fb")
    assert (target.host, target.port, target.vhost) == ("example.com", 5673, "a/b")
    assert (target.userid, target.password) == ("us@er", "p/w")
    assert target_of_url("amqp://localhost").vhost == "/"


@pytest.mark.timeout(120)
def test_small_run(
    rabbitmq_newest: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with few messages measures each task of each client, and leaves no queue behind."""
    samples = tmp_path / "samples.json"
    clients = ("carrot", "py-amqp", "raw")
    names = ["--url", rabbitmq_newest.url, "--only", ",".join(clients), "--json", str(samples)]
    status = main([*names, "--rounds=1", "--sizes=85", "--messages=30"])
    assert status == 0, capsys.readouterr()
    results = Results(**json.loads(samples.read_text()))
    for table in (("publish", "85", "near"), ("publish", "85", "far")):
        assert {row.contender.client for row in results.rows(*table)} == set(clients)
    for table in (
        ("consume", "85", "near"),
        ("latency", "85", "near"),
        ("latency", "85", "far"),
    ):
        assert {row.contender.client for row in results.rows(*table)} == {"carrot", "py-amqp"}
    assert "carrot-bench" not in rabbitmq_newest.ctl("list_queues", "-p", rabbitmq_newest.vhost)
