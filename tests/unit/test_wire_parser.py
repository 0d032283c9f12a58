"""Frames that are read: however they are cut, whatever they contain."""

from __future__ import annotations

import struct
import weakref
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps
from hypothesis import given, settings
from hypothesis import strategies as st

from carrot.backends.pyamqplib import parser as parser_module
from carrot.backends.pyamqplib.delivery import Delivery
from carrot.backends.pyamqplib.parser import CONFIRM, FETCHED, METHOD, RETURNED, Parser
from carrot.backends.pyamqplib.wire import HEARTBEAT, ProtocolError, method_frame
from tests.unit.test_wire_frames import split
from tests.unit.test_wire_tables import properties

FRAME_MAX = 4096
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
tags = st.integers(1, 2**64 - 1)

deliveries = st.tuples(
    st.just(spec.Basic.Deliver), names, tags, st.booleans(), names, names
).map(lambda d: (d[0], "sLbss", d[1:]))
fetched = st.tuples(tags, st.booleans(), names, names, st.integers(0, 2**32 - 1)).map(
    lambda d: (spec.Basic.GetOk, "Lbssl", d)
)
returned = st.tuples(st.integers(0, 65535), names, names, names).map(
    lambda d: (spec.Basic.Return, "Bsss", d)
)
contents = st.tuples(
    deliveries | fetched | returned,
    properties,
    st.binary(max_size=20) | st.binary(min_size=4000, max_size=9000),
)
confirms = st.tuples(
    st.sampled_from([spec.Basic.Ack, spec.Basic.Nack]), tags, st.booleans()
).map(lambda c: ((c[0], "Lb", c[1:]), {}, None))
methods = st.just(((spec.Queue.DeclareOk, "sll", ("q", 1, 2)), {}, None))
sent = st.lists(contents | confirms | methods, max_size=6)


def written(channel: int, what: Any) -> bytes:
    """Return the frames that the amqp package's writer makes of something."""
    (sig, format_, arguments), given_, body = what
    out: list[bytes] = []
    transport = SimpleNamespace(write=lambda data: out.append(bytes(data)))
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    content = None if body is None else Message(body, **given_)
    write = frame_writer(connection, transport)
    write(1, channel, sig, dumps(format_, arguments), content)
    return b"".join(out)


def as_sent(channel: Any, what: Any) -> Any:
    """Return what an event for something has to say."""
    (sig, _, arguments), given_, body = what
    if sig == spec.Basic.Deliver:
        consumer_tag, tag, redelivered, *route = arguments
        return consumer_tag, tag, redelivered, tuple(route), given_, body
    if sig == spec.Basic.GetOk:
        tag, redelivered, *route, count = arguments
        return FETCHED, channel, tag, redelivered, tuple(route), count, given_, body
    if sig == spec.Basic.Return:
        code, text, *route = arguments
        return RETURNED, channel, code, text, tuple(route), given_, body
    if sig in (spec.Basic.Ack, spec.Basic.Nack):
        return CONFIRM, channel, *arguments, sig == spec.Basic.Ack
    return METHOD, channel.number, sig


def as_read(event: Any) -> Any:
    """Return what an event says, in the same form."""
    if isinstance(event, Delivery):
        return (
            event.kind.consumer_tag,
            event.delivery_tag,
            event.kind.redelivered,
            event.kind.route,
            event.properties,
            event.body,
        )
    kind, channel, *more = event
    if kind == FETCHED:
        d = more[0]
        return (
            *(FETCHED, channel, d.delivery_tag, d.kind.redelivered, d.kind.route),
            *(d.message_count, d.properties, d.body),
        )
    if kind == RETURNED:
        d, code, text = more
        return RETURNED, channel, code, text, d.kind.route, d.properties, d.body
    if kind == METHOD:
        return METHOD, channel, struct.unpack_from(">HH", more[0])
    return event


def channels(*numbers: int) -> dict[int, Any]:
    return {number: SimpleNamespace(number=number) for number in numbers}


