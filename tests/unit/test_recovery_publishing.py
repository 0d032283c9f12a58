"""Sending through lost connections and closed channels: at least once, in order, reported."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from carrot.confirms import Tracker
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AuthenticationFailed,
    ChannelError,
    ConfirmTimeout,
    ConnectionBlocked,
    ConnectionClosed,
    ConnectionLost,
    NotFound,
    NotSupported,
    PublishError,
    PublishNacked,
    PublishNotFound,
    PublishPreconditionFailed,
    Unroutable,
    channel_error,
)
from carrot.messaging import Publisher
from tests.unit.faulty import World
from tests.waiting import wait_until


def publisher_of(world: World, timeout: float = 5.0, **options: Any) -> Publisher:
    connection = BrokerConnection("host", backend_cls=world.backend_cls, timeout=timeout)
    backend = connection.create_backend()
    backend.exchange_declare("x", "direct", True, False)
    backend.queue_declare("q", True, False, False)
    backend.queue_bind("q", "x", "k")
    return Publisher(connection, exchange="x", routing_key="k", **options)


def tracker_of(publisher: Publisher) -> Tracker:
    assert publisher._tracker is not None
    return publisher._tracker


# -- a channel that a message closes


@pytest.fixture(params=[False, True], ids=["at once", "later"])
def world(request: pytest.FixtureRequest) -> World:
    """A world that tells of a refused message at once, or at the next operation."""
    world = World()
    world.delayed = request.param
    return world


def test_a_missing_exchange_fails_its_messages_and_no_others(world: World) -> None:
    """Only what was sent to it is reported; everything before and after arrives in order."""
    publisher = publisher_of(world)
    for number in range(6):
        exchange = "missing" if number in (2, 4) else "x"
        publisher.send(b"%d" % number, exchange=exchange)
    with pytest.raises(PublishNotFound, match="exchange 'missing'") as caught:
        publisher.flush()
    assert [message.body for message in caught.value.messages] == [b"2", b"4"]
    assert isinstance(caught.value, NotFound)
    publisher.send(b"6")
    publisher.flush()
    assert list(dict.fromkeys(world.bodies("q"))) == [b"0", b"1", b"3", b"5", b"6"]
    assert len(world.drivers) == 1


def test_the_sender_is_not_told_by_send_what_flush_tells(world: World) -> None:
    """send() does not raise for the failures of other messages, until they fill the window."""
    publisher = publisher_of(world, confirm_window=3)
    with pytest.raises(PublishNotFound) as caught:
        for number in range(9):
            publisher.send(b"%d" % number, exchange="missing")
    assert 3 <= number < 9
    reported = [message.body for message in caught.value.messages]
    assert reported == [b"%d" % sent for sent in range(number)]
    publisher.close()


def test_one_message_that_is_too_large_fails_alone(world: World) -> None:
    """What closes the channel is found by sending one by one; its neighbours are confirmed."""
    publisher = publisher_of(world)
    publish = world.backend_cls.do

    def do(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "basic_publish" and len(args[0]) > 10:
            self.raw.close()
            raise channel_error(406, "PRECONDITION_FAILED - message size 11 is larger")
        return publish(self, name, *args, **kwargs)

    world.backend_cls.do = do
    for body in (b"a", b"b", b"x" * 11, b"c", b"y" * 11, b"d"):
        publisher.send(body)
    with pytest.raises(PublishPreconditionFailed) as caught:
        publisher.flush()
    assert [message.size for message in caught.value.messages] == [1, 1]  # as counted
    assert [message.body for message in caught.value.messages] == [b"x" * 11, b"y" * 11]
    assert list(dict.fromkeys(world.bodies("q"))) == [b"a", b"b", b"c", b"d"]


def test_a_connection_lost_while_the_culprit_is_sought_loses_nothing(world: World) -> None:
    """The search goes on after the recovery."""
    for cut in range(1, 25):
        world = World()
        publisher = publisher_of(world)
        world.cuts.add(len(world.operations) + cut)
        for number in range(5):
            publisher.send(b"%d" % number, exchange="missing" if number == 2 else "x")
        with pytest.raises(PublishNotFound) as caught:
            publisher.flush()
        assert [message.body for message in caught.value.messages] == [b"2"], cut
        assert list(dict.fromkeys(world.bodies("q"))) == [b"0", b"1", b"3", b"4"], cut


def test_without_confirms_a_closed_channel_is_raised_and_replaced() -> None:
    """Fire and forget: the error comes as it is, and the next message goes out."""
    world = World()
    publisher = publisher_of(world, confirm=False)
    with pytest.raises(NotFound):
        publisher.send(b"x", exchange="missing")
    publisher.send(b"y")
    publisher.close()
    assert world.bodies("q") == [b"y"]


def test_declaring_wrongly_costs_no_message() -> None:
    """A channel error that no message caused loses and blames none."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"before")
    with pytest.raises(ChannelError):
        publisher.backend.exchange_declare("x", "fanout", True, False)
    publisher.send(b"after")
    publisher.flush()
    assert list(dict.fromkeys(world.bodies("q"))) == [b"before", b"after"]


