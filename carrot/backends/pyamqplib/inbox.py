"""What has arrived: read by one thread at a time, filed for all.

A pass takes what the kernel has and files it: deliveries here, in the order
of arrival; confirms with their channels; answers with those who wait for
them. Consumers' callbacks run when somebody drains, and only then.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any

from carrot.backends.pyamqplib.delivery import Delivery
from carrot.backends.pyamqplib.errors import lost
from carrot.backends.pyamqplib.outbox import Outbox
from carrot.backends.pyamqplib.parser import CONFIRM, FETCHED, METHOD, Parser
from carrot.backends.pyamqplib.rpc import Reply
from carrot.backends.pyamqplib.turns import Turns
from carrot.backends.pyamqplib.wire import ProtocolError
from carrot.exceptions import DrainTimeout
from carrot.utils import time_left

__all__ = ["Inbox"]


class Inbox:
    """The reading half of a connection.

    :param connection: has ``alive``, ``check()``, ``die(error)``,
        ``on_inbound_frame(frame)`` and ``host``.
    :param outbox: is given its chance to write at each pass.
    """

    #: Deliveries, and functions to call, for those who drain.
    events: deque[Any]
    #: Bytes read since there was nothing for those who drain.
    backlog = 0
    #: When something was received last, monotonic.
    received_at = 0.0

    def __init__(self, connection: Any, outbox: Outbox) -> None:
        self._connection = connection
        self._outbox = outbox
        self.events = deque()
        self.parser = Parser(connection.channels)
        self._wake_numbers = itertools.count(1)
        self._wakes = 0
        self._waker: socket.socket | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything, also that somebody might be reading."""
        self.turns = Turns()
        self._seen = threading.local()
        self.events.clear()

    def connect(self, transport: Any) -> None:
        """Read from this link from now on."""
        self._transport = transport
        self._waker, self._woken = self.wakers = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._link = transport.sock.fileno()
        self._poller = select.poll()
        self._poller.register(self._link, select.POLLIN)
        self._poller.register(self._woken.fileno(), select.POLLIN)
        self.received_at = monotonic()

    def close(self) -> None:
        """Let nobody read or wait any more."""
        self.turns.end()
        self.events.clear()
        if self._waker is not None:
            self._waker.close()
            self._woken.close()

    # -- waiting

    def next_event(self, timeout: float | None) -> Any:
        """Return the next event for those who drain; ``None`` if woken instead.

        :raises DrainTimeout: nothing came within *timeout* seconds.
        """
        limit = time_left(timeout)
        deadline = None if limit is None else monotonic() + limit
        left = limit
        while True:
            seen = self.turns.passes
            with contextlib.suppress(IndexError):
                return self.events.popleft()
            self._connection.check()
            if self._wakes != getattr(self._seen, "wakes", 0):
                self._seen.wakes = self._wakes
                return None
            if left is not None and left < 0:
                raise DrainTimeout(f"no message within {limit:g} seconds")
            if deadline is not None:
                left = deadline - monotonic()
            self.take(seen, left)

    def pump(self, timeout: float | None) -> None:
        """Return after a pass since this thread's last call, its own or another's.

        :raises DrainTimeout: there was none within *timeout* seconds.
        """
        seen = getattr(self._seen, "passes", 0)
        deadline = None if timeout is None else monotonic() + timeout
        left = timeout
        while self.turns.passes == seen:
            self._connection.check()
            if left is not None and left < 0:
                raise DrainTimeout(f"nothing came within {timeout:g} seconds")
            if deadline is not None:
                left = deadline - monotonic()
            self.take(seen, left)
        self._seen.passes = self.turns.passes
        self._connection.check()

    def pump_until(
        self, reply: Reply, sig: tuple[int, int], deadline: float, vital: bool = True
    ) -> None:
        """Read until *reply* is there.

        :param sig: the method that is to be answered.
        :param vital: end the connection if it is not there at the deadline.
        :raises BrokerConnectionError: the connection broke, or the deadline
            (monotonic seconds) passed.
        """
        begun = monotonic()
        while True:
            seen = self.turns.passes
            if reply.ready:
                return
            self._connection.check(sig)
            left = deadline - monotonic()
            if left <= 0:
                raise self._connection.gave_up(sig, deadline - begun, vital)
            self.take(seen, left)

    def take(self, seen: int, timeout: float | None) -> None:
        """Have a pass made, unless there were others than *seen*."""
        self.turns.take(seen, None if timeout is None else max(0.0, timeout), self._read)

    # -- reading

    def _read(self, timeout: float | None) -> bool:
        """Make a pass; return whether something came, or somebody called."""
        self._outbox.flush()
        if self._transport.eager and self._take():
            return True
        if not self._poll(timeout):
            return False
        self._take()
        return True

    def _poll(self, timeout: float | None) -> bool:
        """Wait until there is something to do; return whether there is."""
        room = select.POLLOUT if self._outbox.rest else 0
        self._poller.modify(self._link, select.POLLIN | room)
        ready = self._poller.poll(None if timeout is None else timeout * 1000)
        for fd, event in ready:
            if not self._connection.alive:
                break
            if fd != self._link:
                with contextlib.suppress(OSError):  # closed: whoever reads next will know
                    self._woken.recv(4096)
            elif event & select.POLLOUT:
                self._outbox.flush()
        return bool(ready)

    def _take(self) -> bool:
        """Take what has arrived and file it; return whether there was anything."""
        try:
            data = self._transport.receive()
            if data is None:
                return False
            self._parse(data)
        except OSError as exc:
            self._connection.die(lost(exc, self._connection.host))
        except Exception as exc:
            # Unknown methods, garbled arguments: nothing after them is sure.
            host = self._connection.host
            self._connection.die(ProtocolError(f"{host} sent what nobody understands: {exc!r}"))
        except BaseException:
            # A signal's handler raised, and what was received is lost.
            interruption = InterruptedError("interrupted while reading")
            self._connection.die(lost(interruption, self._connection.host))
            raise
        return True

    def _parse(self, data: bytes) -> None:
        self.received_at = monotonic()
        events: list[Any] = []
        try:
            self.parser.feed(data, events)
        finally:
            self._file(events)
            self.backlog = self.backlog + len(data) if self.events else 0

    def _file(self, events: Iterable[Any]) -> None:
        """Hand events to those whom they concern."""
        append = self.events.append
        for event in events:
            if event.__class__ is Delivery:
                append(event)
            elif event[0] == METHOD:
                self._connection.on_inbound_frame((1, event[1], event[2]))
            elif event[0] == CONFIRM:
                event[1].confirmed(*event[2:])
            elif event[0] == FETCHED:
                event[1].fetched(event[2])
            else:
                event[1].returned(*event[2:])

    # -- from anywhere

    def wake(self) -> None:
        """End the waiting of each thread that drains, once.

        Takes no lock: a signal handler may call it.
        """
        self._wakes = next(self._wake_numbers)
        self.rouse()

    def rouse(self) -> None:
        """Have the thread that reads look around."""
        waker = self._waker
        if waker is not None:
            # Full: it will look around anyhow. Closed: nobody reads.
            with contextlib.suppress(OSError):
                waker.send(b"\0")

    def withdraw(self, channel: Any, consumer_tag: str | None = None) -> list[Delivery]:
        """Remove a channel's deliveries, or one consumer's, and return them."""
        if consumer_tag is None:
            self.parser.forget()  # or it would hold the channel
        withdrawn = []
        for event in list(self.events):
            if (
                event.__class__ is Delivery
                and event.kind.channel is channel
                and consumer_tag in (None, event.kind.consumer_tag)
            ):
                # Unless another thread took it meanwhile.
                with contextlib.suppress(ValueError):
                    self.events.remove(event)
                    withdrawn.append(event)
        return withdrawn
