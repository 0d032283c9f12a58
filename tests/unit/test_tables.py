"""Field tables at their edges: every letter, every kind of value, lengths that lie."""

from __future__ import annotations

import math
import struct
from collections import OrderedDict
from decimal import Decimal
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any

import pytest
from amqp.basic_message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from carrot.backends.pyamqplib.tables import (
    PROPERTIES,
    decode_properties,
    encode_properties,
    encode_table,
)
from carrot.exceptions import DecodeError, EncodeError
from tests.unit.test_wire_tables import moments, octets, short_texts

#: All properties, in the order of the specification.
EVERYTHING = {
    "content_type": "a/b",
    "content_encoding": "utf-8",
    "application_headers": {"k": [True, {"n": None}]},
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 2**32,
    "type": "t",
    "user_id": "guest",
    "app_id": "a",
    "cluster_id": "",
}
EVERYTHING_AS_BYTES = bytes.fromhex(
    "fffc"
    "03 612f62"  # content-type
    "05 7574662d38"  # content-encoding
    "00000011 01 6b 41 0000000a 74 01 46 00000003 01 6e 56"  # headers
    "02 09"  # delivery-mode, priority
    "01 63 01 72"  # correlation-id, reply-to
    "05 3630303030"  # expiration
    "01 6d"  # message-id
    "0000000100000000"  # timestamp
    "01 74 05 6775657374 01 61 00"  # type, user-id, app-id, cluster-id
)


def table_of(fields: bytes) -> bytes:
    """Return a property list that is nothing but headers."""
    return b"\x20\x00" + struct.pack(">I", len(fields)) + fields


def test_all_properties_at_once() -> None:
    """The fourteen properties are written in the specification's order, and read again."""
    assert encode_properties(EVERYTHING) == EVERYTHING_AS_BYTES
    assert decode_properties(EVERYTHING_AS_BYTES) == EVERYTHING


def test_what_is_left_out() -> None:
    """Properties that are ``None``, or that AMQP does not know, are not sent."""
    assert encode_properties({"priority": None, "colour": "red"}) == b"\0\0"


class Number(IntEnum):
    SEVEN = 7


class Word(str, Enum):
    YES = "yes"


@pytest.mark.parametrize(
    "value, field",
    [
        (0, "49 00000000"),
        (2**31 - 1, "49 7fffffff"),
        (-(2**31), "49 80000000"),
        (-(2**31) - 1, "6c ffffffff7fffffff"),
        (2**63 - 1, "6c 7fffffffffffffff"),
        (-(2**63), "6c 8000000000000000"),
        (False, "74 00"),
        (Number.SEVEN, "49 00000007"),
        (Word.YES, "53 00000003 796573"),
        ("", "53 00000000"),
        (b"", "78 00000000"),
        (bytearray(b"\0\xff"), "78 00000002 00ff"),
        (-0.0, "64 8000000000000000"),
        (1.7976931348623157e308, "64 7fefffffffffffff"),
        ((), "41 00000000"),
        ((1, (2,)), "41 0000000f 49 00000001 41 00000005 49 00000002"),
        (OrderedDict(b=1, a=None), "46 0000000a 01 62 49 00000001 01 61 56"),
        (MappingProxyType({"": ""}), "46 00000006 00 53 00000000"),
        (Decimal("0.01"), "44 02 00000001"),
        (Decimal("-0"), "44 00 00000000"),
        (Decimal("1E-255"), "44 ff 00000001"),
        (Decimal("2E+9"), "44 00 77359400"),
        (Decimal("0E+999999999999"), "44 00 00000000"),
    ],
)
def test_kinds_of_values(value: Any, field: str) -> None:
    """Each kind of value, at the limits of its type, is these bytes."""
    data = b"\x01k" + bytes.fromhex(field)
    assert encode_table({"k": value}) == struct.pack(">I", len(data)) + data
    (read,) = decode_properties(table_of(data))["application_headers"].values()
    plain = {OrderedDict: dict, MappingProxyType: dict, bytearray: bytes}.get(type(value))
    if isinstance(value, tuple):
        assert read == ([1, [2]] if value else [])
    else:
        assert read == (plain(value) if plain else value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [math.nan], {"f": math.inf}])
def test_what_is_not_finite_is_not_sent(value: Any) -> None:
    """RabbitMQ closes the connection (541) at a float that is no finite number."""
    with pytest.raises(EncodeError, match="send None or a str"):
        encode_properties({"application_headers": {"f": value}})


def test_what_is_not_finite_is_read() -> None:
    """What another peer sent is read all the same."""
    for value in (math.nan, math.inf):
        data = table_of(b"\x01fd" + struct.pack(">d", value))
        assert repr(decode_properties(data)["application_headers"]["f"]) == repr(value)