def test_a_message_that_is_not_answered_while_the_culprit_is_sought_times_out() -> None:
    """A broker that falls silent during the search is reported at the deadline."""
    world = World()
    world.delayed = True
    publisher = publisher_of(world, timeout=0.3)
    publisher.send(b"0")
    publisher.send(b"1", exchange="missing")
    world.silent = True
    with pytest.raises(ConfirmTimeout):
        publisher.send(b"2")
    with pytest.raises(PublishError) as caught:
        publisher.flush()
    assert [message.body for message in caught.value.messages] == [b"0", b"1"]
    world.silent = False
    publisher.send(b"3")
    publisher.flush()
    assert world.bodies("q")[-1] == b"3"


# -- returns and nacks


def test_unroutable_mandatory_messages_are_returned_through_a_loss() -> None:
    """A mandatory message is mandatory again when it is sent again."""
    for cut in range(1, 12):
        world = World()
        publisher = publisher_of(world)
        world.cuts.add(len(world.operations) + cut)
        publisher.send(b"lost", routing_key="nowhere", mandatory=True)
        publisher.send(b"found", mandatory=True)
        with pytest.raises(Unroutable) as caught:
            publisher.flush()
        assert [message.body for message in caught.value.messages] == [b"lost"], cut
        assert set(world.bodies("q")) == {b"found"}


def test_refused_messages_are_exactly_those_that_were_refused() -> None:
    """A full queue that rejects more: what it refused is reported, and nothing else."""
    world = World()
    publisher = publisher_of(world)
    publisher.backend.queue_declare(
        "full", True, False, False, {"x-max-length": 2, "x-overflow": "reject-publish"}
    )
    for number in range(4):
        publisher.send(b"%d" % number, exchange="", routing_key="full")
    with pytest.raises(PublishNacked) as caught:
        publisher.flush()
    assert [message.body for message in caught.value.messages] == [b"2", b"3"]
    assert world.bodies("full") == [b"0", b"1"]


# -- deadlines


def test_flush_reports_what_is_not_confirmed_at_its_deadline() -> None:
    """What the broker does not answer for in time is reported once, and given up."""
    world = World()
    publisher = publisher_of(world)
    world.silent = True
    publisher.send(b"x")
    started = time.monotonic()
    with pytest.raises(ConfirmTimeout, match="not confirmed in time") as caught:
        publisher.flush(timeout=0.2)
    assert 0.1 < time.monotonic() - started < 3
    assert [message.body for message in caught.value.messages] == [b"x"]
    publisher.flush(timeout=0.1)
    publisher.close()


