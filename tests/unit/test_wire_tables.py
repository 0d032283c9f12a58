"""Properties and field tables as bytes, against known bytes and the amqp package's coder."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from amqp.basic_message import Message
from hypothesis import given
from hypothesis import strategies as st

from carrot.backends.pyamqplib.tables import (
    PROPERTIES,
    decode_properties,
    encode_properties,
    encode_table,
)
from carrot.exceptions import DecodeError, EncodeError

short_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
moments = st.datetimes(min_value=datetime(1970, 1, 1)).map(lambda d: d.replace(microsecond=0))
decimals = st.builds(
    lambda number, scale: Decimal(number).scaleb(-scale),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 20),
)
scalars = (
    short_texts
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | moments
    | decimals
    | st.none()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short_texts, inner, max_size=4),
    max_leaves=12,
)
tables = st.dictionaries(short_texts, values, max_size=5)
octets = st.integers(0, 255)
properties = st.fixed_dictionaries(
    {},
    optional={
        name: {"s": short_texts, "F": tables, "o": octets, "L": st.integers(0, 2**64 - 1)}[kind]
        for name, kind in PROPERTIES
    },
)


def by_the_package(data: bytes) -> dict[str, Any]:
    message = Message()
    assert message._load_properties(60, data, 0) == len(data)
    return message.properties


@given(properties)
def test_the_amqp_package_reads_what_we_write(given_: dict[str, Any]) -> None:
    """Every property and table type is understood by the amqp package as it was meant."""
    assert by_the_package(encode_properties(given_)) == given_


@given(properties)
def test_we_read_what_the_amqp_package_writes(given_: dict[str, Any]) -> None:
    """Every property and table type that the amqp package writes is read as it reads it."""
    data = Message("", **given_)._serialize_properties()
    assert decode_properties(data) == by_the_package(data)


@given(properties)
def test_what_is_written_is_read(given_: dict[str, Any]) -> None:
    """Writing and reading properties returns them."""
    assert decode_properties(encode_properties(given_)) == given_


@pytest.mark.parametrize(
    "given_, data",
    [
        ({}, "0000"),
        ({"content_type": "a/b", "delivery_mode": 2}, "9000 03 612f62 02"),
        ({"priority": 0}, "0800 00"),
        ({"timestamp": 1}, "0040 0000000000000001"),
        ({"timestamp": datetime(1970, 1, 1, 0, 0, 1)}, "0040 0000000000000001"),
        ({"application_headers": {}}, "2000 00000000"),
        ({"application_headers": {"k": None}}, "2000 00000003 01 6b 56"),
        ({"application_headers": {"k": True}}, "2000 00000004 01 6b 74 01"),
        ({"application_headers": {"k": -1}}, "2000 00000007 01 6b 49 ffffffff"),
        ({"application_headers": {"k": 2**31}}, "2000 0000000b 01 6b 6c 0000000080000000"),
        ({"application_headers": {"k": "é"}}, "2000 00000009 01 6b 53 00000002 c3a9"),
        ({"application_headers": {"k": b"\xff"}}, "2000 00000008 01 6b 78 00000001 ff"),
        (
            {"application_headers": {"k": [1.0]}},
            "2000 00000010 016b41 00000009 643ff00000 00000000",
        ),
        ({"application_headers": {"k": {}}}, "2000 00000007 01 6b 46 00000000"),
        ({"application_headers": {"k": Decimal("-1.5")}}, "2000 00000008 016b44 01 fffffff1"),
        (
            {"cluster_id": "c", "app_id": "a", "user_id": "u", "type": "t"},
            "003c 0174 0175 0161 0163",
        ),
    ],
)
def test_golden_bytes(given_: dict[str, Any], data: str) -> None:
    """Each property and field type is, byte for byte, what RabbitMQ's table of types says."""
    assert encode_properties(given_) == bytes.fromhex(data)


