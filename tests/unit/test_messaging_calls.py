"""What messaging asks of a backend: the calls of carrot 0.10.7, and none besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends.base import BaseMessage
from carrot.exceptions import (
    PreconditionFailed,
)
from carrot.messaging import Consumer, ConsumerSet, Messaging, Publisher
from tests.unit.recording import ConfirmingBackend, RecordingBackend, RecordingConnection


def consumer_of(queue: str = "q", **options: Any) -> Consumer:
    return Consumer(RecordingConnection(), queue=queue, **options)


def message(body: Any = b"x", **options: Any) -> BaseMessage:
    return BaseMessage(None, body=body, delivery_tag=1, content_type="text/plain", **options)


# -- declaring


def test_declaring_asks_in_the_order_of_old() -> None:
    """A consumer declares queue, exchange and binding in that order, all by keyword."""
    consumer = consumer_of(
        exchange="x", routing_key="k", exchange_type="topic", queue_arguments={"x-expires": 5}
    )
    assert consumer.backend.calls == [
        (
            "queue_declare",
            (),
            {
                "queue": "q",
                "durable": True,
                "exclusive": False,
                "auto_delete": False,
                "arguments": {"x-expires": 5},
                "warn_if_exists": False,
            },
        ),
        (
            "exchange_declare",
            (),
            {"exchange": "x", "type": "topic", "durable": True, "auto_delete": False},
        ),
        (
            "queue_bind",
            (),
            {"queue": "q", "exchange": "x", "routing_key": "k", "arguments": None},
        ),
    ]


def test_without_an_exchange_only_the_queue_is_declared() -> None:
    """Without an exchange nothing is bound: RabbitMQ refuses that for the default one."""
    assert [name for name, _, _ in consumer_of().backend.calls] == ["queue_declare"]


def test_auto_declare_false_asks_for_nothing() -> None:
    """With ``auto_declare=False`` the backend is not asked for anything."""
    assert consumer_of(auto_declare=False).backend.calls == []
    publisher = Publisher(RecordingConnection(), exchange="x", auto_declare=False)
    assert publisher.backend.calls == []


def test_the_default_exchange_is_not_declared() -> None:
    """A publisher without an exchange declares none."""
    assert Publisher(RecordingConnection()).backend.calls == []


def test_a_publisher_declares_by_keyword() -> None:
    """A publisher declares its exchange by keyword."""
    publisher = Publisher(
        RecordingConnection(), exchange="x", exchange_type="fanout", durable=False
    )
    assert publisher.backend.calls == [
        (
            "exchange_declare",
            (),
            {"exchange": "x", "type": "fanout", "durable": False, "auto_delete": False},
        )
    ]


def test_exclusive_implies_auto_delete() -> None:
    """``exclusive`` implies ``auto_delete``, of queue and exchange."""
    consumer = consumer_of(exchange="x", exclusive=True)
    assert consumer.auto_delete
    for _, _, declared in consumer.backend.called("queue_declare", "exchange_declare"):
        assert declared["auto_delete"]


def test_settings_of_queue_and_exchange_can_be_set_apart() -> None:
    """``queue_*`` and ``exchange_*`` go before what the two share."""
    consumer = consumer_of(
        exchange="x",
        queue_durable=False,
        queue_auto_delete=True,
        exchange_durable=True,
        exchange_auto_delete=False,
    )
    queue, exchange, _ = (kwargs for _, _, kwargs in consumer.backend.calls)
    assert (queue["durable"], queue["auto_delete"]) == (False, True)
    assert (exchange["durable"], exchange["auto_delete"]) == (True, False)


def test_headers_bindings_are_arguments() -> None:
    """The routing key of a headers exchange's consumer is the binding's arguments."""
    table = {"x-match": "any", "a": 1}
    consumer = consumer_of(exchange="x", exchange_type="headers", routing_key=table)
    assert consumer.backend.last[2] == {
        "queue": "q",
        "exchange": "x",
        "routing_key": "",
        "arguments": table,
    }
    nothing = consumer_of(exchange="x", exchange_type="headers")
    assert nothing.backend.last[2]["arguments"] == {}


def test_a_server_named_queue_keeps_its_name() -> None:
    """The name that the broker chose becomes the consumer's, and is declared again as such."""

    class Naming(RecordingBackend):
        def queue_declare(self, **kwargs: Any) -> Any:
            super().queue_declare(**kwargs)
            return "amq.gen-1", 0, 0

    consumer = Consumer(RecordingConnection(Naming), queue="", exchange="x")
    assert consumer.queue == "amq.gen-1"
    assert consumer.backend.last[2]["queue"] == "amq.gen-1"


def test_a_406_about_sharing_names_the_way_out() -> None:
    """The text of a 406 that sharing causes names the four options; another is left alone."""
    shared = PreconditionFailed(406, "inequivalent arg 'durable' for exchange 'x'")
    other = PreconditionFailed(406, "inequivalent arg 'x-expires' for queue 'q'")
    for error in (shared, other):
        consumer = consumer_of(auto_declare=False)
        consumer.backend.answers["queue_declare"] = error
        with pytest.raises(PreconditionFailed) as caught:
            consumer.declare()
        assert caught.value.reply_code == 406
        assert ("exchange_auto_delete" in str(caught.value)) == (error is shared)


