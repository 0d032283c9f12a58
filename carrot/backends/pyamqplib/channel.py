"""The driver's channel: what is hot is done here, the rest by the ``amqp`` package."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any

import amqp.channel
from amqp import spec
from amqp.exceptions import ChannelError as AMQPChannelError
from amqp.protocol import queue_declare_ok_t

from carrot.backends.pyamqplib.delivery import Delivery
from carrot.backends.pyamqplib.message import Outgoing, as_bytes
from carrot.backends.pyamqplib.rpc import Caller, within
from carrot.backends.pyamqplib.tables import encode_properties
from carrot.backends.pyamqplib.wire import (
    END,
    OVERHEAD,
    method_frame,
    publish_beginning,
    publish_frames,
    publish_prefix,
    settle_frame,
    shortstr,
)
from carrot.exceptions import (
    BrokerError,
    CarrotError,
    ChannelError,
    ConfigurationError,
    NotFound,
    NotSupported,
    channel_error,
)
from carrot.utils import time_limit

__all__ = ["Channel"]

logger = logging.getLogger("carrot.backends.pyamqplib")

#: Seconds that closing may take.
CLOSE_TIMEOUT = 3.0
#: Acknowledgements that may wait for others to join them, while messages are
#: waiting for their callbacks; a power of 2.
HOLD = 64
#: Bodies up to this many bytes are copied beside their frames, for one write.
_JOINED = 16 * 1024
#: Destinations whose frames are remembered, per channel, and bytes of
#: properties up to which they are.
_CACHED = 1024
_SMALL = 1024


class Channel(Caller, amqp.channel.Channel):  # type: ignore[misc]
    """A channel. Threads may share it."""

    # The base class has a dictionary of the kind that Python looks up slowly:
    # these are used for each message.
    __slots__ = (
        "_driver",
        "_forgetful",
        "_number",
        "_outbox",
        "_prefixes",
        "_room",
        "_settled",
        "_written",
        "callbacks",
        "error",
        "is_open",
        "joined",
        "life",
        "shortcuts",
        "tracker",
    )

    #: Whether it may be used; false as soon as either side begins to close it.
    is_open: bool
    #: What to call with each delivery of a consumer, by consumer tag.
    callbacks: dict[str, Any]
    #: Why the broker closed the channel, until somebody was told.
    error: ChannelError | None
    #: Counts what :meth:`basic_publish` is given an *entry* for.
    tracker: Any
    #: The life of the tracker that this channel is.
    life: int
    #: Bytes up to which a body is written in one piece with its frames.
    joined: int
    #: What the backend keeps for messages like those that were sent.
    shortcuts: dict[Any, Any]

    def __init__(
        self,
        connection: Any,
        channel_id: int | None = None,
        auto_decode: bool = False,
        on_open: Any = None,
    ) -> None:
        super().__init__(connection, channel_id, auto_decode=False, on_open=on_open)
        self.error = self.tracker = None
        self.life = 0
        self._prepare_calls(connection)
        self._outbox = connection.outbox
        self._number: int = self.channel_id
        self._prefixes: dict[Any, tuple[tuple[bytes, bytes], Any]] = {}
        self._room = connection.frame_max - OVERHEAD
        self.joined = min(self._room, _JOINED)
        self.shortcuts = {}
        self._forgetful: set[str] = set()
        # All deliveries up to this one are settled, so far as has been
        # settled in order; those after the second one by acknowledgements
        # that are not written yet.
        self._settled = self._written = 0

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Channel {self._number} of {self._driver!r} {state}>"

    # -- publishing

    def basic_publish(
        self,
        msg: Any,
        exchange: str = "",
        routing_key: str = "",
        mandatory: bool | None = False,
        immediate: bool = False,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        argsig: str = "",
        entry: Any = None,
    ) -> None:
        """Write a message. An error means that nothing of it was written.

        Waits only for room on the link, the connection's ``timeout`` at most.

        :param entry: what to enter in the tracker as the message is written;
            if the connection breaks in writing, it stays there and nothing is raised.
        :raises EncodeError: a property cannot be expressed.
        :raises ConnectionBlocked: there was no room in time.
        """
        properties = msg.encoded if msg.__class__ is Outgoing else None
        if properties is None:
            properties = encode_properties(msg.properties)
        prefix, begin = self.prefix(exchange, routing_key, mandatory, properties)
        body = msg.body
        if body.__class__ is not bytes:
            body = as_bytes(body)
        length = len(body)
        pieces: list[Any] = []
        if 0 < length <= self.joined:
            head, tail = prefix
            frames = b"".join((begin(head, length, tail, length), body, END))
        else:
            pieces = publish_frames(prefix, body, self._room)
        driver, outbox = self._driver, self._outbox
        deadline = 0.0
        while True:
            with outbox.lock:
                if not self.is_open:
                    raise self.gone()
                if driver.blocked is None and (
                    not (outbox.noted or outbox.rest) or outbox.clear()
                ):
                    try:
                        if entry is not None:
                            self.tracker.add(entry, self.life)
                        written = outbox.put_pieces(pieces) if pieces else outbox.put(frames)
                    except BaseException as exc:
                        if not isinstance(exc, CarrotError):  # the tracker's
                            outbox.interrupted()
                        raise
                    break
            deadline = deadline or monotonic() + within(driver.timeout)
            driver.await_room(deadline)
        if outbox.rest:
            driver.settle_down(deadline or monotonic() + within(driver.timeout))
        if not written and entry is None:
            raise driver.ended()

    _basic_publish = basic_publish

    def basic_publish_confirm(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: it would wait for each message.

        :raises NotSupported: always.
        """
        raise NotSupported("give the channel a tracker, which counts confirms without waiting")

    def prefix(
        self, exchange: Any, routing_key: Any, mandatory: Any, properties: bytes
    ) -> tuple[tuple[bytes, bytes], Any]:
        """Return what surrounds the bodies of such messages, and what packs it."""
        try:
            return self._prefixes[exchange, routing_key, mandatory, properties]
        except (KeyError, TypeError):
            prefix = publish_prefix(
                self._number, exchange, routing_key, mandatory, properties, self._room
            )
        found = prefix, publish_beginning(prefix)
        if len(properties) <= _SMALL:
            if len(self._prefixes) >= _CACHED:
                self._prefixes.clear()
            self._prefixes[exchange, routing_key, mandatory, properties] = found
        return found

    # -- settling

    def basic_ack(self, delivery_tag: int, multiple: bool = False, argsig: str = "") -> bool:
        """Acknowledge; return whether the channel is there to take it.

        In a callback, while other messages wait for theirs, it waits for
        others to join it: where all deliveries before them are settled, one
        frame says it all. See ``drain_events`` and ``Outbox.push`` for
        who writes it.
        """
        driver = self._driver
        following = self._settled + 1
        if (
            delivery_tag == following
            and not multiple
            and driver.running == get_ident()
            and driver.inbox.events
            and self.is_open
        ):
            # Without the lock: only the thread that drains comes here. First
            # the number, then the note, which others take up the other way round.
            # Not one more than it is now: a thread that settles the same
            # delivery, wrongly, may have counted it meanwhile.
            outbox = self._outbox
            self._settled = following
            outbox.noted.add(self)
            if not following % HOLD:
                outbox.flush()
            elif not outbox.attended:
                with outbox.lock:
                    outbox.attend()
            return True
        return self._settle(80, delivery_tag, 1 if multiple else 0)

    def post_acknowledgements(self) -> None:
        """Post those that were noted. With the outbox's lock held."""
        last = self._settled
        if last > self._written and self.is_open:
            several = last > self._written + 1
            self._outbox.posted.append(settle_frame(self._number, 80, last, several))
        self._written = last

    def basic_reject(self, delivery_tag: int, requeue: bool, argsig: str = "") -> bool:
        """Discard or give back; return whether the channel is there to take it."""
        return self._settle(90, delivery_tag, 1 if requeue else 0)

    def basic_nack(
        self, delivery_tag: int, multiple: bool = False, requeue: bool = True
    ) -> bool:
        """Reject one or all so far; return whether the channel is there to take it."""
        return self._settle(120, delivery_tag, (1 if multiple else 0) | (2 if requeue else 0))

    def _settle(self, method: int, delivery_tag: int, bits: int) -> bool:
        with self._outbox.lock:
            if not self.is_open:
                return False
            try:
                in_order = delivery_tag == self._settled + 1
                if in_order and method == 80 and not bits:
                    self._settled += 1
                    self.post_acknowledgements()
                else:
                    frame = settle_frame(self._number, method, delivery_tag, bits)
                    self.post_acknowledgements()
                    self._outbox.posted.append(frame)
                    if in_order or (bits & 1 and method != 90):  # multiple
                        self._settled = self._written = max(self._settled, int(delivery_tag))
                done = self._outbox.clear()
            except BaseException as exc:
                if not isinstance(exc, CarrotError):  # that it is no delivery tag
                    self._outbox.interrupted()
                raise
        if not done:
            self._outbox.flush()  # or have the thread that reads poll for room
        return True

    # -- receiving

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: Any = None,
        argsig: str = "BsbbbbbF",
    ) -> Any:
        """Declare a queue; return its name and its counts of messages and consumers."""
        # The amqp package would begin to wait after it has sent: too late,
        # where another thread may read the answer.
        bits = (passive, durable, exclusive, auto_delete, nowait)
        answer = self.send_method(
            spec.Queue.Declare,
            argsig,
            (0, queue, *bits, arguments),
            wait=None if nowait else spec.Queue.DeclareOk,
            returns_tuple=True,
        )
        return None if nowait else queue_declare_ok_t(*answer)

    def basic_get(self, queue: str = "", no_ack: bool = False, argsig: str = "") -> Any:
        """Return the next message of a queue, or ``None``."""
        arguments = b"\x00\x00" + shortstr(queue, "queue") + (b"\x01" if no_ack else b"\x00")
        answer = self.call(spec.Basic.Get, arguments, [spec.Basic.GetOk, spec.Basic.GetEmpty])
        return answer[0] if answer and isinstance(answer[0], Delivery) else None

    def basic_consume(
        self,
        queue: str = "",
        consumer_tag: str = "",
        no_local: bool = False,
        no_ack: bool = False,
        exclusive: bool = False,
        nowait: bool = False,
        callback: Callable[[Any], Any] | None = None,
        arguments: Any = None,
        on_cancel: Callable[[str], Any] | None = None,
        argsig: str = "BssbbbbF",
    ) -> str:
        """Subscribe; deliveries wait in the inbox until someone drains."""
        tag = consumer_tag or f"amq.ctag-{uuid.uuid4()}"
        # Before it is asked for: another thread may be draining.
        self.callbacks[tag] = callback
        if no_ack:
            self._forgetful.add(tag)
        try:
            super().basic_consume(
                queue, tag, no_local, no_ack, exclusive, nowait, callback, arguments, on_cancel
            )
        except BaseException:
            self.callbacks.pop(tag, None)
            raise
        return tag

    def basic_cancel(self, consumer_tag: str, nowait: bool = False, argsig: str = "") -> Any:
        """Unsubscribe, and give back what was not handed to the callback."""
        self.callbacks.pop(consumer_tag, None)
        if not self.is_open:
            return None
        answer = super().basic_cancel(consumer_tag, nowait)
        self.unwanted(self._driver.inbox.withdraw(self, consumer_tag))
        return answer

    def unwanted(self, deliveries: Iterable[Delivery]) -> None:
        """Give back messages whose consumer is gone."""
        for delivery in deliveries:
            # With no_ack the broker has forgotten it, and has no such tag.
            if self.is_open and delivery.kind.consumer_tag not in self._forgetful:
                self.basic_reject(delivery.delivery_tag, requeue=True)

    # -- what the broker sends; called by the thread that reads

    def confirmed(self, delivery_tag: int, multiple: bool, taken: bool) -> None:
        """Pass on ``basic.ack`` or ``basic.nack``."""
        for callback in self.events["basic_ack" if taken else "basic_nack"]:
            callback(delivery_tag, multiple)

    def fetched(self, delivery: Delivery) -> None:
        """Pass on the answer to ``basic.get``."""
        waiting = self._pending.get(spec.Basic.GetOk)
        if waiting is not None:
            waiting(spec.Basic.GetOk, delivery)

    def returned(self, delivery: Delivery, reply_code: int, reply_text: str) -> None:
        """Pass on ``basic.return``."""
        exc = AMQPChannelError(reply_text, spec.Basic.Return, reply_code=reply_code)
        callbacks = self.events["basic_return"]
        if not callbacks:
            logger.warning(
                "message to %r was returned, and nobody asked: %s %s",
                delivery.kind.route,
                reply_code,
                reply_text,
            )
        for callback in callbacks:
            callback(exc, *delivery.kind.route, delivery)

    def _on_basic_cancel(self, consumer_tag: str) -> None:
        # After the deliveries that came before it.
        self._driver.inbox.events.append(partial(self._cancelled, consumer_tag))

    def _cancelled(self, consumer_tag: str) -> None:
        """Tell of a consumer that the broker cancelled; called by the thread that drains."""
        on_cancel = self._remove_tag(consumer_tag)
        if on_cancel is not None:
            on_cancel(consumer_tag)
        elif self.is_open:
            raise NotFound(
                404, f"the broker cancelled consumer {consumer_tag!r}: its queue is gone"
            )

    # -- the connection, for those who know the channel only

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages for now; ``None`` while it does."""
        return self._driver.blocked  # type: ignore[no-any-return]

    def flush(self) -> None:
        """Write what waits to be written, as far as the link takes it now."""
        self._outbox.flush()

    def pump(self, timeout: float | None = None) -> None:
        """Have what arrives filed, without running callbacks.

        :raises ChannelError: the broker closed the channel.
        :raises DrainTimeout: nothing came.
        """
        self._driver.inbox.pump(timeout)
        if self.error is not None:
            raise self.gone()

    def wake(self) -> None:
        """End the waiting of each draining thread, once; callable from a signal handler."""
        self._driver.wake()

    # -- the end

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the channel, within a few seconds. Idempotent, and quiet."""
        self._outbox.flush()
        with self._outbox.lock:
            if not self.is_open:
                return
            # From here on nobody writes on this channel.
            self.is_open = False
        # Until the answer comes, be it later: then the number is free again.
        self.is_closing = True
        with time_limit(CLOSE_TIMEOUT), contextlib.suppress(BrokerError):
            self.call(spec.Channel.Close, b"\x00" * 7, [spec.Channel.CloseOk], vital=False)

    def collect(self) -> None:
        """Forget everything; a hook of the ``amqp`` package."""
        super().collect()
        self.shortcuts.clear()
        self._driver.inbox.withdraw(self)

    def gone(self) -> BrokerError:
        """Return the error for using a channel that is closed; says why once."""
        error, self.error = self.error, None
        if error is not None:
            return error
        if not self._driver.connected:
            return self._driver.ended()  # type: ignore[no-any-return]
        return ChannelError(504, f"channel {self._number} is closed")

    def _on_close(
        self, reply_code: int, reply_text: str, class_id: int, method_id: int
    ) -> None:
        error = channel_error(reply_code, reply_text)
        with self._outbox.lock:
            # What was written before it was written on an open channel; from
            # here on everybody is told why it is not.
            waiting = list(self._pending.values())
            if not (waiting or self.is_closing):
                self.error = error
            self.is_open = False
        self._outbox.post(method_frame(self._number, spec.Channel.CloseOk, b""))
        if self.is_closing:
            return  # the answer to our own close is still to come
        for reply in waiting:
            reply.fail(error)
        if not waiting and self.callbacks:
            # Its consumers would wait for ever: tell who drains.
            self._driver.inbox.events.append(self._tell)
        self.collect()

    def _tell(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error

    def _send(self, sig: tuple[int, int], arguments: bytes) -> None:
        if len(arguments) > self._room - 4:
            raise ConfigurationError(
                f"names and arguments of {len(arguments)} bytes: the broker allows"
                f" {self._room - 4} in one frame; shorten them"
            )
        # Opening and closing happen while it is not open.
        channel = None if sig[0] == spec.Channel.CLASS_ID else self
        heed = sig != spec.Channel.Close
        self._driver.write(method_frame(self._number, sig, arguments), channel, heed)
