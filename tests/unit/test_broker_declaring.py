"""Declaring and deleting queues on the in-memory broker, refusals included.

The texts are those of RabbitMQ 4.0.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from carrot.exceptions import (
    AccessRefused,
    ChannelError,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
)
from tests.unit.broker_bench import Bench, delivered, refused


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- queues


def test_declaring_answers_name_and_counts(bench: Bench) -> None:
    """A declaration says what the queue is called and what is in it."""
    assert bench.channel.queue_declare("q") == ("q", 0, 0)
    bench.publish("a", "b")
    assert bench.channel.queue_declare("q") == ("q", 2, 0)
    bench.channel.basic_consume("q")
    assert bench.channel.queue_declare("q", passive=True) == ("q", 0, 1)


def test_the_broker_chooses_names(bench: Bench) -> None:
    """A queue declared without a name gets one that is nobody else's."""
    one, other = bench.queue(""), bench.queue("")
    assert one.startswith("amq.gen-") and other.startswith("amq.gen-")
    assert one != other
    bench.publish("a", key=other)
    assert bench.bodies("") == ["a"], "no name means the queue declared last"


def test_no_name_without_a_declaration(bench: Bench) -> None:
    """No name means nothing on a channel that declared no queue."""
    for operation in ("queue_delete", "queue_purge", "basic_get", "basic_consume"):
        channel = bench.connection.channel()
        assert (
            refused(channel, 404, getattr(channel, operation), "")
            == "NOT_FOUND - no previously declared queue"
        )


def test_binding_without_names_uses_the_last_queue(bench: Bench) -> None:
    """An empty queue name, and an empty key with it, mean the queue declared last."""
    bench.queue("q")
    bench.channel.queue_bind("", "amq.direct")
    bench.publish("a", exchange="amq.direct", key="q")
    bench.channel.queue_unbind("", "amq.direct")
    bench.publish("b", exchange="amq.direct", key="q")
    assert bench.bodies() == ["a"]


def test_passive_declare_of_a_missing_queue(bench: Bench) -> None:
    """Asking for a queue that is not there is 404."""
    with pytest.raises(NotFound, match=r"NOT_FOUND - no queue 'q' in vhost '/'"):
        bench.channel.queue_declare("q", passive=True)


@pytest.mark.parametrize(
    ("first", "then", "text"),
    [
        ({}, {"durable": True}, "arg 'durable'.*received 'true' but current is 'false'"),
        (
            {"auto_delete": True},
            {},
            "arg 'auto_delete'.*received 'false' but current is 'true'",
        ),
        (
            {},
            {"arguments": {"x-max-length": 1}},
            "received the value '1' of type 'signedint' but current is none",
        ),
        (
            {"arguments": {"x-single-active-consumer": True}},
            {},
            "received none but current is the value 'true' of type 'bool'",
        ),
        (
            {"arguments": {"x-max-length": 1}},
            {"arguments": {"x-max-length": 2}},
            "arg 'x-max-length'.*received '2' but current is '1'",
        ),
        ({}, {"arguments": {"x-queue-type": "quorum"}}, "'quorum' but current is 'classic'"),
    ],
)
def test_declaring_otherwise(
    bench: Bench, first: dict[str, Any], then: dict[str, Any], text: str
) -> None:
    """Declaring a queue again with other properties is 406, and says which."""
    bench.channel.queue_declare("q", **first)
    with pytest.raises(
        PreconditionFailed, match=f"PRECONDITION_FAILED - inequivalent .*{text}"
    ):
        bench.channel.queue_declare("q", **then)


def test_declaring_the_same_again(bench: Bench) -> None:
    """Arguments without meaning do not count, nor does the type that is the default."""
    bench.queue("q", x_foo=1, x_queue_version=2)
    assert bench.queue("q", x_queue_type="classic", x_bar=2, x_queue_version=2) == "q"


