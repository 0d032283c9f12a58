"""The in-memory backend on connections of the least that it needs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from carrot.backends.queue import Backend, Connection
from tests.waiting import wait_until

__all__ = ["Link", "Thread", "asleep", "declared", "send"]


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


def declared(backend: Backend, queue: str = "q", **arguments: Any) -> Backend:
    """Declare a queue by a backend, and return that."""
    backend.queue_declare(queue, False, False, False, arguments)
    return backend


def send(backend: Backend, body: str = "m", key: str = "q", **properties: Any) -> None:
    message = backend.prepare_message(body, 2, properties=properties or None)
    backend.publish(message, "", key)


class Thread(threading.Thread):
    """A thread that keeps what its function returned or raised."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._work = (function, args)
        self.answer: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        function, args = self._work
        try:
            self.answer = function(*args)
        except Exception as error:
            self.error = error

    def done(self) -> Thread:
        """Wait for the end, and return the thread."""
        self.join(15)
        assert not self.is_alive()
        return self


def asleep(connection: Connection, threads: int = 1) -> None:
    """Wait until so many threads sleep in drain_events."""
    wait_until(lambda: len(connection._bells) == threads, what=f"{threads} threads sleep")