class Unshown:
    """Breaks whoever wants to tell what it is."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


_list_in_itself: list[Any] = []
_list_in_itself.append(_list_in_itself)
_deep: Any = None
for _ in range(10_000):
    _deep = [_deep]


@pytest.mark.parametrize(
    "value",
    [
        -(2**63) - 1,
        10**400,
        "\udfff\ud800",
        {"\ud800": 1},
        {None: 1},
        {b"k": 1},
        {"x" * 256: 1},
        [object()],
        Unshown(),
        {Unshown(): 1},
        [_deep, object()],
        [{1}],
        1j,
        memoryview(b"x"),
        Decimal("1E-256"),
        Decimal("1E+10"),
        Decimal("1E+999999999999"),
        Decimal("-Infinity"),
        Decimal("sNaN"),
        Decimal("9" * 5000),
        _list_in_itself,
        _deep,
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_amqp_has_not(value: Any) -> None:
    """A value that no field type can hold is an ``EncodeError``, at once, at any depth."""
    for headers in ({"k": value}, {"a": 1, "deeper": [{"k": value}]}):
        with pytest.raises(EncodeError, match="application_headers"):
            encode_properties({"application_headers": headers})


def test_what_is_nested_too_deeply_has_a_remedy() -> None:
    """A value that is nested too deeply to be written is refused with what to do instead."""
    with pytest.raises(EncodeError, match="nested too deeply; make it flat"):
        encode_properties({"application_headers": {"k": _deep}})


@pytest.mark.parametrize("name", [name for name, _ in PROPERTIES])
@pytest.mark.parametrize("value", [object(), Unshown(), b"bytes", [1], 1.5])
def test_properties_of_the_wrong_type(name: str, value: Any) -> None:
    """A property of the wrong type is an ``EncodeError`` that names it."""
    with pytest.raises(EncodeError, match=f"property {name}="):
        encode_properties({name: value})


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "requires a buffer"),
        (b"\x80", "requires a buffer"),
        (b"\x80\x00", "IndexError"),
        (b"\x80\x00\x02x", "short string is cut off"),
        (b"\x10\x00", "requires a buffer"),
        (b"\x00\x40" + bytes(7), "requires a buffer"),
        (b"\x20\x00\x00\x00\x00", "requires a buffer"),
        (table_of(b"\x02k"), "short string is cut off"),
        (table_of(b"\x01k"), "IndexError"),
        (table_of(b"\x01k?"), "KeyError"),
        (table_of(b"\x01kS\0\0\0\x02x"), "long string is cut off"),
        (table_of(b"\x01kx\xff\xff\xff\xffx"), "long string is cut off"),
        (table_of(b"\x01kF\0\0\0\x01\x01aV"), "a table is longer than it says"),
        (table_of(b"\x01kA\0\0\0\x01t\x01"), "an array is longer than it says"),
        (table_of(b"\x01kA\0\0\0\x09VV"), "IndexError"),
        (table_of(b"\x01kI\0\0"), "requires a buffer"),
        (table_of(b"\x01kt"), "IndexError"),
        (b"\x20\x00\x00\x00\x00\x02\x01kI\0\0\0\1", "a table is longer than it says"),
        (b"\x00\x02\x00", "wrong length"),
    ],
)
def test_lengths_that_lie(data: bytes, words: str) -> None:
    """A length that disagrees with what follows is a ``DecodeError`` with the bytes in it."""
    with pytest.raises(DecodeError, match=words) as caught:
        decode_properties(data)
    assert caught.value.body == data


# -- the amqp package as the oracle, from both sides


def named(fields: list[bytes]) -> bytes:
    return b"".join(b"\x02k%c" % (97 + index) + each for index, each in enumerate(fields))


def sized(letter: bytes, data: bytes) -> bytes:
    return letter + struct.pack(">I", len(data)) + data


def raw(letters: str, size: int) -> st.SearchStrategy[bytes]:
    return st.builds(
        bytes.__add__,
        st.sampled_from([letter.encode() for letter in letters]),
        st.binary(min_size=size, max_size=size),
    )


#: Fields as bytes: any letter that RabbitMQ knows, with anything in it.
field_bytes = st.recursive(
    raw("V", 0)
    | raw("tbB", 1)
    | raw("sUu", 2)
    | raw("Iif", 4)
    | raw("lLd", 8)
    | st.builds(lambda s, n: struct.pack(">cBi", b"D", s, n), octets, st.integers(-9, 9))
    | moments.map(lambda m: b"T" + encode_properties({"timestamp": m})[2:])
    | st.builds(sized, st.sampled_from([b"S", b"x"]), st.binary(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda fields: sized(b"A", b"".join(fields)))
        | st.lists(inner, max_size=4).map(lambda fields: sized(b"F", named(fields)))
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(st.lists(field_bytes, max_size=6))
def test_any_field_is_read_as_the_amqp_package_reads_it(fields: list[bytes]) -> None:
    """Fields of every letter, nested at will, mean the same here and in the amqp package."""
    data = table_of(named(fields))
    message = Message()
    message._load_properties(60, data, 0)
    # By their words: what is not a number does not even equal itself.
    assert repr(decode_properties(data)) == repr(message.properties)


#: Values that the amqp package writes with the same letters: it has none of
#: its own for bytes, and another one for big integers.
alike = st.recursive(
    short_texts
    | st.booleans()
    | st.integers(-(2**31) + 1, 2**31 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | moments
    | st.decimals("-2147483", "2147483", allow_nan=False, places=3)
    | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: {
                "s": short_texts,
                "F": st.dictionaries(short_texts, alike, max_size=3),
                "o": octets,
                "L": st.integers(0, 2**64 - 1),
            }[kind]
            for name, kind in PROPERTIES
        },
    )
)
def test_the_bytes_are_those_of_the_amqp_package(given_: dict[str, Any]) -> None:
    """Properties are, byte for byte, what the amqp package makes of them."""
    assert encode_properties(given_) == Message("", **given_)._serialize_properties()
