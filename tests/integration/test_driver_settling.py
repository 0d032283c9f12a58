"""The driver settles, cancels and closes, against a peer that does as it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message as AMQPMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carrot.backends.pyamqplib import Connection
from carrot.exceptions import (
    AccessRefused,
    ChannelError,
    DrainTimeout,
    NotFound,
)
from tests.integration.driver_peer import Peer, drain, method, sent, subscribed
from tests.waiting import wait_until


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def connection(peer: Peer) -> Connection:
    return peer.connect()


# -- settling


def test_acknowledgements_join(peer: Peer, connection: Connection) -> None:
    """Those of one pass become one frame; it is written when the inbox is empty."""
    channel, _ = subscribed(
        connection, callback=lambda message: channel.basic_ack(message.delivery_tag)
    )
    connection.outbox.attended = True  # by nobody
    peer.send(sent(*range(1, 6)))
    wait_until(lambda: len(connection.inbox.events) == 5 or connection.inbox.pump(5))
    drain(connection, 4)
    assert peer.settled() == []
    drain(connection, 1)
    peer.expect(spec.Basic.Ack)
    assert peer.settled() == [("ack", 5, True)]


@pytest.mark.parametrize("ending", ["publish", "declare", "close", "raise", "read", "thread"])
def test_acknowledgements_wait_for_nothing_else(
    peer: Peer, connection: Connection, ending: str
) -> None:
    """Before anything else is written or read, an acknowledgement is on its way."""

    def callback(message: Any) -> None:
        channel.basic_ack(message.delivery_tag)
        if ending == "raise":
            raise ZeroDivisionError

    channel, _ = subscribed(connection, callback=callback)
    connection.outbox.attended = ending != "thread"
    peer.send(sent(1, 2))
    wait_until(lambda: len(connection.inbox.events) == 2 or connection.inbox.pump(5))
    if ending == "raise":
        with pytest.raises(ZeroDivisionError):
            drain(connection, 1)
    else:
        drain(connection, 1)
        assert connection.outbox.noted or ending == "thread"
    if ending == "publish":
        channel.basic_publish(AMQPMessage("x"), "e", "k")
    elif ending == "declare":
        channel.queue_declare("q")
    elif ending == "close":
        channel.close()
    elif ending == "read":
        with pytest.raises(DrainTimeout):
            connection.inbox.pump(0)
            connection.inbox.pump(0)
    # Else another thread, the keeper, sees to it.
    peer.expect(spec.Basic.Ack)
    assert peer.settled() == [("ack", 1, False)]
    settled = [sig for _, sig, _ in peer.received if sig[0] in (50, 60) or sig == (20, 40)]
    assert settled[1] == spec.Basic.Ack


def test_many_acknowledgements_do_not_wait(peer: Peer, connection: Connection) -> None:
    """A few dozen are written although more messages wait: the broker shall not idle."""
    channel, _ = subscribed(
        connection, callback=lambda message: channel.basic_ack(message.delivery_tag)
    )
    connection.outbox.attended = True  # by nobody
    peer.send(sent(*range(1, 101)))
    wait_until(lambda: len(connection.inbox.events) == 100 or connection.inbox.pump(5))
    drain(connection, 80)
    wait_until(peer.settled, 10)
    assert peer.settled() == [("ack", 64, True)]


def test_acknowledgements_outside_of_callbacks_go_at_once(
    peer: Peer, connection: Connection
) -> None:
    """Another thread's acknowledgement does not wait, whatever is in the inbox."""
    channel, got = subscribed(connection)
    peer.send(sent(1, 2, 3))
    drain(connection, 1)
    assert channel.basic_ack(got[0].delivery_tag) is True
    assert not connection.outbox.noted
    peer.expect(spec.Basic.Ack)


operations = st.lists(
    st.tuples(st.sampled_from(["ack", "reject", "requeue", "flush"]), st.integers(0, 19)),
    max_size=30,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations, st.sets(st.integers(1, 12)))
def test_joined_acknowledgements_mean_the_same(
    steps: list[tuple[str, int]], unacknowledged: set[int]
) -> None:
    """However deliveries are settled, the broker understands just that, and in that order."""
    connection = Connection(host="nowhere:1")
    wire: list[bytes] = []
    connection.outbox.connect(_Wire(wire))  # type: ignore[arg-type]
    channel = connection.Channel(connection)
    channel.is_open = True
    meant: list[tuple[str, int]] = []
    waiting = [tag for tag in range(1, 13) if tag not in unacknowledged]
    connection.running = threading.get_ident()
    connection.inbox.events.append(object())
    for step, choice in steps:
        if step == "flush":
            connection.outbox.flush()
        elif waiting:
            tag = waiting.pop(min(choice, len(waiting) - 1) if choice > 9 else 0)
            meant.append((step, tag))
            if step == "ack":
                channel.basic_ack(tag)
            else:
                channel.basic_reject(tag, requeue=step == "requeue")
    connection.outbox.flush()
    connection.inbox.events.clear()
    assert _understood(b"".join(wire), set(range(1, 13))) == meant


class _Wire:
    full = ()

    def __init__(self, out: list[bytes]) -> None:
        self._out = out

    def send(self, data: bytes) -> int:
        self._out.append(bytes(data))
        return len(data)


def _understood(data: bytes, unsettled: set[int]) -> list[tuple[str, int]]:
    """Return what a broker makes of settlements; like RabbitMQ it knows no tag twice."""
    settled = []
    for at in range(0, len(data), 21):
        frame = data[at : at + 21]
        verb, tag, bit = frame[10], int.from_bytes(frame[11:19], "big"), frame[19]
        assert tag in unsettled, f"unknown delivery tag {tag}"
        tags = sorted(t for t in unsettled if t <= tag) if verb == 80 and bit else [tag]
        name = "ack" if verb == 80 else "requeue" if bit else "reject"
        unsettled.difference_update(tags)
        settled += [(name, t) for t in tags]
    return settled


