"""The private RabbitMQ servers that the other tests rely on."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import amqp
import pytest

from tests.proxy import Proxy
from tests.servers.certificates import Certificate
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

#: Start of a frame with connection.start: type 1, channel 0.
METHOD_FRAME = b"\x01\0\0"


def connect(where: VirtualHost, **options: object) -> amqp.Connection:
    """Connect with nothing of carrot's."""
    options = {"host": f"{where.host}:{where.port}", **options}
    user = {"userid": where.userid, "password": where.password, "virtual_host": where.vhost}
    connection = amqp.Connection(**{**user, **options})
    connection.connect()
    return connection


def test_virtual_hosts_are_apart(rabbitmq: VirtualHost) -> None:
    """Each test has a virtual host of its own, empty at first."""
    assert rabbitmq.queues() == []
    with connect(rabbitmq) as connection, rabbitmq.another() as other:
        connection.channel().queue_declare("mine", durable=True, auto_delete=False)
        assert rabbitmq.queues() == ["mine"]
        assert other.queues() == []
        assert rabbitmq.connection_count() == 1
        assert other.connection_count() == 0


def test_queues_can_be_asked(rabbitmq: VirtualHost) -> None:
    """Messages and consumers are counted; deleting cancels consumers."""
    with connect(rabbitmq) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True, auto_delete=False)
        channel.basic_publish_confirm(amqp.Message("one"), "", "q")
        channel.basic_publish_confirm(amqp.Message("two"), "", "q")
        assert channel.basic_get("q") is not None
        wait_until(lambda: rabbitmq.messages("q") == (1, 1))
        assert rabbitmq.consumers("q") == 0
        rabbitmq.delete_queue("q")
        with pytest.raises(LookupError):
            rabbitmq.messages("q")


def test_policies_and_users(rabbitmq: VirtualHost) -> None:
    """A policy bounds a queue; a user may do what it was given."""
    rabbitmq.set_policy("^short", max_length=1, overflow="reject-publish")
    rabbitmq.add_user("reader", "secret", configure="", write="")
    with connect(rabbitmq, userid="reader", password="secret") as connection:
        channel = connection.channel()
        with pytest.raises(amqp.AccessRefused):
            channel.queue_declare("mine", durable=True)


def test_connections_can_be_closed(rabbitmq: VirtualHost) -> None:
    """close_connections() sends a connection.close to the clients."""
    connection = connect(rabbitmq)
    rabbitmq.close_connections("gone fishing")
    with pytest.raises(amqp.ConnectionForced, match="gone fishing"):
        connection.drain_events(timeout=10)
    connection.collect()


def test_blocked(rabbitmq: VirtualHost) -> None:
    """A publisher hears connection.blocked, then connection.unblocked."""
    heard: list[str] = []
    with connect(
        rabbitmq,
        on_blocked=lambda reason: heard.append(reason),
        on_unblocked=lambda: heard.append("unblocked"),
    ) as connection:
        with rabbitmq.blocked():
            connection.channel().basic_publish(amqp.Message("x"), "", "nowhere")
            connection.drain_events(timeout=10)
        connection.drain_events(timeout=10)
    assert len(heard) == 2 and heard[1] == "unblocked"


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_durable_messages_outlive_the_server(rabbitmq: VirtualHost, way: str) -> None:
    """The server comes back on the same port with what was confirmed."""
    with connect(rabbitmq, confirm_publish=True) as connection:
        channel = connection.channel()
        channel.queue_declare("q", durable=True, auto_delete=False)
        channel.basic_publish(amqp.Message("kept", delivery_mode=2), "", "q")
        rabbitmq.kill() if way == "kill" else rabbitmq.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((rabbitmq.host, rabbitmq.port))
        connection.collect()
        rabbitmq.start()
    assert rabbitmq.messages("q") == (1, 0)


def test_ctl(rabbitmq: VirtualHost) -> None:
    """ctl() is rabbitmqctl."""
    assert rabbitmq.vhost in rabbitmq.ctl("list_vhosts", "name").split()
    with pytest.raises(RuntimeError):
        rabbitmq.ctl("no_such_command")


def greet_over_tls(
    where: VirtualHost, port: int, certificate: Certificate | None = None
) -> bytes:
    """Return the first bytes of the server's greeting."""
    context = ssl.create_default_context(cafile=where.certificates.ca.cert)
    if certificate:
        context.load_cert_chain(certificate.cert, certificate.key)
    plain = socket.create_connection((where.host, port), 10)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as link:
        link.sendall(b"AMQP\0\0\x09\x01")
        return link.recv(7)


def test_tls(rabbitmq: VirtualHost) -> None:
    """The TLS port's certificate is in order for its host name."""
    assert greet_over_tls(rabbitmq, rabbitmq.tls_port)[:3] == METHOD_FRAME


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("expired", "certificate has expired"),
        ("wrong_host", "Hostname mismatch"),
        ("self_signed", "self.signed certificate"),
    ],
)
def test_bad_certificates(rabbitmq: VirtualHost, name: str, said: str) -> None:
    """Each bad certificate is refused for what is bad about it."""
    with pytest.raises(ssl.SSLCertVerificationError, match=said):
        greet_over_tls(rabbitmq, rabbitmq.tls_port_of(name))


def test_client_certificates(rabbitmq: VirtualHost) -> None:
    """At the "mutual" port a client shows its certificate, or is turned away."""
    port = rabbitmq.tls_port_of("mutual")
    with pytest.raises(OSError):
        greet_over_tls(rabbitmq, port)
    assert greet_over_tls(rabbitmq, port, rabbitmq.certificates.client)[:3] == METHOD_FRAME


def test_strict_refuses_transient_queues(rabbitmq_strict: VirtualHost) -> None:
    """The strict server refuses what RabbitMQ 4.3 refuses, with 541."""
    connection = connect(rabbitmq_strict)
    with pytest.raises(amqp.InternalError):
        connection.channel().queue_declare("q", durable=False, exclusive=False)
    connection.collect()


def test_newest(rabbitmq_newest: VirtualHost) -> None:
    """The newest server tells its version."""
    assert rabbitmq_newest.version >= (3, 8)


def test_through_the_proxy(
    rabbitmq: VirtualHost, proxy: Callable[[VirtualHost], Proxy]
) -> None:
    """The proxy stands before the server, with a URL of its own."""
    link = proxy(rabbitmq)
    assert link.url == rabbitmq.url_at("127.0.0.1", link.port)
    with connect(rabbitmq, host=f"127.0.0.1:{link.port}") as connection:
        assert link.open == 1
        link.cut()
        with pytest.raises(OSError):
            connection.drain_events(timeout=10)
        connection.collect()
