"""The short way of messages that are like an earlier one: the same, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrot.backends.pyamqplib import Backend
from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.shortcut import Shortcut
from carrot.confirms import Tracker
from carrot.exceptions import ConnectionLost
from tests.unit.test_interruptions import interrupted
from tests.unit.test_wire import FRAME_MAX, Link, opened
from tests.unit.test_wire_tables import short_texts

JSON = "application/json", "utf-8"

prepare_message = Backend(connection=None).prepare_message


def tracked(tracker: Tracker | None = None) -> tuple[Channel, Link, Tracker]:
    """Return a channel whose confirms are counted, its link, and what counts them."""
    channel, link = opened()
    channel.tracker = tracker or Tracker(window=5, max_bytes=100)
    channel.life = channel.tracker.begin()
    return channel, link, channel.tracker


def add(channel: Channel, body: bytes = b"first") -> None:
    """Send a message the long way."""
    message = prepare_message(body, 2, 0, *JSON)
    entry = Shortcut(channel, "e", "k", False, message), body, len(body)
    channel.basic_publish(message, "e", "k", False, entry=entry)


def shortcut(channel: Channel, mandatory: bool = False) -> Shortcut:
    return Shortcut(channel, "e", "k", mandatory, prepare_message(b"", 2, 0, *JSON))


@given(
    short_texts,
    short_texts,
    st.booleans(),
    st.sampled_from([1, 2]),
    short_texts,
    short_texts,
    st.integers(1, FRAME_MAX - 8),
)
def test_both_ways_are_one(
    exchange: str,
    routing_key: str,
    mandatory: bool,
    delivery_mode: int,
    content_type: str,
    content_encoding: str,
    size: int,
) -> None:
    """The link gets the same bytes, in one write, for any kind and size of message."""
    channel, link = opened()
    body = (b"\xcebody" * size)[:size]
    form = delivery_mode, 0, content_type, content_encoding
    channel.basic_publish(prepare_message(body, *form), exchange, routing_key, mandatory)
    short = Shortcut(channel, exchange, routing_key, mandatory, prepare_message(b"", *form))
    assert short.post(body)
    assert link.data[: len(link.data) // 2] * 2 == link.data
    assert link.writes == 2


def closed(channel: Channel) -> None:
    channel.is_open = False


def blocked(channel: Channel) -> None:
    channel._driver.blocked = "out of memory"


def full_link(channel: Channel) -> None:
    channel._outbox.rest = [b"rest"]


def acknowledgements(channel: Channel) -> None:
    channel._outbox.noted.add(channel)


def another_life(channel: Channel) -> None:
    channel.tracker.restart()


def full_window(channel: Channel) -> None:
    for _ in range(4):
        add(channel)


def many_bytes(channel: Channel) -> None:
    add(channel, bytes(100))


@pytest.mark.parametrize(
    "happened",
    [
        closed,
        blocked,
        full_link,
        acknowledgements,
        another_life,
        full_window,
        many_bytes,
    ],
    ids=lambda happened: happened.__name__,
)
def test_something_in_the_way(happened: Callable[[Channel], None]) -> None:
    """Then nothing is written, and nothing entered."""
    channel, link, tracker = tracked()
    add(channel)
    happened(channel)
    before = link.data, tracker.published, tracker.outstanding, repr(tracker)
    assert shortcut(channel).post(b"x") is False
    assert (link.data, tracker.published, tracker.outstanding, repr(tracker)) == before


@pytest.mark.parametrize("size", [0, FRAME_MAX - 7, 1_000_000])
def test_bodies_of_other_sizes(size: int) -> None:
    """A body of no bytes has no frame, a large one several: they go the long way."""
    channel, link = opened()
    assert shortcut(channel).post(bytes(size)) is False
    assert link.data == b""


def test_the_first_of_a_channel() -> None:
    """The first message of a channel's life goes the long way, and after a full window."""
    channel, _, tracker = tracked()
    short = shortcut(channel)
    assert not short.post(b"x")
    add(channel)
    assert [short.post(b"x") for _ in range(5)] == [True, True, True, True, False]
    assert tracker.full
    tracker.ack(0, True, channel.life)
    assert not tracker.full
    assert not short.post(b"x")
    add(channel)
    assert short.post(b"x")
    assert (tracker.published, tracker.confirmed, tracker.outstanding) == (7, 5, 2)