def test_settling_on_a_closed_channel_sends_nothing(peer: Peer, connection: Connection) -> None:
    """It returns ``False``: the delivery is the broker's again."""
    channel, got = subscribed(connection)
    peer.send(sent(1))
    drain(connection, 1)
    channel.close()
    before = len(peer.received)
    assert channel.basic_ack(1) is False
    assert channel.basic_reject(1, requeue=True) is False
    assert channel.basic_nack(1) is False
    assert len(peer.received) == before
    assert got[0].channel is channel


# -- the end of subscriptions and channels


def test_what_a_cancelled_consumer_did_not_get_is_given_back(
    peer: Peer, connection: Connection
) -> None:
    """Messages that wait in the inbox, or are still to come, go back to their queue."""
    channel, got = subscribed(connection)
    peer.answers[spec.Basic.Cancel] = lambda number, _: (
        sent(3, channel=number) + method(number, spec.Basic.CancelOk, "s", "c")
    )
    peer.send(sent(1, 2))
    wait_until(lambda: len(connection.inbox.events) == 2 or connection.inbox.pump(5))
    drain(connection, 1)
    channel.basic_cancel("c")
    peer.expect(spec.Basic.Reject, 2)
    assert peer.settled() == [("reject", 2, True), ("reject", 3, True)]
    peer.send(sent(4))
    drain(connection, 1)
    peer.expect(spec.Basic.Reject, 3)
    assert [message.delivery_tag for message in got] == [1]
    assert channel.basic_cancel("c") == "c"


def test_what_the_broker_forgot_is_not_given_back(peer: Peer, connection: Connection) -> None:
    """With ``no_ack`` there is nothing to reject, and the channel lives."""
    channel, _ = subscribed(connection, no_ack=True)
    peer.send(sent(1, 2))
    wait_until(lambda: len(connection.inbox.events) == 2 or connection.inbox.pump(5))
    channel.basic_cancel("c")
    peer.send(sent(3))
    drain(connection, 1)
    assert peer.settled() == []
    assert channel.is_open


def test_the_broker_cancels_a_consumer(peer: Peer, connection: Connection) -> None:
    """Who drains is told, after the messages that came before."""
    cancelled: list[str] = []
    _, got = subscribed(connection, on_cancel=cancelled.append)
    subscribed(connection, "other")
    peer.send(sent(1) + method(1, spec.Basic.Cancel, "sb", "c", True))
    peer.send(method(2, spec.Basic.Cancel, "sb", "other", True))
    drain(connection, 1)
    assert (len(got), cancelled) == (1, [])
    drain(connection, 1)
    assert cancelled == ["c"]
    with pytest.raises(NotFound, match="'other'"):
        drain(connection, 1)


def closed(number: int, code: int = 404, text: str = "NOT_FOUND - no exchange") -> bytes:
    return method(number, spec.Channel.Close, "BsBB", code, text, 60, 40)


def test_the_broker_closes_a_channel(peer: Peer, connection: Connection) -> None:
    """Its next use says why, once; other channels go on; its number can be used again."""
    channel, other = connection.channel(), connection.channel()
    peer.send(closed(1))
    peer.expect(spec.Channel.CloseOk)
    with pytest.raises(NotFound, match="no exchange"):
        channel.queue_declare("q")
    with pytest.raises(ChannelError, match="channel 1 is closed"):
        channel.basic_publish(AMQPMessage("x"), "e", "k")
    assert repr(channel).endswith("closed>")
    assert other.queue_declare("q").queue == "q"
    assert connection.channel().channel_id == 1


def test_the_broker_closes_a_channel_in_answer(peer: Peer, connection: Connection) -> None:
    """The operation raises it, and nobody else does."""
    channel, _ = subscribed(connection)
    peer.answers[spec.Queue.Declare] = lambda *_: closed(1, 403, "ACCESS_REFUSED")
    with pytest.raises(AccessRefused):
        channel.queue_declare("q")
    with pytest.raises(DrainTimeout):
        connection.drain_events(0)


def test_the_broker_closes_a_channel_that_consumes(peer: Peer, connection: Connection) -> None:
    """Who drains is told, so that nobody waits for messages that cannot come."""
    subscribed(connection)
    peer.send(closed(1, 406, "PRECONDITION_FAILED - unknown delivery tag"))
    with pytest.raises(ChannelError, match="unknown delivery tag"):
        connection.drain_events(5)
    with pytest.raises(DrainTimeout):
        connection.drain_events(0)


def test_both_sides_close_a_channel(peer: Peer, connection: Connection) -> None:
    """A close that crosses the broker's own waits for the answer to ours."""
    channel = connection.channel()
    peer.answers[spec.Channel.Close] = lambda number, _: (
        closed(number) + method(number, spec.Channel.CloseOk)
    )
    channel.close()
    peer.expect(spec.Channel.CloseOk)
    assert connection.channels.keys() == {0}
    assert connection.channel().is_open


def test_deliveries_of_a_closed_channel_reach_nobody(
    peer: Peer, connection: Connection
) -> None:
    """A channel that takes over the number gets none of its predecessor's messages."""
    channel, old = subscribed(connection)
    peer.send(sent(1, 2))
    wait_until(lambda: len(connection.inbox.events) == 2 or connection.inbox.pump(5))
    channel.close()
    assert not connection.inbox.events
    successor, new = subscribed(connection)
    assert successor.channel_id == 1
    peer.send(sent(1))
    drain(connection, 1)
    assert (len(old), len(new)) == (0, 1)
