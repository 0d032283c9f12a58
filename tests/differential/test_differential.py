"""Is the in-memory broker what RabbitMQ is?"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.differential.comparing import Difference
from tests.differential.machine import STEPS, Differential
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
        conninfo = {  # noqa: RUF012
            "host": f"{rabbitmq_newest.host}:{rabbitmq_newest.port}",
            "userid": rabbitmq_newest.userid,
            "password": rabbitmq_newest.password,
            "virtual_host": rabbitmq_newest.vhost,
        }

    Differential.tally.clear()
    try:
        run_state_machine_as_test(
            Compared,
            settings=settings(
                max_examples=request.config.getoption("differential"),
                stateful_step_count=STEPS + 15,  # some operations do not fit in
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