def test_flush_through_a_loss_that_lasts_reports_at_its_deadline() -> None:
    """A broker that does not come back in time: what was not confirmed is in the error."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"x")
    world.down = True
    world.lose()
    with pytest.raises(ConfirmTimeout, match="did not come back in time") as caught:
        publisher.flush(timeout=0.2)
    assert [message.body for message in caught.value.messages] == [b"x"]
    world.down = False
    publisher.send(b"y")
    publisher.flush(timeout=10)
    # The first was taken in before the loss, and not sent again.
    assert world.bodies("q") == [b"x", b"y"]


def test_send_gives_up_at_its_deadline_with_what_is_not_confirmed() -> None:
    """The error has the message and those before it; these are sent when the broker is back."""
    world = World(late=True)
    publisher = publisher_of(world, timeout=0.3)
    publisher.send(b"0")
    world.down = True
    world.lose()
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match="did not come back") as caught:
        publisher.send(b"1")
    assert 0.2 < time.monotonic() - started < 3
    assert [message.body for message in caught.value.messages] == [b"0", b"1"]
    assert [message.body for message in tracker_of(publisher).unconfirmed()] == [b"0"]
    world.down = False
    publisher.flush(timeout=10)
    assert set(world.bodies("q")) == {b"0"}


def test_a_full_window_waits_for_confirms() -> None:
    """send() never runs further ahead of the confirms than the window."""
    world = World()
    publisher = publisher_of(world, confirm_window=2)
    tracker = tracker_of(publisher)
    for number in range(10):
        publisher.send(b"%d" % number)
        assert tracker.outstanding <= 2
    publisher.flush()
    assert tracker.confirmed == 10


def test_a_blocked_broker_is_an_error_of_this_message_only() -> None:
    """ConnectionBlocked is no loss: nothing is recovered, and the next message may pass."""
    world = World()
    publisher = publisher_of(world)
    publish = world.backend_cls.publish

    def blocked(self: Any, *args: Any, **kwargs: Any) -> None:
        world.backend_cls.publish = publish
        raise ConnectionBlocked("low on memory")

    world.backend_cls.publish = blocked
    with pytest.raises(ConnectionBlocked, match="low on memory"):
        publisher.send(b"x")
    publisher.send(b"y")
    publisher.flush()
    assert world.bodies("q") == [b"y"]
    assert len(world.drivers) == 1


def test_wrong_credentials_reach_who_flushes() -> None:
    """flush() does not wait for a recovery that was given up."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"x")
    world.lose()
    world.refusals = [AuthenticationFailed("wrong password")]
    with pytest.raises(PublishError, match="wrong password") as caught:
        publisher.flush()
    assert [message.body for message in caught.value.messages] == [b"x"]


# -- closing


def test_closing_the_connection_waits_for_confirms() -> None:
    """Messages that are on their way when the connection is closed are confirmed first."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"x")
    publisher.connection.close()
    assert tracker_of(publisher).confirmed == 1
    publisher.close()


def test_closing_the_connection_first_leaves_failures_to_the_publisher(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """close() of a connection is quiet; its publisher's close() reports."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"x", exchange="missing") if world.delayed else None
    publisher.send(b"x", routing_key="nowhere", mandatory=True)
    publisher.connection.close()
    assert "1 messages to host:7 were not accepted" in caplog.text
    with pytest.raises(Unroutable):
        publisher.close()


def test_closing_during_a_recovery_fails_what_is_not_confirmed() -> None:
    """close() returns at once, and what was not confirmed is reported by the publisher."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"x")
    world.down = True
    world.lose()
    session = publisher.connection._session
    session.lose(session.generation, ConnectionLost("cut"))
    publisher.connection.close()
    with pytest.raises(PublishError, match="ConnectionClosed") as caught:
        publisher.close()
    assert [message.body for message in caught.value.messages] == [b"x"]


def test_a_backend_that_is_closed_with_messages_on_their_way_fails_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A sender that leaves without flushing leaves a trace."""
    world = World()
    publisher = publisher_of(world)
    publisher.send(b"x")
    publisher.backend.close()
    assert "1 messages are not confirmed" in caplog.text
    assert tracker_of(publisher).failed == 1
    assert publisher.connection.stats()["published"] == 1


