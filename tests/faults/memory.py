"""The in-memory broker in the places of a server and of the proxy before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from carrot.backends.queue import hub, reset
from carrot.broker import Channel
from carrot.utils import gen_unique_id

__all__ = ["MemoryHost", "MemoryLink"]


class MemoryHost:
    """As much of a :class:`~tests.servers.vhost.VirtualHost` as a broker in memory can be."""

    #: The one that it is like.
    version = (4, 0)

    def __init__(self) -> None:
        self._name = f"faults-{gen_unique_id()}"
        self.hub = hub(self._name)
        self.url = f"memory://{self._name}"

    def close(self) -> None:
        """Forget the broker."""
        reset(self._name)

    @contextmanager
    def channel(self) -> Iterator[Channel]:
        """Lend a channel to the broker itself, while nobody else uses it."""
        with self.hub as broker:
            connection = broker.connect("/")
            yield connection.channel()
            connection.close()

    def messages(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are ready, and how many unacknowledged."""
        found = self._queues()[queue]
        return len(found.ready), found.unacked

    def queues(self) -> list[str]:
        """Return the names of all queues."""
        return list(self._queues())

    def delete_queue(self, queue: str) -> None:
        """Delete a queue behind its consumers' back."""
        with self.channel() as channel:
            channel.queue_delete(queue)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Take no messages, as at a memory alarm."""
        self.hub.block()
        try:
            yield
        finally:
            self.hub.unblock()

    def stop(self) -> None:
        """Be away, with all that is on the queues."""
        self.hub.refuse_connections()
        self.hub.drop_connections()

    def start(self) -> None:
        """Be there again."""
        self.hub.accept_connections()

    def _queues(self) -> dict[str, Any]:
        with self.hub as broker:
            return dict(broker.vhost("/").queues)


class MemoryLink:
    """As much of a :class:`~tests.proxy.Proxy` as can be done to connections in memory."""

    def __init__(self, host: MemoryHost) -> None:
        self._hub = host.hub
        self.url = host.url
        #: How many connections were opened since.
        self.connections = 0
        connect = self._hub.connect

        def counted(virtual_host: str, user: str) -> Any:
            connection = connect(virtual_host, user)
            self.connections += 1
            return connection

        self._hub.connect = counted  # type: ignore[method-assign]
        self.refuse = self._hub.refuse_connections
        self.accept = self._hub.accept_connections
        self.cut = self.reset = self._hub.drop_connections

    def heal(self) -> None:
        """End all faults."""
        self.accept()

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._hub.connections)
