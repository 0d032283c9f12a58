"""The short way of messages that are like one that was sent before."""

from __future__ import annotations

from time import monotonic

from carrot.backends.pyamqplib.channel import Channel
from carrot.backends.pyamqplib.message import Outgoing
from carrot.backends.pyamqplib.rpc import within
from carrot.backends.pyamqplib.wire import END
from carrot.confirms import Unconfirmed

__all__ = ["Shortcut"]

_join = b"".join


class Shortcut:
    """Sends bodies on a channel to one destination, with one set of properties.

    Only while nothing is in the way: it does not wait for the broker, and
    whatever needs a decision is left to ``publish`` of the backend.

    :param channel: an open one; confirms are counted if it has a tracker by now.
    :param like: a message with these properties.
    """

    __slots__ = (
        "_begin",
        "_channel",
        "_driver",
        "_head",
        "_joined",
        "_life",
        "_like",
        "_outbox",
        "_start",
        "_tail",
        "_tracker",
        "_where",
    )

    def __init__(
        self,
        channel: Channel,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        like: Outgoing,
    ) -> None:
        self._channel, self._driver, self._outbox = channel, channel._driver, channel._outbox
        self._tracker, self._life = channel.tracker, channel.life
        self._where = exchange, routing_key, mandatory, None
        self._like = like
        assert like.encoded is not None  # nobody has changed it
        prefix, self._begin = channel.prefix(exchange, routing_key, mandatory, like.encoded)
        self._head, self._tail = prefix
        self._joined = channel.joined
        # Where the body is among its frames.
        self._start = len(self._begin(self._head, 0, self._tail, 0))

    def post(self, body: bytes) -> bool:
        """Write a message; return ``False`` if anything is in the way.

        Then nothing was written; but for a link that breaks in writing a
        message which nobody counts.
        """
        size = len(body)
        if not 0 < size <= self._joined:
            return False
        frames = _join((self._begin(self._head, size, self._tail, size), body, END))
        outbox, tracker = self._outbox, self._tracker
        with outbox.lock:
            if (
                not self._channel.is_open
                or self._driver.blocked is not None
                or outbox.noted
                or outbox.rest
            ):
                return False
            try:
                if tracker is not None:
                    # Not the body that we were given, which may be a few bytes
                    # in a buffer of 4 KiB (orjson's): the window would hold it.
                    entry = self, frames[self._start : -1], size
                    if not tracker.enter(entry, self._life):
                        return False
                written = outbox.put(frames)
            except BaseException:
                outbox.interrupted()
                raise
        if outbox.rest:
            self._driver.settle_down(monotonic() + within(self._driver.timeout))
        # What was entered is sent again when the connection is back.
        return written or tracker is not None

    def record(self, body: bytes, size: int) -> Unconfirmed:
        """Return the record of a message that was written."""
        message = Outgoing.__new__(Outgoing)
        message.body = body
        message.template, message.encoded = self._like.template, self._like.encoded
        return Unconfirmed(message, *self._where, size)
