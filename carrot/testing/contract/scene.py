"""What every part of the contract stands on: connections, names, waiting."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import pytest

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, ConsumerSet, Publisher

__all__ = ["Inbox", "Scene", "needs"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Abilities that a backend announces in its ``features``.
_ANNOUNCED = frozenset(
    ["properties", "confirms", "stop", "exchange_arguments", "consumer_arguments"]
)


def needs(*abilities: str) -> Callable[[F], F]:
    """Skip the test where the backend lacks one of these (see :attr:`Scene.lacks`)."""

    def mark(function: F) -> F:
        function.__carrot_needs__ = abilities  # type: ignore[attr-defined]
        return function

    return mark


class Inbox:
    """A callback that keeps what it is called with."""

    def __init__(self, ack: bool = True) -> None:
        self.ack = ack
        self.messages: list[Any] = []
        self.payloads: list[Any] = []

    def __call__(self, message_data: Any, message: Any) -> None:
        self.payloads.append(message_data)
        self.messages.append(message)
        if self.ack and not message.acknowledged:
            message.ack()

    def __len__(self) -> int:
        return len(self.payloads)


class Scene:
    """Base of the contract's parts; what the author of a backend overrides is here."""

    #: What the backend or its broker cannot do; the tests of it are skipped.
    #:
    #: ``arguments`` (of queues), ``auto_delete``, ``channel`` (the driver has
    #: channels), ``errors`` (404 and 406), ``exclusive``, ``flow``, ``headers``
    #: (exchanges), ``message_headers``, ``message_properties``, ``prefetch``,
    #: ``priority`` (kept with the message), ``queue_delete``, ``queue_exists``,
    #: ``redelivered`` (the flag), ``refusals`` (of what no broker does any
    #: more), ``requeue_place`` (requeued messages return to their place),
    #: ``server_named``, ``threads``, ``topic``, ``unacked_return`` (on close),
    #: ``warn_if_exists``. What a backend announces in its ``features`` counts
    #: as well: what it does not announce, it lacks.
    lacks: ClassVar[frozenset[str]] = frozenset()

    #: Seconds within which what is expected must happen.
    patience: ClassVar[float] = 15.0

    #: What the fixture :meth:`broker` gave.
    broker_in_use: Any = None

    def make_connection(self, **options: Any) -> BrokerConnection:
        """Return a new connection that is not connected yet. Must be overridden.

        :param options: arguments of :class:`BrokerConnection` that the test
            sets; the author adds those that reach the broker.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.make_connection() must return a BrokerConnection"
        )

    def make_virtual_host(self) -> str | None:
        """Return the name of a further virtual host; ``None`` skips the tests of it."""
        return None

    @pytest.fixture
    def broker(self) -> Any:
        """Whatever runs for the length of a test; override it where something must.

        It is kept as ``self.broker_in_use`` for :meth:`make_connection`.
        """
        return None

    @pytest.fixture(autouse=True)
    def _scene(self, request: pytest.FixtureRequest, broker: Any) -> Iterator[None]:
        self.broker_in_use = broker
        self._connections: list[BrokerConnection] = []
        self._queues: list[str] = []
        self._exchanges: list[str] = []
        self.connection = self.connect()
        self._skip_what_is_lacking(request)
        yield
        self._clean()

    def _skip_what_is_lacking(self, request: pytest.FixtureRequest) -> None:
        function = getattr(request.function, "__func__", request.function)
        features = getattr(self.connection.get_backend_cls(), "features", ())
        for ability in getattr(function, "__carrot_needs__", ()):
            if ability in self.lacks or (ability in _ANNOUNCED and ability not in features):
                pytest.skip(f"the backend has no {ability}")

    def _clean(self) -> None:
        """Delete what the test declared, where the backend can, and close everything."""
        connections = self._connections
        for connection in connections:
            connection.close()
        if "queue_delete" in self.lacks or not (self._queues or self._exchanges):
            return
        with self.make_connection() as connection:
            backend = connection.create_backend()
            for queue in self._queues:
                backend.queue_delete(queue=queue)
            channel = getattr(backend, "channel", None)
            if channel is not None:
                for exchange in self._exchanges:
                    channel.exchange_delete(exchange=exchange)

    # -- who plays

    def connect(self, **options: Any) -> BrokerConnection:
        """Return a new connection that is closed when the test ends."""
        connection = self.make_connection(**options)
        self._connections.append(connection)
        return connection

    def name(self, kind: str = "thing") -> str:
        """Return a name that nobody else uses."""
        return f"contract.{kind}.{uuid.uuid4().hex[:12]}"

    def new_queue(self) -> str:
        """Return the name of a queue to declare; it is deleted at the end."""
        self._queues.append(self.name("queue"))
        return self._queues[-1]

    def new_exchange(self) -> str:
        """Return the name of an exchange to declare; it is deleted at the end."""
        self._exchanges.append(self.name("exchange"))
        return self._exchanges[-1]

    def consumer(self, queue: str | None = None, **options: Any) -> Consumer:
        """Return a consumer of a queue of its own, on :attr:`connection`."""
        connection = options.pop("connection", self.connection)
        cls = options.pop("cls", Consumer)
        consumer: Consumer = cls(connection, queue=queue or self.new_queue(), **options)
        return consumer

    def publisher(
        self, exchange: str = "", routing_key: Any = None, **options: Any
    ) -> Publisher:
        """Return a publisher on :attr:`connection`."""
        connection = options.pop("connection", self.connection)
        return Publisher(connection, exchange=exchange, routing_key=routing_key, **options)

    def feed(self, **options: Any) -> tuple[Publisher, Consumer]:
        """Return a publisher, and a consumer that gets what it sends.

        :param options: of the consumer.
        """
        exchange = self.new_exchange()
        options.setdefault("routing_key", "importer")
        consumer = self.consumer(exchange=exchange, **options)
        connection = options.get("connection", self.connection)
        return self.publisher(exchange, "importer", connection=connection), consumer

    def filled(self, *payloads: Any, **options: Any) -> Consumer:
        """Return a consumer on whose queue these payloads wait.

        :param options: of the consumer.
        """
        consumer = self.consumer(**options)
        self.put(consumer.queue, *payloads)
        return consumer

    def put(self, queue: str, *payloads: Any, **options: Any) -> None:
        """Send to a queue, through the default exchange, and wait until all is there.

        :param options: of :meth:`Publisher.send`; and ``connection``.
        """
        connection = options.pop("connection", self.connection)
        with self.publisher("", queue, connection=connection) as publisher:
            for payload in payloads:
                publisher.send(payload, **options)

    # -- waiting

    def eventually(self, condition: Callable[[], T], what: str = "") -> T:
        """Return what *condition* answers as soon as that is true."""
        deadline = time.monotonic() + self.patience
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"never came true: {what or condition!r}"
            time.sleep(0.002)
        return answer

    def fetched(self, consumer: Any, **options: Any) -> Any:
        """Fetch from a queue until there is a message."""
        return self.eventually(lambda: consumer.fetch(**options), f"a message for {consumer!r}")

    def payloads(self, consumer: Consumer) -> list[Any]:
        """Take and acknowledge everything that is ready on a consumer's queue."""
        found = []
        for message in consumer.iterqueue():
            found.append(message.payload)
            if not message.acknowledged:
                message.ack()
        return found

    def expect(self, consumer: Consumer, payloads: list[Any]) -> None:
        """Assert that these payloads are on a consumer's queue, and no others; take them."""
        found: list[Any] = []
        deadline = time.monotonic() + self.patience
        while True:
            found += self.payloads(consumer)
            if len(found) >= len(payloads) or time.monotonic() > deadline:
                break
            time.sleep(0.002)
        assert found == payloads

    def drain(self, until: Callable[[], Any], connection: Any = None) -> None:
        """Drain events until a condition holds."""
        deadline = time.monotonic() + self.patience
        while not until():
            left = deadline - time.monotonic()
            assert left > 0, f"never came true: {until!r}"
            # Short waits: the condition may come true by another thread.
            self.drain_once(connection, min(left, 0.25))

    def drain_once(self, connection: Any = None, timeout: float = 0.25) -> bool:
        """Drain one event; return whether there was one."""
        try:
            (connection or self.connection).drain_events(timeout=timeout)
        except TimeoutError:
            return False
        return True

    def still_works(self, connection: Any = None) -> None:
        """Assert that the connection sends and receives."""
        connection = connection or self.connection
        with self.consumer(connection=connection) as consumer:
            with self.publisher("", consumer.queue, connection=connection) as publisher:
                publisher.send({"still": "works"})
            assert self.fetched(consumer, no_ack=True).payload == {"still": "works"}

    def consumer_set(self, **options: Any) -> ConsumerSet:
        """Return a set of consumers on :attr:`connection`."""
        return ConsumerSet(self.connection, **options)
