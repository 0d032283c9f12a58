"""The in-memory broker behind the seam: RabbitMQ's behaviour without a server.

Connections of a process to the same host share one broker, each virtual host
apart. What they declare and publish outlives them, until :func:`reset`.
Threads may share connections and backends; a forked child has brokers of its
own, copies of what its parent had.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from carrot.backends.base import BaseBackend, BaseMessage, QueueAlreadyExistsWarning
from carrot.backends.queue.driver import Channel, Connection
from carrot.backends.queue.hub import Hub, hub, reset
from carrot.backends.queue.messages import Message, Prepared
from carrot.backends.queue.values import as_received
from carrot.broker import Delivery, Returned
from carrot.confirms import Tracker
from carrot.exceptions import ChannelError, ConnectionClosed, NotSupported
from carrot.utils import time_left

__all__ = ["Backend", "Channel", "Connection", "Hub", "Message", "Prepared", "hub", "reset"]

logger = logging.getLogger("carrot.backends.queue")

_DEFAULT_TIMEOUT = 30.0
_ROOMY = 4096
_join = b"".join
#: The properties that :meth:`Backend.prepare_message` is told of by argument.
_PREPARED = ("delivery_mode", "priority", "content_type", "content_encoding")


class Backend(BaseBackend):
    """A channel to an in-memory broker.

    The ``hostname`` of the connection tells brokers apart, ``None`` meaning
    ``"localhost"``; user and password are not asked for.
    """

    features: ClassVar[frozenset[str]] = frozenset(
        ["properties", "exchange_arguments", "consumer_arguments", "confirms", "stop"]
    )

    Message: type[Message] = Message

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._channel: Channel | None = None
        self._opening = threading.Lock()
        self._tracker: Tracker | None = None
        self._stopping = False
        # The properties prepared last, after what they were made of.
        self._shared: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    # -- connection

    def establish_connection(self) -> Connection:
        """Connect to the broker of this process for the connection's host."""
        connection = self.connection
        return hub(connection.hostname).connect(
            connection.virtual_host or "/", connection.userid or "guest"
        )

    def close_connection(self, connection: Connection) -> None:
        """Close what :meth:`establish_connection` returned."""
        connection.close()

    @property
    def channel_closed(self) -> bool:
        """Whether the broker closed the channel; its consumers went with it."""
        channel = self._channel
        return channel is not None and not channel.is_open

    def close(self) -> None:
        """Close the channel. What it has not settled returns to the queues."""
        if self._channel is not None:
            self._channel.close()

    @property
    def channel(self) -> Channel:
        """The open channel: a new one after an error closed the one before."""
        channel = self._channel
        if channel is not None and channel.is_open:
            return channel
        with self._opening:
            channel = self._channel
            if channel is None or not channel.is_open:
                channel = self._open(channel)
            return channel

    def _open(self, former: Channel | None) -> Channel:
        if former is not None and not self.reopens:
            raise ChannelError(504, "the channel was closed, and is replaced")
        driver = self.connection.connection
        if driver is None:
            raise ConnectionClosed(
                f"{self.connection!r} is closed; call its connect() to use it again"
            )
        channel: Channel = driver.channel()
        channel.on_cancel = self._cancelled
        channel.on_return = self._returned
        if self._tracker is not None:
            channel.confirm_select(self._tracker)
        if former is not None:
            channel.tags_before = former.tags_before + former.raw.last_delivery_tag
        self._channel = channel
        return channel

    def _patience(self) -> float | None:
        return time_left(getattr(self.connection, "timeout", _DEFAULT_TIMEOUT))

    # -- topology

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
        warn_if_exists: bool = False,
    ) -> tuple[str, int, int]:
        """Declare a queue. Returns its name, its messages, its consumers."""
        if warn_if_exists and self.queue_exists(queue):
            warnings.warn(
                f"the queue {queue!r} exists already: it keeps the properties"
                " and the bindings that it has",
                QueueAlreadyExistsWarning,
                stacklevel=2,
            )
        declared: tuple[str, int, int] = self.channel.queue_declare(
            queue=queue,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=as_received(arguments),
        )
        return declared

    def queue_exists(self, queue: str) -> bool:
        """Return whether the queue exists."""
        channel = self.channel
        with channel.connection.hub:
            channel.connection.check()
            return queue in channel.connection.raw.vhost.queues

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue. Returns the number of messages deleted with it."""
        count: int = self.channel.queue_delete(queue, if_unused=if_unused, if_empty=if_empty)
        return count

    def queue_purge(self, queue: str) -> int:
        """Remove what is ready on a queue. Returns how many that were."""
        count: int = self.channel.queue_purge(queue)
        return count

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Declare an exchange."""
        self.channel.exchange_declare(
            exchange=exchange,
            type=type,
            durable=durable,
            auto_delete=auto_delete,
            arguments=as_received(arguments),
        )

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind a queue to an exchange."""
        self.channel.queue_bind(queue, exchange, routing_key, as_received(arguments))

    # -- receiving

    def get(self, queue: str, no_ack: bool = False) -> BaseMessage | None:
        """Return the next message of a queue, or ``None``."""
        channel = self.channel
        delivery = channel.basic_get(queue, no_ack=no_ack)
        if delivery is None:
            return None
        return self._message(delivery, channel.tags_before + delivery.delivery_tag)

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Subscribe to a queue. Returns the consumer tag."""
        channel = self.channel
        tags_before = channel.tags_before

        message_of = self.Message.of

        def deliver(delivery: Delivery) -> None:
            if delivery.redelivered:
                self._count("redelivered")
            callback(message_of(self, delivery, tags_before + delivery.delivery_tag))

        channel.consume(queue, consumer_tag, no_ack, deliver, as_received(arguments))
        return consumer_tag

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        """Deliver messages; yield ``True`` after each, until *limit* or :meth:`stop`."""
        count = 0
        while not self._stopping:
            if self.connection.drain_events():
                count += 1
                yield True
                if count == limit:
                    return
        self._stopping = False

    def stop(self) -> None:
        """End :meth:`consume` after the message that is being processed."""
        self._stopping = True
        channel = self._channel
        if channel is not None:
            channel.connection.wake()

    def cancel(self, consumer_tag: str) -> None:
        """End a subscription; messages not handed out yet return to the queue."""
        self.channel.cancel(consumer_tag)

    def ack(self, delivery_tag: Any) -> None:
        """Acknowledge a delivery."""
        channel = self._bearer(delivery_tag)
        if channel is not None:
            channel.ack(delivery_tag - channel.tags_before)

    def reject(self, delivery_tag: Any) -> None:
        """Discard or dead-letter a delivery."""
        channel = self._bearer(delivery_tag)
        if channel is not None:
            channel.basic_reject(delivery_tag - channel.tags_before, requeue=False)

    def requeue(self, delivery_tag: Any) -> None:
        """Give a delivery back to its queue."""
        channel = self._bearer(delivery_tag)
        if channel is not None:
            channel.basic_reject(delivery_tag - channel.tags_before, requeue=True)

    def _bearer(self, delivery_tag: Any) -> Channel | None:
        # The channel that delivered it, if that still is the one.
        if delivery_tag.__class__ is not int:
            return None  # of a message made by hand
        channel = self._channel
        if channel is not None and channel.raw.is_open and delivery_tag > channel.tags_before:
            return channel
        self._count("stale_settles")
        logger.warning(
            "message %s cannot be settled any more: the channel that delivered it is closed,"
            " and the broker has given the message back to its queue",
            delivery_tag,
        )
        return None

    def message_to_python(self, raw_message: Any) -> Any:
        """Return the message itself; or one for what :meth:`prepare_message` returned."""
        if raw_message.__class__ is not Prepared:
            return raw_message
        by_hand = Delivery("", 0, False, "", "", raw_message.properties, raw_message.body)
        return self._message(by_hand, getattr(raw_message, "delivery_tag", None))

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> None:
        """Bound what the broker sends before it is settled.

        :raises NotSupported: *prefetch_size* is not 0.
        """
        if prefetch_size:
            raise NotSupported(
                "prefetch_size must be 0: RabbitMQ does not bound bytes; use prefetch_count"
            )
        self.channel.basic_qos(prefetch_count, apply_global)

    def flow(self, active: bool) -> None:
        """Do nothing: deliveries are on.

        :raises NotSupported: *active* is false; RabbitMQ has no such thing.
        """
        if not active:
            raise NotSupported(
                "deliveries cannot be paused: RabbitMQ refuses channel.flow;"
                " bound them with qos(prefetch_count=...), or cancel the consumer"
            )

    def _message(self, delivery: Delivery, delivery_tag: Any) -> BaseMessage:
        if delivery.redelivered:
            self._count("redelivered")
        return self.Message.of(self, delivery, delivery_tag)

    def _cancelled(self, consumer_tag: str) -> None:
        if self.on_cancel is not None:
            self.on_cancel(consumer_tag)

    def _returned(self, message: Returned) -> None:
        self._count("returned")
        logger.warning(
            "a message to exchange %r with routing key %r was returned: %s (%s)",
            message.exchange,
            message.routing_key,
            message.reply_text,
            message.reply_code,
        )

    def _count(self, counter: str) -> None:
        count = getattr(self.connection, "count", None)
        if count is not None:
            count(counter)

    # -- sending

    def prepare_message(
        self,
        message_data: Any,
        delivery_mode: int,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Return a message that :meth:`publish` takes.

        :param properties: further ones, under their AMQP names.
        """
        if isinstance(message_data, str):
            message_data = message_data.encode()
        elif len(message_data) < _ROOMY or message_data.__class__ is not bytes:
            # Joined with nothing, which makes a copy: orjson leaves short bytes
            # in a buffer of 4 KiB, and a message in a queue would hold it all.
            message_data = _join((message_data, b""))
        given = (delivery_mode, priority, content_type, content_encoding)
        known, shared = self._shared
        if given != known:
            named = zip(_PREPARED, given, strict=True)
            shared = {name: value for name, value in named if value is not None}
            self._shared = (given, shared)
        if properties:
            shared = {**shared, **properties}
            if "headers" in shared:
                shared["headers"] = as_received(shared["headers"])
        return Prepared(message_data, shared)

    def publish(
        self,
        message: Prepared,
        exchange: str,
        routing_key: str,
        mandatory: bool | None = None,
        immediate: bool | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Send a message to an exchange.

        :raises NotSupported: *immediate* is true; RabbitMQ has no such thing.
        :raises ConnectionBlocked: the broker takes no messages.
        """
        if immediate:
            raise NotSupported(
                "immediate=True is not supported: RabbitMQ has no such thing"
                " since version 3.0; leave it out, or use expiration=0"
            )
        tracker = self._tracker
        if tracker is not None:
            while tracker.full:
                self.pump()
        channel = self._channel
        if channel is None or not channel.raw.is_open:
            channel = self.channel
        channel.publish(
            message,
            exchange or "",
            routing_key or "",
            bool(mandatory),
            headers,
            self._patience,
        )

    def confirm_select(self, tracker: Tracker) -> None:
        """Have the broker confirm each message; count them in *tracker*."""
        self._tracker = tracker
        channel = self._channel
        if channel is not None and channel.is_open:
            channel.confirm_select(tracker)

    def pump(self, timeout: float | None = None) -> None:
        """Wait until something was confirmed, if anything is outstanding.

        :param timeout: seconds to wait at most; ``None``: the connection's.
        :raises DrainTimeout: nothing was.
        """
        self.channel.await_answer(self._patience() if timeout is None else time_left(timeout))
