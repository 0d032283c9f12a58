"""The parser against frames written by hand, cut at each place, and frames gone wrong."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrot.backends.pyamqplib.delivery import Delivery
from carrot.backends.pyamqplib.parser import CONFIRM, FETCHED, METHOD, RETURNED, Parser
from carrot.backends.pyamqplib.wire import HEARTBEAT, ProtocolError
from carrot.exceptions import ConnectionLost, DecodeError

#: Any object will do for a channel.
CHANNELS = {1: "first", 2: "second"}

#: What a broker may send, frame by frame, and what it means once it is complete.
GOLDEN: list[tuple[str, Any]] = [
    # basic.deliver: tag "c", 5, redelivered, exchange "e", routing key "k"
    ("01 0001 00000013 003c 003c 01 63 0000000000000005 01 01 65 01 6b ce", None),
    ("02 0001 00000011 003c 0000 0000000000000003 9000 01 74 02 ce", None),
    (
        "03 0001 00000003 616263 ce",
        ("first", "c", 5, True, ("e", "k"), {"content_type": "t", "delivery_mode": 2}, b"abc"),
    ),
    ("08 0000 00000000 ce", None),
    # one of no bytes, with no names, not redelivered
    ("01 0002 00000010 003c 003c 00 0000000000000001 00 00 00 ce", None),
    (
        "02 0002 0000000e 003c 0000 0000000000000000 0000 ce",
        ("second", "", 1, False, ("", ""), {}, b""),
    ),
    # one in three body frames, one of them empty, amid another channel's
    ("01 0001 00000010 003c 003c 00 ffffffffffffffff 00 00 00 ce", None),
    ("02 0001 0000000e 003c 0000 0000000000000005 0000 ce", None),
    ("03 0001 00000004 ce 00 03 01 ce", None),
    ("01 0002 00000013 003c 003c 01 63 0000000000000002 00 01 65 01 6b ce", None),
    ("03 0001 00000000 ce", None),
    ("08 0000 00000000 ce", None),
    ("02 0002 00000010 003c 0000 0000000000000001 4000 01 62 ce", None),
    (
        "03 0001 00000001 ce ce",
        ("first", "", 2**64 - 1, False, ("", ""), {}, b"\xce\0\3\1\xce"),
    ),
    (
        "03 0002 00000001 78 ce",
        ("second", "c", 2, False, ("e", "k"), {"content_encoding": "b"}, b"x"),
    ),
    # basic.get-ok: 6, not redelivered, 7 left
    ("01 0001 00000015 003c 0047 0000000000000006 00 01 65 01 6b 00000007 ce", None),
    ("02 0001 0000000f 003c 0000 0000000000000002 0800 09 ce", None),
    (
        "03 0001 00000002 6869 ce",
        (FETCHED, "first", "first", None, 6, False, ("e", "k"), {"priority": 9}, b"hi", 7),
    ),
    # basic.return: 312 "no", and what was returned
    ("01 0002 0000000d 003c 0032 0138 02 6e6f 01 65 01 6b ce", None),
    ("02 0002 0000000e 003c 0000 0000000000000001 0000 ce", None),
    (
        "03 0002 00000001 72 ce",
        (RETURNED, "second", "second", None, 0, False, ("e", "k"), {}, b"r", 312, "no"),
    ),
    # basic.ack, basic.nack; the latter's second bit says nothing to a publisher
    ("01 0001 0000000d 003c 0050 0000000000000009 01 ce", (CONFIRM, "first", 9, True, True)),
    (
        "01 0002 0000000d 003c 0078 000000000000000a 02 ce",
        (CONFIRM, "second", 10, False, False),
    ),
    # channel.close-ok, basic.get-empty: left to those who know them
    ("01 0003 00000004 0014 0029 ce", (METHOD, 3, b"\x00\x14\x00\x29")),
    ("01 0001 00000005 003c 0048 00 ce", (METHOD, 1, b"\x00\x3c\x00\x48\x00")),
]
STREAM = b"".join(bytes.fromhex(frame) for frame, _ in GOLDEN)
EVENTS = [event for _, event in GOLDEN if event is not None]


def parsed(d: Delivery) -> tuple[Any, ...]:
    return (
        *(d.channel, d.kind.consumer_tag, d.delivery_tag, d.kind.redelivered, d.kind.route),
        *(d.properties, d.body),
    )


def as_tuple(event: Any) -> Any:
    """Return what an event says, without objects that equal only themselves."""
    if isinstance(event, Delivery):
        return parsed(event)
    if event[0] == FETCHED:
        return *event[:2], *parsed(event[2]), event[2].message_count
    if event[0] == RETURNED:
        return *event[:2], *parsed(event[2]), *event[3:]
    return event


def outcome(pieces: list[bytes], frame_max: int = 4096) -> tuple[list[Any], bool]:
    """Return the events that pieces mean, and whether they were refused."""
    parser = Parser(CHANNELS, frame_max)
    events: list[Any] = []
    try:
        for piece in pieces:
            parser.feed(piece, events)
    except ProtocolError:
        return events, True
    return events, False


def frame(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


# -- what is right


def test_golden_frames() -> None:
    """Each frame of the specification means what the specification says."""
    parser = Parser(CHANNELS)
    for data, event in GOLDEN:
        events: list[Any] = []
        parser.feed(bytes.fromhex(data), events)
        assert [as_tuple(each) for each in events] == [event] * (event is not None)


def test_all_at_once() -> None:
    """Frames that arrive together are the same events, in the same order."""
    events, refused = outcome([STREAM])
    assert not refused
    assert [as_tuple(event) for event in events] == EVENTS


@pytest.mark.parametrize("length", [0, 1, 2, 7, 8, 9])
def test_a_cut_at_each_place(length: int) -> None:
    """A cut anywhere, with a piece of any length after it, changes nothing."""
    for at in range(len(STREAM)):
        pieces = [STREAM[:at], STREAM[at : at + length], STREAM[at + length :]]
        events, refused = outcome(pieces)
        assert not refused
        assert [as_tuple(event) for event in events] == EVENTS


@pytest.mark.parametrize("size", range(1, 40))
def test_pieces_of_each_size(size: int) -> None:
    """Pieces of one size, down to a byte, are the same events as the whole."""
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    events, refused = outcome(pieces)
    assert not refused
    assert [as_tuple(event) for event in events] == EVENTS


def test_nothing_is_complete_before_its_last_byte() -> None:
    """An event comes with the last byte of its last frame, neither earlier nor later."""
    for data, event in GOLDEN:
        if event is None:
            continue
        place = STREAM.index(bytes.fromhex(data)) + len(bytes.fromhex(data))
        before, _ = outcome([STREAM[: place - 1]])
        after, _ = outcome([STREAM[: place - 1], STREAM[place - 1 : place]])
        assert [as_tuple(each) for each in after[len(before) :]] == [event]


def test_delivery_info_says_what_the_method_said() -> None:
    """``delivery_info`` has a consumer tag if consumed, a count if fetched, else neither."""
    events, _ = outcome([STREAM])
    route = {"exchange": "e", "routing_key": "k"}
    assert events[0].delivery_info == {
        **route,
        "consumer_tag": "c",
        "delivery_tag": 5,
        "redelivered": True,
    }
    (fetched,) = [event[2] for event in events if as_tuple(event)[0] == FETCHED]
    assert fetched.delivery_info == {
        **route,
        "message_count": 7,
        "delivery_tag": 6,
        "redelivered": False,
    }
    (returned,) = [event[2] for event in events if as_tuple(event)[0] == RETURNED]
    assert returned.delivery_info == {**route, "delivery_tag": 0, "redelivered": False}


@pytest.mark.parametrize("pieces", [1, 2])
def test_names_that_are_no_utf8(pieces: int) -> None:
    """Names of other encodings cost nobody the connection, and can be told apart."""
    method = b"\x00\x3c\x00\x3c\x01\xff" + bytes(8) + b"\x00\x01\xfe\x02\xfd\xfc"
    header = b"\x00\x3c" + bytes(10) + b"\x80\x00\x01\xfb"
    frames = [frame(1, 1, method), frame(2, 1, header)]
    ((event,), refused) = outcome(frames if pieces == 2 else [b"".join(frames)])
    assert not refused
    assert (event.kind.consumer_tag, event.kind.route) == ("\udcff", ("\udcfe", "\udcfd\udcfc"))
    assert event.content_type == "\udcfb"


def test_headers_that_cannot_be_decoded_cost_one_message() -> None:
    """Garbled headers are a ``DecodeError`` for whoever asks, and nobody else's matter."""
    method = bytes.fromhex(GOLDEN[0][0])
    header = b"\x00\x3c\x00\x00" + bytes(7) + b"\x03" + b"\xa0\x00\x01t\x00\x00\x00\x03\x01k?"
    body = frame(3, 1, b"abc")
    events, refused = outcome([method + frame(2, 1, header) + body + STREAM])
    assert not refused
    assert (events[0].content_type, events[0].content_encoding) == ("t", None)
    assert events[0].body == b"abc"
    for _ in range(2):
        with pytest.raises(DecodeError) as caught:
            _ = events[0].headers
        assert caught.value.body == header[12:]
    assert [as_tuple(event) for event in events[1:]] == EVENTS


