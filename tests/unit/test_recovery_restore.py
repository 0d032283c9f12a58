"""What comes back with a connection, and what does not."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConnectionLost,
    DrainTimeout,
    NotFound,
    ResourceLocked,
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


# -- topology


def test_exclusive_and_auto_delete_queues_come_back_with_bindings_and_consumers() -> None:
    """What the broker deleted with the lost connection is declared again."""
    world = World()
    connection = world.connection()
    _, received = consumer_of(
        connection, queue="q", exchange="x", routing_key="k", exclusive=True, durable=False
    )
    lose(world, connection)
    send(connection, b"after", exchange="x", routing_key="k")
    drain(connection)
    assert received == ["after"]


def test_a_server_named_queue_is_followed_by_all_that_is_about_it() -> None:
    """Bindings, consumers and later operations find the queue under its new name."""
    world = World()
    connection = world.connection()
    consumer, received = consumer_of(
        connection, queue="", exchange="x", routing_key="k", exclusive=True
    )
    former = consumer.queue
    for number in range(3):
        lose(world, connection)
        assert former not in world.declared()
        send(connection, b"%d" % number, exchange="x", routing_key="k")
        drain(connection)
    assert received == ["0", "1", "2"]
    consumer.backend.queue_bind(former, "x", "other", None)
    send(connection, b"other", exchange="x", routing_key="other")
    drain(connection)
    assert received[-1] == "other"
    consumer.cancel()
    assert consumer.backend.queue_delete(former) == 0
    lose(world, connection)
    assert world.declared() == set()


def test_what_was_deleted_stays_deleted() -> None:
    """A queue that the application deleted is not declared again."""
    world = World()
    connection = world.connection()
    kept = Consumer(connection, queue="kept", exchange="x", routing_key="k", durable=False)
    Consumer(connection, queue="gone", exchange="x", routing_key="k", durable=False)
    kept.backend.queue_delete("gone")
    world.broker.connect().channel().queue_delete("kept")
    lose(world, connection)
    assert world.declared() == {"kept"}


def test_an_auto_delete_queue_whose_consumer_left_stays_away() -> None:
    """Nobody would ever delete it again."""
    world = World()
    connection = world.connection()
    one, _ = consumer_of(connection, queue="cancelled", auto_delete=True)
    other, _ = consumer_of(connection, queue="closed", auto_delete=True)
    one.cancel()
    other.close()
    lose(world, connection)
    assert world.declared() == set()


def test_a_thousand_queues_and_consumers_come_back() -> None:
    """Recovery takes each declaration once, however many there are."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    received: list[str] = []
    backend.exchange_declare("x", "direct", True, False)
    for number in range(1000):
        name = f"q{number}"
        backend.queue_declare(name, False, True, False)
        backend.queue_bind(name, "x", name)
        backend.declare_consumer(name, True, lambda raw: received.append(raw.body), name)
    before = len(world.operations)
    lose(world, connection)
    assert len(world.operations) - before < 3010
    publisher = Publisher(connection, exchange="x", auto_declare=False)
    for number in range(1000):
        publisher.send(b"%d" % number, routing_key=f"q{number}")
    publisher.flush()
    drain(connection)
    assert received == [b"%d" % number for number in range(1000)]


