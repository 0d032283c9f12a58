"""Who gets which message, and what becomes of it: fetching, consuming, settling."""

from __future__ import annotations

import pytest

from carrot.broker import Delivery, Event
from carrot.exceptions import ChannelError
from tests.unit.broker_bench import Bench, delivered, refused


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.queue()
    return bench


def test_fetching(bench: Bench) -> None:
    """A fetched message says where it came from and how many are left."""
    bench.channel.queue_bind("q", "amq.topic", "a.*")
    bench.publish("m", exchange="amq.topic", key="a.b", message_id="7")
    bench.publish("n")
    delivery = bench.get()
    assert delivery == ("", 1, False, "amq.topic", "a.b", {"message_id": "7"}, b"m", 1)
    assert bench.get().message_count == 0
    assert bench.channel.basic_get("q") is None


def test_fetching_from_a_missing_queue(bench: Bench) -> None:
    """There must be a queue to fetch from, and to consume from."""
    for operation in ("basic_get", "basic_consume"):
        channel = bench.connection.channel()
        assert (
            refused(channel, 404, getattr(channel, operation), "nope")
            == "NOT_FOUND - no queue 'nope' in vhost '/'"
        )


def test_consuming(bench: Bench) -> None:
    """A consumer gets what waits, and what comes, in order."""
    bench.publish("a", "b")
    tag = bench.channel.basic_consume("q")
    assert tag.startswith("amq.ctag-")
    bench.publish("c")
    assert delivered(bench.channel) == [f"{tag}:a", f"{tag}:b", f"{tag}:c"]
    assert bench.counts() == (0, 1)


def test_listening_to_events(bench: Bench) -> None:
    """``on_event`` gets the events instead, as they happen."""
    seen: list[Event] = []
    bench.channel.on_event = seen.append
    bench.channel.basic_consume("q", "t")
    bench.publish("a")
    assert seen == [Delivery("t", 1, False, "", "q", {}, b"a")]
    assert not bench.channel.events


def test_consumers_take_turns(bench: Bench) -> None:
    """Consumers of a queue are served round-robin."""
    bench.channel.basic_consume("q", "one")
    bench.channel.basic_consume("q", "two")
    bench.publish("a", "b", "c")
    assert delivered(bench.channel) == ["one:a", "two:b", "one:c"]


def test_cancelling_one_leaves_the_other_its_messages(bench: Bench) -> None:
    """Cancelling a consumer affects no other, nor what it holds; twice is no matter."""
    bench.channel.basic_consume("q", "one")
    bench.channel.basic_consume("q", "two")
    bench.publish("a", "b")
    bench.channel.basic_cancel("one")
    bench.channel.basic_cancel("one")
    bench.publish("c")
    assert delivered(bench.channel) == ["one:a", "two:b", "two:c"]
    bench.channel.basic_ack(1)
    assert bench.counts() == (0, 1)


def test_consumer_priorities(bench: Bench) -> None:
    """Consumers of a higher priority are served while they can take more."""
    bench.channel.basic_qos(1)
    bench.channel.basic_consume("q", "low", arguments={"x-priority": -1})
    bench.channel.basic_consume("q", "high", arguments={"x-priority": 10})
    bench.channel.basic_consume("q", "middle")
    bench.publish("a", "b", "c", "d")
    assert delivered(bench.channel) == ["high:a", "middle:b", "low:c"]
    bench.channel.basic_ack(2)
    assert delivered(bench.channel) == ["middle:d"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x-priority": "a"}, "invalid arg 'x-priority' for queue 'q' in vhost '/'"),
        ({"x-stream-offset": 1}, "of queue type rabbit_classic_queue"),
    ],
)
def test_refused_consumer_arguments(
    bench: Bench, arguments: dict[str, object], text: str
) -> None:
    """Arguments that make no sense are 406."""
    consume = bench.channel.basic_consume
    assert text in refused(bench.channel, 406, consume, "q", arguments=arguments)


def test_exclusive_consumers(bench: Bench) -> None:
    """One consumer may have a queue for itself, if it is the only one."""
    bench.channel.basic_consume("q", "one", exclusive=True)
    other = bench.connection.channel()
    text = refused(other, 403, other.basic_consume, "q")
    assert text == "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
    bench.channel.basic_cancel("one")
    bench.channel.basic_consume("q", "two")
    other = bench.connection.channel()
    refused(other, 403, other.basic_consume, "q", exclusive=True)
    bench.channel.basic_consume("q", "three")


# -- prefetch


