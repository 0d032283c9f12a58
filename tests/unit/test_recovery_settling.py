"""Settling messages of channels that are gone, and whose errors are whose."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConnectionLost,
    DrainTimeout,
)
from carrot.messaging import Consumer, Publisher
from tests.unit.faulty import World
from tests.waiting import wait_until


def lose(world: World, connection: BrokerConnection) -> None:
    """Break the connection and wait until it is back."""
    count = connection.stats()["reconnects"]
    world.lose()
    session = connection._session
    session.lose(session.generation, ConnectionLost("noticed"))
    wait_until(lambda: connection.stats()["reconnects"] > count)
    wait_until(lambda: connection.state == "open")


def consumer_of(connection: BrokerConnection, **options: Any) -> tuple[Consumer, list[Any]]:
    """Return a consumer that acknowledges, and the list to which it adds payloads."""
    consumer, received = Consumer(connection, **options), []

    def receive(message_data: Any, message: Any) -> None:
        received.append(message_data)
        message.ack()

    consumer.register_callback(receive)
    consumer.consume()
    return consumer, received


def send(connection: BrokerConnection, body: bytes, **options: Any) -> None:
    with Publisher(connection, auto_declare=False, **options) as publisher:
        publisher.send(body)


def drain(connection: BrokerConnection) -> None:
    """Run all callbacks there are to run."""
    try:
        while True:
            connection.drain_events(timeout=5)
    except DrainTimeout:
        pass


# -- settling


def test_settling_a_message_of_a_lost_channel_sends_nothing_and_is_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A tag of a channel that is gone never reaches its successor."""
    world = World()
    connection = world.connection()
    for number in range(3):
        send_to(connection, number)
    consumer = Consumer(connection, queue="q")
    messages = [consumer.fetch() for _ in range(3)]
    lose(world, connection)
    again = [consumer.fetch() for _ in range(3)]
    messages[0].ack()
    messages[1].reject()
    messages[2].requeue()
    assert [message.acknowledged for message in messages] == [True] * 3
    assert connection.stats()["stale_settles"] == 3
    assert caplog.text.count("comes too late") == 3
    for message in again:
        message.ack()
    assert [message.payload for message in again] == ["0", "1", "2"]
    assert consumer.fetch() is None


def send_to(connection: BrokerConnection, number: int) -> None:
    connection.create_backend().queue_declare("q", True, False, False)
    send(connection, b"%d" % number, routing_key="q")


@pytest.mark.parametrize("verb", ["ack", "reject", "requeue"])
def test_settling_that_meets_the_loss_is_no_error(verb: str) -> None:
    """Who settles first after a loss starts the recovery, and the message comes again."""
    world = World()
    connection = world.connection()
    send_to(connection, 1)
    consumer = Consumer(connection, queue="q")
    message = consumer.fetch()
    world.lose()
    getattr(message, verb)()
    wait_until(lambda: connection.stats()["reconnects"] == 1)
    assert connection.stats()["stale_settles"] == 1
    assert consumer.fetch().delivery_info["redelivered"]


def test_without_recovery_settling_raises_what_it_meets() -> None:
    """`recover=False`: a settlement that cannot be sent is an error."""
    world = World()
    connection = world.connection(recover=False)
    send_to(connection, 1)
    message = Consumer(connection, queue="q").fetch()
    world.lose()
    with pytest.raises(ConnectionLost, match="cut"):
        message.ack()


def test_messages_of_a_replaced_channel_are_not_handed_out() -> None:
    """A delivery that the broker repeats anyhow does not reach the callback twice at once."""
    world = World()
    connection = world.connection()
    for number in range(2):
        send_to(connection, number)
    received = []
    consumer = Consumer(connection, queue="q")

    def receive(message_data: Any, message: Any) -> None:
        received.append((message_data, message.delivery_info["redelivered"]))
        if len(received) == 1:
            lose(world, connection)
        message.ack()

    consumer.register_callback(receive)
    consumer.consume()
    drain(connection)
    assert received[0] == ("0", False)
    assert received[1:] == [("0", True), ("1", True)]


def test_a_message_made_by_hand_reaches_the_callback() -> None:
    """Unit tests of callbacks hand messages in that no channel delivered."""
    connection = World().connection()
    consumer = Consumer(connection, queue="q", auto_declare=False)
    received: list[Any] = []
    consumer.register_callback(lambda data, message: received.append(message))
    cls = consumer.backend.Message
    by_hand = cls(consumer.backend, body=b"1", content_type="text/plain", delivery_tag="mine")
    consumer._receive_callback(by_hand)
    assert received == [by_hand]


# -- whose error


def test_a_callback_that_loses_a_connection_of_its_own_is_not_ours() -> None:
    """An error that the application's callback raises is the application's."""
    world = World()
    connection = world.connection()
    send_to(connection, 1)
    consumer = Consumer(connection, queue="q")

    def fail(message_data: Any, message: Any) -> None:
        raise ConnectionLost("a connection of the application's own")

    consumer.register_callback(fail)
    with pytest.raises(ConnectionLost, match="the application's own"):
        consumer.wait(limit=1)
    assert connection.state == "open"
    consumer.cancel()
    send_to(connection, 2)
    other = Consumer(connection, queue="q")
    other.register_callback(fail)
    other.consume()
    with pytest.raises(ConnectionLost, match="the application's own"):
        connection.drain_events(timeout=5)
    assert len(world.drivers) == 1


def test_a_channel_closed_in_a_callback_is_restored_at_once() -> None:
    """After a channel error the same consumer goes on, though the error was raised."""
    world = World()
    connection = world.connection()
    for number in range(2):
        send_to(connection, number)
    received = []
    consumer = Consumer(connection, queue="q")

    def receive(message_data: Any, message: Any) -> None:
        received.append(message_data)
        if len(received) == 1:
            message.backend.ack(99)
        message.ack()

    consumer.register_callback(receive)
    with pytest.raises(ChannelError):
        consumer.wait(limit=1)
    drain(connection)
    assert received == ["0", "0", "1"]


def test_a_channel_closed_behind_our_back_is_restored(caplog: pytest.LogCaptureFixture) -> None:
    """Who drains is told of a closed channel; its consumers go on, others never stopped."""
    caplog.set_level(logging.WARNING)
    world = World()
    connection = world.connection()
    one, received_one = consumer_of(connection, queue="one")
    other, received_other = consumer_of(connection, queue="other")
    channel = other.backend.raw
    one.backend.raw.close()
    with pytest.raises(ChannelError):
        broken(world, connection)
    for name in ("one", "other"):
        send(connection, b"x", routing_key=name)
    drain(connection)
    assert received_one == received_other == ["x"]
    assert other.backend.raw is channel


def broken(world: World, connection: BrokerConnection) -> None:
    driver = world.drivers[-1]
    drain_events = driver.drain_events

    def fail(timeout: float | None = None) -> None:
        driver.drain_events = drain_events  # type: ignore[method-assign]
        raise ChannelError(406, "PRECONDITION_FAILED - unknown delivery tag")

    driver.drain_events = fail  # type: ignore[assignment,method-assign]
    connection.drain_events(timeout=5)


def test_asking_for_a_queue_does_not_cost_the_consumers_their_channel() -> None:
    """The broker closes a channel to say that there is no queue: not that of the consumers."""
    world = World()
    connection = world.connection()
    consumer, _ = consumer_of(connection, queue="q")
    channel = consumer.backend.raw
    assert consumer.backend.queue_exists("nowhere") is False
    assert consumer.backend.queue_exists("q") is True
    assert consumer.backend.raw is channel
    assert connection.create_backend().queue_exists("nowhere") is False
