"""The contract of connections."""

from __future__ import annotations

import copy
import socket
import threading
import time
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    BrokerConnectionError,
    ChannelError,
    ConnectionClosed,
    DrainTimeout,
    NotSupported,
)
from carrot.messaging import Consumer, Publisher
from carrot.testing.contract.scene import Inbox, Scene, needs

_SETTINGS = ("hostname", "userid", "password", "virtual_host", "port", "ssl", "backend_cls")


class ConnectionContract(Scene):
    """Connections: lazy, closed once and for all, and again after ``connect()``."""

    def counted(self, **options: Any) -> tuple[BrokerConnection, list[Any]]:
        """Return a connection, and a list that grows each time it is established."""
        connection = self.connect(**options)
        established: list[Any] = []

        class Counting(connection.get_backend_cls()):  # type: ignore[misc]
            def establish_connection(self) -> Any:
                established.append(super().establish_connection())
                return established[-1]

        connection.backend_cls = Counting
        return connection, established

    # -- opening

    def test_nothing_is_sent_before_the_first_use(self) -> None:
        """Making a connection, its backends and its repr connects to nothing."""
        connection, established = self.counted()
        connection.create_backend()
        repr(connection)
        assert (established, connection.state) == ([], "new")

    def test_connection_opens_and_returns_the_drivers(self) -> None:
        """``.connection`` establishes the link and returns the driver's connection."""
        connection, established = self.counted()
        assert connection.connection is connection.connection
        assert established == [connection.connection]
        assert connection.state == "open"

    def test_connect_opens_and_returns_the_drivers(self) -> None:
        """``.connect()`` establishes the link, once, and returns what ``.connection`` is."""
        connection, established = self.counted()
        assert connection.connect() is connection.connection
        assert connection.connect() is connection.connection
        assert len(established) == 1

    def test_a_publisher_opens_the_connection(self) -> None:
        """The first use of a connection establishes it."""
        connection, established = self.counted()
        queue = self.new_queue()
        Consumer(connection, queue=queue).close()
        with Publisher(connection, routing_key=queue) as publisher:
            publisher.send("hello")
        assert len(established) == 1

    def test_connection_is_none_after_close(self) -> None:
        """After ``close()`` the driver's connection is ``None``."""
        assert self.connection.connection is not None
        self.connection.close()
        assert self.connection.connection is None
        assert self.connection.state == "closed"

    def test_connect_after_close_opens_a_new_one(self) -> None:
        """After ``close()``, ``connect()`` establishes a new link that works."""
        connection, established = self.counted()
        connection.connect()
        connection.close()
        assert connection.connect() is established[1]
        self.still_works(connection)

    def test_a_closed_connection_may_be_opened_first_by_connect(self) -> None:
        """A connection that was closed before its first use opens by ``connect()``."""
        self.connection.close()
        assert self.connection.connection is None
        assert self.connection.connect() is not None

    # -- closing

    def test_closing_twice_is_quiet(self) -> None:
        """``close()`` is idempotent."""
        self.connection.connect()
        self.connection.close()
        self.connection.close()

    def test_closing_what_was_never_open_is_quiet(self) -> None:
        """``close()`` of a connection that was never used does nothing."""
        connection, established = self.counted()
        connection.close()
        assert established == []

    def test_a_publisher_of_a_closed_connection_says_so(self) -> None:
        """Sending over a closed connection is an error that says so."""
        publisher, _ = self.feed()
        self.connection.close()
        with pytest.raises(ConnectionClosed, match="closed"):
            publisher.send({"too": "late"})

    def test_a_consumer_of_a_closed_connection_says_so(self) -> None:
        """Receiving over a closed connection is an error that says so."""
        consumer = self.consumer()
        consumer.register_callback(Inbox())
        self.connection.close()
        for use in (consumer.fetch, consumer.consume, consumer.declare, consumer.wait):
            with pytest.raises(ConnectionClosed, match="closed"):
                use()
        with pytest.raises(ConnectionClosed, match="closed"):
            self.connection.drain_events(timeout=1)

    def test_new_publishers_and_consumers_of_a_closed_connection_say_so(self) -> None:
        """Declaring over a closed connection is an error that says so."""
        self.connection.connect()
        self.connection.close()
        with pytest.raises(ConnectionClosed, match="closed"):
            self.consumer()
        with pytest.raises(ConnectionClosed, match="closed"):
            self.publisher(self.new_exchange())

    def test_publishers_and_consumers_close_quietly_after_their_connection(self) -> None:
        """``close()`` of publishers and consumers is quiet after their connection's."""
        publisher, consumer = self.feed()
        publisher.send({})
        consumer.consume()
        self.connection.close()
        consumer.cancel()
        consumer.close()
        publisher.close()

    def test_closing_the_connection_waits_for_what_was_sent(self) -> None:
        """What was sent before ``connection.close()`` has arrived when it returns."""
        queue = self.consumer(connection=self.connect()).queue
        sender = self.connect()
        publisher = self.publisher("", queue, connection=sender)
        for number in range(20):
            publisher.send(number, serializer="json")
        sender.close()
        self.expect(self.consumer(queue), list(range(20)))

    def test_the_context_manager_closes(self) -> None:
        """A ``with`` block closes the connection at its end."""
        with self.connection as connection:
            assert connection is self.connection
            connection.connect()
        assert self.connection.state == "closed"

    def test_the_context_manager_lets_exceptions_pass(self) -> None:
        """The application's exception leaves the ``with`` block unchanged; all is closed."""
        error = LookupError("the application's own")
        with pytest.raises(LookupError) as caught, self.connection as connection:
            connection.connect()
            raise error
        assert caught.value is error
        assert self.connection.state == "closed"

    # -- configuration

    def test_class_attributes_suffice(self) -> None:
        """A subclass with nothing but class attributes connects; it need not call ours."""
        settings = {name: getattr(self.connection, name) for name in _SETTINGS}

        def constructor(connection: BrokerConnection) -> None:
            """Not call the base class's, as real subclasses do."""

        cls = type("Bare", (BrokerConnection,), {**settings, "__init__": constructor})
        with cls() as connection:
            assert connection.state == "new"
            self.still_works(connection)

    def test_connection_may_be_a_property_of_the_subclass(self) -> None:
        """A subclass may make ``backend`` and ``connection`` read-only properties."""
        settings = {name: getattr(self.connection, name) for name in _SETTINGS}

        class Lazy(BrokerConnection):
            @property
            def connection(self) -> Any:
                return super().connection

            @property
            def backend(self) -> Any:
                return self.create_backend()

        with Lazy(**settings) as connection:
            self.still_works(connection)
            assert isinstance(connection.backend, connection.get_backend_cls())

    def test_host_is_host_and_port(self) -> None:
        """``.host`` joins host and port by a colon, where the backend has ports."""
        port = self.connection.port or self.connection.get_backend_cls().default_port
        if port:
            assert self.connection.host == f"{self.connection.hostname or 'localhost'}:{port}"
        else:
            assert isinstance(self.connection.host, str)

    def test_info_tells_the_settings(self) -> None:
        """``info()`` returns the settings that made the connection."""
        info = self.connection.info()
        assert info["hostname"] == self.connection.hostname
        assert info["virtual_host"] == self.connection.virtual_host
        assert info["userid"] == self.connection.userid

    def test_repr_tells_the_state_and_no_password(self) -> None:
        """``repr`` of a connection and of all it makes shows the state, never the password."""
        connection = self.connect()
        seen = [repr(connection)]
        publisher, consumer = self.feed(connection=connection)
        seen += [repr(connection), repr(publisher), repr(consumer), repr(consumer.backend)]
        assert " new>" in seen[0]
        assert " open>" in seen[1]
        if connection.password and connection.password != connection.userid:
            assert not any(str(connection.password) in text for text in seen)

    # -- backends and channels

    def test_create_backend_makes_a_channel_each_time(self) -> None:
        """``create_backend()`` returns a new backend of the connection's class."""
        one, other = self.connection.create_backend(), self.connection.create_backend()
        assert one is not other
        assert isinstance(one, self.connection.get_backend_cls())
        assert one.connection is self.connection

    def test_channel_is_another_name_of_create_backend(self) -> None:
        """``channel()`` returns a backend as well."""
        assert isinstance(self.connection.channel(), self.connection.get_backend_cls())

    @needs("channel")
    def test_get_channel_returns_a_new_channel_of_the_driver(self) -> None:
        """``get_channel()`` opens a channel of the driver; a closed connection has none."""
        one, other = self.connection.get_channel(), self.connection.get_channel()
        assert one is not other
        self.connection.close()
        with pytest.raises(ConnectionClosed, match="closed"):
            self.connection.get_channel()

    def test_ensure_connection_connects(self) -> None:
        """``ensure_connection()`` connects and returns the connection."""
        assert self.connection.ensure_connection() is self.connection
        assert self.connection.state == "open"

    def test_the_errors_to_catch_are_known(self) -> None:
        """``connection_errors`` and ``channel_errors`` are classes to catch."""
        assert issubclass(self.connection.ConnectionException, OSError)
        assert BrokerConnectionError in self.connection.connection_errors
        assert ChannelError in self.connection.channel_errors
        assert not set(self.connection.connection_errors) & set(self.connection.channel_errors)

    def test_release_needs_a_pool(self) -> None:
        """``release()`` of a connection that no pool lent says what to do instead."""
        with pytest.raises(NotSupported, match="close"):
            self.connection.release()

    def test_a_copy_is_an_unconnected_twin(self) -> None:
        """``copy.copy`` makes a connection with the same settings and a link of its own."""
        self.connection.connect()
        twin = copy.copy(self.connection)
        assert twin.state == "new"
        with twin:
            assert twin.connection is not self.connection.connection
            self.still_works(twin)
        self.still_works()

    # -- events

    def test_drain_events_raises_at_its_deadline(self) -> None:
        """``drain_events(timeout)`` raises ``socket.timeout`` when nothing came in time."""
        self.consumer().consume()
        began = time.monotonic()
        with pytest.raises(socket.timeout) as caught:
            self.connection.drain_events(timeout=0.1)
        assert isinstance(caught.value, DrainTimeout)
        assert 0.09 <= time.monotonic() - began < self.patience
        self.still_works()

    def test_drain_events_runs_the_callbacks_of_one_message(self) -> None:
        """Each ``drain_events()`` runs the callbacks of one message."""
        consumer, inbox = self.consumer(), Inbox()
        consumer.register_callback(inbox)
        consumer.consume()
        self.put(consumer.queue, "first", "second", connection=self.connect())
        self.drain(lambda: len(inbox) == 1)
        self.drain(lambda: len(inbox) == 2)
        assert inbox.payloads == ["first", "second"]

    def test_drain_events_serves_every_channel(self) -> None:
        """``drain_events()`` serves the consumers of all channels of the connection."""
        inboxes = [Inbox(), Inbox()]
        for number, inbox in enumerate(inboxes):
            consumer = self.consumer()
            consumer.register_callback(inbox)
            consumer.consume()
            self.put(consumer.queue, number, serializer="json")
        self.drain(lambda: all(len(inbox) for inbox in inboxes))
        assert [inbox.payloads for inbox in inboxes] == [[0], [1]]

    def test_a_closed_channel_leaves_the_others_alone(self) -> None:
        """Closing a publisher or consumer leaves the others of the connection open."""
        publisher, consumer = self.feed()
        self.consumer().close()
        self.publisher().close()
        publisher.send("on")
        assert self.fetched(consumer, no_ack=True).payload == "on"

    @needs("threads")
    def test_threads_may_share_a_connection(self) -> None:
        """Any number of threads may publish while one consumes; nothing is lost."""
        consumer, inbox = self.consumer(), Inbox()
        consumer.register_callback(inbox)
        consumer.consume()

        def send(letter: str) -> None:
            with self.publisher("", consumer.queue) as publisher:
                for number in range(25):
                    publisher.send([letter, number])

        threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        self.drain(lambda: len(inbox) == 100)
        for thread in threads:
            thread.join(self.patience)
        for letter in "abcd":
            own = [number for sender, number in inbox.payloads if sender == letter]
            assert own == list(range(25))

    def test_stats_count(self) -> None:
        """``stats()`` counts what became of the messages of the connection."""
        publisher, _ = self.feed()
        before = self.connection.stats()
        publisher.send({})
        publisher.flush()
        after = self.connection.stats()
        assert set(after) >= {
            *("published", "confirmed", "returned", "nacked", "redelivered"),
            *("stale_settles", "reconnects", "decode_failures"),
        }
        if "confirms" in getattr(self.connection.get_backend_cls(), "features", ()):
            assert after["published"] == before["published"] + 1
            assert after["confirmed"] == before["confirmed"] + 1
