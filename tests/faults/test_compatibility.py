"""Whichever broker: RabbitMQ 3.10, 4.0, 4.0 without what is deprecated; by TLS."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

from carrot.exceptions import BrokerError, ConnectFailed
from carrot.messaging import Consumer
from carrot.testing import BackendContract
from tests.contract.test_rabbitmq import OnRabbitMQ
from tests.faults.traffic import come_back, connected, publisher_to, send, take
from tests.integration.test_driver_tls import over_tls, works
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost

Proxies = Callable[[VirtualHost], Proxy]


class OnStrictRabbitMQ(OnRabbitMQ):
    """A virtual host of a RabbitMQ that denies what is deprecated."""

    @pytest.fixture
    def broker(self, rabbitmq_strict: VirtualHost) -> Iterator[VirtualHost]:
        with contextlib.ExitStack() as self._further:
            yield rabbitmq_strict


class Test_24_Strict(OnStrictRabbitMQ, BackendContract):
    """The RabbitMQ backend keeps the contract there as well."""


def by_default(where: VirtualHost, link: Proxy) -> None:
    """Do what applications do, with nothing but defaults, through a lost connection."""
    with connected(link.url) as connection:
        consumer, numbers = take(connection, exchange="x", routing_key="k")
        own, own_numbers = take(connection, "", exclusive=True)
        for exchange_type in ("direct", "fanout", "topic", "headers"):
            take(connection, exchange_type, exchange=exchange_type, exchange_type=exchange_type)
        consumer.qos(prefetch_count=10)
        for each in (consumer, own):
            each.consume()
        publisher = publisher_to(connection, "k", exchange="x")
        for cuts in range(2):
            batch = range(10 * cuts, 10 * cuts + 10)
            send(publisher, batch)
            send(publisher, batch, exchange="", routing_key=own.queue)
            publisher.flush()
            while not (set(numbers) >= set(batch) and set(own_numbers) >= set(batch)):
                connection.drain_events(timeout=10)
            if not cuts:
                come_back(connection, link)
        publisher.close()
        assert link.connections == 2


def test_24_either_version(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """Nothing that is done by default is refused, nor when it is done again."""
    by_default(rabbitmq, proxy(rabbitmq))


def test_24_without_what_is_deprecated(rabbitmq_strict: VirtualHost, proxy: Proxies) -> None:
    """Nothing that is done by default is refused, nor when it is done again."""
    by_default(rabbitmq_strict, proxy(rabbitmq_strict))


def test_24_what_is_deprecated_is_refused_once(
    rabbitmq_strict: VirtualHost, proxy: Proxies
) -> None:
    """Who asks for it is told why it cannot be; it is not asked for again and again."""
    link = proxy(rabbitmq_strict)
    with connected(link.url) as connection:
        with pytest.raises(BrokerError, match="deprecated") as caught:
            Consumer(connection, queue="transient", durable=False)
        assert "correct its values" in str(caught.value)
        consumer, numbers = take(connection)
        with contextlib.suppress(BrokerError):  # 4.0 ignores it, 4.3 will tell
            consumer.qos(prefetch_count=10, apply_global=True)
        with publisher_to(connection) as publisher:
            send(publisher, range(5))
        consumer.wait(limit=5)
        assert numbers == list(range(5))
        assert rabbitmq_strict.queues() == ["q"]
        assert link.connections == 2  # the broker answers with the end of the connection


@pytest.mark.parametrize(
    "certificate, words",
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "Hostname mismatch, certificate is not valid for 'localhost'"),
        ("self_signed", "self-signed certificate"),
    ],
)
def test_26_certificates_that_are_refused(
    rabbitmq: VirtualHost, certificate: str, words: str
) -> None:
    """A certificate that is not in order is refused at once, with the reason, and for good."""
    connection = over_tls(rabbitmq, rabbitmq.tls_port_of(certificate), wait_for_broker=True)
    started = time.monotonic()
    with pytest.raises(ConnectFailed, match=words) as caught:
        connection.connect()
    assert time.monotonic() - started < 5
    assert not caught.value.recoverable


def test_26_a_clients_certificate(rabbitmq: VirtualHost) -> None:
    """A broker that demands one gets ``certfile`` and ``keyfile``; without, it refuses."""
    client = rabbitmq.certificates.client
    port = rabbitmq.tls_port_of("mutual")
    shown = {"certfile": str(client.cert), "keyfile": str(client.key)}
    works(over_tls(rabbitmq, port, tls=shown))
    with pytest.raises(ConnectFailed):
        over_tls(rabbitmq, port).connect()


def test_26_a_recovery_verifies_as_well(rabbitmq: VirtualHost) -> None:
    """Who takes the broker's place without its certificate is refused, and for good."""
    with Proxy(rabbitmq.host, rabbitmq.tls_port) as link:
        connection = over_tls(rabbitmq, link.port)
        consumer, _ = take(connection)
        consumer.consume()
        link.target(rabbitmq.host, rabbitmq.tls_port_of("self_signed"))
        link.cut()
        with pytest.raises(ConnectFailed, match="self-signed certificate"):
            consumer.wait()
        assert link.connections == 2
        connection.close()
