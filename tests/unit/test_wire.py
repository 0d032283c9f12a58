"""What the channel puts on the link: the right bytes, in order, or none at all."""

from __future__ import annotations

import struct
from threading import get_ident
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given, settings
from hypothesis import strategies as st

from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.connection import Connection
from carrot.backends.pyamqplib.outbox import Outbox
from carrot.backends.pyamqplib.wire import HEARTBEAT, publish_frames, publish_prefix
from carrot.exceptions import CarrotError, ConfigurationError, EncodeError
from tests.unit.test_tables import alike
from tests.unit.test_wire_frames import split
from tests.unit.test_wire_tables import octets, short_texts

FRAME_MAX = 4096


class Link:
    """Writes down what it is given; takes so many bytes at each call."""

    full = (BlockingIOError,)

    def __init__(self, *takes: int) -> None:
        self.data = b""
        self.writes = 0
        self._takes = list(takes)
        self.joined: bool | None = None
        self.changes: list[bool] = []

    def send(self, data: Any) -> int:
        self.writes += 1
        takes = self._takes.pop(0) if self._takes else len(data)
        if not takes:
            raise BlockingIOError
        self.data += bytes(data[:takes])
        return min(takes, len(data))

    def send_pieces(self, pieces: list[Any]) -> int:
        return self.send(b"".join(pieces))

    def join_writes(self, joined: bool) -> None:
        self.joined = joined
        self.changes.append(joined)

    def sever(self) -> None:
        pass


def opened() -> tuple[Channel, Link]:
    """Return channel 1 of a connection without a broker, and its link."""
    connection = Connection("nowhere:1", frame_max=FRAME_MAX)
    link = Link()
    connection.outbox.connect(link)  # type: ignore[arg-type]
    channel = Channel(connection)
    channel.is_open = True
    # It keeps its connection alive.
    return channel, link


# -- publishing

METHOD = "01 0001 0000000b 003c 0028 0000 01 65 01 6b 00 ce"


@pytest.mark.parametrize(
    "body, data",
    [
        (
            b"hello",
            "02 0001 0000000f 003c 0000 0000000000000005 1000 02 ce"
            "03 0001 00000005 68656c6c6f ce",
        ),
        (b"", "02 0001 0000000f 003c 0000 0000000000000000 1000 02 ce"),
        (
            "é",
            "02 0001 0000000f 003c 0000 0000000000000002 1000 02 ce03 0001 00000002 c3a9 ce",
        ),
        (
            bytearray(b"\xce"),
            "02 0001 0000000f 003c 0000 0000000000000001 1000 02 ce03 0001 00000001 ce ce",
        ),
        (
            bytes(4089),
            "02 0001 0000000f 003c 0000 0000000000000ff9 1000 02 ce"
            f"03 0001 00000ff8 {'00' * 4088} ce 03 0001 00000001 00 ce",
        ),
    ],
    ids=["bytes", "empty", "text", "bytearray", "two frames"],
)
def test_a_message_on_the_link(body: Any, data: str) -> None:
    """A message is one write of its method, its header, and frames for its body."""
    channel, link = opened()
    for times in (1, 2):
        channel.basic_publish(Message(body, delivery_mode=2), "e", "k")
        assert link.data == bytes.fromhex(METHOD + data) * times
        assert link.writes == times