def test_prefetch_of_each_consumer(bench: Bench) -> None:
    """No consumer gets more than it may hold; settling makes room."""
    bench.publish("a", "b", "c", "d", "e")
    bench.channel.basic_qos(2)
    bench.channel.basic_consume("q", "two")
    bench.channel.basic_qos(1)
    bench.channel.basic_consume("q", "one")
    assert delivered(bench.channel) == ["two:a", "two:b", "one:c"]
    bench.channel.basic_ack(2)
    assert delivered(bench.channel) == ["two:d"]
    bench.channel.basic_reject(3, requeue=False)
    assert delivered(bench.channel) == ["one:e"]


def test_prefetch_means_nothing_without_acknowledgements(bench: Bench) -> None:
    """A consumer that acknowledges nothing is not held up."""
    bench.publish("a", "b", "c")
    bench.channel.basic_qos(1)
    bench.channel.basic_consume("q", "t", no_ack=True)
    assert delivered(bench.channel) == ["t:a", "t:b", "t:c"]
    assert bench.channel.unacked == {}


def test_prefetch_of_a_channel(bench: Bench) -> None:
    """A bound on the channel is shared by its consumers; fetching is not bound."""
    bench.publish("a", "b", "c", "d", "e", "f", "g")
    bench.channel.basic_qos(2, global_=True)
    bench.channel.basic_consume("q", "one")
    bench.channel.basic_consume("q", "two")
    assert delivered(bench.channel) == ["one:a", "one:b"]
    fetched = bench.get().delivery_tag
    bench.channel.basic_ack(1)
    assert delivered(bench.channel) == ["one:d"]
    bench.channel.basic_ack(fetched)
    assert delivered(bench.channel) == []
    bench.channel.basic_qos(3, global_=True)
    assert delivered(bench.channel) == ["two:e"]
    bench.channel.basic_qos(0, global_=True)
    assert delivered(bench.channel) == ["one:f", "two:g"]


def test_a_bound_set_late_counts_what_is_out(bench: Bench) -> None:
    """A bound on the channel counts what it already holds."""
    bench.publish("a", "b", "c", "d")
    bench.get(), bench.get()
    bench.channel.basic_qos(2, global_=True)
    bench.channel.basic_consume("q", "t")
    assert delivered(bench.channel) == []
    bench.channel.basic_qos(5)
    assert delivered(bench.channel) == ["t:c", "t:d"], "a bound for each replaces it"


def test_cancelled_while_parked(bench: Bench) -> None:
    """A consumer that waits for room can be cancelled, and its channel closed."""
    bench.channel.basic_qos(1)
    for tag in ("one", "two"):
        bench.channel.basic_consume("q", tag)
    bench.publish("a", "b", "c")
    bench.channel.basic_cancel("one")
    bench.channel.basic_ack(1)
    assert delivered(bench.channel) == ["one:a", "two:b"]
    bench.channel.close()
    assert bench.connection.channel().queue_declare("q") == ("q", 2, 0)


def test_a_parked_consumer_loses_its_queue(bench: Bench) -> None:
    """Deleting the queue of a consumer that waits for room leaves no trace of it."""
    bench.channel.basic_qos(1)
    bench.channel.basic_consume("q", "t")
    bench.publish("a", "b")
    bench.connection.channel().queue_delete("q")
    assert delivered(bench.channel) == ["t:a", "Cancelled t"]
    bench.channel.basic_ack(1)
    assert not bench.channel.parked


# -- single active consumer


def test_single_active_consumer(bench: Bench) -> None:
    """One consumer gets everything until it goes; then the next in line."""
    bench.queue("s", x_single_active_consumer=True)
    bench.channel.basic_qos(1)
    for tag in ("one", "two"):
        bench.channel.basic_consume("s", tag)
    bench.channel.basic_consume("s", "three", arguments={"x-priority": 5})
    bench.publish("a", "b", "c", key="s")
    assert delivered(bench.channel) == ["one:a"]
    bench.channel.basic_ack(1)
    assert delivered(bench.channel) == ["one:b"]
    bench.channel.basic_cancel("one")
    assert delivered(bench.channel) == ["three:c"]
    bench.channel.basic_cancel("three")
    bench.channel.basic_cancel("two")
    bench.publish("d", key="s")
    assert bench.bodies("s") == ["d"]
    text = refused(bench.channel, 403, bench.channel.basic_consume, "s", "four", exclusive=True)
    assert "in exclusive use" in text


# -- settling