def test_what_becomes_of_others_is_not_in_the_way() -> None:
    """Messages that are confirmed in another order, refused or returned make nobody slower."""
    channel, _, tracker = tracked(Tracker(window=100))
    short = shortcut(channel)
    add(channel)
    assert all(short.post(b"%d" % number) for number in range(2, 9))
    life = channel.life
    for happened in [
        lambda: tracker.ack(3, life=life),
        lambda: tracker.nack(5, life=life),
        lambda: tracker.bounced("e", "k", b"7", life=life),
        lambda: tracker.ack(8, life=life),
        lambda: tracker.unconfirmed(),
        lambda: tracker.ack(2, multiple=True, life=life),
    ]:
        happened()
        assert short.post(b"x")
    assert [entry.body for entry in tracker.unconfirmed()] == [b"4", b"6", b"7"] + [b"x"] * 6
    assert [entry.number for entry in tracker.unconfirmed()] == [4, 6, 7, *range(9, 15)]
    tracker.ack(0, True, life)
    assert (tracker.outstanding, tracker.outstanding_bytes, tracker.oldest) == (0, 0, None)
    assert (tracker.confirmed, tracker.nacked, tracker.published) == (13, 1, 14)


def test_failures_that_nobody_takes() -> None:
    """They stop a publisher that goes on and on, whichever way it takes."""
    channel, _, tracker = tracked(Tracker(window=2))
    short = shortcut(channel)
    for number in (1, 2):
        add(channel)
        tracker.nack(number, life=channel.life)
    assert tracker.failed == 2
    assert not short.post(b"x")


def test_its_record() -> None:
    """What is unconfirmed is listed with all that it takes to send it again."""
    channel, link, tracker = tracked()
    add(channel)
    short = shortcut(channel, mandatory=True)
    assert short.post(b"one") and short.post(b"two")
    _, one, two = tracker.unconfirmed()
    assert [e.body for e in (one, two)] == [b"one", b"two"]
    assert (two.exchange, two.routing_key, two.mandatory, two.headers) == ("e", "k", True, None)
    assert (two.number, two.size) == (3, 3)
    assert two.properties == prepare_message(b"", 2, 0, *JSON).properties
    assert tracker.unconfirmed()[2].message is two.message
    data, link.data = link.data, b""
    channel.basic_publish(one.message, "e", "k", True)
    channel.basic_publish(two.message, "e", "k", True)
    assert data.endswith(link.data)


def test_short_bodies_keep_little() -> None:
    """What is kept of a message is not the buffer that its body came in."""
    channel, _, tracker = tracked()
    add(channel)
    body = b"body"
    assert shortcut(channel).post(body)
    assert tracker._entries[-1][1] == body
    assert tracker._entries[-1][1] is not body


@pytest.mark.parametrize("counted", [True, False])
def test_a_link_that_breaks(counted: bool) -> None:
    """What was entered is sent again later; what nobody counts has to go the long way."""
    channel, link = opened()
    tracker = None
    if counted:
        channel, link, tracker = tracked()
        add(channel)
    lost: list[Exception] = []
    channel._driver.on_lost = lost.append

    def send(data: bytes) -> int:
        raise ConnectionResetError("gone")

    link.send = send  # type: ignore[method-assign, assignment]
    assert shortcut(channel).post(b"x") is counted
    assert [type(error) for error in lost] == [ConnectionLost]
    assert not channel._driver.alive
    if tracker is not None:
        assert [entry.body for entry in tracker.unconfirmed()] == [b"first", b"x"]
    with pytest.raises(ConnectionLost):
        channel.basic_publish(prepare_message(b"", 2), "e", "k")


@pytest.mark.parametrize("where", ["enter", "send"])
def test_a_signals_handler_that_raises(where: str) -> None:
    """Nobody knows what was written: the link is given up, and no lock stays locked."""
    channel, link, tracker = tracked()
    add(channel)
    short = shortcut(channel)

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    setattr(*{"enter": (tracker, "enter"), "send": (link, "send")}[where], interrupted)
    with pytest.raises(KeyboardInterrupt):
        short.post(b"x")
    assert not channel._driver.alive
    assert not channel._outbox.lock.locked()
    assert not short.post(b"x")


def test_interrupted_anywhere() -> None:
    """Either it was not begun, or the link is given up and the message sent again, once."""
    for at in count(1):
        channel, link, tracker = tracked()
        add(channel)
        before = link.data
        short = shortcut(channel)
        again = interrupted(at, lambda short=short: short.post(b"x"))
        assert not channel._outbox.lock.locked() and not tracker._lock.locked()
        sent = link.data != before
        if channel._driver.alive:
            assert sent is not again
            assert tracker.outstanding == (1 if again else 2)
        else:
            owed = [entry.body for entry in tracker.restart()]
            assert owed in ([b"first"], [b"first", b"x"])
            assert owed[1:] == [b"x"] or not sent
        if not again:
            break
    assert at > 3
