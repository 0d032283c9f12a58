"""The RabbitMQ backend consumes, and hears what became of what it sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from amqp import spec

from carrot.backends import pyamqplib
from carrot.confirms import Tracker
from carrot.exceptions import (
    ChannelError,
    ConfirmTimeout,
    ConnectionBlocked,
    ConnectionLost,
    DrainTimeout,
    NotFound,
    Unroutable,
)
from tests.integration.driver_peer import Link, Peer, deliver, method, sent
from tests.waiting import wait_until


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def link(peer: Peer) -> Iterator[Link]:
    link = Link(port=peer.port)
    yield link
    if link.driver is not None:
        link.driver.close()


@pytest.fixture
def backend(link: Link) -> pyamqplib.Backend:
    return pyamqplib.Backend(link)


# -- consuming


def test_consuming_counts_ones_own_messages(peer: Peer, link: Link) -> None:
    """Another backend's messages on the same connection are none of ``limit``."""
    mine, other = pyamqplib.Backend(link), pyamqplib.Backend(link)
    got: list[str] = []
    mine.declare_consumer("q", False, lambda raw: got.append("mine"), "c")
    other.declare_consumer("q", False, lambda raw: got.append("other"), "c")
    peer.send(sent(1, channel=2) + sent(1) + sent(2, channel=2) + sent(2, 3))
    assert list(mine.consume(limit=2)) == [True, True]
    assert got == ["other", "mine", "other", "mine"]
    assert list(mine.consume(limit=1)) == [True]


def test_stop_ends_a_loop(peer: Peer, backend: pyamqplib.Backend) -> None:
    """At once where it waits, else after the message; and a loop that is yet to begin."""
    got: list[Any] = []

    def callback(raw: Any) -> None:
        got.append(raw)
        backend.stop()

    backend.declare_consumer("q", False, callback, "c")
    peer.send(sent(1, 2))
    assert list(backend.consume()) == [True]
    assert list(backend.consume(limit=0)) == [True]
    assert len(got) == 2
    timer = threading.Timer(0.1, backend.stop)
    timer.start()
    assert list(backend.consume()) == []
    timer.join()
    backend.stop()
    assert list(backend.consume()) == []


def test_acknowledgements_of_a_limited_loop(peer: Peer, backend: pyamqplib.Backend) -> None:
    """They are written when it ends, though more messages are waiting."""
    backend.declare_consumer("q", False, lambda raw: backend.message_to_python(raw).ack(), "c")
    backend.connection.connection.outbox.attended = True  # by nobody
    peer.send(sent(*range(1, 9)))
    events = backend.connection.connection.inbox.events
    wait_until(lambda: len(events) == 8 or backend.connection.connection.inbox.pump(5))
    loop = backend.consume(limit=3)
    assert [next(loop), next(loop)] == [True, True]
    assert backend.connection.connection.outbox.noted
    assert next(loop) is True
    peer.expect(spec.Basic.Ack)
    assert peer.settled() == [("ack", 3, True)]


def test_a_cancelled_consumer(peer: Peer, backend: pyamqplib.Backend) -> None:
    """``on_cancel`` is told; without one, who drains gets ``NotFound``."""
    backend.declare_consumer("q", False, print, "c")
    backend.declare_consumer("q", False, print, "d")
    peer.send(method(1, spec.Basic.Cancel, "sb", "c", True))
    with pytest.raises(NotFound, match="'c'"):
        backend.connection.drain_events(5)
    told: list[str] = []
    backend.on_cancel = told.append
    peer.send(method(1, spec.Basic.Cancel, "sb", "d", True))
    backend.connection.drain_events(5)
    assert told == ["d"]


# -- confirms


def confirming(backend: pyamqplib.Backend, **options: Any) -> Tracker:
    tracker = Tracker(**options)
    backend.confirm_select(tracker)
    return tracker


def publish(backend: pyamqplib.Backend, body: bytes = b"x", **options: Any) -> None:
    backend.publish(backend.prepare_message(body, 2), "e", "k", **options)


