"""Every error that leaves the library.

::

    CarrotError
    |-- ConfigurationError (ValueError)
    |   |-- BackendNotFound (ImportError)
    |   `-- MissingSetting (KeyError)
    |-- SerializationError
    |   |-- SerializerNotInstalled
    |   |-- EncodeError (TypeError, ValueError)
    |   |-- DecodeError (ValueError)
    |   `-- ContentDisallowed
    |-- BrokerError
    |   |-- BrokerConnectionError (OSError)
    |   |   |-- ConnectFailed
    |   |   |-- ConnectionLost
    |   |   |-- ConnectionBlocked
    |   |   |-- ConnectionClosed
    |   |   `-- AuthenticationFailed
    |   |-- ChannelError
    |   |   |-- NotFound              404
    |   |   |-- AccessRefused         403
    |   |   |-- ResourceLocked        405
    |   |   `-- PreconditionFailed    406
    |   `-- PublishError
    |       |-- Unroutable
    |       |-- PublishNacked
    |       |-- ConfirmTimeout
    |       `-- PublishRefused (ChannelError), and one each that is also a
    |           NotFound, AccessRefused, PreconditionFailed
    |-- DrainTimeout (TimeoutError)
    |-- MessageStateError
    |-- NoCallbacks (NotImplementedError)
    |-- NotSupported (NotImplementedError)
    `-- ConnectionLimitExceeded

The second base in parentheses is what carrot 0.10.7 raised in the same
place, so that an old ``except`` clause still catches the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AccessRefused",
    "AuthenticationFailed",
    "BackendNotFound",
    "BrokerConnectionError",
    "BrokerError",
    "CarrotError",
    "ChannelError",
    "ConfigurationError",
    "ConfirmTimeout",
    "ConnectFailed",
    "ConnectionBlocked",
    "ConnectionClosed",
    "ConnectionLimitExceeded",
    "ConnectionLost",
    "ContentDisallowed",
    "DecodeError",
    "DrainTimeout",
    "EncodeError",
    "MessageStateError",
    "MissingSetting",
    "NoCallbacks",
    "NotFound",
    "NotSupported",
    "PreconditionFailed",
    "PublishAccessRefused",
    "PublishError",
    "PublishNacked",
    "PublishNotFound",
    "PublishPreconditionFailed",
    "PublishRefused",
    "ResourceLocked",
    "SerializationError",
    "SerializerNotInstalled",
    "UnknownOptionWarning",
    "Unroutable",
    "channel_error",
    "publish_refused",
]


class CarrotError(Exception):
    """Any error of this library."""

    # KeyError and OSError print their arguments in forms of their own;
    # every error here prints its message.
    def __str__(self) -> str:
        return ": ".join(str(arg) for arg in self.args)


class ConfigurationError(CarrotError, ValueError):
    """Something the application configured cannot work."""


class BackendNotFound(ConfigurationError, ImportError):
    """The name of a backend is unknown, or the package that it needs is missing."""


class MissingSetting(ConfigurationError, KeyError):
    """A setting without which the broker cannot be reached is missing."""


class SerializationError(CarrotError):
    """A payload cannot be encoded or decoded."""


class SerializerNotInstalled(SerializationError):
    """The serializer is unknown, or the package that it needs is not installed."""


class EncodeError(SerializationError, TypeError, ValueError):
    """The message data cannot be expressed by the serializer."""


class DecodeError(SerializationError, ValueError):
    """The body is not what its content type and encoding say."""

    #: Content type, as the message carried it.
    content_type: str | None
    #: Content encoding, as the message carried it.
    content_encoding: str | None
    #: The body, undecoded.
    body: Any

    def __init__(
        self,
        message: str,
        content_type: str | None = None,
        content_encoding: str | None = None,
        body: Any = b"",
    ) -> None:
        super().__init__(message)
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.body = body


class ContentDisallowed(SerializationError):
    """The consumer does not accept the content type of the message."""


class BrokerError(CarrotError):
    """The broker, or the way to it, failed an operation."""

    #: Whether the same operation may succeed when tried again later.
    recoverable: bool = False


class BrokerConnectionError(BrokerError, OSError):
    """The connection as a whole failed."""

    recoverable = True
    #: Whether the broker ended it over something that it was sent.
    refused: bool = False


class ConnectFailed(BrokerConnectionError):
    """No connection could be established."""


class ConnectionLost(BrokerConnectionError):
    """An established connection broke."""

    #: Messages that were sent and not confirmed when a send gave up: records
    #: of :class:`carrot.confirms.Unconfirmed`.
    messages: Sequence[Any] = ()


class ConnectionBlocked(BrokerConnectionError):
    """The broker takes no more messages for now (memory or disk alarm, full link)."""


class ConnectionClosed(BrokerConnectionError):
    """The application closed the connection and then used it."""

    recoverable = False


class AuthenticationFailed(BrokerConnectionError):
    """The broker refused the user, the password, or the virtual host."""

    recoverable = False


class ChannelError(BrokerError):
    """The broker refused an operation and closed the channel that asked for it.

    ``args[0]`` is the reply code, as in carrot 0.10.7.
    """

    #: Reply code of the broker (AMQP 0-9-1, section 1.2, "constants").
    reply_code: int
    #: What the broker said.
    reply_text: str

    #: What the application can do about it.
    _remedy = ""

    def __init__(self, reply_code: int = 0, reply_text: str = "", *args: Any) -> None:
        super().__init__(reply_code, reply_text, *args)
        self.reply_code = reply_code
        self.reply_text = reply_text

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}; {self._remedy}" if self._remedy else text

    @property
    def amqp_reply_code(self) -> int:
        """Another name of :attr:`reply_code`, from carrot 0.10.7."""
        return self.reply_code

    @property
    def amqp_reply_text(self) -> str:
        """Another name of :attr:`reply_text`, from carrot 0.10.7."""
        return self.reply_text


class NotFound(ChannelError):
    """The queue or exchange does not exist (404)."""

    _remedy = "declare it first, or correct its name or the connection's virtual_host"


class AccessRefused(ChannelError):
    """The user may not do this (403)."""

    _remedy = "choose another name, or grant the user the permission"


class ResourceLocked(ChannelError):
    """Another connection holds the queue exclusively (405)."""

    _remedy = "use that connection, or declare the queue without exclusive=True"


class PreconditionFailed(ChannelError):
    """The broker's state contradicts the operation (406)."""

    _remedy = "make it agree with what was declared, or delete that; or correct the value"


