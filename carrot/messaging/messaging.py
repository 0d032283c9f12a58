"""A publisher and a consumer in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from carrot.exceptions import NoCallbacks
from carrot.messaging.consumer import Consumer
from carrot.messaging.publisher import Publisher
from carrot.messaging.receiver import checked_callback
from carrot.options import set_options

if TYPE_CHECKING:
    from types import TracebackType

_Self = TypeVar("_Self", bound="Messaging")


class Messaging:
    """Sends to an exchange and receives from a queue bound to it.

    :param connection: a :class:`~carrot.connection.BrokerConnection`.
    """

    queue: str = ""
    exchange: str = ""
    routing_key: Any = ""
    #: Class of the publisher; subclasses may name their own.
    publisher_cls: type[Publisher] = Publisher
    #: Class of the consumer; subclasses may name their own.
    consumer_cls: type[Consumer] = Consumer

    #: Functions called with ``(message_data, message)``.
    callbacks: list[Callable[[Any, Any], Any]]

    _closed = True

    def __init__(self, connection: Any, *, backend_cls: Any = None, **options: Any) -> None:
        self.connection = connection
        self.callbacks = []
        set_options(self, options, ("queue", "exchange", "routing_key"))
        self.publisher = self.publisher_cls(
            connection,
            exchange=self.exchange,
            routing_key=self.routing_key,
            backend_cls=backend_cls,
        )
        self.consumer = self.consumer_cls(
            connection,
            queue=self.queue,
            exchange=self.exchange,
            routing_key=self.routing_key,
            backend_cls=backend_cls,
        )
        self.consumer.register_callback(self.receive)
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.publisher!r} {self.consumer!r}>"

    def register_callback(self, callback: Callable[[Any, Any], Any]) -> None:
        """Have *callback* called with ``(message_data, message)`` for each message.

        :raises ConfigurationError: it cannot be called.
        """
        self.callbacks.append(checked_callback(callback))

    def receive(self, message_data: Any, message: Any) -> None:
        """Process a message; see :meth:`Consumer.receive`."""
        if not self.callbacks:
            raise NoCallbacks(
                f"{type(self).__name__} received a message but has no callbacks:"
                " call register_callback(), or override receive(message_data, message)"
            )
        for callback in self.callbacks:
            callback(message_data, message)

    def send(self, message_data: Any, delivery_mode: Any = None, **options: Any) -> None:
        """Send a message; see :meth:`Publisher.send`."""
        self.publisher.send(message_data, delivery_mode=delivery_mode, **options)

    def fetch(self, **options: Any) -> Any:
        """Take the next message off the queue; see :meth:`Consumer.fetch`."""
        return self.consumer.fetch(**options)

    def close(self) -> None:
        """Close consumer and publisher; see :meth:`Publisher.close`."""
        self._closed = True
        self.consumer.close()
        self.publisher.close()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        self.consumer.close()
        self.publisher.__exit__(exc_type, exc, traceback)
