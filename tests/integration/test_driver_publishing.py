"""The driver publishes, against a peer that does as it is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from amqp import spec
from amqp.basic_message import Message as AMQPMessage

from carrot.backends.pyamqplib import Connection
from carrot.exceptions import (
    ConfigurationError,
    ConnectionBlocked,
    ConnectionLost,
    EncodeError,
    NotSupported,
)
from carrot.utils import time_limit
from tests.integration.driver_peer import Peer, deliver, drain, method, sent, subscribed
from tests.waiting import wait_until


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def connection(peer: Peer) -> Connection:
    return peer.connect()


# -- publishing


def test_a_link_that_takes_nothing(peer: Peer) -> None:
    """It raises in time; what was begun arrives whole once the peer reads again."""
    connection = peer.connect(timeout=0.5)
    channel = connection.channel()
    peer.pause()
    body = bytes(range(256)) * 4096
    published = 0
    with pytest.raises(ConnectionBlocked, match="the link is full"):
        while published < 100:
            started = time.monotonic()
            channel.basic_publish(AMQPMessage(body), "e", "k")
            published += 1
            assert time.monotonic() - started < 3
    assert sum(len(piece) for piece in connection.outbox.rest) <= len(body) + 10_000
    peer.resume()
    channel.basic_publish(AMQPMessage(b"last"), "e", "k")
    wait_until(lambda: len(peer.bodies.get(1, b"")) == published * len(body) + 4, 20)
    assert peer.bodies[1] == body * published + b"last"
    assert channel.queue_declare("q").queue == "q"


def test_the_end_of_a_burst_is_sent(peer: Peer, connection: Connection) -> None:
    """What the kernel keeps to join it goes out within milliseconds, whoever does what."""
    channel = connection.channel()
    sock = connection.transport.sock

    def joined() -> bool:
        return not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def is_burst() -> bool:
        for _ in range(200):
            channel.basic_publish(AMQPMessage(b"x"), "e", "k")
        return joined()

    assert not joined()
    wait_until(is_burst, 10)
    wait_until(lambda: not joined(), 10)
    channel.basic_publish(AMQPMessage(b"last"), "e", "k")
    wait_until(lambda: peer.bodies.get(1, b"").endswith(b"last"), 10)


def test_both_sides_write_more_than_the_link_holds(peer: Peer, connection: Connection) -> None:
    """While the client waits for room it reads, so that both get through."""
    channel, got = subscribed(connection)
    body, count = bytes(1_000_000), 12
    peer.pause()

    def flood() -> None:
        for tag in range(1, count + 1):
            peer.send(deliver(1, tag, body))
        peer.resume()

    thread = threading.Thread(target=flood)
    thread.start()
    for _ in range(count):
        channel.basic_publish(AMQPMessage(body), "e", "k")
    thread.join(20)
    drain(connection, count)
    assert [len(message.body) for message in got] == [len(body)] * count
    wait_until(lambda: len(peer.bodies.get(1, b"")) == count * len(body), 20)


def test_a_broker_that_is_blocked(peer: Peer) -> None:
    """Publishing waits until it is not, or raises with its reason; other things go on."""
    connection = peer.connect(timeout=0.3)
    channel, got = subscribed(connection)
    peer.send(method(0, spec.Connection.Blocked, "s", "low on memory"))
    wait_until(lambda: connection.blocked or connection.inbox.pump(5))
    assert repr(connection).endswith("blocked>")
    before = len(peer.received)
    with pytest.raises(ConnectionBlocked, match=f"{peer.host} takes .*: low on memory"):
        channel.basic_publish(AMQPMessage("x"), "e", "k")
    peer.send(sent(1))
    drain(connection, 1)
    assert channel.basic_ack(1)
    peer.expect(spec.Basic.Ack)
    assert len(peer.received) == before + 1
    connection.timeout = 10
    timer = threading.Timer(0.2, peer.send, [method(0, spec.Connection.Unblocked)])
    timer.start()
    channel.basic_publish(AMQPMessage("y"), "e", "k")
    peer.expect(spec.Basic.Publish)
    assert len(got) == 1
    timer.join()


@pytest.mark.parametrize(
    "message, arguments, error",
    [
        (AMQPMessage("x", priority=300), {}, EncodeError),
        (AMQPMessage("x", application_headers={"a": object()}), {}, EncodeError),
        (AMQPMessage("x", application_headers={"a": "x" * 140_000}), {}, EncodeError),
        (AMQPMessage("x"), {"exchange": 3}, ConfigurationError),
        (AMQPMessage("x"), {"routing_key": "k" * 256}, ConfigurationError),
        (AMQPMessage("x"), {"routing_key": ["k"]}, ConfigurationError),
    ],
)
def test_what_cannot_be_published(
    peer: Peer,
    connection: Connection,
    message: Any,
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    """It is refused before a byte is sent, and the channel is none the worse."""
    channel = connection.channel()
    before = peer.bytes_received
    with pytest.raises(error):
        channel.basic_publish(message, **{"exchange": "e", "routing_key": "k", **arguments})
    channel.basic_publish(AMQPMessage(b"fine"), "e", "k")
    wait_until(lambda: peer.bodies.get(1) == b"fine")
    assert peer.bytes_received - before < 100


@pytest.mark.parametrize(
    "declaration",
    [
        {"queue": 3},
        {"queue": "q" * 256},
        {"queue": "q", "arguments": {"x": object()}},
        {"queue": "q", "arguments": {1: 2}},
        {"queue": "q", "arguments": "x"},
    ],
)
def test_what_cannot_be_declared(
    peer: Peer, connection: Connection, declaration: dict[str, Any]
) -> None:
    """Arguments that AMQP cannot express are refused before a byte is sent."""
    channel = connection.channel()
    with pytest.raises(ConfigurationError, match=r"cannot send Queue.declare"):
        channel.queue_declare(**declaration)
    assert channel.queue_declare("q").queue == "q"
    assert len(peer.got(spec.Queue.Declare)) == 1


def test_what_the_amqp_package_would_do_slowly(connection: Connection) -> None:
    """Its own ways to publish are refused, or are ours."""
    channel = connection.channel()
    with pytest.raises(NotSupported, match="tracker"):
        channel.basic_publish_confirm(AMQPMessage("x"), "e", "k")
    with pytest.raises(NotSupported, match="basic_publish"):
        channel.send_method(spec.Basic.Publish, "Bssbb", (0, "e", "k", 0, 0), AMQPMessage("x"))


def test_one_channel_of_slow_answers(peer: Peer, connection: Connection) -> None:
    """Whose turn does not come in time raises, and leaves the connection alone."""
    channel = connection.channel()
    with channel._turns, time_limit(0.1), pytest.raises(ConnectionLost, match="did not answer"):
        channel.queue_declare("q")
    assert channel.queue_declare("q").queue == "q"


def test_confirms_and_returns_reach_their_channel(peer: Peer, connection: Connection) -> None:
    """``basic.ack``, ``nack`` and ``return`` go to the hooks of the amqp package."""
    channel = connection.channel()
    heard: list[Any] = []
    channel.events["basic_ack"].add(lambda *a: heard.append(("ack", *a)))
    channel.events["basic_nack"].add(lambda *a: heard.append(("nack", *a)))
    channel.events["basic_return"].add(
        lambda exc, *route: heard.append((exc.reply_code, exc.reply_text, *route[:2]))
    )
    returned = method(1, spec.Basic.Return, "Bsss", 312, "NO_ROUTE", "e", "k")
    peer.send(returned + deliver(1, 1)[deliver(1, 1).index(b"\xce") + 1 :])
    peer.send(method(1, spec.Basic.Ack, "Lb", 1, False))
    peer.send(method(1, spec.Basic.Nack, "Lbb", 2, True, False))
    wait_until(lambda: len(heard) == 3 or connection.inbox.pump(5))
    assert heard == [(312, "NO_ROUTE", "e", "k"), ("ack", 1, False), ("nack", 2, True)]


def test_a_return_that_nobody_asked_for(
    peer: Peer, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and harms nobody."""
    connection.channel()
    returned = method(1, spec.Basic.Return, "Bsss", 312, "NO_ROUTE", "e", "k")
    peer.send(returned + deliver(1, 1)[deliver(1, 1).index(b"\xce") + 1 :])
    wait_until(lambda: "312 NO_ROUTE" in caplog.text or connection.inbox.pump(5))


def test_publishing_on_a_link_that_breaks(peer: Peer, connection: Connection) -> None:
    """Without a tracker it raises; with one the message is counted, to be sent again."""
    channel, counted = connection.channel(), connection.channel()
    entries: list[Any] = []
    counted.tracker = type("T", (), {"add": lambda _, entry, life: entries.append(entry)})()
    real = connection._transport

    def broken(data: bytes) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    real.send = broken
    counted.basic_publish(AMQPMessage("x"), "e", "k", entry="mine")
    assert entries == ["mine"]
    with pytest.raises(ConnectionLost, match="Broken pipe"):
        channel.basic_publish(AMQPMessage("x"), "e", "k")
    with pytest.raises(ConnectionLost, match="Broken pipe"):
        counted.basic_publish(AMQPMessage("x"), "e", "k", entry="another")
    assert entries == ["mine"]
