"""The in-memory broker's fault switches drive the same recovery."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends.queue import Hub, hub, reset
from carrot.backends.queue.driver import Channel
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ConfirmTimeout,
    ConnectFailed,
    ConnectionBlocked,
    ConnectionClosed,
    NotFound,
    PublishNotFound,
)
from carrot.messaging import Consumer, Publisher
from carrot.utils import gen_unique_id
from tests.waiting import wait_until


@pytest.fixture
def broker() -> Iterator[Hub]:
    """A broker of the test's own."""
    name = gen_unique_id()
    yield hub(name)
    reset(name)


@pytest.fixture
def connection(broker: Hub) -> Iterator[BrokerConnection]:
    """A connection to it."""
    connection = BrokerConnection(broker.name, backend_cls="memory", timeout=10)
    yield connection
    connection.close()


def worker(connection: BrokerConnection, **options: Any) -> tuple[Consumer, list[Any]]:
    """Return a consumer that acknowledges, and what it received."""
    consumer, received = Consumer(connection, **options), []

    def receive(message_data: Any, message: Any) -> None:
        received.append(message_data)
        message.ack()

    consumer.register_callback(receive)
    consumer.consume()
    return consumer, received


def test_a_consumer_that_waits_goes_on_after_a_drop(
    broker: Hub, connection: BrokerConnection
) -> None:
    """wait() outlives lost connections, and the messages keep coming."""
    consumer, received = worker(connection, queue="q")
    waiting = threading.Thread(target=consumer.wait)
    waiting.start()
    with BrokerConnection(broker.name, backend_cls="memory") as other:
        publisher = Publisher(other, routing_key="q")
        for number in range(20):
            publisher.send(number)
            publisher.flush()
            if number % 5 == 4:
                broker.drop_connections()
        publisher.close()
        assert other.stats()["confirmed"] == 20
    wait_until(lambda: set(received) == set(range(20)))
    consumer.stop()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_consumer_can_be_stopped_while_its_broker_is_away(
    broker: Hub, connection: BrokerConnection
) -> None:
    """stop() ends a wait() that waits for nothing but the broker's return."""
    consumer, received = worker(connection, queue="q")
    waiting = threading.Thread(target=consumer.wait)
    waiting.start()
    broker.refuse_connections()
    broker.drop_connections()
    wait_until(lambda: connection.state == "recovering")
    started = time.monotonic()
    consumer.stop()
    waiting.join(10)
    assert time.monotonic() - started < 2
    broker.accept_connections()
    with Publisher(connection, routing_key="q") as publisher:
        publisher.send("after")
    consumer.wait(limit=1)
    assert received == ["after"]


def test_closing_ends_the_waiting_of_a_consumer(
    broker: Hub, connection: BrokerConnection
) -> None:
    """Who waits while another thread closes the connection is told."""
    consumer, _ = worker(connection, queue="q")
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            consumer.wait()
        except BaseException as exc:
            ended.append(exc)

    waiting = threading.Thread(target=wait)
    waiting.start()
    connection.close()
    waiting.join(10)
    assert [type(exc) for exc in ended] == [ConnectionClosed]


def test_a_lost_confirm_is_reported_at_the_deadline(
    broker: Hub, connection: BrokerConnection
) -> None:
    """What the broker took in but did not confirm is reported; nothing else is."""
    worker(connection, queue="q")
    publisher = Publisher(connection, routing_key="q")
    broker.lose_confirms(1)
    publisher.send("unconfirmed")
    publisher.send("confirmed")
    with pytest.raises(ConfirmTimeout) as caught:
        publisher.flush(timeout=0.1)
    assert len(caught.value.messages) == 1
    assert connection.stats()["confirmed"] == 1
    publisher.close()


def test_a_lost_confirm_is_made_up_for_by_the_next_connection(
    broker: Hub, connection: BrokerConnection
) -> None:
    """Unconfirmed messages are sent again, and confirmed then."""
    _, received = worker(connection, queue="q")
    publisher = Publisher(connection, routing_key="q")
    broker.lose_confirms(1)
    publisher.send("twice")
    broker.drop_connections()
    publisher.flush()
    assert connection.stats()["confirmed"] == connection.stats()["published"] == 1
    for _ in range(2):
        connection.drain_events(timeout=5)
    assert received == ["twice", "twice"]
    publisher.close()


def test_a_blocked_broker_is_an_error_in_time(
    broker: Hub, connection: BrokerConnection
) -> None:
    """send() to a broker that takes nothing raises after `timeout`, with its reason."""
    connection.timeout = 0.2
    publisher = Publisher(connection, routing_key="q", auto_declare=False)
    publisher.send("first")
    publisher.flush()
    broker.block("low on disk")
    with pytest.raises(ConnectionBlocked, match="low on disk"):
        publisher.send("second")
    broker.unblock()
    publisher.send("third")
    publisher.close()
    assert connection.stats()["reconnects"] == 0


