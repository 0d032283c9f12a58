"""Message properties and field tables as bytes (AMQP 0-9-1, sections 4.2.5 and 4.2.6).

Properties bear the names of the ``amqp`` package here: AMQP's ``headers`` are
its ``application_headers``. Text that is no UTF-8 goes through both ways
unharmed, as surrogate escapes: what a stranger sent must not cost the
connection.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from math import isfinite
from struct import Struct, error
from typing import Any

from carrot.exceptions import DecodeError, EncodeError
from carrot.utils import shown

__all__ = ["PROPERTIES", "decode_properties", "encode_properties", "encode_table"]

#: Properties of class "basic" in wire order, and their types: short string,
#: table, octet, 64 bits.
PROPERTIES = (
    ("content_type", "s"),
    ("content_encoding", "s"),
    ("application_headers", "F"),
    ("delivery_mode", "o"),
    ("priority", "o"),
    ("correlation_id", "s"),
    ("reply_to", "s"),
    ("expiration", "s"),
    ("message_id", "s"),
    ("timestamp", "L"),
    ("type", "s"),
    ("user_id", "s"),
    ("app_id", "s"),
    ("cluster_id", "s"),
)

_short = Struct(">H")
_long = Struct(">I")
_longlong = Struct(">Q")


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """Return the property flags and the property list.

    Properties that are ``None`` are left out, as are unknown ones.

    :raises EncodeError: a value is none that AMQP can express.
    """
    flags = 0
    parts = [b""]
    for index, (name, kind) in enumerate(PROPERTIES):
        value = properties.get(name)
        if value is None:
            continue
        flags |= 0x8000 >> index
        try:
            parts.append(_ENCODERS[kind](value))
        except (TypeError, ValueError, AttributeError, OverflowError, error) as exc:
            raise EncodeError(f"cannot send the property {name}={shown(value)}: {exc}") from exc
        except RecursionError:
            raise EncodeError(
                f"cannot send the property {name}: it contains itself, or is nested too deeply;"
                " make it flat, or send it as the body"
            ) from None
    parts[0] = _short.pack(flags)
    return b"".join(parts)


def encode_table(table: Mapping[str, Any]) -> bytes:
    """Return a field table, its length first.

    :raises EncodeError: a name or value is none that AMQP can express.
    """
    parts: list[bytes] = []
    for name, value in table.items():
        if not isinstance(name, str):
            raise EncodeError(f"names in a table are str, not {shown(name)}")
        parts.append(_shortstr(name))
        try:
            parts.append(_field(value))
        except EncodeError:
            raise
        except (ValueError, OverflowError, error) as exc:
            raise EncodeError(f"cannot send {name!r}: {shown(value)}: {exc}") from exc
    data = b"".join(parts)
    return _long.pack(len(data)) + data


def decode_properties(data: bytes) -> dict[str, Any]:
    """Return the properties in a property list that begins with its flags.

    :raises DecodeError: it is no such list.
    """
    properties: dict[str, Any] = {}
    try:
        (flags,) = _short.unpack_from(data)
        position = 2
        for index, (name, kind) in enumerate(PROPERTIES):
            if flags & (0x8000 >> index):
                properties[name], position = _DECODERS[kind](data, position)
    except (error, IndexError, KeyError, ValueError, ArithmeticError, RecursionError) as exc:
        raise DecodeError(f"the message's properties are no AMQP: {exc!r}", body=data) from exc
    if position != len(data):
        raise DecodeError("the message's properties are no AMQP: wrong length", body=data)
    return properties


# -- writing


def _shortstr(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    if len(data) > 255:
        raise EncodeError(f"{shown(value)} has {len(data)} bytes, more than 255")
    return bytes((len(data),)) + data


def _octet(value: int) -> bytes:
    return bytes((value,))


def _timestamp(value: Any) -> bytes:
    """Encode seconds since 1970; a naive ``datetime`` is taken for UTC."""
    if isinstance(value, datetime):
        value = timegm(value.utctimetuple())
    return _longlong.pack(value)


def _array(values: Any) -> bytes:
    data = b"".join(map(_field, values))
    return _long.pack(len(data)) + data


def _double(value: float) -> bytes:
    if not isfinite(value):
        raise ValueError("RabbitMQ closes the connection at it; send None or a str")
    return b"d" + Struct(">d").pack(value)


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError("not a finite number")
    # Ten zeros are too many already; a billion of them would take for ever.
    number = int("".join(map(str, digits))) * 10 ** min(max(0, exponent), 10)
    return Struct(">Bi").pack(max(0, -exponent), -number if sign else number)


def _integer(value: int) -> bytes:
    # RabbitMQ reads "l" as signed 64 bits, as all its clients do.
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return b"I" + Struct(">i").pack(value)
    return b"l" + Struct(">q").pack(value)


def _field(value: Any) -> bytes:
    # bool before int, of which it is a kind.
    for kind, encode in _FIELDS:
        if isinstance(value, kind):
            data: bytes = encode(value)
            return data
    if value is None:
        return b"V"
    raise EncodeError(
        f"cannot send {shown(value)}: AMQP has no {type(value).__name__};"
        " use str, int, float, bool, Decimal, datetime, bytes, dict, list or None"
    )


def _longstr(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return b"S" + _long.pack(len(data)) + data


_FIELDS: tuple[tuple[Any, Any], ...] = (
    (str, _longstr),
    (bool, lambda value: b"t\x01" if value else b"t\x00"),
    (int, _integer),
    (float, _double),
    ((bytes, bytearray), lambda value: b"x" + _long.pack(len(value)) + value),
    (Mapping, lambda value: b"F" + encode_table(value)),
    ((list, tuple), lambda value: b"A" + _array(value)),
    (datetime, lambda value: b"T" + _timestamp(value)),
    (Decimal, lambda value: b"D" + _decimal(value)),
)

_ENCODERS: dict[str, Any] = {
    "s": _shortstr,
    "F": encode_table,
    "o": _octet,
    "L": _timestamp,
}


# -- reading: each takes data and position, and returns the value and what follows


def _read_shortstr(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    if end > len(data):
        raise ValueError("a short string is cut off")
    return data[position + 1 : end].decode("utf-8", "surrogateescape"), end


def _read_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    end = position + 4 + _long.unpack_from(data, position)[0]
    if end > len(data):
        raise ValueError("a long string is cut off")
    return data[position + 4 : end], end


def _read_longstr(data: bytes, position: int) -> tuple[str | bytes, int]:
    value, position = _read_bytes(data, position)
    try:
        return value.decode(), position
    except UnicodeDecodeError:
        return value, position


def _read_table(data: bytes, position: int) -> tuple[dict[str, Any], int]:
    end = position + 4 + _long.unpack_from(data, position)[0]
    position += 4
    table: dict[str, Any] = {}
    while position < end:
        name, position = _read_shortstr(data, position)
        table[name], position = _read_field(data, position)
    if position != end:
        raise ValueError("a table is longer than it says")
    return table, end


def _read_array(data: bytes, position: int) -> tuple[list[Any], int]:
    end = position + 4 + _long.unpack_from(data, position)[0]
    position += 4
    values: list[Any] = []
    while position < end:
        value, position = _read_field(data, position)
        values.append(value)
    if position != end:
        raise ValueError("an array is longer than it says")
    return values, end


def _read_timestamp(data: bytes, position: int) -> tuple[datetime | int, int]:
    (seconds,) = _longlong.unpack_from(data, position)
    try:
        moment = datetime.fromtimestamp(seconds, tz=timezone.utc).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return seconds, position + 8
    return moment, position + 8


def _read_decimal(data: bytes, position: int) -> tuple[Decimal, int]:
    scale, number = Struct(">Bi").unpack_from(data, position)
    return Decimal(number) / Decimal(10**scale), position + 5


def _read_bool(data: bytes, position: int) -> tuple[bool, int]:
    return bool(data[position]), position + 1


def _number(code: str) -> Any:
    packed = Struct(">" + code)

    def read(data: bytes, position: int) -> tuple[Any, int]:
        return packed.unpack_from(data, position)[0], position + packed.size

    return read


def _read_field(data: bytes, position: int) -> tuple[Any, int]:
    value: tuple[Any, int] = _READERS[data[position]](data, position + 1)
    return value


#: RabbitMQ's letters where the specification's own errata disagree.
_READERS: dict[int, Any] = {
    ord(letter): reader
    for letter, reader in {
        "S": _read_longstr,
        "x": _read_bytes,
        "t": _read_bool,
        "F": _read_table,
        "A": _read_array,
        "T": _read_timestamp,
        "D": _read_decimal,
        "V": lambda data, position: (None, position),
        "b": _number("b"),
        "B": _number("B"),
        "s": _number("h"),
        "U": _number("h"),
        "u": _number("H"),
        "I": _number("i"),
        "i": _number("I"),
        "l": _number("q"),
        "L": _number("q"),
        "f": _number("f"),
        "d": _number("d"),
    }.items()
}

_DECODERS: dict[str, Any] = {
    "s": _read_shortstr,
    "F": _read_table,
    "o": _number("B"),
    "L": _number("Q"),
}