def read(parser: Parser, *pieces: bytes) -> list[Any]:
    events: list[Any] = []
    for piece in pieces:
        parser.feed(piece, events)
    return [as_read(event) for event in events]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if start < end]


@given(sent, st.lists(st.integers(0, 2**16), max_size=8))
def test_what_the_amqp_package_writes_is_read(what: list[Any], places: list[int]) -> None:
    """All that the amqp package's writer makes is read as meant, wherever it is cut."""
    data = b"".join(written(1, each) for each in what)
    open_ = channels(1)
    assert read(Parser(open_, FRAME_MAX), *cut(data, places)) == [
        as_sent(open_[1], each) for each in what
    ]


@st.composite
def runs(draw: st.DrawFn) -> list[Any]:
    """Return messages, most of which look like an earlier one."""
    what: list[Any] = []
    pool = draw(st.lists(contents | confirms, min_size=1, max_size=3))
    for message in draw(st.lists(st.sampled_from(pool), min_size=1, max_size=12)):
        (sig, format_, arguments), given_, body = message
        if sig == spec.Basic.Deliver:
            tag, body = draw(st.tuples(tags, st.binary(max_size=9)))
            message = (sig, format_, (arguments[0], tag, *arguments[2:])), given_, body
        what += [message] * draw(st.sampled_from([1, 1, 3]))
    return what


class Plodding(Parser):
    """Looks at each message as if it were the first."""

    def _alike(self, data: bytes, position: int, *more: Any) -> int:
        return position


