"""The driver's connection: who reads, who writes, who waits.

One thread at a time reads ("leads"): it makes a pass, which takes what has
arrived and files it: messages go to the inbox, confirms to their channels,
answers to whoever waits. The others wait until a pass was made. Consumers'
callbacks run in ``drain_events`` and nowhere else.

Writing never waits for the link with the lock held: what the kernel does not
take at once stays in a buffer of one message, and the next message waits
until that is empty, by reading meanwhile, so that two full TCP windows do not
lock each other up.
"""

from __future__ import annotations

import itertools
import math
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from time import monotonic
from typing import Any

import amqp.connection
from amqp import spec
from amqp.exceptions import METHOD_NAME_MAP, AMQPError

from carrot.backends.pyamqplib import keeper
from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.errors import connect_failed, lost, reason
from carrot.backends.pyamqplib.rpc import Caller, Reply
from carrot.backends.pyamqplib.tls import TLS
from carrot.backends.pyamqplib.transport import TLSTransport, Transport
from carrot.backends.pyamqplib.wire import (
    CONFIRM,
    FETCHED,
    HEARTBEAT,
    METHOD,
    Delivery,
    Parser,
    ProtocolError,
    method_frame,
)
from carrot.exceptions import (
    AuthenticationFailed,
    BrokerConnectionError,
    CarrotError,
    ConfigurationError,
    ConnectFailed,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
)
from carrot.utils import time_left, time_limit

__all__ = ["Connection"]

#: Seconds that closing may take.
CLOSE_TIMEOUT = 3.0
#: Bytes that are read ahead for consumers that do not drain.
BACKLOG = 16 * 1024 * 1024
#: Seconds for which acknowledgements may wait for others to join them, while
#: messages are waiting for their callbacks.
HOLD = 0.001


