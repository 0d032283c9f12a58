"""TLS, against RabbitMQ; what is refused by default is in :mod:`tests.faults`."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError, ConnectFailed
from carrot.messaging import Consumer, Publisher
from tests.servers.vhost import VirtualHost


def over_tls(broker: VirtualHost, port: int | None = None, **options: Any) -> BrokerConnection:
    """Return a connection to a TLS listener; the authority is trusted unless told otherwise."""
    tls = {"ca_certs": str(broker.certificates.ca.cert), **options.pop("tls", {})}
    settings = {
        **broker.conninfo,
        "hostname": "localhost",
        "port": port or broker.tls_port,
        "ssl": tls,
    }
    return BrokerConnection(**{**settings, **options})


def works(connection: BrokerConnection) -> None:
    """Send and fetch small and large messages."""
    with connection:
        consumer = Consumer(connection, queue="tls", exchange="tls", routing_key="tls")
        publisher = Publisher(connection, exchange="tls", routing_key="tls")
        bodies = [b"x", bytes(range(256)) * 4000]
        for body in bodies:
            publisher.send(body)
        publisher.flush()
        assert [message.payload for message in consumer.iterqueue()] == bodies
        got: list[bytes] = []
        consumer.auto_ack = True
        consumer.register_callback(lambda data, message: got.append(data))
        for body in bodies:
            publisher.send(body)
        publisher.flush()
        consumer.discard_all()
        for _ in range(200):
            publisher.send(b"y" * 5000)
        consumer.wait(limit=200)
        assert got == [b"y" * 5000] * 200


def test_a_verified_link(rabbitmq: VirtualHost) -> None:
    """Chain and host name in order: everything works as without TLS."""
    works(over_tls(rabbitmq))


def test_a_context_of_ones_own(rabbitmq_newest: VirtualHost) -> None:
    """``ssl`` may be an ``ssl.SSLContext``, which decides everything."""
    context = ssl.create_default_context(cafile=str(rabbitmq_newest.certificates.ca.cert))
    works(over_tls(rabbitmq_newest, ssl=context))


def test_an_address_in_the_certificate(rabbitmq_newest: VirtualHost) -> None:
    """A host given by its address is looked for among the certificate's addresses."""
    works(over_tls(rabbitmq_newest, hostname="127.0.0.1"))


def test_an_authority_that_nobody_knows(rabbitmq_newest: VirtualHost) -> None:
    """``ssl=True`` trusts the system's authorities, and no others."""
    with pytest.raises(ConnectFailed, match="certificate verify failed"):
        over_tls(rabbitmq_newest, ssl=True).connect()


@pytest.mark.parametrize(
    "certificate, tls",
    [
        ("wrong_host", {"check_hostname": False}),
        ("wrong_host", {"server_hostname": "elsewhere.example"}),
        ("self_signed", {"cert_reqs": ssl.CERT_NONE}),
        ("expired", {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}),
    ],
)
def test_verification_turned_off(
    rabbitmq_newest: VirtualHost, certificate: str, tls: dict[str, Any]
) -> None:
    """What would be refused is accepted where it was asked for, explicitly."""
    port = rabbitmq_newest.tls_port_of(certificate)
    with over_tls(rabbitmq_newest, port, tls=tls) as connection:
        connection.connect()
        assert connection.state == "open"


def test_tls_where_there_is_none(rabbitmq_newest: VirtualHost) -> None:
    """TLS to a plain port, and the reverse, are errors that say what may be wrong."""
    with pytest.raises(ConnectFailed, match="TLS"):
        over_tls(rabbitmq_newest, rabbitmq_newest.port).connect()
    plain = {**rabbitmq_newest.conninfo, "port": rabbitmq_newest.tls_port}
    with pytest.raises(ConnectFailed):
        BrokerConnection(**plain).connect()


@pytest.mark.parametrize(
    "tls, words",
    [
        ({"cafile": "x"}, "ssl has no option 'cafile'; known are ca_certs"),
        ({"ca_certs": "/nowhere.pem"}, "/nowhere.pem"),
        ({"certfile": __file__}, "unusable"),
        ({"ciphers": "none"}, "unusable"),
        ({"tls_minimum_version": "1.2"}, "unusable"),
    ],
)
def test_options_that_cannot_be(
    rabbitmq_newest: VirtualHost, tls: dict[str, Any], words: str
) -> None:
    """An unknown option, or an unusable file, is a ``ConfigurationError`` that names it."""
    with pytest.raises(ConfigurationError, match=words):
        over_tls(rabbitmq_newest, tls=tls).connect()
    with pytest.raises(ConfigurationError, match="ssl is True, False, a dictionary"):
        over_tls(rabbitmq_newest, ssl="yes").connect()


def test_versions_and_ciphers(rabbitmq_newest: VirtualHost, tmp_path: Path) -> None:
    """The other options reach the context."""
    tls = {
        "tls_minimum_version": ssl.TLSVersion.TLSv1_2,
        "tls_maximum_version": ssl.TLSVersion.TLSv1_2,
        "ciphers": "ECDHE+AESGCM",
    }
    with over_tls(rabbitmq_newest, tls=tls) as connection:
        sock = connection.connect()._transport.sock
        assert sock.version() == "TLSv1.2"
        assert "GCM" in sock.cipher()[0]
