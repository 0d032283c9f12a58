"""A publisher that takes shortcuts: nobody can tell, but for the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from carrot import serialization
from carrot.backends import pyamqplib
from carrot.backends.queue import Backend as MemoryBackend
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConfigurationError,
    ConnectionBlocked,
    ConnectionClosed,
    EncodeError,
    PublishNotFound,
    Unroutable,
)
from carrot.messaging import Consumer, Publisher
from tests.integration.driver_peer import Peer
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until


@pytest.fixture
def connection(rabbitmq_newest: VirtualHost) -> Iterator[BrokerConnection]:
    with BrokerConnection(rabbitmq_newest.url) as connection:
        yield connection


@pytest.fixture
def consumer(connection: BrokerConnection) -> Iterator[Consumer]:
    with Consumer(connection, queue="q", exchange="x", routing_key="k") as consumer:
        yield consumer


def taken(publisher: Publisher) -> list[bytes]:
    """Return the list of bodies that take a shortcut of this publisher from now on."""
    bodies: list[bytes] = []
    shortcuts = {}
    for kind, post in publisher._shortcuts.items():

        def counted(body: bytes, post: Any = post) -> bool:
            sent: bool = post(body)
            if sent:
                bodies.append(body)
            return sent

        shortcuts[kind] = counted
    publisher._shortcuts = shortcuts
    return bodies


def look(message: Any) -> tuple[Any, ...]:
    info = message.delivery_info
    return (
        message.body,
        message.content_type,
        message.content_encoding,
        message.properties,
        info["exchange"],
        info["routing_key"],
    )


@pytest.mark.parametrize(
    "data, options",
    [
        ({"n": 1}, {}),
        ([1, None], {"mandatory": True}),
        ("text", {}),
        (b"\0bytes", {}),
        (bytearray(b"array"), {"routing_key": "k"}),
        ("raw", {"serializer": "raw"}),
        ({"n": 1}, {"serializer": "yaml"}),
        ({"n": 1}, {"exchange": "", "routing_key": "q"}),
        ({"n": 1}, {"routing_key": "é" * 100}),
        ("", {}),
        (b"x" * 100_000, {}),
    ],
    ids=repr,
)
def test_all_look_the_same(
    connection: BrokerConnection, consumer: Consumer, data: Any, options: dict[str, Any]
) -> None:
    """What takes the shortcut is received as what went the long way before it."""
    key = options.get("routing_key")
    if key not in (None, "k", "q"):
        consumer.backend.queue_bind(queue="q", exchange="x", routing_key=key)
    with Publisher(connection, exchange="x", routing_key="k") as publisher:
        publisher.send(data, **options)
        bodies = taken(publisher)
        for _ in range(2):
            publisher.send(data, **options)
    first, second, third = (consumer.fetch() for _ in range(3))
    assert look(first) == look(second) == look(third)
    short = 0 < len(first.body) <= 16 * 1024
    assert bodies == ([second.body, third.body] if short else [])


def test_what_else_is_said_takes_no_shortcut(
    connection: BrokerConnection, consumer: Consumer
) -> None:
    """Each option of send() counts for its message, and for no other."""
    options: list[dict[str, Any]] = [
        {"headers": {"a": 1}},
        {"priority": 3},
        {"delivery_mode": "transient"},
        {"correlation_id": ""},
        {"reply_to": "r"},
        {"expiration": 60},
        {"message_id": "m"},
        {"timestamp": 0},
        {"type": "t"},
        {"user_id": connection.userid},
        {"app_id": "a"},
        {"content_type": "text/x", "content_encoding": "latin-1"},
    ]
    with Publisher(connection, exchange="x", routing_key="k") as publisher:
        publisher.send("data")
        for option in options:
            publisher.send("data", **option)
            publisher.send("data")
    plain, *rest = [consumer.fetch() for _ in range(1 + 2 * len(options))]
    for special, following, option in zip(rest[::2], rest[1::2], options, strict=True):
        assert look(special) != look(plain), option
        assert look(following) == look(plain), option


def test_attributes_may_change(connection: BrokerConnection, consumer: Consumer) -> None:
    """A publisher's attributes count for the messages that are sent after they were set."""
    with Publisher(connection, exchange="x", routing_key="k") as publisher:
        for changed in [
            {},
            {"serializer": "yaml"},
            {"delivery_mode": 1},
            {"exchange": "", "routing_key": "q"},
        ]:
            for name, value in changed.items():
                setattr(publisher, name, value)
            for _ in range(3):
                publisher.send({"n": 1})
    messages = [consumer.fetch() for _ in range(12)][2::3]
    types = [message.content_type.rpartition("/")[2] for message in messages]
    assert types == ["json", "x-yaml", "x-yaml", "x-yaml"]
    assert [message.properties["delivery_mode"] for message in messages] == [2, 2, 1, 1]
    assert [m.delivery_info["exchange"] for m in messages] == ["x", "x", "x", ""]


