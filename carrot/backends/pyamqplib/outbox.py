"""What is to be written, and has not been yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from carrot.backends.pyamqplib import keeper
from carrot.backends.pyamqplib.transport import Transport
from carrot.backends.pyamqplib.wire import HEARTBEAT, method_frame

__all__ = ["Outbox", "frame_writer"]

#: So many writes, each within so many seconds of the one before, are a burst.
_BURST = 32
_GAP = 0.0002
#: Seconds without a write that end one.
_PAUSE = 0.001
#: Seconds without one after which the keeper need not look any more.
_REST = 0.05


class Outbox:
    """Writes frames of any thread, each whole, in order.

    Writing never waits for the link: what the kernel does not take at once
    stays here, and whoever wants to write a message waits until that is
    little enough, without holding the lock. So the lock is held for moments
    only, and the thread that reads may always take it.

    :param broken: called with the reason why the link takes nothing any more.
    :param rouse: makes the thread that polls the link do so anew.
    """

    #: To be held for whatever follows.
    lock: threading.Lock
    #: Channels whose acknowledgements may wait for others to join them, until
    #: :meth:`push` at most. The lock is not needed to add to it.
    noted: set[Any]
    #: Frames to be written next; none are left when the lock is released.
    posted: list[bytes]
    #: What the kernel did not take; the first piece may be the rest of one.
    rest: list[Any]
    #: When something was written last, monotonic.
    sent_at: float
    #: Whether the keeper calls :meth:`push` now and then.
    attended: bool
    #: Whether the kernel joins small writes, during a burst of them.
    joining: bool

    def __init__(self, broken: Callable[[OSError], None], rouse: Callable[[], None]) -> None:
        self._broken = broken
        self._rouse = rouse
        self._transport: Transport | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything, also that somebody might hold the lock."""
        self.lock = threading.Lock()
        self.noted = set()
        self.posted = []
        self.rest = []
        self.sent_at = 0.0
        self.joining = self.attended = False
        self._streak = 0

    def connect(self, transport: Transport) -> None:
        """Write to this link from now on."""
        self._transport = transport

    def put(self, piece: bytes) -> bool:
        """Write a piece, before which nothing must be waiting. With the lock held.

        :returns: whether the link lives.
        """
        transport = self._transport
        if transport is None:
            return False
        try:
            sent = transport.send(piece)
            if sent != len(piece):
                return self.put_pieces([memoryview(piece)[sent:]])
        except BaseException as exc:
            return self._not_taken(exc, [piece])
        now = monotonic()
        self._streak = self._streak + 1 if now - self.sent_at < _GAP else 0
        self.sent_at = now
        if self._streak == _BURST:
            self._join()
        return True

    def put_pieces(self, pieces: list[Any]) -> bool:
        """Write several pieces as :meth:`put` does one; no burst is made of them."""
        transport = self._transport
        if transport is None:
            return False
        try:
            while pieces:
                pieces = _after(pieces, transport.send_pieces(pieces))
        except BaseException as exc:
            return self._not_taken(exc, pieces)
        self.sent_at = monotonic()
        return True

    def _not_taken(self, exc: BaseException, pieces: list[Any]) -> bool:
        """Keep what the kernel does not take now, unless the link is broken."""
        assert self._transport is not None
        if isinstance(exc, self._transport.full):
            self.rest = pieces
            return True
        if isinstance(exc, OSError):
            self._broken(exc)
            return False
        self.interrupted()
        raise exc

    def _join(self) -> None:
        """Have the kernel join what is written from now on, for a few milliseconds.

        Each write would be a packet otherwise, and wake the broker.
        """
        assert self._transport is not None
        self.joining = True
        self._transport.join_writes(True)
        self.attend()

    def attend(self) -> None:
        """Have :meth:`push` called in a few milliseconds. With the lock held."""
        if not self.attended:
            # In this order: a signal's handler may raise in between.
            keeper.attend(self)
            self.attended = True

    def _part(self) -> None:
        if self.joining and self._transport is not None:
            self._transport.join_writes(False)
            self.joining, self._streak = False, 0

    def clear(self) -> bool:
        """Write what waits, as far as the kernel takes it. With the lock held.

        :returns: whether nothing is left.
        """
        noted, posted, rest = self.noted, self.posted, self.rest
        try:
            while noted:
                noted.pop().post_acknowledgements()
            if posted:
                rest.append(posted[0] if len(posted) == 1 else b"".join(posted))
                posted.clear()
            if rest:
                self.rest = []
                if len(rest) == 1:  # which counts for a burst
                    self.put(rest[0])
                else:
                    self.put_pieces(rest)
        except BaseException:
            self.interrupted()
            raise
        return not self.rest

    def interrupted(self, doing: str = "writing") -> None:
        """Give the link up: a signal's handler raised, and nobody knows what was written."""
        self._broken(InterruptedError(f"interrupted while {doing}"))

    def post(self, frame: bytes) -> None:
        """Have a frame written after what waits, without waiting for room."""
        with self.lock:
            self.posted.append(frame)
            done = self.clear()
        if not done:
            self._rouse()  # to poll for room as well

    def flush(self) -> None:
        """Write what waits, as far as the kernel takes it; a burst ends here."""
        if self.noted or self.rest or self.joining:
            with self.lock:
                done = self.clear()
                self._part()
            if not done:
                self._rouse()

    def push(self) -> bool:
        """Write what waits, and have the kernel send what it keeps; the keeper calls it.

        :returns: whether to call it again in a few milliseconds.
        """
        with self.lock:
            if self.noted and not self.clear():
                self._rouse()
            idle = monotonic() - self.sent_at
            if self.joining:
                self._part()
                if idle < _PAUSE:
                    self._join()
            self.attended = idle < _REST
            if self.noted:  # by somebody who saw that it was attended
                self.attended = True
            return self.attended


def _after(pieces: list[Any], sent: int) -> list[Any]:
    """Return what is left of *pieces* after so many bytes of them."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []


def frame_writer(connection: Any, transport: Any) -> Callable[..., None]:
    """Return the function by which the ``amqp`` package writes; ours goes elsewhere."""

    def write(kind: int, channel: int, sig: Any, arguments: Any, content: Any) -> None:
        frame = HEARTBEAT if kind == 8 else method_frame(channel, sig, arguments or b"")
        connection.write(frame)

    return write