class Connection(Caller, amqp.connection.Connection):  # type: ignore[misc]
    """A connection to RabbitMQ. Threads may share it.

    :param host: ``host:port``.
    :param connect_timeout: seconds for all of :meth:`connect`, name lookup excepted.
    :param heartbeat: seconds between heartbeats to ask for; ``None`` takes
        the server's suggestion, 0 does without.
    :param timeout: seconds that an answer, or room to write, may take.
    :param ssl: see :class:`~carrot.backends.pyamqplib.tls.TLS`.
    :param kwargs: of the ``amqp`` package's connection.
    """

    Channel = Channel

    _METHODS = {
        **amqp.connection.Connection._METHODS,
        # The amqp package leaves the reason unread.
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    #: Why the broker takes no messages for now; ``None`` while it does.
    blocked: str | None = None

    def __init__(
        self,
        host: str,
        *,
        connect_timeout: float = 5.0,
        heartbeat: float | None = None,
        timeout: float = 30.0,
        ssl: Any = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            host=host,
            connect_timeout=connect_timeout,
            heartbeat=heartbeat,
            ssl=TLS(ssl) if ssl else None,
            frame_writer=_frame_writer,
            **kwargs,
        )
        self.timeout = timeout
        #: Deliveries, and functions to call, in the order of arrival.
        self.inbox: deque[Any] = deque()
        self._parser = Parser(self.channels)
        self._error: BrokerConnectionError | None = None
        # The method because of which the broker closed the connection.
        self._culprit: tuple[int, int] = (0, 0)
        # Bytes read for consumers since the inbox was last seen empty.
        self._backlog = 0
        self._received_at = self._sent_at = self._flushed_at = 0.0
        self._ticked = -1
        self._ticked_at = 0.0
        self._running = 0
        self._seen = threading.local()
        self._wake_counter = itertools.count(1)
        self._wakes = 0
        self._make_locks()

    def _make_locks(self) -> None:
        self._prepare_calls(self)
        # Guards out-buffer and socket; held briefly, never while waiting.
        self.lock = threading.Lock()
        # What the kernel did not take, and what is to follow it: frames put
        # there without the lock, by deque's own atomicity.
        self.out: deque[Any] = deque()
        self.posted: deque[bytes] = deque()
        self._opening = threading.Lock()
        self._turn = threading.Condition()
        self._leader = 0
        self._passes = 0

    def __repr__(self) -> str:
        state = "open" if self.connected else "closed" if self._error else "new"
        if self.blocked is not None:
            state = "blocked"
        return f"<{type(self).__module__}.Connection {self.host}/{self.virtual_host} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_transport", None) is not None and not getattr(self, "_error", 1):
            self._transport.sever()
            self._close_wakers()

    # -- opening

    def Transport(
        self, host: str, connect_timeout: float | None, ssl: Any, **kwargs: Any
    ) -> Any:
        """Return the link to use; a hook of the ``amqp`` package."""
        if ssl:
            return TLSTransport(host, ssl=ssl, connect_timeout=connect_timeout)
        return Transport(host, connect_timeout=connect_timeout)

    def connect(self, callback: Callable[[], Any] | None = None) -> None:
        """Connect and log in, within ``connect_timeout`` seconds.

        :raises ConnectFailed: the broker cannot be reached.
        :raises AuthenticationFailed: it refuses user, password or virtual host.
        """
        limit = time_left(self.connect_timeout) or 0.0
        deadline = monotonic() + limit
        try:
            self._transport = self.Transport(self.host, limit, self.ssl)
            self._transport.connect()
            self._poll_for(self._transport.sock)
            self._on_inbound_frame = self.frame_handler_cls(self, self.on_inbound_method)
            self._frame_writer = self.frame_writer_cls(self, self._transport)
            while not self._handshake_complete:
                left = deadline - monotonic()
                if self._error is None and left <= 0:
                    raise TimeoutError(f"no AMQP handshake within {limit:g} s")
                self._check()
                self._pass(self._passes, left)
        except OSError as exc:
            error = self._connect_error(exc)
            self.die(error)
            raise error from exc
        self._received_at = self._sent_at = monotonic()
        keeper.watch(self)
        if callback is not None:
            callback()

    def _connect_error(self, exc: OSError) -> BrokerConnectionError:
        if isinstance(exc, (ConnectFailed, AuthenticationFailed)):
            return exc
        if isinstance(exc, ProtocolError):
            return connect_failed(
                OSError(f"{exc}; does AMQP 0-9-1 listen there, and with TLS or without?"),
                self.host,
            )
        cause = exc.__cause__ if isinstance(exc, ConnectionLost) else exc
        started = bool(self.mechanisms)
        if started and not self.server_capabilities.get("authentication_failure_close"):
            # Servers that cannot say so close the socket on a wrong password.
            return AuthenticationFailed(
                f"{self.host} closed the connection at the login to {self.virtual_host!r}"
            )
        return connect_failed(cause if isinstance(cause, OSError) else exc, self.host)

    def _poll_for(self, sock: Any) -> None:
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._fd = sock.fileno()
        self._poller = select.poll()
        self._poller.register(self._fd, select.POLLIN)
        self._poller.register(self._woken.fileno(), select.POLLIN)

    def _on_tune(self, channel_max: int, frame_max: int, server_heartbeat: int) -> None:
        self.channel_max = min(channel_max or 65535, self.channel_max)
        self.frame_max = min(frame_max or self.frame_max, self.frame_max)
        self._parser.frame_max = self.frame_max
        self.server_heartbeat = server_heartbeat
        wanted = self.client_heartbeat
        # The protocol knows whole seconds only.
        self.heartbeat = server_heartbeat if wanted is None else math.ceil(wanted)
        self.send_method(
            spec.Connection.TuneOk, "BlB", (self.channel_max, self.frame_max, self.heartbeat)
        )
        self.send_method(spec.Connection.Open, "ssb", (self.virtual_host, "", False))

    # -- state

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._handshake_complete and self._error is None

    def _check(self) -> None:
        if self._error is not None:
            raise self.broken()

    def broken(self, sig: tuple[int, int] | None = None) -> BrokerConnectionError:
        """Return an error that says how the connection ended.

        :param sig: the method for which it is raised; if the broker closed
            the connection because of it, trying again would not help.
        """
        cause = self._error or ConnectionLost("the connection is not open")
        error = type(cause)(*cause.args)
        error.recoverable = cause.recoverable and (sig is None or sig != self._culprit)
        error.__cause__ = cause.__cause__
        return error

    def gave_up(self, sig: tuple[int, int], seconds: float) -> BrokerConnectionError:
        """Return the error for an answer that did not come; ends the connection."""
        name = METHOD_NAME_MAP.get(sig, sig)
        self.die(
            ConnectionLost(f"{self.host} did not answer {name} within {seconds:.3g} seconds")
        )
        return self.broken()

    def die(self, error: BrokerConnectionError) -> None:
        """End the connection at once; whoever waits on it gets *error*."""
        with self._turn:
            if self._error is not None:
                return
            self._error = error
            channels = [channel for number, channel in self.channels.items() if number]
            self.channels.clear()
            self._turn.notify_all()
        keeper.unwatch(self)
        self.inbox.clear()
        for channel in channels:
            channel.collect()
        if self._transport is not None:
            self._transport.sever()
        self._close_wakers()

    def collect(self) -> None:
        """End the connection; a hook of the ``amqp`` package."""
        self.die(ConnectionClosed(f"the connection to {self.host} was closed"))

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Say goodbye, for a few seconds at most. Idempotent, and quiet."""
        if self._error is not None:
            return
        self.is_closing = True
        try:
            with time_limit(CLOSE_TIMEOUT):
                self.call(spec.Connection.Close, b"\x00" * 7, [spec.Connection.CloseOk])
        except BrokerConnectionError:
            pass
        finally:
            self.collect()

    def forked(self) -> None:
        """Leave everything to the parent; called in the child of a fork."""
        self._make_locks()
        if self._error is None:
            self._error = ConnectionLost(
                f"the connection to {self.host} belongs to the process that was forked"
            )
            for number, channel in self.channels.items():
                if number:
                    channel.is_open = False
            self.inbox.clear()
            if self._transport is not None:
                self._transport.abandon()
            self._close_wakers()

    def _close_wakers(self) -> None:
        for waker in (getattr(self, "_waker", None), getattr(self, "_woken", None)):
            if waker is not None:
                waker.close()

    # -- channels

    def channel(self, channel_id: int | None = None, callback: Any = None) -> Any:
        """Open a channel.

        :raises ConfigurationError: the broker allows no more.
        """
        self._check()
        with self._opening:
            try:
                channel = self.Channel(self, channel_id, on_open=callback)
            except AMQPError as exc:
                raise ConfigurationError(
                    f"no channel left on the connection to {self.host}: {reason(exc)};"
                    " close some publishers and consumers, or use another connection"
                ) from exc
        try:
            channel.open()
        except BaseException:
            channel.collect()
            raise
        return channel

    # -- reading

    def drain_events(self, timeout: float | None = None) -> bool:
        """Run the callback of one message, waiting for it if need be.

        :param timeout: seconds to wait at most; ``None``: for ever.
        :returns: ``False`` if :meth:`wake` ended the waiting.
        :raises DrainTimeout: nothing came.
        """
        try:
            event = self.inbox.popleft()
        except IndexError:
            event = self._next_event(timeout)
            if event is None:
                return False
        if event.__class__ is not Delivery:
            event()
            return True
        channel = event.channel
        callback = channel.callbacks.get(event.consumer_tag)
        if callback is None:
            channel.unwanted([event])
            return True
        self._running = get_ident()
        done = False
        try:
            callback(event)
            done = True
        finally:
            self._running = 0
            # Acknowledgements wait for others only while there are others.
            if self.posted and not (done and self.inbox):
                self.flush()
        return True

    def _next_event(self, timeout: float | None) -> Any:
        limit = time_left(timeout)
        deadline = None if limit is None else monotonic() + limit
        left = limit
        while True:
            seen = self._passes
            if self.inbox:
                try:
                    return self.inbox.popleft()
                except IndexError:
                    pass  # another thread was faster
            self._check()
            if self._wakes != getattr(self._seen, "wakes", 0):
                self._seen.wakes = self._wakes
                return None
            if deadline is not None and left is not None:
                if left < 0:
                    raise DrainTimeout(f"no message within {limit:g} seconds")
                left = deadline - monotonic()
            self._backlog = 0
            self._pass(seen, None if left is None else max(0.0, left))

    def pump(self, timeout: float | None = None) -> None:
        """Have what arrives filed, without running callbacks.

        Returns after a pass since this thread's last call, its own or
        another's.

        :raises DrainTimeout: nothing came.
        """
        seen = getattr(self._seen, "passes", 0)
        self._check()
        self._pass(seen, timeout)
        self._check()
        if self._passes == seen:
            raise DrainTimeout(f"nothing came within {timeout:g} seconds")
        self._seen.passes = self._passes

    def pump_until(self, reply: Reply, sig: tuple[int, int], deadline: float) -> None:
        """Have what arrives filed until *reply* is there.

        :raises ConnectionLost: it is not at the deadline (monotonic seconds).
        """
        begun = monotonic()
        while True:
            seen = self._passes
            if reply.ready:
                return
            if self._error is not None:
                raise self.broken(sig)
            left = deadline - monotonic()
            if left <= 0:
                raise self.gave_up(sig, deadline - begun)
            self._pass(seen, left)

    def _pass(self, seen: int, timeout: float | None) -> None:
        """Have a pass made, unless there was one since *seen* were made."""
        with self._turn:
            if self._passes != seen or self._error is not None:
                return
            if self._leader:
                self._turn.wait(timeout)
                return
            self._leader = get_ident()
        heard = True
        try:
            heard = self._read(timeout)
        except OSError as exc:
            self.die(lost(exc, self.host))
        finally:
            with self._turn:
                self._leader = 0
                self._passes += heard
                self._turn.notify_all()
        if self.posted:
            self.flush()

    def _read(self, timeout: float | None) -> bool:
        """Take what has arrived, waiting for it; return whether something did."""
        self.flush()
        transport = self._transport
        data = transport.receive() if transport.eager else None
        if data is None:
            self._poller.modify(self._fd, select.POLLIN | (select.POLLOUT if self.out else 0))
            ready = self._poller.poll(None if timeout is None else timeout * 1000)
            if self._error is not None:
                return True
            if not ready:
                return False
            for fd, event in ready:
                if fd == self._fd and event & ~select.POLLOUT:
                    data = transport.receive()
                elif fd != self._fd:
                    self._woken.recv(4096)
            if data is None:
                self.flush()
                return True
        self._received_at = monotonic()
        self._backlog += len(data)
        events: list[Any] = []
        try:
            self._parser.feed(data, events)
        finally:
            self._file(events)
        return True

    def _file(self, events: Iterable[Any]) -> None:
        """Hand events to those whom they concern."""
        append = self.inbox.append
        try:
            for event in events:
                if event.__class__ is Delivery:
                    append(event)
                elif event[0] == METHOD:
                    self.on_inbound_frame((1, event[1], event[2]))
                elif event[0] == CONFIRM:
                    event[1].confirmed(*event[2:])
                elif event[0] == FETCHED:
                    event[1].fetched(event[2])
                else:
                    event[1].returned(*event[2:])
        except BrokerConnectionError as exc:
            self.die(exc)
        except Exception as exc:
            # Unknown methods, garbled arguments: nothing after them is sure.
            self.die(ProtocolError(f"{self.host} sent what nobody understands: {exc!r}"))

    def on_inbound_method(
        self, channel_id: int, sig: Any, payload: bytes, content: Any
    ) -> None:
        """Hand a method to its channel; a hook of the ``amqp`` package."""
        channel = self.channels.get(channel_id)
        if channel is not None:
            channel.dispatch_method(sig, payload, content)
        elif sig != spec.Channel.CloseOk:
            raise ProtocolError(f"method {sig} on channel {channel_id}, which is not open")

    # -- writing

    def _send(self, sig: tuple[int, int], arguments: bytes) -> None:
        self.write(method_frame(0, sig, arguments), heed=sig != spec.Connection.Close)

    def write(self, frame: bytes, channel: Any = None, heed: bool = True) -> None:
        """Write a frame, waiting for room.

        :param channel: the channel that has to be open for it.
        :param heed: wait while the broker blocks the connection.
        :raises ConnectionBlocked: there was no room in time.
        """
        if self._leader == get_ident():
            self.posted.append(frame)
            return
        deadline = monotonic() + time_left(self.timeout)
        while True:
            with self.lock:
                if channel is not None and not channel.is_open:
                    raise channel.gone()
                self._check()
                if self.ready(heed):
                    self.put([frame])
                    break
            self.await_room(deadline, heed)
        self.settle_down(deadline)

    def ready(self, heed: bool = True) -> bool:
        """Return whether a message may be written now. The caller holds the lock."""
        if self.posted or self.out:
            self._flush_locked()
        return not self.out and (self.blocked is None or not heed)

    def put(self, pieces: list[Any]) -> bool:
        """Write pieces; what the kernel does not take stays. The caller holds the lock.

        :returns: whether the connection lives.
        """
        send = self._transport.send
        try:
            for index, piece in enumerate(pieces):
                sent = send(piece)
                if sent != len(piece):
                    self.out.append(memoryview(piece)[sent:])
                    self.out.extend(pieces[index + 1 :])
                    break
        except OSError as exc:
            self.die(lost(exc, self.host))
            return False
        self._sent_at = monotonic()
        return True

    def await_room(self, deadline: float, heed: bool = True) -> None:
        """Wait until something changed for those who want to write.

        :raises ConnectionBlocked: the deadline (monotonic seconds) has passed.
        """
        seen = self._passes
        self.flush()
        if not self.out and (self.blocked is None or not heed):
            return
        left = deadline - monotonic()
        if left <= 0:
            why = self.blocked or "the link is full"
            raise ConnectionBlocked(f"{self.host} takes no messages for now: {why}")
        self._pass(seen, left)

    def settle_down(self, deadline: float) -> None:
        """Wait until the kernel has all, or the deadline: what was begun, stays begun."""
        if self.posted:
            self.flush()
        while self.out and self._error is None:
            try:
                self.await_room(deadline, heed=False)
            except ConnectionBlocked:
                return

    def post(self, frame: bytes, channel: Any) -> bool:
        """Write a frame soon, without waiting.

        :returns: ``False`` if the channel is closed, where it means nothing.
        """
        with self.lock:
            if not channel.is_open:
                return False
            self.posted.append(frame)
            if (
                self._running == get_ident()
                and self.inbox
                and monotonic() - self._flushed_at < HOLD
            ):
                return True
            self._flush_locked()
        return True

    def flush(self) -> None:
        """Write what is posted, as far as the kernel takes it now."""
        while self.posted or self.out:
            if not self.lock.acquire(blocking=False):
                return  # whoever holds it looks again after releasing it
            try:
                done = self._flush_locked()
            finally:
                self.lock.release()
            if not done:
                if self._leader not in (0, get_ident()):
                    self._rouse()  # to poll for room as well
                return

    def _flush_locked(self) -> bool:
        posted, out = self.posted, self.out
        if posted:
            frames = []
            while posted:
                frames.append(posted.popleft())
            out.append(b"".join(frames))
        pieces = list(out)
        out.clear()
        if pieces and self._error is None:
            self.put(pieces)
        self._flushed_at = monotonic()
        return not out

    # -- from anywhere

    def wake(self) -> None:
        """End the waiting of each thread in :meth:`drain_events`, once.

        Takes no lock: a signal handler may call it.
        """
        self._wakes = next(self._wake_counter)
        self._rouse()

    def _rouse(self) -> None:
        try:
            self._waker.send(b"\0")
        except (OSError, AttributeError):
            pass  # full: it will wake up anyhow; closed: nobody is there

    def withdraw(self, channel: Any, consumer_tag: str | None = None) -> list[Delivery]:
        """Remove a channel's deliveries, or one consumer's, from the inbox."""
        withdrawn = []
        for event in list(self.inbox):
            if (
                event.__class__ is Delivery
                and event.channel is channel
                and consumer_tag in (None, event.consumer_tag)
            ):
                try:
                    self.inbox.remove(event)
                except ValueError:
                    continue  # a draining thread has it
                withdrawn.append(event)
        return withdrawn

    def tick(self, now: float) -> None:
        """Do what is due; called about once a second by the keeper's thread.

        Reads when nobody else has, so that confirms, notices and the end of
        the connection are heard; but not without bound what is for consumers.
        """
        heartbeat = self.heartbeat
        if heartbeat and now - self._sent_at >= heartbeat / 2 and not self.out:
            self.posted.append(HEARTBEAT)
        self.flush()
        listening = self._backlog < BACKLOG
        if listening and self._passes == self._ticked:
            self._pass(self._ticked, 0)
        self._ticked = self._passes
        silent = monotonic() - self._received_at
        # Whoever slept through several ticks must not blame the peer.
        awake, self._ticked_at = now - self._ticked_at < heartbeat, now
        if heartbeat and awake and listening and silent > 2 * heartbeat:
            self.die(
                ConnectionLost(
                    f"the connection to {self.host} is lost: nothing came for {silent:.3g}"
                    f" seconds, with a heartbeat every {heartbeat}"
                )
            )

    # -- what the broker says of the connection

    def _on_blocked(self, reason: str) -> None:
        self.blocked = reason or "no reason given"

    def _on_unblocked(self) -> None:
        self.blocked = None

    def _on_close(
        self, reply_code: int, reply_text: str, class_id: int, method_id: int
    ) -> None:
        self._culprit = (class_id, method_id)
        self.posted.append(method_frame(0, spec.Connection.CloseOk, b""))
        self.flush()
        text = f"{reply_code} {reply_text}"
        error: BrokerConnectionError
        if self._handshake_complete:
            error = ConnectionLost(f"{self.host} closed the connection: {text}")
        elif reply_code in (403, 530) and "limit" not in reply_text:
            error = AuthenticationFailed(
                f"{self.host} refused the login to virtual host {self.virtual_host!r}: {text}"
            )
        else:
            error = ConnectFailed(f"cannot connect to {self.host}: {text}")
        self.die(error)


def _frame_writer(connection: Connection, transport: Any) -> Callable[..., None]:
    """Return the function with which the ``amqp`` package writes; all ours goes elsewhere."""

    def write(kind: int, channel: int, sig: Any, arguments: Any, content: Any) -> None:
        connection.write(
            HEARTBEAT if kind == 8 else method_frame(channel, sig, arguments or b"")
        )

    return write


def client_properties(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the broker shows of us in its list of connections."""
    import platform

    return {
        "product": "carrot",
        "platform": f"Python {platform.python_version()}",
        **(given or {}),
    }
