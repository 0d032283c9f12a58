"""Messages: those that are sent, and those that were received."""

from __future__ import annotations

from typing import Any

from amqp.basic_message import Message as AMQPMessage

from carrot.backends.base import BaseMessage
from carrot.backends.pyamqplib.delivery import Delivery
from carrot.exceptions import EncodeError
from carrot.utils import lazy

__all__ = ["DeliveryTag", "Message", "Outgoing", "as_bytes"]


class Outgoing(AMQPMessage):  # type: ignore[misc]
    """A message to publish, cheap to make: its properties are encoded beforehand.

    ``prepare_message`` of the backend sets its attributes; there is no constructor.
    """

    __slots__ = ("encoded", "template")

    #: Set by those who pass a message of their own to a consumer.
    delivery_tag: Any = None
    delivery_info: Any = None

    #: Properties under the names of the ``amqp`` package; shared.
    template: dict[str, Any]
    #: The same as bytes; ``None`` once they may have been changed.
    encoded: bytes | None

    @property
    def properties(self) -> dict[str, Any]:
        """The message's properties, a copy that is its own; changes count."""
        mine = self.__dict__.get("_properties")
        if mine is None:
            mine = self.__dict__["_properties"] = dict(self.template)
            self.encoded = None
        return mine

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.body)} bytes>"


def as_bytes(body: Any) -> bytes:
    """Return a body as bytes; text as UTF-8.

    :raises EncodeError: it is neither.
    """
    if isinstance(body, str):
        return body.encode("utf-8", "surrogateescape")
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise EncodeError(f"the body of a message is bytes or str, not {type(body).__name__}")


class DeliveryTag(int):
    """The number of a delivery, which knows the channel where it counts."""

    channel: Any

    @classmethod
    def of(cls, raw_message: Any) -> DeliveryTag:
        """Return that of a message received by some channel."""
        tag = cls(raw_message.delivery_tag)
        tag.channel = raw_message.channel
        return tag

    def __reduce__(self) -> Any:
        return int, (int(self),)


class Message(BaseMessage):
    """A message received from RabbitMQ, or made by hand.

    :param amqp_message: what the driver received.
    :param kwargs: attributes of a message made by hand, see
        :class:`~carrot.backends.base.BaseMessage`.
    """

    #: What the driver received; ``None`` for a message made by hand.
    amqp_message: Any
    # The delivery tag, unless it is that of the delivery.
    _tag: Any

    def __init__(self, backend: Any, amqp_message: Any = None, **kwargs: Any) -> None:
        # Written out in message_to_python of the backend, for each message.
        self._state = "RECEIVED"
        self._decoded = False
        self._tag = None
        self.backend = backend
        self.amqp_message = amqp_message
        if amqp_message.__class__ is Delivery:
            self.body = amqp_message.body
            self.content_type = amqp_message.content_type
            self.content_encoding = amqp_message.content_encoding
        elif amqp_message is None:
            super().__init__(backend, **kwargs)
            return
        else:
            self._adopt(amqp_message)
        for name, value in kwargs.items():
            setattr(self, name, value)

    def _adopt(self, amqp_message: Any) -> None:
        """Take what another driver received, or what was made to be sent."""
        self.body = amqp_message.body
        if isinstance(self.body, str):  # decoded by that driver, or of no bytes
            self.body = self.body.encode()
        self.content_type = getattr(amqp_message, "content_type", None)
        self.content_encoding = getattr(amqp_message, "content_encoding", None)
        self.delivery_tag = getattr(amqp_message, "delivery_tag", None)
        if (
            getattr(amqp_message, "channel", None) is not None
            and self.delivery_tag.__class__ is int
        ):
            self.delivery_tag = DeliveryTag.of(amqp_message)

    @property
    def delivery_tag(self) -> Any:
        """Number that the channel gave the delivery; ``None`` for one made by hand."""
        if self._tag is None and self.amqp_message.__class__ is Delivery:
            return DeliveryTag.of(self.amqp_message)
        return self._tag

    @delivery_tag.setter
    def delivery_tag(self, delivery_tag: Any) -> None:
        self._tag = delivery_tag

    def ack(self) -> None:
        """Acknowledge: the message was processed, the broker may forget it.

        :raises MessageStateError: the message is settled already.
        """
        delivery = self.amqp_message
        if (
            delivery.__class__ is Delivery
            and self._tag is None
            and self._state == "RECEIVED"
            # What backend.ack(self.delivery_tag) does, without a tag.
            and self.backend.acks_directly is True
            and delivery.kind.channel.basic_ack(delivery.delivery_tag) is not False
        ):
            self._state = "ACK"
        else:
            super().ack()

    # What few callbacks ask for is worked out at the first access.

    @lazy
    def _amqp_message(self) -> Any:
        return self.amqp_message

    @lazy
    def delivery_info(self) -> dict[str, Any]:
        """What the broker said of the delivery, see :class:`BaseMessage`."""
        return getattr(self.amqp_message, "delivery_info", None) or {}

    @lazy
    def headers(self) -> dict[str, Any]:
        """Application headers."""
        return self.properties.get("headers") or {}

    @lazy
    def properties(self) -> dict[str, Any]:
        """All properties of the message under their AMQP names."""
        properties = dict(getattr(self.amqp_message, "properties", None) or {})
        if "application_headers" in properties:
            properties["headers"] = properties.pop("application_headers")
        return properties