def test_errors_are_those_of_the_long_way(
    connection: BrokerConnection, consumer: Consumer
) -> None:
    """What cannot be sent is refused as before, and the next message is sent."""
    with Publisher(connection, exchange="x", routing_key="k") as publisher:
        for _ in range(2):
            publisher.send({"n": 1})
            with pytest.raises(EncodeError):
                publisher.send({"n": object()})
            with pytest.raises(ConfigurationError, match="routing_key"):
                publisher.send({"n": 1}, routing_key={"a": 1})
            with pytest.raises(ConfigurationError, match="exchange"):
                publisher.send({"n": 1}, exchange=["x"])  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError, match="255"):
                publisher.send({"n": 1}, routing_key="k" * 256)
            publisher.send({"n": 1}, routing_key="nobody", mandatory=True)
            with pytest.raises(Unroutable) as caught:
                publisher.flush()
            assert [m.body for m in caught.value.messages] == [b'{"n":1}']
    with pytest.raises(ConnectionClosed, match="make a new Publisher"):
        publisher.send({"n": 1})
    assert [consumer.fetch().payload for _ in range(2)] == [{"n": 1}] * 2
    assert consumer.fetch() is None


def test_headers_exchanges(connection: BrokerConnection) -> None:
    """A routing key that is a dictionary is headers, each time."""
    with (
        Consumer(
            connection,
            queue="h",
            exchange="heads",
            exchange_type="headers",
            routing_key="",
        ) as consumer,
        Publisher(connection, exchange="heads", exchange_type="headers") as publisher,
    ):
        for _ in range(3):
            publisher.send("x", routing_key={"a": 1})
            publisher.send("x")
        publisher.flush()
        headers = [consumer.fetch().headers for _ in range(6)]
    assert headers == [{"a": 1}, {}] * 3


def test_closed_connections(connection: BrokerConnection, consumer: Consumer) -> None:
    """A publisher of a closed connection says so; one that was lost goes on elsewhere."""
    publisher = Publisher(connection, exchange="x", routing_key="k")
    for _ in range(3):
        publisher.send({"n": 1})
    driver = publisher.backend._inner._channel.connection
    publisher.flush()
    driver._transport.sever()
    wait_until(lambda: not driver.alive, 10)
    for _ in range(3):
        publisher.send({"n": 2})
    publisher.flush()
    assert publisher.backend._inner._channel.connection is not driver
    bodies = [consumer.fetch().body for _ in range(6)]
    assert bodies == [b'{"n":1}'] * 3 + [b'{"n":2}'] * 3
    connection.close()
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            publisher.send({"n": 3})


@pytest.mark.parametrize("confirm", [True, False])
def test_nothing_is_sent_once_closing_has_begun(
    connection: BrokerConnection, consumer: Consumer, confirm: bool
) -> None:
    """From the moment that listeners hear of it, sending is an error."""
    publisher = Publisher(connection, exchange="x", routing_key="k", confirm=confirm)
    for _ in range(3):
        publisher.send({"n": 1})
    publisher.flush()
    errors: list[Exception] = []

    def listen(state: str, cause: BaseException | None) -> None:
        if state == "closed":
            try:
                publisher.send({"n": 2})
            except ConnectionClosed as error:
                errors.append(error)

    connection.on_state = listen
    connection.close()
    assert len(errors) == 1
    publisher.flush()
    connection.on_state = None
    connection.connect()
    with Consumer(connection, queue="q", auto_declare=False) as again:
        assert [m.payload["n"] for m in (again.fetch(), again.fetch(), again.fetch())] == [
            1
        ] * 3
        assert again.fetch() is None


@pytest.mark.parametrize("scheme", ["amqp", "memory"])
def test_a_channel_that_is_counted_is_not_opened_again(
    rabbitmq_newest: VirtualHost, scheme: str
) -> None:
    """Two channels that count in one tracker would take each other's numbers."""
    url = rabbitmq_newest.url if scheme == "amqp" else "memory://counted"
    with BrokerConnection(url) as connection:
        publisher = Publisher(connection, routing_key="q")
        publisher.send({"n": 1})
        publisher.flush()
        inner = publisher.backend._inner
        publisher.send({"n": 2}, exchange="nosuch")
        with pytest.raises(PublishNotFound):
            publisher.flush()
        for _ in range(2):
            with pytest.raises(ChannelError, match="is replaced"):
                inner.publish(inner.prepare_message(b"", 2), "", "q")
        publisher.send({"n": 3})
        publisher.flush()
        assert publisher.backend._inner is not inner


