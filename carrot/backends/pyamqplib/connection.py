"""The driver's connection: opened, kept alive, and ended.

What arrives is the matter of its :class:`~carrot.backends.pyamqplib.inbox.Inbox`,
what is written that of its :class:`~carrot.backends.pyamqplib.outbox.Outbox`.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any, ClassVar

import amqp.connection
from amqp import spec
from amqp.exceptions import METHOD_NAME_MAP, AMQPError

from carrot.backends.pyamqplib import keeper
from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.delivery import Delivery
from carrot.backends.pyamqplib.errors import connect_failed, lost, reason
from carrot.backends.pyamqplib.inbox import Inbox
from carrot.backends.pyamqplib.outbox import Outbox, frame_writer
from carrot.backends.pyamqplib.rpc import Caller, within
from carrot.backends.pyamqplib.tls import TLS
from carrot.backends.pyamqplib.transport import TLSTransport, Transport
from carrot.backends.pyamqplib.wire import HEARTBEAT, ProtocolError, method_frame
from carrot.exceptions import (
    AuthenticationFailed,
    BrokerConnectionError,
    BrokerError,
    ConfigurationError,
    ConnectFailed,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionLost,
)
from carrot.utils import time_limit

__all__ = ["Connection"]

#: Seconds that saying goodbye may take.
CLOSE_TIMEOUT = 5.0
#: Bytes that are read ahead for consumers that do not drain.
BACKLOG = 16 * 1024 * 1024


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

    #: Channels and bytes of a frame that the broker allows.
    channel_max: int
    frame_max: int

    _METHODS: ClassVar[dict[Any, Any]] = {
        **amqp.connection.Connection._METHODS,
        # The amqp package leaves the reason unread.
        spec.Connection.Blocked: spec.method(spec.Connection.Blocked, "s"),
    }

    #: Why the broker takes no messages for now; ``None`` while it does.
    blocked: str | None
    #: The thread that runs a consumer's callback.
    running: int

    _ended: BrokerConnectionError | None

    #: Called with the error, once, by the thread that met it, when the
    #: connection is lost.
    on_lost: Callable[[BrokerConnectionError], object] | None = None
    # The method because of which the broker closed the connection.
    _culprit: tuple[int, int] = (0, 0)

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
            frame_writer=frame_writer,
            **kwargs,
        )
        self.timeout = timeout
        self.blocked = self._ended = None
        self.running = 0
        self._prepare_calls(self)
        self._opening = threading.Lock()
        self._ending = threading.Lock()
        self.outbox = Outbox(self._broken, self._rouse)
        self.inbox = Inbox(self, self.outbox)
        # Of the last tick: the passes made by then, and its time.
        self._ticked = -1
        self._ticked_at = 0.0

    def __repr__(self) -> str:
        state = "open" if self.connected else "closed" if self._ended else "new"
        if self.blocked is not None:
            state = "blocked"
        return f"<{type(self).__name__} to {self.host}/{self.virtual_host} {state}>"

    # -- opening

    def Transport(self, host: str, connect_timeout: float, ssl: TLS | None, **_: Any) -> Any:
        """Return the link to use; a hook of the ``amqp`` package."""
        if ssl is None:
            return Transport(host, connect_timeout=connect_timeout)
        return TLSTransport(host, ssl=ssl, connect_timeout=connect_timeout)

    def connect(self, callback: Callable[[], Any] | None = None) -> None:
        """Connect and log in, within ``connect_timeout`` seconds.

        :raises ConnectFailed: the broker cannot be reached.
        :raises AuthenticationFailed: it refuses user, password or virtual host.
        """
        limit = within(self.connect_timeout)
        deadline = monotonic() + limit
        try:
            self._transport = transport = self.Transport(self.host, limit, self.ssl)
            transport.connect()
            self.outbox.connect(transport)
            self.inbox.connect(transport)
            # Before the sockets find out by themselves, and warn.
            for release in (transport.sever, *(waker.close for waker in self.inbox.wakers)):
                weakref.finalize(self, release).atexit = False
            self._on_inbound_frame = self.frame_handler_cls(self, self.on_inbound_method)
            self._frame_writer = self.frame_writer_cls(self, transport)
            while not self._handshake_complete:
                self.check()
                left = deadline - monotonic()
                if left <= 0:
                    raise TimeoutError(f"no answer to the handshake within {limit:g} seconds")
                self.inbox.take(self.inbox.turns.passes, left)
        except OSError as exc:
            error = self._connect_error(exc)
            self.die(error)
            raise error from (exc if error is not exc else exc.__cause__)
        keeper.watch(self)
        if callback is not None:
            callback()

    def _connect_error(self, exc: OSError) -> BrokerConnectionError:
        if isinstance(exc, (ConnectFailed, AuthenticationFailed)):
            return exc
        if isinstance(exc, ProtocolError):
            why = f"{exc.__cause__ or exc}; does AMQP 0-9-1 listen there, with TLS or without?"
            return connect_failed(OSError(why), self.host)
        cause = exc.__cause__ if isinstance(exc, ConnectionLost) else exc
        if self.mechanisms and not self.server_capabilities.get("authentication_failure_close"):
            # Servers that cannot say so close the link on a wrong password.
            return AuthenticationFailed(
                f"{self.host} ended the login to virtual host {self.virtual_host!r}"
            )
        return connect_failed(cause or exc, self.host)

    def _on_start(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._on_start(*args, **kwargs)
        except AMQPError as exc:  # it knows none of our mechanisms
            raise AuthenticationFailed(
                f"cannot log in to {self.host}: {exc.args[0] or exc}"
            ) from exc

    def _on_tune(self, channel_max: int, frame_max: int, server_heartbeat: int) -> None:
        self.channel_max = min(channel_max or 65535, self.channel_max)
        self.frame_max = min(frame_max or self.frame_max, self.frame_max)
        self.inbox.parser.frame_max = self.frame_max
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
    def alive(self) -> bool:
        """Whether the connection has not ended."""
        return self._ended is None

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._handshake_complete and self._ended is None

    def check(self, sig: tuple[int, int] | None = None) -> None:
        """Raise why the connection has ended, if it has.

        :param sig: the method whose answer is waited for.
        """
        if self._ended is not None:
            raise self.ended(sig)

    def ended(self, sig: tuple[int, int] | None = None) -> BrokerConnectionError:
        """Return an error that says how the connection ended.

        :param sig: the method whose answer is waited for. If the broker closed
            the connection because of it, the error is not recoverable: it
            would do so again.
        """
        error = self._ended or ConnectionLost(f"the connection to {self.host} is not open")
        guilty = sig is not None and sig == self._culprit
        hint = " because of this operation: correct its values" if guilty else ""
        again = type(error)(f"{error}{hint}")
        again.recoverable = error.recoverable and not guilty
        again.refused = error.refused
        again.__cause__ = error.__cause__
        return again

    def gave_up(
        self, sig: tuple[int, int], seconds: float, vital: bool
    ) -> BrokerConnectionError:
        """Return the error for an answer that did not come.

        :param vital: end the connection: nobody knows what the broker did.
        """
        name = METHOD_NAME_MAP.get(sig, sig)
        error = ConnectionLost(
            f"{self.host} did not answer {name} within {seconds:.3g} seconds"
        )
        if vital:
            self.die(error)
        return error

    # -- channels

    def channel(self, channel_id: int | None = None, callback: Any = None) -> Any:
        """Open a channel.

        :raises ConfigurationError: the broker allows no more.
        """
        self.check()
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

    # -- receiving

    def drain_events(self, timeout: float | None = None) -> bool:
        """Run the callback of one message, waiting for it if need be.

        :param timeout: seconds to wait at most; ``None``: for ever.
        :returns: ``False`` if :meth:`wake` ended the waiting.
        :raises DrainTimeout: nothing came.
        """
        try:
            event = self.inbox.events.popleft()
        except IndexError:
            event = self.inbox.next_event(timeout)
            if event is None:
                return False
        if event.__class__ is not Delivery:
            event()
            return True
        channel = event.kind.channel
        callback = channel.callbacks.get(event.kind.consumer_tag)
        if callback is None:
            channel.unwanted([event])
            return True
        self.running = get_ident()
        done = False
        try:
            callback(event)
            done = True
        finally:
            self.running = 0
            # Acknowledgements wait for others only while there are others.
            if self.outbox.noted and not (done and self.inbox.events):
                self.outbox.flush()
        return True

    def wake(self) -> None:
        """End the waiting of each thread in :meth:`drain_events`, once.

        Takes no lock: a signal handler may call it.
        """
        self.inbox.wake()

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

    def write(self, frame: bytes, channel: Any = None, heed: bool = True) -> None:
        """Write a frame, waiting for room unless this is the thread that reads.

        :param channel: the channel that has to be open for it.
        :param heed: wait while the broker blocks the connection.
        :raises ConnectionBlocked: there was no room in time.
        """
        outbox = self.outbox
        if self.inbox.turns.leader == get_ident():
            outbox.post(frame)
            return
        deadline = monotonic() + within(self.timeout)
        while True:
            with outbox.lock:
                self.check()
                if channel is not None and not channel.is_open:
                    raise channel.gone()
                if self.ready(heed):
                    outbox.put(frame)
                    break
            self.await_room(deadline, heed)
        self.settle_down(deadline)

    def ready(self, heed: bool = True) -> bool:
        """Return whether a message may be written now. With the outbox's lock held."""
        outbox = self.outbox
        if (outbox.noted or outbox.rest) and not outbox.clear():
            return False
        return self.blocked is None or not heed

    def await_room(self, deadline: float, heed: bool = True) -> None:
        """Wait until something changed for those who want to write.

        :param deadline: seconds of the monotonic clock.
        :raises ConnectionBlocked: it has passed.
        """
        seen = self.inbox.turns.passes
        self.outbox.flush()
        if not self.outbox.rest and (self.blocked is None or not heed):
            return
        self.check()
        left = deadline - monotonic()
        if left <= 0:
            why = self.blocked or "the link is full"
            raise ConnectionBlocked(f"{self.host} takes no messages for now: {why}")
        self.inbox.take(seen, left)

    def settle_down(self, deadline: float) -> None:
        """Wait until the kernel has all; at the deadline, what was begun stays begun."""
        while self.outbox.rest and self._ended is None:
            try:
                self.await_room(deadline, heed=False)
            except BrokerConnectionError:
                return

    def _send(self, sig: tuple[int, int], arguments: bytes) -> None:
        self.write(method_frame(0, sig, arguments), heed=sig != spec.Connection.Close)

    def _rouse(self) -> None:
        if self.inbox.turns.leader not in (0, get_ident()):
            self.inbox.rouse()

    # -- keeping alive

    def tick(self, now: float) -> None:
        """Do what is due; called about once a second by the keeper's thread.

        Reads when nobody else has, so that confirms, notices and the end of
        the connection are heard; but not without bound what is for consumers.
        """
        inbox, heartbeat = self.inbox, self.heartbeat
        if heartbeat and now - self.outbox.sent_at >= heartbeat / 2 and not self.outbox.rest:
            self.outbox.post(HEARTBEAT)
        self.outbox.flush()
        listening = inbox.backlog < BACKLOG
        if listening and inbox.turns.passes == self._ticked:
            inbox.take(self._ticked, 0)
        self._ticked = inbox.turns.passes
        silent = monotonic() - inbox.received_at
        # Whoever slept through several ticks must not blame the peer.
        awake, self._ticked_at = now - self._ticked_at < heartbeat, now
        if heartbeat and awake and listening and silent > 2 * heartbeat:
            self.die(
                ConnectionLost(
                    f"the connection to {self.host} is lost: nothing came for {silent:.3g}"
                    f" seconds, with a heartbeat every {heartbeat}"
                )
            )

    def _on_blocked(self, reason: str) -> None:
        self.blocked = reason or "no reason given"

    def _on_unblocked(self) -> None:
        self.blocked = None

    # -- ending

    def die(self, error: BrokerConnectionError) -> None:
        """End the connection at once; whoever waits on it gets *error*."""
        with self._ending:
            if self._ended is not None:
                return
            self._ended = error
        keeper.unwatch(self)
        self.inbox.close()
        channels = [channel for number, channel in list(self.channels.items()) if number]
        self.channels.clear()
        for channel in channels:
            channel.collect()
        if self._transport is not None:
            self._transport.sever()
        if self.on_lost is not None and not isinstance(error, ConnectionClosed):
            keeper.tell(self.on_lost, error)

    def _broken(self, exc: OSError) -> None:
        self.die(lost(exc, self.host))

    def collect(self) -> None:
        """End the connection; a hook of the ``amqp`` package."""
        self.die(ConnectionClosed(f"the connection to {self.host} was closed"))

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Say goodbye, for a few seconds at most. Idempotent, and quiet."""
        if self._ended is not None:
            return
        self.is_closing = True
        try:
            with time_limit(CLOSE_TIMEOUT):
                self.call(spec.Connection.Close, b"\x00" * 7, [spec.Connection.CloseOk])
        except BrokerError:
            pass  # it is closed all the same
        finally:
            self.collect()

    def _on_close(
        self, reply_code: int, reply_text: str, class_id: int, method_id: int
    ) -> None:
        self._culprit = (class_id, method_id)
        self.outbox.post(method_frame(0, spec.Connection.CloseOk, b""))
        text = f"{reply_code} {reply_text}"
        error: BrokerConnectionError
        if self._handshake_complete:
            error = ConnectionLost(f"{self.host} closed the connection: {text}")
            error.refused = reply_code >= 500  # 320: an administrator closed it
        elif reply_code in (403, 530) and "limit" not in reply_text:
            error = AuthenticationFailed(
                f"{self.host} refused the login to virtual host {self.virtual_host!r}: {text};"
                " correct userid, password or virtual_host"
            )
        else:
            error = ConnectFailed(f"cannot connect to {self.host}: {text}")
        self.die(error)

    def forked(self) -> None:
        """Leave everything to the parent; called in the child of a fork.

        Whoever held a lock in the parent does not exist here.
        """
        self._prepare_calls(self)
        self._opening, self._ending = threading.Lock(), threading.Lock()
        self.outbox.reset()
        self.inbox.reset()
        if self._ended is None:
            self._ended = ConnectionLost(
                f"the connection to {self.host} belongs to the process that was forked"
            )
            for number, channel in self.channels.items():
                if number:
                    channel.is_open = False
                    channel._prepare_calls(self)
            if self._transport is not None:
                self._transport.abandon()
            self.inbox.close()
