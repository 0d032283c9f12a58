"""Where a recovery ends without success, and who is told."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from carrot.confirms import Tracker, Unconfirmed
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    NotFound,
    ResourceLocked,
)
from carrot.messaging import Consumer, Publisher
from carrot.recovery import session as sessions
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


# -- the link


def test_all_who_wait_are_told_why_a_recovery_was_given_up() -> None:
    """Not only the thread that met the loss hears of the wrong password."""
    world = World()
    connection = world.connection()
    connection.connect()
    begin = threading.Event()
    errors: list[BaseException] = []
    connect = world.backend_cls.establish_connection

    def slowly(self: Any) -> Any:
        begin.wait(10)
        return connect(self)

    world.backend_cls.establish_connection = slowly
    world.refusals = [AuthenticationFailed("wrong password")]
    lose(world, connection)
    backends = [connection.create_backend() for _ in range(3)]

    def use(backend: Any) -> None:
        try:
            backend.queue_purge("q")
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=use, args=(backend,)) for backend in backends]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(connection._session._bells._bells) == 3)
    begin.set()
    for thread in threads:
        thread.join(10)
    assert [str(error) for error in errors] == ["wrong password"] * 3
    assert len(world.tried) == 2


def test_a_process_without_threads_left_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the interpreter exits no thread can be started: the loss is final."""
    world = World()
    connection = world.connection()
    connection.connect()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    lose(world, connection)
    assert connection.state == "new"


def test_hosts_are_tried_within_the_time_there_is() -> None:
    """A deadline that is over keeps further hosts from being tried."""
    world = World()
    world.down = True
    connection = BrokerConnection("one;two;three", backend_cls=world.backend_cls)
    with time_limit(0), pytest.raises(ConnectFailed):
        connection.connect()
    assert [host for host, _ in world.tried] == ["one"]


def test_a_goodbye_that_fails_is_nobodys_business() -> None:
    """Closing is quiet, whatever the driver has to say."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)

    def fail(self: Any, *args: Any) -> None:
        raise OSError("gone already")

    world.backend_cls.close = fail
    world.backend_cls.close_connection = fail
    backend.close()
    connection.close()


def test_the_exit_of_the_interpreter_waits_for_confirms(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is on its way when the program ends is waited for, or at least told of."""
    world = World()
    connection = world.connection()
    publisher = Publisher(connection, routing_key="q", auto_declare=False)
    publisher.send(b"x")
    sessions._settle_at_exit()
    assert connection.stats()["confirmed"] == 1
    publisher.send(b"y")

    def fail(self: Any, timeout: float | None = None) -> None:
        raise ZeroDivisionError

    world.backend_cls.pump = fail
    caplog.set_level(logging.ERROR)
    sessions._settle_at_exit()
    assert "1 messages to host:7 were not accepted" in caplog.text


def test_a_subscription_that_kills_the_connection_is_not_repeated_for_ever() -> None:
    """A consumer that the broker closes the connection for is left out of the next try."""
    world = World()
    connection = world.connection()
    consumer, received = worker(connection)
    consumer.consume()
    bad = Consumer(connection, queue="bad")
    bad.register_callback(lambda data, message: None)
    bad.consume()
    declare = FaultyBackend.declare_consumer

    def refuse(self: Any, queue: str, **kwargs: Any) -> Any:
        if queue == "bad":
            self.driver = self.connection.connection
            self.driver.die()
            error = ConnectionLost("541 INTERNAL_ERROR")
            error.recoverable = False
            raise error
        return declare(self, queue, **kwargs)

    world.backend_cls.declare_consumer = refuse
    lose_and_wait(world, connection)
    with pytest.raises(ConnectionLost, match="541"):
        connection.drain_events(timeout=5)
    send(connection, 1)
    connection.drain_events(timeout=5)
    assert received == ["0"]


def test_closing_while_a_locked_queue_is_waited_for_ends_the_recovery() -> None:
    """A queue that our former connection still holds does not hold up close()."""
    world = World()
    connection = BrokerConnection("host", backend_cls=world.backend_cls)
    worker(connection)

    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.close()
        raise ResourceLocked(405, "RESOURCE_LOCKED")

    world.backend_cls.queue_declare = locked
    lose(world, connection)
    wait_until(lambda: len(world.drivers) == 2)
    connection.close()
    wait_until(lambda: not world.drivers[1].alive)
    assert connection.state == "closed"


def test_a_queue_that_a_consumer_needs_may_be_another_programs() -> None:
    """Told by the broker's cancel that a queue is gone that we never declared: NotFound."""
    world = World()
    connection = world.connection()
    theirs = world.broker.connect().channel()
    theirs.queue_declare("q", durable=True)
    consumer = Consumer(connection, queue="q", auto_declare=False)
    consumer.register_callback(lambda data, message: None)
    consumer.consume()
    theirs.queue_delete("q")
    with pytest.raises(NotFound):
        connection.drain_events(timeout=5)
    assert not consumer.backend.has_consumers


def test_a_tracker_is_true_even_when_it_is_empty() -> None:
    """`if tracker` asks whether there is one, not whether it is full."""
    assert Tracker()
    tracker = Tracker()
    record = Unconfirmed(["neither", "text", "nor", "bytes"], "x", "k", True, None, 3)
    tracker.add(record)
    tracker.bounced("x", "k", b"123")
    tracker.bounced("x", "k", b"123", life=99)
    tracker.ack(1)
    assert tracker.take_failures() == [record]
