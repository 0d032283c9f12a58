"""What was received with a message, decoded as far as it was asked for."""

from __future__ import annotations

from typing import Any

from carrot.backends.pyamqplib.tables import decode_properties
from carrot.backends.pyamqplib.wire import ProtocolError

__all__ = ["Delivery", "Kind", "Properties"]


class Properties:
    """The properties of messages, undecoded but for what says how to decode the body."""

    __slots__ = ("content_encoding", "content_type", "data")

    content_type: str | None
    content_encoding: str | None
    #: Property flags and property list.
    data: bytes

    def __init__(self, data: bytes) -> None:
        flags = data[0]
        values: list[str | None] = [None, None]
        position = 2
        for index, flag in enumerate((0x80, 0x40)):
            if flags & flag:
                end = position + 1 + data[position] if position < len(data) else len(data) + 1
                if end > len(data):
                    raise ProtocolError("a message's properties are cut off")
                values[index] = data[position + 1 : end].decode("utf-8", "surrogateescape")
                position = end
        self.data = data
        self.content_type, self.content_encoding = values


class Kind:
    """What deliveries that differ in tag and body only have in common."""

    __slots__ = ("channel", "consumer_tag", "encoded", "redelivered", "route")

    #: The channel that they came by.
    channel: Any
    #: Of the consumer; ``None`` if the message was fetched or returned.
    consumer_tag: str | None
    redelivered: bool
    #: Exchange and routing key.
    route: tuple[str, str]
    encoded: Properties

    def __init__(
        self,
        channel: Any,
        consumer_tag: str | None,
        redelivered: int,
        route: tuple[str, str],
        encoded: Properties,
    ) -> None:
        self.channel = channel
        self.consumer_tag = consumer_tag
        self.redelivered = redelivered == 1
        self.route = route
        self.encoded = encoded


class Delivery:
    """A message that the broker sent, with the attributes of the ``amqp`` package's."""

    __slots__ = ("_properties", "body", "delivery_tag", "kind", "message_count")

    kind: Kind
    delivery_tag: int
    body: bytes
    #: Messages left on the queue, if it was fetched.
    message_count: int | None

    def __init__(self, kind: Kind, delivery_tag: int, body: bytes) -> None:
        self.kind = kind
        self.delivery_tag = delivery_tag
        self.body = body

    def __repr__(self) -> str:
        return (
            f"<Delivery {self.delivery_tag} of {self.kind.consumer_tag!r} from"
            f" {self.kind.route!r}, {len(self.body)} bytes>"
        )

    @property
    def channel(self) -> Any:
        """The channel that it came by."""
        return self.kind.channel

    @property
    def properties(self) -> dict[str, Any]:
        """The message's properties; a dictionary of its own.

        :raises DecodeError: they are no AMQP.
        """
        try:
            return self._properties
        except AttributeError:
            self._properties: dict[str, Any] = decode_properties(self.kind.encoded.data)
            return self._properties

    @property
    def headers(self) -> Any:
        """Application headers, or ``None``."""
        return self.properties.get("application_headers")

    @property
    def content_type(self) -> str | None:
        """How the body is to be decoded."""
        return self.kind.encoded.content_type

    @property
    def content_encoding(self) -> str | None:
        """Character set of the body, or ``binary``."""
        return self.kind.encoded.content_encoding

    @property
    def delivery_info(self) -> dict[str, Any]:
        """What the broker said of the delivery; a new dictionary at each access."""
        kind = self.kind
        exchange, routing_key = kind.route
        info: dict[str, Any] = {
            "delivery_tag": self.delivery_tag,
            "redelivered": kind.redelivered,
            "exchange": exchange,
            "routing_key": routing_key,
        }
        if kind.consumer_tag is not None:
            info["consumer_tag"] = kind.consumer_tag
        elif hasattr(self, "message_count"):
            info["message_count"] = self.message_count
        return info
