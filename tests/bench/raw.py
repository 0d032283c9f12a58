"""The broker's own limit: ready-made frames, pushed down a socket.

What it confirms when nobody spends time on encoding is the most that any
client of one connection can get out of it.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import amqp

from tests.bench.plan import WINDOW, WINDOW_BYTES, Size

if TYPE_CHECKING:
    from tests.bench.target import Target

__all__ = ["Pusher", "body_of", "encoded"]

_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC, _PUBLISH, _ACK, _NACK = 60, 40, 80, 120
#: Which properties follow: content type, content encoding, delivery mode.
_PROPERTY_FLAGS = 0x8000 | 0x4000 | 0x1000
_PERSISTENT = 2
#: Seconds without any answer after which the broker is given up.
_PATIENCE = 60.0


class Pusher:
    """A connection whose socket is written to directly, in confirm mode."""

    def __init__(self, target: Target) -> None:
        self.connection: Any = amqp.Connection(
            host=f"{target.host}:{target.port}",
            userid=target.userid,
            password=target.password,
            virtual_host=target.vhost,
            login_method="PLAIN",
            heartbeat=0,
        )
        self.connection.connect()
        self._target = target
        self._channel: Any = self.connection.channel()
        self._channel.confirm_select()
        self._tally = Tally()

    def push(self, size: Size, count: int) -> None:
        """Publish so many messages; return when the broker has confirmed them all."""
        sock = self.connection.transport.sock
        sock.settimeout(_PATIENCE)
        frames = self.frames(size)
        window = max(1, min(WINDOW, WINDOW_BYTES // len(frames)))
        ready = memoryview(frames * min(window, count))
        tally, sent, first = self._tally, 0, self._tally.confirmed
        while (outstanding := sent - (tally.confirmed - first)) or sent < count:
            room = min(window - outstanding, count - sent)
            if room > 0:
                sock.sendall(ready[: room * len(frames)])
                sent += room
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("the broker closed the connection")
            tally.feed(data)
        sock.settimeout(None)

    def frames(self, size: Size) -> bytes:
        """Return the frames that publish one message of this size."""
        target = self._target
        return encoded(
            self._channel.channel_id,
            target.exchange,
            target.queue,
            size,
            self.connection.frame_max,
        )

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


class Tally:
    """Counts what the broker confirmed of the messages of a channel."""

    def __init__(self) -> None:
        #: Messages confirmed so far.
        self.confirmed = 0
        self._rest = b""
        self._lowest = 1  # of the tags that are not confirmed
        self._singles: set[int] = set()  # confirmed, above the lowest

    def feed(self, data: bytes) -> None:
        """Read what came from the broker, in pieces of any length.

        :raises RuntimeError: it was no confirmation.
        """
        data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 8:
            kind, _, length = struct.unpack_from(">BHI", data, at)
            if end - at < length + 8:
                break
            if kind == _METHOD:
                family, method = struct.unpack_from(">HH", data, at + 7)
                if (family, method) != (_BASIC, _ACK):
                    text = data[at + 11 : at + 7 + length]
                    raise RuntimeError(f"the broker sent method {family}.{method}: {text!r}")
                self.confirm(*struct.unpack_from(">Q?", data, at + 11))
            at += length + 8
        self._rest = data[at:]

    def confirm(self, tag: int, multiple: bool) -> None:
        """Count a message, or all up to a tag that were not counted yet."""
        if multiple:
            known = {single for single in self._singles if single <= tag}
            self.confirmed += tag + 1 - self._lowest - len(known)
            self._singles -= known
            self._lowest = tag + 1
        else:
            self.confirmed += 1
            self._singles.add(tag)
            while self._lowest in self._singles:
                self._singles.remove(self._lowest)
                self._lowest += 1


def body_of(size: Size) -> bytes:
    """Return the body as every client sends it."""
    data = size.data()
    return data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()


def encoded(channel: int, exchange: str, key: str, size: Size, frame_max: int) -> bytes:
    """Return the frames of one persistent message: method, header, body."""
    body = body_of(size)
    content_type = "application/json" if size.json else "application/data"
    content_encoding = "utf-8" if size.json else "binary"
    publish = struct.pack(">HHH", _BASIC, _PUBLISH, 0)
    publish += _short(exchange) + _short(key) + b"\0"
    header = struct.pack(">HHQH", _BASIC, 0, len(body), _PROPERTY_FLAGS)
    header += _short(content_type) + _short(content_encoding) + bytes([_PERSISTENT])
    room = frame_max - 8
    pieces = [body[at : at + room] for at in range(0, len(body), room)]
    frames = [(_METHOD, publish), (_HEADER, header), *((_BODY, piece) for piece in pieces)]
    return b"".join(
        struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"
        for kind, payload in frames
    )


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