@pytest.mark.parametrize("room", [4088, 4089, 8176, 8177])
def test_frames_are_no_larger_than_agreed(room: int) -> None:
    """Body frames are filled to the last byte that the broker allows, and no further."""
    for length in (room - 1, room, room + 1, 2 * room, 2 * room + 1):
        prefix = publish_prefix(1, "", "", False, b"\0\0", room)
        body = bytes(range(256)) * (length // 256 + 1)
        frames = split(b"".join(publish_frames(prefix, body[:length], room)))
        sizes = [len(payload) for kind, _, payload in frames if kind == 3]
        rest = [length % room] if length % room else []
        assert sizes == [room] * (length // room) + rest
        assert b"".join(payload for kind, _, payload in frames if kind == 3) == body[:length]


def test_properties_that_just_fit() -> None:
    """Properties may fill a frame to its last byte."""
    head, tail = publish_prefix(1, "", "", False, b"\0\0" + bytes(4074), 4088)
    (_, (kind, _, header)) = split(b"".join(publish_frames((head, tail), b"", 4088)))
    assert (kind, len(header)) == (2, 4088)


@settings(max_examples=50)
@given(
    short_texts,
    short_texts,
    st.booleans(),
    st.fixed_dictionaries(
        {},
        optional={
            "content_type": short_texts,
            "application_headers": st.dictionaries(short_texts, alike, max_size=3),
            "priority": octets,
            "timestamp": st.integers(0, 2**64 - 1),
            "cluster_id": short_texts,
        },
    ),
    st.sampled_from([0, 1, 4000, 4087, 4088, 4089, 8176, 8177, 20_000]),
)
def test_the_bytes_are_those_of_the_amqp_package(
    exchange: str, routing_key: str, mandatory: bool, properties: dict[str, Any], length: int
) -> None:
    """A message of any size is, byte for byte, what the amqp package's writer makes of it."""
    body = (b"\xcebody" * length)[:length]
    written: list[bytes] = []
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    write = frame_writer(SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0), transport)
    arguments = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
    write(1, 1, (60, 40), arguments, Message(body, **properties))
    channel, link = opened()
    channel.basic_publish(Message(body, **properties), exchange, routing_key, mandatory)
    assert link.data == b"".join(written)


def test_destinations_are_remembered_within_bounds() -> None:
    """However many routing keys there are, a channel keeps a thousand, and sends to all."""
    channel, link = opened()
    for number in range(3000):
        channel.basic_publish(Message(b""), "e", str(number))
    keys = [payload[9:-1] for kind, _, payload in split(link.data) if kind == 1]
    assert keys == [str(number).encode() for number in range(3000)]
    assert len(channel._prefixes) <= 1024


@pytest.mark.parametrize(
    "error, properties, names",
    [
        (EncodeError, {"application_headers": {"a": 1, "b": object()}}, {}),
        (EncodeError, {"application_headers": {"a": {"b": [1, 2**63]}}}, {}),
        (EncodeError, {"application_headers": {"k" * 256: 1}}, {}),
        (EncodeError, {"application_headers": {1: 1}}, {}),
        (EncodeError, {"application_headers": {"a": "x" * FRAME_MAX}}, {}),
        (EncodeError, {"application_headers": 7}, {}),
        (EncodeError, {"content_type": "x" * 256}, {}),
        (EncodeError, {"priority": 256}, {}),
        (EncodeError, {"timestamp": "now"}, {}),
        (ConfigurationError, {}, {"exchange": None}),
        (ConfigurationError, {}, {"exchange": ["unhashable"]}),
        (ConfigurationError, {}, {"routing_key": "x" * 256}),
        (ConfigurationError, {}, {"routing_key": "\ud800"}),
    ],
)
def test_what_cannot_be_encoded_is_not_begun(
    error: type[CarrotError], properties: dict[str, Any], names: dict[str, Any]
) -> None:
    """An error of encoding is ours, leaves no byte and no entry, and the channel as it was."""
    channel, link = opened()
    entered: list[Any] = []
    channel.tracker = SimpleNamespace(add=lambda entry, life: entered.append(entry))
    for body in (b"small", bytes(20_000)):
        arguments = {"exchange": "e", "routing_key": "k", **names}
        with pytest.raises(error) as caught:
            channel.basic_publish(Message(body, **properties), **arguments, entry="wrong")
        assert isinstance(caught.value, CarrotError)
    assert (link.data, link.writes, entered) == (b"", 0, [])
    channel.basic_publish(Message(b"", delivery_mode=2), "e", "k", entry="right")
    empty = "02 0001 0000000f 003c 0000 0000000000000000 1000 02 ce"
    assert (link.data, entered) == (bytes.fromhex(METHOD + empty), ["right"])


# -- settling


@pytest.mark.parametrize(
    "settle, data",
    [
        (lambda c: c.basic_ack(7), "003c 0050 0000000000000007 00"),
        (lambda c: c.basic_ack(0, multiple=True), "003c 0050 0000000000000000 01"),
        (lambda c: c.basic_ack(2**64 - 1), "003c 0050 ffffffffffffffff 00"),
        (lambda c: c.basic_reject(7, requeue=False), "003c 005a 0000000000000007 00"),
        (lambda c: c.basic_reject(7, requeue=True), "003c 005a 0000000000000007 01"),
        (lambda c: c.basic_nack(7), "003c 0078 0000000000000007 02"),
        (lambda c: c.basic_nack(7, multiple=True), "003c 0078 0000000000000007 03"),
        (lambda c: c.basic_nack(7, requeue=False), "003c 0078 0000000000000007 00"),
        (lambda c: c.basic_nack(7, True, False), "003c 0078 0000000000000007 01"),
    ],
)
def test_settlements_on_the_link(settle: Any, data: str) -> None:
    """Outside of a callback, each ack, reject and nack is one write of these bytes."""
    channel, link = opened()
    assert settle(channel)
    assert link.data == bytes.fromhex(f"01 0001 0000000d {data} ce")
    assert link.writes == 1


def test_a_wrong_tag_is_not_begun() -> None:
    """Settling what is no delivery tag is a ``ConfigurationError``, and leaves no byte."""
    channel, link = opened()
    for settle in (channel.basic_ack, channel.basic_nack, channel.basic_reject):
        for tag in ("7", -1, 2**64, None, 1.5):
            with pytest.raises(ConfigurationError, match="no delivery tag"):
                settle(tag, False)  # type: ignore[operator]
    channel.flush()
    assert link.data == b""
    assert channel.basic_ack(1)
    assert len(split(link.data)) == 1


#: What becomes of a message, by the method and its bit "requeue".
FATES = {
    (80, 0): "acked",
    (90, 0): "discarded",
    (90, 1): "requeued",
    (120, 0): "discarded",
    (120, 2): "requeued",
}
#: Ways to settle one message, and what becomes of it.
WAYS: dict[str, tuple[Any, str]] = {
    "ack": (lambda channel, tag: channel.basic_ack(tag), "acked"),
    "reject": (lambda channel, tag: channel.basic_reject(tag, False), "discarded"),
    "nack": (lambda channel, tag: channel.basic_nack(tag, False, True), "requeued"),
}


def settled(frames: bytes, delivered: int) -> dict[int, str]:
    """Return what a broker makes of settlements: the fate of each delivery.

    Fails as a broker does where a delivery is settled that is not outstanding.
    """
    fates: dict[int, str] = {}
    for kind, channel, payload in split(frames):
        assert (kind, channel, payload[:2]) == (1, 1, b"\x00\x3c")
        method, tag, bits = struct.unpack(">HQB", payload[2:])
        multiple = method != 90 and bits & 1
        which = range(1, tag + 1) if multiple else [tag]
        which = [tag for tag in which if tag not in fates]
        assert which
        assert max(which) <= delivered
        fate = FATES[method, 0 if method == 80 else bits & (2 if method == 120 else 1)]
        fates.update(dict.fromkeys(which, fate))
    return fates


def amid_callbacks() -> tuple[Any, Any]:
    """Return a channel, as in a callback while another delivery waits, and its link."""
    channel, link = opened()
    driver = channel.connection
    driver.running = get_ident()
    driver.inbox.events.append("another delivery that waits")
    driver.outbox.attended = True  # by nobody
    return channel, link


@settings(max_examples=100)
@given(
    # In any order, or in order but for some that come late.
    st.integers(1, 8).flatmap(lambda count: st.permutations(range(1, count + 1)))
    | st.sets(st.integers(1, 8), max_size=3).map(
        lambda late: [*sorted(set(range(1, 9)) - late), *sorted(late)]
    ),
    st.lists(st.sampled_from(["ack", "ack", "ack", "reject", "nack"]), min_size=8, max_size=8),
    st.sets(st.integers(0, 7), max_size=3),
)
def test_joined_settlements_settle_the_same(
    order: list[int], ways: list[str], flushed: set[int]
) -> None:
    """Acks that are joined in a pass settle just what they would have settled one by one."""
    channel, link = amid_callbacks()
    expected: dict[int, str] = {}
    for index, (tag, way) in enumerate(zip(order, ways, strict=False)):
        settle, expected[tag] = WAYS[way]
        assert settle(channel, tag)
        if index in flushed:
            channel.flush()
            assert settled(link.data, len(order)) == expected
    channel.flush()
    assert settled(link.data, len(order)) == expected


def test_acks_of_a_pass_are_one_frame() -> None:
    """Acks in order, of callbacks that follow each other, are one frame and one write."""
    channel, link = amid_callbacks()
    for tag in range(1, 31):
        channel.basic_ack(tag)
    assert link.writes == 0
    channel.flush()
    frame = "01 0001 0000000d 003c 0050 000000000000001e 01 ce"
    assert (link.data, link.writes) == (bytes.fromhex(frame), 1)


class Meanwhile(int):
    """A delivery tag; as it is looked at, another thread settles the delivery."""

    def __new__(cls, tag: int, settle: Any) -> Meanwhile:
        self = super().__new__(cls, tag)
        self.settle = settle
        return self

    def __eq__(self, other: object) -> bool:
        same = int(self) == other
        self.settle(int(self))
        return same

    __hash__ = int.__hash__


def test_settling_twice_at_once_settles_nothing_else() -> None:
    """If two threads settle one message at the same moment, the next one is left alone."""
    channel, link = amid_callbacks()
    channel.basic_ack(Meanwhile(1, lambda tag: channel.basic_reject(tag, requeue=True)))
    channel.flush()
    assert settled(link.data, 1) == {1: "requeued"}


def test_settling_while_the_link_is_full() -> None:
    """Whoever polls the link is told to poll for room as well, and not only once it looks."""
    channel, link = opened()
    roused: list[None] = []
    channel._outbox._rouse = lambda: roused.append(None)
    link._takes = [0, 0, 0]
    assert channel.basic_ack(1)
    assert roused
    channel.flush()
    channel.flush()
    assert settled(link.data, 1) == {1: "acked"}


# -- the link takes what it likes


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=5), max_size=4),
    st.lists(st.binary(min_size=1, max_size=9), max_size=4),
    st.lists(st.integers(0, 40), max_size=20),
)
def test_a_link_that_takes_little_at_a_time(
    messages: list[list[bytes]], frames: list[bytes], takes: list[int]
) -> None:
    """However little the kernel takes at once, all bytes arrive, once and in order."""
    link = Link(*takes)
    roused: list[None] = []
    outbox = Outbox(broken=pytest.fail, rouse=lambda: roused.append(None))
    outbox.connect(link)  # type: ignore[arg-type]
    sent = b""
    for pieces in messages:
        while outbox.rest:
            outbox.flush()
        with outbox.lock:
            assert outbox.put(pieces[0]) if len(pieces) == 1 else outbox.put_pieces(pieces)
        sent += b"".join(pieces)
    for frame in frames:
        outbox.post(frame)
        sent += frame
        assert sent.startswith(link.data)
    while outbox.rest:
        outbox.flush()
    assert link.data == sent
    assert outbox.posted == []