def test_requeued_messages_return_to_their_places(bench: Bench) -> None:
    """A message given back is next again, and flagged as delivered before."""
    bench.publish("a", "b", "c")
    first, second = bench.get(), bench.get()
    bench.channel.basic_reject(second.delivery_tag, requeue=True)
    bench.channel.basic_reject(first.delivery_tag, requeue=True)
    again = bench.get()
    assert (again.body, again.redelivered, again.delivery_tag) == (b"a", True, 3)
    assert (bench.get().body, bench.get().redelivered) == (b"b", False)


def test_closing_gives_back(bench: Bench) -> None:
    """Closing a channel returns what it had not settled, seen or not."""
    channel = bench.connection.channel()
    channel.basic_consume("q", "t")
    bench.publish("a", "b", "c")
    channel.basic_ack(2)
    channel.close()
    assert not channel.events
    assert bench.get().redelivered
    assert bench.bodies() == ["c"]


def test_closing_a_channel_serves_the_others(bench: Bench) -> None:
    """What a closed channel held goes to the consumers that are left."""
    channel = bench.connection.channel()
    channel.basic_consume("q", "gone")
    bench.publish("a")
    bench.channel.basic_consume("q", "left")
    bench.connection.channel().close()
    channel.close()
    assert delivered(bench.channel) == ["left:a"]


def test_settling_several(bench: Bench) -> None:
    """``multiple`` settles all up to the tag; 0 means everything."""
    bench.publish(*"abcdef")
    for _ in range(6):
        bench.get()
    bench.channel.basic_ack(2, multiple=True)
    bench.channel.basic_ack(4)
    bench.channel.basic_nack(5, multiple=True)
    assert [bench.get().body, bench.get().body] == [b"c", b"e"]
    bench.channel.basic_nack(0, multiple=True, requeue=False)
    bench.channel.basic_ack(0, multiple=True)
    assert (bench.counts(), bench.channel.unacked) == ((0, 0), {})


def test_nack_of_one(bench: Bench) -> None:
    """A single negative acknowledgement requeues by default."""
    bench.publish("a")
    bench.channel.basic_nack(bench.get().delivery_tag)
    bench.channel.basic_nack(bench.get().delivery_tag, requeue=False)
    assert bench.counts() == (0, 0)


def test_recover(bench: Bench) -> None:
    """Recovering requeues everything; RabbitMQ knows no other way."""
    bench.publish("a", "b")
    bench.channel.basic_consume("q", "t")
    delivered(bench.channel)
    bench.channel.basic_recover()
    assert delivered(bench.channel) == ["t:a", "t:b"]
    with pytest.raises(ChannelError, match="NOT_IMPLEMENTED - requeue=false"):
        bench.channel.basic_recover(requeue=False)
    assert not bench.connection.is_open


@pytest.mark.parametrize("multiple", [False, True])
def test_unknown_delivery_tags(bench: Bench, multiple: bool) -> None:
    """Settling what is not out is 406 and costs the channel, settled twice included."""
    bench.publish("a", "b")
    bench.get(), bench.get()
    bench.channel.basic_ack(1)
    for channel, tag in [(bench.channel, 1), (bench.connection.channel(), 7)]:
        text = refused(channel, 406, channel.basic_nack, tag, multiple=multiple)
        assert text == f"PRECONDITION_FAILED - unknown delivery tag {tag}"
    assert bench.connection.channel().queue_declare("q")[1] == 1


def test_tag_zero_alone_is_unknown(bench: Bench) -> None:
    """0 stands for all only where several are meant."""
    bench.channel.basic_ack(0, multiple=True)
    refused(bench.channel, 406, bench.channel.basic_ack, 0)


# -- confirms


def test_confirms(bench: Bench) -> None:
    """Messages are confirmed by number, after they were returned if they were."""
    bench.publish("before")
    bench.channel.confirm_select()
    bench.publish("a")
    bench.publish("b", key="nowhere", mandatory=True)
    bench.channel.confirm_select()
    bench.publish("c")
    assert delivered(bench.channel) == [
        "Confirmed 1",
        "Returned 312",
        "Confirmed 2",
        "Confirmed 3",
    ]


def test_nacks(bench: Bench) -> None:
    """A message that one of its queues refuses is nacked, though others took it."""
    bench.queue("full", x_max_length=0, x_overflow="reject-publish")
    bench.channel.queue_bind("q", "amq.fanout")
    bench.channel.queue_bind("full", "amq.fanout")
    bench.publish("before", exchange="amq.fanout")
    bench.channel.confirm_select()
    bench.publish("a", exchange="amq.fanout")
    bench.publish("b")
    assert delivered(bench.channel) == ["Nacked 1", "Confirmed 2"]
    assert bench.bodies() == ["before", "a", "b"]
