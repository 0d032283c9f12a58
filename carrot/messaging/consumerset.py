"""Several consumers that share a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from carrot.exceptions import ConnectionClosed
from carrot.messaging.consumer import Consumer, bound_unsettled, consume_events
from carrot.messaging.receiver import Receiver
from carrot.options import checked_connection, checked_count, set_options

if TYPE_CHECKING:
    from types import TracebackType

_Self = TypeVar("_Self", bound="ConsumerSet")


class ConsumerSet(Receiver):
    """Receives the messages of several queues over one channel.

    A consumer that has callbacks of its own uses those, the others use the
    set's; where the set has none, the consumer's own ``receive``.

    :param connection: a :class:`~carrot.connection.BrokerConnection`.
    :param from_dict: options of a consumer by name of queue.
    :param consumers: :class:`Consumer` instances; they move to the set's channel.
    :param callbacks: functions called with ``(message_data, message)``.
    :param auto_ack: acknowledge each message after its callbacks returned.
    :param accept: see :attr:`Consumer.accept`, for those that have none.
    :param on_decode_error: see :attr:`Consumer.on_decode_error`.
    """

    #: The consumers of the set.
    consumers: list[Consumer]

    _closed = False
    _stopping = False
    _looping = False
    _init_opts: tuple[str, ...] = ("auto_ack", "accept", "on_decode_error")

    def __init__(
        self,
        connection: Any,
        from_dict: Mapping[str, Mapping[str, Any]] | None = None,
        consumers: Sequence[Consumer] | None = None,
        callbacks: Sequence[Callable[[Any, Any], Any]] | None = None,
        *,
        backend: Any = None,
        **options: Any,
    ) -> None:
        self.connection = checked_connection(connection)
        self.options = options
        self.from_dict = from_dict or {}
        self.callbacks = []
        self.consumers = []
        set_options(self, options, self._init_opts)
        self._settle_receiving()
        self.backend = connection.create_backend() if backend is None else backend
        for callback in callbacks or ():
            self.register_callback(callback)
        for consumer in consumers or ():
            self.add_consumer(consumer)
        for queue, consumer_options in self.from_dict.items():
            self.add_consumer_from_dict(queue, **consumer_options)

    def __repr__(self) -> str:
        queues = ", ".join(repr(consumer.queue) for consumer in self.consumers)
        state = "closed" if self._closed else "open"
        return (
            f"<{type(self).__name__} of {queues or 'no queues'} on {self.connection!r} {state}>"
        )

    def add_consumer_from_dict(self, queue: str, **options: Any) -> Consumer:
        """Add a consumer of *queue*, declare it, and return it.

        :param options: those of :class:`Consumer`; ``binding_key`` is another
            name of ``routing_key``.
        """
        if "binding_key" in options:
            options.setdefault("routing_key", options.pop("binding_key"))
        # For publishers of the same configuration (Celery's); not for us.
        options.pop("default_routing_key", None)
        consumer = Consumer(self.connection, queue=queue, backend=self.backend, **options)
        self.add_consumer(consumer)
        return consumer

    def add_consumer(self, consumer: Consumer) -> None:
        """Add a consumer; it moves to the channel of the set."""
        if consumer.backend is not self.backend:
            if consumer._owns_backend:
                consumer.channel_open = False
                consumer.backend.close()
            consumer.backend = self.backend
        self.consumers.append(consumer)

    def consume(self) -> None:
        """Subscribe each consumer that is not subscribed yet, ones added since included."""
        if self._closed:
            raise ConnectionClosed(f"{self!r} was closed; make a new ConsumerSet")
        for consumer in self.consumers:
            if not consumer.channel_open:
                consumer._subscribe(self.backend, self._receiver(consumer), consumer.no_ack)

    def _receiver(self, consumer: Consumer) -> Callable[[Any], None]:
        def receive_callback(raw_message: Any) -> None:
            own = consumer.callbacks or not self._receives
            receiver = consumer if own else self
            auto_ack = self.auto_ack or consumer.auto_ack
            deliver = self._deliver if consumer.accept is None else consumer._deliver
            deliver(raw_message, receiver, auto_ack, consumer.no_ack)

        return receive_callback

    @property
    def _receives(self) -> bool:
        return bool(self.callbacks) or type(self).receive is not Receiver.receive

    def _receive_callback(self, raw_message: Any) -> None:
        """Process a message in the form in which the driver hands it over."""
        self._deliver(raw_message, self, self.auto_ack, no_ack=False)

    def iterconsume(self, limit: int | None = None) -> Iterator[bool]:
        """Subscribe now; yield ``True`` after each message's callbacks ran.

        An empty set ends at once.

        :param limit: end after so many messages; ``None`` or 0: no limit.
        """
        limit = checked_count(limit, "limit") or None
        if not self.consumers:
            return iter(())
        self.consume()
        return consume_events(self, limit)

    def wait(self, limit: int | None = None) -> None:
        """Process messages until *limit* is reached or :meth:`stop` is called."""
        for _ in self.iterconsume(limit):
            pass

    def stop(self) -> None:
        """End a running :meth:`iterconsume`; see :meth:`Consumer.stop`."""
        self._stopping = True
        if "stop" in getattr(self.backend, "features", ()):
            self.backend.stop()

    def discard_all(self) -> int:
        """Discard what is ready on every queue; return how many messages."""
        return sum(consumer.discard_all() for consumer in self.consumers)

    def flow(self, active: bool) -> Any:
        """Ask the broker to pause (``False``) or resume deliveries."""
        return self.backend.flow(active)

    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> Any:
        """Bound unsettled messages; see :meth:`Consumer.qos`."""
        return bound_unsettled(self.backend, prefetch_size, prefetch_count, apply_global)

    def cancel(self) -> None:
        """End every subscription."""
        for consumer in self.consumers:
            consumer.cancel()

    def cancel_by_queue(self, queue: str) -> None:
        """End the subscription to *queue*. The consumer leaves the set."""
        for consumer in [each for each in self.consumers if each.queue == queue]:
            consumer.cancel()
            self.consumers.remove(consumer)

    def close(self) -> None:
        """Close the channel; unsettled messages go back. Idempotent, quiet.

        Ends a running :meth:`wait` or :meth:`iterconsume`.
        """
        if self._closed:
            return
        self._closed = True
        if self._looping:
            self.stop()
        for consumer in self.consumers:
            consumer.close()
        self.backend.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
