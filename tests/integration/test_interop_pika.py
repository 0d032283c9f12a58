"""pika reads what carrot sends, and the reverse."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pika
import pytest
import yaml

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

DATA = {"text": "ö日本 \U0001f955", "list": [1, -2.5, None, True], "table": {"deep": {}}}
HEADERS = {
    "text": "ö",
    "number": -5,
    "large": 2**40,
    "flag": True,
    "nothing": None,
    "list": [1, "two", [3]],
    "table": {"deep": {"er": 1}},
    "when": datetime(2020, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    "amount": Decimal("1.25"),
}


@pytest.fixture
def carrots(rabbitmq: VirtualHost) -> Iterator[BrokerConnection]:
    """A connection of carrot's."""
    with BrokerConnection(**rabbitmq.conninfo) as connection:
        yield connection


@pytest.fixture
def channel(rabbitmq: VirtualHost) -> Iterator[Any]:
    """A channel of pika's, with the feed declared and bound."""
    parameters = pika.URLParameters(rabbitmq.url)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.exchange_declare("feed", "direct", durable=True)
    channel.queue_declare("feed", durable=True)
    channel.queue_bind("feed", "feed", "importer")
    yield channel
    connection.close()


def consumer_of(connection: BrokerConnection, **options: Any) -> Consumer:
    return Consumer(
        connection, queue="feed", exchange="feed", routing_key="importer", **options
    )


def send(connection: BrokerConnection, *args: Any, **options: Any) -> None:
    with Publisher(connection, exchange="feed", routing_key="importer") as publisher:
        publisher.send(*args, **options)


def got(channel: Any) -> tuple[Any, Any, bytes]:
    """Return method, properties and body of the next message that pika gets."""
    method, properties, body = wait_until(
        lambda: (answer := channel.basic_get("feed", auto_ack=True))[0] and answer
    )
    return method, properties, body


def sent_by(channel: Any, body: bytes, **properties: Any) -> None:
    channel.basic_publish("feed", "importer", body, pika.BasicProperties(**properties))


@pytest.mark.parametrize(
    ("data", "serializer", "content_type", "encoding", "loads"),
    [
        (DATA, "json", "application/json", "utf-8", json.loads),
        (DATA, "yaml", "application/x-yaml", "utf-8", yaml.safe_load),
        (DATA, "pickle", "application/x-python-serialize", "binary", pickle.loads),
        (b"\x00\xff", "raw", "application/data", "binary", bytes),
        ("häuser", None, "text/plain", "utf-8", bytes.decode),
    ],
)
def test_pika_reads_what_carrot_sends(
    carrots: BrokerConnection,
    channel: Any,
    data: Any,
    serializer: str | None,
    content_type: str,
    encoding: str,
    loads: Any,
) -> None:
    """What carrot sends is what its content type says, to any reader of that."""
    send(carrots, data, serializer=serializer)
    method, properties, body = got(channel)
    assert loads(body) == data
    assert (properties.content_type, properties.content_encoding) == (content_type, encoding)
    assert properties.delivery_mode == 2
    assert (method.exchange, method.routing_key) == ("feed", "importer")


@pytest.mark.parametrize(
    ("body", "properties", "payload"),
    [
        (
            json.dumps(DATA).encode(),
            {"content_type": "application/json", "content_encoding": "utf-8"},
            DATA,
        ),
        (json.dumps(DATA).encode(), {"content_type": "application/json"}, DATA),
        (yaml.safe_dump(DATA).encode(), {"content_type": "application/x-yaml"}, DATA),
        (
            pickle.dumps(DATA, 2),
            {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
            DATA,
        ),
        ("häuser".encode("utf-16"), {"content_encoding": "utf-16"}, "häuser"),
        (b"\x00\xff", {"content_encoding": "binary"}, b"\x00\xff"),
        (b"plain", {}, "plain"),
        (b"", {}, ""),
    ],
)
def test_carrot_reads_what_pika_sends(
    carrots: BrokerConnection,
    channel: Any,
    body: bytes,
    properties: dict[str, str],
    payload: Any,
) -> None:
    """carrot decodes what others send by its content type, encoding, or the lack of them."""
    sent_by(channel, body, **properties)
    message = wait_until(consumer_of(carrots, accept=["json", "yaml", "pickle"]).fetch)
    assert message.body == body
    assert message.payload == payload
    assert message.content_type == properties.get("content_type")
    message.ack()


def test_properties_and_headers_reach_pika(carrots: BrokerConnection, channel: Any) -> None:
    """Every property and header that carrot sends, pika receives unchanged."""
    send(
        carrots,
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
    _, properties, body = got(channel)
    assert json.loads(body) == DATA
    # pika reads timestamps as naive datetimes, in UTC.
    when = properties.headers.pop("when")
    assert when.replace(tzinfo=timezone.utc) == HEADERS["when"]
    assert properties.headers == {k: v for k, v in HEADERS.items() if k != "when"}
    assert (properties.priority, properties.delivery_mode) == (7, 1)
    assert (properties.correlation_id, properties.reply_to) == ("c-1", "answers")
    assert (properties.expiration, properties.message_id) == ("60000", "m-1")
    assert (properties.timestamp, properties.type) == (1_700_000_000, "feed")
    assert (properties.user_id, properties.app_id) == (carrots.userid, "importer")


def test_properties_and_headers_of_pika(carrots: BrokerConnection, channel: Any) -> None:
    """Every property and header that pika sends, carrot receives unchanged."""
    sent = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 1,
        "priority": 7,
        "correlation_id": "c-1",
        "reply_to": "answers",
        "expiration": "60000",
        "message_id": "m-1",
        "type": "feed",
        "user_id": carrots.userid,
        "app_id": "importer",
    }
    sent_by(channel, b"{}", headers=HEADERS, timestamp=1_700_000_000, **sent)
    message = wait_until(consumer_of(carrots).fetch)
    assert {name: message.properties[name] for name in sent} == sent
    timestamp = message.properties["timestamp"]
    assert timestamp == 1_700_000_000 or timestamp.timestamp() == 1_700_000_000
    headers = dict(message.headers)
    when = headers.pop("when")
    assert when.replace(tzinfo=timezone.utc) == HEADERS["when"]
    assert headers == {k: v for k, v in HEADERS.items() if k != "when"}
    message.ack()


def test_a_body_of_many_frames(carrots: BrokerConnection, channel: Any) -> None:
    """Bodies larger than a frame arrive unchanged, in both directions."""
    body = bytes(range(256)) * 4096
    send(carrots, body)
    assert got(channel)[2] == body
    sent_by(channel, body, content_encoding="binary")
    assert wait_until(consumer_of(carrots).fetch).body == body


def test_a_conversation(carrots: BrokerConnection, channel: Any) -> None:
    """A question of carrot's, answered by pika to ``reply_to`` with its correlation id."""
    answers = Consumer(carrots, queue="", exclusive=True)
    send(carrots, {"question": 6 * 7}, reply_to=answers.queue, correlation_id="c-1")
    _, properties, body = got(channel)
    channel.basic_publish(
        "",
        properties.reply_to,
        body,
        pika.BasicProperties(
            correlation_id=properties.correlation_id, content_type=properties.content_type
        ),
    )
    received: list[Any] = []
    answers.register_callback(lambda data, message: received.append((data, message)))
    answers.wait(limit=1)
    [(data, message)] = received
    assert data == {"question": 42}
    assert message.properties["correlation_id"] == "c-1"