def test_a_cancelled_consumer_is_subscribed_again(
    broker: Hub, connection: BrokerConnection
) -> None:
    """A cancel from the broker is made up for, without a word to the application."""
    consumer, received = worker(connection, queue="q")
    broker.cancel_consumer(consumer.consumer_tag)
    with Publisher(connection, routing_key="q") as publisher:
        publisher.send("x")
    while not received:
        connection.drain_events(timeout=5)
    assert received == ["x"]


def test_a_missing_exchange_is_told_by_the_first_flush(connection: BrokerConnection) -> None:
    """Messages to an exchange that nobody declared are reported, and only they."""
    worker(connection, queue="q")
    publisher = Publisher(connection, routing_key="q")
    publisher.send("good")
    publisher.send("bad", exchange="nowhere")
    publisher.send("good")
    with pytest.raises(PublishNotFound, match="nowhere") as caught:
        publisher.flush()
    assert len(caught.value.messages) == 1
    publisher.close()


def test_the_first_connection_is_not_waited_for(broker: Hub) -> None:
    """A broker that refuses from the start is an error at once."""
    broker.refuse_connections()
    connection = BrokerConnection(broker.name, backend_cls="memory")
    with pytest.raises(ConnectFailed, match="refused"):
        Consumer(connection, queue="q")


def test_many_threads_and_a_consumer_through_many_drops(
    broker: Hub, connection: BrokerConnection
) -> None:
    """Nothing is lost and no thread's order is disturbed, whoever meets the loss."""
    connection.timeout = 60
    consumer, received = worker(connection, queue="q")
    threads, count = 6, 100
    errors: list[BaseException] = []

    def publish(name: int) -> None:
        try:
            with Publisher(connection, routing_key="q", confirm_window=20) as publisher:
                for number in range(count):
                    publisher.send([name, number])
        except BaseException as exc:
            errors.append(exc)

    senders = [threading.Thread(target=publish, args=(name,)) for name in range(threads)]
    for sender in senders:
        sender.start()
    seen: set[tuple[int, int]] = set()
    for total, _ in enumerate(consumer.iterconsume()):
        seen.add(tuple(received[-1]))
        if total % 61 == 0:
            broker.drop_connections()
        if len(seen) == threads * count or errors:
            break
    for sender in senders:
        sender.join(60)
    assert errors == []
    first = list(dict.fromkeys(map(tuple, received)))
    for name in range(threads):
        assert [number for own, number in first if own == name] == list(range(count))
    assert connection.stats()["reconnects"] > 5


def test_a_deleted_queue_ends_its_consumer_without_recovery(broker: Hub) -> None:
    """`recover=False`: who drains is told that the queue is gone."""
    with BrokerConnection(broker.name, backend_cls="memory", recover=False) as connection:
        consumer, _ = worker(connection, queue="q")
        connection.create_backend().queue_delete("q")
        with pytest.raises(NotFound, match="'q'"):
            consumer.wait()


def test_a_loss_is_heard_while_nobody_uses_the_connection(
    broker: Hub, connection: BrokerConnection
) -> None:
    """What is not confirmed is sent again without waiting for the next use."""
    worker(connection, queue="q")
    publisher = Publisher(connection, routing_key="q")
    broker.lose_confirms(1)
    publisher.send("x")
    broker.drop_connections()
    wait_until(lambda: connection.stats()["confirmed"] == 1)
    assert connection.state == "open"
    publisher.close()


def test_an_acknowledgement_that_meets_a_drop(
    broker: Hub, connection: BrokerConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropped by another thread between the look at the channel and the ack: it comes again."""
    consumer = Consumer(connection, queue="q")
    with Publisher(connection, routing_key="q") as publisher:
        publisher.send("x")
    message = consumer.fetch()
    acknowledge = Channel.ack

    def late(self: Channel, tag: int) -> None:
        monkeypatch.setattr(Channel, "ack", acknowledge)
        broker.drop_connections()
        acknowledge(self, tag)

    monkeypatch.setattr(Channel, "ack", late)
    message.ack()
    again = consumer.fetch()
    assert again.delivery_info["redelivered"]
    again.ack()


def test_draining_that_meets_the_close(connection: BrokerConnection) -> None:
    """Who asks a connection for messages after it was closed is told so, by a backend too."""
    backend = connection.create_backend()
    attachment = backend._inner.connection
    connection.connect()
    connection.close()
    with pytest.raises(ConnectionClosed, match="call its connect"):
        attachment.drain_events(timeout=0)
