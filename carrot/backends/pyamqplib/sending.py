"""The part of the backend that publishes, and hears what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.channelled import ChannelledBackend
from carrot.backends.pyamqplib.message import Outgoing, as_bytes
from carrot.backends.pyamqplib.rpc import within
from carrot.backends.pyamqplib.shortcut import Shortcut
from carrot.backends.pyamqplib.tables import encode_properties
from carrot.confirms import Tracker, Unconfirmed
from carrot.exceptions import ConfirmTimeout, ConnectionBlocked, DrainTimeout, NotSupported

__all__ = ["SendingBackend"]

#: Combinations of properties that are kept encoded.
_CACHED = 256
#: Kinds of messages for which a channel keeps shortcuts.
_KINDS = 1024

#: Content type, encoding, delivery mode and priority -> as a dictionary, as bytes.
_prepared: dict[Any, tuple[dict[str, Any], bytes]] = {}

_new = Outgoing.__new__

#: Bytes below which the buffer of a body may be much larger than the body.
_ROOMY = 4096


class SendingBackend(ChannelledBackend):
    """Publishes."""

    def prepare_message(
        self,
        message_data: Any,
        delivery_mode: int,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> Outgoing:
        try:
            template, encoded = _prepared[
                content_type, content_encoding, delivery_mode, priority
            ]
        except (KeyError, TypeError):
            template, encoded = _prepare(
                content_type, content_encoding, delivery_mode, priority
            )
        # Written out: this is called for each message.
        message = _new(Outgoing)
        message.body = (
            message_data if message_data.__class__ is bytes else as_bytes(message_data)
        )
        message.template = template
        message.encoded = encoded
        if properties:
            mine = message.properties
            mine.update(properties)
            if "headers" in mine:
                mine["application_headers"] = mine.pop("headers")
        return message

    def publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool | None = None,
        immediate: bool | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> None:
        """Send a message.

        An error means that it was not written; with :meth:`confirm_select`,
        and a connection that breaks meanwhile, it is counted and nothing raised.

        :raises NotSupported: *immediate* is set.
        :raises ConfirmTimeout: the window stayed full.
        """
        if immediate:
            raise NotSupported(
                "RabbitMQ has no immediate=True: it would close the connection;"
                " see x-message-ttl=0 and mandatory=True"
            )
        if headers:
            properties = message.properties
            known = properties.get("application_headers") or {}
            properties["application_headers"] = {**known, **headers}
        channel = self._channel
        tracker = self._tracker
        try:
            if channel.__class__ is not Channel or not channel.is_open:
                channel = self.channel
            if tracker is not None and tracker.full:
                self._await_window(tracker)
            if channel.__class__ is not Channel:
                channel.basic_publish(
                    message,
                    exchange=exchange,
                    routing_key=routing_key,
                    mandatory=bool(mandatory),
                )
            elif tracker is None:
                channel.basic_publish(message, exchange, routing_key, mandatory)
            else:
                size = len(message.body)
                if size < _ROOMY:
                    # A copy of its own: orjson leaves short bytes in a buffer of
                    # 4 KiB, all of which the window would hold.
                    message.body = b"".join((message.body, b""))
                what = message, exchange, routing_key, mandatory, headers
                entry = Unconfirmed, what, size
                channel.basic_publish(message, exchange, routing_key, mandatory, entry=entry)
        except Exception as exc:
            raise self._translated(exc) from exc.__cause__

    def shortcuts(self, kind: tuple[Any, ...]) -> dict[Any, Callable[[bytes], bool]]:
        channel = self._channel
        if channel.__class__ is not Channel or not channel.is_open:
            return {}
        if (type(self).publish, type(self).prepare_message) != _LONG_WAY:
            return {}  # somebody wants to see each message
        known = channel.shortcuts
        if kind not in known:
            if len(known) >= _KINDS:
                known.clear()
            exchange, routing_key, mandatory, delivery_mode, content_type, encoding = kind
            like = self.prepare_message(b"", delivery_mode, 0, content_type, encoding)
            shortcut = Shortcut(channel, exchange, routing_key, mandatory, like)
            known[kind] = shortcut.post
        return known

    # -- confirms

    def confirm_select(self, tracker: Tracker) -> None:
        self._tracker = tracker
        channel = self._channel
        if channel is not None and getattr(channel, "is_open", True):
            self._confirm_on(channel, tracker)

    def pump(self, timeout: float | None = None) -> None:
        limit = within(self._timeout if timeout is None else timeout)
        channel = self.channel
        if not self._ours:
            raise NotSupported(f"{channel!r} cannot read without running callbacks")
        channel.pump(limit)

    def _await_window(self, tracker: Tracker) -> None:
        limit = within(self._timeout)
        deadline = monotonic() + limit
        while tracker.full:
            left = deadline - monotonic()
            try:
                if left <= 0:
                    raise DrainTimeout
                self.pump(left)
            except DrainTimeout as exc:
                if self._channel is not None and self._channel.blocked:
                    raise ConnectionBlocked(
                        f"{self.connection.host} takes no messages for now:"
                        f" {self._channel.blocked}"
                    ) from exc
                raise ConfirmTimeout(
                    f"{tracker.outstanding} messages were not confirmed, so that the window"
                    f" stayed full for {limit:g} seconds; this message was not sent",
                    tracker.unconfirmed(),
                ) from exc


_LONG_WAY = SendingBackend.publish, SendingBackend.prepare_message


def _prepare(
    content_type: Any, content_encoding: Any, delivery_mode: Any, priority: Any
) -> tuple[dict[str, Any], bytes]:
    given = {
        "content_type": content_type,
        "content_encoding": content_encoding,
        "delivery_mode": delivery_mode,
        "priority": priority,
    }
    template = {name: value for name, value in given.items() if value is not None}
    encoded = encode_properties(template)
    if len(_prepared) >= _CACHED:
        _prepared.clear()
    _prepared[content_type, content_encoding, delivery_mode, priority] = template, encoded
    return template, encoded