_BY_REPLY_CODE: dict[int, type[ChannelError]] = {
    403: AccessRefused,
    404: NotFound,
    405: ResourceLocked,
    406: PreconditionFailed,
}


def channel_error(reply_code: int, reply_text: str, *args: Any) -> ChannelError:
    """Return the error that stands for a reply code.

    :param reply_code: what the broker closed the channel with.
    :param reply_text: its explanation.
    :returns: an instance of the closest subclass of :class:`ChannelError`.
    """
    return _BY_REPLY_CODE.get(reply_code, ChannelError)(reply_code, reply_text, *args)


class PublishError(BrokerError):
    """Messages were not accepted by the broker."""

    #: The messages concerned, in the order in which they were sent: records
    #: of :class:`carrot.confirms.Unconfirmed`.
    messages: list[Any]

    def __init__(self, message: str = "", messages: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.messages = list(messages)


class Unroutable(PublishError):
    """Mandatory messages matched no queue and were returned."""


class PublishNacked(PublishError):
    """The broker refused messages (a full queue that rejects, an internal error)."""


class ConfirmTimeout(PublishError):
    """The broker did not confirm messages in time; they may or may not arrive."""


class PublishRefused(PublishError, ChannelError):
    """The broker closed the channel because of messages (unknown exchange, too large)."""

    def __init__(
        self, reply_code: int, reply_text: str, message: str, messages: Sequence[Any] = ()
    ) -> None:
        ChannelError.__init__(self, reply_code, reply_text)
        self.messages = list(messages)
        self._message = message

    def __str__(self) -> str:
        return self._message


class PublishNotFound(PublishRefused, NotFound):
    """The exchange that messages were sent to does not exist (404)."""


class PublishAccessRefused(PublishRefused, AccessRefused):
    """The user may not send to the exchange (403)."""


class PublishPreconditionFailed(PublishRefused, PreconditionFailed):
    """The broker refuses messages such as these: too large, a wrong property (406)."""


_REFUSED_BY_REPLY_CODE: dict[int, type[PublishRefused]] = {
    403: PublishAccessRefused,
    404: PublishNotFound,
    406: PublishPreconditionFailed,
}


def publish_refused(
    reply_code: int, reply_text: str, message: str, messages: Sequence[Any]
) -> PublishRefused:
    """Return the error for messages because of which the broker closed a channel."""
    cls = _REFUSED_BY_REPLY_CODE.get(reply_code, PublishRefused)
    return cls(reply_code, reply_text, message, messages)


class DrainTimeout(CarrotError, TimeoutError):
    """Nothing arrived before the deadline."""


class MessageStateError(CarrotError):
    """The message was already acknowledged, rejected or requeued."""


class NoCallbacks(CarrotError, NotImplementedError):
    """A message arrived at a consumer that has neither callbacks nor ``receive``."""


class NotSupported(CarrotError, NotImplementedError):
    """The backend, or the broker, cannot do this."""


class ConnectionLimitExceeded(CarrotError):
    """Every connection of the pool is in use."""


class UnknownOptionWarning(UserWarning):
    """An option has a name that nothing reads; it is ignored."""
