"""Where threads, deadlines and errors meet in the middle of a recovery."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConnectionLost,
    PreconditionFailed,
    PublishNotFound,
)
from carrot.messaging import Consumer, Publisher
from carrot.utils import time_limit
from tests.unit.faulty import FaultyBackend, World
from tests.waiting import wait_until


def lose(world: World, connection: BrokerConnection) -> None:
    """Break the connection and have that noticed."""
    world.lose()
    session = connection._session
    session.lose(session.generation, ConnectionLost("noticed"))


def lose_and_wait(world: World, connection: BrokerConnection) -> None:
    """Break the connection and wait until it is back."""
    count = connection.stats()["reconnects"]
    lose(world, connection)
    wait_until(lambda: connection.stats()["reconnects"] > count)


def worker(connection: BrokerConnection) -> tuple[Consumer, list[Any]]:
    consumer, received = Consumer(connection, queue="q"), []

    def receive(message_data: Any, message: Any) -> None:
        received.append(message_data)
        message.ack()

    consumer.register_callback(receive)
    return consumer, received


def send(connection: BrokerConnection, count: int) -> None:
    with Publisher(connection, routing_key="q") as publisher:
        for number in range(count):
            publisher.send(b"%d" % number)


# -- consuming


def test_a_limit_counts_messages_across_a_loss() -> None:
    """wait(limit) ends after so many messages, whatever happened between them."""
    world = World()
    connection = world.connection()
    consumer, received = worker(connection)
    send(connection, 6)
    seen = 0
    for _ in consumer.iterconsume(limit=4):
        seen += 1
        if seen == 2:
            lose_and_wait(world, connection)
    assert (seen, received) == (4, ["0", "1", "2", "3"])


def test_a_consumer_that_is_stopped_in_a_callback_during_a_loss_leaves() -> None:
    """stop() counts, whichever channel the next one is."""
    world = World()
    connection = world.connection()
    consumer, received = worker(connection)
    send(connection, 3)

    def stop(message_data: Any, message: Any) -> None:
        world.lose()
        consumer.stop()

    consumer.register_callback(stop)
    consumer.wait()
    assert received == ["0"]
    consumer.callbacks.pop()
    consumer.wait(limit=2)
    assert received == ["0", "1", "2"]


def test_a_consumer_that_is_stopped_before_it_is_connected_leaves() -> None:
    """stop() also ends the waiting for a broker that never was there."""
    world = World()
    world.down = True
    connection = BrokerConnection("host", backend_cls=world.backend_cls, wait_for_broker=True)
    backend = connection.create_backend()
    lost: Any = object.__getattribute__(backend, "gate")
    lost()
    consuming = threading.Thread(target=lambda: list(backend.consume()))
    consuming.start()
    wait_until(lambda: len(world.tried) > 1)
    backend.stop()
    consuming.join(10)
    assert not consuming.is_alive()
    connection.close()


def test_a_generator_of_the_old_days_ends_consume() -> None:
    """A backend that raises StopIteration inside its generator has ended."""
    world = World()

    def consume(self: Any, limit: int | None = None) -> Iterator[bool]:
        yield True
        raise StopIteration

    world.backend_cls.consume = consume
    backend = world.connection().create_backend()
    assert list(backend.consume()) == [True]


def test_an_error_that_is_nobodys_comes_through() -> None:
    """What is neither loss nor closed channel is raised as it is, everywhere."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    for name in ("queue_purge", "get", "declare_consumer", "cancel", "pump", "publish"):
        setattr(world.backend_cls, name, fail)
    world.backend_cls.consume = fail
    uses = [
        lambda: backend.queue_purge("q"),
        lambda: backend.get("q"),
        lambda: backend.declare_consumer("q", True, print, "tag"),
        lambda: backend.cancel("tag"),
        lambda: backend.pump(1),
        lambda: backend.publish("message", "", "q"),
        lambda: list(backend.consume()),
    ]
    for use in uses:
        with pytest.raises(ZeroDivisionError):
            use()
    assert len(world.drivers) == 1


def test_a_cancel_of_a_consumer_that_is_not_ours_is_nothing() -> None:
    """The broker may tell of consumers that were cancelled here already."""
    world = World()
    connection = world.connection()
    consumer, _ = worker(connection)
    consumer.consume()
    inner = consumer.backend._base
    consumer.cancel()
    inner.on_cancel(consumer.consumer_tag)
    assert world.declared() == {"q"}


def test_cancelling_while_the_broker_is_away_needs_no_broker() -> None:
    """A subscription ends on a lost connection without waiting for the next one."""
    world = World()
    connection = world.connection()
    consumer, _ = worker(connection)
    consumer.consume()
    world.down = True
    lose(world, connection)
    consumer.cancel()
    assert connection.state == "recovering"
    connection.close()


def test_a_bound_that_the_broker_refuses_is_told_and_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broker that was upgraded meanwhile may refuse what it used to allow."""
    world = World()
    connection = world.connection()
    consumer, received = worker(connection)
    consumer.qos(prefetch_count=5, apply_global=True)
    consumer.consume()

    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.close()
        raise PreconditionFailed(540, "NOT_IMPLEMENTED - global qos")

    world.backend_cls.qos = refuse
    lose_and_wait(world, connection)
    with pytest.raises(ChannelError, match="global qos"):
        connection.drain_events(timeout=5)
    send(connection, 1)
    connection.drain_events(timeout=5)
    assert received == ["0"]
    assert "cannot restore qos" in caplog.text


def test_a_delivery_of_a_channel_that_was_replaced_is_dropped() -> None:
    """The broker delivers it again; only what it forgot in sending is still handed out."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    handed_out: list[Any] = []
    backend.declare_consumer("q", False, handed_out.append, "careful")
    backend.declare_consumer("q", True, handed_out.append, "careless")
    callbacks = backend._base.callbacks
    lose_and_wait(world, connection)
    callbacks["careful"]("again")
    callbacks["careless"]("only once")
    assert handed_out == ["only once"]