def test_a_queue_that_others_redeclared_differently_costs_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be declared again is logged, and everything else comes back."""
    world = World()
    connection = world.connection()
    consumer_of(connection, queue="theirs", durable=False)
    _, received = consumer_of(connection, queue="ours", durable=False)
    channel = world.broker.connect().channel()
    channel.queue_delete("theirs")
    channel.queue_declare("theirs", durable=True)
    lose(world, connection)
    assert "cannot declare again: queue_declare" in caplog.text
    send(connection, b"x", routing_key="ours")
    drain(connection)
    assert received == ["x"]


def test_a_queue_locked_by_our_former_connection_is_asked_for_until_it_is_free() -> None:
    """The broker may not have noticed yet that the former connection is dead."""
    world = World()
    connection = world.connection()
    _, received = consumer_of(connection, queue="q", exclusive=True)
    declare = world.backend_cls.queue_declare
    refusals = [ResourceLocked(405, "RESOURCE_LOCKED")] * 3

    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if refusals:
            self.close()
            raise refusals.pop()
        return declare(self, *args, **kwargs)

    world.backend_cls.queue_declare = locked
    world.pauses.clear()
    lose(world, connection)
    assert world.pauses == [0, 0.1, 0.2, 0.4]
    send(connection, b"x", routing_key="q")
    drain(connection)
    assert received == ["x"]


def test_a_declaration_that_kills_the_connection_is_not_repeated_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the broker closes the connection for is left out of the next try."""
    world = World()
    connection = world.connection()
    _, received = consumer_of(connection, queue="good")
    Consumer(connection, queue="bad", durable=False)
    declare = world.backend_cls.queue_declare

    def refuse(self: Any, queue: str, **kwargs: Any) -> Any:
        if queue == "bad":
            self.connection.connection.die()
            error = ConnectionLost("541 INTERNAL_ERROR")
            error.recoverable = False
            raise error
        return declare(self, queue, **kwargs)

    world.backend_cls.queue_declare = refuse
    lose(world, connection)
    assert "cannot declare again: queue_declare" in caplog.text
    send(connection, b"x", routing_key="good")
    drain(connection)
    assert received == ["x"]
    with pytest.raises(ConnectionLost, match="541"):
        Consumer(connection, queue="bad", durable=False)
    send(connection, b"y", routing_key="good")
    drain(connection)
    assert received == ["x", "y"]


# -- channels


def test_bounds_come_back_before_consumers() -> None:
    """qos is set again, before the broker can send more than it allows."""
    world = World()
    connection = world.connection()
    consumer, _ = consumer_of(connection, queue="q")
    consumer.qos(prefetch_count=2)
    del world.operations[:]
    lose(world, connection)
    restoring = [name for name in world.operations if name.startswith("basic")]
    assert restoring == ["basic_qos", "basic_consume"]
    for number in range(5):
        send(connection, b"%d" % number, routing_key="q")
    connection.drain_events(timeout=5)
    assert len(world.broker.vhost("/").queues["q"].consumers) == 1


def test_an_idle_publisher_gets_its_channel_when_it_sends() -> None:
    """What has nothing to restore opens no channel before it is used."""
    world = World()
    connection = world.connection()
    publisher = Publisher(connection, routing_key="q")
    consumer, received = consumer_of(connection, queue="q")
    publisher.send(b"before")
    publisher.flush()
    del world.operations[:]
    lose(world, connection)
    assert world.operations.count("open") == 2  # for declaring, and for consuming
    publisher.send(b"after")
    publisher.flush()
    drain(connection)
    assert received == ["before", "after"]
    assert consumer.channel_open


def test_a_consumer_that_cannot_come_back_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Its queue was not declared here and is gone: who drains is told, once; others go on."""
    world = World()
    connection = world.connection()
    theirs = world.broker.connect().channel()
    theirs.queue_declare("theirs", durable=True)
    consumer_of(connection, queue="theirs", auto_declare=False)
    _, received = consumer_of(connection, queue="ours")
    # Deleted while nobody of us is connected: no cancel can tell.
    establish = world.backend_cls.establish_connection

    def delete_first(self: Any) -> Any:
        if "theirs" in world.declared():
            theirs.queue_delete("theirs")
        return establish(self)

    world.backend_cls.establish_connection = delete_first
    world.lose()
    with pytest.raises(NotFound, match="theirs"):
        connection.drain_events(timeout=5)
    assert "cannot restore" in caplog.text
    send(connection, b"x", routing_key="ours")
    drain(connection)
    assert received == ["x"]


def test_a_consumer_that_waits_is_told_that_it_cannot_come_back() -> None:
    """wait() raises, rather than wait for messages that cannot come."""
    world = World()
    connection = world.connection()
    theirs = world.broker.connect().channel()
    theirs.queue_declare("theirs", exclusive=False, auto_delete=True)
    consumer, _ = consumer_of(connection, queue="theirs", auto_declare=False)
    world.lose()
    with pytest.raises(NotFound, match="theirs"):
        consumer.wait()


def test_cancelling_on_a_lost_connection_is_quiet() -> None:
    """A subscription that is gone with its connection is ended, and does not come back."""
    world = World()
    connection = world.connection()
    consumer, received = consumer_of(connection, queue="q")
    world.lose()
    consumer.cancel()
    wait_until(lambda: connection.stats()["reconnects"] == 1)
    send(connection, b"x", routing_key="q")
    drain(connection)
    assert received == []


# -- server-sent cancels


def test_a_deleted_queue_is_declared_and_consumed_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When the broker cancels a consumer, its queue and bindings are declared again."""
    world = World()
    connection = world.connection()
    _, received = consumer_of(connection, queue="q", exchange="x", routing_key="k")
    world.broker.connect().channel().queue_delete("q")
    connection.drain_events(timeout=5)
    assert "cancelled the consumer of queue 'q'" in caplog.text
    send(connection, b"x", exchange="x", routing_key="k")
    drain(connection)
    assert received == ["x"]


