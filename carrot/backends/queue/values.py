"""Tables as they come out at the other end of a wire."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from carrot.exceptions import EncodeError

__all__ = ["as_received"]


def as_received(table: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of headers or arguments as a peer would receive it.

    Later changes by the sender do not reach it; tuples arrive as lists, bytes
    as text, times in whole seconds of UTC.

    :raises EncodeError: AMQP has no type for a value.
    """
    return {_name(name): _value(name, item) for name, item in (table or {}).items()}


def _name(name: Any) -> str:
    if isinstance(name, str) and len(name.encode("utf-8", "surrogatepass")) <= 255:
        return name
    raise EncodeError(f"names in a table are str of at most 255 bytes, not {name!r:.60}")


def _value(name: str, value: Any) -> Any:
    if isinstance(value, (str, bool, float, Decimal)) or value is None:
        return value
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
        raise EncodeError(f"{name!r} is {value}: AMQP carries integers of 64 bits at most")
    if isinstance(value, Mapping):
        return as_received(value)
    if isinstance(value, (list, tuple)):
        return [_value(name, item) for item in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "surrogatepass")
    if isinstance(value, datetime):
        return datetime(*value.utctimetuple()[:6])
    raise EncodeError(
        f"{name!r} is a {type(value).__name__}: AMQP tables carry str, bool, int, float,"
        " Decimal, datetime, None, and lists and dictionaries of these"
    )