# -- settling


def test_settling_by_tag_concerns_the_present_channel() -> None:
    """A tag without its message is taken for one of the channel as it is now."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    send(connection, 3)
    for settle in (backend.ack, backend.reject, backend.requeue):
        settle(backend.get("q").delivery_tag)
    assert backend.queue_purge("q") == 1
    message = backend.get("q")
    assert message is None


def test_a_messages_backend_answers_for_the_backend() -> None:
    """Callbacks reach the channel through their message, as they always could."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    send(connection, 1)
    message = backend.get("q")
    assert message.backend.default_port == 7
    assert "live" in repr(message.backend)
    lose_and_wait(world, connection)
    assert "stale" in repr(message.backend)


def test_messages_that_know_their_channel_settle_themselves() -> None:
    """A backend with the feature "bearers" is not stood in for."""
    world = World()
    world.backend_cls.features = FaultyBackend.features | {"bearers"}
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    send(connection, 1)
    assert backend.get("q").backend is backend._base
    assert backend.message_to_python.__self__ is backend._base


# -- sending


def test_an_exchange_that_is_gone_fails_all_that_was_sent_to_it() -> None:
    """One answer is enough for all messages to a missing exchange; the others arrive."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    theirs = world.broker.connect().channel()
    theirs.exchange_declare("theirs", "fanout")
    publisher = Publisher(connection, routing_key="q")
    world.silent = True
    for number in range(3):
        publisher.send(b"%d" % number, exchange="theirs")
    publisher.send(b"good")
    theirs.exchange_delete("theirs")
    world.silent = False
    lose_and_wait(world, connection)
    with pytest.raises(PublishNotFound) as caught:
        publisher.flush()
    assert [message.body for message in caught.value.messages] == [b"0", b"1", b"2"]
    assert set(world.bodies("q")) == {b"good"}


def test_a_thread_waits_no_longer_than_it_may_for_another_that_restores() -> None:
    """Its own deadline counts, not that of the thread at work."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    backend.gate()
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with backend._lock:
            held.set()
            go_on.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    with pytest.raises(ConnectionLost, match="another thread"), time_limit(0.1):
        backend.queue_purge("q")
    go_on.set()
    holder.join(10)
    assert backend.queue_purge("q") == 0


def test_a_backend_that_was_busy_during_a_recovery_is_restored_after_it() -> None:
    """The thread that recovers waits for no backend: who held it up restores it."""
    world = World()
    connection = world.connection()
    consumer, received = worker(connection)
    consumer.consume()
    with consumer.backend._lock:
        lose_and_wait(world, connection)
        assert connection._session.dormant
    send(connection, 1)
    connection.drain_events(timeout=5)
    assert received == ["0"]


def test_bounds_that_were_set_while_the_channel_was_lost_are_set_again() -> None:
    """What an operation did to a channel that is gone is done to the next one."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    qos = FaultyBackend.qos
    calls = []

    def once_more(self: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        result = qos(self, **kwargs)
        if len(calls) == 1:
            backend.gate()
        return result

    world.backend_cls.qos = once_more
    backend.qos(0, 3)
    assert len(calls) == 2
    declare = FaultyBackend.declare_consumer
    subscribed = []

    def lost_again(self: Any, **kwargs: Any) -> Any:
        subscribed.append(kwargs["consumer_tag"])
        result = declare(self, **kwargs)
        if len(subscribed) == 1:
            backend.gate()
        return result

    world.backend_cls.declare_consumer = lost_again
    backend.declare_consumer("q", False, print, "tag")
    assert subscribed == ["tag", "tag"]


def test_what_the_broker_refuses_is_tried_more_and_more_slowly() -> None:
    """A broker that closes the connection over what is restored is not asked without end."""
    world = World()
    connection = world.connection()
    connection.connect()
    session = connection._session
    refusal = ConnectionLost("541 INTERNAL_ERROR")
    refusal.refused = True

    def refuse() -> None:
        session.lose(session.generation, refusal)
        wait_until(lambda: connection.state == "open")

    for _ in range(4):
        refuse()
    assert world.pauses == [0, 0.1, 0.2, 0.4]
    session._opened_at -= 5  # that connection stood
    refuse()
    assert world.pauses[4:] == [0]
    refuse()
    session.lose(session.generation, ConnectionLost("the wire was cut"))
    wait_until(lambda: connection.state == "open")
    assert world.pauses[5:] == [0.1, 0]


def test_a_connection_that_is_lost_again_before_the_waiter_looks() -> None:
    """Who waits goes on waiting: there is time left."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    session = connection._session
    connect, wait = world.backend_cls.establish_connection, session._bells.wait
    go_on = threading.Event()
    waits: list[bool] = []

    def once_told(self: Any) -> Any:
        assert go_on.wait(10)
        return connect(self)

    def late(condition: Any) -> bool:
        go_on.set()
        waits.append(wait(condition))
        if len(waits) == 1:
            go_on.clear()
            lose(world, connection)  # again
        return waits[-1]

    world.backend_cls.establish_connection = once_told
    session._bells.wait = late  # type: ignore[method-assign]
    lose(world, connection)
    assert backend.queue_purge("q") == 0
    assert waits == [True, True]
