"""What a client of the benchmark is; and the two that are no peers: carrot, and none."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tests.bench.plan import PREFETCH, Size

if TYPE_CHECKING:
    from tests.bench.target import Target

__all__ = ["Carrot", "Client", "Raw", "Seen"]

#: Called with what a message contained.
Seen = Callable[[Any], object] | None


class Client:
    """A client connected to a broker.

    :param mode: see :class:`~tests.bench.plan.Contender`.
    :param size: the kind of message; JSON is published as a dictionary.
    """

    def __init__(self, target: Target, mode: str, size: Size) -> None:
        self.target = target
        self.mode = mode
        self.size = size
        self.content_type = "application/json" if size.json else "application/data"
        self.content_encoding = "utf-8" if size.json else "binary"
        self.open()

    def open(self) -> None:
        """Connect, and prepare what is prepared once."""
        raise NotImplementedError

    def publish(self, data: Any, count: int) -> None:
        """Publish the same data so many times."""
        raise NotImplementedError

    def settle(self) -> None:
        """Return when the broker has, or has confirmed, what was published.

        Without confirms the answer to any other question says so: the broker
        works through a channel in order.
        """
        raise NotImplementedError

    def consume(self, count: int, seen: Seen = None) -> None:
        """Receive, decode and acknowledge so many messages.

        Returns when the broker has the acknowledgements.

        :param seen: called with what each contained.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Disconnect."""
        raise NotImplementedError

    def codec(self) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Return what encodes and decodes for clients that do not."""
        if not self.size.json:
            return _same, _same
        try:
            orjson = import_module("orjson")
        except ImportError:
            return (lambda data: json.dumps(data).encode()), json.loads
        return orjson.dumps, orjson.loads


def _same(data: Any) -> Any:
    return data


class Carrot(Client):
    """Ours."""

    def open(self) -> None:
        target = self.target
        self.messaging: Any = import_module("carrot.messaging")
        self.connection: Any = import_module("carrot.connection").BrokerConnection(
            hostname=target.host,
            port=target.port,
            userid=target.userid,
            password=target.password,
            virtual_host=target.vhost,
        )
        # Its default is to confirm.
        options = {"confirm": False} if self.mode == "plain" else {}
        self.publisher: Any = self.messaging.Publisher(
            self.connection, exchange=target.exchange, routing_key=target.queue, **options
        )

    def publish(self, data: Any, count: int) -> None:
        send = self.publisher.send
        for _ in range(count):
            send(data)

    def settle(self) -> None:
        if self.mode == "plain":
            self._ask(self.publisher.backend)
        else:
            self.publisher.flush()

    def consume(self, count: int, seen: Seen = None) -> None:
        target = self.target

        def on_message(data: Any, message: Any) -> None:
            if seen is not None:
                seen(data)
            message.ack()

        consumer = self.messaging.Consumer(
            self.connection,
            queue=target.queue,
            exchange=target.exchange,
            routing_key=target.queue,
        )
        consumer.qos(prefetch_count=PREFETCH)
        consumer.register_callback(on_message)
        consumer.wait(limit=count)
        self._ask(consumer.backend)

    def _ask(self, backend: Any) -> None:
        backend.queue_declare(
            queue=self.target.queue,
            durable=True,
            exclusive=False,
            auto_delete=False,
            arguments=None,
            warn_if_exists=False,
        )

    def close(self) -> None:
        self.connection.close()


class Raw(Client):
    """No client at all; see :mod:`tests.bench.raw`."""

    def open(self) -> None:
        self.pusher: Any = import_module("tests.bench.raw").Pusher(self.target)

    def publish(self, data: Any, count: int) -> None:
        self.pusher.push(self.size, count)

    def settle(self) -> None:
        """Nothing is outstanding after a push."""

    def close(self) -> None:
        self.pusher.close()