def test_without_recovery_a_cancel_is_an_error() -> None:
    """`recover=False`: who drains learns that the queue was deleted."""
    world = World()
    connection = world.connection(recover=False)
    consumer, _ = consumer_of(connection, queue="q")
    world.broker.connect().channel().queue_delete("q")
    with pytest.raises(NotFound, match="the broker cancelled the consumer of queue 'q'"):
        consumer.wait()


def test_a_queue_that_we_deleted_ourselves_is_not_declared_again() -> None:
    """The consumer of a queue that the application deleted is told."""
    world = World()
    connection = world.connection()
    consumer, _ = consumer_of(connection, queue="q")
    _, received = consumer_of(connection, queue="other")
    connection.create_backend().queue_delete("q")
    with pytest.raises(NotFound, match="'q'"):
        consumer.wait(limit=1)
    assert world.declared() == {"other"}
    send(connection, b"x", routing_key="other")
    drain(connection)
    assert received == ["x"]


def test_a_connection_lost_while_a_cancel_is_handled_recovers_all() -> None:
    """Whatever breaks while a queue is declared again: the consumer goes on at last."""
    for cut in range(1, 8):
        world = World()
        connection = world.connection()
        _, received = consumer_of(connection, queue="q", exchange="x", routing_key="k")
        world.broker.connect().channel().queue_delete("q")
        world.cuts.add(len(world.operations) + cut)
        drain(connection)
        send(connection, b"x", exchange="x", routing_key="k")
        drain(connection)
        assert list(dict.fromkeys(received)) == ["x"], cut


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


# -- the backend, seen from outside


def test_the_backend_is_what_it_is_around() -> None:
    """It says that it is an instance of the backend's class and answers as it does."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    assert isinstance(backend, world.backend_cls)
    assert backend.connection is connection
    assert backend.default_port == 7
    assert backend.features == {"confirms", "stop"}
    assert repr(connection) in repr(backend)
    with pytest.raises(AttributeError):
        backend.no_such_thing  # noqa: B018


def test_a_backend_sees_the_real_connection() -> None:
    """What a backend reads of its connection, and the port it writes, are the connection's."""
    world = World()
    connection = world.connection(userid="me")
    inner = connection.create_backend()._base
    assert isinstance(inner.connection, BrokerConnection)
    assert inner.connection.userid == "me"
    assert repr(inner.connection) == repr(connection)
    inner.connection.port = 99
    assert connection.port == 99
    assert inner.connection.get_channel().is_open
    connection.close()
    assert inner.connection.connection is None
    with pytest.raises(Exception, match="is closed"):
        inner.connection.get_channel()


def test_messages_that_take_no_attributes_are_left_alone() -> None:
    """What `message_to_python` returns may be anything, as with the oldest backends."""
    world = World()
    world.backend_cls.message_to_python = lambda self, raw: raw.body
    backend = world.connection().create_backend()
    backend.queue_declare("q", True, False, False)
    received: list[Any] = []
    backend.declare_consumer(
        "q", False, lambda raw: received.append(backend.message_to_python(raw)), "t"
    )
    send(backend.connection, b"x", routing_key="q")
    drain(backend.connection)
    assert received == [b"x"]
