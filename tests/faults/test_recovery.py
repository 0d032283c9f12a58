"""Recovering from a real broker: much of it, from several hosts, and ended by close()."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
)
from carrot.messaging import Consumer
from tests.faults.traffic import come_back, connected, declare, publisher_to, send, take
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

Proxies = Callable[[VirtualHost], Proxy]


def test_16_a_thousand_queues_and_consumers(
    rabbitmq_newest: VirtualHost, proxy: Proxies
) -> None:
    """All come back, on one channel or on many, and each gets its message."""
    link = proxy(rabbitmq_newest)
    with connected(link.url, timeout=60) as connection:
        backend = connection.create_backend()
        received: list[str] = []
        for number in range(1000):
            queue = f"q{number}"
            backend.queue_declare(queue, False, True, False)
            backend.declare_consumer(
                queue, True, lambda raw, queue=queue: received.append(queue), queue
            )
        apart = [take(connection, f"apart{number}", exclusive=True) for number in range(50)]
        for consumer, _ in apart:
            consumer.consume()
        link.cut()
        started = time.monotonic()
        publisher = publisher_to(connection)
        for number in range(1000):
            publisher.send({}, routing_key=f"q{number}", mandatory=True)
        for number in range(50):
            publisher.send({"number": number}, routing_key=f"apart{number}", mandatory=True)
        publisher.flush(timeout=60)
        while len(received) < 1000 or not all(numbers for _, numbers in apart):
            connection.drain_events(timeout=30)
        assert time.monotonic() - started < 60
        assert sorted(received) == sorted(f"q{number}" for number in range(1000))
        assert link.connections == 2


def test_16_server_named_queues(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """They get new names; bindings and consumers follow, and the consumer knows the name."""
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        consumer, numbers = take(
            connection, queue="", exchange="x", routing_key="k", exclusive=True
        )
        consumer.consume()
        former = consumer.queue
        come_back(connection, link)
        assert rabbitmq.queues() == [consumer.queue] != [former]
        publisher = publisher_to(connection, "k", exchange="x", auto_declare=False)
        send(publisher, range(3), mandatory=True)
        send(publisher, range(3, 4), exchange="", routing_key=consumer.queue, mandatory=True)
        publisher.close()
        while len(numbers) < 4:
            connection.drain_events(timeout=10)
        assert numbers == [0, 1, 2, 3]


def test_16_what_was_deleted_stays_deleted(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """By the application, or by the broker with the last consumer: it does not come back."""
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        kept = Consumer(connection, queue="kept", exclusive=True)
        deleted = Consumer(connection, queue="deleted", exchange="x")
        left, _ = take(connection, "left", auto_delete=True)
        left.consume()
        left.cancel()
        deleted.backend.queue_delete("deleted")
        wait_until(lambda: rabbitmq.queues() == ["kept"])
        come_back(connection, link)
        assert rabbitmq.queues() == ["kept"]
        assert kept.fetch() is None


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_16_close_during_recovery_returns_at_once(
    rabbitmq_newest: VirtualHost, proxy: Proxies, silent: bool
) -> None:
    """Whether the broker refuses or keeps silent, close() does not wait; waiters are told."""
    link = proxy(rabbitmq_newest)
    connection = BrokerConnection(link.url, connect_timeout=30)
    consumer, _ = take(connection)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            consumer.wait()
        except BaseException as exc:
            ended.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: consumer.channel_open)
    if silent:
        link.swallow()
    else:
        link.refuse()
    link.cut()
    wait_until(lambda: connection.state == "recovering")
    if silent:
        wait_until(lambda: link.connections == 2)
    started = time.monotonic()
    connection.close()
    assert time.monotonic() - started < 1
    thread.join(5)
    assert [type(exc) for exc in ended] == [ConnectionClosed]


def test_16_a_server_that_comes_and_goes(rabbitmq_newest: VirtualHost, proxy: Proxies) -> None:
    """Cut after cut, some of them during the recovery: the conversation goes on."""
    declare(rabbitmq_newest)
    link = proxy(rabbitmq_newest)
    with connected(link.url, timeout=60) as connection:
        consumer, numbers = take(connection)
        consumer.qos(prefetch_count=10)
        consumer.consume()
        publisher = publisher_to(connection, confirm_window=10)
        for start in range(0, 200, 10):
            link.cut(after=2000 + 37 * start, direction="up")
            send(publisher, range(start, start + 10))
            while start + 5 not in numbers:
                connection.drain_events(timeout=30)
        publisher.flush()
        while len(set(numbers)) < 200:
            connection.drain_events(timeout=30)
        assert list(dict.fromkeys(numbers)) == list(range(200))
        assert link.tripped > 2


@contextmanager
def silent_port() -> Iterator[int]:
    """Yield a port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def refusing_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def several(where: VirtualHost, *ports: int, **options: Any) -> BrokerConnection:
    """Return a connection with a list of hosts."""
    info = {**where.conninfo, **options}
    del info["hostname"], info["port"]
    return BrokerConnection([f"127.0.0.1:{port}" for port in ports], **info)


