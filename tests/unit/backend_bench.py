"""The in-memory backend on connections of the least that it needs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from carrot.backends.queue import Backend, Connection

__all__ = ["Link", "backend_on", "declared"]


class Link:
    """What a backend needs of a connection: an address, and the driver's connection."""

    def __init__(
        self, hostname: str | None, virtual_host: str = "/", timeout: float = 5
    ) -> None:
        self.hostname = hostname
        self.virtual_host = virtual_host
        self.userid = None
        self.timeout = timeout
        self.counted: Counter[str] = Counter()
        self.connection: Connection | None = Backend(self).establish_connection()

    @property
    def driver(self) -> Connection:
        """The driver's connection."""
        assert self.connection is not None
        return self.connection

    def drain_events(self, timeout: float | None = None) -> bool:
        """Wait for one message and run its callback."""
        return self.driver.drain_events(timeout)

    def count(self, counter: str, by: int = 1) -> None:
        """Count what a connection counts."""
        self.counted[counter] += by


def backend_on(link: Any) -> Backend:
    """Return a backend on a connection."""
    return Backend(link)


def declared(backend: Backend, queue: str = "q", **arguments: Any) -> Backend:
    """Declare a queue by a backend, and return that."""
    backend.queue_declare(queue, False, False, False, arguments)
    return backend
