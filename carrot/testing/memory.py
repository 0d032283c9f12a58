"""An in-memory broker for one test: its clock, its faults, and what it knows.

::

    def test_import(carrot_broker):
        start_import(carrot_broker.url)
        assert [each.payload for each in carrot_broker.published("feed")] == [...]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from carrot import serialization
from carrot.backends.queue import Hub, hub, reset
from carrot.broker import Queue
from carrot.connection import BrokerConnection
from carrot.utils import gen_unique_id

__all__ = ["ManualClock", "MemoryBroker", "Sent"]


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 0.0) -> None:
        #: The time, seconds.
        self.now = now

    def __call__(self) -> float:
        return self.now


class Sent(NamedTuple):
    """A message as it was published, or as it waits in a queue."""

    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    body: bytes
    #: Names of the queues that it went to.
    queues: tuple[str, ...]

    @property
    def payload(self) -> Any:
        """The decoded body; of every serializer, since the test itself sent it."""
        properties = self.properties
        return serialization.decode(
            self.body, properties.get("content_type"), properties.get("content_encoding")
        )


class MemoryBroker:
    """A broker that only one test uses. Its time moves by :meth:`advance` alone.

    The fixture ``carrot_broker`` is one. As a context manager it closes the
    connections that it gave out and forgets all it held.
    """

    def __init__(self) -> None:
        self.name = f"test-{gen_unique_id()}"
        #: The time by which messages and queues expire.
        self.clock = ManualClock()
        self._hub: Hub = hub(self.name)
        self._hub.clock = self.clock
        self._published: list[tuple[str, Sent]] = []
        self._hub.broker.on_publish = self._note
        self._connections: list[BrokerConnection] = []

    def __repr__(self) -> str:
        return f"<MemoryBroker {self.url}, {len(self._published)} messages published>"

    @property
    def url(self) -> str:
        """Address for :class:`~carrot.connection.BrokerConnection`."""
        return f"memory://{self.name}"

    def connection(self, **options: Any) -> BrokerConnection:
        """Return a new connection to the broker; it is closed at the end of the test."""
        connection = BrokerConnection(self.url, **options)
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close the connections and forget the broker."""
        self.accept_connections()
        self.unblock()
        for connection in self._connections:
            connection.close()
        reset(self.name)

    def __enter__(self) -> MemoryBroker:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- time

    def advance(self, seconds: float) -> None:
        """Let time pass: what is due expires before this returns."""
        self.clock.now += seconds
        self._hub.tick()

    # -- faults

    def drop_connections(self, reason: str = "the connection was dropped") -> None:
        """Break every connection, as a network does."""
        self._hub.drop_connections(reason)

    def refuse_connections(self, reason: str = "connection refused") -> None:
        """Let nobody connect until :meth:`accept_connections`."""
        self._hub.refuse_connections(reason)

    def accept_connections(self) -> None:
        """End :meth:`refuse_connections`."""
        self._hub.accept_connections()

    def block(self, reason: str = "low on memory") -> None:
        """Take no messages until :meth:`unblock`, as at a memory alarm."""
        self._hub.block(reason)

    def unblock(self) -> None:
        """End :meth:`block`."""
        self._hub.unblock()

    def lose_confirms(self, count: int = 1) -> None:
        """Take the next *count* messages in without confirming them."""
        self._hub.lose_confirms(count)

    def cancel_consumers(self, queue: str, virtual_host: str = "/") -> int:
        """Cancel the consumers of a queue, as a broker does by itself.

        :returns: how many there were.
        """
        tags = [consumer.tag for consumer in self._queue(queue, virtual_host).consumers]
        for tag in tags:
            self._hub.cancel_consumer(tag)
        return len(tags)

    # -- questions

    def published(
        self,
        exchange: str | None = None,
        routing_key: str | None = None,
        virtual_host: str = "/",
    ) -> list[Sent]:
        """Return what was published, in order; resent messages again.

        :param exchange: only what was sent to this exchange; ``None``: to any.
        :param routing_key: only what was sent with this key; ``None``: with any.
        """
        return [
            sent
            for vhost, sent in list(self._published)
            if vhost == virtual_host
            and exchange in (None, sent.exchange)
            and routing_key in (None, sent.routing_key)
        ]

    def messages(self, queue: str, virtual_host: str = "/") -> list[Sent]:
        """Return what waits in a queue, the next first, without taking it."""
        with self._hub:
            return [
                Sent(each.exchange, each.routing_key, each.properties, each.body, (queue,))
                for each in self._queue(queue, virtual_host).ready
            ]

    def unacknowledged(self, queue: str, virtual_host: str = "/") -> int:
        """Return how many messages of a queue were delivered and are not settled."""
        with self._hub:
            return self._queue(queue, virtual_host).unacked

    def assert_empty(self, queue: str, virtual_host: str = "/") -> None:
        """Fail unless nothing waits in a queue and nothing of it is unsettled."""
        waiting = self.messages(queue, virtual_host)
        out = self.unacknowledged(queue, virtual_host)
        if waiting or out:
            raise AssertionError(
                f"queue {queue!r} is not empty: {len(waiting)} messages wait, {out} are"
                f" unacknowledged; the next is {waiting[0].body[:64] if waiting else None!r}"
            )

    def _queue(self, name: str, virtual_host: str) -> Queue:
        queues = self._hub.broker.vhost(virtual_host).queues
        try:
            return queues[name]
        except KeyError:
            known = ", ".join(sorted(queues)) or "none"
            raise AssertionError(
                f"no queue {name!r} was declared; there are: {known}"
            ) from None

    def _note(
        self,
        vhost: str,
        exchange: str,
        routing_key: str,
        properties: Mapping[str, Any],
        body: bytes,
        queues: list[str],
    ) -> None:
        sent = Sent(exchange, routing_key, properties, body, tuple(queues))
        self._published.append((vhost, sent))
