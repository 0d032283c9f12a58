"""A backend that loses its connection at the operation that a test names.

The broker behind it is the pure one; nothing waits and nothing runs by itself,
so that the same script meets the same fault at the same place each time.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from carrot import recovery
from carrot.backends.base import BaseBackend, BaseMessage
from carrot.broker import Broker, Cancelled, Confirmed, Delivery, Nacked, Returned
from carrot.confirms import Tracker, Unconfirmed
from carrot.connection import BrokerConnection
from carrot.exceptions import (
    ChannelError,
    ConnectFailed,
    ConnectionLost,
    DrainTimeout,
)

__all__ = ["Driver", "FaultyBackend", "World"]


class World:
    """A broker, the network to it, and what is to go wrong."""

    connections: ClassVar[weakref.WeakSet[BrokerConnection]] = weakref.WeakSet()

    def __init__(self, *cuts: int, late: bool = False) -> None:
        self.broker = Broker()
        #: Numbers of the operations, from 1, at which the connection breaks.
        self.cuts = set(cuts)
        #: Break it after the operation was done, rather than before.
        self.late = late
        #: Names of the operations so far.
        self.operations: list[str] = []
        self.drivers: list[Driver] = []
        #: What the next tries to connect raise, if anything.
        self.refusals: list[Exception | None] = []
        #: Whether every try to connect fails.
        self.down = False
        #: Host and port of each try to connect.
        self.tried: list[tuple[Any, Any]] = []
        self.pauses: list[float] = []
        #: Whether a refused message is told of at the next operation only,
        #: as over a wire.
        self.delayed = False
        #: Whether confirms are kept back.
        self.silent = False
        self.lock = threading.RLock()
        world = self

        class Backend(FaultyBackend):
            pass

        Backend.world = world
        self.backend_cls = Backend

    def connection(self, **options: Any) -> BrokerConnection:
        """Return a connection to the broker that recovers without pausing."""
        connection = BrokerConnection("host", backend_cls=self.backend_cls, **options)
        session = recovery.Session(connection, pause=self.pauses.append, jitter=lambda: 1.0)
        connection.__dict__["_live_session"] = session
        self.connections.add(connection)
        return connection

    @classmethod
    def close_all(cls) -> None:
        """Close every connection of every world."""
        while cls.connections:
            cls.connections.pop().close()

    def step(self, name: str, driver: Driver) -> Step:
        """Return the context of an operation."""
        return Step(self, name, driver)

    def lose(self) -> None:
        """Break every connection."""
        for driver in self.drivers:
            driver.die()

    def refuse(self, count: int, error: type[Exception] = ConnectFailed) -> None:
        """Have so many tries to connect fail."""
        self.refusals += [error("refused") for _ in range(count)]

    def bodies(self, queue: str) -> list[bytes]:
        """Return what is on a queue, and take it off."""
        channel = self.broker.connect().channel()
        found = []
        while (delivery := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(delivery.body)
        return found

    def declared(self, kind: str = "queues") -> set[str]:
        """Return the names of the queues, or exchanges, that there are."""
        return {name for name in getattr(self.broker.vhost("/"), kind) if name}


class Driver:
    """A connection to the broker of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.raw = world.broker.connect()
        self.alive = True
        self.goodbyes = 0
        self.backends: list[FaultyBackend] = []
        world.drivers.append(self)

    def die(self) -> None:
        if self.alive:
            self.alive = False
            self.raw.close()

    def check(self) -> None:
        if not self.alive:
            raise ConnectionLost("the wire was cut")

    def close(self) -> None:
        self.goodbyes += 1
        self.die()

    def channel(self) -> Any:
        self.check()
        return self.raw.channel()

    def drain_events(self, timeout: float | None = None) -> bool:
        with self.world.step("drain", self):
            found = next(filter(None, (each.next() for each in list(self.backends))), None)
        if found is not None:
            found()  # without the lock: callbacks may do anything
            return True
        if timeout is None:
            raise AssertionError("this would wait for ever")
        raise DrainTimeout("nothing came")


class Step:
    """An operation, and the fault that meets it."""

    def __init__(self, world: World, name: str, driver: Driver) -> None:
        world.operations.append(name)
        self.world, self.driver = world, driver
        self.cut = len(world.operations) in world.cuts

    def __enter__(self) -> None:
        self.world.lock.acquire()
        try:
            if self.cut and not self.world.late:
                self.driver.die()
            self.driver.check()
        except BaseException:
            self.world.lock.release()
            raise

    def __exit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        self.world.lock.release()
        if self.cut and self.world.late and exc is None:
            self.driver.die()
            self.driver.check()


class Prepared:
    """A message to publish."""

    def __init__(self, body: bytes, properties: dict[str, Any]) -> None:
        self.body = body
        self.properties = properties


