"""Messages with numbers, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import amqp

from carrot.connection import BrokerConnection
from carrot.exceptions import DrainTimeout
from carrot.messaging import Consumer, Publisher
from tests.faults.memory import MemoryHost
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost

__all__ = [
    "COUNT",
    "arrived",
    "at_once",
    "come_back",
    "connected",
    "declare",
    "filled",
    "publisher_to",
    "send",
    "take",
]

#: How many messages are on a queue, unless a test says otherwise.
COUNT = 200


@contextmanager
def connected(url: str, **options: Any) -> Iterator[BrokerConnection]:
    """Yield a connection, closed at the end whatever happens to the link."""
    connection = BrokerConnection(url, **options)
    try:
        yield connection
    finally:
        connection.close()


def at_once(hosts: list[VirtualHost], scenario: Callable[[VirtualHost], object]) -> None:
    """Play a scenario on each server at the same time."""
    with ThreadPoolExecutor(len(hosts)) as threads:
        for playing in [threads.submit(scenario, host) for host in hosts]:
            playing.result()


def declare(where: VirtualHost, queue: str = "q", **arguments: Any) -> None:
    """Declare a durable queue, with nothing of ours."""
    with _plain(where) as channel:
        channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)


def filled(where: VirtualHost, count: int = COUNT, queue: str = "q") -> None:
    """Put so many messages on a queue."""
    declare(where, queue)
    with connected(where.url) as connection:
        publisher = publisher_to(connection, queue)
        send(publisher, range(count))
        publisher.close()


def come_back(connection: BrokerConnection, link: Proxy) -> None:
    """Cut the link, have that noticed, and wait for the recovery."""
    count = connection.stats()["reconnects"]
    link.cut()
    link.heal()
    while connection.stats()["reconnects"] == count:
        with suppress(DrainTimeout):
            connection.drain_events(timeout=0.2)


def publisher_to(connection: BrokerConnection, queue: str = "q", **options: Any) -> Publisher:
    """Return a publisher to a queue, by way of the default exchange."""
    return Publisher(connection, routing_key=queue, **options)


def send(publisher: Publisher, numbers: range, **options: Any) -> None:
    """Send the numbers as messages."""
    for number in numbers:
        publisher.send({"number": number}, **options)


def arrived(where: VirtualHost, queue: str = "q") -> list[int]:
    """Take all messages off a queue and return their numbers, with nothing of ours."""
    numbers = []
    with _plain(where) as channel:
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            body = message.body
            text = body if isinstance(body, str) else body.decode()
            numbers.append(int(text.strip('{}"number: ')))
    return numbers


def take(
    connection: BrokerConnection,
    queue: str = "q",
    then: Callable[[int, Any], Any] | None = None,
    **options: Any,
) -> tuple[Consumer, list[int]]:
    """Subscribe a consumer that acknowledges; return it and the list of numbers received.

    :param then: called after each message was acknowledged.
    """
    consumer = Consumer(connection, queue=queue, **options)
    numbers: list[int] = []

    def receive(message_data: Any, message: Any) -> None:
        numbers.append(message_data["number"])
        message.ack()
        if then is not None:
            then(message_data["number"], message)

    consumer.register_callback(receive)
    return consumer, numbers


@contextmanager
def _plain(where: VirtualHost | MemoryHost) -> Iterator[Any]:
    if isinstance(where, MemoryHost):
        with where.channel() as channel:
            yield channel
        return
    user = {"userid": where.userid, "password": where.password, "virtual_host": where.vhost}
    with amqp.Connection(host=f"{where.host}:{where.port}", **user) as connection:
        yield connection.channel()