def test_confirms_settle_what_was_published(peer: Peer, backend: pyamqplib.Backend) -> None:
    """Ack, nack and return find their messages."""
    tracker = confirming(backend)
    for body in (b"0", b"1", b"2"):
        publish(backend, body, mandatory=True, headers={"h": 1})
    assert tracker.outstanding == 3
    returned = method(1, spec.Basic.Return, "Bsss", 312, "NO_ROUTE", "e", "k")
    frames = deliver(1, 1, b"1")
    peer.send(returned + frames[frames.index(b"\xce") + 1 :])
    peer.send(method(1, spec.Basic.Ack, "Lb", 2, True))
    peer.send(method(1, spec.Basic.Nack, "Lbb", 3, False, False))
    while tracker.outstanding:
        backend.pump(5)
    failures = tracker.take_failures()
    assert [entry.body for entry in failures] == [b"1", b"2"]
    assert isinstance(failures[0].error, Unroutable)
    assert failures[0].properties["application_headers"] == {"h": 1}


def test_confirms_of_a_channel_in_use(peer: Peer, backend: pyamqplib.Backend) -> None:
    """A channel that is open already confirms from then on, and is asked once."""
    backend.queue_purge("q")
    tracker = confirming(backend)
    backend.confirm_select(tracker)
    peer.expect(spec.Confirm.Select)
    publish(backend)
    assert tracker.outstanding == 1
    assert len(peer.got(spec.Confirm.Select)) == 1


def test_a_full_window(peer: Peer, link: Link, backend: pyamqplib.Backend) -> None:
    """Publishing waits for confirms, and no longer than ``timeout``; nothing is sent then."""
    tracker = confirming(backend, window=2)
    publish(backend)
    publish(backend)
    link.timeout = 0.2
    with pytest.raises(ConfirmTimeout, match="2 messages were not confirmed") as caught:
        publish(backend)
    assert len(caught.value.messages) == 2
    peer.expect(spec.Basic.Publish, 2)
    link.timeout = 5
    timer = threading.Timer(0.1, peer.send, [method(1, spec.Basic.Ack, "Lb", 1, False)])
    timer.start()
    publish(backend)
    timer.join()
    peer.expect(spec.Basic.Publish, 3)
    assert tracker.outstanding == 2
    peer.send(method(0, spec.Connection.Blocked, "s", "low on disk"))
    link.timeout = 0.2
    with pytest.raises(ConnectionBlocked, match="low on disk"):
        publish(backend)


def test_a_channel_closed_because_of_a_message(peer: Peer, backend: pyamqplib.Backend) -> None:
    """``pump`` raises it; the next channel waits for what becomes of the old one's messages."""
    tracker = confirming(backend)
    peer.answers[spec.Basic.Publish] = lambda number, _: method(
        number, spec.Channel.Close, "BsBB", 404, "no exchange", 60, 40
    )
    publish(backend)
    with pytest.raises(NotFound, match="no exchange"):
        for _ in range(5):
            backend.pump(5)
    with pytest.raises(ChannelError, match="not confirmed when their channel closed"):
        publish(backend)
    assert len(tracker.restart()) == 1
    peer.answers[spec.Basic.Publish] = None
    publish(backend)
    assert tracker.outstanding == 2


def test_pumping_without_news(backend: pyamqplib.Backend) -> None:
    """``DrainTimeout`` at the deadline."""
    backend.channel  # noqa: B018
    with pytest.raises(DrainTimeout, match=r"nothing came within 0.1 seconds"):
        for _ in range(3):
            backend.pump(0.1)


def test_publishing_on_a_lost_connection(peer: Peer, backend: pyamqplib.Backend) -> None:
    """It raises ``ConnectionLost``, and the message is not counted."""
    tracker = confirming(backend)
    publish(backend)
    peer.hang_up()
    with pytest.raises(ConnectionLost):
        for _ in range(5):
            backend.pump(5)
    tracker.restart()
    with pytest.raises(ConnectionLost):
        publish(backend)
    assert tracker.published == 1
