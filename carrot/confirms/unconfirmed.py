"""The record of a message on its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Unconfirmed"]


class Unconfirmed:
    """A message that was sent and is not confirmed, with what it takes to send it again."""

    __slots__ = (
        "error",
        "exchange",
        "headers",
        "mandatory",
        "message",
        "number",
        "routing_key",
        "settled",
        "size",
    )

    #: What ``prepare_message`` of the backend returned.
    message: Any
    exchange: str
    routing_key: str
    mandatory: bool
    headers: Mapping[str, Any] | None
    #: Bytes of the body, counted against the tracker's ``max_bytes``.
    size: int
    #: Why the broker has not taken the message; ``None`` while that is open.
    error: Exception | None
    #: Position among all messages of the tracker, from 1; kept when sent again.
    number: int
    #: Whether the tracker is done with it.
    settled: bool

    def __init__(
        self,
        message: Any,
        exchange: str | None,
        routing_key: str | None,
        mandatory: bool | None = False,
        headers: Mapping[str, Any] | None = None,
        size: int = 0,
    ) -> None:
        self.message = message
        self.exchange = exchange or ""
        self.routing_key = routing_key or ""
        self.mandatory = bool(mandatory)
        self.headers = headers
        self.size = size
        self.error = None
        self.number = 0
        self.settled = False

    @classmethod
    def record(cls, arguments: tuple[Any, ...], size: int) -> Unconfirmed:
        """Return a record of these arguments; see :meth:`Tracker.add`."""
        message, exchange, routing_key, mandatory, headers = arguments
        return cls(message, exchange, routing_key, mandatory, headers, size)

    @property
    def body(self) -> Any:
        """The encoded body."""
        return getattr(self.message, "body", self.message)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The message's properties under their AMQP names."""
        properties: Mapping[str, Any] = getattr(self.message, "properties", None) or {}
        return properties

    def __repr__(self) -> str:
        state = "unconfirmed" if self.error is None else type(self.error).__name__
        return (
            f"<Unconfirmed #{self.number} {state}, {self.size} bytes"
            f" to {self.exchange!r} {self.routing_key!r}>"
        )
