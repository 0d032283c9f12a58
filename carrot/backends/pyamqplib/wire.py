"""AMQP 0-9-1 frames as bytes: those that are written often. No I/O.

A frame is ``type(1) channel(2) size(4) payload(size) 0xCE``. A message takes a
method frame, a header frame and, unless it is empty, body frames
(specification, sections 4.2.3 and 2.3.5).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as struct_error
from typing import Any

from carrot.exceptions import ConfigurationError, ConnectionLost, EncodeError

__all__ = [
    "END",
    "HEARTBEAT",
    "OVERHEAD",
    "ProtocolError",
    "method_frame",
    "publish_beginning",
    "publish_frames",
    "publish_prefix",
    "settle_frame",
    "shortstr",
]

_method_head = Struct(">BHIHH")
# Of the frame of ``basic.ack``, ``reject`` and ``nack``: 1, channel, 13, 60,
# method, delivery tag, bits, 0xCE.
_pack_settlement = Struct(">BHIHHQBB").pack
_pack_size = Struct(">I").pack
_pack_body_size = Struct(">Q").pack

END = b"\xce"
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

#: Bytes of a frame that are not its payload.
OVERHEAD = 8


class ProtocolError(ConnectionLost):
    """The peer sent something that is no AMQP 0-9-1, or not now."""


def shortstr(value: Any, what: str) -> bytes:
    """Return a name as a short string: its length, then UTF-8.

    :raises ConfigurationError: it is no ``str``, or longer than 255 bytes.
    """
    if not isinstance(value, str):
        raise ConfigurationError(
            f"{what} must be str, not {type(value).__name__}: {value!r:.80}"
        )
    try:
        data = value.encode("utf-8", "surrogateescape")
    except UnicodeError as exc:
        raise ConfigurationError(f"{what} is no text that UTF-8 can express: {exc}") from exc
    if len(data) > 255:
        raise ConfigurationError(
            f"{what} has {len(data)} bytes, AMQP allows 255: {value[:60]!r}..."
        )
    return bytes((len(data),)) + data


def method_frame(number: int, signature: tuple[int, int], arguments: bytes) -> bytes:
    """Return the frame of a method without content."""
    return _method_head.pack(1, number, 4 + len(arguments), *signature) + arguments + END


def settle_frame(number: int, method: int, delivery_tag: int, bits: int) -> bytes:
    """Return the frame of ``basic.ack`` (80), ``reject`` (90) or ``nack`` (120)."""
    try:
        return _pack_settlement(1, number, 13, 60, method, delivery_tag, bits, 0xCE)
    except struct_error as exc:
        raise ConfigurationError(f"{delivery_tag!r} is no delivery tag: {exc}") from exc


def publish_prefix(
    number: int, exchange: str, routing_key: str, mandatory: bool, properties: bytes, room: int
) -> tuple[bytes, bytes]:
    """Return what surrounds the body's size in the frames of a message.

    :param properties: flags and list, encoded.
    :param room: bytes that the payload of a frame may have.
    :returns: all up to the size of the body; the rest of the header frame
        and the beginning of a body frame, up to its size.
    """
    arguments = b"\x00\x00%b%b%b" % (
        shortstr(exchange, "exchange"),
        shortstr(routing_key, "routing_key"),
        b"\x01" if mandatory else b"\x00",
    )
    size = 12 + len(properties)
    if size > room:
        raise EncodeError(
            f"the message's properties take {size} bytes, the broker allows {room}"
        )
    head = method_frame(number, (60, 40), arguments) + _method_head.pack(2, number, size, 60, 0)
    return head, properties + END + b"\x03" + number.to_bytes(2, "big")


def publish_beginning(prefix: tuple[bytes, bytes]) -> Callable[[bytes, int, bytes, int], bytes]:
    """Return what packs the frames of a message up to its body, if that is one frame.

    It is called with the first half of the *prefix*, the body's size, the
    second half, and the size again.
    """
    head, tail = prefix
    return Struct(f">{len(head)}sQ{len(tail)}sI").pack


def publish_frames(prefix: tuple[bytes, bytes], body: bytes, room: int) -> list[Any]:
    """Return the frames of a message, in pieces that share the body's memory.

    :param prefix: of :func:`publish_prefix`.
    :param room: bytes that the payload of a frame may have.
    """
    head, tail = prefix
    length = len(body)
    head += _pack_body_size(length)
    if not length:
        return [head + tail[:-3]]
    if length <= room:
        return [head + tail + _pack_size(length), body, END]
    start = tail[-3:]
    view = memoryview(body)
    pieces: list[Any] = [head + tail[:-3]]
    for at in range(0, length, room):
        chunk = view[at : at + room]
        pieces[-1] += start + _pack_size(len(chunk))
        pieces += [chunk, END]
    return pieces
