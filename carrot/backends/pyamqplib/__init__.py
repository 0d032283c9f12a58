"""RabbitMQ, through the ``amqp`` package.

That package does the handshake, SASL, and whatever is declared; the hot path
(publish, deliver, settle, confirm) and all waiting is done here: see
:mod:`~carrot.backends.pyamqplib.connection`.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import amqp.channel

from carrot.backends.base import BaseBackend, BaseMessage, QueueAlreadyExistsWarning
from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.connection import Connection
from carrot.backends.pyamqplib.errors import translated
from carrot.backends.pyamqplib.login import login
from carrot.backends.pyamqplib.message import DeliveryTag, Message, Outgoing
from carrot.backends.pyamqplib.rpc import within
from carrot.backends.pyamqplib.tables import encode_properties
from carrot.confirms import Unconfirmed
from carrot.exceptions import (
    ChannelError,
    ConfirmTimeout,
    DrainTimeout,
    NotFound,
    NotSupported,
    ResourceLocked,
)
from carrot.utils import time_left

if TYPE_CHECKING:
    from carrot.confirms import Tracker

__all__ = [
    "DEFAULT_PORT",
    "AMQPChannelException",
    "Backend",
    "Connection",
    "Message",
    "QueueAlreadyExistsWarning",
]

#: Port of AMQP without TLS.
DEFAULT_PORT = 5672

#: The error of a channel; the name is that of carrot 0.10.7.
AMQPChannelException = ChannelError

logger = logging.getLogger("carrot.backends.pyamqplib")

#: Seconds for what a connection sets no ``timeout`` for.
_TIMEOUT = 30.0
#: Combinations of properties that are kept encoded.
_CACHED = 256


class Backend(BaseBackend):
    """A channel of RabbitMQ, opened at its first use, and again after an error.

    It reaches the broker only through ``connection.channel()`` and the
    channel methods of the ``amqp`` package: subclasses may replace
    :meth:`establish_connection`.
    """

    features: ClassVar[frozenset[str]] = frozenset(
        ["properties", "exchange_arguments", "consumer_arguments", "confirms", "stop"]
    )
    default_port: int | None = DEFAULT_PORT
    Connection = Connection
    Message = Message

    #: Settlements that were not sent, since their channel was gone.
    stale_settles: int = 0

    _prepared: ClassVar[dict[Any, tuple[dict[str, Any], bytes]]] = {}

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._channel: Any = None
        self._ours = False
        self._tracker: Tracker | None = None
        self._opening = threading.RLock()
        self._stopping = False
        self._received = 0

    # -- connection

    def establish_connection(self) -> Any:
        """Connect; blocks up to the connection's ``connect_timeout``.

        :raises MissingSetting: host, user or password is missing.
        :raises ConnectFailed: the broker cannot be reached.
        :raises AuthenticationFailed: it refuses user, password or virtual host.
        """
        settings = self.connection
        if getattr(settings, "port", None) is None:
            settings.port = self.default_port
        connection = self.Connection(**login(settings, settings.port))
        connection.connect()
        return connection

    def close_connection(self, connection: Any) -> None:
        """Close the driver's connection; quiet, and a few seconds at most."""
        try:
            connection.close()
        except Exception as exc:
            # Only drivers of others raise here, when the link is gone.
            logger.debug("while closing %r: %r", connection, exc)

    @property
    def channel(self) -> Any:
        """The driver's channel, opened when there is none.

        :raises ChannelError: the broker closed the channel; raised once.
        """
        channel = self._channel
        if channel is not None and getattr(channel, "is_open", True):
            return channel
        with self._opening:
            channel, self._channel = self._channel, None
            if channel is not None:
                if getattr(channel, "is_open", True):
                    self._channel = channel
                    return channel
                error = getattr(channel, "error", None)
                if error is not None:
                    channel.error = None
                    raise error
            self._channel = self._open()
            return self._channel

    def _open(self) -> Any:
        tracker = self._tracker
        life = 0 if tracker is None else tracker.begin()
        channel = self.connection.get_channel()
        self._ours = isinstance(channel, Channel)
        if tracker is not None and hasattr(channel, "confirm_select"):
            channel.confirm_select()
            channel.events["basic_ack"].add(partial(tracker.ack, life=life))
            channel.events["basic_nack"].add(partial(tracker.nack, life=life))
            channel.events["basic_return"].add(partial(_bounced, tracker, life))
            channel.tracker, channel.life = tracker, life
        return channel

    @property
    def channel_closed(self) -> bool:
        """Whether the broker closed the channel; its consumers went with it."""
        channel = self._channel
        return channel is not None and not getattr(channel, "is_open", True)

    def close(self) -> None:
        """Close the channel: quiet, idempotent, and a few seconds at most."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            channel.close()
        except Exception as exc:
            logger.debug("while closing %r: %r", channel, exc)

    def _call(self, name: str, **arguments: Any) -> Any:
        """Call a method of the channel, translating its errors."""
        try:
            return getattr(self.channel, name)(**arguments)
        except Exception as exc:
            raise self._translated(exc) from exc.__cause__

    def _translated(self, exc: Exception) -> Exception:
        return translated(exc, getattr(self.connection, "host", "the broker"))

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
                self.close_connection(channel)
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
        return self.message_to_python(raw_message) if raw_message else None

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
        return self._call(
            "basic_consume",
            queue=queue,
            no_ack=no_ack,
            callback=deliver,
            consumer_tag=consumer_tag,
            nowait=nowait,
            **more,
        )

    def _cancelled(self, consumer_tag: str) -> None:
        if self.on_cancel is None:
            raise NotFound(
                404, f"the broker cancelled consumer {consumer_tag!r}: its queue is gone"
            )
        self.on_cancel(consumer_tag)

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        seen, yielded = self._received, 0
        try:
            while not self._stopping:
                self.connection.drain_events()
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
                raise self._translated(exc) from exc.__cause__
        self.stale_settles += 1
        count = getattr(self.connection, "count", None)
        if count is not None:
            count("stale_settles")
        logger.warning(
            "%s of message %s not sent: the channel that it came by is gone;"
            " the broker delivers it again",
            method,
            delivery_tag,
        )

    def message_to_python(self, raw_message: Any) -> Any:
        if isinstance(raw_message, BaseMessage):
            return raw_message
        return self.Message(self, raw_message)

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

    # -- sending

    def prepare_message(
        self,
        message_data: Any,
        delivery_mode: int,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Outgoing:
        key = (content_type, content_encoding, delivery_mode, priority)
        try:
            template, encoded = self._prepared[key]
        except (KeyError, TypeError):
            template, encoded = self._prepare(key)
        if properties:
            merged = {**template, **properties}
            if "headers" in merged:
                merged["application_headers"] = merged.pop("headers")
            return Outgoing(message_data, merged, None)
        return Outgoing(message_data, template, encoded)

    def _prepare(self, key: tuple[Any, ...]) -> tuple[dict[str, Any], bytes]:
        names = ("content_type", "content_encoding", "delivery_mode", "priority")
        template = dict(zip(names, key, strict=True))
        encoded = encode_properties(template)
        if len(self._prepared) >= _CACHED:
            self._prepared.clear()
        self._prepared[key] = template, encoded
        return template, encoded

    def publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool | None = None,
        immediate: bool | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Send a message.

        With :meth:`confirm_select`, whatever is raised means that the message
        was neither written nor counted.

        :raises NotSupported: *immediate* is set.
        :raises ConfirmTimeout: the window stayed full.
        """
        if immediate:
            raise NotSupported(
                "RabbitMQ has no immediate=True: it would close the connection;"
                " see x-message-ttl=0 and mandatory=True"
            )
        if headers:
            properties = message.properties
            known = properties.get("application_headers") or {}
            properties["application_headers"] = {**known, **headers}
        channel = self._channel
        if channel is None or not getattr(channel, "is_open", True):
            channel = self.channel
        tracker = self._tracker
        try:
            if tracker is None or channel.__class__ is not Channel:
                self._publish_plainly(channel, message, exchange, routing_key, bool(mandatory))
                return
            if tracker.full:
                self._await_window(tracker)
            entry = Unconfirmed(
                message, exchange, routing_key, mandatory, headers, len(message.body)
            )
            channel.basic_publish(message, exchange, routing_key, bool(mandatory), entry=entry)
        except Exception as exc:
            raise self._translated(exc) from exc.__cause__

    def _publish_plainly(
        self, channel: Any, message: Any, exchange: str, routing_key: str, mandatory: bool
    ) -> None:
        tracker = self._tracker
        if tracker is not None and tracker.full:
            self._await_window(tracker)
        channel.basic_publish(
            message, exchange=exchange, routing_key=routing_key, mandatory=mandatory
        )
        counted = getattr(channel, "tracker", None) is tracker
        if tracker is not None and counted:
            entry = Unconfirmed(
                message, exchange, routing_key, mandatory, None, len(message.body)
            )
            # Not before: what another driver refuses must not be counted.
            tracker.add(entry, channel.life)

    # -- confirms

    def confirm_select(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def pump(self, timeout: float | None = None) -> None:
        limit = within(self._timeout if timeout is None else timeout)
        channel = self.channel
        connection = getattr(channel, "connection", None)
        try:
            if self._ours:
                channel.pump(limit)
            elif connection is not None:
                connection.drain_events(timeout=limit)
        except DrainTimeout:
            raise
        except TimeoutError as exc:
            raise DrainTimeout(f"nothing came within {limit:g} seconds") from exc
        except Exception as exc:
            raise self._translated(exc) from exc.__cause__

    def _await_window(self, tracker: Tracker) -> None:
        limit = within(self._timeout)
        deadline = monotonic() + limit
        while tracker.full:
            left = deadline - monotonic()
            try:
                if left <= 0:
                    raise DrainTimeout
                self.pump(left)
            except DrainTimeout as exc:
                raise ConfirmTimeout(
                    f"{tracker.outstanding} messages were not confirmed, so that the window"
                    f" stayed full for {limit:g} seconds; this message was not sent",
                    tracker.unconfirmed(),
                ) from exc

    @property
    def _timeout(self) -> float:
        timeout = getattr(self.connection, "timeout", None)
        return _TIMEOUT if timeout is None else float(timeout)

    # -- ending

    def stop(self) -> None:
        self._stopping = True
        channel = self._channel
        if self._ours and channel is not None:
            channel.wake()


def _bounced(
    tracker: Any, life: int, exc: Any, exchange: str, routing_key: str, message: Any
) -> None:
    tracker.bounced(
        exchange, routing_key, message.body, exc.reply_code, str(exc.reply_text), life=life
    )
