"""Frames that are written: against known bytes, and read by the amqp package's coder."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.serialization import loads
from hypothesis import given
from hypothesis import strategies as st

from carrot.backends.pyamqplib.tables import encode_properties
from carrot.backends.pyamqplib.wire import (
    method_frame,
    publish_frames,
    publish_prefix,
    settle_frame,
    shortstr,
)
from carrot.exceptions import ConfigurationError, EncodeError

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def split(data: bytes) -> list[tuple[int, int, bytes]]:
    """Return type, channel and payload of each frame."""
    frames = []
    while data:
        kind, channel, size = struct.unpack_from(">BHI", data)
        assert data[7 + size] == 0xCE
        frames.append((kind, channel, data[7 : 7 + size]))
        data = data[8 + size :]
    return frames


def published(body: bytes, room: int, **changes: Any) -> bytes:
    arguments = {"number": 1, "exchange": "e", "routing_key": "k", "mandatory": False}
    arguments.update(changes)
    prefix = publish_prefix(**arguments, properties=b"\0\0", room=room)
    return b"".join(publish_frames(prefix, body, room))


@given(
    st.integers(1, 65535),
    names,
    names,
    st.booleans(),
    st.binary(max_size=100),
    st.integers(30, 60),
)
def test_a_message_is_what_the_amqp_package_reads(
    number: int, exchange: str, routing_key: str, mandatory: bool, body: bytes, room: int
) -> None:
    """Method, header and body frames of a message, of any size, say what was published."""
    properties = {"content_type": "x", "delivery_mode": 2}
    prefix = publish_prefix(
        number, exchange, routing_key, mandatory, encode_properties(properties), room
    )
    data = b"".join(publish_frames(prefix, body, room))
    (kind, channel, method), (header_kind, _, header), *bodies = split(data)
    assert (kind, channel, method[:4]) == (1, number, b"\0\x3c\0\x28")
    arguments, _ = loads("Bssbb", method, 4)
    assert arguments == [0, exchange, routing_key, mandatory, False]
    message = Message()
    assert header_kind == 2
    message.inbound_header(header)
    assert message.properties == properties
    assert message.body_size == len(body)
    assert [kind for kind, _, _ in bodies] == [3] * -(-len(body) // room)
    assert all(len(payload) == room for _, _, payload in bodies[:-1])
    assert b"".join(payload for _, _, payload in bodies) == body
    assert {channel for _, channel, _ in split(data)} == {number}


def test_the_golden_message() -> None:
    """A small message is these bytes: method, header, and one body frame."""
    assert published(b"hello", 4088, mandatory=True) == bytes.fromhex(
        "01 0001 0000000b 003c 0028 0000 01 65 01 6b 01 ce"
        "02 0001 0000000e 003c 0000 0000000000000005 0000 ce"
        "03 0001 00000005 68656c6c6f ce"
    )


def test_an_empty_message_has_no_body_frame() -> None:
    """A body of no bytes is a header that says 0, and nothing after it."""
    assert published(b"", 4088)[-10:] == bytes.fromhex("00000000 0000 0000 0000 ce")[-10:]
    assert len(split(published(b"", 4088))) == 2


def test_a_large_body_is_not_copied() -> None:
    """The pieces of a message of several frames share the memory of its body."""
    body = bytes(range(256)) * 8
    prefix = publish_prefix(1, "", "", False, b"\0\0", 1000)
    pieces = publish_frames(prefix, body, 1000)
    chunks = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert [len(chunk) for chunk in chunks] == [1000, 1000, 48]
    assert all(chunk.obj is body for chunk in chunks)


@pytest.mark.parametrize(
    "method, bits, data",
    [
        (80, 0, "01 0002 0000000d 003c 0050 0000000000000007 00 ce"),
        (80, 1, "01 0002 0000000d 003c 0050 0000000000000007 01 ce"),
        (90, 1, "01 0002 0000000d 003c 005a 0000000000000007 01 ce"),
        (120, 3, "01 0002 0000000d 003c 0078 0000000000000007 03 ce"),
    ],
)
def test_golden_settlements(method: int, bits: int, data: str) -> None:
    """Ack, reject and nack are these bytes."""
    assert settle_frame(2, method, 7, bits) == bytes.fromhex(data)


@pytest.mark.parametrize("tag", [-1, 2**64, "7"])
def test_what_is_no_delivery_tag(tag: Any) -> None:
    """A delivery tag that AMQP has no room for is a ``ConfigurationError``."""
    with pytest.raises(ConfigurationError, match="no delivery tag"):
        settle_frame(1, 80, tag, 0)


def test_a_method_frame() -> None:
    """A method without content is its number and its arguments."""
    assert method_frame(0, (10, 51), b"") == bytes.fromhex("01 0000 00000004 000a 0033 ce")


@pytest.mark.parametrize(
    "name, words",
    [
        (3, "routing_key must be str, not int"),
        (b"k", "must be str, not bytes"),
        (None, "must be str, not NoneType"),
        ("é" * 128, "has 256 bytes, AMQP allows 255"),
        ("\ud800", "no text that UTF-8 can express"),
    ],
)
def test_what_is_no_name(name: Any, words: str) -> None:
    """A name of the wrong type, or too long, is a ``ConfigurationError`` that says so."""
    with pytest.raises(ConfigurationError, match=words):
        shortstr(name, "routing_key")


def test_the_longest_name() -> None:
    """A name may have 255 bytes."""
    assert shortstr("x" * 255, "queue") == b"\xff" + b"x" * 255


def test_properties_beyond_a_frame() -> None:
    """Properties must fit one frame: more of them is an ``EncodeError``."""
    with pytest.raises(EncodeError, match="properties take 4090 bytes, the broker allows 4088"):
        publish_prefix(1, "", "", False, b"\0\0" + bytes(4076), 4088)