# -- receiving


def test_fetching_asks_as_of_old() -> None:
    """``get`` gets the queue by position and ``no_ack`` by keyword."""
    consumer = consumer_of()
    consumer.fetch()
    assert consumer.backend.last == ("get", ("q",), {"no_ack": False})
    consumer.fetch(no_ack=True)
    assert consumer.backend.last == ("get", ("q",), {"no_ack": True})
    consumer.no_ack = True
    consumer.fetch(no_ack=False)
    assert consumer.backend.last == ("get", ("q",), {"no_ack": False})


def test_consuming_asks_as_of_old() -> None:
    """``declare_consumer`` gets its five keywords, the raw callback among them."""
    consumer = consumer_of()
    consumer.consume()
    consumer.consume()
    [(_, args, kwargs)] = consumer.backend.called("declare_consumer")
    assert args == ()
    assert kwargs == {
        "queue": "q",
        "no_ack": False,
        "callback": consumer._receive_callback,
        "consumer_tag": consumer.consumer_tag,
        "nowait": False,
    }
    consumer.cancel()
    assert consumer.backend.last == ("cancel", (consumer.consumer_tag,), {})
    consumer.cancel()
    assert len(consumer.backend.called("cancel")) == 1


def test_the_rest_is_asked_by_position() -> None:
    """``queue_purge``, ``qos`` and ``flow`` get positions, as in 0.10.7."""
    consumer = consumer_of()
    consumer.purge()
    assert consumer.backend.last == ("queue_purge", ("q",), {})
    consumer.qos(prefetch_count=5, apply_global=True)
    assert consumer.backend.last == ("qos", (0, 5, True), {})
    consumer.flow(False)
    assert consumer.backend.last == ("flow", (False,), {})
    consumers = ConsumerSet(RecordingConnection(), consumers=[consumer])
    consumers.qos(0, 1)
    assert consumers.backend.last == ("qos", (0, 1, False), {})
    consumers.flow(True)
    assert consumers.backend.last == ("flow", (True,), {})


def test_purging_where_the_backend_does_not_count() -> None:
    """A backend whose ``queue_purge`` returns nothing is taken to have purged nothing."""
    assert consumer_of().discard_all() == 0


def test_a_limit_of_zero_is_no_limit() -> None:
    """``limit=0`` lets everything through that the backend delivers."""
    consumer = consumer_of()
    consumer.backend.answers["consume"] = [True] * 5
    assert list(consumer.iterconsume(limit=0)) == [True] * 5
    assert list(consumer.iterconsume(limit=2)) == [True, True]


def test_a_backend_may_end_consume_by_stop_iteration() -> None:
    """A ``StopIteration`` raised inside a backend's generator ends the loop quietly."""

    class Old(RecordingBackend):
        def consume(self, limit: int | None = None) -> Iterator[Any]:
            yield True
            raise StopIteration

    consumer = Consumer(RecordingConnection(Old), queue="q")
    assert list(consumer.iterconsume()) == [True]


def test_other_errors_of_a_backend_pass() -> None:
    """A ``RuntimeError`` of a backend's own leaves the loop unchanged."""
    error = RuntimeError("the backend's own")

    class Failing(RecordingBackend):
        def consume(self, limit: int | None = None) -> Iterator[Any]:
            yield True
            raise error

    with pytest.raises(RuntimeError) as caught:
        Consumer(RecordingConnection(Failing), queue="q").wait()
    assert caught.value is error


def test_stop_without_help_of_the_backend() -> None:
    """Over a backend that knows no ``stop``, the loop ends after the current message."""
    consumer = consumer_of()
    consumer.backend.answers["consume"] = [True] * 5
    seen = 0
    for _ in consumer.iterconsume():
        seen += 1
        consumer.stop()
    assert seen == 1
    consumers = ConsumerSet(consumer.connection, consumers=[consumer])
    consumers.backend.answers["consume"] = [True] * 5
    consumers.stop()
    assert list(consumers.iterconsume()) == []


def test_stop_asks_backends_that_can() -> None:
    """``stop()`` is passed on to backends that announce it."""

    class Stopping(RecordingBackend):
        features = frozenset(["stop"])
        requested = False

        def consume(self, limit: int | None = None) -> Iterator[Any]:
            while not self.requested:
                yield True
            self.requested = False

        def stop(self) -> None:
            self.requested = True

    for receiver in (
        Consumer(RecordingConnection(Stopping), queue="q"),
        ConsumerSet(
            RecordingConnection(Stopping),
            consumers=[Consumer(RecordingConnection(Stopping), queue="q")],
        ),
    ):
        events = receiver.iterconsume(limit=2)
        next(events)
        next(events)
        receiver.stop()
        assert list(events) == []
        assert len(list(receiver.iterconsume(limit=3))) == 3


