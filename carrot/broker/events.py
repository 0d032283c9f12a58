"""What the broker sends to a channel."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Cancelled", "Confirmed", "Delivery", "Event", "Nacked", "Returned"]


class Delivery(NamedTuple):
    """A message, pushed to a consumer or fetched."""

    #: The consumer; ``""`` for a message that was fetched.
    consumer_tag: str
    #: Number by which the channel settles it, from 1.
    delivery_tag: int
    #: Whether it was delivered before.
    redelivered: bool
    exchange: str
    routing_key: str
    #: Properties under their AMQP names. Shared by many deliveries: not to
    #: be changed.
    properties: dict[str, Any]
    body: bytes
    #: Messages left on the queue; ``None`` unless fetched.
    message_count: int | None = None


class Returned(NamedTuple):
    """A mandatory message that reached no queue. Precedes its confirm."""

    reply_code: int
    reply_text: str
    exchange: str
    routing_key: str
    properties: dict[str, Any]
    body: bytes


class Confirmed(NamedTuple):
    """The broker takes responsibility for a published message."""

    delivery_tag: int
    #: Whether all messages up to this one are meant.
    multiple: bool = False


class Nacked(NamedTuple):
    """A queue refused a published message."""

    delivery_tag: int
    multiple: bool = False


class Cancelled(NamedTuple):
    """The broker ended a subscription, because the queue was deleted."""

    consumer_tag: str


Event = Delivery | Returned | Confirmed | Nacked | Cancelled
