"""What AMQP allows as the names and properties of things, checked before a byte is sent.

The broker closes the connection over most of these; here they are an error of
the one call, which says what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from math import isfinite
from typing import Any

from carrot.exceptions import ConfigurationError
from carrot.utils import shown

__all__ = [
    "DELIVERY_MODES",
    "WrongType",
    "delivery_mode",
    "milliseconds",
    "posix_time",
    "priority",
    "properties",
    "shortstr",
    "table",
]

#: The delivery modes by name: 2 survives a restart of the broker, 1 does not.
DELIVERY_MODES = {"non-persistent": 1, "transient": 1, "persistent": 2}

#: Bytes of a short string (AMQP 0-9-1, section 4.2.5.3).
_SHORT = 255
#: Milliseconds that RabbitMQ can wait for (an Erlang timer).
_LONGEST_WAIT = 2**32 - 1


class WrongType(ConfigurationError, TypeError):
    """A value of a type that cannot be."""


def shortstr(value: Any, what: str) -> str:
    """Return a name, if AMQP can carry it: ``str``, at most 255 bytes of UTF-8.

    :param what: what the name is of, for the error.
    :raises ConfigurationError: it cannot; also a :exc:`TypeError` for what is no ``str``.
    """
    if not isinstance(value, str):
        remedy = "decode it first" if isinstance(value, bytes) else "pass a str"
        raise WrongType(f"{what} must be a str, not {shown(value)}; {remedy}")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{what} {shown(value)} has a lone surrogate, which UTF-8 cannot carry; remove it"
        ) from None
    if size > _SHORT:
        raise ConfigurationError(
            f"{what} {value:.40}... is {size} bytes long; AMQP allows {_SHORT}: shorten it"
        )
    return value


def priority(value: Any) -> int:
    """Return a message's priority, an integer from 0 to 255.

    :raises ConfigurationError: it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise WrongType(f"priority must be an int from 0 to 255, not {shown(value)}")
    if not 0 <= value <= 255:
        raise ConfigurationError(f"priority must be from 0 to 255, not {value}")
    return value


def delivery_mode(value: Any) -> int:
    """Return 1 or 2 for a delivery mode given as such or by name.

    :raises ConfigurationError: it is neither.
    """
    if isinstance(value, str) and value in DELIVERY_MODES:
        return DELIVERY_MODES[value]
    if isinstance(value, int) and not isinstance(value, bool) and value in (1, 2):
        return value
    known = ", ".join(f'"{name}"' for name in DELIVERY_MODES)
    raise ConfigurationError(f"delivery_mode must be 1, 2, {known}, not {shown(value)}")


def milliseconds(seconds: Any) -> str:
    """Return a message's expiration as AMQP writes it.

    :param seconds: 0 to 4,294,967; fractions count.
    :raises ConfigurationError: it is not such a number.
    """
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise WrongType(f"expiration must be a number of seconds, not {shown(seconds)}")
    if not 0 <= seconds <= _LONGEST_WAIT / 1000:
        raise ConfigurationError(
            f"expiration must be from 0 to {_LONGEST_WAIT // 1000} seconds,"
            f" not {shown(seconds)}"
        )
    # 0 would expire the message at once: only for who asked for it.
    return str(max(round(seconds * 1000), 1 if seconds else 0))


def posix_time(value: Any) -> int:
    """Return a message's timestamp as AMQP carries it: whole seconds since 1970, UTC.

    :param value: a number, or a datetime (one without time zone is local time).
    :raises ConfigurationError: it is neither, or before 1970.
    """
    if isinstance(value, datetime):
        try:
            value = value.timestamp()
        except (ValueError, OverflowError, OSError):  # local time of the first or last year
            value = -1 if value.year < 1970 else 2**63
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise WrongType(
            f"timestamp must be a datetime or seconds since 1970, not {shown(value)}"
        )
    if not 0 <= value < 2**63:
        raise ConfigurationError(f"timestamp must not be before 1970, nor {shown(value)}")
    return int(value)


def table(value: Any, what: str) -> Mapping[str, Any]:
    """Return a dictionary, if AMQP can carry it as a table.

    :param what: what it is, for the error.
    :raises ConfigurationError: it is no dictionary, or holds what AMQP has no type for.
    """
    if not isinstance(value, Mapping):
        raise WrongType(f"{what} must be a dictionary of names and values, not {shown(value)}")
    try:
        _check_items(value, what)
    except RecursionError:
        raise ConfigurationError(
            f"{what} contains itself, or is nested too deeply; make it flat"
        ) from None
    return value


def _check_items(given: Mapping[str, Any], what: str) -> None:
    for name, item in given.items():
        shortstr(name, f"a name in {what}")
        _check_item(item, f"{what}[{name!r}]")


def _check_item(value: Any, what: str) -> None:
    if isinstance(value, Mapping):
        _check_items(value, what)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_item(item, what)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigurationError(f"{what} is {value}: AMQP has integers of 64 bits at most")
    elif (isinstance(value, float) and not isfinite(value)) or (
        isinstance(value, Decimal) and not value.is_finite()
    ):
        raise ConfigurationError(
            f"{what} is {value}, at which RabbitMQ closes the connection; use None or a str"
        )
    elif value is not None and not isinstance(value, _TABLE_TYPES):
        known = ", ".join(sorted(each.__name__ for each in _TABLE_TYPES))
        raise WrongType(
            f"{what} is a {type(value).__name__}, which AMQP has not; it has {known},"
            " and lists and dictionaries of these"
        )


_TABLE_TYPES = (str, bytes, bool, int, float, Decimal, datetime)


def _short(name: str) -> Callable[[Any], str]:
    return lambda value: shortstr(value, name)


_PROPERTIES: dict[str, Callable[[Any], Any]] = {
    "correlation_id": _short("correlation_id"),
    "reply_to": _short("reply_to"),
    "expiration": milliseconds,
    "message_id": _short("message_id"),
    "timestamp": posix_time,
    "type": _short("type"),
    "user_id": _short("user_id"),
    "app_id": _short("app_id"),
}


def properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return message properties as AMQP carries them.

    :param given: ``correlation_id``, ``reply_to``, ``expiration`` (seconds),
        ``message_id``, ``timestamp``, ``type``, ``user_id``, ``app_id``;
        those that are ``None`` are left out.
    :raises ConfigurationError: a value cannot be, or a name is none of these.
    """
    checked = {}
    for name, value in given.items():
        if value is None:
            continue
        check = _PROPERTIES.get(name)
        if check is None:
            raise ConfigurationError(
                f"a message has no property {name!r}; it has {', '.join(_PROPERTIES)}"
            )
        checked[name] = check(value)
    return checked
