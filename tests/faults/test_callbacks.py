"""Callbacks that take long or raise, and what cannot be decoded."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConnectionLost, DecodeError, DrainTimeout
from carrot.messaging import Consumer
from tests.faults.traffic import at_once, connected, declare, filled, publisher_to, send, take
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

Proxies = Callable[[VirtualHost], Proxy]

#: Seconds; the least that AMQP knows. The broker cuts after two of silence.
HEARTBEAT = 1


def sleep(seconds: float) -> None:
    """Work, leaving the processor to others."""
    time.sleep(seconds)


def compute(seconds: float) -> None:
    """Work in Python, leaving other threads no more than it must."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))


def test_10_callbacks_that_take_many_heartbeats(
    every_rabbitmq: list[VirtualHost], proxy: Proxies
) -> None:
    """Busy for 3 heartbeats or asleep for 10: each message comes once, nobody is cut off.

    Nor is a publisher that idles for as long.
    """
    at_once(every_rabbitmq, lambda host: many_heartbeats(host, proxy(host)))


def many_heartbeats(rabbitmq: VirtualHost, link: Proxy) -> None:
    seen: dict[str, Any] = {}

    def work(queue: str, task: Callable[[float], None], heartbeats: int) -> None:
        with connected(link.url, heartbeat=HEARTBEAT) as connection:
            consumer = Consumer(connection, queue=queue, auto_ack=True)
            numbers: list[int] = []

            def receive(message_data: Any, message: Any) -> None:
                numbers.append(message_data["number"])
                if numbers == [0]:
                    task(heartbeats * HEARTBEAT)

            consumer.register_callback(receive)
            send(publisher_to(connection, queue), range(2))
            consumer.wait(limit=2)
            seen[queue] = numbers, connection.stats()["reconnects"]

    tasks = [("three", compute, 3), ("ten", sleep, 10)]
    threads = [threading.Thread(target=work, args=task) for task in tasks]
    with connected(link.url, heartbeat=HEARTBEAT) as idle:
        publisher = publisher_to(idle)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert seen == {"three": ([0, 1], 0), "ten": ([0, 1], 0)}
        assert rabbitmq.messages("ten") == (0, 0)
        send(publisher, range(1))
        publisher.flush()
        assert idle.stats()["reconnects"] == 0
    assert link.connections == 3


def test_10_a_peer_that_dies_while_a_callback_works(
    rabbitmq: VirtualHost, proxy: Proxies
) -> None:
    """It is noticed within two heartbeats; the message comes again after its callback."""
    filled(rabbitmq, 2)
    link = proxy(rabbitmq)
    noticed: list[float] = []
    with connected(link.url, heartbeat=HEARTBEAT) as connection:
        connection.on_state = lambda state, cause: noticed.append(time.monotonic())
        consumer = Consumer(connection, queue="q", auto_ack=True)
        numbers: list[int] = []

        def receive(message_data: Any, message: Any) -> None:
            numbers.append(message_data["number"])
            if numbers == [0]:
                del noticed[:]
                link.stall()
                started = time.monotonic()
                wait_until(lambda: noticed)
                assert noticed[0] - started < 2 * HEARTBEAT + 0.5
                link.cut()
                link.heal()

        consumer.register_callback(receive)
        consumer.wait(limit=3)
        assert numbers == [0, 0, 1]
        stats = connection.stats()
        assert (stats["stale_settles"], stats["reconnects"]) == (1, 1)


#: Body, content type and encoding of what nobody can decode.
UNDECODABLE = {
    "bad JSON": (b"{", "application/json", "utf-8"),
    "bad UTF-8": (b'"\xff"', "application/json", "utf-8"),
    "bad text": (b"\xff\xfe\xfd", "text/plain", "utf-8"),
    "unknown charset": (b"{}", "application/json", "klingon"),
    "refused type": (pickle.dumps({}), "application/x-python-serialize", "binary"),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000, "application/json", "utf-8"),
    "no type": (b"\xff", None, None),
}


def put(connection: BrokerConnection, kind: str) -> None:
    """Send something undecodable to the queue."""
    body, content_type, content_encoding = UNDECODABLE[kind]
    publisher = publisher_to(connection)
    message = publisher.backend.prepare_message(
        body, 2, content_type=content_type, content_encoding=content_encoding
    )
    publisher.backend.publish(message, exchange="", routing_key="q")
    publisher.close()