def test_reserved_names(bench: Bench) -> None:
    """Names beginning with amq. are the broker's."""
    channel = bench.connection.channel()
    text = "ACCESS_REFUSED - {} name 'amq.x' contains reserved prefix 'amq.*'"
    assert refused(channel, 403, channel.queue_declare, "amq.x") == text.format("queue")
    channel = bench.connection.channel()
    assert refused(channel, 403, channel.exchange_declare, "amq.x") == text.format("exchange")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"x-expires": 0},
            "invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}",
        ),
        ({"x-expires": True}, '"expected integer, got bool"'),
        ({"x-message-ttl": -1}, "{value_negative,-1}"),
        ({"x-message-ttl": 315360000001}, "{value_too_large,315360000001}"),
        ({"x-message-ttl": "5"}, '"expected integer, got longstr"'),
        ({"x-message-ttl": 5.5}, '"expected integer, got double"'),
        ({"x-message-ttl": None}, '"expected integer, got void"'),
        ({"x-message-ttl": {}}, '"expected integer, got table"'),
        ({"x-message-ttl": []}, '"expected integer, got array"'),
        ({"x-message-ttl": Decimal(1)}, '"expected integer, got decimal"'),
        ({"x-message-ttl": datetime(2020, 1, 1)}, '"expected integer, got timestamp"'),
        ({"x-max-length": -1}, "{value_negative,-1}"),
        ({"x-max-priority": 256}, "{max_value_exceeded,256}"),
        ({"x-max-priority": -1}, "{value_negative,-1}"),
        ({"x-overflow": "foo"}, "invalid_overflow"),
        ({"x-overflow": 2**40}, "{unacceptable_type,long}"),
        ({"x-queue-mode": "foo"}, "\"unsupported queue mode 'foo'\""),
        ({"x-queue-version": "a"}, '"expected integer, got longstr"'),
        ({"x-queue-version": 3}, "\"unsupported queue version '3'\""),
        ({"x-single-active-consumer": 1}, "{unacceptable_type,signedint}"),
        ({"x-queue-type": "foo"}, "\"unsupported queue type 'foo'\""),
        ({"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"),
        (
            {"x-dead-letter-exchange": 5},
            "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q'",
        ),
        (
            {"x-max-age": "1D"},
            "invalid arg 'x-max-age' for queue 'q' in vhost '/' of queue type",
        ),
        ({"x-queue-type": "quorum"}, "invalid property 'non-durable' for queue 'q'"),
    ],
)
def test_arguments_without_sense(bench: Bench, arguments: dict[str, Any], text: str) -> None:
    """An argument that cannot be is 406, and nothing is declared."""
    channel = bench.channel
    assert text in refused(channel, 406, channel.queue_declare, "q", arguments=arguments)
    assert not bench.exists()


def test_other_queue_types_are_taken(bench: Bench) -> None:
    """Quorum queues can be declared, with their own arguments."""
    bench.queue("q", durable=True, x_queue_type="quorum", x_delivery_limit=5)
    bench.publish("a")
    assert bench.bodies() == ["a"]
    declare = bench.channel.queue_declare
    text = refused(bench.channel, 406, declare, "", arguments={"x-queue-type": "stream"})
    assert text.endswith("Cannot declare a server-named queue for type rabbit_stream_queue")


def test_line_ends_in_names(bench: Bench) -> None:
    """Line ends are taken out of names that are declared and bound, but no others."""
    assert bench.queue("q\r\n") == "q"
    bench.channel.exchange_declare("x\n", "fanout")
    bench.channel.queue_bind("\nq", "x\n", "k\n")
    bench.publish("m", exchange="x", key="k\n")
    assert bench.bodies() == ["m"]
    bench.channel.queue_delete("q\n")
    bench.channel.exchange_delete("x\n")
    refused(bench.channel, 404, bench.channel.basic_publish, b"", {}, "x", "")


