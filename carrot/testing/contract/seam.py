"""The contract of the seam: what messaging asks of a backend, asked directly."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.backends.base import BaseBackend
from carrot.testing.contract.scene import Scene, needs


class SeamContract(Scene):
    """A backend, called by the keywords that carrot 0.10.7 used."""

    def declared(self, backend: Any, routing_key: str = "key") -> tuple[str, str]:
        """Declare a queue and an exchange and bind them, by keyword."""
        queue, exchange = self.new_queue(), self.new_exchange()
        backend.queue_declare(
            queue=queue,
            durable=True,
            exclusive=False,
            auto_delete=False,
            arguments=None,
            warn_if_exists=False,
        )
        backend.exchange_declare(
            exchange=exchange, type="direct", durable=True, auto_delete=False
        )
        backend.queue_bind(
            queue=queue, exchange=exchange, routing_key=routing_key, arguments=None
        )
        return queue, exchange

    def publish(self, backend: Any, body: str, exchange: str, routing_key: str = "key") -> None:
        """Prepare and publish a message, as publishers of old did."""
        message = backend.prepare_message(
            body, 2, priority=0, content_type="text/plain", content_encoding="utf-8"
        )
        backend.publish(
            message,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=False,
            immediate=False,
            headers=None,
        )

    def got(self, backend: Any, queue: str, no_ack: bool = False) -> Any:
        """Get a message, waiting until there is one."""
        return self.eventually(lambda: backend.get(queue, no_ack=no_ack))

    def test_a_backend_is_made_of_a_connection(self) -> None:
        """A backend is made by ``Backend(connection=...)`` and remembers it."""
        backend = self.connection.get_backend_cls()(connection=self.connection)
        assert backend.connection is self.connection
        backend.close()

    def test_a_backend_has_its_attributes(self) -> None:
        """``default_port``, ``Message`` and ``extra_options`` can be read."""
        backend = self.connection.create_backend()
        assert backend.default_port is None or isinstance(backend.default_port, int)
        assert isinstance(backend.Message, type)
        assert backend.extra_options is None
        assert isinstance(backend, BaseBackend)

    def test_publish_and_get(self) -> None:
        """What ``prepare_message`` returned, ``publish`` sends and ``get`` returns."""
        backend = self.connection.create_backend()
        queue, exchange = self.declared(backend)
        assert backend.get(queue, no_ack=False) is None
        self.publish(backend, "hello", exchange)
        message = self.got(backend, queue)
        assert message.payload == "hello"
        assert (message.content_type, message.content_encoding) == ("text/plain", "utf-8")
        backend.ack(message.delivery_tag)
        assert backend.get(queue, no_ack=False) is None

    def test_ack_reject_requeue_by_tag(self) -> None:
        """``ack``, ``reject`` and ``requeue`` take the delivery tag."""
        backend = self.connection.create_backend()
        queue, exchange = self.declared(backend)
        for text in ("ack", "reject", "requeue"):
            self.publish(backend, text, exchange)
        for settle in (backend.ack, backend.reject, backend.requeue):
            settle(self.got(backend, queue).delivery_tag)
        last = self.got(backend, queue)
        assert last.payload == "requeue"
        backend.ack(last.delivery_tag)

    def test_consume_yields_once_a_message(self) -> None:
        """``consume(limit)`` calls the callback with each raw message, and yields ``True``."""
        backend = self.connection.create_backend()
        queue, exchange = self.declared(backend)
        raw: list[Any] = []
        backend.declare_consumer(
            queue=queue, no_ack=False, callback=raw.append, consumer_tag="tag", nowait=False
        )
        for number in range(3):
            self.publish(backend, str(number), exchange)
        events = backend.consume(limit=3)
        assert [next(events) for _ in range(3)] == [True] * 3
        messages = [backend.message_to_python(each) for each in raw]
        assert [message.payload for message in messages] == ["0", "1", "2"]
        for message in messages:
            message.ack()

    def test_cancel_by_tag(self) -> None:
        """``cancel(consumer_tag)`` ends that subscription."""
        backend = self.connection.create_backend()
        queue, exchange = self.declared(backend)
        raw: list[Any] = []
        backend.declare_consumer(
            queue=queue, no_ack=True, callback=raw.append, consumer_tag="tag", nowait=False
        )
        backend.cancel("tag")
        self.publish(backend, "later", exchange)
        assert self.got(backend, queue, no_ack=True).payload == "later"
        assert raw == []

    def test_message_to_python_keeps_what_is_one(self) -> None:
        """``message_to_python`` of what a message already is returns it."""
        backend = self.connection.create_backend()
        message = backend.Message(backend=backend, body=b"x", delivery_tag=None)
        assert backend.message_to_python(message) is message

    def test_purge_returns_the_count(self) -> None:
        """``queue_purge(queue)`` returns how many messages it removed."""
        backend = self.connection.create_backend()
        queue, exchange = self.declared(backend)
        self.publish(backend, "x", exchange)
        assert self.eventually(lambda: backend.queue_purge(queue)) == 1
        assert backend.queue_purge(queue) == 0

    @needs("prefetch")
    def test_qos_by_position(self) -> None:
        """``qos(prefetch_size, prefetch_count, apply_global)`` takes positions."""
        backend = self.connection.create_backend()
        backend.qos(0, 10, False)
        self.still_works()

    def test_closing_a_backend_is_quiet(self) -> None:
        """``close()`` is idempotent, before and after use, and after its connection's."""
        unused, used, late = (self.connection.create_backend() for _ in range(3))
        unused.close()
        for backend in (used, late):
            self.declared(backend)
        used.close()
        used.close()
        self.connection.close()
        late.close()

    def test_establish_and_close_connection(self) -> None:
        """``establish_connection()`` returns what ``close_connection(connection)`` closes."""
        backend = self.connection.get_backend_cls()(connection=self.connection)
        for settings in ("hostname", "host", "userid", "password", "virtual_host", "port"):
            getattr(self.connection, settings)
        connection = backend.establish_connection()
        assert connection is not None
        backend.close_connection(connection)

    def test_backend_cls_may_be_a_class(self) -> None:
        """``backend_cls`` may be a class, or a dotted path to one."""
        cls = self.connection.get_backend_cls()
        connection = self.connect(backend_cls=cls)
        assert connection.get_backend_cls() is cls
        path = f"{cls.__module__}.{cls.__qualname__}"
        if "<locals>" in path:
            pytest.skip("the backend's class has no path")
        connection = self.connect(backend_cls=path)
        assert connection.get_backend_cls() is cls
        self.still_works(connection)
