"""What carrot.testing gives to those who test code that uses carrot."""

import pytest

from carrot.exceptions import (
    BrokerConnectionError,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionBlocked,
)
from carrot.messaging import Consumer, Publisher

pytest_plugins = ["pytester"]


def declared(connection, **options):
    return Consumer(
        connection, queue="feed", exchange="feed", routing_key="importer", **options
    )


def send(connection, *payloads):
    with Publisher(connection, exchange="feed", routing_key="importer") as publisher:
        for payload in payloads:
            publisher.send(payload)


def test_published(carrot_broker, carrot_connection):
    """The broker tells what was published where, and which queues got it."""
    declared(carrot_connection)
    send(carrot_connection, {"n": 1}, "two")
    assert [each.payload for each in carrot_broker.published("feed")] == [{"n": 1}, "two"]
    assert [each.queues for each in carrot_broker.published(routing_key="importer")] == [
        ("feed",),
        ("feed",),
    ]
    assert carrot_broker.published("other") == []
    assert carrot_broker.published(virtual_host="/other") == []


def test_messages_and_unacknowledged(carrot_broker, carrot_connection):
    """The broker tells what waits in a queue and what is out, also after a requeue."""
    consumer = declared(carrot_connection)
    send(carrot_connection, 1, 2, 3)
    first, second = consumer.fetch(), consumer.fetch()
    assert carrot_broker.unacknowledged("feed") == 2
    assert [each.payload for each in carrot_broker.messages("feed")] == [3]
    with pytest.raises(AssertionError, match=r"1 messages wait, 2 are unacknowledged"):
        carrot_broker.assert_empty("feed")
    second.requeue()
    first.requeue()
    assert [each.payload for each in carrot_broker.messages("feed")] == [1, 2, 3]
    consumer.discard_all()
    carrot_broker.assert_empty("feed")


def test_messages_by_priority(carrot_broker, carrot_connection):
    """What waits is told in the order in which it will be delivered."""
    declared(carrot_connection, queue_arguments={"x-max-priority": 3})
    with Publisher(carrot_connection, exchange="feed", routing_key="importer") as publisher:
        publisher.send("low", priority=0)
        publisher.send("high", priority=3)
    assert [each.payload for each in carrot_broker.messages("feed")] == ["high", "low"]


def test_unknown_queue(carrot_broker):
    """A question about a queue that nobody declared fails and lists those there are."""
    with pytest.raises(AssertionError, match=r"no queue 'feed' was declared; there are: none"):
        carrot_broker.messages("feed")


def test_clock(carrot_broker, carrot_connection):
    """Messages expire when the test moves the clock, and not before."""
    declared(carrot_connection, queue_arguments={"x-message-ttl": 60_000})
    send(carrot_connection, "soon gone")
    carrot_broker.advance(59.9)
    assert len(carrot_broker.messages("feed")) == 1
    carrot_broker.advance(0.2)
    carrot_broker.assert_empty("feed")


def test_dropped_connections(carrot_broker):
    """A dropped connection is lost without recovery, and comes back with it."""
    patient = carrot_broker.connection()
    declared(patient)
    brittle = carrot_broker.connection(recover=False)
    brittle.connect()
    carrot_broker.drop_connections("pulled the plug")
    with pytest.raises(BrokerConnectionError, match="pulled the plug"):
        brittle.drain_events(timeout=1)
    send(patient, "after")
    assert carrot_broker.published("feed")[-1].payload == "after"


def test_refused_connections(carrot_broker):
    """Nobody connects while connections are refused."""
    carrot_broker.refuse_connections("maintenance")
    with pytest.raises(ConnectFailed, match="maintenance"):
        carrot_broker.connection().connect()
    carrot_broker.accept_connections()
    assert carrot_broker.connection().connect() is not None


def test_blocked(carrot_broker):
    """A blocked broker keeps publishers waiting, for their timeout at most."""
    connection = carrot_broker.connection(timeout=0.05)
    declared(connection)
    publisher = Publisher(connection, exchange="feed", routing_key="importer")
    carrot_broker.block("disk full")
    with pytest.raises(ConnectionBlocked, match="disk full"):
        publisher.send("no")
    carrot_broker.unblock()
    publisher.send("yes")
    publisher.flush()


def test_lost_confirms(carrot_broker, carrot_connection):
    """A lost confirm leaves the message taken in, and the publisher uncertain."""
    declared(carrot_connection)
    publisher = Publisher(carrot_connection, exchange="feed", routing_key="importer")
    carrot_broker.lose_confirms()
    publisher.send("in doubt")
    with pytest.raises(ConfirmTimeout) as caught:
        publisher.flush(timeout=0.05)
    assert len(caught.value.messages) == 1
    assert len(carrot_broker.messages("feed")) == 1


def test_cancelled_consumers(carrot_broker, carrot_connection):
    """A consumer that the broker cancelled subscribes again, and goes on."""
    got = []
    consumer = declared(carrot_connection)
    consumer.register_callback(lambda data, message: (got.append(data), message.ack()))
    consumer.consume()
    assert carrot_broker.cancel_consumers("feed") == 1
    send(carrot_connection, "still here")
    consumer.wait(limit=1)
    assert got == ["still here"]


def test_brokers_are_apart(carrot_broker, carrot_connection):
    """Each test has a broker of its own."""
    with type(carrot_broker)() as other:
        declared(other.connection())
        assert other.messages("feed") == []
        with pytest.raises(AssertionError):
            carrot_broker.messages("feed")
        assert repr(other) == f"<MemoryBroker {other.url}, 0 messages published>"


def test_plugin(pytester):
    """Wherever carrot is installed, pytest finds the fixtures."""
    pytester.makepyfile(
        """
        def test_it(carrot_broker, carrot_connection):
            assert carrot_broker.name in repr(carrot_connection)
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