def test_exclusive_queues_are_locked(bench: Bench) -> None:
    """Only the connection that declared an exclusive queue may use it."""
    bench.queue("q", exclusive=True)
    bench.queue("q", exclusive=True, durable=True)  # exclusive ones never are durable
    other = bench.connect()
    text = (
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'."
        " It could be originally declared on another connection or the exclusive property"
        " value does not match that of the original declaration."
    )
    for operation, args, options in [
        ("queue_declare", ("q",), {}),
        ("queue_declare", ("q",), {"passive": True}),
        ("queue_declare", ("q",), {"exclusive": True}),
        ("queue_bind", ("q", "amq.direct"), {}),
        ("queue_purge", ("q",), {}),
        ("queue_delete", ("q",), {}),
        ("basic_get", ("q",), {}),
        ("basic_consume", ("q",), {}),
    ]:
        channel = other.channel()
        found = refused(channel, 405, getattr(channel, operation), *args, **options)
        assert found == text, operation
    with pytest.raises(ResourceLocked):
        bench.channel.queue_declare("q")


def test_unbinding_a_locked_queue(bench: Bench) -> None:
    """A binding of a locked queue stays; one that is not there is no matter."""
    bench.queue("q", exclusive=True)
    bench.channel.queue_bind("q", "amq.direct", "k")
    channel = bench.connect().channel()
    channel.queue_unbind("q", "amq.direct", "other")
    refused(channel, 405, channel.queue_unbind, "q", "amq.direct", "k")


def test_exclusive_queues_go_with_their_connection(bench: Bench) -> None:
    """Closing the connection deletes its exclusive queues, and only those."""
    bench.queue("mine", exclusive=True)
    bench.queue("ours")
    bench.connection.close()
    assert not bench.exists("mine")
    assert bench.exists("ours")


def test_a_deleted_exclusive_queue_is_forgotten(bench: Bench) -> None:
    """A name that was an exclusive queue's is free after its deletion."""
    bench.queue("q", exclusive=True)
    bench.channel.queue_delete("q")
    bench.connect().channel().queue_declare("q")
    bench.connection.close()
    assert bench.exists()


def test_deleting_counts_messages(bench: Bench) -> None:
    """Deleting and purging say how many messages waited; a missing queue had none."""
    bench.queue()
    bench.publish("a", "b", "c")
    bench.get()
    assert bench.channel.queue_purge("q") == 2
    bench.publish("d")
    assert bench.channel.queue_delete("q") == 1
    assert bench.channel.queue_delete("q") == 0


def test_deleting_on_conditions(bench: Bench) -> None:
    """``if_empty`` and ``if_unused`` protect what is in use."""
    bench.queue()
    bench.channel.basic_qos(1)
    bench.channel.basic_consume("q")
    bench.publish("a", "b")
    for option, text in [("if_empty", "not empty"), ("if_unused", "in use")]:
        channel = bench.connection.channel()
        assert (
            refused(channel, 406, channel.queue_delete, "q", **{option: True})
            == f"PRECONDITION_FAILED - queue 'q' in vhost '/' {text}"
        )
    assert bench.counts() == (1, 1)


def test_deleting_cancels_consumers(bench: Bench) -> None:
    """Consumers of a deleted queue are told, in the order of their tags."""
    bench.queue()
    channel = bench.connect().channel()
    channel.basic_consume("q", "b")
    channel.basic_consume("q", "a")
    bench.channel.queue_delete("q")
    assert delivered(channel) == ["Cancelled a", "Cancelled b"]
    channel.queue_declare("p")
    assert channel.basic_consume("p", "a") == "a", "the tag is free again"


def test_settling_after_the_queue_is_gone(bench: Bench) -> None:
    """A message whose queue was deleted can be settled, to no effect."""
    bench.queue()
    bench.publish("a", "b", "c")
    tags = [bench.get().delivery_tag for _ in range(3)]
    bench.channel.queue_delete("q")
    bench.queue()
    bench.channel.basic_ack(tags[0])
    bench.channel.basic_reject(tags[1], requeue=True)
    bench.channel.close()
    assert bench.counts() == (0, 0)


def test_purging_a_missing_queue(bench: Bench) -> None:
    """There must be a queue to purge."""
    assert (
        refused(bench.channel, 404, bench.channel.queue_purge, "q")
        == "NOT_FOUND - no queue 'q' in vhost '/'"
    )


