"""What comes back with a connection, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
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
        assert {consumer.queue} == world.declared()
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
