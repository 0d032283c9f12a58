"""The brokers of this process, and the faults that tests can order from them."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType

from carrot import broker
from carrot.backends.queue.driver import Connection
from carrot.exceptions import ConnectFailed

__all__ = ["Hub", "hub", "reset"]

_hubs: dict[str, Hub] = {}


def hub(hostname: str | None = None) -> Hub:
    """Return the broker of a host; it comes into being if need be.

    :param hostname: ``None`` means ``"localhost"``.
    """
    name = hostname or "localhost"
    found = _hubs.get(name)
    return _hubs.setdefault(name, Hub(name)) if found is None else found


def reset(hostname: str | None = None) -> None:
    """Forget a broker and all that it holds; its connections are lost.

    :param hostname: ``None`` means every broker of the process.
    """
    for name in list(_hubs) if hostname is None else [hostname]:
        found = _hubs.pop(name, None)
        if found is not None:
            found.drop_connections("the broker was reset")


class Hub:
    """A broker that threads share, with a clock, and with faults on command.

    As a context manager it is the lock under which :attr:`broker` may be
    used; entering it also does what is due by the clock.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.broker = broker.Broker()
        self.lock = threading.Lock()
        #: Notified when :meth:`block` ends, a connection is lost, or, while
        #: ``listeners`` is not 0, a message was confirmed.
        self.changed = threading.Condition(self.lock)
        self.listeners = 0
        #: Why nothing may be published, if so.
        self.blocked: str | None = None
        #: How many of the next confirms get lost.
        self.confirms_to_lose = 0
        self._refusing: str | None = None
        self._connections: dict[int, weakref.ref[Connection]] = {}
        # Connections that the garbage collector found, to be closed.
        self._abandoned: deque[broker.Connection] = deque()
        self._due: float | None = None
        self.clock = monotonic

    def __repr__(self) -> str:
        return f"<Hub {self.name!r}: {len(self.connections)} connections>"

    @property
    def clock(self) -> Callable[[], float]:
        """What tells the time, in seconds. To be set before anything can expire."""
        return self._clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.broker.now = clock()
        self.broker.epoch = time.time() - self.broker.now

    def tick(self) -> None:
        """Do what is due. To be called after the clock was moved by hand."""
        with self:
            pass

    def __enter__(self) -> broker.Broker:
        self.lock.acquire()
        if self._abandoned:
            self._bury()
        self.broker.advance(self._clock())
        return self.broker

    def _bury(self) -> None:
        while self._abandoned:
            self._abandoned.popleft().close()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.broker.timers:
            self._due = None
            self.lock.release()
            return
        before, self._due = self._due, self.broker.next_due()
        sooner = before is None or self.broker.timers[0][0] < before
        self.lock.release()
        if sooner:
            # Whoever sleeps meant to wake at the time that was next before.
            for connection in self.connections:
                connection.wake_sleepers()

    # -- connections

    @property
    def connections(self) -> list[Connection]:
        """The open connections, oldest first."""
        found = (reference() for reference in list(self._connections.values()))
        return [connection for connection in found if connection is not None]

    def connect(self, virtual_host: str, user: str) -> Connection:
        """Open a connection.

        :raises ConnectFailed: :meth:`refuse_connections` says so.
        """
        with self:
            if self._refusing is not None:
                raise ConnectFailed(f"cannot connect to memory://{self.name}: {self._refusing}")
            raw = self.broker.connect(virtual_host, user)
            connection = Connection(self, raw)
            self._connections[id(raw)] = weakref.ref(connection)
        # A connection that nobody holds any more closes, as its socket would.
        weakref.finalize(connection, self._abandon, raw).atexit = False
        return connection

    def forget(self, connection: Connection) -> None:
        """Strike a connection that closed off the list."""
        self._connections.pop(id(connection.raw), None)

    def _abandon(self, raw: broker.Connection) -> None:
        # Runs when the garbage collector does, perhaps inside an operation.
        self._connections.pop(id(raw), None)
        if raw.is_open:
            self._abandoned.append(raw)

    # -- faults

    def drop_connections(self, reason: str = "the connection was dropped") -> None:
        """Break every connection: whatever it is asked next raises ConnectionLost."""
        for connection in self.connections:
            connection.lose(reason)

    def refuse_connections(self, reason: str = "connection refused") -> None:
        """Let nobody connect, until :meth:`accept_connections`."""
        self._refusing = reason

    def accept_connections(self) -> None:
        """End :meth:`refuse_connections`."""
        self._refusing = None

    def block(self, reason: str = "low on memory") -> None:
        """Take no messages in, until :meth:`unblock`: publishers wait."""
        self.blocked = reason

    def unblock(self) -> None:
        """End :meth:`block`."""
        with self:
            self.blocked = None
            self.changed.notify_all()

    def lose_confirms(self, count: int = 1) -> None:
        """Let the next *count* messages be taken in, but not confirmed."""
        self.confirms_to_lose = count

    def cancel_consumer(self, consumer_tag: str) -> None:
        """Cancel a consumer as a broker does by itself.

        :param consumer_tag: of all consumers with this tag.
        """
        with self:
            for connection in self.connections:
                for channel in connection.raw.channels:
                    consumer = channel.consumers.get(consumer_tag)
                    if consumer is not None:
                        channel.consumer_lost(consumer)
                        consumer.queue.unsubscribe(consumer)


# A fork copies the brokers: not in the middle of an operation of another
# thread, and without the threads that sleep, which do not exist in the child.


_held: list[Hub] = []


def _before_fork() -> None:
    for each in list(_hubs.values()):
        each.lock.acquire()
        _held.append(each)


def _after_fork() -> None:
    while _held:
        _held.pop().lock.release()


def _after_fork_in_child() -> None:
    for each in _held:
        for connection in each.connections:
            connection.forget_sleepers()
    _after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch (Windows does not fork)
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=_after_fork_in_child,
    )