@contextmanager
def dead_port() -> Iterator[int]:
    """Yield a port at which nobody answers, as at the address of a host that is down."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):  # a full queue of connections: further ones are ignored
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address[1]


def test_17_a_list_of_hosts(rabbitmq: VirtualHost) -> None:
    """A dead, a refusing and a silent host cost their time; the next one is taken."""
    with dead_port() as dead, silent_port() as silent:
        ports = (dead, refusing_port(), silent, rabbitmq.port)
        connection = several(rabbitmq, *ports, connect_timeout=0.5)
        started = time.monotonic()
        connection.connect()
        assert 0.9 < time.monotonic() - started < 2.5
        assert connection.port == rabbitmq.port
        connection.close()


def test_17_a_list_of_hosts_none_of_which_answers(rabbitmq_newest: VirtualHost) -> None:
    """The error tells for each host why, and comes within the sum of their times."""
    with dead_port() as dead, silent_port() as silent:
        ports = (dead, refusing_port(), silent)
        connection = several(rabbitmq_newest, *ports, connect_timeout=0.3)
        started = time.monotonic()
        with pytest.raises(ConnectFailed) as caught:
            connection.connect()
        assert time.monotonic() - started < 2
        for port in ports:
            assert f"127.0.0.1:{port}" in str(caught.value)
        assert "refused" in str(caught.value)


def test_17_recovery_moves_on_to_another_host(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """When the host in use is gone, the next one of the list takes over."""
    declare(rabbitmq)
    first, second = proxy(rabbitmq), proxy(rabbitmq)
    connection = several(rabbitmq, first.port, second.port)
    publisher = publisher_to(connection)
    send(publisher, range(5))
    first.refuse()
    first.cut()
    send(publisher, range(5, 10))
    publisher.close()
    assert (first.connections, second.connections) == (1, 1)
    assert connection.port == second.port
    connection.close()


def test_17_wrong_credentials_are_never_retried(
    rabbitmq: VirtualHost, proxy: Proxies, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither at the first connection, nor with waiting, nor when recovering; nor told."""
    link = proxy(rabbitmq)
    info = {**rabbitmq.conninfo, "port": link.port}
    caplog.set_level(logging.DEBUG)
    wrong = BrokerConnection(**{**info, "password": "hush-hush"}, wait_for_broker=True)
    with pytest.raises(AuthenticationFailed) as first:
        wrong.connect()
    assert link.connections == 1
    connection = BrokerConnection(**info)
    consumer, _ = take(connection)
    consumer.consume()
    connection.password = "hush-hush"
    link.cut()
    with pytest.raises(AuthenticationFailed) as second:
        consumer.wait()
    assert link.connections == 3
    said = [caplog.text, *map(repr, (first.value, second.value, wrong, connection, consumer))]
    assert not any("hush-hush" in text for text in said)
    connection.close()


def test_17_an_unreachable_broker_fails_within_the_deadline(
    rabbitmq: VirtualHost, proxy: Proxies
) -> None:
    """A send while the broker is away raises after `timeout`, and says why."""
    link = proxy(rabbitmq)
    with connected(link.url, timeout=1) as connection:
        publisher = publisher_to(connection)
        send(publisher, range(1))
        publisher.flush()
        link.refuse()
        link.cut()
        wait_until(lambda: connection.state == "recovering" or _noticed(publisher))
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="refused"):
            send(publisher, range(1, 2))
        assert time.monotonic() - started < 2


def _noticed(publisher: Any) -> bool:
    try:
        publisher.backend.queue_declare("another", True, False, False)
    except ConnectionLost:
        return True
    return False