def test_messages_that_are_not_ours_are_passed_on() -> None:
    """What ``message_to_python`` returned need not be a message of ours."""

    class Strange:
        payload, acknowledged, body = "hello", False, "hello"

        def ack(self) -> None:
            self.acknowledged = True

    strange, seen = Strange(), []
    consumer = consumer_of(auto_ack=True, no_ack=True)
    consumer.register_callback(lambda data, message: seen.append((data, message)))
    consumer._receive_callback(strange)
    assert seen == [("hello", strange)]
    assert strange.acknowledged


def test_undecodable_text_bodies_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A body that a backend left as text is logged and rejected like bytes."""
    consumer = consumer_of()
    consumer.register_callback(lambda data, message: None)
    raw = BaseMessage(
        consumer.backend, body="{", delivery_tag=5, content_type="application/json"
    )
    consumer._receive_callback(raw)
    assert consumer.backend.last == ("reject", (5,), {})
    assert "application/json" in caplog.text


def test_process_next_and_callbacks() -> None:
    """``fetch(enable_callbacks=True)`` calls the callbacks and acknowledges after them."""
    consumer = consumer_of(auto_ack=True)
    calls: list[str] = []
    consumer.register_callback(lambda data, message: calls.append(f"{data} {message._state}"))
    one = message(b"one")
    one.backend = consumer.backend
    consumer.backend.waiting = [one]
    assert consumer.fetch(enable_callbacks=True) is one
    assert calls == ["one RECEIVED"]
    assert consumer.backend.last == ("ack", (1,), {})


# -- closing


def test_closing_asks_once() -> None:
    """``close()`` closes the channel, once."""
    consumer = consumer_of()
    consumer.close()
    consumer.close()
    assert consumer.backend.called("close") == [("close", (), {})]


def test_consumers_move_to_the_set() -> None:
    """A consumer's own channel is closed when it moves to the set's; a given one is not."""
    connection = RecordingConnection()
    given = RecordingBackend(None)
    own, borrowing = Consumer(connection, "a"), Consumer(connection, "b", backend=given)
    before = own.backend
    consumers = ConsumerSet(connection, consumers=[own, borrowing])
    assert before.last == ("close", (), {})
    assert given.called("close") == []
    assert own.backend is borrowing.backend is consumers.backend


def test_a_set_may_be_given_its_backend() -> None:
    """``backend=`` of a set is the channel to use."""
    backend = RecordingBackend(None)
    assert ConsumerSet(RecordingConnection(), backend=backend).backend is backend


def test_options_for_publishers_in_a_sets_dictionary() -> None:
    """``default_routing_key``, which Celery's configurations have, is not the consumer's."""
    consumers = ConsumerSet(
        RecordingConnection(), {"q": {"exchange": "x", "default_routing_key": "k"}}
    )
    assert consumers.consumers[0].routing_key == ""


def test_messaging_has_classes_of_its_own() -> None:
    """``publisher_cls`` and ``consumer_cls`` name the classes that Messaging uses."""

    class FeedPublisher(Publisher):
        pass

    class FeedConsumer(Consumer):
        pass

    class FeedMessaging(Messaging):
        queue = exchange = "feed"
        routing_key = "importer"
        publisher_cls = FeedPublisher
        consumer_cls = FeedConsumer

        def receive(self, message_data: Any, message: Any) -> None:
            self.received = message_data

    messaging = FeedMessaging(RecordingConnection())
    assert type(messaging.publisher) is FeedPublisher
    assert type(messaging.consumer) is FeedConsumer
    assert messaging.publisher.routing_key == messaging.consumer.routing_key == "importer"
    messaging.consumer._receive_callback(message(b"news"))
    assert messaging.received == "news"
    with pytest.raises(LookupError), messaging:
        raise LookupError
    assert messaging._closed and messaging.consumer._closed and messaging.publisher._closed


# -- what is shown


def test_reprs_tell_the_state() -> None:
    """``repr`` of each tells names and state."""
    connection = RecordingConnection(ConfirmingBackend)
    consumer = Consumer(connection, queue="q")
    assert repr(consumer) == "<Consumer of queue 'q' on <connection> open>"
    consumer.consume()
    assert repr(consumer) == "<Consumer of queue 'q' on <connection> consuming>"
    consumer.close()
    assert repr(consumer) == "<Consumer of queue 'q' on <connection> closed>"
    publisher = Publisher(connection, exchange="x")
    assert repr(publisher) == "<Publisher to exchange 'x' on <connection> open, 0 unconfirmed>"
    publisher.close()
    assert " closed" in repr(publisher)
    consumers = ConsumerSet(connection)
    assert repr(consumers) == "<ConsumerSet of no queues on <connection> open>"
    consumers.close()
    assert " closed" in repr(consumers)
    messaging = Messaging(connection, queue="q", exchange="x")
    assert repr(messaging).startswith("<Messaging <Publisher")


def test_consumer_tags_are_short_strings() -> None:
    """A consumer tag fits AMQP's short string, however long the class's name is."""
    cls = type("X" * 300, (Consumer,), {})
    consumer = cls(RecordingConnection(), queue="q")
    assert len(consumer.consumer_tag.encode()) <= 255
    assert consumer.consumer_tag != cls(RecordingConnection(), queue="q").consumer_tag
