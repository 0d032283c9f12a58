"""The in-memory broker behind the seam that publishers and consumers talk to."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends.base import QueueAlreadyExistsWarning
from carrot.backends.queue import Backend, Message, Prepared, hub, reset
from carrot.confirms import Tracker
from carrot.exceptions import (
    ConnectionClosed,
    DrainTimeout,
    MessageStateError,
    NotFound,
    NotSupported,
    PreconditionFailed,
    PublishNacked,
    Unroutable,
)
from tests.unit.backend_bench import Link, declared

HOST = "backend-tests"


@pytest.fixture
def link() -> Iterator[Link]:
    reset(HOST)
    yield Link(HOST)
    reset(HOST)


@pytest.fixture
def backend(link: Link) -> Backend:
    return declared(Backend(link))


def send(backend: Backend, body: Any = b"m", key: str = "q", **options: Any) -> None:
    properties = options.pop("properties", None)
    message = backend.prepare_message(body, 2, 0, "text/plain", "utf-8", properties=properties)
    backend.publish(message, options.pop("exchange", ""), key, **options)


def fetch(backend: Backend, queue: str = "q", **options: Any) -> Message:
    message = backend.get(queue, **options)
    assert isinstance(message, Message)
    return message


# -- messages


def test_what_a_fetched_message_has(backend: Backend) -> None:
    """A message arrives with body, properties, headers and where it came from."""
    send(backend, "né", headers={"a": 1}, properties={"message_id": "7"})
    message = fetch(backend)
    assert message.body == "né".encode()
    assert message.payload == "né"
    assert message.delivery_info == {
        "exchange": "",
        "routing_key": "q",
        "redelivered": False,
        "message_count": 0,
    }
    assert message.headers == {"a": 1}
    assert message.properties == {
        "delivery_mode": 2,
        "priority": 0,
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "message_id": "7",
        "headers": {"a": 1},
    }
    assert backend.get("q") is None


def test_changing_a_message_changes_no_other(backend: Backend) -> None:
    """What a receiver writes into a message is its own."""
    send(backend, headers={"a": 1})
    message = fetch(backend)
    message.headers["a"] = message.properties["content_type"] = "changed"
    message.requeue()
    again = fetch(backend)
    assert (again.headers, again.content_type) == ({"a": 1}, "text/plain")


@pytest.mark.parametrize(("given", "body"), [("é", "é".encode()), (bytearray(b"x"), b"x")])
def test_bodies_become_bytes(backend: Backend, given: Any, body: bytes) -> None:
    """Text is encoded as UTF-8, and other kinds of bytes are bytes."""
    send(backend, given)
    assert fetch(backend).body == body


def test_large_bodies_are_not_copied(backend: Backend) -> None:
    """A body of some size waits in the queue as the very bytes that were sent."""
    body = b"x" * 10_000
    send(backend, body)
    assert fetch(backend).body is body


def test_messages_have_no_other_attributes(backend: Backend) -> None:
    """Asking a message for what it has not is an error, as usual."""
    send(backend)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fetch(backend).nonsense  # noqa: B018


def test_properties_are_shared(backend: Backend) -> None:
    """Messages with the same properties share one dictionary of them."""
    one, two = (backend.prepare_message(b"", 2, 0, "a", "b") for _ in range(2))
    assert one.properties is two.properties
    other = backend.prepare_message(b"", 1)
    assert other.properties == {"delivery_mode": 1}
    assert repr(one) == "<Prepared a 0 bytes>"


def test_headers_of_message_and_publishing(backend: Backend) -> None:
    """Headers may come with the message's properties, and as it is published."""
    mine = {"a": 1, "b": [1]}
    send(backend, properties={"headers": mine}, headers={"a": 2})
    mine["b"] = "changed"
    assert fetch(backend).headers == {"a": 2, "b": [1]}


