"""The connection breaks at every operation of a script, before it or after it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrot.exceptions import DrainTimeout
from carrot.messaging import Consumer, Publisher
from tests.unit.faulty import World

COUNT = 8
SENT = [str(number) for number in range(COUNT)]


def converse(world: World, **publishing: Any) -> list[str]:
    """Send, flush and consume; return what the consumer's callback got, in order."""
    connection = world.connection(timeout=5.0)
    received: list[str] = []

    def receive(message_data: str, message: Any) -> None:
        received.append(message_data)
        message.ack()

    consumer = Consumer(connection, queue="q", exchange="x", routing_key="k")
    consumer.register_callback(receive)
    consumer.qos(prefetch_count=3)
    consumer.consume()
    publisher = Publisher(connection, exchange="x", routing_key="k", **publishing)
    for number in SENT:
        publisher.send(number.encode())
    publisher.flush()
    try:
        while True:
            connection.drain_events(timeout=5.0)
    except DrainTimeout:
        pass
    connection.close()
    return received


def uncut() -> int:
    world = World()
    assert converse(world, confirm_window=3) == SENT
    assert world.bodies("q") == []
    return len(world.operations)


OPERATIONS = uncut()


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("cut", range(2, OPERATIONS + 1))
def test_nothing_is_lost_wherever_the_connection_breaks(cut: int, late: bool) -> None:
    """Whichever operation breaks the connection: all arrive, in order, and are settled."""
    world = World(cut, late=late)
    received = converse(world, confirm_window=3)
    assert list(dict.fromkeys(received)) == SENT
    # Those of one window may come twice, and one that was received but not settled.
    assert len(received) <= COUNT + 3 + 1
    assert len(world.drivers) == 2
    assert world.bodies("q") == []


@settings(max_examples=150, deadline=None)
@given(st.sets(st.integers(2, 2 * OPERATIONS), min_size=1, max_size=8), st.booleans())
def test_nothing_is_lost_however_often_the_connection_breaks(
    cuts: set[int], late: bool
) -> None:
    """Breaking again while recovering, and again, costs nothing but time."""
    world = World(*cuts, late=late)
    received = converse(world, confirm_window=3)
    assert list(dict.fromkeys(received)) == SENT
    assert world.bodies("q") == []


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("cut", range(2, OPERATIONS + 1))
def test_a_backend_without_confirms_loses_no_message_that_it_reports(
    cut: int, late: bool
) -> None:
    """A backend of the old days raises where it fails, and what failed is sent again."""
    world = World(cut, late=late)
    world.backend_cls.features = frozenset()
    received = converse(world)
    assert list(dict.fromkeys(received)) == SENT
    assert world.bodies("q") == []


@pytest.mark.parametrize("cut", range(2, 30))
def test_fetching_goes_on_wherever_the_connection_breaks(cut: int) -> None:
    """`fetch()` returns every message, though acknowledgements may come too late."""
    world = World(cut)
    connection = world.connection()
    with Publisher(connection, exchange="x", routing_key="k", auto_declare=False) as publisher:
        consumer = Consumer(connection, queue="q", exchange="x", routing_key="k")
        for number in SENT:
            publisher.send(number.encode())
    received = []
    for message in consumer.iterqueue():
        received.append(message.payload)
        message.ack()
    assert list(dict.fromkeys(received)) == SENT
    assert world.bodies("q") == []
