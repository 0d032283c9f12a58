"""AMQP 0-9-1 frames as they are received: bytes in, events out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from struct import error as struct_error
from typing import Any

from carrot.backends.pyamqplib.delivery import Delivery, Kind, Properties
from carrot.backends.pyamqplib.wire import OVERHEAD, ProtocolError

__all__ = ["CONFIRM", "FETCHED", "METHOD", "RETURNED", "Parser"]

_frame_head = Struct(">BHI")
_content_head = Struct(">BHIHHQ")
_delivery_tag = Struct(">QB")
_size = Struct(">I")
_body_size = Struct(">Q")

#: RabbitMQ never took a body above 512 MiB; a bigger size is garbage.
MAX_BODY = 2**31

_DELIVER = b"\x00\x3c\x00\x3c"
_RETURN = b"\x00\x3c\x00\x32"
_GET_OK = b"\x00\x3c\x00\x47"
_ACK = b"\x00\x3c\x00\x50"
_NACK = b"\x00\x3c\x00\x78"
_WITH_CONTENT = frozenset([_DELIVER, _RETURN, _GET_OK])

#: Entries that each cache of a parser may hold before it begins anew.
_CACHED = 1024

#: Bytes of a body's part that are not copied before the body is complete.
_LARGE = 64 * 1024

#: Bytes of properties that are kept for messages with the same ones.
_SMALL = 1024

#: Kinds of events other than deliveries; each is the first item of a tuple:
#: ``(METHOD, channel number, payload)``,
#: ``(CONFIRM, channel, delivery tag, multiple, whether it is an ack)``,
#: ``(FETCHED, channel, Delivery)``,
#: ``(RETURNED, channel, Delivery, reply code, reply text)``.
METHOD, CONFIRM, FETCHED, RETURNED = range(4)


class _Content:
    """A message that has not arrived completely."""

    __slots__ = ("chunks", "encoded", "length", "method", "received")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.encoded: Properties | None = None
        self.length = self.received = 0
        self.chunks: list[Any] = []

    def add(self, chunk: Any) -> None:
        """Take a part of the body."""
        self.received += len(chunk)
        if self.received > self.length:
            raise ProtocolError("a message's body is longer than its header says")
        self.chunks.append(chunk)


#: A kind, the number of its channel, the bytes around delivery tag and size,
#: and what unpacks these and the size of the body frame.
_Looks = tuple[Kind, int, bytes, bytes, bytes, Struct]


class Parser:
    """Turns what is received, cut anywhere, into events.

    An event is a :class:`Delivery`, or one of the tuples described above.

    :param channels: the open channels by number; looked up, never changed.
    :param frame_max: bytes that a frame may have.
    """

    def __init__(self, channels: Mapping[int, Any], frame_max: int = 131072) -> None:
        self.channels = channels
        self.frame_max = frame_max
        # What was received of an incomplete frame.
        self._rest = b""
        # Number of the channel whose body frame is incomplete, and how many
        # bytes of payload it still lacks: such a frame is taken as it comes.
        self._open: tuple[int, int] | None = None
        self._contents: dict[int, _Content] = {}
        self._tags: dict[bytes, str] = {}
        self._routes: dict[bytes, tuple[str, str]] = {}
        self._properties: dict[bytes, Properties] = {}
        # What deliveries of a kind look like, of those that came twice, and of
        # the last one of them: see _alike.
        self._known: dict[tuple[bytes, bytes, bytes], _Looks] = {}
        self._looks: _Looks | None = None

    def feed(self, data: bytes, events: list[Any]) -> None:
        """Parse *data*, appending what is complete to *events*.

        :raises ProtocolError: it is no AMQP; the events before the place stand.
        """
        position = 0
        if self._open is not None:
            position = self._continue(data, events)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        total = len(data)
        limit = self.frame_max - OVERHEAD
        contents = self._contents
        while total - position > 7:
            if self._looks is not None and not contents:
                position = self._alike(data, position, total, limit, events)
                if total - position <= 7:
                    break
            kind, number, size = _frame_head.unpack_from(data, position)
            start = position + 7
            end = start + size
            if end >= total or size > limit:
                break
            if data[end] != 0xCE:
                raise ProtocolError(f"a frame ends with {data[end]:#04x}, not 0xce")
            if kind == 1 and number not in contents:
                method = data[start : start + 4]
                if method == _DELIVER:
                    position = self._deliver(data, start, end, number, limit, events)
                    if position:
                        continue
                if method in _WITH_CONTENT:
                    contents[number] = _Content(data[start:end])
                elif size == 13 and method in (_ACK, _NACK):
                    tag, bits = _delivery_tag.unpack_from(data, start + 4)
                    channel = self._channel(number)
                    events.append((CONFIRM, channel, tag, bits & 1 == 1, method == _ACK))
                elif size >= 4:
                    events.append((METHOD, number, data[start:end]))
                else:
                    raise ProtocolError(f"a method frame of {size} bytes")
            else:
                self._other(kind, number, data, start, end, events)
            position = end + 1
        if position < total:
            self._keep(data, position)

    # -- the common case: the frames of a message of one body frame, all there

    def _alike(
        self, data: bytes, position: int, total: int, limit: int, events: list[Any]
    ) -> int:
        """Take messages that differ from earlier ones in tag, size and body only.

        :returns: the position after them.
        """
        startswith, append = data.startswith, events.append
        looks, switched = self._looks, False
        while looks is not None:
            kind, number, head, middle, tail, numbers = looks
            if self.channels.get(number) is not kind.channel:
                break
            unpack, to_body = numbers.unpack_from, numbers.size
            to_middle = len(head) + 8
            to_tail = to_middle + len(middle) + 8
            begun = position
            while (
                startswith(head, position)
                and startswith(middle, position + to_middle)
                and startswith(tail, position + to_tail)
                and position + to_body < total
            ):
                tag, length, size = unpack(data, position)
                body_at = position + to_body
                end = body_at + length
                if (
                    size != length
                    or not 0 < length <= limit
                    or end >= total
                    or data[end] != 0xCE
                ):
                    break
                append(Delivery(kind, tag, data[body_at:end]))
                position = end + 1
            if switched and position == begun:
                break  # it only looks like one, or is not all there
            looks, switched = self._recalled(data, position), True
            if looks is not None:
                self._looks = looks
        return position

    def _recalled(self, data: bytes, position: int) -> _Looks | None:
        """Return the looks that a message at *position* has, if such a one came before."""
        if not data.startswith(_DELIVER, position + 7):
            return None
        try:
            (size,) = _size.unpack_from(data, position + 3)
            tag_at = position + 12 + data[position + 11]
            header_at = position + 8 + size
            (header_size,) = _size.unpack_from(data, header_at + 3)
        except (struct_error, IndexError):
            return None
        if header_size > _SMALL:
            return None
        size_at = header_at + 11
        tail = data[size_at + 8 : header_at + 11 + header_size]
        return self._known.get((data[position:tag_at], data[tag_at + 8 : size_at], tail))

    def _learn(self, kind: Kind, number: int, head: bytes, middle: bytes, tail: bytes) -> None:
        """Remember what deliveries of a kind look like."""
        numbers = Struct(f">{len(head)}xQ{len(middle)}xQ{len(tail)}xI")
        self._looks = kind, number, head, middle, tail, numbers
        self._remember(self._known, (head, middle, tail), self._looks)

    def forget(self) -> None:
        """Forget the looks of deliveries, and with them the channels that they came by."""
        self._known.clear()
        self._looks = None

    def _deliver(
        self, data: bytes, start: int, end: int, number: int, limit: int, events: list[Any]
    ) -> int:
        """Take a whole message that begins with the method at *start*.

        :returns: the position after it; 0 if it is not all there, or odd.
        """
        try:
            at = end + 1
            frame, owner, size, class_id, _, length = _content_head.unpack_from(data, at)
            header_end: int = at + 7 + size
            if frame != 2 or owner != number or class_id != 60 or data[header_end] != 0xCE:
                return 0
            body_at = header_end + 8
            if length:
                body_end: int = body_at + length
                if (
                    length > limit
                    or data[body_end] != 0xCE
                    or _frame_head.unpack_from(data, header_end + 1)
                    != (
                        3,
                        number,
                        length,
                    )
                ):
                    return 0
            else:
                body_end = header_end
        except (struct_error, IndexError):
            return 0
        tag_at = start + 5 + data[start + 4]
        if tag_at + 11 > end:
            raise ProtocolError("basic.deliver is cut off")
        key = data[start + 5 : tag_at]
        consumer_tag = self._tags.get(key)
        if consumer_tag is None:
            consumer_tag = self._remember(
                self._tags, key, key.decode("utf-8", "surrogateescape")
            )
        tag, redelivered = _delivery_tag.unpack_from(data, tag_at)
        key = data[tag_at + 9 : end]
        route = self._routes.get(key)
        properties = data[at + 19 : header_end]
        encoded = self._properties.get(properties)
        new = route is None or encoded is None
        if route is None:
            route = self._remember(self._routes, key, _route(key))
        if encoded is None:
            encoded = self._encoded(properties)
        kind = Kind(self._channel(number), consumer_tag, redelivered, route, encoded)
        if length and not new:
            head, middle = data[start - 7 : tag_at], data[tag_at + 8 : at + 11]
            self._learn(kind, number, head, middle, data[at + 19 : body_at - 4])
        events.append(Delivery(kind, tag, data[body_at:body_end]))
        return body_end + 1

    # -- everything else

    def _channel(self, number: int) -> Any:
        try:
            return self.channels[number]
        except KeyError:
            raise ProtocolError(f"a message on channel {number}, which is not open") from None

    def _encoded(self, data: bytes) -> Properties:
        if len(data) < 2:
            raise ProtocolError("a content header is cut off")
        encoded = Properties(data)
        if len(data) <= _SMALL:
            self._remember(self._properties, data, encoded)
        return encoded

    @staticmethod
    def _remember(cache: dict[Any, Any], key: Any, value: Any) -> Any:
        if len(cache) >= _CACHED:
            cache.clear()
        cache[key] = value
        return value

    def _other(
        self, kind: int, number: int, data: bytes, start: int, end: int, events: list[Any]
    ) -> None:
        """Take a frame that is no method, or comes amid a message."""
        content = self._contents.get(number)
        if kind == 8:
            if number or end > start:
                raise ProtocolError("a heartbeat with a channel or a payload")
        elif content is None or kind != (2 if content.encoded is None else 3):
            raise ProtocolError(
                f"a frame of type {kind} on channel {number}, where none may be"
            )
        else:
            if kind == 3:
                # A view keeps all of *data* alive: not for a small part of it.
                large = end - start >= _LARGE
                content.add(memoryview(data)[start:end] if large else data[start:end])
            else:
                if end - start < 14 or data[start : start + 2] != b"\x00\x3c":
                    raise ProtocolError("a content header that is none of class basic")
                (content.length,) = _body_size.unpack_from(data, start + 4)
                if content.length > MAX_BODY:
                    raise ProtocolError(f"a message of {content.length} bytes")
                content.encoded = self._encoded(data[start + 12 : end])
            self._finish(number, content, events)

    def _finish(self, number: int, content: _Content, events: list[Any]) -> None:
        """Make an event of a message if all of its body is there."""
        if content.received < content.length:
            return
        del self._contents[number]
        chunks = content.chunks
        body = bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)
        channel, method, encoded = self._channel(number), content.method, content.encoded
        assert encoded is not None
        try:
            if method.startswith(_DELIVER):
                at = 5 + method[4]
                tag, redelivered = _delivery_tag.unpack_from(method, at)
                consumer_tag = method[5:at].decode("utf-8", "surrogateescape")
                route = _route(method[at + 9 :])
                kind = Kind(channel, consumer_tag, redelivered, route, encoded)
                events.append(Delivery(kind, tag, body))
            elif method.startswith(_GET_OK):
                tag, redelivered = _delivery_tag.unpack_from(method, 4)
                route = _route(method[13:-4])
                delivery = Delivery(Kind(channel, None, redelivered, route, encoded), tag, body)
                (delivery.message_count,) = _size.unpack(method[-4:])
                events.append((FETCHED, channel, delivery))
            else:
                at = 7 + method[6]
                text = method[7:at].decode("utf-8", "replace")
                kind = Kind(channel, None, 0, _route(method[at:]), encoded)
                delivery = Delivery(kind, 0, body)
                code = int.from_bytes(method[4:6], "big")
                events.append((RETURNED, channel, delivery, code, text))
        except (struct_error, IndexError) as exc:
            raise ProtocolError("the method of a message is cut off") from exc

    def _keep(self, data: bytes, position: int) -> None:
        """Set aside the beginning of a frame, which is all that is left of *data*."""
        have = len(data) - position - 7
        if have > 0:
            kind, number, size = _frame_head.unpack_from(data, position)
            if kind not in (1, 2, 3, 8) or size > self.frame_max - OVERHEAD:
                raise ProtocolError(
                    f"no AMQP frame begins with {data[position : position + 8]!r}"
                )
            content = self._contents.get(number)
            if kind == 3 and content is not None and content.encoded is not None:
                view = memoryview(data)[position + 7 : position + 7 + size]
                content.add(view)
                self._open = (number, size - len(view))
                return
        self._rest = data[position:]

    def _continue(self, data: bytes, events: list[Any]) -> int:
        """Go on with an incomplete body frame; return the position after it."""
        assert self._open is not None
        number, missing = self._open
        content = self._contents[number]
        if len(data) <= missing:
            content.add(memoryview(data))
            self._open = (number, missing - len(data))
            return len(data)
        if missing:
            content.add(memoryview(data)[:missing])
        if data[missing] != 0xCE:
            raise ProtocolError(f"a frame ends with {data[missing]:#04x}, not 0xce")
        self._open = None
        self._finish(number, content, events)
        return missing + 1


def _route(data: bytes) -> tuple[str, str]:
    """Return exchange and routing key, two short strings that end *data*."""
    try:
        at = 1 + data[0]
        end = at + 1 + data[at]
    except IndexError:
        end = -1
    if end != len(data):
        raise ProtocolError("the method of a message is cut off")
    return (
        data[1:at].decode("utf-8", "surrogateescape"),
        data[at + 1 :].decode("utf-8", "surrogateescape"),
    )