def test_a_prepared_message_can_be_received(backend: Backend) -> None:
    """Unit tests of callbacks hand what was prepared to the consumer."""
    prepared: Any = backend.prepare_message("text", 2, content_type="text/plain")
    message = backend.message_to_python(prepared)
    assert (message.payload, message.delivery_tag) == ("text", None)
    message.ack()
    prepared.delivery_tag = "made by hand"
    assert backend.message_to_python(prepared).delivery_tag == "made by hand"


def test_messages_made_by_hand_settle(backend: Backend) -> None:
    """What no channel delivered is settled without asking the broker."""
    for verb in ("ack", "reject", "requeue"):
        message = Message(backend=backend, body=b"{}", delivery_tag="by hand")
        getattr(message, verb)()
        assert message.acknowledged


# -- settling


def test_settling(backend: Backend) -> None:
    """Acknowledged and rejected messages are gone, requeued ones come again."""
    for body in ("a", "b", "c"):
        send(backend, body)
    one, two, three = (fetch(backend) for _ in range(3))
    one.ack()
    two.reject()
    three.requeue()
    assert fetch(backend).delivery_info["redelivered"] is True
    with pytest.raises(MessageStateError):
        one.ack()


def test_an_unknown_tag_costs_the_channel(backend: Backend) -> None:
    """A tag that the channel never issued is 406; the next use opens a new channel."""
    with pytest.raises(PreconditionFailed, match="unknown delivery tag 7"):
        backend.ack(7)
    assert backend.channel_closed
    assert backend.queue_exists("q")
    assert not backend.channel_closed


