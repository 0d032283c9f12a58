"""The broker that is measured: a private one, or one whose URL was given."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from tests.bench.plan import Size
from tests.bench.raw import Pusher
from tests.servers.keeper import Keeper
from tests.servers.places import find_place
from tests.servers.server import Server

__all__ = ["UNREACHABLE", "Control", "Target", "private_server", "target_of_url"]

#: What is raised where there is no broker, or none that lets us in.
UNREACHABLE: tuple[type[Exception], ...] = (OSError, amqp.AMQPError)


@dataclass(frozen=True)
class Target:
    """Where messages go, and where they come from."""

    host: str
    port: int
    userid: str
    password: str
    vhost: str
    #: Direct and durable, like the queue that is bound to it by its name.
    exchange: str
    queue: str

    def through(self, port: int) -> Target:
        """Return the same target behind a local proxy."""
        return replace(self, host="127.0.0.1", port=port)


def target_of_url(url: str) -> Target:
    """Return the target that ``amqp://user:password@host:port/vhost`` means."""
    parts = urlsplit(url)
    name = f"carrot-bench-{os.getpid()}"
    return Target(
        host=parts.hostname or "localhost",
        port=parts.port or 5672,
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        vhost=unquote(parts.path[1:]) or "/",
        exchange=name,
        queue=name,
    )


@contextlib.contextmanager
def private_server(which: str) -> Iterator[Server]:
    """Run a RabbitMQ for as long as the block lasts.

    :param which: ``"distribution"`` or ``"4.0"``.
    :raises NoServer: this machine has none.
    """
    place = find_place(which)
    keeper = Keeper()
    try:
        server = Server(place, keeper)
        try:
            server.start()
            yield server
        finally:
            server.close()
    finally:
        keeper.close()


class Control:
    """The benchmark's own connection: declares, fills and empties the queue."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._pusher = Pusher(target)
        self._channel: Any = self._pusher.connection.channel()
        self._channel.exchange_declare(
            target.exchange, "direct", durable=True, auto_delete=False
        )
        self._channel.queue_declare(target.queue, durable=True, auto_delete=False)
        self._channel.queue_bind(target.queue, target.exchange, target.queue)

    @property
    def server(self) -> str:
        """Name and version of the broker."""
        properties = self._pusher.connection.server_properties
        return f"{properties.get('product', 'broker')} {properties.get('version', '')}".strip()

    def fill(self, size: Size, count: int) -> None:
        """Empty the queue and put so many messages into it."""
        self.empty()
        self._pusher.push(size, count)

    def empty(self) -> None:
        """Discard what is in the queue."""
        self._channel.queue_purge(self.target.queue)

    def consumers(self) -> int:
        """Return how many consumers the queue has."""
        return int(self._channel.queue_declare(self.target.queue, passive=True).consumer_count)

    def ready(self) -> int:
        """Return how many messages wait in the queue."""
        return int(self._channel.queue_declare(self.target.queue, passive=True).message_count)

    def close(self) -> None:
        """Delete what was declared."""
        with contextlib.suppress(*UNREACHABLE):
            self._channel.queue_delete(self.target.queue)
            self._channel.exchange_delete(self.target.exchange)
        self._pusher.close()
