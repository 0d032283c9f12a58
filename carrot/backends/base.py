"""The seam between messaging and a broker: what a backend promises.

A backend is one channel to a broker. Publishers and consumers each hold one;
they call the methods below and nothing else. Method and keyword names are
those of carrot 0.10.7 and frozen: backends written for it keep working. What
came later is optional, announced in :attr:`BaseBackend.features`, and never
asked of a backend that does not announce it.

A method that a backend leaves out is a harmless no-op, except for
:meth:`~BaseBackend.publish` and :meth:`~BaseBackend.get`: doing nothing there
would lose messages, so these raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from carrot import serialization
from carrot.exceptions import MessageStateError, NotSupported

if TYPE_CHECKING:
    from carrot.confirms import Tracker

__all__ = [
    "ACKNOWLEDGED_STATES",
    "BaseBackend",
    "BaseMessage",
    "MessageStateError",
    "QueueAlreadyExistsWarning",
]

#: States of a message that is settled; it can not be settled again.
ACKNOWLEDGED_STATES = frozenset(["ACK", "REJECTED", "REQUEUED"])


class QueueAlreadyExistsWarning(UserWarning):
    """A queue that was to be declared exists already (``warn_if_exists``)."""


class BaseMessage:
    """A message that was received.

    Any thread may settle it, also one that did not receive it. Further
    attributes may be set freely.
    """

    MessageStateError = MessageStateError

    #: What settles the message: the backend that received it.
    backend: Any
    #: The body as it came over the wire.
    body: Any
    #: Number that the channel gave the delivery; ``None`` for one made by hand.
    delivery_tag: Any
    content_type: str | None
    content_encoding: str | None
    #: ``exchange``, ``routing_key``, ``redelivered``, and ``consumer_tag``
    #: (consumed) or ``message_count`` (fetched: messages left on the queue).
    delivery_info: dict[str, Any]
    #: Application headers.
    headers: dict[str, Any]
    #: All properties of the message under their AMQP names.
    properties: dict[str, Any]

    #: Content types that :meth:`decode` may decode; ``None`` means those that
    #: the process accepts (:func:`carrot.serialization.accept`).
    accept: frozenset[str] | None = None

    _state: str
    _payload: Any
    _decoded: bool

    def __init__(
        self,
        backend: Any,
        *,
        body: Any = None,
        delivery_tag: Any = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivery_info: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._state = "RECEIVED"
        self._decoded = False
        self.backend = backend
        self.body = body
        self.delivery_tag = delivery_tag
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.delivery_info = {} if delivery_info is None else delivery_info
        self.headers = {} if headers is None else headers
        self.properties = {} if properties is None else properties

    def __repr__(self) -> str:
        body = self.body if isinstance(self.body, (bytes, str)) else b""
        return (
            f"<{type(self).__name__} {self.delivery_tag!r} {self._state}"
            f" {self.content_type} {len(body)} bytes>"
        )

    def decode(self) -> Any:
        """Return the body, decoded by its content type and encoding.

        Decodes anew at each call; :attr:`payload` does it once.

        :raises DecodeError: the body is not what the content type says.
        :raises ContentDisallowed: the content type is not accepted.
        """
        return serialization.decode_accepted(
            self.body, self.content_type, self.content_encoding, self.accept
        )

    @property
    def payload(self) -> Any:
        """The decoded body. Decoded at the first access, then kept."""
        if not self._decoded:
            self._payload = self.decode()
            self._decoded = True
        return self._payload

    @property
    def acknowledged(self) -> bool:
        """Whether the message is settled: acknowledged, rejected or requeued."""
        return self._state in ACKNOWLEDGED_STATES

    def ack(self) -> None:
        """Acknowledge: the message was processed, the broker may forget it.

        :raises MessageStateError: the message is settled already.
        """
        if self._state in ACKNOWLEDGED_STATES:
            self._settled_twice("acknowledge")
        self.backend.ack(self.delivery_tag)
        self._state = "ACK"

    def reject(self) -> None:
        """Discard, or dead-letter where the queue says so.

        :raises MessageStateError: the message is settled already.
        """
        if self._state in ACKNOWLEDGED_STATES:
            self._settled_twice("reject")
        self.backend.reject(self.delivery_tag)
        self._state = "REJECTED"

    def requeue(self) -> None:
        """Give the message back to its queue, to be delivered again.

        :raises MessageStateError: the message is settled already.
        """
        if self._state in ACKNOWLEDGED_STATES:
            self._settled_twice("requeue")
        self.backend.requeue(self.delivery_tag)
        self._state = "REQUEUED"

    def _settled_twice(self, verb: str) -> None:
        raise MessageStateError(
            f"cannot {verb} message {self.delivery_tag!r}: its state is {self._state};"
            " a message is settled once, by ack(), reject() or requeue()"
            " (is the consumer's auto_ack on as well?)"
        )


class BaseBackend:
    """One channel to a broker.

    Subclass it and implement what the broker can do. The keyword names are
    the interface; their order is not, since callers pass keywords.
    """

    #: What the backend can do beyond carrot 0.10.7. Known features:
    #:
    #: ``"properties"``
    #:     :meth:`prepare_message` takes ``properties``.
    #: ``"exchange_arguments"``
    #:     :meth:`exchange_declare` takes ``arguments``.
    #: ``"consumer_arguments"``
    #:     :meth:`declare_consumer` takes ``arguments`` (``x-priority``).
    #: ``"confirms"``
    #:     :meth:`confirm_select`, :meth:`pump` and mandatory returns work.
    #: ``"shortcuts"``
    #:     :meth:`shortcuts` knows a short way to send messages like earlier ones.
    #: ``"stop"``
    #:     :meth:`stop` ends a blocked :meth:`consume`.
    #: ``"bearers"``
    #:     Messages know the channel that bore them: :meth:`ack`,
    #:     :meth:`reject` and :meth:`requeue` send nothing when it is gone,
    #:     log a warning, and count ``stale_settles`` on the connection.
    features: ClassVar[frozenset[str]] = frozenset()

    #: Port to connect to where the connection names none.
    default_port: int | None = None

    #: Class of the messages that :meth:`message_to_python` returns.
    Message: type[Any] = BaseMessage

    #: Options that only this backend knows, from the constructor.
    extra_options: Any = None

    #: Called with the consumer tag, by the thread that drains, after the
    #: broker cancelled a consumer (its queue was deleted).
    on_cancel: Callable[[str], Any] | None = None

    #: Whether it opens another channel when it is used after the broker closed
    #: its own. If not, that is a :class:`~carrot.exceptions.ChannelError`.
    #: Recovery sets it to false with :meth:`confirm_select`: what another
    #: channel counts is another backend's.
    reopens: bool = True

    #: Errors of the driver that mean the connection is lost, beside
    #: :class:`carrot.exceptions.BrokerConnectionError`.
    connection_errors: tuple[type[BaseException], ...] = ()
    #: Errors of the driver that mean the channel is closed, beside
    #: :class:`carrot.exceptions.ChannelError`.
    channel_errors: tuple[type[BaseException], ...] = ()

    #: The :class:`~carrot.connection.BrokerConnection` this channel belongs to.
    connection: Any

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.connection = connection
        self.extra_options = kwargs.get("extra_options")

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} on {self.connection!r}>"

    # -- connection

    def establish_connection(self) -> Any:
        """Connect to the broker and return the driver's connection.

        Reads ``hostname``, ``host``, ``userid``, ``password``,
        ``virtual_host``, ``port``, ``insist``, ``ssl`` and
        ``connect_timeout`` of :attr:`connection`; may write its ``port``.
        What it returns has ``close()``, ``channel()`` and
        ``drain_events(timeout=None)``.

        :raises BrokerConnectionError: the broker cannot be reached.
        """

    def close_connection(self, connection: Any) -> None:
        """Close what :meth:`establish_connection` returned."""

    def close(self) -> None:
        """Close the channel. Quiet when it is closed or its connection lost."""

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
        """Declare a queue.

        :returns: the name of the queue and its counts of messages and
            consumers, where the broker tells (``""`` lets it choose the name).
        """

    def queue_exists(self, queue: str) -> Any:
        """Return whether the queue exists."""

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Any:
        """Delete a queue. Returns the number of messages deleted with it."""

    def queue_purge(self, queue: str) -> Any:
        """Remove what is ready on a queue. Returns how many that were."""

    def exchange_declare(
        self, exchange: str, type: str, durable: bool, auto_delete: bool
    ) -> Any:
        """Declare an exchange."""

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Bind a queue to an exchange."""

    # -- receiving

    def get(self, queue: str, no_ack: bool = False) -> Any:
        """Return the next message of a queue, or ``None``.

        :raises NotSupported: the backend does not implement it.
        """
        raise NotSupported(
            f"{type(self).__module__}.{type(self).__qualname__} cannot fetch:"
            " its class does not implement get()"
        )

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        nowait: bool = False,
    ) -> Any:
        """Subscribe to a queue.

        *callback* is called with each raw message, by the thread that drains.
        """

    def consume(self, limit: int | None = None) -> Iterator[Any]:
        """Deliver messages to the consumers' callbacks.

        Yields ``True`` after each message; blocks while there is none; ends
        after *limit* messages (``None`` or 0: never).
        """
        return iter(())

    def cancel(self, consumer_tag: str) -> Any:
        """End a subscription."""

    def ack(self, delivery_tag: Any) -> Any:
        """Acknowledge a delivery."""

    def reject(self, delivery_tag: Any) -> Any:
        """Discard or dead-letter a delivery."""

    def requeue(self, delivery_tag: Any) -> Any:
        """Give a delivery back to its queue."""

    def message_to_python(self, raw_message: Any) -> Any:
        """Return the driver's message as a :class:`BaseMessage`."""
        return raw_message

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> Any:
        """Bound what the broker sends before it is settled.

        :param prefetch_size: bytes; 0 is no bound.
        :param prefetch_count: messages; 0 is no bound.
        """

    def flow(self, active: bool) -> Any:
        """Ask the broker to pause (``False``) or resume deliveries."""

    # -- sending

    def prepare_message(
        self,
        message_data: Any,
        delivery_mode: int,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
    ) -> Any:
        """Return the encoded payload in the form that :meth:`publish` takes."""
        return message_data

    def publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool | None = None,
        immediate: bool | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a message to an exchange.

        :raises NotSupported: the backend does not implement it.
        """
        raise NotSupported(
            f"{type(self).__module__}.{type(self).__qualname__} cannot publish:"
            " its class does not implement publish()"
        )

    # -- beyond carrot 0.10.7, each asked for only when `features` names it

    def confirm_select(self, tracker: Tracker) -> None:
        """Have the broker confirm each message; count them in *tracker*.

        From then on :meth:`publish` enters each message in the tracker before
        it is written, in the order of writing, and waits while the tracker's
        window is full. Confirms, nacks and returns settle the entries. Does
        not connect: it takes effect when the channel opens. Feature ``"confirms"``.
        """
        raise NotSupported(f"{type(self).__qualname__} knows no publisher confirms")

    def pump(self, timeout: float | None = None) -> None:
        """Read what the broker has to say, without running a consumer's callback.

        Returns after something arrived, or another thread read it; deliveries
        stay queued until someone drains. Feature ``"confirms"``.

        :param timeout: seconds to block at most; ``None``: the connection's.
        :raises DrainTimeout: nothing arrived.
        """
        raise NotSupported(f"{type(self).__qualname__} knows no publisher confirms")

    def shortcuts(self, kind: tuple[Any, ...]) -> dict[Any, Callable[[bytes], bool]]:
        """Return what sends further messages like one that :meth:`publish` has taken.

        A function for each kind of message that the channel was asked for,
        this one included where there is any. It takes the payload, sends it as
        :meth:`prepare_message` and :meth:`publish` would, and returns whether
        it has: if anything is in the way (the window is full, the channel
        closed) it has not, and the message has to go the long way. Whoever
        takes the backend out of use empties the dictionary. Feature ``"shortcuts"``.

        :param kind: exchange, routing key, mandatory, delivery mode, content type and
            encoding. Its priority is 0, and it has no other property.
        """
        return {}

    def stop(self) -> None:
        """End :meth:`consume` after the message that is being processed.

        Callable from any thread and from a signal handler. The request stays
        until a :meth:`consume` has ended by it. Feature ``"stop"``.
        """