def test_auto_delete_after_the_last_consumer(bench: Bench) -> None:
    """An auto-delete queue goes with its last consumer, not before its first."""
    bench.queue("q", auto_delete=True)
    bench.channel.basic_get("q")
    bench.connect().channel().close()
    channel = bench.connect().channel()
    channel.basic_consume("q", "one")
    channel.basic_consume("q", "two")
    channel.basic_cancel("one")
    assert bench.exists()
    channel.basic_cancel("two")
    assert not bench.exists()


def test_auto_delete_after_the_last_channel(bench: Bench) -> None:
    """Closing the channel of the last consumer deletes an auto-delete queue."""
    bench.queue("q", auto_delete=True)
    channel = bench.connect().channel()
    channel.basic_consume("q")
    bench.publish("a")
    channel.close()
    assert not bench.exists()


# -- virtual hosts, channels, connections


def test_virtual_hosts_are_apart(bench: Bench) -> None:
    """What is declared in one virtual host is not there in another."""
    bench.queue()
    other = bench.broker.connect("other").channel()
    with pytest.raises(NotFound, match="no queue 'q' in vhost 'other'"):
        other.queue_declare("q", passive=True)


def test_closed_channels_refuse(bench: Bench) -> None:
    """Whatever a closed channel is asked is refused with 504; closing it again is not."""
    bench.channel.close()
    bench.channel.close()
    for operation, args in [
        ("queue_declare", ("q",)),
        ("basic_get", ("q",)),
        ("basic_ack", (1,)),
        ("basic_publish", (b"", {}, "", "q")),
    ]:
        with pytest.raises(ChannelError, match=r"CHANNEL_ERROR - expected 'channel\.open'"):
            getattr(bench.channel, operation)(*args)


def test_closed_connections_open_no_channels(bench: Bench) -> None:
    """Closing a connection closes its channels, and it opens no more."""
    bench.connection.close()
    assert not bench.channel.is_open
    with pytest.raises(ChannelError, match=r"expected 'connection\.open'"):
        bench.connection.channel()


def test_an_error_closes_one_channel(bench: Bench) -> None:
    """A refused operation costs its channel, not the others of the connection."""
    other = bench.connection.channel()
    with pytest.raises(NotFound):
        other.queue_purge("nope")
    assert bench.channel.is_open and bench.connection.is_open
    assert list(bench.connection.channels) == [bench.channel]


def test_a_hard_error_closes_the_connection(bench: Bench) -> None:
    """What RabbitMQ closes the connection for does so here."""
    bench.queue()
    bench.channel.basic_consume("q", "tag")
    with pytest.raises(ChannelError, match="NOT_ALLOWED - attempt to reuse consumer tag 'tag'"):
        bench.channel.basic_consume("q", "tag")
    assert not bench.connection.is_open


def test_long_refusals_are_shortened(bench: Bench) -> None:
    """A reply text fits the 255 bytes that AMQP has for it."""
    name = "é" * 120
    text = refused(bench.channel, 404, bench.channel.queue_declare, name, passive=True)
    assert text.endswith("...")
    assert 250 <= len(text.encode()) <= 255


def test_reprs_tell_the_state(bench: Bench) -> None:
    """What is printed while debugging says what is where."""
    bench.queue()
    bench.channel.queue_bind("q", "amq.fanout")
    bench.publish("a", "b")
    bench.get()
    vhost = bench.broker.vhost("/")
    assert repr(vhost.queues["q"]) == "<Queue 'q' in '/': 1 ready, 1 unacked, 0 consumers>"
    assert repr(vhost.exchanges["amq.fanout"]) == "<Exchange 'amq.fanout' (fanout): 1 bindings>"
    assert repr(bench.connection) == "<Connection of 'guest' to '/', open>"
    assert "0 consumers, 1 unacked, 0 events" in repr(bench.channel)
    bench.connection.close()
    assert "closed" in repr(bench.connection) and "closed" in repr(bench.channel)


def test_refusals_are_of_their_classes(bench: Bench) -> None:
    """Each code has the class of error that the rest of the library knows."""
    with pytest.raises(AccessRefused):
        bench.channel.queue_declare("amq.x")
