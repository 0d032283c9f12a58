"""The examples of the README of carrot 0.5.1, run as they are written there.

Only what was lost is filled in: bodies that the text elides, indentation, and
lines that a page's copy dropped. ``print`` is listened to. The port and the
virtual host are those of a private broker. Each shell of the text is a thread
with names and a connection of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import carrot.backends
from carrot import serialization
from carrot.backends import queue
from carrot.exceptions import ContentDisallowed
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

CONNECT = """
    from carrot.connection import AMQPConnection
    amqpconn = AMQPConnection(hostname="localhost", port=5672,
                              userid="test", password="test",
                              vhost="test")
"""

CONSUME = """
    from carrot.messaging import Consumer
    consumer = Consumer(connection=amqpconn, queue="feed",
                        exchange="feed", routing_key="importer")
    def import_feed_callback(message_data, message):
        feed_url = message_data["import_feed"]
        print("Got feed import message for: %s" % feed_url)
        # something importing this feed url
        # import_feed(feed_url)
        message.ack()
    consumer.register_callback(import_feed_callback)
"""

WAIT = "consumer.wait() # Go into the consumer loop."

PUBLISH = """
    from carrot.messaging import Publisher
    publisher = Publisher(connection=amqpconn,
                          exchange="feed", routing_key="importer")
    publisher.send({"import_feed": "http://cnn.com/rss/edition.rss"})
    publisher.close()
"""

YAML = """
    from carrot.messaging import Publisher
    publisher = Publisher(connection=amqpconn,
                          exchange="feed", routing_key="importer",
                          serializer="yaml")
"""

PICKLE = """
    from carrot.messaging import Publisher
    publisher = Publisher(connection=amqpconn,
                          exchange="feed", routing_key="importer")
    publisher.send({"import_feed": "http://cnn.com/rss/edition.rss"},
                   serializer="pickle")
    publisher.close()
"""

RAW = """
    from carrot.messaging import Publisher
    publisher = Publisher(connection=amqpconn,
                          exchange="feed",
                          routing_key="importer")
    publisher.send(open('~/my_picture.jpg','rb').read(),
                   content_type="image/jpeg",
                   content_encoding="binary")
    publisher.close()
"""

CONSUMER = """
    from carrot.messaging import Consumer
    consumer = Consumer(connection=amqpconn, queue="feed",
                        exchange="feed", routing_key="importer")
"""

FETCH = """
    message = consumer.fetch()
    if message:
        message_data = message.payload
        message.ack()
    else:
        # No messages waiting on the queue.
        message_data = None
    consumer.close()
"""

SUBCLASSES = """
    from carrot.messaging import Publisher, Consumer
    class FeedPublisher(Publisher):
        exchange = "feed"
        routing_key = "importer"
        def import_feed(self, feed_url):
            return self.send({"action": "import_feed",
                              "feed_url": feed_url})
    class FeedConsumer(Consumer):
        queue = "feed"
        exchange = "feed"
        routing_key = "importer"
        def receive(self, message_data, message):
            action = message_data["action"]
            if action == "import_feed":
                # something importing this feed
                # import_feed(message_data["feed_url"])
                print(message_data["feed_url"])
                message.ack()
            else:
                raise Exception("Unknown action: %s" % action)
"""

DJANGO_SETTINGS = {
    "AMQP_SERVER": "localhost",
    "AMQP_PORT": 5672,
    "AMQP_USER": "test",
    "AMQP_PASSWORD": "secret",
    "AMQP_VHOST": "/test",
}

DJANGO = """
    import json, sys
    from django.conf import settings
    settings.configure(**json.loads(sys.argv[1]))

    from carrot.connection import DjangoAMQPConnection
    amqpconn = DjangoAMQPConnection()

    {consumer}
    {publish}
    {fetch}
    print(message_data["import_feed"])
    amqpconn.close()