def test_overridden_methods_are_called(
    connection: BrokerConnection, consumer: Consumer
) -> None:
    """Who extends a publisher or a backend sees every message."""
    seen: list[str] = []

    class Noting(Publisher):
        def create_message(self, message_data: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append("create")
            return super().create_message(message_data, *args, **kwargs)

    class Publishing(pyamqplib.Backend):
        def publish(self, *args: Any, **kwargs: Any) -> None:
            seen.append("publish")
            super().publish(*args, **kwargs)

    class Preparing(pyamqplib.Backend):
        def prepare_message(self, *args: Any, **kwargs: Any) -> Any:
            seen.append("prepare")
            return super().prepare_message(*args, **kwargs)

    for cls, backend_cls in [(Noting, None), (Publisher, Publishing), (Publisher, Preparing)]:
        with cls(
            connection, exchange="x", routing_key="k", backend_cls=backend_cls
        ) as publisher:
            for _ in range(3):
                publisher.send({"n": 1})
    assert seen == ["create"] * 3 + ["publish"] * 3 + ["prepare"] * 3
    assert [consumer.fetch().body for _ in range(9)] == [b'{"n":1}'] * 9


def test_methods_that_are_replaced_are_called(
    connection: BrokerConnection, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who replaces a method of a class sees every message, as tracing wrappers do.

    A backend's before the first message.
    """
    seen: list[str] = []

    def noted(cls: type[Any], name: str) -> None:
        original = getattr(cls, name)

        def method(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(cls, name, method)

    for name in ("publish", "prepare_message"):
        noted(pyamqplib.Backend, name)
        with Publisher(connection, exchange="x", routing_key="k") as publisher:
            for _ in range(3):
                publisher.send({"n": 1})
        monkeypatch.undo()
        assert seen == [name] * 3
        seen.clear()
    with Publisher(connection, exchange="x", routing_key="k") as publisher:
        for _ in range(3):
            publisher.send({"n": 1})
        noted(Publisher, "create_message")
        for _ in range(3):
            publisher.send({"n": 1})
        assert seen == ["create_message"] * 3


def test_another_backend(connection: BrokerConnection, consumer: Consumer) -> None:
    """A publisher whose backend is replaced sends by that."""
    publisher = Publisher(connection, routing_key="q")
    for _ in range(3):
        publisher.send({"n": 1})
    publisher.flush()
    with BrokerConnection("memory://another") as memory, Consumer(memory, queue="q") as other:
        real, publisher.backend = publisher.backend, MemoryBackend(memory)
        publisher.send({"n": 2})
        assert other.fetch().payload == {"n": 2}
        publisher.backend = real
        publisher.send({"n": 3})
    publisher.close()
    assert [consumer.fetch().payload["n"] for _ in range(4)] == [1, 1, 1, 3]


def test_a_serializer_that_is_replaced(
    connection: BrokerConnection, consumer: Consumer
) -> None:
    """The next message is encoded by the new one."""
    registry = serialization.registry
    registry.register("spoken", str, str, "text/x-spoken")
    try:
        with Publisher(
            connection, exchange="x", routing_key="k", serializer="spoken"
        ) as publisher:
            for _ in range(3):
                publisher.send(1)
            registry.register("spoken", lambda data: "one", str, "text/x-spoken")
            publisher.send(1)
    finally:
        registry.unregister("spoken")
    assert [consumer.fetch().body for _ in range(4)] == [b"1", b"1", b"1", b"one"]


def test_kinds_are_remembered_within_bounds(
    connection: BrokerConnection, consumer: Consumer
) -> None:
    """However many routing keys there are, a channel keeps a thousand, and sends to all."""
    with Publisher(connection, exchange="x") as publisher:
        for _ in range(2):
            for number in range(1500):
                publisher.send(b"x", routing_key=str(number))
        publisher.send(b"x", routing_key="k")
        assert len(publisher._shortcuts) <= 1024
    assert consumer.fetch().body == b"x"


def test_a_link_that_takes_nothing() -> None:
    """It raises in time; what was begun arrives whole once the peer reads again."""
    with (
        Peer() as peer,
        BrokerConnection(f"amqp://user:secret@{peer.host}//", timeout=0.5) as connection,
    ):
        publisher = Publisher(connection, routing_key="q", confirm=False)
        publisher.send(b"first")
        peer.pause()
        body = bytes(range(256)) * 32
        sent = 0
        with pytest.raises(ConnectionBlocked, match="the link is full"):
            while sent < 10_000:
                started = time.monotonic()
                publisher.send(body)
                sent += 1
                assert time.monotonic() - started < 3
        peer.resume()
        publisher.send(b"last")
        wait_until(lambda: peer.bodies.get(1, b"").endswith(b"last"), 20)
        assert peer.bodies[1] == b"first" + body * sent + b"last"
        publisher.close()


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_threads_share_a_publisher(
    connection: BrokerConnection, consumer: Consumer, window: int
) -> None:
    """All messages arrive once, each thread's in its order, whatever the window."""
    with Publisher(
        connection, exchange="x", routing_key="k", confirm_window=window
    ) as publisher:

        def run(who: int) -> None:
            for number in range(500):
                options = {"headers": {"n": number}} if number % 50 == 0 else {}
                publisher.send([who, number], **options)

        threads = [threading.Thread(target=run, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    received = [consumer.fetch().payload for _ in range(2000)]
    for who in range(4):
        assert [n for thread, n in received if thread == who] == list(range(500))
    stats = connection.stats()
    assert (stats["published"], stats["confirmed"]) == (2000, 2000)
