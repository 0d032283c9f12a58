"""Tables as they come out at the other end of a wire."""

from __future__ import annotations

from calendar import timegm
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from math import isfinite
from typing import Any

from carrot.exceptions import EncodeError
from carrot.utils import shown

__all__ = ["as_received"]


def as_received(table: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a copy of headers or arguments as a peer would receive it.

    Later changes by the sender do not reach it; tuples arrive as lists, times
    in whole seconds of UTC.

    :raises EncodeError: AMQP has no type for a value.
    """
    try:
        return _table(table or {})
    except RecursionError:
        raise EncodeError(
            "cannot send a table: it contains itself, or is nested too deeply;"
            " make it flat, or send it as the body"
        ) from None


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    return {_name(name): _value(name, item) for name, item in table.items()}


def _name(name: Any) -> str:
    if isinstance(name, str) and len(name.encode("utf-8", "surrogatepass")) <= 255:
        return name
    raise EncodeError(f"names in a table are str of at most 255 bytes, not {shown(name)}")


def _value(name: str, value: Any) -> Any:
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, float):
        if isfinite(value):
            return value
        raise EncodeError(
            f"{name!r} is {value}: RabbitMQ closes the connection at it; send None or a str"
        )
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return value
        raise EncodeError(f"{name!r} is {value}: AMQP carries integers of 64 bits at most")
    if isinstance(value, Mapping):
        return _table(value)
    if isinstance(value, (list, tuple)):
        return [_value(name, item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, datetime):
        return _moment(name, value)
    if isinstance(value, Decimal):
        return _decimal(name, value)
    raise EncodeError(
        f"{name!r} is a {type(value).__name__}: AMQP tables carry str, bool, int, float,"
        " Decimal, datetime, bytes, None, and lists and dictionaries of these"
    )


def _moment(name: str, value: datetime) -> datetime:
    seconds = timegm(value.utctimetuple())
    if seconds < 0:
        raise EncodeError(f"{name!r} is {value}: AMQP carries no time before 1970")
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)


def _decimal(name: str, value: Decimal) -> Decimal:
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and -255 <= exponent <= 9:
        digits = int(value.scaleb(max(0, -exponent)))
        if -(2**31) <= digits < 2**31:
            return value
    raise EncodeError(f"{name!r} is {value}: AMQP carries decimals of 32 bits at most")
