"""What consumers and sets of consumers share: from a raw message to the callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from carrot import serialization
from carrot.backends.base import BaseMessage
from carrot.exceptions import ConfigurationError, NoCallbacks, SerializationError

logger = logging.getLogger("carrot.messaging")

#: Bytes of an undecodable body that are logged.
EXCERPT = 64

_DECODE_ERROR_ACTIONS = ("reject", "requeue", "raise")


def checked_callback(callback: Any) -> Callable[[Any, Any], Any]:
    """Return a callback, if it can be called.

    :raises ConfigurationError: it cannot.
    """
    if not callable(callback):
        raise ConfigurationError(
            f"a callback is a function of (message_data, message), not {callback!r:.60}"
        )
    function: Callable[[Any, Any], Any] = callback
    return function


class Receiver:
    """Passes received messages to callbacks."""

    connection: Any
    backend: Any

    #: Functions called with ``(message_data, message)``, in this order.
    callbacks: list[Callable[[Any, Any], Any]]

    #: Acknowledge each message after its callbacks returned.
    auto_ack: bool = False

    #: Serializer names or content types that are decoded, and no others;
    #: ``None``: the connection's ``accept``, or what the process accepts.
    accept: Any = None

    #: What becomes of a message that cannot be decoded, or must not be:
    #: ``"reject"`` (discarded, or dead-lettered where the queue says so),
    #: ``"requeue"``, ``"raise"``, or a function called with ``(message, error)``.
    on_decode_error: str | Callable[[Any, SerializationError], Any] = "reject"

    # Subclasses and instances override `accept`; this is what was made of it.
    _accepted: frozenset[str] | None

    def _settle_receiving(self) -> None:
        """Check the options above; called by constructors."""
        accept = self.accept
        if accept is None:
            accept = getattr(self.connection, "accept", None)
        self._accepted = serialization.accepted(accept)
        action = self.on_decode_error
        if action not in _DECODE_ERROR_ACTIONS and not callable(action):
            raise ConfigurationError(
                f"on_decode_error={action!r} is none of"
                f" {', '.join(map(repr, _DECODE_ERROR_ACTIONS))}, nor a function"
            )

    def register_callback(self, callback: Callable[[Any, Any], Any]) -> None:
        """Have *callback* called with ``(message_data, message)`` for each message.

        :raises ConfigurationError: it cannot be called.
        """
        self.callbacks.append(checked_callback(callback))

    def receive(self, message_data: Any, message: Any) -> None:
        """Process a message: call each callback. Subclasses may override it.

        :param message_data: the decoded payload.
        :raises NoCallbacks: there are none (a :exc:`NotImplementedError`).
        """
        if not self.callbacks:
            raise NoCallbacks(
                f"{type(self).__name__} received a message but has no callbacks:"
                " call register_callback(), or override receive(message_data, message)"
            )
        for callback in self.callbacks:
            callback(message_data, message)

    def _deliver(
        self, raw_message: Any, receiver: Receiver, auto_ack: bool, no_ack: bool
    ) -> None:
        message = self.backend.message_to_python(raw_message)
        if no_ack or self._accepted is not None:
            self._prepare(message, no_ack)
        try:
            payload = message.payload
        except SerializationError as exc:
            self._decode_failed(message, exc)
            return
        try:
            receiver.receive(payload, message)
        except StopIteration:
            # To the generators below it would mean that there are no messages
            # any more (PEP 479), as would an error of which it is the cause:
            # the loop would end without a word.
            raise RuntimeError("a callback raised StopIteration")  # noqa: B904
        # After the callbacks: a message whose callback failed is not lost.
        if auto_ack and not message.acknowledged:
            message.ack()

    def _prepare(self, message: Any, no_ack: bool) -> None:
        if self._accepted is not None:
            message.accept = self._accepted
        if no_ack and isinstance(message, BaseMessage):
            # The broker forgot it as it was sent: acknowledging it would be
            # an unknown delivery tag, which costs the channel.
            message._state = "ACK"

    def _decode_failed(self, message: Any, error: SerializationError) -> None:
        action = self.on_decode_error
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
        logger.error(
            "cannot decode message (%s): content type %r, encoding %r, %d bytes, %r, begins %r;"
            " on_decode_error=%s",
            error,
            message.content_type,
            message.content_encoding,
            len(body),
            message.delivery_info,
            body[:EXCERPT],
            action,
        )
        count = getattr(self.connection, "count", None)
        if count is not None:
            count("decode_failures")
        if callable(action):
            action(message, error)
        elif action == "raise":
            raise error
        elif not message.acknowledged:
            if action == "requeue":
                message.requeue()
            else:
                message.reject()
