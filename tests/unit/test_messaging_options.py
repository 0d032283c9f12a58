"""A class is its configuration: the options of publishers and consumers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import ConfigurationError, NotSupported, UnknownOptionWarning
from carrot.messaging import AMQPConnection, Consumer, ConsumerSet, Messaging, Publisher
from carrot.pool import ConnectionPool
from tests.unit.recording import ConfirmingBackend, RecordingBackend, RecordingConnection


def test_the_door_of_old_has_the_connection_too() -> None:
    """The documentation of 0.5 imported ``AMQPConnection`` from ``carrot.messaging``."""
    from carrot.connection import BrokerConnection

    assert AMQPConnection is BrokerConnection


# -- class attributes and arguments


class Configured(Consumer):
    queue = "feed"
    exchange = "feed"
    routing_key = "importer"
    durable = False
    auto_ack = True
    queue_arguments = {"x-max-length": 5}  # noqa: RUF012 - as applications write it


def test_class_attributes_are_configuration() -> None:
    """What a subclass sets is what its instances use."""
    consumer = Configured(RecordingConnection())
    assert (consumer.queue, consumer.exchange, consumer.routing_key) == (
        *("feed", "feed"),
        "importer",
    )
    assert consumer.auto_ack and not consumer.durable
    [(_, _, declared)] = consumer.backend.called("queue_declare")
    assert (declared["durable"], declared["arguments"]) == (False, {"x-max-length": 5})


def test_arguments_override_the_class() -> None:
    """Constructor arguments go before class attributes; false ones too."""
    consumer = Configured(
        RecordingConnection(), queue="other", exchange="", durable=True, auto_ack=False
    )
    assert (consumer.queue, consumer.exchange) == ("other", "")
    assert consumer.durable and not consumer.auto_ack


@pytest.mark.parametrize("option", [*Consumer._init_opts, "queue", "exchange", "routing_key"])
def test_none_means_the_value_of_the_class(option: str) -> None:
    """``None`` for an option leaves the class's value."""
    consumer = Configured(RecordingConnection(), **{option: None})
    assert getattr(consumer, option) == getattr(Configured, option)


def test_none_means_the_value_of_the_publishers_class() -> None:
    """``None`` for an option of a publisher leaves the class's value."""

    class FeedPublisher(Publisher):
        exchange = "feed"
        routing_key = "importer"
        serializer = "yaml"
        delivery_mode = "transient"

    publisher = FeedPublisher(
        RecordingConnection(), None, None, serializer=None, delivery_mode=None
    )
    assert (publisher.exchange, publisher.routing_key) == ("feed", "importer")
    assert (publisher.serializer, publisher.delivery_mode) == ("yaml", 1)


def test_defaults_are_read_through_self() -> None:
    """A subclass may set instance attributes before it calls our constructor."""

    class Late(Consumer):
        def __init__(self, connection: Any, name: str) -> None:
            self.queue = f"queue of {name}"
            self.exclusive = True
            super().__init__(connection)

    consumer = Late(RecordingConnection(), "Elaine")
    [(_, _, declared)] = consumer.backend.called("queue_declare")
    assert (declared["queue"], declared["exclusive"]) == ("queue of Elaine", True)


def test_the_defaults_are_those_of_the_contract() -> None:
    """The defaults of options are those that the contract names."""
    consumer, publisher = Consumer, Publisher
    assert (consumer.durable, consumer.exclusive, consumer.auto_delete) == (True, False, False)
    assert (consumer.exchange_type, consumer.warn_if_exists) == ("direct", False)
    assert (consumer.auto_ack, consumer.no_ack, consumer.auto_declare) == (False, False, True)
    assert (publisher.exchange_type, publisher.durable) == ("direct", True)
    assert (publisher.auto_delete, publisher.auto_declare) == (False, True)
    assert (publisher.serializer, publisher.delivery_mode) == (None, 2)
    assert publisher.PERSISTENT_DELIVERY_MODE == 2
    assert publisher.NONE_PERSISTENT_DELIVERY_MODE == 1
    assert publisher.DELIVERY_MODES["persistent"] == 2


