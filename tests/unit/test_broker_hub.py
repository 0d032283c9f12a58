"""One broker for several threads and processes: waiting, waking, ending."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends.queue import Backend, hub, reset
from carrot.backends.queue.hub import _after_fork_in_child, _before_fork
from carrot.exceptions import (
    ChannelError,
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
)
from tests.unit.backend_bench import Link, Thread, asleep, declared, send

HOST = "hub-tests"


@pytest.fixture
def link() -> Iterator[Link]:
    reset(HOST)
    yield Link(HOST)
    reset(HOST)


@pytest.fixture
def backend(link: Link) -> Backend:
    return declared(Backend(link))


# -- brokers


def test_connections_to_a_host_share_a_broker(link: Link, backend: Backend) -> None:
    """What one connection declares, another to the same host finds; elsewhere it is not."""
    assert Backend(Link(HOST)).queue_exists("q")
    assert not Backend(Link(HOST, virtual_host="other")).queue_exists("q")
    assert not Backend(Link(HOST + "-other")).queue_exists("q")
    reset(HOST + "-other")


def test_no_host_is_localhost() -> None:
    """A connection without a host name is one to this host."""
    assert hub() is hub(None) is hub("localhost")


def test_messages_outlive_connections(link: Link, backend: Backend) -> None:
    """What was published waits for the next connection."""
    send(backend)
    backend.close_connection(link.driver)
    assert hub(HOST).connections == []
    message = Backend(Link(HOST)).get("q")
    assert message is not None


def test_reset(link: Link, backend: Backend) -> None:
    """Resetting forgets a broker, and breaks its connections."""
    keep = Backend(Link("other-" + HOST))
    declared(keep)
    reset(HOST)
    reset("never-was")
    with pytest.raises(ConnectionLost, match="the broker was reset"):
        backend.get("q")
    assert not Backend(Link(HOST)).queue_exists("q")
    assert keep.queue_exists("q")
    reset()
    with pytest.raises(ConnectionLost):
        keep.get("q")


def test_a_connection_nobody_holds_closes(backend: Backend) -> None:
    """A forgotten connection gives back what it had, as when its process ended."""
    send(backend)
    other = Backend(Link(HOST))
    other.declare_consumer("q", False, print, "tag")
    assert backend.get("q") is None
    assert len(hub(HOST).connections) == 2
    del other
    gc.collect()
    message = backend.get("q")
    assert message is not None and message.delivery_info["redelivered"]
    assert len(hub(HOST).connections) == 1


def test_closed_connections_are_collected_quietly(backend: Backend) -> None:
    """A connection that was closed before it was forgotten is no matter."""
    other = Link(HOST)
    other.driver.close()
    del other
    gc.collect()
    assert backend.queue_exists("q")


def test_events_of_a_channel_that_is_gone(link: Link, backend: Backend) -> None:
    """The broker may still send to a channel object that nobody holds."""
    channel = link.driver.channel()
    channel.basic_consume("q", "tag")
    raw = channel.raw
    link.driver._channels.clear()
    del channel
    gc.collect()
    send(backend)
    assert list(raw.unacked) == [1]


# -- the driver's connection


def test_draining_nothing(link: Link) -> None:
    """Where nothing comes, draining ends at its deadline."""
    started = time.monotonic()
    with pytest.raises(DrainTimeout):
        link.drain_events(0)
    with pytest.raises(TimeoutError, match=r"within 0\.05 seconds"):
        link.drain_events(0.05)
    assert time.monotonic() - started >= 0.05


def test_one_event_at_a_time(link: Link, backend: Backend) -> None:
    """Each call runs one callback, of whatever channel came first."""
    got: list[str] = []
    other = Backend(link)
    backend.declare_consumer("q", True, lambda m: got.append("one"), "one")
    declared(other, "p").declare_consumer("p", True, lambda m: got.append("two"), "two")
    for key in ("q", "p", "q"):
        send(backend, key=key)
    for _ in range(3):
        assert link.drain_events(1) is True
    assert got == ["one", "two", "one"]


def test_waking_by_a_message(link: Link, backend: Backend) -> None:
    """A thread that waits gets a message at once when it comes."""
    got: list[Any] = []
    backend.declare_consumer("q", True, got.append, "tag")
    drained = Thread(link.drain_events, 15)
    asleep(link.driver)
    send(Backend(Link(HOST)))
    assert drained.done().answer is True
    assert len(got) == 1


def test_waking_several_threads(link: Link, backend: Backend) -> None:
    """As many threads wake as there are messages."""
    backend.declare_consumer("q", True, lambda message: None, "tag")
    drained = [Thread(link.drain_events, 15) for _ in range(3)]
    asleep(link.driver, 3)
    for _ in range(3):
        send(backend)
    assert [thread.done().answer for thread in drained] == [True] * 3


def test_waking_for_what_expires(link: Link, backend: Backend) -> None:
    """A waiting thread wakes by itself for what the broker has to do."""
    got: list[Any] = []
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q"}
    declared(backend, "slow", **arguments, **{"x-message-ttl": 60_000})
    declared(backend, "fast", **arguments)
    backend.declare_consumer("q", True, got.append, "tag")
    send(backend, key="slow")
    drained = Thread(link.drain_events, 15)
    asleep(link.driver)
    send(backend, key="fast", expiration="20")
    assert drained.done().answer is True
    assert got[0].headers["x-first-death-queue"] == "fast"


def test_a_clock_moved_by_hand(link: Link) -> None:
    """Tests may set the clock, and have done what is then due."""
    now = 100.0
    hub(HOST).clock = lambda: now
    backend = declared(Backend(link), "q", **{"x-message-ttl": 60_000})
    send(backend)
    now += 59
    hub(HOST).tick()
    assert len(hub(HOST).broker.vhost("/").queues["q"].ready) == 1
    now += 1
    hub(HOST).tick()
    assert len(hub(HOST).broker.vhost("/").queues["q"].ready) == 0
    assert hub(HOST).clock() == 160.0
    assert abs(hub(HOST).broker.posix_time - time.time()) < 61


def test_wake(link: Link) -> None:
    """Waking ends the waiting of each thread once, whether or not it waits yet."""
    drained = [Thread(link.drain_events) for _ in range(2)]
    asleep(link.driver, 2)
    link.driver.wake()
    assert [thread.done().answer for thread in drained] == [False, False]
    assert link.drain_events() is False
    with pytest.raises(DrainTimeout):
        link.drain_events(0)


def test_stop_from_another_thread(link: Link, backend: Backend) -> None:
    """Stopping ends ``consume``; the next one consumes again."""
    consuming = Thread(list, backend.consume())
    asleep(link.driver)
    backend.stop()
    assert consuming.done().answer == []
    backend.stop()
    assert list(backend.consume()) == []
    backend.declare_consumer("q", True, print, "tag")
    send(backend)
    assert list(backend.consume(1)) == [True]


def test_stop_without_a_channel(link: Link) -> None:
    """Stopping a backend that never connected ends its next ``consume``."""
    backend = Backend(link)
    backend.stop()
    assert list(backend.consume()) == []


def test_stop_from_a_signal_handler(link: Link, backend: Backend) -> None:
    """A signal handler in the very thread that waits may stop it."""
    backend.queue_exists("q")
    before = signal.signal(signal.SIGUSR1, lambda *_: backend.stop())
    try:

        def raise_signal() -> None:
            asleep(link.driver)
            os.kill(os.getpid(), signal.SIGUSR1)

        signalling = Thread(raise_signal)
        assert list(backend.consume()) == []
        signalling.done()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_interrupted_while_waiting(link: Link, backend: Backend) -> None:
    """An interrupt leaves nothing behind that would swallow the next message's bell."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:

        def raise_signal() -> None:
            asleep(link.driver)
            os.kill(os.getpid(), signal.SIGUSR1)

        signalling = Thread(raise_signal)
        with pytest.raises(KeyboardInterrupt):
            link.drain_events(15)
        signalling.done()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not link.driver._bells