def test_a_heartbeat() -> None:
    """A heartbeat is a frame of type 8 on channel 0, with nothing in it."""
    assert split(HEARTBEAT) == [(8, 0, b"")]


def test_bursts_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes that follow each other at once are joined by the kernel, until somebody waits."""
    now = 1000.0
    attended: list[Outbox] = []
    monkeypatch.setattr("carrot.backends.pyamqplib.outbox.monotonic", lambda: now)
    monkeypatch.setattr("carrot.backends.pyamqplib.keeper.attend", attended.append)
    channel, link = opened()
    outbox = channel._outbox

    def publish(count: int, apart: float) -> None:
        nonlocal now
        for _ in range(count):
            now += apart
            channel.basic_publish(Message(b"x"), "e", "k")

    publish(100, apart=0.001)
    assert not outbox.joining and link.joined is None
    assert attended == []
    publish(100, apart=0.00001)
    assert attended == [outbox]
    assert outbox.joining and link.joined
    # The keeper looks: what was kept goes out, and the burst goes on.
    assert outbox.push()
    assert outbox.joining and link.joined and link.changes == [True, False, True]
    channel.flush()
    assert not outbox.joining and not link.joined
    publish(100, apart=0.00001)
    now += 0.01
    assert outbox.push()
    assert not outbox.joining and not link.joined
    now += 1
    assert not outbox.push()
    assert attended == [outbox]
