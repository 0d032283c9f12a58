"""The driver delivers, calls and waits, against a peer that does as it is told."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message as AMQPMessage

from carrot.backends.pyamqplib import Connection
from carrot.exceptions import ConnectionClosed, ConnectionLost, DrainTimeout
from carrot.utils import time_limit
from tests.integration.driver_peer import Peer, deliver, drain, method, sent, subscribed
from tests.waiting import wait_until


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def connection(peer: Peer) -> Connection:
    return peer.connect()


# -- delivering


def test_one_call_runs_one_callback(peer: Peer, connection: Connection) -> None:
    """``drain_events`` runs the callback of one message, in the order of arrival."""
    _, got = subscribed(connection)
    peer.send(sent(1, 2, 3))
    for number in (1, 2, 3):
        assert connection.drain_events(5) is True
        assert [message.delivery_tag for message in got] == list(range(1, number + 1))


def test_nothing_but_draining_runs_callbacks(peer: Peer, connection: Connection) -> None:
    """Waiting for answers, publishing and pumping file messages, and run no callback."""
    channel, got = subscribed(connection)
    peer.answers[spec.Queue.Declare] = lambda number, _: (
        sent(1, 2) + method(number, spec.Queue.DeclareOk, "sll", "q", 0, 0)
    )
    channel.queue_declare("q")
    channel.basic_publish(AMQPMessage("x"), "e", "k")
    peer.send(sent(3))
    wait_until(lambda: len(connection.inbox.events) == 3 or connection.inbox.pump(5))
    assert got == []
    drain(connection, 3)
    assert [message.delivery_tag for message in got] == [1, 2, 3]


def test_a_callback_that_raises(peer: Peer, connection: Connection) -> None:
    """Its error comes out of ``drain_events``; the next message is delivered."""

    def fail(message: Any) -> None:
        message.channel.basic_ack(message.delivery_tag)
        raise ZeroDivisionError

    subscribed(connection, callback=fail)
    peer.send(sent(1, 2))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            connection.drain_events(5)
        assert not connection.outbox.noted


def test_a_wait_without_messages(connection: Connection) -> None:
    """``DrainTimeout`` at the deadline, be it the call's own or a surrounding one."""
    started = time.monotonic()
    with pytest.raises(DrainTimeout, match=r"no message within 0.1 seconds"):
        connection.drain_events(0.1)
    with time_limit(0.1), pytest.raises(TimeoutError):
        connection.drain_events()
    with pytest.raises(DrainTimeout):
        connection.drain_events(0)
    assert time.monotonic() - started < 2


def test_large_bodies_and_empty_ones(peer: Peer, connection: Connection) -> None:
    """Bodies of no bytes, and of several frames, arrive whole."""
    _, got = subscribed(connection)
    bodies = [b"", bytes(range(256)) * 2000, b"x"]
    for tag, body in enumerate(bodies, 1):
        peer.send(deliver(1, tag, body, content_type="t", application_headers={"n": tag}))
    drain(connection, 3)
    assert [message.body for message in got] == bodies
    assert got[1].properties == {"content_type": "t", "application_headers": {"n": 2}}


def test_threads_that_drain_together(peer: Peer, connection: Connection) -> None:
    """Each message is processed once, by one of the threads that drain."""
    _, got = subscribed(connection)
    total = 500

    def work() -> None:
        while len(got) < total:
            with contextlib.suppress(DrainTimeout):
                connection.drain_events(0.2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, total + 1, 50):
        peer.send(sent(*range(number, number + 50)))
    for thread in threads:
        thread.join(20)
    assert sorted(message.delivery_tag for message in got) == list(range(1, total + 1))


def test_calls_of_many_threads(peer: Peer, connection: Connection) -> None:
    """Threads that share a connection, or a channel, get each its own answers."""
    shared = connection.channel()
    failures: list[Exception] = []

    def work(name: str) -> None:
        try:
            own = connection.channel()
            for number in range(30):
                for channel in (own, shared):
                    queue = f"{name}-{number}"
                    assert channel.queue_declare(queue).queue == queue
            own.close()
        except Exception as exc:
            failures.append(exc)

    _, got = subscribed(connection, "busy")
    number = max(connection.channels)
    draining = threading.Thread(target=lambda: drain(connection, 50))
    draining.start()
    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for tag in range(1, 51):
        peer.send(deliver(number, tag, consumer="busy"))
    for thread in [*threads, draining]:
        thread.join(30)
    assert failures == []
    assert len(got) == 50


# -- waking


def test_wake_ends_a_wait(connection: Connection) -> None:
    """A thread that drains returns ``False`` once after ``wake()``, and then waits again."""
    answers: list[Any] = []

    def work() -> None:
        answers.append(connection.drain_events(10))
        with pytest.raises(DrainTimeout):
            connection.drain_events(0.1)
        answers.append("waited")

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: connection.inbox.turns.leader)
    connection.wake()
    thread.join(10)
    assert answers == [False, "waited"]


def test_wake_between_two_waits_is_not_missed(connection: Connection) -> None:
    """``wake()`` while nobody waits ends the next wait at once."""
    connection.wake()
    connection.wake()
    assert connection.drain_events(10) is False
    with pytest.raises(DrainTimeout):
        connection.drain_events(0)


def test_a_connection_that_ends_as_a_thread_wakes(connection: Connection) -> None:
    """Whoever was woken, and finds the connection closed by another thread, is told so."""
    inbox = connection.inbox

    class Woken:
        def recv(self, size: int) -> bytes:
            connection.collect()  # by another thread
            woken.close()
            return woken.recv(size)

    woken, inbox._woken = inbox._woken, Woken()  # type: ignore[assignment]
    inbox._woken.close = lambda: None  # type: ignore[method-assign]
    inbox.rouse()
    with pytest.raises(ConnectionClosed):
        connection.drain_events(5)


def test_an_answer_that_nobody_waits_for_any_more() -> None:
    """After a signal interrupted a call, its answer is not taken for that of the next one."""

    def interrupt(*_: Any) -> None:
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with Peer(answers={spec.Queue.Declare: None}) as peer:
            channel = peer.connect().channel()
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(ZeroDivisionError):
                channel.queue_declare("one")
            with contextlib.suppress(OSError):  # the link is gone
                peer.send(method(1, spec.Queue.DeclareOk, "sll", "one", 0, 0))
            with pytest.raises(ConnectionLost, match="interrupted"):
                channel.queue_declare("other")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_wake_from_a_signal_handler(connection: Connection) -> None:
    """A signal handler may call ``wake()`` in the thread that waits."""
    before = signal.signal(signal.SIGALRM, lambda *_: connection.wake())
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        assert connection.drain_events(10) is False
    finally:
        signal.signal(signal.SIGALRM, before)
