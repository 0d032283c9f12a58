"""The part of the backend that has a channel, and a connection that it belongs to."""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from carrot.backends.base import BaseBackend
from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.connection import Connection
from carrot.backends.pyamqplib.errors import translated
from carrot.backends.pyamqplib.login import login
from carrot.exceptions import ChannelError, NotSupported

if TYPE_CHECKING:
    from carrot.confirms import Tracker

__all__ = ["DEFAULT_PORT", "ChannelledBackend", "close_quietly"]

#: Port of AMQP without TLS.
DEFAULT_PORT = 5672

logger = logging.getLogger("carrot.backends.pyamqplib")

#: Seconds for what a connection sets no ``timeout`` for.
_TIMEOUT = 30.0


class ChannelledBackend(BaseBackend):
    """Connects, and opens its channel at the first use, and again after an error."""

    default_port: int | None = DEFAULT_PORT
    Connection = Connection

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self._channel: Any = None
        # Whether it is one of our driver, or of another with its shape.
        self._ours = False
        self._opening = threading.RLock()
        self._tracker: Tracker | None = None

    def establish_connection(self) -> Any:
        """Connect; blocks up to the connection's ``connect_timeout``.

        :raises MissingSetting: host, user or password is missing.
        :raises ConnectFailed: the broker cannot be reached.
        :raises AuthenticationFailed: it refuses user, password or virtual host.
        """
        settings = self.connection
        if getattr(settings, "port", None) is None:
            settings.port = self.default_port
        connection = self.Connection(**login(settings, settings.port))
        connection.connect()
        return connection

    def close_connection(self, connection: Any) -> None:
        """Close the driver's connection; quiet, and a few seconds at most."""
        close_quietly(connection)

    @property
    def channel(self) -> Any:
        """The driver's channel, opened when there is none.

        :raises ChannelError: the broker closed the channel; raised once,
            unless it does not reopen.
        """
        channel = self._channel
        if channel is not None and getattr(channel, "is_open", True):
            return channel
        with self._opening:
            channel = self._channel
            if channel is not None:
                if getattr(channel, "is_open", True):
                    return channel  # another thread opened it
                if self.reopens:
                    self._channel = None
                error = getattr(channel, "error", None)
                if error is not None:
                    channel.error = None
                    raise error
                if not self.reopens:
                    raise ChannelError(504, "the channel was closed, and is replaced")
            self._channel = self._open()
            return self._channel

    def _open(self) -> Any:
        channel = self.connection.get_channel()
        self._ours = isinstance(channel, Channel)
        if not self._ours:
            _tame(channel)
        if self._tracker is not None:
            try:
                self._confirm_on(channel, self._tracker)
            except BaseException:
                close_quietly(channel)
                raise
        return channel

    def _confirm_on(self, channel: Any, tracker: Tracker) -> None:
        """Have a new channel confirm, and *tracker* count."""
        if not self._ours:
            raise NotSupported(f"{channel!r} cannot count publisher confirms")
        if channel.tracker is tracker:
            return
        life = tracker.begin()
        channel.confirm_select()
        channel.events["basic_ack"].add(partial(tracker.ack, life=life))
        channel.events["basic_nack"].add(partial(tracker.nack, life=life))
        channel.events["basic_return"].add(partial(_bounced, tracker, life))
        channel.tracker, channel.life = tracker, life

    @property
    def channel_closed(self) -> bool:
        """Whether the broker closed the channel; its consumers went with it."""
        channel = self._channel
        return channel is not None and not getattr(channel, "is_open", True)

    def close(self) -> None:
        """Close the channel: quiet, idempotent, and a few seconds at most."""
        channel, self._channel = self._channel, None
        if channel is not None:
            close_quietly(channel)

    def _call(self, name: str, **arguments: Any) -> Any:
        """Call a method of the channel, translating its errors."""
        try:
            return getattr(self.channel, name)(**arguments)
        except Exception as exc:
            raise self._translated(exc) from exc.__cause__

    def _translated(self, exc: Exception) -> Exception:
        return translated(exc, getattr(self.connection, "host", "the broker"))

    @property
    def _timeout(self) -> float:
        timeout = getattr(self.connection, "timeout", None)
        return _TIMEOUT if timeout is None else float(timeout)


def close_quietly(closable: Any) -> None:
    """Close a channel or a connection, whatever state it is in."""
    try:
        closable.close()
    except Exception as exc:
        # Only drivers of others raise here, when the link is gone.
        logger.debug("while closing %r: %r", closable, exc)


def _tame(channel: Any) -> None:
    """Have a channel of the plain ``amqp`` package, or like it, do as ours do."""
    if hasattr(channel, "auto_decode"):
        channel.auto_decode = False  # bodies are bytes
    properties = getattr(getattr(channel, "connection", None), "client_properties", None) or {}
    if properties.get("capabilities"):
        # With this it would read, and run consumers' callbacks, as it publishes.
        properties["capabilities"]["connection.blocked"] = False


def _bounced(
    tracker: Tracker, life: int, exc: Any, exchange: str, routing_key: str, message: Any
) -> None:
    tracker.bounced(
        exchange, routing_key, message.body, exc.reply_code, str(exc.reply_text), life=life
    )
