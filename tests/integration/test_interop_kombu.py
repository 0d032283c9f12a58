"""kombu reads what carrot sends, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ContentDisallowed
from carrot.messaging import Consumer, Publisher
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

DATA = {"text": "ö日本 \U0001f955", "list": [1, -2.5, None, True], "table": {"deep": {}}}
HEADERS = {"text": "ö", "number": -5, "large": 2**40, "flag": True, "list": [1, "two"], "t": {}}

#: What is sent, the serializer's name, and whether receiving has to be allowed.
PAYLOADS = [
    (DATA, "json", False),
    (DATA, "yaml", False),
    (DATA, "pickle", True),
    (DATA, "msgpack", True),
    ("häuser", "raw", False),
    (b"\x00\xff raw", "raw", False),
    ("häuser", None, False),
    (b"\x00\xff raw", None, False),
]


@pytest.fixture
def carrots(rabbitmq: VirtualHost) -> Iterator[BrokerConnection]:
    """A connection of carrot's."""
    with BrokerConnection(**rabbitmq.conninfo) as connection:
        yield connection


@pytest.fixture
def kombus(rabbitmq: VirtualHost) -> Iterator[Any]:
    """A connection of kombu's."""
    with kombu.Connection(
        hostname=rabbitmq.host,
        port=rabbitmq.port,
        userid=rabbitmq.userid,
        password=rabbitmq.password,
        virtual_host=rabbitmq.vhost,
    ) as connection:
        yield connection


FEED = kombu.Exchange("feed", "direct", durable=True)
QUEUE = kombu.Queue("feed", FEED, routing_key="importer", durable=True)


def consumer_of(connection: BrokerConnection, **options: Any) -> Consumer:
    return Consumer(
        connection, queue="feed", exchange="feed", routing_key="importer", **options
    )


def by_kombu(connection: Any, accept: list[str] | None = None) -> tuple[Any, Any]:
    """Return the payload and the message that a consumer of kombu's receives next."""
    received: list[tuple[Any, Any]] = []
    consumer = connection.Consumer(
        QUEUE, callbacks=[lambda body, message: received.append((body, message))], accept=accept
    )
    with consumer:
        while not received:
            connection.drain_events(timeout=15)
    received[0][1].ack()
    return received[0]


@pytest.mark.parametrize(("data", "serializer", "allow"), PAYLOADS)
def test_kombu_reads_what_carrot_sends(
    carrots: BrokerConnection, kombus: Any, data: Any, serializer: str | None, allow: bool
) -> None:
    """kombu decodes each of carrot's serializers by the content type alone."""
    consumer_of(carrots)
    with Publisher(carrots, exchange="feed", routing_key="importer") as publisher:
        publisher.send(data, serializer=serializer)
    accepted = ["json", "yaml", "application/data", "text/plain"]
    accept = [*accepted, str(serializer)] if allow else accepted
    payload, message = by_kombu(kombus, accept)
    assert payload == data
    assert type(payload) is type(data)
    assert message.delivery_info["routing_key"] == "importer"


@pytest.mark.parametrize(("data", "serializer", "allow"), PAYLOADS)
def test_carrot_reads_what_kombu_sends(
    carrots: BrokerConnection, kombus: Any, data: Any, serializer: str | None, allow: bool
) -> None:
    """carrot decodes each of kombu's serializers by the content type alone."""
    producer = kombus.Producer(exchange=FEED, routing_key="importer")
    producer.publish(data, serializer=serializer, declare=[QUEUE])
    consumer = consumer_of(carrots, accept=[serializer] if allow else None)
    message = wait_until(consumer.fetch)
    assert message.payload == data
    assert type(message.payload) is type(data)
    message.ack()


def test_a_pickle_of_kombu_is_refused_unless_accepted(
    carrots: BrokerConnection, kombus: Any
) -> None:
    """A pickle that kombu sends is not decoded unless the application says so."""
    producer = kombus.Producer(exchange=FEED, routing_key="importer")
    producer.publish(DATA, serializer="pickle", declare=[QUEUE])
    with pytest.raises(ContentDisallowed, match="pickle"):
        _ = wait_until(consumer_of(carrots).fetch).payload


def test_properties_and_headers_reach_kombu(carrots: BrokerConnection, kombus: Any) -> None:
    """Every property and header that carrot sends, kombu receives unchanged."""
    consumer_of(carrots)
    with Publisher(carrots, exchange="feed", routing_key="importer") as publisher:
        publisher.send(
            DATA,
            priority=7,
            delivery_mode="transient",
            headers=HEADERS,
            correlation_id="c-1",
            reply_to="answers",
            expiration=60,
            message_id="m-1",
            timestamp=1_700_000_000,
            type="feed",
            user_id=carrots.userid,
            app_id="importer",
        )
    payload, message = by_kombu(kombus)
    assert payload == DATA
    assert message.headers == HEADERS
    properties = message.properties
    assert (properties["priority"], properties["delivery_mode"]) == (7, 1)
    assert (properties["correlation_id"], properties["reply_to"]) == ("c-1", "answers")
    assert (properties["message_id"], properties["expiration"]) == ("m-1", "60000")
    assert (properties["type"], properties["app_id"]) == ("feed", "importer")
    assert properties["user_id"] == carrots.userid
    assert properties["timestamp"] in (1_700_000_000, "1700000000") or (
        properties["timestamp"].timestamp() == 1_700_000_000
    )


def test_properties_and_headers_of_kombu(carrots: BrokerConnection, kombus: Any) -> None:
    """Every property and header that kombu sends, carrot receives unchanged."""
    producer = kombus.Producer(exchange=FEED, routing_key="importer")
    producer.publish(
        DATA,
        declare=[QUEUE],
        priority=7,
        delivery_mode=1,
        headers=HEADERS,
        correlation_id="c-1",
        reply_to="answers",
        expiration=60,
        message_id="m-1",
        type="feed",
        app_id="importer",
    )
    message = wait_until(consumer_of(carrots).fetch)
    assert message.headers == HEADERS
    expected = {
        "priority": 7,
        "delivery_mode": 1,
        "correlation_id": "c-1",
        "reply_to": "answers",
        "expiration": "60000",
        "message_id": "m-1",
        "type": "feed",
        "app_id": "importer",
    }
    assert {name: message.properties[name] for name in expected} == expected
    assert message.delivery_info["routing_key"] == "importer"


def test_compressed_bodies_of_kombu_are_bytes(carrots: BrokerConnection, kombus: Any) -> None:
    """What kombu compressed arrives as the bytes it sent; nothing is guessed."""
    producer = kombus.Producer(exchange=FEED, routing_key="importer")
    producer.publish(b"x" * 100, serializer="raw", compression="zlib", declare=[QUEUE])
    message = wait_until(consumer_of(carrots).fetch)
    assert message.headers["compression"] == "application/x-gzip"
    assert message.payload == message.body != b"x" * 100


def test_kombu_and_carrot_declare_the_same(carrots: BrokerConnection, kombus: Any) -> None:
    """Queue and exchange declared by one are the same to the other, in both orders."""
    QUEUE(kombus.channel()).declare()
    consumer_of(carrots).close()
    with Publisher(carrots, exchange="news", exchange_type="topic"):
        pass
    Consumer(carrots, queue="news", exchange="news", exchange_type="topic").close()
    news = kombu.Exchange("news", "topic", durable=True)
    kombu.Queue("news", news, routing_key="", durable=True)(kombus.channel()).declare()