# -- unknown options


@pytest.mark.parametrize(
    ("make", "option", "hint"),
    [
        (Consumer, "topic", "ignores the unknown option 'topic'"),
        (Consumer, "exchange_typ", "did you mean 'exchange_type'?"),
        (Consumer, "routingkey", "did you mean 'routing_key'?"),
        (Publisher, "queue", "Publisher ignores the unknown option 'queue'"),
        (Publisher, "delivery_mod", "did you mean 'delivery_mode'?"),
        (Messaging, "qeue", "did you mean 'queue'?"),
        (ConsumerSet, "auto_akc", "did you mean 'auto_ack'?"),
    ],
)
def test_unknown_options_warn(make: Any, option: str, hint: str) -> None:
    """An unknown option warns, naming the nearest real one, and is otherwise ignored."""
    with pytest.warns(UnknownOptionWarning) as caught:
        made = make(RecordingConnection(), **{option: "x"})
    assert hint in str(caught[0].message)
    assert caught[0].filename == __file__
    if option not in ("queue", "topic"):
        assert not hasattr(made, option)


def test_the_warning_points_at_the_application() -> None:
    """The warning points at the application's line, however deep our constructors are."""

    class Deep(Messaging):
        pass

    with pytest.warns(UnknownOptionWarning) as caught:
        Deep(RecordingConnection(), nonsense=1)
    assert caught[0].filename == __file__
    assert "it knows" in str(caught[0].message)


def test_init_opts_can_be_extended() -> None:
    """A subclass that extends ``_init_opts`` has options of its own."""

    class Colored(Consumer):
        color = "orange"
        _init_opts = (*Consumer._init_opts, "color")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Colored(RecordingConnection(), queue="q", color="red").color == "red"
        assert Colored(RecordingConnection(), queue="q", color=None).color == "orange"


# -- backends


def test_a_consumer_may_be_given_its_backend() -> None:
    """``backend=`` is the channel to use instead of one of its own."""
    connection = RecordingConnection()
    backend = RecordingBackend(None)
    consumer = Consumer(connection, queue="q", backend=backend)
    assert consumer.backend is backend
    assert connection.backends == []


@pytest.mark.parametrize(
    "backend_cls", [RecordingBackend, "tests.unit.recording.RecordingBackend"]
)
def test_backend_cls_replaces_the_connections(backend_cls: Any) -> None:
    """``backend_cls`` of Consumer, Publisher and Messaging is a class or its name."""
    connection = RecordingConnection(ConfirmingBackend)
    made = [
        Consumer(connection, queue="q", backend_cls=backend_cls),
        Publisher(connection, exchange="x", backend_cls=backend_cls),
    ]
    both = Messaging(connection, queue="q", exchange="x", backend_cls=backend_cls)
    for each in (*made, both.consumer, both.publisher):
        assert type(each.backend) is RecordingBackend
        assert each.backend.connection is connection


def test_confirm_true_needs_a_backend_that_can() -> None:
    """``confirm=True`` over a backend without confirms is an error; the default is not."""
    with pytest.raises(NotSupported, match="confirm"):
        Publisher(RecordingConnection(), confirm=True)
    assert Publisher(RecordingConnection())._tracker is None
    publisher = Publisher(
        RecordingConnection(ConfirmingBackend),
        confirm=True,
        confirm_window=7,
        confirm_window_bytes=9,
    )
    tracker = publisher._tracker
    assert tracker is not None and publisher.backend.tracker is tracker
    assert (tracker.window, tracker.max_bytes) == (7, 9)


# -- values that cannot be


@pytest.mark.parametrize("name", [b"bytes", 5, object(), "x" * 256, "ö" * 128, "\ud800"])
@pytest.mark.parametrize("option", ["queue", "exchange", "routing_key"])
def test_names_that_amqp_cannot_carry(option: str, name: Any) -> None:
    """A name that is no ``str``, or longer than 255 bytes, is an error naming the option."""
    options = {"queue": "q", "exchange": "x", "routing_key": "k", option: name}
    with pytest.raises(ConfigurationError, match=option):
        Consumer(RecordingConnection(), **options)
    if option != "queue":
        options.pop("queue")
        with pytest.raises(ConfigurationError, match=option):
            Publisher(RecordingConnection(), **options)