@pytest.mark.parametrize(
    "field, value",
    [
        ("62 ff", -1),
        ("42 ff", 255),
        ("73 fffe", -2),
        ("55 fffe", -2),
        ("75 fffe", 65534),
        ("69 ffffffff", 2**32 - 1),
        ("4c ffffffffffffffff", -1),
        ("66 3f800000", 1.0),
        ("53 00000002 ff00", b"\xff\x00"),
        ("54 ffffffffffffffff", 2**64 - 1),
    ],
)
def test_types_that_only_others_write(field: str, value: Any) -> None:
    """Field types that carrot never writes are read as RabbitMQ means them."""
    table = b"\x01k" + bytes.fromhex(field)
    data = b"\x20\x00" + len(table).to_bytes(4, "big") + table
    assert decode_properties(data)["application_headers"] == {"k": value}


def test_aware_times_are_sent_as_utc() -> None:
    """A ``datetime`` with a time zone arrives as the same moment, in UTC."""
    east = datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    sent = encode_properties({"application_headers": {"at": east}})
    assert decode_properties(sent)["application_headers"] == {"at": datetime(2020, 1, 1)}


def test_text_that_is_no_utf8_goes_both_ways() -> None:
    """Bytes in a text property that are no UTF-8 survive being received and sent again."""
    data = b"\x80\x00\x02\xff\xfe"
    assert encode_properties(decode_properties(data)) == data


_itself: dict[str, Any] = {}
_itself["me"] = _itself


@pytest.mark.parametrize(
    "given_, words",
    [
        ({"content_type": "x" * 256}, "256 bytes, more than 255"),
        ({"content_type": 3}, "content_type=3"),
        ({"content_type": "\ud800"}, "content_type"),
        ({"priority": 256}, "priority=256"),
        ({"priority": "high"}, "priority='high'"),
        ({"timestamp": -1}, "timestamp=-1"),
        ({"timestamp": 2**64}, "timestamp"),
        ({"application_headers": {"a": object()}}, "AMQP has no object"),
        ({"application_headers": {"a": {"b": {1, 2}}}}, "AMQP has no set"),
        ({"application_headers": {"big": 2**63}}, "'big'"),
        ({"application_headers": {1: "x"}}, "names in a table are str, not 1"),
        ({"application_headers": {"n" * 256: 1}}, "256 bytes"),
        ({"application_headers": {"d": Decimal("NaN")}}, "not a finite number"),
        ({"application_headers": {"d": Decimal(2**31)}}, "'d'"),
        ({"application_headers": {"t": datetime(1969, 1, 1)}}, "'t'"),
        ({"application_headers": "k"}, "application_headers='k'"),
        ({"application_headers": _itself}, "contains itself"),
    ],
)
def test_what_cannot_be_sent(given_: dict[str, Any], words: str) -> None:
    """A value that AMQP cannot express is an ``EncodeError`` that names it."""
    with pytest.raises(EncodeError) as caught:
        encode_properties(given_)
    assert words in str(caught.value)


def test_decimals_with_an_exponent() -> None:
    """A ``Decimal`` of tens is sent as the number that it is."""
    assert encode_table({"d": Decimal("1E+2")}) == bytes.fromhex("00000008 0164 44 00 00000064")


@given(st.binary(max_size=80))
def test_garbage_is_one_error(data: bytes) -> None:
    """Properties of random bytes are decoded, or are a ``DecodeError``; nothing else."""
    try:
        decode_properties(data)
    except DecodeError as exc:
        assert exc.body == data


@given(properties, st.data())
def test_cut_off_properties_are_an_error(given_: dict[str, Any], data: st.DataObject) -> None:
    """Properties that miss their end, or have bytes after it, are a ``DecodeError``."""
    encoded = encode_properties(given_)
    with pytest.raises(DecodeError):
        decode_properties(encoded + b"\x00")
    with pytest.raises(DecodeError):
        decode_properties(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_deep_nesting_is_an_error() -> None:
    """Tables nested so deeply that Python gives up are a ``DecodeError``."""
    data = b""
    for _ in range(5000):
        data = b"\x01kF" + len(data).to_bytes(4, "big") + data
    with pytest.raises(DecodeError):
        decode_properties(b"\x20\x00" + len(data).to_bytes(4, "big") + data)
