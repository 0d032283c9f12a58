"""A connection to an in-memory broker, and its channels, for several threads."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from carrot import broker
from carrot.backends.queue.messages import Prepared
from carrot.backends.queue.values import as_received
from carrot.broker import Cancelled, Delivery, Returned
from carrot.confirms import Tracker, Unconfirmed
from carrot.exceptions import (
    ChannelError,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
)

if TYPE_CHECKING:
    from carrot.backends.queue.hub import Hub

__all__ = ["Channel", "Connection"]

logger = logging.getLogger("carrot.backends.queue")


class _Seen(threading.local):
    # The number of the last wake() that a thread has seen.
    wakes = 0


class Connection:
    """A connection to the broker of a :class:`~carrot.backends.queue.Hub`."""

    #: Called with the error when the connection breaks.
    on_lost: Callable[[ConnectionLost], object] | None = None

    def __init__(self, hub: Hub, raw: broker.Connection) -> None:
        self.hub = hub
        #: The broker's side; to be used under the lock of the hub.
        self.raw = raw
        self._fault: Exception | None = None
        self._channels: dict[broker.Channel, Channel] = {}
        # Channels that were sent something, once for each event.
        self._inbox: deque[broker.Channel] = deque()
        # How many of these, at most, are closed and were forgotten.
        self._stale = 0
        # Locks, held, that sleeping threads wait for.
        self._bells: deque[threading.Lock] = deque()
        # The number of the last wake(), and which one each thread saw.
        self._wakes = 0
        self._wake_numbers = count(1)
        self._seen = _Seen()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<memory connection to {self.hub.name!r} {self.raw.vhost.name!r}, {state}>"

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self._fault is None and self.raw.is_open

    connected = is_open

    def check(self) -> None:
        """Do nothing.

        :raises ConnectionLost: the connection broke.
        :raises ConnectionClosed: it was closed.
        """
        if self._fault is not None:
            # A new one each time: they are raised in several threads.
            raise type(self._fault)(*self._fault.args)
        if not self.raw.is_open:
            raise ConnectionLost("the broker closed the connection after an error")

    def channel(self) -> Channel:
        """Open a channel. :raises ConnectionLost: the connection broke."""
        with self.hub:
            self.check()
            raw = self.raw.channel()
            channel = self._channels[raw] = Channel(self, raw)
            if len(self._channels) > 2 * len(self.raw.channels):
                self._forget_closed()
            return channel

    def _forget_closed(self) -> None:
        for closed in [each for each in self._channels if not each.is_open]:
            self._stale += len(self._channels.pop(closed).events)
        if 2 * self._stale > len(self._inbox):
            self._stale = 0
            with suppress(IndexError):  # other threads take from it meanwhile
                for _ in range(len(self._inbox)):
                    raw = self._inbox.popleft()
                    if raw.is_open:
                        self._inbox.append(raw)

    def close(self) -> None:
        """Close; idempotent. Unsettled messages return to their queues."""
        self._end(ConnectionClosed("the connection to the in-memory broker was closed"))

    def lose(self, reason: str) -> None:
        """Break, as when the network does."""
        fault = ConnectionLost(f"lost the connection to memory://{self.hub.name}: {reason}")
        self._end(fault)
        if self.on_lost is not None:
            self.on_lost(fault)

    def _end(self, fault: Exception) -> None:
        with self.hub:
            self._fault = self._fault or fault
            self.raw.close()
            self.hub.forget(self)
            self.hub.changed.notify_all()
        self.wake_sleepers()

    # -- waiting

    def drain_events(self, timeout: float | None = None) -> bool:
        """Wait for a message and run the callback of its consumer.

        Callbacks of other threads' messages run in those threads: each call
        takes one message. Cancelled consumers are told of on the way.

        :param timeout: seconds to wait at most; 0 does not wait.
        :returns: ``False`` when :meth:`wake` was called instead.
        :raises DrainTimeout: no message came.
        :raises ConnectionLost: the connection broke.
        """
        deadline = None if timeout is None else monotonic() + timeout
        inbox, channels = self._inbox, self._channels
        while True:
            if self._wakes != self._seen.wakes:
                self._seen.wakes = self._wakes
                return False
            # Without the lock, since each event is taken by one thread only.
            # What is due meanwhile is done at the next operation, or when
            # there is nothing to take.
            while inbox:
                try:
                    channel = channels[inbox.popleft()]
                    event = channel.events.popleft()
                except (IndexError, KeyError):
                    continue  # another thread, or cancel(), was faster
                if not channel.raw.is_open:
                    continue
                if type(event) is Cancelled:
                    channel.cancelled(event.consumer_tag)
                    continue
                callback = channel.callbacks.get(event.consumer_tag)
                if callback is not None:
                    callback(event)  # type: ignore[arg-type]  # of a Delivery
                    return True
            self._sleep(self._patience(timeout, deadline))

    def _patience(self, timeout: float | None, deadline: float | None) -> float | None:
        """Do what is due; return how long there will be nothing to do."""
        with self.hub as hub_broker:
            self.check()
            due = hub_broker.next_due()
            sleep = None if due is None else max(0.0, due - self.hub.clock())
        if deadline is None:
            return sleep
        left = deadline - monotonic()
        if left <= 0 and not self._inbox:
            raise DrainTimeout(f"no message came within {timeout} seconds")
        return left if sleep is None else min(left, sleep)

    def wake(self) -> None:
        """Have :meth:`drain_events` return ``False``, once in each thread that calls it.

        Takes no lock that another operation holds: any thread may call it, and
        so may a signal handler in the very thread that waits.
        """
        self._wakes = next(self._wake_numbers)
        self.wake_sleepers()

    def wake_sleepers(self) -> None:
        """Have every sleeping thread look anew at what there is."""
        for bell in list(self._bells):
            _ring(bell)

    def forget_sleepers(self) -> None:
        """Forget threads that sleep: a forked child has them not."""
        self._bells.clear()

    def listener(self, raw: broker.Channel, channel: Channel) -> Callable[[broker.Event], None]:
        """Return what the broker is to call with each event of a channel."""
        events, inbox, bells = channel.events, self._inbox, self._bells
        # Weak: a connection that nobody holds is to be collected as garbage,
        # though the broker knows its channels.
        reference = weakref.ref(channel)

        def arrived(event: broker.Event) -> None:
            if type(event) is Delivery or type(event) is Cancelled:
                events.append(event)
                inbox.append(raw)
                if bells:
                    _ring_one(bells)
            else:
                publishing = reference()
                assert publishing is not None and type(event) is Returned
                publishing.returned(event)

        return arrived

    def _sleep(self, seconds: float | None) -> None:
        bell = threading.Lock()
        bell.acquire()
        self._bells.append(bell)
        try:
            # Looked at after the bell was hung up: whoever adds something
            # does that first and rings then, so that nothing is missed.
            if not self._inbox and self._wakes == self._seen.wakes and self.is_open:
                bell.acquire(
                    timeout=-1 if seconds is None else min(max(0.0, seconds), _LONGEST_SLEEP)
                )
        finally:
            with suppress(ValueError):
                self._bells.remove(bell)
            # We may have been woken for what another thread should take.
            if self._inbox:
                _ring_one(self._bells)


_LONGEST_SLEEP = threading.TIMEOUT_MAX


def _ring(bell: threading.Lock) -> None:
    with suppress(RuntimeError):  # rung already
        bell.release()


def _ring_one(bells: deque[threading.Lock]) -> None:
    with suppress(IndexError):  # nobody sleeps
        _ring(bells.popleft())


class Channel:
    """A channel of a connection.

    Has the methods of :class:`carrot.broker.Channel`; any thread may call them.
    """

    def __init__(self, connection: Connection, raw: broker.Channel) -> None:
        self.connection = connection
        self.raw = raw
        #: Deliveries and cancellations that nobody took yet.
        self.events: deque[Delivery | Cancelled] = deque()
        #: What the tags of its deliveries are counted up from, in its backend.
        self.tags_before = 0
        #: What to call with each delivery of a consumer, by consumer tag.
        self.callbacks: dict[str, Callable[[Delivery], Any]] = {}
        #: Called with the tag of a consumer that the broker cancelled.
        self.on_cancel: Callable[[str], Any] | None = None
        #: Called with each returned message that no tracker waits for.
        self.on_return: Callable[[Returned], Any] | None = None
        self._tracker: Tracker | None = None
        self._life = 0
        # The message that was published last, if it came back.
        self._returned: Returned | None = None
        # Confirms and nacks so far, for who waits for one.
        self._answers = 0
        raw.on_event = connection.listener(raw, self)

    def __repr__(self) -> str:
        return (
            f"<memory channel of {self.connection!r}, {'open' if self.is_open else 'closed'}>"
        )

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.connection.hub:
                self.connection.check()
                return method(*args, **kwargs)

        return call

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return self.raw.is_open

    def close(self) -> None:
        """Close; idempotent, and quiet on a connection that is gone."""
        with self.connection.hub:
            self.raw.close()

    # -- sending

    def confirm_select(self, tracker: Tracker) -> None:
        """Have messages confirmed, and count them in *tracker*.

        :raises ConnectionLost: messages of an earlier channel are in flight there.
        """
        with self.connection.hub:
            self.connection.check()
            self._life = tracker.begin()
            self._tracker = tracker

    def publish(
        self,
        message: Prepared,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        headers: Mapping[str, Any] | None,
        patience: Callable[[], float | None],
    ) -> None:
        """Publish a message.

        With confirms, what the broker finds wrong with it is told to the tracker.

        :param patience: asked how many seconds to wait, where the broker
            takes no messages for now.
        :raises ConnectionBlocked: it took none for so long.
        """
        raw, hub = self.raw, self.connection.hub
        properties = message.properties
        if headers:
            known = properties.get("headers") or {}
            properties = {**properties, "headers": {**known, **as_received(headers)}}
        # The clock need not be read while nothing depends on the time.
        timed = hub.broker.needs_time or "expiration" in properties
        with hub if timed else hub.lock:
            if not raw.is_open:
                self.connection.check()
            if hub.blocked is not None:
                self._await_unblocked(patience())
            tracker, entered = self._tracker, None
            if tracker is not None and not tracker.idle:
                entered = self._enter(message, exchange, routing_key, mandatory, headers)
            self._returned = error = None
            accepted = False
            try:
                accepted = raw.basic_publish(
                    message.body, properties, exchange, routing_key, mandatory
                )
            except ChannelError as refused:
                if tracker is None or (entered is not None and not entered[0].number):
                    raise  # a tracker that had it already: it is sent again
                error = refused
            if tracker is None:
                return
            if entered is None:
                # The broker answers in the same moment: so where nothing else
                # is outstanding, there is nothing to enter only to settle it.
                if accepted and self._returned is None and not hub.confirms_to_lose:
                    tracker.pass_by()
                    return
                entered = self._enter(message, exchange, routing_key, mandatory, headers)
            self._settle(*entered, accepted, error)

    def _enter(
        self,
        message: Prepared,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        headers: Mapping[str, Any] | None,
    ) -> tuple[Unconfirmed, int]:
        size = len(message.body)
        entry = Unconfirmed(message, exchange, routing_key, mandatory, headers, size)
        assert self._tracker is not None
        return entry, self._tracker.add(entry, self._life)

    def _settle(
        self, entry: Unconfirmed, number: int, accepted: bool, error: ChannelError | None
    ) -> None:
        hub, tracker, returned = self.connection.hub, self._tracker, self._returned
        assert tracker is not None
        if error is not None:
            tracker.fail(entry, error)
            return
        if returned is not None:
            code, text, exchange, routing_key, _, body = returned
            tracker.bounced(exchange, routing_key, body, code, text, self._life)
        if hub.confirms_to_lose:
            hub.confirms_to_lose -= 1
            return
        (tracker.ack if accepted else tracker.nack)(number, False, self._life)
        self._answers += 1
        if hub.listeners:
            hub.changed.notify_all()

    def _await_unblocked(self, patience: float | None) -> None:
        hub = self.connection.hub
        if not hub.changed.wait_for(
            lambda: hub.blocked is None or not self.connection.is_open, patience
        ):
            raise ConnectionBlocked(f"the broker takes no messages: {hub.blocked}")
        self.connection.check()

    def await_answer(self, seconds: float | None) -> None:
        """Wait until something was confirmed, if anything is outstanding.

        :raises DrainTimeout: nothing was, within that time.
        """
        hub = self.connection.hub
        with hub:
            self.connection.check()
            if self._tracker is None or not self._tracker.outstanding:
                return
            answers = self._answers
            hub.listeners += 1
            try:
                answered = hub.changed.wait_for(
                    lambda: self._answers != answers or not self.connection.is_open, seconds
                )
            finally:
                hub.listeners -= 1
            self.connection.check()
        if not answered:
            raise DrainTimeout(f"the broker confirmed nothing within {seconds} seconds")

    # -- receiving

    def ack(self, delivery_tag: int) -> None:
        """Acknowledge a delivery."""
        hub = self.connection.hub
        with hub if hub.broker.needs_time else hub.lock:
            if not self.raw.is_open:  # lost since it was looked at, by another thread
                self.connection.check()
            self.raw.basic_ack(delivery_tag)

    def consume(
        self,
        queue: str,
        consumer_tag: str,
        no_ack: bool,
        callback: Callable[[Delivery], Any],
        arguments: dict[str, Any],
    ) -> None:
        """Subscribe to a queue; the thread that drains calls *callback*."""
        with self.connection.hub:
            self.connection.check()
            self.raw.basic_consume(queue, consumer_tag, no_ack, arguments=arguments)
            self.callbacks[consumer_tag] = callback

    def cancel(self, consumer_tag: str) -> None:
        """End a subscription; what was not handed out yet returns to the queue."""
        with self.connection.hub:
            self.connection.check()
            self.callbacks.pop(consumer_tag, None)
            self.raw.basic_cancel(consumer_tag)
            kept, back = [], []
            with suppress(IndexError):
                while True:
                    event = self.events.popleft()
                    if type(event) is Delivery and event.consumer_tag == consumer_tag:
                        back.append(event.delivery_tag)
                    else:
                        kept.append(event)
            self.events.extend(kept)
            for delivery_tag in back:
                if delivery_tag in self.raw.unacked:
                    self.raw.basic_reject(delivery_tag, requeue=True)

    def returned(self, event: Returned) -> None:
        """Note that a message came back, while it is being published."""
        self._returned = event
        if self._tracker is None and self.on_return is not None:
            self.on_return(event)

    def cancelled(self, consumer_tag: str) -> None:
        """Tell that the broker cancelled a consumer."""
        self.callbacks.pop(consumer_tag, None)
        if self.on_cancel is not None:
            self.on_cancel(consumer_tag)
