"""Faults that a test can order from the in-memory broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from carrot.backends.queue import Backend, hub, reset
from carrot.confirms import Tracker
from carrot.exceptions import ConnectFailed, ConnectionBlocked, ConnectionLost
from tests.unit.backend_bench import Link, Thread, asleep, declared, send
from tests.waiting import wait_until

HOST = "fault-tests"


@pytest.fixture
def link() -> Iterator[Link]:
    reset(HOST)
    yield Link(HOST)
    reset(HOST)


@pytest.fixture
def backend(link: Link) -> Backend:
    return declared(Backend(link))


def test_dropped_connections(link: Link, backend: Backend) -> None:
    """Dropping wakes who waits, gives messages back, and ends exclusive queues."""
    backend.queue_declare("mine", False, True, True)
    backend.declare_consumer("q", False, print, "tag")
    send(backend)
    link.drain_events(1)
    drained = Thread(link.drain_events)
    asleep(link.driver)
    hub(HOST).drop_connections("pulled the plug")
    assert isinstance(drained.done().error, ConnectionLost)
    assert "pulled the plug" in str(drained.error)
    other = Backend(Link(HOST))
    assert not other.queue_exists("mine")
    assert other.get("q") is not None


def test_told_of_a_lost_connection(link: Link) -> None:
    """``on_lost`` is told why."""
    told: list[Exception] = []
    link.driver.on_lost = told.append
    hub(HOST).drop_connections("pulled the plug")
    assert "pulled the plug" in str(told[0])


def test_refused_connections(link: Link) -> None:
    """Nobody connects to a broker that refuses, until it accepts again."""
    hub(HOST).refuse_connections("closed today")
    with pytest.raises(ConnectFailed, match=f"memory://{HOST}: closed today"):
        Link(HOST)
    hub(HOST).accept_connections()
    assert Link(HOST).driver.is_open


def test_blocked(link: Link, backend: Backend) -> None:
    """A blocked broker takes nothing; who publishes waits, but not for ever."""
    hub(HOST).block("disk is full")
    link.timeout = 0
    with pytest.raises(ConnectionBlocked, match="disk is full"):
        send(backend)
    link.timeout = 15
    sending = Thread(send, backend)
    wait_until(lambda: hub(HOST).changed._waiters)  # type: ignore[attr-defined]
    hub(HOST).unblock()
    assert sending.done().error is None
    assert backend.get("q") is not None


def test_dropped_while_blocked(link: Link, backend: Backend) -> None:
    """Who waits for a blocked broker hears that the connection was lost."""
    hub(HOST).block()
    sending = Thread(send, backend)
    wait_until(lambda: hub(HOST).changed._waiters)  # type: ignore[attr-defined]
    hub(HOST).drop_connections()
    assert isinstance(sending.done().error, ConnectionLost)


def test_waiting_for_a_confirm(link: Link, backend: Backend) -> None:
    """Who waits for confirms wakes when there is one, or the connection is lost."""
    tracker = Tracker()
    backend.confirm_select(tracker)
    hub(HOST).lose_confirms(1)
    send(backend)
    pumping = Thread(backend.pump, 15)
    wait_until(lambda: hub(HOST).changed._waiters)  # type: ignore[attr-defined]
    send(backend)
    assert pumping.done().error is None
    pumping = Thread(backend.pump, 15)
    wait_until(lambda: hub(HOST).changed._waiters)  # type: ignore[attr-defined]
    hub(HOST).drop_connections()
    assert isinstance(pumping.done().error, ConnectionLost)