def test_without_recovery_a_loss_fails_what_is_not_confirmed() -> None:
    """`recover=False`: the loss is raised, and flush() reports what it cost."""
    world = World()
    publisher = publisher_of(world)
    publisher.connection.recover = False
    publisher.send(b"x")
    world.lose()
    with pytest.raises(ConnectionLost, match="cut"):
        publisher.send(b"y")
    with pytest.raises(PublishError, match="cut") as caught:
        publisher.flush()
    assert b"x" in [message.body for message in caught.value.messages]


# -- counting


def test_counts_outlive_their_publishers() -> None:
    """stats() counts each message once, however often it was sent and whoever sent it."""
    world = World(12)
    publisher = publisher_of(world)
    connection = publisher.connection
    for number in range(5):
        publisher.send(b"%d" % number)
    publisher.close()
    del publisher
    other = Publisher(connection, exchange="x", routing_key="k")
    other.send(b"5")
    other.flush()
    stats = connection.stats()
    assert (stats["published"], stats["confirmed"], stats["reconnects"]) == (6, 6, 1)


def test_confirms_are_asked_only_of_backends_that_know_them() -> None:
    """A backend without the feature says that it is not supported."""
    world = World()
    world.backend_cls.features = frozenset()
    backend = world.connection().create_backend()
    with pytest.raises(NotSupported):
        backend.confirm_select(Tracker())
    backend.flush()


# -- threads


def test_threads_that_share_a_publisher_lose_nothing_and_keep_their_order() -> None:
    """Many threads send while the connection is lost again and again."""
    world = World(*range(100, 20_000, 171))
    publisher = publisher_of(world, timeout=30.0, confirm_window=50)
    threads, count = 8, 200
    errors: list[BaseException] = []

    def send(name: int) -> None:
        try:
            for number in range(count):
                publisher.send(b"%d %d" % (name, number))
        except BaseException as exc:
            errors.append(exc)

    senders = [threading.Thread(target=send, args=(name,)) for name in range(threads)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)
    publisher.flush()
    assert errors == []
    received = list(dict.fromkeys(world.bodies("q")))
    assert len(received) == threads * count
    for name in range(threads):
        own = [body for body in received if body.startswith(b"%d " % name)]
        assert own == [b"%d %d" % (name, number) for number in range(count)]
    assert publisher.connection.stats()["reconnects"] > 3


def test_a_message_entered_by_a_publisher_that_was_overtaken_is_sent_once_at_least() -> None:
    """A thread that was writing while another one recovered is not lost between the two."""
    world = World()
    publisher = publisher_of(world)
    inner = publisher.backend._base
    arrived, go_on = threading.Event(), threading.Event()
    do = type(inner).do

    def slowly(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if self is inner and name == "basic_publish" and args[0] == b"slow":
            arrived.set()
            go_on.wait(10)
        return do(self, name, *args, **kwargs)

    world.backend_cls.do = slowly
    thread = threading.Thread(target=publisher.send, args=(b"slow",))
    thread.start()
    assert arrived.wait(10)
    world.lose()
    publisher.send(b"fast")
    go_on.set()
    thread.join(10)
    publisher.flush()
    assert world.bodies("q") == [b"slow", b"fast"]


def test_a_closed_publisher_connection_ends_a_waiting_send() -> None:
    """A thread that waits in send() for the connection learns that it was closed."""
    world = World()
    publisher = publisher_of(world)
    errors: list[BaseException] = []
    world.down = True
    world.lose()

    def send() -> None:
        try:
            publisher.send(b"x")
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=send)
    thread.start()
    wait_until(lambda: len(world.tried) > 2)
    publisher.connection.close()
    thread.join(10)
    assert [type(error) for error in errors] == [ConnectionClosed]