@pytest.mark.parametrize("verb", ["ack", "reject", "requeue"])
def test_tags_of_a_closed_channel(
    backend: Backend, link: Link, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Settling a message of a channel that is gone sends nothing, and tells so."""
    for _ in range(2):
        send(backend)
    old = fetch(backend)
    with pytest.raises(NotFound):
        backend.get("nope")
    new = fetch(backend)
    assert new.delivery_tag > old.delivery_tag
    getattr(old, verb)()
    assert link.counted["stale_settles"] == 1
    assert "the channel that delivered it is closed" in caplog.text
    new.ack()
    backend.close()
    backend.ack(new.delivery_tag)
    assert link.counted["stale_settles"] == 2


def test_a_connection_that_counts_nothing(link: Link) -> None:
    """Counting is the connection's affair; one that does not is fine."""
    link.count = None  # type: ignore[assignment,method-assign]
    backend = declared(Backend(link))
    backend.close()
    backend.ack(1)


# -- declaring


def test_queues(backend: Backend) -> None:
    """Queues are declared, purged, deleted, and asked for."""
    assert backend.queue_declare("p", True, False, False, {"x-max-length": 2}) == ("p", 0, 0)
    send(backend, key="p")
    assert (backend.queue_exists("p"), backend.queue_exists("r")) == (True, False)
    assert backend.queue_purge("p") == 1
    send(backend, key="p")
    with pytest.raises(PreconditionFailed, match="not empty"):
        backend.queue_delete("p", if_empty=True)
    assert backend.queue_delete("p") == 1


def test_warn_if_exists(backend: Backend) -> None:
    """Who wants to know is warned of a queue that was there before."""
    backend.queue_declare("new", True, False, False, warn_if_exists=True)
    with pytest.warns(QueueAlreadyExistsWarning, match="'q' exists already"):
        backend.queue_declare("q", False, False, False, warn_if_exists=True)


def test_exchanges(backend: Backend) -> None:
    """Exchanges are declared with arguments, and queues bound to them."""
    backend.exchange_declare("x", "headers", True, False, {"alternate-exchange": "amq.fanout"})
    backend.queue_bind("q", "x", "", {"a": 1})
    send(backend, key="", exchange="x", headers={"a": 1})
    assert fetch(backend).delivery_info["exchange"] == "x"


# -- consuming


def test_consuming(backend: Backend) -> None:
    """Callbacks get messages as they are drained, and ``consume`` counts them."""
    got: list[Message] = []
    for body in "abc":
        send(backend, body)
    assert backend.declare_consumer("q", False, got.append, "tag") == "tag"
    assert got == [], "a callback runs only for who drains"
    assert list(backend.consume(limit=2)) == [True, True]
    assert [message.body for message in got] == [b"a", b"b"]
    assert backend.message_to_python(got[0]) is got[0]
    assert got[0].delivery_info["consumer_tag"] == "tag"
    for message in got:
        message.ack()


def test_consumer_arguments(backend: Backend) -> None:
    """Arguments of a consumer reach the broker; nonsense is refused."""
    with pytest.raises(PreconditionFailed, match="x-priority"):
        backend.declare_consumer("q", False, print, "tag", arguments={"x-priority": "high"})
    assert backend.channel.raw.consumers == {}


def test_a_callback_that_raises(backend: Backend, link: Link) -> None:
    """An error of a callback reaches who drains; the next message follows."""
    got: list[Message] = []

    def callback(message: Message) -> None:
        got.append(message)
        if message.body == b"a":
            raise ZeroDivisionError

    backend.declare_consumer("q", False, callback, "tag")
    for body in "ab":
        send(backend, body)
    with pytest.raises(ZeroDivisionError):
        link.drain_events(1)
    assert link.drain_events(1) is True
    assert [message.body for message in got] == [b"a", b"b"]


def test_cancelling(backend: Backend, link: Link) -> None:
    """Messages that a cancelled consumer was not handed return to the queue."""
    got: list[Message] = []
    backend.declare_consumer("q", False, got.append, "one")
    backend.declare_consumer("q", True, got.append, "two")
    for body in "abcdef":
        send(backend, body)
    link.drain_events(1)
    backend.cancel("one")
    while len(got) < 6:
        link.drain_events(1)
    assert sorted(message.body for message in got) == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert [message.delivery_info["redelivered"] for message in got] == [False] * 4 + [True] * 2
    assert link.counted["redelivered"] == 2
    backend.cancel("one")
    backend.cancel("two")
    with pytest.raises(DrainTimeout):
        link.drain_events(0)


def test_cancelling_without_acknowledgements(backend: Backend, link: Link) -> None:
    """What was sent to be forgotten is not given back, as it is not over a wire."""
    backend.declare_consumer("q", True, print, "tag")
    send(backend)
    backend.cancel("tag")
    assert backend.get("q") is None


def test_a_deleted_queue_cancels(backend: Backend, link: Link) -> None:
    """Who drains is told that the broker cancelled a consumer."""
    told: list[str] = []
    backend.declare_consumer("q", False, print, "one")
    backend.queue_delete("q")
    with pytest.raises(DrainTimeout):
        link.drain_events(0)
    declared(backend).declare_consumer("q", False, print, "one")
    backend.on_cancel = told.append
    hub(HOST).cancel_consumer("one")
    hub(HOST).cancel_consumer("none")
    with pytest.raises(DrainTimeout):
        link.drain_events(0)
    assert told == ["one"]


def test_a_consumer_without_callback(backend: Backend, link: Link) -> None:
    """Messages to a consumer that somebody made by hand are left to settle."""
    backend.channel.basic_consume("q", "by hand")
    send(backend)
    with pytest.raises(DrainTimeout):
        link.drain_events(0)
    assert list(backend.channel.unacked) == [1]


def test_prefetch(backend: Backend) -> None:
    """The bound on unsettled messages counts; bytes are not bounded."""
    got: list[Message] = []
    backend.qos(0, 1)
    backend.declare_consumer("q", False, got.append, "tag")
    for body in "ab":
        send(backend, body)
    list(backend.consume(limit=1))
    assert backend.queue_declare("q", False, False, False)[1] == 1
    got[0].ack()
    list(backend.consume(limit=1))
    with pytest.raises(NotSupported, match="prefetch_size"):
        backend.qos(1, 1)


def test_flow(backend: Backend) -> None:
    """Deliveries cannot be paused, on RabbitMQ neither."""
    backend.flow(True)
    with pytest.raises(NotSupported, match="prefetch_count"):
        backend.flow(False)


def test_closing_gives_back(backend: Backend, link: Link) -> None:
    """Closing the backend returns what was unsettled, drained or not; twice is fine."""
    got: list[Message] = []
    other = Backend(link)
    other.declare_consumer("q", False, got.append, "tag")
    for body in "ab":
        send(backend, body)
    link.drain_events(1)
    other.close()
    other.close()
    Backend(link).close()
    with pytest.raises(DrainTimeout):
        link.drain_events(0)
    assert fetch(backend).delivery_info["redelivered"]


def test_a_closed_connection_says_so(link: Link) -> None:
    """A backend of a connection that was closed tells what to do."""
    link.connection = None
    with pytest.raises(ConnectionClosed, match=r"call its connect\(\)"):
        Backend(link).get("q")


# -- publishing


def test_immediate_is_refused(backend: Backend) -> None:
    """RabbitMQ has no ``immediate``; it is refused before anything is sent."""
    with pytest.raises(NotSupported, match="immediate"):
        send(backend, immediate=True)
    assert backend.get("q") is None


def test_without_confirms_errors_are_raised(backend: Backend) -> None:
    """Who asked for no confirms is told at once of an exchange that is not there."""
    with pytest.raises(NotFound, match="no exchange 'nope'"):
        send(backend, exchange="nope")
    send(backend)


def test_returned_without_confirms(
    backend: Backend, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    """A returned message that nobody counts is logged."""
    with caplog.at_level(logging.WARNING):
        send(backend, key="nowhere", mandatory=True)
    assert "was returned: NO_ROUTE (312)" in caplog.text
    assert link.counted["returned"] == 1


def test_confirms(backend: Backend) -> None:
    """Taken messages are confirmed, and the others fail with the reason."""
    tracker = Tracker()
    backend.confirm_select(tracker)
    declared(backend, "full", **{"x-max-length": 0, "x-overflow": "reject-publish"})
    send(backend)
    send(backend, key="nowhere", mandatory=True)
    send(backend, key="full")
    send(backend, exchange="nope")
    send(backend)
    failures = tracker.take_failures()
    assert [type(failure.error) for failure in failures] == [
        Unroutable,
        PublishNacked,
        NotFound,
    ]
    assert (tracker.outstanding, tracker.confirmed, tracker.published) == (0, 2, 5)
    backend.pump()


def test_confirms_before_the_channel_opens(link: Link) -> None:
    """Confirms are asked for as soon as there is a channel."""
    tracker = Tracker()
    backend = Backend(link)
    backend.confirm_select(tracker)
    assert not backend.channel_closed
    send(declared(backend))
    assert tracker.confirmed == 1


def test_lost_confirms(backend: Backend) -> None:
    """A message whose confirm is lost stays outstanding; who waits does so in vain."""
    tracker = Tracker(window=1)
    backend.confirm_select(tracker)
    hub(HOST).lose_confirms(1)
    send(backend)
    assert tracker.outstanding == 1
    with pytest.raises(DrainTimeout, match="confirmed nothing within 0"):
        backend.pump(0)
    backend.connection.timeout = 0
    with pytest.raises(DrainTimeout):
        send(backend, "does not fit the window")


def test_what_is_sent_again_is_blamed_by_who_sends_it(backend: Backend) -> None:
    """A message that was outstanding before, and closes the channel, raises."""
    tracker = Tracker()
    backend.confirm_select(tracker)
    backend.exchange_declare("x", "fanout", False, False)
    hub(HOST).lose_confirms(1)
    message = backend.prepare_message(b"m", 2)
    backend.publish(message, "x", "")
    (entry,) = tracker.restart()
    backend.channel.exchange_delete("x")
    again = Backend(backend.connection)
    again.confirm_select(tracker)
    with pytest.raises(NotFound):
        again.publish(message, "x", "")
    assert not entry.settled
    assert tracker.restart() == [entry]


def test_what_the_backend_is(link: Link) -> None:
    """A prepared message and a backend say what they are."""
    assert Backend.Message is Message
    assert isinstance(Backend(link).prepare_message(b"", 1), Prepared)
    assert "confirms" in Backend.features