def test_frames_as_large_as_was_agreed() -> None:
    """A frame may have ``frame_max`` bytes, and that may change while the link is open."""
    payload = bytes.fromhex("0014 0029") + bytes(4084)
    parser = Parser(CHANNELS, 4096)
    events: list[Any] = []
    parser.feed(frame(1, 1, payload)[:100], events)
    parser.feed(frame(1, 1, payload)[100:], events)
    with pytest.raises(ProtocolError):
        Parser(CHANNELS, 4096).feed(frame(1, 1, payload + b"\x00"), events)
    parser.frame_max = 4097
    parser.feed(frame(1, 1, payload + b"\x00"), events)
    assert events == [(METHOD, 1, payload), (METHOD, 1, payload + b"\x00")]


def test_channels_that_open_later() -> None:
    """A channel counts as open as soon as it is in the mapping, and no longer than that."""
    open_: dict[int, Any] = {}
    parser = Parser(open_)
    open_[1] = "new"
    events: list[Any] = []
    for data, _ in GOLDEN[:3]:
        parser.feed(bytes.fromhex(data), events)
    assert events[0].channel == "new"
    del open_[1]
    with pytest.raises(ProtocolError, match="channel 1, which is not open"):
        parser.feed(b"".join(bytes.fromhex(data) for data, _ in GOLDEN[:3]), events)
    assert len(events) == 1