def test_a_bell_is_passed_on(link: Link, backend: Backend) -> None:
    """Who was woken for a message but leaves wakes another for it."""
    backend.declare_consumer("q", True, lambda message: None, "tag")
    drained = Thread(link.drain_events, 15)
    asleep(link.driver)
    waiting = link.driver._bells.popleft()
    send(backend)  # rings nobody: there is no bell to see
    link.driver._bells.append(waiting)
    link.driver._sleep(0)
    assert drained.done().answer is True


# -- channels of the driver


def test_driver_channels(link: Link) -> None:
    """The driver's channels have the methods of the broker's, for any thread."""
    channel = link.driver.channel()
    assert channel.queue_declare("p") == ("p", 0, 0)
    assert channel.last_delivery_tag == 0
    assert "open" in repr(channel) and "open" in repr(link.driver)
    assert repr(hub(HOST)) == f"<Hub {HOST!r}: 1 connections>"
    channel.close()
    channel.close()
    assert "closed" in repr(channel)
    with pytest.raises(AttributeError):
        channel.no_such_method()
    with pytest.raises(ChannelError):
        channel.queue_declare("p")


def test_nobody_listens(link: Link, backend: Backend) -> None:
    """A channel made by hand need not care for returns and cancellations."""
    channel = link.driver.channel()
    channel.basic_publish(b"", {}, "", "nowhere", mandatory=True)
    channel.basic_consume("q", "tag")
    backend.queue_delete("q")
    with pytest.raises(DrainTimeout):
        link.drain_events(0)
    assert not channel.raw.events