def test_11_messages_that_cannot_be_decoded(
    rabbitmq: VirtualHost, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is dead-lettered, logged within bounds, and counted; the loop goes on."""
    declare(rabbitmq, "dead")
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    declare(rabbitmq, **dead)
    with connected(rabbitmq.url) as connection:
        for kind in UNDECODABLE:
            put(connection, kind)
        with publisher_to(connection) as publisher:
            send(publisher, range(1))
        consumer, numbers = take(connection, queue_arguments=dead)
        consumer.wait(limit=len(UNDECODABLE) + 1)
        assert numbers == [0]
        stats = connection.stats()
        assert (stats["decode_failures"], stats["reconnects"]) == (len(UNDECODABLE), 0)
        consumer.close()
        wait_until(lambda: rabbitmq.messages("dead") == (len(UNDECODABLE), 0))
        assert rabbitmq.messages("q") == (0, 0)
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(texts) == len(UNDECODABLE)
    for text, (body, content_type, _) in zip(texts, UNDECODABLE.values(), strict=True):
        assert repr(content_type) in text
        assert f"{len(body)} bytes" in text
        assert "'routing_key': 'q'" in text
        assert repr(body[:20])[2:-1] in text
        assert len(text) < 1500


def test_11_what_else_may_be_done_with_them(rabbitmq: VirtualHost) -> None:
    """They are requeued, raised, or given to a function; fetch() leaves it to `payload`."""
    declare(rabbitmq)
    with connected(rabbitmq.url) as connection:
        put(connection, "bad JSON")
        again, _ = take(connection, on_decode_error="requeue")
        again.wait(limit=1)
        again.close()
        wait_until(lambda: rabbitmq.messages("q") == (1, 0))
        raising, numbers = take(connection, on_decode_error="raise")
        with pytest.raises(DecodeError, match="cannot decode"):
            raising.wait()
        with publisher_to(connection) as publisher:
            send(publisher, range(1))
        raising.wait(limit=1)  # the loop goes on where it was
        assert numbers == [0]
        raising.close()
        message = Consumer(connection, queue="q").fetch()
        with pytest.raises(DecodeError):
            _ = message.payload
        message.requeue()
        given: list[Any] = []

        def dispose(message: Any, error: Exception) -> None:
            given.append((message.body, type(error)))
            message.ack()

        disposing, _ = take(connection, on_decode_error=dispose)
        disposing.wait(limit=1)
        assert given == [(b"{", DecodeError)]
        disposing.close()
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))


def test_11_frames_of_garbage(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """Wherever a frame's head is damaged, the link is given up and all messages come again."""
    declare(rabbitmq)
    link = proxy(rabbitmq)
    damaged = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]  # type, channel, size, class, method
    with connected(link.url) as connection, connected(rabbitmq.url) as direct:
        consumer, numbers = take(connection)
        consumer.consume()
        publisher = publisher_to(direct)
        for count, offset in enumerate(damaged):
            link.corrupt("down", after=offset)
            batch = range(20 * count, 20 * count + 20)
            send(publisher, batch)
            while not set(numbers) >= set(batch):
                connection.drain_events(timeout=10)
            # What was waiting in the broken link was acknowledged in vain.
            wait_until(lambda: connection.stats()["reconnects"] == link.connections - 1)
            consumer.qos(prefetch_count=0)  # the link is idle, or new
            assert link.tripped == count + 1
        assert link.connections == len(damaged) + 1
        consumer.close()
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))


def test_12_a_callback_that_raises_stop_iteration(rabbitmq: VirtualHost) -> None:
    """A `next()` too many in a callback does not end the loop as if all were done."""
    filled(rabbitmq, 2)
    with connected(rabbitmq.url) as connection:
        consumer = Consumer(connection, queue="q")
        consumer.register_callback(lambda data, message: next(iter(())))
        with pytest.raises(RuntimeError, match="a callback raised StopIteration"):
            consumer.wait()
        consumer.close()
        wait_until(lambda: rabbitmq.messages("q") == (2, 0))


@pytest.mark.parametrize(
    "error", [ValueError, OSError, ConnectionResetError, TimeoutError, ConnectionLost]
)
def test_12_a_callback_that_raises(rabbitmq: VirtualHost, error: type[Exception]) -> None:
    """Its error comes out as it is, costs no connection, and the message is not lost."""
    filled(rabbitmq, 3)
    with connected(rabbitmq.url) as connection:

        def fail(message_data: Any, message: Any) -> None:
            if message_data["number"] == 1:
                raise failure

        failure = error("the application's own")
        consumer, numbers = Consumer(connection, queue="q", auto_ack=True), []
        consumer.register_callback(fail)
        consumer.register_callback(lambda data, message: numbers.append(data["number"]))
        with pytest.raises(error) as caught:
            consumer.wait(limit=3)
        assert caught.value is failure
        consumer.wait(limit=1)  # the loop goes on
        with pytest.raises(DrainTimeout):
            connection.drain_events(timeout=0)
        assert numbers == [0, 2]
        wait_until(lambda: rabbitmq.messages("q") == (0, 1))
        assert (connection.state, connection.stats()["reconnects"]) == ("open", 0)
        consumer.close()
        marks: list[bool] = []

        def mark(number: int, message: Any) -> None:
            marks.append(message.delivery_info["redelivered"])

        again, numbers = take(connection, then=mark)
        again.wait(limit=1)
        assert (numbers, marks) == ([1], [True])
        again.close()
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))
