"""Receiving while things go wrong: the same Consumer goes on, and every message is seen."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import DrainTimeout, NotFound
from carrot.messaging import Consumer
from tests.faults.traffic import COUNT, connected, declare, filled, publisher_to, send, take
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

Proxies = Callable[[VirtualHost], Proxy]


def drain_until(
    connection: BrokerConnection, enough: Callable[[], bool], seconds: float = 30
) -> None:
    """Run callbacks until there were enough."""
    while not enough():
        connection.drain_events(timeout=seconds)


def settle_all(connection: BrokerConnection, where: VirtualHost, reconnects: int = 1) -> None:
    """Run callbacks until nothing is left on the queue, nor unsettled.

    :param reconnects: and the connection was recovered so often, at least.
    """

    def settled() -> bool:
        with suppress(DrainTimeout):
            while True:
                connection.drain_events(timeout=0.02)
        recovered = connection.stats()["reconnects"] >= reconnects
        return recovered and where.messages("q") == (0, 0)

    wait_until(settled)


@pytest.mark.parametrize("after", [0, 1, 7, 50, 99, 150, COUNT - 1])
def test_08_a_connection_that_breaks_after_some_messages(
    rabbitmq: VirtualHost, proxy: Proxies, after: int
) -> None:
    """Cut after k messages: the consumer goes on and sees all, the unsettled again."""
    filled(rabbitmq)
    link = proxy(rabbitmq)
    with connected(link.url) as connection:

        def cut(number: int, message: Any) -> None:
            if number == after and link.connections == 1:
                link.reset()

        consumer, numbers = take(connection, then=cut)
        consumer.qos(prefetch_count=20)
        consumer.consume()
        drain_until(connection, lambda: set(numbers) >= set(range(COUNT)))
        settle_all(connection, rabbitmq)  # what the cut left unsettled comes again
        assert link.connections == 2
        assert len(numbers) <= COUNT + 20
        assert connection.stats()["reconnects"] == 1


def test_08_a_connection_that_breaks_after_every_few_messages(
    rabbitmq: VirtualHost, proxy: Proxies
) -> None:
    """Cut after every seventh message that is new: as after a single cut."""
    filled(rabbitmq)
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        cuts: list[int] = [0]

        def cut(number: int, message: Any) -> None:
            if number >= cuts[-1] + 7 and link.open:
                cuts.append(number)
                link.cut()

        consumer, numbers = take(connection, then=cut)
        consumer.qos(prefetch_count=5)
        consumer.consume()
        drain_until(connection, lambda: set(numbers) >= set(range(COUNT)))
        assert len(cuts) > 20
        assert len(numbers) <= COUNT + 5 * len(cuts)
        assert connection.stats()["reconnects"] > 10


def test_08_a_connection_that_breaks_at_any_byte(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """Cut 64, 128 ... 4,096 bytes after the last cut: nothing is garbled or missing."""
    declare(rabbitmq)
    link = proxy(rabbitmq)
    offsets = range(64, 4097, 64)
    with connected(link.url) as connection, connected(rabbitmq.url) as direct:
        publisher = publisher_to(direct)
        consumer, numbers = take(connection)
        consumer.qos(prefetch_count=20)
        consumer.consume()
        for count, offset in enumerate(offsets):
            # The latter ones break a recovery, or what is delivered after it.
            link.cut(after=offset, direction="down")
            batch = range(count * 30, count * 30 + 30)
            send(publisher, batch)
            drain_until(connection, lambda batch=batch: set(numbers) >= set(batch))  # type: ignore[misc]
            link.cut()
        assert link.tripped >= 32
        settle_all(connection, rabbitmq)


def test_08_without_acknowledgements_nothing_comes_twice(
    rabbitmq: VirtualHost, proxy: Proxies
) -> None:
    """`no_ack=True` is at most once: what was on its way is lost, and the consumer goes on."""
    filled(rabbitmq)
    link = proxy(rabbitmq)
    with connected(link.url) as connection, connected(rabbitmq.url) as direct:
        consumer = Consumer(connection, queue="q", no_ack=True)
        numbers: list[int] = []

        def receive(message_data: Any, message: Any) -> None:
            numbers.append(message_data["number"])
            if len(numbers) == 50:
                link.cut()

        consumer.register_callback(receive)
        consumer.consume()
        drain_until(connection, lambda: len(numbers) == 50)
        with publisher_to(direct) as publisher:
            send(publisher, range(COUNT, COUNT + 5))
        drain_until(connection, lambda: numbers[-1] == COUNT + 4)
        assert len(set(numbers)) == len(numbers)
        assert connection.stats()["stale_settles"] == 0
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))


@pytest.mark.parametrize("offset", range(100, 1500, 200))
def test_16_a_connection_that_breaks_during_the_handshake_of_a_recovery(
    rabbitmq_newest: VirtualHost, proxy: Proxies, offset: int
) -> None:
    """Whatever breaks a recovery is only one more try."""
    filled(rabbitmq_newest, 20)
    link = proxy(rabbitmq_newest)
    with connected(link.url) as connection:
        consumer, numbers = take(connection)
        consumer.qos(prefetch_count=5)
        consumer.consume()
        connection.drain_events(timeout=10)
        link.cut()
        link.cut(after=offset, direction="down")
        drain_until(connection, lambda: set(numbers) >= set(range(20)))
        assert link.tripped == 1


@pytest.mark.parametrize("verb", ["ack", "reject", "requeue"])
def test_09_settling_after_the_connection_broke(
    rabbitmq: VirtualHost, proxy: Proxies, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It sends nothing, is counted and logged, and the message comes again."""
    filled(rabbitmq, 3)
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        consumer = Consumer(connection, queue="q")
        held: list[Any] = []
        consumer.register_callback(lambda data, message: held.append(message))
        consumer.consume()
        drain_until(connection, lambda: len(held) == 3)
        link.cut()
        drain_until(connection, lambda: len(held) == 6)
        for message in held[:3]:
            getattr(message, verb)()
        assert connection.stats()["stale_settles"] == 3
        assert caplog.text.count("the broker delivers") == 3
        for message in held[3:]:
            assert message.delivery_info["redelivered"]
            message.ack()
        consumer.close()
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))


