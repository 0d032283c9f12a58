"""Exchanges and bindings on the in-memory broker, refusals included.

The texts are those of RabbitMQ 4.0.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker_bench import Bench, delivered, refused


@pytest.fixture
def bench() -> Bench:
    return Bench()


# -- exchanges


def test_exchanges_that_are_there(bench: Bench) -> None:
    """Each virtual host has the exchanges that the specification wants."""
    for name in ("amq.direct", "amq.fanout", "amq.topic", "amq.headers", "amq.match"):
        bench.channel.exchange_declare(name, "any", passive=True)


@pytest.mark.parametrize(
    ("name", "options", "code", "text"),
    [
        (
            "x",
            {"type": "fanout"},
            406,
            "'type' for exchange 'x' in vhost '/': received 'fanout'",
        ),
        ("x", {"durable": True}, 406, "arg 'durable'"),
        ("x", {"auto_delete": True}, 406, "arg 'auto_delete'"),
        ("x", {"internal": True}, 406, "arg 'internal'"),
        ("x", {"arguments": {"alternate-exchange": "y"}}, 406, "arg 'alternate-exchange'"),
        ("y", {"type": "weird"}, 406, "PRECONDITION_FAILED - unknown exchange type 'weird'"),
        ("y", {"passive": True}, 404, "NOT_FOUND - no exchange 'y' in vhost '/'"),
        ("", {}, 403, "ACCESS_REFUSED - operation not permitted on the default exchange"),
        ("", {"passive": True}, 403, "operation not permitted on the default exchange"),
        (
            "y",
            {"arguments": {"alternate-exchange": 5}},
            406,
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'y'",
        ),
    ],
)
def test_refused_exchanges(
    bench: Bench, name: str, options: dict[str, Any], code: int, text: str
) -> None:
    """An exchange that cannot be, or is otherwise, is refused with the reason."""
    bench.channel.exchange_declare("x", "direct")
    bench.channel.exchange_declare("x", "direct", arguments={"whatever": 1})
    assert text in refused(bench.channel, code, bench.channel.exchange_declare, name, **options)


def test_deleting_exchanges(bench: Bench) -> None:
    """An exchange goes with its bindings; a missing one is no matter."""
    bench.queue()
    bench.channel.exchange_declare("x", "fanout")
    bench.channel.queue_bind("q", "x")
    bench.channel.exchange_delete("x")
    bench.channel.exchange_delete("x")
    bench.channel.exchange_declare("x", "fanout")
    bench.publish("a", exchange="x")
    assert bench.bodies() == []


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("", 403, "operation not permitted on the default exchange"),
        (
            "amq.direct",
            403,
            "deletion of system exchange 'amq.direct' in vhost '/' not allowed",
        ),
        ("x", 406, "exchange 'x' in vhost '/' in use"),
    ],
)
def test_exchanges_that_stay(bench: Bench, name: str, code: int, text: str) -> None:
    """The broker's own exchanges, and those in use, are not deleted."""
    bench.queue()
    bench.channel.exchange_declare("x", "fanout")
    bench.channel.queue_bind("q", "x")
    delete = bench.channel.exchange_delete
    assert text in refused(bench.channel, code, delete, name, if_unused=True)


def test_an_unused_exchange_is_deleted(bench: Bench) -> None:
    """``if_unused`` lets an exchange go that nothing is bound to."""
    bench.channel.exchange_declare("x")
    bench.channel.exchange_delete("x", if_unused=True)
    refused(bench.channel, 404, bench.channel.exchange_declare, "x", passive=True)


def test_auto_delete_exchanges(bench: Bench) -> None:
    """An auto-delete exchange goes with its last binding, and others with it."""
    bench.queue()
    for name in ("first", "second"):
        bench.channel.exchange_declare(name, "fanout", auto_delete=True)
    bench.channel.exchange_bind("second", "first")
    bench.channel.queue_bind("q", "second", "one")
    bench.channel.queue_bind("q", "second", "two")
    bench.channel.queue_unbind("q", "second", "three")
    bench.channel.queue_unbind("q", "second", "one")
    bench.channel.exchange_declare("second", passive=True)
    bench.channel.queue_delete("q")
    for name in ("first", "second"):
        channel = bench.connection.channel()
        refused(channel, 404, channel.exchange_declare, name, passive=True)


# -- bindings