@given(runs(), st.lists(st.integers(0, 2**16), max_size=3), st.data())
def test_messages_that_look_alike(what: list[Any], places: list[int], data: Any) -> None:
    """Runs of similar messages are read as meant; damaged ones, as by a parser that plods."""
    stream = bytearray(b"".join(written(1, each) for each in what))
    open_ = channels(1)
    assert read(Parser(open_, FRAME_MAX), *cut(bytes(stream), places)) == [
        as_sent(open_[1], each) for each in what
    ]
    for _ in range(data.draw(st.integers(1, 2))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    outcomes = []
    for kind in (Parser, Plodding):
        events: list[Any] = []
        refused = False
        try:
            parser = kind(open_, FRAME_MAX)
            for piece in cut(bytes(stream), places):
                parser.feed(piece, events)
        except ProtocolError:
            refused = True
        outcomes.append((refused, [repr(event) for event in events]))
    assert outcomes[0] == outcomes[1]


def test_alike_on_another_channel_of_the_same_number() -> None:
    """What looks like the last one belongs to the channel that is open now, if one is."""
    alike = ((spec.Basic.Deliver, "sLbss", ("c", 1, False, "e", "k")), {}, b"x")
    open_: dict[int, Any] = {}
    parser = Parser(open_, FRAME_MAX)
    for _ in range(2):
        open_[1] = object()
        events: list[Any] = []
        parser.feed(written(1, alike) * 4, events)
        assert [event.channel for event in events] == [open_[1]] * 4
    del open_[1]
    with pytest.raises(ProtocolError, match="channel 1, which is not open"):
        parser.feed(written(1, alike), [])


def test_forgetting_lets_channels_go() -> None:
    """What deliveries look like is remembered with their channel, until told to forget."""
    alike = ((spec.Basic.Deliver, "sLbss", ("c", 1, False, "e", "k")), {}, b"x")
    open_: dict[int, Any] = {1: Parser({})}  # anything
    parser = Parser(open_, FRAME_MAX)
    parser.feed(written(1, alike) * 4, [])
    channel = weakref.ref(open_.pop(1))
    assert channel() is not None
    parser.forget()
    assert channel() is None


@settings(max_examples=30)
@given(sent)
def test_one_byte_at_a_time(what: list[Any]) -> None:
    """Frames that arrive byte by byte are read as those that arrive together."""
    data = b"".join(written(1, each) for each in what)
    pieces = [data[i : i + 1] for i in range(len(data))]
    open_ = channels(1)
    assert read(Parser(open_, FRAME_MAX), *pieces) == [as_sent(open_[1], each) for each in what]


@given(st.lists(contents, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_channels_interleave(what: list[Any], random: Any) -> None:
    """Frames of several channels may come in any order but each channel's own."""
    waiting = [split(written(number, each)) for number, each in enumerate(what, 1)]
    data = b""
    while any(waiting):
        kind, number, payload = random.choice([w for w in waiting if w]).pop(0)
        data += struct.pack(">BHI", kind, number, len(payload)) + payload + b"\xce"
        data += random.choice([b"", HEARTBEAT])
    open_ = channels(*range(1, len(what) + 1))
    places = [random.randrange(len(data)) for _ in range(3)]
    events = read(Parser(open_, FRAME_MAX), *cut(data, places))
    expected = [as_sent(open_[number], each) for number, each in enumerate(what, 1)]
    for event in expected:
        events.remove(event)
    assert events == []


@given(contents)
def test_deliveries_look_like_the_amqp_packages(what: Any) -> None:
    """A delivery has the attributes, and their values, of the amqp package's messages."""
    ((sig, format_, arguments), _, _) = what
    messages: list[Any] = []
    counted = SimpleNamespace(bytes_recv=0)
    handle = frame_handler(counted, lambda *arguments: messages.append(arguments[3]))
    data = written(1, what)
    for frame in split(data):
        handle(frame)
    events: list[Any] = []
    Parser(channels(1), FRAME_MAX).feed(data, events)
    ours = events[0] if isinstance(events[0], Delivery) else events[0][2]
    (theirs,) = messages
    assert ours.properties == theirs.properties
    assert ours.headers == theirs.headers
    assert (ours.body or "") == (theirs.body or "")
    assert ours.content_type == theirs.properties.get("content_type")
    assert ours.content_encoding == theirs.properties.get("content_encoding")
    if sig != spec.Basic.Return:
        fields = {"sLbss": "consumer_tag delivery_tag redelivered exchange routing_key"}
        fields["Lbssl"] = "delivery_tag redelivered exchange routing_key message_count"
        known = dict(zip(fields[format_].split(), arguments, strict=True))
        assert ours.delivery_info == known
    assert str(len(ours.body)) in repr(ours)


def a_delivery(body: bytes = b"body", channel: int = 1, **given_: Any) -> bytes:
    arguments = ("tag", 7, False, "e", "k")
    return written(channel, ((spec.Basic.Deliver, "sLbss", arguments), given_, body))


def test_properties_are_nobody_elses() -> None:
    """Messages with the same properties have a dictionary each."""
    events: list[Any] = []
    Parser(channels(1)).feed(a_delivery(application_headers={"a": [1]}) * 2, events)
    events[0].properties["application_headers"]["a"].append(2)
    assert events[1].headers == {"a": [1]}
    assert events[0].headers == {"a": [1, 2]}


def test_many_different_messages_are_remembered_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Routing keys and properties that never repeat do not fill the memory."""
    monkeypatch.setattr(parser_module, "_CACHED", 4)
    parser = Parser(channels(1))
    for number in range(50):
        arguments = (f"tag{number}", 7, False, "e", f"k{number}")
        given_ = {"message_id": str(number)}
        data = written(1, ((spec.Basic.Deliver, "sLbss", arguments), given_, b"x"))
        ((tag, _, _, route, found, _),) = read(parser, data)
        assert (tag, route, found) == (f"tag{number}", ("e", f"k{number}"), given_)
    caches = (parser._tags, parser._routes, parser._properties)
    assert all(len(cache) <= 4 for cache in caches)


def test_a_large_body_is_copied_once() -> None:
    """What is kept of a body in several frames are views of what was received."""
    body = bytes(10_000)
    data = a_delivery(body)
    parser = Parser(channels(1), FRAME_MAX)
    events: list[Any] = []
    parser.feed(data[:5000], events)
    assert all(isinstance(c, (bytes, memoryview)) for c in parser._contents[1].chunks)
    assert parser._rest == b""
    parser.feed(data[5000:], events)
    assert events[0].body == body


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


HEADER = bytes.fromhex("003c 0000 0000000000000004 0000")
DELIVER = split(a_delivery())[0][2]


@pytest.mark.parametrize(
    "data",
    [
        b"AMQP\x00\x00\x09\x01",
        b"HTTP/1.1 400 Bad Request\r\n",
        bytes.fromhex("15030100020228"),
        frame(1, 1, bytes(10), b"\xcd"),
        frame(4, 1, b"x") + HEARTBEAT,
        frame(8, 1, b""),
        frame(8, 0, b"x"),
        frame(1, 1, b"\0\x3c"),
        struct.pack(">BHI", 1, 1, FRAME_MAX) + b"x",
        frame(2, 1, HEADER),
        frame(3, 1, b"body"),
        frame(1, 1, DELIVER) + frame(1, 1, DELIVER),
        frame(1, 1, DELIVER) + frame(3, 1, b"body"),
        frame(1, 1, DELIVER) + frame(2, 1, HEADER) + frame(2, 1, HEADER),
        frame(1, 1, DELIVER) + frame(2, 1, HEADER) + frame(3, 1, b"bodyy"),
        frame(1, 1, DELIVER) + frame(2, 1, HEADER[:12]),
        frame(1, 1, DELIVER) + frame(2, 1, b"\0\x3d" + HEADER[2:]),
        frame(1, 1, DELIVER) + frame(2, 1, HEADER[:4] + b"\xff" * 8 + b"\0\0"),
        frame(1, 1, DELIVER) + frame(2, 1, HEADER[:12] + b"\x80\0\x09x") + frame(3, 1, b"body"),
        frame(1, 1, DELIVER[:5] + b"tag") + frame(2, 1, HEADER) + frame(3, 1, b"body"),
        frame(1, 1, DELIVER[:4] + b"\xff") + frame(2, 1, HEADER) + frame(3, 1, b"body"),
        frame(1, 1, DELIVER + b"x") + frame(2, 1, HEADER) + frame(3, 1, b"body"),
        frame(1, 2, DELIVER) + frame(2, 2, HEADER) + frame(3, 2, b"body"),
        method_frame(2, (60, 80), bytes(9)),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_is_no_amqp(data: bytes, size: int) -> None:
    """Whatever breaks the rules is a ``ProtocolError``, however it is cut."""
    parser = Parser(channels(1), FRAME_MAX)
    with pytest.raises(ProtocolError):
        for at in range(0, len(data), size):
            parser.feed(data[at : at + size], [])
        parser.feed(HEARTBEAT * 2, [])


def test_what_came_before_garbage_stands() -> None:
    """Events before the place where it goes wrong are there nevertheless."""
    events: list[Any] = []
    with pytest.raises(ProtocolError):
        Parser(channels(1)).feed(a_delivery() + b"\xff" * 8, events)
    assert [event.body for event in events] == [b"body"]


@given(st.data())
def test_damaged_frames_are_read_or_refused(data: st.DataObject) -> None:
    """Frames with a byte or two changed are read, or are a ``ProtocolError``; nothing else."""
    what = data.draw(sent)
    stream = bytearray(b"".join(written(1, each) for each in what) + HEARTBEAT)
    for _ in range(data.draw(st.integers(1, 2))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    places = data.draw(st.lists(st.integers(0, 2**16), max_size=3))
    parser = Parser(channels(1), FRAME_MAX)
    try:
        for piece in cut(bytes(stream), places):
            parser.feed(piece, [])
    except ProtocolError:
        pass


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_garbage_is_read_or_refused(pieces: list[bytes]) -> None:
    """Random bytes are a ``ProtocolError``, or the beginning of something."""
    parser = Parser(channels(1), FRAME_MAX)
    try:
        for piece in pieces:
            parser.feed(piece, [])
    except ProtocolError:
        pass
