"""The publisher: where messages go, and in what form."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from carrot import names, serialization
from carrot.confirms import Tracker, publish_error
from carrot.exceptions import (
    ConfigurationError,
    ConnectionClosed,
    EncodeError,
    NotSupported,
    PublishError,
)
from carrot.options import checked_connection, checked_count, checked_seconds, set_options

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

_Self = TypeVar("_Self", bound="Publisher")

logger = logging.getLogger("carrot.messaging")


#: The properties that :meth:`Publisher.send` takes by keyword, in its order.
_PROPERTIES = (
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
)
_NONE_GIVEN = (None,) * len(_PROPERTIES)


class Publisher:
    """Sends messages to an exchange.

    Each attribute below is an option: set it in a subclass, or pass it to the
    constructor, where ``None`` means the class's value. Threads may share a
    publisher.

    Messages are confirmed by the broker, by default, while later ones are
    sent already; :meth:`flush`, :meth:`close` and the end of a ``with`` block
    wait for all, and raise with what was not accepted.

    :param connection: a :class:`~carrot.connection.BrokerConnection`.
    :param backend_cls: class or name of the backend, instead of the connection's.
    :raises ConfigurationError: an option has a value that cannot be.
    :raises PreconditionFailed: the exchange exists with other settings.
    """

    NONE_PERSISTENT_DELIVERY_MODE = 1
    PERSISTENT_DELIVERY_MODE = 2
    #: The delivery modes by name.
    DELIVERY_MODES = names.DELIVERY_MODES

    #: Exchange to send to; ``""`` is the default exchange, which routes to
    #: the queue that the routing key names.
    exchange: str = ""
    #: Routing key of messages sent without one; for a headers exchange, a
    #: dictionary of headers.
    routing_key: Any = ""
    #: ``"direct"``, ``"fanout"``, ``"topic"``, ``"headers"``, or a plugin's.
    exchange_type: str = "direct"
    #: Whether the exchange survives a restart of the broker.
    durable: bool = True
    #: Whether the exchange vanishes with its last binding.
    auto_delete: bool = False
    #: Name of the serializer; ``None``: by the type of the data, else JSON.
    serializer: str | None = None
    #: 2 or ``"persistent"``, 1 or ``"transient"``, ``"non-persistent"``.
    delivery_mode: Any = PERSISTENT_DELIVERY_MODE
    #: Declare the exchange, where there is one, in the constructor.
    auto_declare: bool = True
    #: Have the broker confirm each message. ``False`` is fire and forget:
    #: messages are lost when the connection is.
    confirm: bool = True
    #: Messages that may be unconfirmed before :meth:`send` waits.
    confirm_window: int = 1000
    #: Bytes that may be unconfirmed before :meth:`send` waits.
    confirm_window_bytes: int = 16 * 1024 * 1024

    _closed = True
    # The backend, if it knows shortcuts; those of the channel as it is.
    _shortening_backend: Any
    _shortcuts: Mapping[Any, Any]
    _init_opts: tuple[str, ...] = (
        "exchange_type",
        "durable",
        "auto_delete",
        "serializer",
        "delivery_mode",
        "auto_declare",
        "confirm",
        "confirm_window",
        "confirm_window_bytes",
    )

    def __init__(
        self,
        connection: Any,
        exchange: str | None = None,
        routing_key: Any = None,
        *,
        backend_cls: Any = None,
        **options: Any,
    ) -> None:
        self.connection = checked_connection(connection)
        given = dict(options, exchange=exchange, routing_key=routing_key)
        set_options(self, given, (*self._init_opts, "exchange", "routing_key"))
        names.shortstr(self.exchange, "exchange")
        names.shortstr(self.exchange_type, "exchange_type")
        if self.exchange_type != "headers":
            names.shortstr(self.routing_key, "routing_key")
        delivery_mode = names.delivery_mode(self.delivery_mode)
        if delivery_mode != self.delivery_mode:  # that of the class is found faster
            self.delivery_mode = delivery_mode
        of = () if backend_cls is None else (backend_cls,)
        self.backend = connection.create_backend(*of)
        self._tracker = self._confirm_select(explicitly=options.get("confirm") is True)
        shortens = "shortcuts" in getattr(self.backend, "features", ())
        self._shortening_backend = self.backend if shortens else NotImplemented
        self._shortcuts = {}
        self._closed = False
        if self.auto_declare and self.exchange:
            self.declare()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        waiting = f", {self._tracker.outstanding} unconfirmed" if self._tracker else ""
        return (
            f"<{type(self).__name__} to exchange {self.exchange!r}"
            f" on {self.connection!r} {state}{waiting}>"
        )

    def _confirm_select(self, explicitly: bool) -> Tracker | None:
        if not self.confirm:
            return None
        if "confirms" not in getattr(self.backend, "features", ()):
            if explicitly:
                raise NotSupported(
                    f"{self.backend!r} knows no publisher confirms; leave confirm=True out"
                )
            return None
        checked_count(self.confirm_window, "confirm_window", least=1)
        checked_count(self.confirm_window_bytes, "confirm_window_bytes", least=1)
        tracker = Tracker(self.confirm_window, self.confirm_window_bytes)
        self.backend.confirm_select(tracker)
        return tracker

    def declare(self) -> None:
        """Declare the exchange.

        Blocks up to the connection's ``timeout``.

        :raises PreconditionFailed: it exists with other settings.
        """
        self.backend.exchange_declare(
            exchange=self.exchange,
            type=self.exchange_type,
            durable=self.durable,
            auto_delete=self.auto_delete,
        )

    def create_message(
        self,
        message_data: Any,
        delivery_mode: Any = None,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        **properties: Any,
    ) -> Any:
        """Return the message in the form that the backend publishes.

        :param content_type: given, nothing is serialized: ``str`` is encoded
            with *content_encoding* or utf-8, ``bytes`` go as they are.
        :raises EncodeError: the data cannot be serialized; or a content type
            is given and the data is neither ``str`` nor ``bytes``.
        """
        if delivery_mode is None:
            delivery_mode = self.delivery_mode
        if delivery_mode.__class__ is not int or not 1 <= delivery_mode <= 2:
            delivery_mode = names.delivery_mode(delivery_mode)
        if priority is not None and priority != 0:
            names.priority(priority)
        if content_type is None:
            content_type, content_encoding, body = serialization.encode(
                message_data, serializer or self.serializer
            )
        else:
            names.shortstr(content_type, "content_type")
            names.shortstr(content_encoding or "", "content_encoding")
            content_encoding, body = _encoded(message_data, content_type, content_encoding)
        if properties:
            return self.backend.prepare_message(
                body,
                delivery_mode,
                priority=priority,
                content_type=content_type,
                content_encoding=content_encoding,
                properties=self._supported(properties),
            )
        return self.backend.prepare_message(
            body,
            delivery_mode,
            priority=priority,
            content_type=content_type,
            content_encoding=content_encoding,
        )

    def send(
        self,
        message_data: Any,
        routing_key: Any = None,
        delivery_mode: Any = None,
        mandatory: bool = False,
        immediate: bool = False,
        priority: int = 0,
        content_type: str | None = None,
        content_encoding: str | None = None,
        serializer: str | None = None,
        exchange: str | None = None,
        *,
        headers: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        expiration: float | None = None,
        message_id: str | None = None,
        timestamp: datetime | int | None = None,
        type: str | None = None,
        user_id: str | None = None,
        app_id: str | None = None,
    ) -> None:
        """Send a message.

        Returns once it is written. Waits, up to the connection's ``timeout``,
        only while the window of unconfirmed messages is full or the link is.

        :param routing_key: ``None``: :attr:`routing_key`.
        :param mandatory: have the broker return the message if no queue
            gets it; :meth:`flush` then raises :class:`Unroutable`.
        :param immediate: refused (:class:`NotSupported`): RabbitMQ has no such thing.
        :param priority: 0 to 255; queues need ``x-max-priority`` to heed it.
        :param serializer: ``None``: :attr:`serializer`.
        :param exchange: ``None``: :attr:`exchange`.
        :param headers: application headers.
        :param expiration: seconds that the message may wait in a queue.
        :raises EncodeError: the data cannot be serialized; nothing was sent.
        :raises ConnectionLost: the link broke and did not come back in time.
        :raises ConnectionBlocked: the broker takes no messages for now.
        """
        routing_key = self.routing_key if routing_key is None else routing_key
        exchange = self.exchange if exchange is None else exchange
        if (
            self.backend is self._shortening_backend
            and content_type is headers is correlation_id is reply_to is expiration is None  # type: ignore[comparison-overlap]
            and message_id is timestamp is type is user_id is app_id is delivery_mode is None  # type: ignore[comparison-overlap]
            and priority == 0
            and not immediate
            and self.__class__.create_message is _create_message
        ):
            content_type, encoding, body = serialization.encode(
                message_data, serializer or self.serializer
            )
            kind = exchange, routing_key, mandatory, self.delivery_mode, content_type, encoding
            try:
                post = self._shortcuts.get(kind)
            except TypeError:  # unhashable, as a routing key that is a dictionary
                post = None
            if post is None or not post(body):
                self._send_body(body, kind, first=post is None)
            return
        where = self._address(exchange, routing_key, headers)
        form = delivery_mode, priority, content_type, content_encoding, serializer
        given = (
            correlation_id,
            reply_to,
            expiration,
            message_id,
            timestamp,
            type,
            user_id,
            app_id,
        )
        named: Any = {} if given == _NONE_GIVEN else dict(zip(_PROPERTIES, given, strict=True))
        message = self.create_message(message_data, *form, **named)
        self._publish(message, where, mandatory, immediate)

    def _send_body(self, body: bytes, kind: tuple[Any, ...], first: bool) -> None:
        """Send what no shortcut takes.

        :param kind: as of ``shortcuts`` of the backend.
        :param first: there was none; ask for the one that may take the next.
        """
        exchange, routing_key, mandatory, delivery_mode, content_type, encoding = kind
        where = self._address(exchange, routing_key, None)
        message = self.backend.prepare_message(
            body,
            names.delivery_mode(delivery_mode),
            priority=0,
            content_type=content_type,
            content_encoding=encoding,
        )
        self._publish(message, where, mandatory, immediate=False)
        classes = routing_key.__class__, mandatory.__class__, delivery_mode.__class__
        if first and classes == (str, bool, int):
            self._shortcuts = self.backend.shortcuts(kind)

    def _publish(
        self,
        message: Any,
        where: tuple[str, str, Mapping[str, Any] | None],
        mandatory: bool,
        immediate: bool,
    ) -> None:
        if self._closed:
            raise ConnectionClosed(f"{self!r} was closed; make a new Publisher")
        exchange, routing_key, headers = where
        self.backend.publish(
            message,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=bool(mandatory),
            immediate=immediate,
            headers=headers,
        )
        if self._closed:  # by another thread, which may have finished before
            self._finish()

    def _address(
        self, exchange: str, routing_key: Any, headers: Mapping[str, Any] | None
    ) -> tuple[str, str, Mapping[str, Any] | None]:
        """Check where a message goes; return it as the backend wants it."""
        # 63 characters are 252 bytes at most: only longer ones need a count.
        short_key = routing_key.__class__ is str and len(routing_key) <= 63
        if not (exchange.__class__ is str and len(exchange) <= 63):
            names.shortstr(exchange, "exchange")
        if headers is None and short_key:
            return exchange, routing_key, None
        if headers is not None and not isinstance(headers, Mapping):
            raise ConfigurationError(
                f"headers must be a dictionary of names and values, not {headers!r:.60}"
            )
        if self.exchange_type == "headers" and isinstance(routing_key, Mapping):
            headers = {**routing_key, **(headers or {})}
            routing_key = ""
        elif not short_key:
            names.shortstr(routing_key, "routing_key")
        return exchange, routing_key, headers

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the broker has confirmed every message sent so far.

        :param timeout: seconds to wait at most; ``None``: the connection's ``timeout``.
        :raises PublishError: messages were not accepted; ``.messages`` has
            them, and only them. A subclass says why: :class:`Unroutable`,
            :class:`PublishNacked`, :class:`PublishRefused`,
            :class:`ConfirmTimeout`.
        """
        checked_seconds(timeout, "timeout")
        if self._tracker is None:
            return
        if self._tracker.outstanding:
            self.backend.flush(timeout)
        failures = self._tracker.take_failures()
        if failures:
            raise publish_error(failures)

    def close(self) -> None:
        """Wait as :meth:`flush` does, then close the channel. Idempotent.

        :raises PublishError: messages were not accepted; the channel is
            closed all the same.
        """
        if self._closed:
            return
        # First: what other threads send from here on is not waited for.
        self._closed, self._shortening_backend = True, NotImplemented
        self._finish()

    def _finish(self) -> None:
        """Wait, close the channel, and tell of all that was not accepted."""
        error: PublishError | None = None
        try:
            self.flush()
        except PublishError as exc:
            error = exc
        finally:
            self.backend.close()
        if self._tracker is not None:
            # Of threads that were sending meanwhile.
            self._tracker.fail_all(ConnectionClosed(f"{self!r} was closed"))
            late = self._tracker.take_failures()
            if late:
                error = publish_error([*(error.messages if error else ()), *late])
        if error is not None:
            raise error

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except PublishError as failure:
            if exc is None:
                raise
            # The application's own error must not be replaced by ours.
            logger.error("while leaving the block of %r: %s", self, failure)

    def _supported(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {name: value for name, value in properties.items() if value is not None}
        if "properties" not in getattr(self.backend, "features", ()):
            raise NotSupported(
                f"{self.backend!r} cannot send message properties such as"
                f" {', '.join(sorted(wanted))}"
            )
        return names.properties(wanted)


#: To tell whether a subclass, or somebody who patched the class, has another one.
_create_message = Publisher.create_message


def _encoded(
    message_data: Any, content_type: str, content_encoding: str | None
) -> tuple[str, bytes]:
    if isinstance(message_data, str):
        encoding = content_encoding or "utf-8"
        try:
            return encoding, message_data.encode(encoding)
        except (LookupError, ValueError) as exc:
            raise EncodeError(
                f"cannot encode the text as {encoding!r}: {exc}; choose another"
                " content_encoding, or send bytes"
            ) from exc
    if isinstance(message_data, (bytes, bytearray, memoryview)):
        return content_encoding or "binary", bytes(message_data)
    raise EncodeError(
        f"cannot send {message_data.__class__.__name__} as {content_type}: with"
        " content_type given nothing is serialized, so pass str or bytes, or leave it out"
    )
