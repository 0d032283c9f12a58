"""Messages of the in-memory broker: ready to be published, and received."""

from __future__ import annotations

from typing import Any

from carrot.backends.base import BaseMessage
from carrot.broker import Delivery
from carrot.utils import lazy

__all__ = ["Message", "Prepared"]


class Message(BaseMessage):
    """A message that the in-memory broker delivered."""

    _delivery: Delivery

    @classmethod
    def of(cls, backend: Any, delivery: Delivery, delivery_tag: Any) -> Message:
        """Return the message of a delivery.

        What few callbacks look at is made when it is: :attr:`delivery_info`,
        :attr:`headers`, :attr:`properties`.
        """
        message = cls.__new__(cls)
        message._state = "RECEIVED"
        message._decoded = False
        message.backend = backend
        message.body = delivery.body
        message.delivery_tag = delivery_tag
        properties = delivery.properties
        message.content_type = properties.get("content_type")
        message.content_encoding = properties.get("content_encoding")
        message._delivery = delivery
        return message

    # Copies, since all who got the message share what the broker has.

    @lazy
    def properties(self) -> dict[str, Any]:
        """All properties of the message under their AMQP names."""
        properties = dict(self._delivery.properties)
        if "headers" in properties:
            properties["headers"] = dict(properties["headers"] or {})
        return properties

    @lazy
    def headers(self) -> dict[str, Any]:
        """Application headers."""
        headers: dict[str, Any] = self.properties.get("headers", {})
        return headers

    @lazy
    def delivery_info(self) -> dict[str, Any]:
        """What the broker said of the delivery, see :class:`BaseMessage`."""
        delivery = self._delivery
        info = {
            "exchange": delivery.exchange,
            "routing_key": delivery.routing_key,
            "redelivered": delivery.redelivered,
        }
        if delivery.message_count is None:
            return {**info, "consumer_tag": delivery.consumer_tag}
        return {**info, "message_count": delivery.message_count}


class Prepared:
    """A message that is ready to be published."""

    __slots__ = ("__dict__", "body", "properties")

    def __init__(self, body: bytes, properties: dict[str, Any]) -> None:
        #: The encoded body.
        self.body = body
        #: Properties under their AMQP names. Messages share them: not to be changed.
        self.properties = properties

    def __repr__(self) -> str:
        return f"<Prepared {self.properties.get('content_type')} {len(self.body)} bytes>"
