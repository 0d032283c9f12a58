"""Is the in-memory broker what RabbitMQ is?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from carrot.broker import Queue
from tests.differential.comparing import Difference
from tests.differential.machine import STEPS, Differential
from tests.differential.observing import Operation
from tests.differential.reducing import difference_in, reduced, script
from tests.differential.replay import conninfo
from tests.servers.vhost import VirtualHost


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore:The auto_delete flag for exchanges")
def test_both_brokers_do_the_same(
    rabbitmq_newest: VirtualHost, request: pytest.FixtureRequest
) -> None:
    """Whatever is done to both, the in-memory broker answers as RabbitMQ 4 does."""
    if rabbitmq_newest.version < (4,):
        pytest.skip("the in-memory broker words its refusals as RabbitMQ 4.0 does")

    class Compared(Differential):
        conninfo = conninfo(rabbitmq_newest.url)
        wanted = request.config.getoption("differential")

    Differential.tally.clear()
    try:
        run_state_machine_as_test(
            Compared,
            settings=settings(
                max_examples=2 * Compared.wanted,  # some are not whole
                stateful_step_count=3 * STEPS,  # some do not fit in
                database=None,
                phases=[Phase.generate],  # a failing sequence is made shorter by itself
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Difference as difference:
        # The script tells all; the sequence that it was made of is forty lines more.
        pytest.fail(str(difference), pytrace=False)
    finally:
        print(dict(Differential.tally))
    assert Differential.tally["whole sequences"] >= Compared.wanted


def test_a_difference_becomes_a_short_script(
    rabbitmq_newest: VirtualHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a sequence that shows a difference, what shows it remains, as a program."""
    where = conninfo(rabbitmq_newest.url)
    message = {"body": b"1", "properties": {}, "exchange": "", "mandatory": False}
    declare: Operation = (0, "queue_declare", {"queue": "q1"})
    publish: Operation = (1, "basic_publish", {**message, "routing_key": "q1"})
    purge: Operation = (2, "queue_purge", {"queue": "q1"})
    others: list[Operation] = [
        (3, "queue_declare", {"queue": "q2"}),
        (0, "basic_get", {"queue": "q1"}),
    ]
    operations = [declare, *others, publish, purge]
    assert difference_in(operations, where) is None

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "purge", lambda self: 0)
        difference = difference_in(operations, where)
        assert "RabbitMQ answers ('int', 1)" in str(difference)
        assert "memory answers ('int', 0)" in str(difference)
        assert reduced(operations, where) == [declare, publish, purge]

    program = tmp_path / "script.py"
    program.write_text(script([declare, publish, purge]))
    run = [sys.executable, str(program), rabbitmq_newest.url]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        run, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "no difference", done.stderr