def test_two_threads_open_one_channel(link: Link) -> None:
    """Threads that need a channel at the same time get the same one."""
    backend = Backend(link)
    with backend._opening:
        opening = Thread(lambda: backend.channel)
        opened = backend._open(None)
    assert opening.done().answer is opened


def test_closed_channels_are_forgotten(link: Link, backend: Backend) -> None:
    """A connection does not keep the channels that were closed on it."""
    backend.declare_consumer("q", True, lambda message: None, "tag")
    for _ in range(10):
        link.driver.channel().close()
    for _ in range(10):
        channel = link.driver.channel()
        name = channel.queue_declare()[0]
        channel.basic_consume(name)
        for _ in range(5):
            channel.basic_publish(b"", {}, "", name)
        send(backend)
        channel.close()
    assert len(link.driver._channels) <= 4
    assert len(link.driver._inbox) <= 30, "10 of them are of the open channel"
    for _ in range(10):
        assert link.drain_events(1)


def test_closed_and_lost_connections(link: Link, backend: Backend) -> None:
    """A connection that ended says how, and stays that way."""
    driver = link.driver
    assert driver.is_open and driver.connected
    driver.close()
    driver.close()
    driver.lose("too late")
    message, channel = backend.prepare_message("", 2), backend._channel
    assert channel is not None
    for operation in (
        driver.channel,
        driver.drain_events,
        lambda: backend.get("q"),
        lambda: channel.publish(message, "", "q", False, None, lambda: 0),
    ):
        with pytest.raises(ConnectionClosed):
            operation()
    assert not driver.connected


def test_a_connection_that_the_broker_closed(link: Link, backend: Backend) -> None:
    """After an error that ends the connection, it is lost."""
    backend.declare_consumer("q", False, print, "tag")
    with pytest.raises(ChannelError, match="attempt to reuse consumer tag"):
        backend.declare_consumer("q", False, print, "tag")
    with pytest.raises(ConnectionLost, match="closed the connection after an error"):
        backend.get("q")


# -- processes


def test_the_child_forgets_its_parents_threads(link: Link) -> None:
    """What a fork does to the brokers leaves them unlocked, and no bell hung up."""
    link.driver._bells.append(threading.Lock())
    _before_fork()
    assert hub(HOST).lock.locked()
    _after_fork_in_child()
    assert not hub(HOST).lock.locked()
    assert not link.driver._bells


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_has_a_broker_of_its_own(link: Link, backend: Backend) -> None:
    """A forked child sees what was there, and changes nothing of its parent's."""
    backend.declare_consumer("q", True, lambda message: None, "tag")
    drained = Thread(link.drain_events, 15)
    asleep(link.driver)
    declared(backend, "p")
    send(backend, "before", key="p")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            send(backend, "after", key="p")
            send(backend)
            found = [backend.get("p"), backend.get("p"), link.drain_events(0)]
            status = 0 if all(found) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.queue_declare("p", False, False, False)[1] == 1
    send(backend)
    assert drained.done().answer is True