"""


class Shell:
    """A Python shell: what is typed shares its names; what is printed is kept."""

    def __init__(self, here: Callable[[str], str]) -> None:
        self.here = here
        self.printed: list[str] = []
        self.names: dict[str, Any] = {"print": self.printed.append, "__name__": "__main__"}
        self._busy: threading.Thread | None = None
        self._error: BaseException | None = None

    def type(self, *texts: str) -> None:
        """Run what is typed, to its end."""
        for text in texts:
            exec(self.here(dedent(text)), self.names)

    def leave_running(self, text: str) -> None:
        """Run what is typed and does not end."""

        def run() -> None:
            try:
                self.type(text)
            except BaseException as exc:
                self._error = exc

        self._busy = threading.Thread(target=run, daemon=True)
        self._busy.start()

    def shows(self, count: int = 1) -> list[str]:
        """Wait until so many lines were printed; return them."""
        wait_until(lambda: self._error or len(self.printed) >= count, what="it is printed")
        if self._error is not None:
            raise self._error
        return self.printed

    def close(self) -> None:
        """End what runs, and close the connection."""
        consumer, connection = self.names.get("consumer"), self.names.get("amqpconn")
        if self._busy is not None and consumer is not None:
            consumer.stop()
            self._busy.join(15)
            assert not self._busy.is_alive()
        if connection is not None:
            connection.close()


class SeedExamples:
    """The examples, in the order of the text."""

    @pytest.fixture
    def here(self) -> Callable[[str], str]:
        """Return what an example is where it runs: the address replaced."""
        raise NotImplementedError

    @pytest.fixture
    def shell(self, here: Callable[[str], str]) -> Iterator[Callable[[], Shell]]:
        """Open shells, closed at the end, with the connection of the text."""
        shells: list[Shell] = []

        def open_shell() -> Shell:
            shells.append(Shell(here))
            shells[-1].type(CONNECT)
            return shells[-1]

        yield open_shell
        for each in shells:
            each.close()

    def test_creating_a_connection(self, shell: Callable[[], Shell]) -> None:
        """ "Creating a connection": the connection of the text connects."""
        connection = shell().names["amqpconn"]
        assert connection.connect() is not None
        assert connection.userid == "test"

    def test_the_other_import(self) -> None:
        """The text calls the class ``carrot.messaging.AMQPConnection`` as well."""
        from carrot.connection import AMQPConnection
        from carrot.messaging import AMQPConnection as by_the_text

        assert by_the_text is AMQPConnection

    def test_receiving_and_sending(self, shell: Callable[[], Shell]) -> None:
        """ "Receiving messages using a Consumer", and sending from another shell."""
        first, second = shell(), shell()
        first.type(CONSUME)
        first.leave_running(WAIT)
        second.type(PUBLISH)
        assert first.shows() == ["Got feed import message for: http://cnn.com/rss/edition.rss"]

    def test_serializer_per_publisher(self, shell: Callable[[], Shell]) -> None:
        """ "Serialization of Data": a publisher that sends YAML, received by any consumer."""
        first, second = shell(), shell()
        first.type(CONSUME)
        first.leave_running(WAIT)
        second.type(YAML, 'publisher.send({"import_feed": "by yaml"})', "publisher.close()")
        assert first.shows() == ["Got feed import message for: by yaml"]

    def test_serializer_per_call(
        self, shell: Callable[[], Shell], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A call that sends a pickle; receiving it is the one thing that has to be allowed."""
        first, second = shell(), shell()
        first.type(CONSUMER)
        second.type(PICKLE, PICKLE)
        message = first.names["consumer"].fetch()
        with pytest.raises(ContentDisallowed, match=r"carrot\.serialization\.accept"):
            _ = message.payload
        message.ack()
        registry = serialization.registry
        monkeypatch.setattr(registry, "_opted_in", set(registry._opted_in))
        monkeypatch.setattr(registry, "_policy", None)
        serialization.accept("pickle")
        first.type(FETCH)
        expected = {"import_feed": "http://cnn.com/rss/edition.rss"}
        assert first.names["message_data"] == expected

    # The text leaves closing the picture to the interpreter.
    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
    def test_raw_data(
        self,
        shell: Callable[[], Shell],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """ "Sending raw data without Serialization": a picture, with its content type."""
        monkeypatch.chdir(tmp_path)
        picture = bytes(range(256))
        (tmp_path / "~").mkdir()
        (tmp_path / "~" / "my_picture.jpg").write_bytes(picture)
        shell_here = shell()
        shell_here.type(CONSUMER, RAW, FETCH)
        message = shell_here.names["message"]
        assert (message.content_type, message.content_encoding) == ("image/jpeg", "binary")
        assert shell_here.names["message_data"] == message.body == picture

    def test_receiving_without_a_callback(self, shell: Callable[[], Shell]) -> None:
        """ "Receiving messages without a callback": ``fetch``, with and without a message."""
        shell_here = shell()
        shell_here.type(CONSUMER, PUBLISH, FETCH)
        expected = {"import_feed": "http://cnn.com/rss/edition.rss"}
        assert shell_here.names["message_data"] == expected
        shell_here.type(CONSUMER, FETCH)
        assert shell_here.names["message_data"] is None

    def test_subclassing(self, shell: Callable[[], Shell]) -> None:
        """ "Sub-classing the messaging classes": FeedPublisher and FeedConsumer."""
        first, second = shell(), shell()
        first.type(SUBCLASSES, "consumer = FeedConsumer(connection=amqpconn)")
        first.leave_running(WAIT)
        second.type(
            SUBCLASSES,
            "publisher = FeedPublisher(connection=amqpconn)",
            'publisher.import_feed("http://cnn.com/rss/edition.rss")',
            "publisher.close()",
        )
        assert first.shows() == ["http://cnn.com/rss/edition.rss"]

    def test_subclassing_an_unknown_action(self, shell: Callable[[], Shell]) -> None:
        """The exception that the text's consumer raises leaves ``wait()`` unchanged."""
        shell_here = shell()
        shell_here.type(
            SUBCLASSES,
            "consumer = FeedConsumer(connection=amqpconn)",
            "publisher = FeedPublisher(connection=amqpconn)",
            'publisher.send({"action": "sing"})',
        )
        with pytest.raises(Exception, match="Unknown action: sing"):
            shell_here.type(WAIT)

    def run_django(self, settings: dict[str, Any]) -> None:
        """Run the example for Django in a process of its own."""
        program = dedent(DJANGO).format(
            consumer=dedent(CONSUMER), publish=dedent(PUBLISH), fetch=dedent(FETCH)
        )
        done = subprocess.run(
            [sys.executable, "-c", program, json.dumps(settings)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "http://cnn.com/rss/edition.rss\n"


class TestSeedInMemory(SeedExamples):
    """Every example, on the in-memory broker."""

    @pytest.fixture
    def here(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
        # As if the application had set it: the examples name no backend.
        monkeypatch.setattr(carrot.backends, "DEFAULT_BACKEND", "memory")
        queue.reset("localhost")
        yield lambda text: text
        queue.reset("localhost")

    def test_django(self) -> None:
        """The settings of the text, and ``CARROT_BACKEND``."""
        self.run_django({**DJANGO_SETTINGS, "CARROT_BACKEND": "memory"})


class TestSeedOnRabbitMQ(SeedExamples):
    """Every example, on each RabbitMQ at hand."""

    @pytest.fixture
    def here(self, rabbitmq: VirtualHost) -> Callable[[str], str]:
        rabbitmq.add_user("test", "test")
        return lambda text: text.replace("5672", str(rabbitmq.port)).replace(
            'vhost="test"', f'vhost="{rabbitmq.vhost}"'
        )

    def test_django(self, rabbitmq: VirtualHost) -> None:
        """The settings of the text, with the private server's port and virtual host."""
        rabbitmq.add_user("test", "secret")
        self.run_django(
            {**DJANGO_SETTINGS, "AMQP_PORT": rabbitmq.port, "AMQP_VHOST": rabbitmq.vhost}
        )