class FaultyBackend(BaseBackend):
    """A channel of a :class:`Driver`."""

    world: ClassVar[Any]
    features: ClassVar[frozenset[str]] = frozenset(["confirms", "stop"])
    default_port = 7

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.raw: Any = None
        self.driver: Any = None
        self.tracker: Tracker | None = None
        self.life = 0
        self.error: ChannelError | None = None
        self.callbacks: dict[str, Callable[[Any], Any]] = {}
        self.stopping = False

    def establish_connection(self) -> Driver:
        self.world.tried.append((self.connection.hostname, self.connection.port))
        if self.world.down:
            raise ConnectFailed("refused")
        if self.world.refusals:
            refusal = self.world.refusals.pop(0)
            if refusal is not None:
                raise refusal
        driver = Driver(self.world)
        with self.world.step("connect", driver):
            pass
        return driver

    def close_connection(self, connection: Driver) -> None:
        connection.close()

    def close(self) -> None:
        if self.raw is not None:
            self.raw.close()
            self.driver.backends.remove(self)
            self.raw = None

    @property
    def channel_closed(self) -> bool:
        return self.raw is not None and not self.raw.is_open

    def do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Perform an operation of the broker's channel; it may meet a fault."""
        if self.raw is None or not self.raw.is_open:
            self.open()
        with self.world.step(name, self.driver):
            return getattr(self.raw, name)(*args, **kwargs)

    def open(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error
        driver = self.connection.connection
        with self.world.step("open", driver):
            self.raw, self.driver = driver.channel(), driver
            driver.backends.append(self)
            if self.tracker is not None:
                self.life = self.tracker.begin()
                self.raw.confirm_select()

    # -- topology

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
        warn_if_exists: bool = False,
    ) -> Any:
        return self.do(
            "queue_declare",
            queue,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=arguments,
        )

    def queue_exists(self, queue: str) -> bool:
        try:
            self.do("queue_declare", queue, passive=True)
        except ChannelError:
            return False
        return True

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Any:
        return self.do("queue_delete", queue, if_unused=if_unused, if_empty=if_empty)

    def queue_purge(self, queue: str) -> Any:
        return self.do("queue_purge", queue)

    def exchange_declare(
        self, exchange: str, type: str, durable: bool, auto_delete: bool
    ) -> Any:
        return self.do(
            "exchange_declare", exchange, type, durable=durable, auto_delete=auto_delete
        )

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        return self.do("queue_bind", queue, exchange, routing_key, arguments)

    # -- receiving

    def get(self, queue: str, no_ack: bool = False) -> Any:
        delivery = self.do("basic_get", queue, no_ack=no_ack)
        return None if delivery is None else self.message_to_python(delivery)

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        nowait: bool = False,
    ) -> Any:
        self.do("basic_consume", queue, consumer_tag, no_ack=no_ack)
        self.callbacks[consumer_tag] = callback

    def consume(self, limit: int | None = None) -> Iterator[bool]:
        seen = 0
        while not self.stopping:
            if self.connection.drain_events():
                seen += 1
                yield True
                if seen == limit:
                    return
        self.stopping = False

    def stop(self) -> None:
        self.stopping = True

    def cancel(self, consumer_tag: str) -> None:
        self.do("basic_cancel", consumer_tag)

    def next(self) -> Callable[[], Any] | None:
        """Take the next event; return what is to be done about it."""
        kept = []
        found: Callable[[], Any] | None = None
        while self.raw is not None and self.raw.events and found is None:
            event = self.raw.events.popleft()
            if type(event) is Delivery:
                found = partial(self.callbacks[event.consumer_tag], event)
            elif type(event) is Cancelled:
                self.callbacks.pop(event.consumer_tag)
                found = partial(self.on_cancel or (lambda tag: None), event.consumer_tag)
            elif self.world.silent:
                kept.append(event)
            else:
                self.answered(event)
        if kept:
            self.raw.events.extendleft(reversed(kept))
        return found

    def message_to_python(self, raw_message: Any) -> BaseMessage:
        if isinstance(raw_message, BaseMessage):
            return raw_message  # made by hand
        return BaseMessage(
            self,
            body=raw_message.body,
            delivery_tag=raw_message.delivery_tag,
            content_type="text/plain",
            content_encoding="utf-8",
            delivery_info={"redelivered": raw_message.redelivered},
        )

    def ack(self, delivery_tag: Any) -> None:
        self.do("basic_ack", delivery_tag)

    def reject(self, delivery_tag: Any) -> None:
        self.do("basic_reject", delivery_tag, False)

    def requeue(self, delivery_tag: Any) -> None:
        self.do("basic_reject", delivery_tag, True)

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> Any:
        return self.do("basic_qos", prefetch_count, apply_global)

    # -- sending

    def prepare_message(
        self,
        message_data: Any,
        delivery_mode: int,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
    ) -> Prepared:
        return Prepared(message_data, {"delivery_mode": delivery_mode})

    def publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool | None = None,
        immediate: bool | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        if self.raw is None or not self.raw.is_open:
            self.open()
        if self.tracker is not None:
            while self.tracker.full:
                self.pump()
            entry = Unconfirmed(message, exchange, routing_key, mandatory, headers, 1)
            self.tracker.add(entry, self.life)
        try:
            self.do(
                "basic_publish",
                message.body,
                message.properties,
                exchange,
                routing_key,
                mandatory=bool(mandatory),
            )
        except ChannelError as exc:
            if not self.world.delayed:
                raise
            self.error = exc

    def confirm_select(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def pump(self, timeout: float | None = None) -> None:
        if self.raw is None or not self.raw.is_open:
            self.open()
        with self.world.step("pump", self.driver):
            events = self.raw.events
            for _ in range(len(events)):
                event = events.popleft()
                if type(event) in (Delivery, Cancelled):
                    events.append(event)
                elif not self.world.silent:
                    self.answered(event)
                    return
        raise DrainTimeout("nothing came")

    def answered(self, event: Any) -> None:
        tracker = self.tracker
        assert tracker is not None
        if type(event) is Returned:
            tracker.bounced(event.exchange, event.routing_key, event.body, life=self.life)
        elif type(event) is Confirmed:
            tracker.ack(event.delivery_tag, event.multiple, self.life)
        elif type(event) is Nacked:
            tracker.nack(event.delivery_tag, event.multiple, self.life)