def test_09_settling_before_anybody_noticed(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """Who settles on a broken link is not bothered, and the message comes again."""
    filled(rabbitmq, 1)
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        consumer = Consumer(connection, queue="q")
        message = consumer.fetch()
        link.reset()
        wait_until(lambda: link.open == 0 or link.connections == 2)
        message.ack()

        def over() -> bool:
            again = consumer.fetch()
            if again is not None:  # the acknowledgement may have been faster than the reset
                assert again.delivery_info["redelivered"]
                again.ack()
            return rabbitmq.messages("q") == (0, 0)

        wait_until(over)
        consumer.close()


def test_13_a_queue_that_the_server_side_deletes(
    rabbitmq: VirtualHost, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is declared, bound and consumed again, with a warning."""
    with connected(rabbitmq.url) as connection:
        consumer, numbers = take(connection, exchange="x", routing_key="k")
        consumer.consume()
        rabbitmq.delete_queue("q")

        def told() -> bool:
            with suppress(DrainTimeout):
                connection.drain_events(timeout=0.2)
            return "cancelled the consumer of queue 'q'" in caplog.text

        wait_until(told)
        publisher = publisher_to(connection, "k", exchange="x")
        send(publisher, range(3), mandatory=True)
        publisher.close()
        drain_until(connection, lambda: numbers == [0, 1, 2])


def test_13_without_recovery_a_deleted_queue_is_an_error(rabbitmq: VirtualHost) -> None:
    """`recover=False`: wait() raises NotFound, and the connection stays usable."""
    with connected(rabbitmq.url, recover=False) as connection:
        consumer, _ = take(connection)
        consumer.consume()
        rabbitmq.delete_queue("q")
        with pytest.raises(NotFound, match="'q'"):
            consumer.wait()
        assert Consumer(connection, queue="q").fetch() is None


def test_14_a_bound_on_messages_holds_after_a_recovery(
    rabbitmq: VirtualHost, proxy: Proxies
) -> None:
    """Never more than the prefetch count is outstanding, on the new channel as on the old."""
    filled(rabbitmq, 50)
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        consumer = Consumer(connection, queue="q")
        held: list[Any] = []
        consumer.register_callback(lambda data, message: held.append(message))
        consumer.qos(prefetch_count=5)
        consumer.consume()
        for connections in (1, 2, 3):
            del held[:]
            drain_until(connection, lambda: len(held) == 5)
            with pytest.raises(DrainTimeout):
                connection.drain_events(timeout=0.2)
            wait_until(lambda: rabbitmq.messages("q") == (45, 5))
            assert link.connections == connections
            link.cut()


def test_14_never_more_than_the_bound_is_outstanding(rabbitmq: VirtualHost) -> None:
    """However messages are settled, and in whatever order, none comes before there is room."""
    filled(rabbitmq, 60)
    with connected(rabbitmq.url) as connection:
        consumer = Consumer(connection, queue="q")
        held: list[Any] = []
        consumer.register_callback(lambda data, message: held.append(message))
        consumer.qos(prefetch_count=6)
        consumer.consume()
        left, order = 60, random.Random(1)
        while left:
            drain_until(connection, lambda left=left: len(held) == min(6, left))  # type: ignore[misc]
            with pytest.raises(DrainTimeout):
                connection.drain_events(timeout=0.02)
            for _ in range(order.randint(1, len(held))):
                message = held.pop(order.randrange(len(held)))
                if message.delivery_info["redelivered"] or order.random() < 0.7:
                    message.ack()
                    left -= 1
                else:
                    message.requeue()
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))


def test_a_wrong_settlement_costs_one_channel_and_its_consumers_go_on(
    rabbitmq: VirtualHost, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker closes the channel (406); who drains is told, and all consumers go on."""
    caplog.set_level(logging.WARNING)
    for queue in ("one", "other"):
        filled(rabbitmq, 5, queue)
    with connected(rabbitmq.url) as connection:
        consumers = [take(connection, queue) for queue in ("one", "other")]
        for consumer, _ in consumers:
            consumer.qos(prefetch_count=1)
            consumer.consume()
        untouched = consumers[1][0].backend.channel
        consumers[0][0].backend.ack(99)
        errors = 0
        while not all(set(numbers) >= set(range(5)) for _, numbers in consumers):
            try:
                connection.drain_events(timeout=10)
            except Exception as exc:
                assert "unknown delivery tag" in str(exc)
                errors += 1
        assert errors == 1
        assert consumers[1][0].backend.channel is untouched
        assert len(consumers[1][1]) == 5
        assert connection.stats()["reconnects"] == 0


@pytest.mark.parametrize("apart", [False, True], ids=["one-connection", "two-connections"])
def test_15_two_consumers_share_a_queue_and_one_is_cancelled(
    rabbitmq: VirtualHost, apart: bool
) -> None:
    """Both get their share; the one that stays gets the rest; each message comes once."""
    filled(rabbitmq)
    with connected(rabbitmq.url) as connection, connected(rabbitmq.url) as other:
        (leaver, left), (stayer, stayed) = (
            take(each) for each in (connection, other if apart else connection)
        )
        for consumer in (leaver, stayer):
            consumer.qos(prefetch_count=10)
            consumer.consume()
        connections = {connection, stayer.connection}
        while len(left) < 20 or len(stayed) < 20:
            for each in connections:
                each.drain_events(timeout=10)
        leaver.cancel()
        had = list(left)
        drain_until(stayer.connection, lambda: len(left) + len(stayed) == COUNT)
        assert left == had
        assert sorted(left + stayed) == list(range(COUNT))
        stayer.close()
        wait_until(lambda: rabbitmq.messages("q") == (0, 0))
        assert leaver.fetch() is None  # its channel lives
