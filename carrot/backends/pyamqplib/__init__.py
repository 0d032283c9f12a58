"""RabbitMQ, through the ``amqp`` package.

That package does the handshake, SASL, and whatever is declared; the hot path
(publish, deliver, settle, confirm) and all waiting is done here: see
:mod:`~carrot.backends.pyamqplib.connection`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import amqp.channel

from carrot.backends.base import BaseMessage, QueueAlreadyExistsWarning
from carrot.backends.pyamqplib.channelled import DEFAULT_PORT, close_quietly
from carrot.backends.pyamqplib.connection import Connection
from carrot.backends.pyamqplib.delivery import Delivery
from carrot.backends.pyamqplib.message import DeliveryTag, Message
from carrot.backends.pyamqplib.sending import SendingBackend
from carrot.exceptions import (
    ChannelError,
    ConnectionLost,
    NotFound,
    NotSupported,
    ResourceLocked,
)

__all__ = [
    "DEFAULT_PORT",
    "AMQPChannelException",
    "Backend",
    "Connection",
    "Message",
    "QueueAlreadyExistsWarning",
]

#: The error of a channel; the name is that of carrot 0.10.7.
AMQPChannelException = ChannelError

logger = logging.getLogger("carrot.backends.pyamqplib")

_new = object.__new__


class Backend(SendingBackend):
    """A channel of RabbitMQ, opened at its first use, and again after an error.

    It reaches the broker only through ``connection.channel()`` and the
    channel methods of the ``amqp`` package: subclasses may have
    :meth:`establish_connection` return another connection of that shape.
    Those are taken to know neither confirms, nor how to be stopped, nor what
    bore a message, unless they set :attr:`features`.
    """

    features: ClassVar[frozenset[str]] = frozenset(
        [
            "properties",
            "exchange_arguments",
            "consumer_arguments",
            "confirms",
            "shortcuts",
            "stop",
            "bearers",
        ]
    )
    Message = Message

    #: Whether messages may acknowledge themselves, by the channel that bore
    #: them, since :meth:`ack` does nothing else.
    acks_directly: ClassVar[bool] = True

    #: Settlements that were not sent, since their channel was gone.
    stale_settles: int = 0

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._stopping = False
        # Messages that our consumers' callbacks have processed.
        self._received = 0
        # Those of them that the next `consume` has to count.
        self._early = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "establish_connection" in cls.__dict__ and "features" not in cls.__dict__:
            cls.features = cls.features - {"confirms", "shortcuts", "stop", "bearers"}
        cls.acks_directly = cls.ack is Backend.ack and "bearers" in cls.features

    # -- topology

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
        warn_if_exists: bool = False,
    ) -> Any:
        if warn_if_exists and queue and self.queue_exists(queue):
            warnings.warn(
                QueueAlreadyExistsWarning(
                    f"queue {queue!r} exists already; its settings must be the same"
                ),
                stacklevel=2,
            )
        return self._call(
            "queue_declare",
            queue=queue,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    def queue_exists(self, queue: str) -> bool:
        """Return whether the queue exists, whoever may use it."""
        # A refused channel is closed: take one that nobody needs.
        channel = None
        try:
            channel = self.connection.get_channel()
            channel.queue_declare(queue=queue, passive=True)
        except Exception as exc:
            error = self._translated(exc)
            if isinstance(error, (NotFound, ResourceLocked)):
                return isinstance(error, ResourceLocked)
            raise error from exc.__cause__
        finally:
            if channel is not None:
                close_quietly(channel)
        return True

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Any:
        return self._call("queue_delete", queue=queue, if_unused=if_unused, if_empty=if_empty)

    def queue_purge(self, queue: str) -> Any:
        return self._call("queue_purge", queue=queue)

    def exchange_declare(
        self,
        exchange: str,
        type: str,
        durable: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        more = {"arguments": arguments} if arguments else {}
        return self._call(
            "exchange_declare",
            exchange=exchange,
            type=type,
            durable=durable,
            auto_delete=auto_delete,
            **more,
        )

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._call(
            "queue_bind",
            queue=queue,
            exchange=exchange,
            routing_key=routing_key,
            arguments=arguments,
        )

    # -- receiving

    def get(self, queue: str, no_ack: bool = False) -> Any:
        raw_message = self._call("basic_get", queue=queue, no_ack=no_ack)
        return None if raw_message is None else self.message_to_python(raw_message)

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        nowait: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        def deliver(raw_message: Any) -> None:
            callback(raw_message)
            self._received += 1

        channel = self.channel
        more: dict[str, Any] = {"arguments": arguments} if arguments else {}
        if isinstance(channel, amqp.channel.Channel):  # amqplib's cannot say it
            more["on_cancel"] = self._cancelled
        before = self._received
        answer = self._call(
            "basic_consume",
            queue=queue,
            no_ack=no_ack,
            callback=deliver,
            consumer_tag=consumer_tag,
            nowait=nowait,
            **more,
        )
        if not self._ours:
            # Other drivers run callbacks while they wait for an answer.
            self._early += self._received - before
        return answer

    def _cancelled(self, consumer_tag: str) -> None:
        if self.on_cancel is None:
            raise NotFound(
                404, f"the broker cancelled consumer {consumer_tag!r}: its queue is gone"
            )
        self.on_cancel(consumer_tag)

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        seen, yielded = self._received - self._early, 0
        self._early = 0
        drain_events = self.connection.drain_events
        try:
            while not self._stopping:
                if seen == self._received:
                    drain_events()
                # Others' messages may have come, or several of ours.
                while seen < self._received:
                    seen += 1
                    yielded += 1
                    if limit and yielded >= limit:
                        self._flush()
                        yield True
                        return
                    yield True
            self._stopping = False
        finally:
            self._flush()

    def _flush(self) -> None:
        if self._ours and self._channel is not None:
            self._channel.flush()

    def cancel(self, consumer_tag: str) -> Any:
        channel = self._channel
        if channel is None or not getattr(channel, "is_open", True):
            return None  # its consumers went with it
        return self._call("basic_cancel", consumer_tag=consumer_tag)

    def ack(self, delivery_tag: Any) -> None:
        self._settle("basic_ack", delivery_tag)

    def reject(self, delivery_tag: Any) -> None:
        self._settle("basic_reject", delivery_tag, requeue=False)

    def requeue(self, delivery_tag: Any) -> None:
        self._settle("basic_reject", delivery_tag, requeue=True)

    def _settle(self, method: str, delivery_tag: Any, **arguments: Any) -> None:
        """Settle on the channel that bore the message, if it is still there."""
        if delivery_tag.__class__ is DeliveryTag:
            channel = delivery_tag.channel
        elif isinstance(delivery_tag, int):
            channel = self._channel
        else:
            return  # of a message made by hand
        if channel is not None and getattr(channel, "is_open", True):
            try:
                if getattr(channel, method)(delivery_tag, **arguments) is not False:
                    return
            except Exception as exc:
                error = self._translated(exc)
                if not isinstance(error, ConnectionLost):
                    raise error from exc.__cause__
        self.stale_settles += 1
        self._count("stale_settles")
        logger.warning(
            "%s of message %s not sent: the channel that it came by is gone;"
            " the broker delivers it again",
            method,
            delivery_tag,
        )

    def message_to_python(self, raw_message: Any) -> Any:
        if raw_message.__class__ is Delivery:
            kind = raw_message.kind
            if kind.redelivered:
                self._count("redelivered")
            if self.Message is Message:
                # Message(self, raw_message), written out: this is done for each.
                message = _new(Message)
                message._state = "RECEIVED"
                message._decoded = False
                message._tag = None
                message.backend = self
                message.amqp_message = raw_message
                message.body = raw_message.body
                message.content_type = kind.encoded.content_type
                message.content_encoding = kind.encoded.content_encoding
                return message
        elif isinstance(raw_message, BaseMessage):
            return raw_message
        else:
            info = getattr(raw_message, "delivery_info", None) or {}
            if info.get("redelivered"):
                self._count("redelivered")
        return self.Message(self, raw_message)

    def _count(self, counter: str) -> None:
        count = getattr(self.connection, "count", None)
        if count is not None:
            count(counter)

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> Any:
        """Bound what the broker sends before it is settled.

        :raises NotSupported: *prefetch_size* is not 0.
        """
        if prefetch_size:
            raise NotSupported(
                "RabbitMQ has no prefetch_size: it would close the connection;"
                " bound the number of messages, by prefetch_count"
            )
        return self._call(
            "basic_qos",
            prefetch_size=0,
            prefetch_count=prefetch_count,
            a_global=apply_global,
        )

    def flow(self, active: bool) -> Any:
        """Resume deliveries.

        :raises NotSupported: *active* is false, and the broker is RabbitMQ.
        """
        channel = self.channel
        if not active and self._ours:
            raise NotSupported(
                "RabbitMQ cannot pause deliveries: it would close the connection;"
                " cancel the consumer, or bound it by qos(prefetch_count=...)"
            )
        try:
            return channel.flow(active)
        except Exception as exc:
            raise self._translated(exc) from exc.__cause__

    # -- ending

    def stop(self) -> None:
        self._stopping = True
        channel = self._channel
        if self._ours and channel is not None:
            channel.wake()