def test_what_is_remembered_is_bounded() -> None:
    """However many tags, routes and properties there are, a parser keeps some thousands."""
    parser = Parser(CHANNELS)
    events: list[Any] = []
    for number in range(3000):
        name = b"\x04" + struct.pack(">I", number)
        method = b"\x00\x3c\x00\x3c" + name + bytes(9) + name + name
        header = b"\x00\x3c" + bytes(10) + b"\x80\x00" + name
        parser.feed(frame(1, 1, method) + frame(2, 1, header), events)
    assert len({event.kind.route for event in events}) == 3000
    kept = [value for value in vars(parser).values() if isinstance(value, dict)]
    assert max(map(len, kept)) <= 1024
    assert parser._contents == {}


def test_large_headers_are_not_remembered() -> None:
    """Headers of kilobytes are read like others, and live as long as their message does."""
    parser = Parser(CHANNELS)
    method = bytes.fromhex(GOLDEN[0][0])
    for number in range(50):
        table = b"\x01kx" + struct.pack(">I", 50_000) + bytes([number]) * 50_000
        properties = b"\x20\x00" + struct.pack(">I", len(table)) + table
        events: list[Any] = []
        parser.feed(method + frame(2, 1, b"\x00\x3c" + bytes(10) + properties), events)
        assert events[0].headers == {"k": bytes([number]) * 50_000}
    kept = [key for value in vars(parser).values() if isinstance(value, dict) for key in value]
    assert sum(len(key) for key in kept if isinstance(key, bytes)) < 50_000


# -- what is wrong

DELIVER, HEADER, BODY = (bytes.fromhex(data) for data, _ in GOLDEN[:3])


@pytest.mark.parametrize(
    "pieces, words",
    [
        ([DELIVER, HEADER, BODY[:-1], b"\xcd"], "ends with 0xcd, not 0xce"),
        ([DELIVER, HEADER, BODY[:-1] + b"\xcd"], "ends with 0xcd, not 0xce"),
        ([DELIVER + HEADER, frame(3, 1, b"abcd")[:-1]], "longer than its header says"),
        ([DELIVER + HEADER, frame(3, 1, b"abcde")[:8], b"bcd"], "longer than its header says"),
        ([DELIVER + frame(2, 1, b"\0\x3c" + bytes(11))], "a content header is cut off"),
        ([DELIVER, frame(2, 1, b"\0\x3c" + bytes(11))], "a content header that is none"),
        ([DELIVER + frame(2, 1, b"\0\x3c" + bytes(10))], "header"),
        ([DELIVER + frame(2, 1, b"\0\x3c" + bytes(10) + b"\x80\0")], "properties are cut off"),
        ([DELIVER, frame(2, 1, b"\0\x3c" + bytes(2) + b"\x01" * 10)], "a message of"),
        ([DELIVER, DELIVER], "a frame of type 1 on channel 1"),
        ([DELIVER, BODY], "a frame of type 3 on channel 1"),
        ([DELIVER, HEADER, HEADER], "a frame of type 2 on channel 1"),
        ([frame(0, 1, b""), HEARTBEAT], "type 0"),
        ([frame(9, 1, b"")[:8]], "type 9|no AMQP frame"),
        ([frame(9, 1, b"abc")[:9]], "no AMQP frame begins with"),
        ([frame(1, 1, b"\0\x3c\0\x3c")], "cut off|of 4 bytes"),
        ([frame(1, 1, b"\0\x3c\0")], "a method frame of 3 bytes"),
        ([frame(1, 1, b"")], "a method frame of 0 bytes"),
    ],
)
def test_what_is_refused(pieces: list[bytes], words: str) -> None:
    """A frame that may not come is a ``ProtocolError`` that says why: the link is lost."""
    parser = Parser(CHANNELS, 4096)
    with pytest.raises(ProtocolError, match=words) as caught:
        for piece in [*pieces, *[frame(2, 1, b"\0\x3c" + bytes(12))] * 2]:
            parser.feed(piece, [])
    assert isinstance(caught.value, ConnectionLost)