@pytest.mark.parametrize("name", ["", "x" * 255, "ö" * 127, "a b/c\n"])
def test_names_that_amqp_can_carry(name: str) -> None:
    """Names of up to 255 bytes are used as they are."""
    publisher = Publisher(RecordingConnection(), exchange=name, routing_key=name)
    publisher.send("x", routing_key=name)
    assert publisher.backend.last[2]["routing_key"] == name


@pytest.mark.parametrize("name", [b"bytes", 5, "x" * 256, "ö" * 128])
def test_names_told_to_send(name: Any) -> None:
    """``send`` refuses a routing key or exchange that AMQP cannot carry."""
    publisher = Publisher(RecordingConnection(), exchange="x")
    with pytest.raises(ConfigurationError, match="routing_key"):
        publisher.send("x", routing_key=name)
    with pytest.raises(ConfigurationError, match="exchange"):
        publisher.send("x", exchange=name)
    assert publisher.backend.called("publish", "prepare_message") == []


def test_a_callback_that_cannot_be_called() -> None:
    """``register_callback`` refuses what is no function."""
    connection = RecordingConnection()
    for registers in (
        Consumer(connection, queue="q"),
        ConsumerSet(connection),
        Messaging(connection, queue="q", exchange="x"),
    ):
        with pytest.raises(ConfigurationError, match="message_data, message"):
            registers.register_callback("import_feed")
    with pytest.raises(ConfigurationError, match="message_data, message"):
        ConsumerSet(connection, callbacks=[None])


@pytest.mark.parametrize("action", ["drop", 5, None, True])
def test_on_decode_error_is_one_of_four(action: Any) -> None:
    """``on_decode_error`` is one of three words or a function, and the error lists them."""
    if action is None:
        Consumer(RecordingConnection(), queue="q", on_decode_error=None)
        return
    with pytest.raises(ConfigurationError, match="requeue"):
        Consumer(RecordingConnection(), queue="q", on_decode_error=action)


def test_accept_of_an_unknown_serializer() -> None:
    """``accept`` of an unknown name is an error that lists the known ones."""
    with pytest.raises(ConfigurationError, match="pickle"):
        Consumer(RecordingConnection(), queue="q", accept=["pikle"])


def test_a_consumer_without_a_queue() -> None:
    """A consumer that was never told a queue says so when it is used."""
    consumer = Consumer(RecordingConnection())
    assert consumer.backend.called("queue_declare") == []
    for use in (consumer.fetch, consumer.consume, consumer.purge):
        with pytest.raises(ConfigurationError, match="queue"):
            use()


@pytest.mark.parametrize("limit", ["5", 2.5, -1, True, object()])
def test_limits_are_numbers(limit: Any) -> None:
    """A limit that is no whole number from 0 up is an error, before anything is received."""
    connection = RecordingConnection()
    consumer = Consumer(connection, queue="q")
    consumer.backend.waiting = [None] * 3
    for use in (consumer.iterconsume, consumer.wait, consumer.iterqueue):
        with pytest.raises(ConfigurationError, match="limit"):
            use(limit=limit)
    with pytest.raises(ConfigurationError, match="limit"):
        ConsumerSet(connection, consumers=[consumer]).iterconsume(limit=limit)
    assert consumer.backend.called("declare_consumer", "get") == []


@pytest.mark.parametrize("make", [Publisher, Consumer, ConsumerSet, ConnectionPool])
@pytest.mark.parametrize("wrong", [None, "amqp://me:secret@host", BrokerConnection])
def test_what_is_no_connection(make: Any, wrong: Any) -> None:
    """Whatever is given in place of a connection, the error says what to make."""
    with pytest.raises(ConfigurationError, match="must be a BrokerConnection, not") as caught:
        make(wrong)
    assert "secret" not in str(caught.value)
