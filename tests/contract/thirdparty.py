"""A backend as a stranger wrote it years ago, against the seam and nothing else.

Its keywords stand in an order of its own, methods that it has no use for are
left out, ``message_to_python`` returns what it is given, and ``consume`` ends
the way generators ended before PEP 479.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from carrot.backends.base import BaseBackend, BaseMessage


class Store:
    """The stranger's broker: named lists, and exchanges that know names of lists."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.queues: dict[str, deque[Message]] = {}
        self.exchanges: dict[str, tuple[str, list[tuple[str, str]]]] = {}

    def route(self, exchange: str, routing_key: str) -> list[deque[Message]]:
        if not exchange:
            return [self.queues[routing_key]] if routing_key in self.queues else []
        type, bindings = self.exchanges.get(exchange, ("direct", []))
        names = [queue for queue, key in bindings if type == "fanout" or key == routing_key]
        return [self.queues[name] for name in dict.fromkeys(names)]


_stores: dict[str, Store] = {}


class Message(BaseMessage):
    """What is sent is what is received."""

    def __init__(self, backend: Any, body: Any = None, **kwargs: Any) -> None:
        self.queue: Any = None
        super().__init__(backend, body=body, **kwargs)


class Link:
    """What the stranger's backend connects to."""

    def __init__(self, store: Store) -> None:
        self.store = store
        #: Consumer tag -> queue, callback, whether to forget what is delivered, backend.
        self.consumers: dict[str, tuple[str, Callable[[Any], Any], bool, Backend]] = {}
        self.closed = False

    def channel(self) -> object:
        return object()

    def close(self) -> None:
        self.closed = True

    def drain_events(self, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self._next()
            if found is not None:
                callback, message = found
                callback(message)
                return
            with self.store.changed:
                left = 0.1 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("nothing came")
                self.store.changed.wait(min(left, 0.1))

    def _next(self) -> tuple[Callable[[Any], Any], Message] | None:
        with self.store.changed:
            for tag, (queue, callback, no_ack, backend) in list(self.consumers.items()):
                message = backend.take(queue, no_ack)
                if message is not None:
                    message.delivery_info["consumer_tag"] = tag
                    # The next one in line is served first the next time.
                    self.consumers[tag] = self.consumers.pop(tag)
                    return callback, message
        return None


class Backend(BaseBackend):
    """One channel of the stranger's."""

    Message = Message
    default_port = 7777
    _tags = itertools.count(1)

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.unacked: dict[int, Message] = {}
        self.tags_here: list[str] = []

    def establish_connection(self) -> Link:
        conninfo = self.connection
        for setting in ("hostname", "userid", "password", "virtual_host", "insist", "ssl"):
            getattr(conninfo, setting)
        if not conninfo.port:
            conninfo.port = self.default_port
        return Link(_stores.setdefault(conninfo.host, Store()))

    @property
    def link(self) -> Link:
        link: Link = self.connection.connection
        return link

    def close(self) -> None:
        link, self_tags = self.connection.connection, self.tags_here
        self.tags_here = []
        if link is not None:
            for tag in self_tags:
                link.consumers.pop(tag, None)
        self.unacked.clear()

    # -- what can be declared

    def queue_declare(  # type: ignore[override]
        self,
        arguments: Any,
        queue: str,
        warn_if_exists: bool,
        auto_delete: bool,
        exclusive: bool,
        durable: bool,
    ) -> None:
        with self.link.store.changed:
            self.link.store.queues.setdefault(queue, deque())

    def exchange_declare(  # type: ignore[override]
        self, durable: bool, auto_delete: bool, type: str, exchange: str
    ) -> None:
        with self.link.store.changed:
            self.link.store.exchanges.setdefault(exchange, (type, []))

    def queue_bind(
        self, routing_key: str, exchange: str, queue: str, arguments: Any = None
    ) -> None:
        with self.link.store.changed:
            self.link.store.exchanges[exchange][1].append((queue, routing_key))

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        with self.link.store.changed:
            count = len(self.link.store.queues[queue])
            self.link.store.queues[queue].clear()
        return count

    # -- receiving

    def take(self, queue: str, no_ack: bool) -> Message | None:
        with self.link.store.changed:
            waiting = self.link.store.queues[queue]
            if not waiting:
                return None
            message = waiting.popleft()
            message.backend, message.queue, message.delivery_tag = (
                self,
                waiting,
                next(self._tags),
            )
            message.delivery_info = {**message.delivery_info, "message_count": len(waiting)}
            if not no_ack:
                self.unacked[message.delivery_tag] = message
        return message

    def get(self, queue: str, no_ack: bool = False) -> Message | None:
        return self.take(queue, no_ack)

    def declare_consumer(  # type: ignore[override]
        self,
        consumer_tag: str,
        callback: Callable[[Any], Any],
        queue: str,
        no_ack: bool,
        nowait: bool = False,
    ) -> None:
        self.tags_here.append(consumer_tag)
        self.link.consumers[consumer_tag] = (queue, callback, no_ack, self)

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        for total in itertools.count():
            if limit and total >= limit:
                raise StopIteration
            self.link.drain_events()
            yield True

    def cancel(self, consumer_tag: str) -> None:
        self.link.consumers.pop(consumer_tag, None)

    def ack(self, delivery_tag: Any) -> None:
        self.unacked.pop(delivery_tag, None)

    def reject(self, delivery_tag: Any) -> None:
        self.unacked.pop(delivery_tag, None)

    def requeue(self, delivery_tag: Any) -> None:
        message = self.unacked.pop(delivery_tag, None)
        if message is not None:
            self._enqueue(message.queue, message)

    def message_to_python(self, raw_message: Any) -> Any:
        return raw_message

    # -- sending

    def prepare_message(  # type: ignore[override]
        self,
        message_data: Any,
        delivery_mode: int,
        content_encoding: str,
        content_type: str,
        priority: int | None = None,
    ) -> Message:
        return Message(
            self,
            body=message_data,
            content_type=content_type,
            content_encoding=content_encoding,
        )

    def publish(
        self,
        message: Any,
        routing_key: str,
        exchange: str,
        headers: Any = None,
        immediate: bool | None = None,
        mandatory: bool | None = None,
    ) -> None:
        message.delivery_info = {
            "exchange": exchange,
            "routing_key": routing_key,
            "redelivered": False,
        }
        with self.link.store.changed:
            for queue in self.link.store.route(exchange, routing_key):
                self._enqueue(queue, message)

    def _enqueue(self, queue: deque[Message], message: Message) -> None:
        copy = Message(
            self,
            body=message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            delivery_info=dict(message.delivery_info),
        )
        with self.link.store.changed:
            queue.append(copy)
            self.link.store.changed.notify_all()