def test_bindings_need_both_ends(bench: Bench) -> None:
    """Binding what is not there is 404; unbinding it is no matter."""
    bench.queue()
    for operation, args, text in [
        ("queue_bind", ("nope", "amq.direct"), "no queue 'nope'"),
        ("queue_bind", ("q", "nope"), "no exchange 'nope'"),
        ("exchange_bind", ("amq.direct", "nope"), "no exchange 'nope'"),
        ("exchange_bind", ("nope", "amq.direct"), "no exchange 'nope'"),
    ]:
        channel = bench.connection.channel()
        assert text in refused(channel, 404, getattr(channel, operation), *args)
        channel = bench.connection.channel()
        getattr(channel, operation.replace("bind", "unbind"))(*args)


@pytest.mark.parametrize("operation", ["bind", "unbind"])
def test_the_default_exchange_is_not_bound(bench: Bench, operation: str) -> None:
    """Every queue is bound to the default exchange, and no other binding is allowed."""
    bench.queue()
    for method, args in [
        (f"queue_{operation}", ("q", "", "k")),
        (f"exchange_{operation}", ("", "amq.direct")),
        (f"exchange_{operation}", ("amq.direct", "")),
    ]:
        channel = bench.connection.channel()
        assert (
            refused(channel, 403, getattr(channel, method), *args)
            == "ACCESS_REFUSED - operation not permitted on the default exchange"
        )


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("foo", 'Invalid x-match field value <<"foo">>; expected all, any, all-with-x, or any'),
        (5, "Invalid x-match field type signedint (value 5); expected longstr"),
    ],
)
def test_x_match_must_make_sense(bench: Bench, mode: Any, text: str) -> None:
    """A headers exchange refuses a binding that says nonsense; others do not look."""
    bench.queue()
    bench.channel.queue_bind("q", "amq.direct", "", {"x-match": mode})
    bind = bench.channel.queue_bind
    assert text in refused(bench.channel, 406, bind, "q", "amq.match", "", {"x-match": mode})


def test_binding_twice(bench: Bench) -> None:
    """The same binding counts once; one with other arguments is another."""
    bench.queue()
    bench.channel.queue_bind("q", "amq.direct", "k")
    bench.channel.queue_bind("q", "amq.direct", "k")
    bench.channel.queue_bind("q", "amq.direct", "k", {"other": 1})
    bench.publish("a", exchange="amq.direct", key="k")
    bench.channel.queue_unbind("q", "amq.direct", "k")
    bench.publish("b", exchange="amq.direct", key="k")
    bench.channel.queue_unbind("q", "amq.direct", "k", {"other": 1})
    bench.publish("c", exchange="amq.direct", key="k")
    assert bench.bodies() == ["a", "b"]


# -- routing


def test_one_copy_per_queue(bench: Bench) -> None:
    """However many bindings match, a queue gets a message once."""
    bench.queue()
    for key in ("a.#", "#.b", "*.*"):
        bench.channel.queue_bind("q", "amq.topic", key)
    bench.publish("m", exchange="amq.topic", key="a.b")
    assert bench.bodies() == ["m"]


def test_watching_what_is_published(bench: Bench) -> None:
    """``on_publish`` is told of each message, and of the queues that it reaches."""
    seen: list[tuple[Any, ...]] = []
    bench.broker.on_publish = lambda *what: seen.append(what)
    bench.queue()
    bench.publish("m", message_id="7")
    bench.publish("n", key="nowhere")
    assert seen == [
        ("/", "", "q", {"message_id": "7"}, b"m", ["q"]),
        ("/", "", "nowhere", {}, b"n", []),
    ]


def test_publishing_to_a_missing_exchange(bench: Bench) -> None:
    """There must be an exchange to publish to."""
    channel = bench.channel
    text = refused(channel, 404, channel.basic_publish, b"", {}, "nope", "k")
    assert text == "NOT_FOUND - no exchange 'nope' in vhost '/'"


def test_internal_exchanges(bench: Bench) -> None:
    """Only other exchanges publish to an internal one."""
    bench.queue()
    bench.channel.exchange_declare("inner", "fanout", internal=True)
    bench.channel.exchange_bind("inner", "amq.fanout")
    bench.channel.queue_bind("q", "inner")
    bench.publish("m", exchange="amq.fanout")
    assert bench.bodies() == ["m"]
    text = refused(bench.channel, 403, bench.channel.basic_publish, b"", {}, "inner", "")
    assert text == "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'"