@pytest.mark.parametrize("method", [GOLDEN[0][0], GOLDEN[15][0], GOLDEN[18][0]])
@pytest.mark.parametrize("together", [True, False])
def test_methods_of_messages_that_are_cut_off(method: str, together: bool) -> None:
    """A method that lacks any of its last bytes, or has one more, is refused."""
    data = bytes.fromhex(method)
    channel, payload = data[2], data[7:-1]
    header = frame(2, channel, b"\0\x3c" + bytes(12))
    for wrong in (*(payload[:size] for size in range(4, len(payload))), payload + b"\x01"):
        pieces = [frame(1, channel, wrong), header]
        _, refused = outcome([b"".join(pieces)] if together else pieces)
        assert refused, wrong


#: Payloads with something of each kind that the parser looks at, right or not.
payloads = st.one_of(
    st.sampled_from([bytes.fromhex(data)[7:-1] for data, _ in GOLDEN]),
    st.builds(
        lambda length, rest: struct.pack(">HHQ", 60, 0, length) + rest,
        st.integers(0, 6) | st.integers(0, 2**64 - 1),
        st.sampled_from([b"", b"\0", b"\0\0", b"\x80\0\1t", b"\x80\0\2t"])
        | st.binary(max_size=6),
    ),
    st.builds(
        bytes.__add__,
        st.sampled_from([b"\0\x3c\0\x3c", b"\0\x3c\0\x32", b"\0\x3c\0\x47", b"\0\x3c\0\x50"]),
        st.binary(max_size=20),
    ),
    st.binary(max_size=6),
)
frames = st.builds(
    frame,
    st.sampled_from([1, 1, 2, 2, 3, 3, 3, 8, 4]),
    st.sampled_from([1, 1, 1, 2, 0, 3]),
    payloads,
    st.sampled_from([b"\xce"] * 9 + [b"\xcd"]),
)
#: Whole messages are rare among random frames; they come from here.
messages = st.builds(
    lambda channel, method, header, bodies: b"".join(
        [
            frame(1, channel, method),
            frame(2, channel, header),
            *(frame(3, channel, body) for body in bodies),
        ]
    ),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([bytes.fromhex(GOLDEN[index][0])[7:-1] for index in (0, 4, 15, 18)]),
    payloads.filter(lambda payload: payload[:2] == b"\0\x3c")
    | st.integers(0, 6).map(lambda length: struct.pack(">HHQH", 60, 0, length, 0)),
    st.lists(st.binary(max_size=4), max_size=3),
)


@settings(max_examples=150)
@given(
    st.lists(frames | messages, max_size=6).map(b"".join),
    st.integers(1, 9),
    st.integers(0, 2**16),
)
def test_any_frames_are_taken_or_refused_however_they_are_cut(
    data: bytes, size: int, place: int
) -> None:
    """Frames in any order, of any content, are the same events and refusals, cut or not."""
    whole = outcome([data])
    place %= len(data) + 1
    for pieces in (
        [data[at : at + 1] for at in range(len(data))],
        [data[at : at + size] for at in range(0, len(data), size)],
        [data[:place], data[place:]],
    ):
        events, refused = outcome(pieces)
        assert refused == whole[1]
        assert list(map(said, events)) == list(map(said, whole[0]))


def said(event: Any) -> Any:
    """Return what an event says, its properties as bytes: they may be none that AMQP knows."""
    if isinstance(event, Delivery):
        d, rest = event, ()
    elif event[0] in (FETCHED, RETURNED):
        d, rest = event[2], (event[:2], event[3:])
    else:
        return event
    kind = d.kind
    return (d.channel, kind.consumer_tag, d.delivery_tag, kind.redelivered, kind.route), (
        kind.encoded.data,
        d.body,
        rest,
    )
