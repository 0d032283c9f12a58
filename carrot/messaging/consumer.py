"""The consumer: a queue, its binding, and what becomes of its messages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from carrot.exceptions import ConfigurationError, ConnectionClosed, PreconditionFailed
from carrot.messaging.receiver import Receiver
from carrot.names import shortstr, table
from carrot.options import checked_connection, checked_count, set_options
from carrot.utils import gen_unique_id

if TYPE_CHECKING:
    from types import TracebackType

_Self = TypeVar("_Self", bound="Consumer")


class Consumer(Receiver):
    """Receives the messages of a queue.

    Each attribute below is an option: set it in a subclass, or pass it to the
    constructor, where ``None`` means the class's value. One thread may
    consume at a time; any thread may settle the messages.

    :param connection: a :class:`~carrot.connection.BrokerConnection`.
    :param backend: the channel to use instead of one of its own.
    :param backend_cls: class or name of the backend, instead of the connection's.
    :raises ConfigurationError: an option has a value that cannot be.
    :raises PreconditionFailed: the queue or exchange exists with other settings.
    :raises ResourceLocked: another connection holds the queue exclusively.
    """

    #: Name of the queue. ``""`` given to the constructor has the broker
    #: choose one; the attribute then holds that, and after a recovery the next.
    queue: str = ""
    #: Exchange to bind the queue to; ``""``: bind nothing.
    exchange: str = ""
    #: Key of the binding; for a headers exchange, a dictionary of headers.
    routing_key: Any = ""
    #: Survive a restart of the broker. Queue and exchange share it.
    durable: bool = True
    #: Only this connection may use the queue. Implies :attr:`auto_delete`.
    exclusive: bool = False
    #: Vanish with the last use. Queue and exchange share it.
    auto_delete: bool = False
    #: :attr:`durable` of the queue alone; ``None``: as shared.
    queue_durable: bool | None = None
    #: :attr:`auto_delete` of the queue alone; ``None``: as shared.
    queue_auto_delete: bool | None = None
    #: :attr:`durable` of the exchange alone; ``None``: as shared.
    exchange_durable: bool | None = None
    #: :attr:`auto_delete` of the exchange alone; ``None``: as shared.
    exchange_auto_delete: bool | None = None
    #: ``"direct"``, ``"fanout"``, ``"topic"``, ``"headers"``, or a plugin's.
    exchange_type: str = "direct"
    #: Warn (``QueueAlreadyExistsWarning``) when the queue exists already.
    warn_if_exists: bool = False
    #: Declare queue, exchange and binding in the constructor.
    auto_declare: bool = True
    #: Have the broker forget messages as it sends them: at most once.
    no_ack: bool = False
    #: Further arguments of the queue, such as ``{"x-message-ttl": 60000}``.
    queue_arguments: dict[str, Any] | None = None

    #: Whether the consumer is subscribed to its queue.
    channel_open: bool = False
    #: Identifies the subscription; unique to each instance.
    consumer_tag: str

    _closed = True
    _stopping = False
    _looping = False

    #: Names of the options that the constructor reads; subclasses extend it.
    _init_opts: tuple[str, ...] = (
        "durable",
        "exclusive",
        "auto_delete",
        "queue_durable",
        "queue_auto_delete",
        "exchange_durable",
        "exchange_auto_delete",
        "exchange_type",
        "warn_if_exists",
        "auto_ack",
        "no_ack",
        "auto_declare",
        "queue_arguments",
        "accept",
        "on_decode_error",
    )

    def __init__(
        self,
        connection: Any,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: Any = None,
        *,
        backend: Any = None,
        backend_cls: Any = None,
        **options: Any,
    ) -> None:
        self.connection = checked_connection(connection)
        self.callbacks = []
        given = dict(options, queue=queue, exchange=exchange, routing_key=routing_key)
        set_options(self, given, (*self._init_opts, "queue", "exchange", "routing_key"))
        if self.exclusive:
            self.auto_delete = True
        shortstr(self.queue, "queue")
        shortstr(self.exchange, "exchange")
        shortstr(self.exchange_type, "exchange_type")
        if self.queue_arguments is not None:
            table(self.queue_arguments, "queue_arguments")
        self._settle_receiving()
        self.consumer_tag = self._generate_consumer_tag()
        self._owns_backend = backend is None
        if backend is None:
            of = () if backend_cls is None else (backend_cls,)
            backend = connection.create_backend(*of)
        self.backend = backend
        self._server_named = queue == ""
        self._closed = False
        if self.auto_declare:
            self.declare()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "consuming" if self.channel_open else "open"
        return f"<{type(self).__name__} of queue {self.queue!r} on {self.connection!r} {state}>"

    def _generate_consumer_tag(self) -> str:
        cls = type(self)
        return f"{cls.__module__}.{cls.__name__}"[-200:] + f"-{gen_unique_id()}"

    # -- declaring

    def declare(self: _Self) -> _Self:
        """Declare the queue, the exchange, and the binding between them.

        Blocks up to the connection's ``timeout``. What exists already with
        the same settings is left as it is.

        :raises PreconditionFailed: it exists with other settings.
        """
        try:
            if self.queue or self._server_named:
                self._declare_queue()
            if self.exchange:
                self._declare_exchange()
        except PreconditionFailed as exc:
            raise self._explained(exc) from exc
        # Every queue is bound to the default exchange already, and RabbitMQ
        # refuses (403) to do it again.
        if self.queue and self.exchange:
            self._bind()
        return self

    def _declare_queue(self) -> None:
        declared = self.backend.queue_declare(
            queue=self.queue,
            durable=_first(self.queue_durable, self.durable),
            exclusive=self.exclusive,
            auto_delete=_first(self.queue_auto_delete, self.auto_delete),
            arguments=self.queue_arguments,
            warn_if_exists=self.warn_if_exists,
        )
        if self._server_named and declared:
            self.queue = declared[0]
            follow = getattr(self.backend, "follow", None)
            if follow is not None:
                follow(self._renamed)

    def _renamed(self, former: str, queue: str) -> None:
        if self.queue == former:
            self.queue = queue

    def _declare_exchange(self) -> None:
        self.backend.exchange_declare(
            exchange=self.exchange,
            type=self.exchange_type,
            durable=_first(self.exchange_durable, self.durable),
            auto_delete=_first(self.exchange_auto_delete, self.auto_delete),
        )

    def _bind(self) -> None:
        routing_key, arguments = self.routing_key, None
        if self.exchange_type == "headers":
            if routing_key and not isinstance(routing_key, dict):
                raise ConfigurationError(
                    "the routing_key of a headers exchange is a dictionary of headers to match,"
                    f" not {routing_key!r}"
                )
            routing_key, arguments = "", table(routing_key or {}, "routing_key")
        self.backend.queue_bind(
            queue=self.queue,
            exchange=self.exchange,
            routing_key=shortstr(routing_key, "routing_key"),
            arguments=arguments,
        )

    def _explained(self, error: PreconditionFailed) -> PreconditionFailed:
        shared = ("'durable'", "'auto_delete'")
        if not any(name in error.reply_text for name in shared):
            return error
        return PreconditionFailed(
            error.reply_code,
            f"{error.reply_text} (queue {self.queue!r} and exchange {self.exchange!r} share"
            " durable and auto_delete; to set them apart: queue_durable, queue_auto_delete,"
            " exchange_durable, exchange_auto_delete)",
        )

    # -- polling

    def fetch(
        self,
        no_ack: bool | None = None,
        auto_ack: bool | None = None,
        enable_callbacks: bool = False,
    ) -> Any:
        """Take the next message off the queue.

        Does not wait for one; blocks for the broker's answer only.

        :param no_ack: overrides :attr:`no_ack`.
        :param auto_ack: overrides :attr:`auto_ack`.
        :param enable_callbacks: pass the message to :meth:`receive` as well.
        :returns: a :class:`~carrot.backends.base.BaseMessage`, or ``None``.
        """
        self._check_usable()
        no_ack = _first(no_ack, self.no_ack)
        message = self.backend.get(self.queue, no_ack=no_ack)
        if message is None:
            return None
        self._prepare(message, no_ack)
        if enable_callbacks:
            self.receive(message.payload, message)
        if _first(auto_ack, self.auto_ack) and not message.acknowledged:
            message.ack()
        return message

    def process_next(self) -> Any:
        """Fetch a message and pass it to the callbacks. Deprecated.

        Use ``fetch(enable_callbacks=True)``.
        """
        warnings.warn(
            "Consumer.process_next() is deprecated; use fetch(enable_callbacks=True)",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.fetch(enable_callbacks=True)

    def iterqueue(self, limit: int | None = None, infinite: bool = False) -> Iterator[Any]:
        """Iterate over messages by polling with :meth:`fetch`.

        :param limit: end after so many messages, taking no more off the
            queue; ``None`` or 0: no limit.
        :param infinite: yield ``None`` where there is no message, rather than end.
        """
        return self._polled(checked_count(limit, "limit"), infinite)

    def _polled(self, limit: int, infinite: bool) -> Iterator[Any]:
        taken = 0
        while not limit or taken < limit:
            message = self.fetch()
            if message is not None:
                taken += 1
            elif not infinite:
                return
            yield message

    def __iter__(self) -> Iterator[Any]:
        return self.iterqueue(infinite=True)

    # -- consuming

    def consume(self, no_ack: bool | None = None) -> None:
        """Subscribe to the queue.

        Messages then arrive through ``connection.drain_events()``. A second
        call changes nothing.

        :param no_ack: overrides :attr:`no_ack`.
        :raises NotFound: there is no such queue.
        """
        self._check_usable()
        if self.channel_open:
            return
        no_ack = _first(no_ack, self.no_ack)
        self._subscribe(self.backend, self._receiver(no_ack), no_ack)

    def _receiver(self, no_ack: bool) -> Callable[[Any], None]:
        if no_ack == self.no_ack:
            return self._receive_callback

        def receive(raw_message: Any) -> None:
            self._deliver(raw_message, self, self.auto_ack, no_ack)

        return receive

    def _subscribe(self, backend: Any, callback: Callable[[Any], None], no_ack: bool) -> None:
        backend.declare_consumer(
            queue=self.queue,
            no_ack=no_ack,
            callback=callback,
            consumer_tag=self.consumer_tag,
            nowait=False,
        )
        self.channel_open = True

    def _receive_callback(self, raw_message: Any) -> None:
        """Process a message in the form in which the driver hands it over."""
        self._deliver(raw_message, self, self.auto_ack, self.no_ack)

    def iterconsume(
        self, limit: int | None = None, no_ack: bool | None = None
    ) -> Iterator[bool]:
        """Subscribe now; yield ``True`` after each message's callbacks ran.

        Blocks between messages, through lost connections too, until
        :meth:`stop` is called.

        :param limit: end after so many messages; ``None`` or 0: no limit.
        :param no_ack: overrides :attr:`no_ack`.
        """
        limit = checked_count(limit, "limit") or None
        self.consume(no_ack=no_ack)
        return consume_events(self, limit)

    def wait(self, limit: int | None = None) -> None:
        """Process messages until *limit* is reached or :meth:`stop` is called.

        :param limit: number of messages; ``None`` or 0: no limit.
        """
        for _ in self.iterconsume(limit):
            pass

    def stop(self) -> None:
        """End a running :meth:`wait` or :meth:`iterconsume`.

        The message being processed is finished first. Callable from another
        thread and from a signal handler. With none running, the next one ends
        at once.
        """
        self._stopping = True
        if "stop" in getattr(self.backend, "features", ()):
            self.backend.stop()

    def qos(
        self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False
    ) -> Any:
        """Bound how many messages the broker sends before earlier ones are settled.

        :param prefetch_size: bytes; RabbitMQ supports 0 (no bound) only.
        :param prefetch_count: messages; 0 is no bound.
        :param apply_global: for the whole channel, not for each of its consumers.
        """
        return bound_unsettled(self.backend, prefetch_size, prefetch_count, apply_global)

    def flow(self, active: bool) -> Any:
        """Ask the broker to pause (``False``) or resume deliveries."""
        return self.backend.flow(active)

    def discard_all(self, filterfunc: Callable[[Any], Any] | None = None) -> int:
        """Discard what is ready on the queue.

        :param filterfunc: discard only the messages for which it is true;
            the others are on the queue afterwards, in their places.
        :returns: the number of messages discarded.
        :raises ConfigurationError: a filter together with ``auto_ack`` or ``no_ack``.
        """
        if filterfunc is None:
            return self.purge()
        if self.no_ack or self.auto_ack:
            raise ConfigurationError(
                "discard_all(filterfunc) has to give messages back, which a consumer"
                " with auto_ack or no_ack cannot; use one without"
            )
        discarded = 0
        kept: list[Any] = []
        try:
            while (message := self.fetch()) is not None:
                kept.append(message)
                if filterfunc(message):
                    kept.pop().ack()
                    discarded += 1
        finally:
            # Held until now, or the next fetch would return them again.
            for message in kept:
                message.requeue()
        return discarded

    def purge(self) -> int:
        """Discard everything that is ready on the queue; return how many messages."""
        self._check_usable()
        return self.backend.queue_purge(self.queue) or 0

    # -- the end

    def cancel(self) -> None:
        """End the subscription. Quiet when there is none.

        A running :meth:`wait` waits on, for :meth:`consume` may be called
        again; :meth:`stop` ends it.
        """
        if self.channel_open:
            self.channel_open = False
            self.backend.cancel(self.consumer_tag)

    def close(self) -> None:
        """Close the channel; unsettled messages go back to the queue. Idempotent, quiet.

        Ends a running :meth:`wait` or :meth:`iterconsume`.
        """
        if self._closed:
            return
        self._closed = True
        self.channel_open = False
        if self._looping:
            self.stop()
        self.backend.close()

    def _check_usable(self) -> None:
        if self._closed:
            raise ConnectionClosed(f"{self!r} was closed; make a new Consumer")
        if not self.queue:
            raise ConfigurationError(
                f"{type(self).__name__} has no queue: pass queue=..., or set it in the class"
            )

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def bound_unsettled(
    backend: Any, prefetch_size: int, prefetch_count: int, apply_global: bool
) -> Any:
    """Check the bounds that :meth:`Consumer.qos` was given, and set them."""
    checked_count(prefetch_size, "prefetch_size", most=2**32 - 1)
    checked_count(prefetch_count, "prefetch_count", most=2**16 - 1)
    return backend.qos(prefetch_size, prefetch_count, apply_global)


def consume_events(receiver: Any, limit: int | None) -> Iterator[bool]:
    """Yield ``True`` for each message that a receiver's backend dispatched.

    :param receiver: a consumer or a set of them: has ``backend``, ``_closed``,
        ``_stopping`` and ``_looping``.
    """
    backend = receiver.backend
    backend_stops = "stop" in getattr(backend, "features", ())
    seen = 0
    if receiver._closed:  # between iterconsume() and the first message
        return
    receiver._looping = True
    try:
        if not backend_stops and receiver._stopping:
            return
        for _ in backend.consume(limit=limit):
            seen += 1
            yield True
            if seen == limit:
                if backend_stops and receiver._stopping:
                    # Asked to stop while it did the last one: that is no
                    # request for the next loop, which is how it would end.
                    next(backend.consume(limit=1), None)
                return
            if not backend_stops and receiver._stopping:
                return
    except RuntimeError as exc:
        # PEP 479: a backend of the time before it ends its generator
        # by raising StopIteration inside.
        if not isinstance(exc.__cause__, StopIteration):
            raise
    finally:
        receiver._stopping = receiver._looping = False


def _first(value: Any, default: Any) -> Any:
    return default if value is None else value