def test_exchanges_in_a_circle(bench: Bench) -> None:
    """Exchanges bound to each other, and to themselves, pass a message on once."""
    bench.queue()
    bench.channel.exchange_declare("one", "fanout")
    bench.channel.exchange_declare("two", "fanout")
    for destination, source in [("one", "two"), ("two", "one"), ("one", "one")]:
        bench.channel.exchange_bind(destination, source)
    bench.channel.queue_bind("q", "two")
    bench.channel.queue_bind("q", "one")
    bench.publish("m", exchange="one")
    assert bench.bodies() == ["m"]
    bench.channel.exchange_unbind("two", "one")
    bench.channel.queue_unbind("q", "one")
    bench.publish("n", exchange="one")
    assert bench.bodies() == []
    bench.channel.exchange_delete("one")


def test_alternate_exchange(bench: Bench) -> None:
    """What matches no binding goes to the alternate exchange, if that is there."""
    bench.queue()
    bench.channel.exchange_declare("spare", "fanout")
    bench.channel.queue_bind("q", "spare")
    for name, alternate in [("main", "spare"), ("lost", "nowhere")]:
        arguments = {"alternate-exchange": alternate}
        bench.channel.exchange_declare(name, "direct", arguments=arguments)
    bench.publish("m", exchange="main", key="k", mandatory=True)
    bench.publish("n", exchange="lost", key="k", mandatory=True)
    assert bench.bodies() == ["m"]
    assert delivered(bench.channel) == ["Returned 312"]


def test_mandatory(bench: Bench) -> None:
    """A mandatory message that reaches no queue is returned, with all it had."""
    bench.publish("m", key="nowhere", mandatory=True, headers={"a": 1})
    bench.publish("n", key="nowhere")
    (event,) = bench.channel.events
    assert event == (312, "NO_ROUTE", "", "nowhere", {"headers": {"a": 1}}, b"m")


def test_carbon_copies(bench: Bench) -> None:
    """The headers CC and BCC name more routing keys; BCC is not passed on."""
    for name in ("one", "two", "three"):
        bench.queue(name)
    headers = {"CC": ["two", "one", 5], "BCC": ("three",)}
    bench.publish("m", key="one", headers=headers)
    bench.publish("n", key="nowhere", headers={"CC": ["nowhere"]})
    for name in ("one", "two", "three"):
        delivery = bench.get(name)
        assert delivery.properties == {"headers": {"CC": ["two", "one", 5]}}
        assert delivery.routing_key == "one"
        assert bench.channel.basic_get(name) is None


def test_carbon_copies_must_be_lists(bench: Bench) -> None:
    """A header CC that is no list is 406."""
    publish = bench.channel.basic_publish
    text = refused(bench.channel, 406, publish, b"", {"headers": {"CC": "q"}}, "", "q")
    fault = '{unacceptable_type_in_header,"CC",longstr}'
    assert text == f"PRECONDITION_FAILED - invalid message: {fault}"


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"expiration": "abc"}, "invalid expiration 'abc': no_integer"),
        ({"expiration": ""}, "invalid expiration '': no_integer"),
        ({"expiration": "--5"}, "invalid expiration '--5': no_integer"),
        ({"expiration": "5.5"}, "invalid expiration '5.5': {leftover_string,\".5\"}"),
        ({"expiration": "-5"}, "invalid expiration '-5': {value_negative,-5}"),
        (
            {"expiration": "999999999999999"},
            "invalid expiration '999999999999999': {value_too_large,999999999999999}",
        ),
        (
            {"user_id": "bob"},
            "user_id property set to 'bob' but authenticated user was 'guest'",
        ),
    ],
)
def test_refused_messages(bench: Bench, properties: dict[str, Any], text: str) -> None:
    """A message with a property that cannot be is 406."""
    bench.queue()
    publish = bench.channel.basic_publish
    found = refused(bench.channel, 406, publish, b"", properties, "", "q")
    assert found == f"PRECONDITION_FAILED - {text}"
    assert bench.counts() == (0, 0)


def test_accepted_properties(bench: Bench) -> None:
    """The user's own name is a fine user_id, and a signed number an expiration."""
    bench.queue()
    bench.publish("m", user_id="guest", expiration="+5")
    assert bench.get().properties == {"user_id": "guest", "expiration": "+5"}


def test_messages_that_are_too_large(bench: Bench) -> None:
    """A message above the limit is 406; one of just that size is not."""
    bench.queue()
    bench.broker.max_message_size = 3
    bench.publish("123")
    publish = bench.channel.basic_publish
    text = refused(bench.channel, 406, publish, b"1234", {}, "", "q")
    assert text.endswith("message size 4 is larger than configured max size 3")
