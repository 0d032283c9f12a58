"""The window of unconfirmed messages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from carrot.confirms.failures import publish_error
from carrot.confirms.unconfirmed import Unconfirmed
from carrot.exceptions import ChannelError, PublishNacked, Unroutable

__all__ = ["Tracker"]


class Tracker:
    """The window of unconfirmed messages of one publisher.

    The duties of a backend that was given a tracker:

    - When it opens a channel in confirm mode it calls :meth:`begin`, and hands
      the *life* which that returns to the methods below.
    - Before it publishes it waits until :attr:`full` is false; then, in the
      order of writing, it calls :meth:`add` and writes.
    - It passes on each ``basic.ack``, ``basic.nack`` and ``basic.return``.

    All methods may be called by any thread; none waits for anything but
    another thread's brief use of the same tracker.
    """

    #: Messages in flight at which the window is full.
    window: int
    #: Bytes in flight at which the window is full; one message more than
    #: that may be in flight, whatever its size.
    max_bytes: int
    #: Whether the publisher has to wait for confirms before it adds more.
    full: bool
    #: Number of the channel life that is being counted; grows with each.
    life: int
    #: Messages added, each counted once however often it was sent.
    published: int
    #: Messages that the broker confirmed.
    confirmed: int
    #: Messages that the broker refused (``basic.nack``).
    nacked: int
    #: Mandatory messages that the broker returned.
    returned: int

    def __init__(self, window: int = 1000, max_bytes: int = 16 * 1024 * 1024) -> None:
        self.window = window
        self.max_bytes = max_bytes
        self.full = False
        self.life = 1
        self.published = self.confirmed = self.nacked = self.returned = 0
        self._lock = threading.Lock()
        # In flight, oldest first, with gaps (settled entries) but the oldest
        # never a gap: the entry with sequence number n is at n - _first.
        # First records, if any; then what makes records, if any, and that is
        # of the last ones published. A confirm needs no record.
        self._entries: deque[Any] = deque()
        self._first = 1
        self._in_flight = 0
        self._bytes = 0
        # The life in which nothing is in the way of enter(), as add() has
        # seen; 0 since there is.
        self._clear_life = 0
        # Set aside by restart(), to be added again, oldest first.
        self._owed: deque[Unconfirmed] = deque()
        self._failures: list[Unconfirmed] = []

    def __repr__(self) -> str:
        return (
            f"<Tracker {self._in_flight}/{self.window} in flight, {len(self._owed)} owed,"
            f" {self.failed} failed, {self.confirmed}/{self.published} confirmed>"
        )

    def __len__(self) -> int:
        return self._in_flight + len(self._owed)

    def __bool__(self) -> bool:
        return True  # an empty tracker is a tracker

    @property
    def outstanding(self) -> int:
        """Messages that are neither confirmed nor failed."""
        return self._in_flight + len(self._owed)

    @property
    def outstanding_bytes(self) -> int:
        """Bytes of the bodies of :attr:`outstanding`."""
        with self._lock:
            return self._bytes + sum(entry.size for entry in self._owed)

    @property
    def oldest(self) -> int | None:
        """The ``number`` of the oldest outstanding message; ``None`` without any."""
        with self._lock:
            heads = [self._owed[0].number] if self._owed else []
            if self._entries:
                head = self._entries[0]
                number = self.published - len(self._entries) + 1  # of those without records
                heads.append(number if head.__class__ is tuple else head.number)
            return min(heads, default=None)

    def unconfirmed(self) -> list[Unconfirmed]:
        """Return what is outstanding, in the order of sending."""
        with self._lock:
            self._record()
            held = [e for e in (*self._entries, *self._owed) if not e.settled]
        return sorted(held, key=_number)

    @property
    def failed(self) -> int:
        """Failures that nobody has taken yet."""
        return len(self._failures)

    # -- the channel's life

    def begin(self) -> int:
        """Number from 1: a channel that confirms for this tracker has opened.

        :returns: the channel's *life*; what is said later about an earlier
            life is ignored.
        :raises ChannelError: messages of an earlier channel are in flight.
            Settle them first, by :meth:`restart` or :meth:`fail_all`.
        """
        with self._lock:
            if self._in_flight:
                raise ChannelError(
                    0,
                    f"{self._in_flight} messages were not confirmed when their channel closed",
                )
            self._renumber()
            return self.life

    def restart(self) -> list[Unconfirmed]:
        """Set aside what is in flight: its channel is gone.

        The entries stay :attr:`outstanding` until each is added again, in this
        order and by its message's identity, or failed.

        :returns: what has to be sent again, in the order of sending.
        """
        with self._lock:
            self._record()
            unsettled = [entry for entry in self._entries if not entry.settled]
            for entry in unsettled:
                entry.error = None  # returned, but by a channel that is gone
            self._owed.extendleft(reversed(unsettled))
            self._renumber()
            return list(self._owed)

    def _renumber(self) -> None:
        self.life += 1
        self._entries.clear()
        self._first = 1
        self._in_flight = self._bytes = self._clear_life = 0
        self.full = False

    # -- the publisher's side

    def add(self, entry: Unconfirmed | tuple[Any, ...], life: int | None = None) -> int:
        """Enter a message that is about to be written.

        :param entry: a record; or what makes one if something happens to the
            message, ``maker.record(what, size)``, as ``(maker, what, size)``.
        :param life: what :meth:`begin` returned to the channel.
        :returns: its sequence number on the channel, from 1.
        :raises ChannelError: the channel's life is over; nothing was entered.
        :raises PublishError: as many messages have failed as the window holds,
            and nobody has taken them; nothing was entered.
        """
        with self._lock:
            if life is not None and life != self.life:
                raise ChannelError(0, "the channel was replaced while a message was published")
            if self._failures and len(self._failures) >= self.window:
                failures, self._failures = self._failures, []
                raise publish_error(failures)
            if entry.__class__ is tuple and not self._owed:
                size = entry[2]
                self.published += 1
                self._clear_life = self.life
            else:
                entry = self._recorded(entry)
                size = entry.size
            self._entries.append(entry)
            self._in_flight += 1
            self._bytes += size
            self._look_full()
            return self._first + len(self._entries) - 1

    def enter(self, entry: tuple[Any, Any, int], life: int) -> bool:
        """Enter a message as :meth:`add` did the one before, if all is as it was then.

        :returns: whether it was entered: not if the window is full, the
            channel's life over, or there is anything else that :meth:`add`
            has to see to.
        """
        with self._lock:
            if life != self._clear_life:
                return False
            self._entries.append(entry)
            self.published += 1
            self._in_flight = in_flight = self._in_flight + 1
            self._bytes = size = self._bytes + entry[2]
            if in_flight >= self.window or size >= self.max_bytes:
                self._look_full()
            return True

    def _look_full(self) -> None:
        full = self._in_flight >= self.window or self._bytes >= self.max_bytes
        if full or len(self._failures) >= self.window:
            self._clear_life = 0
        self.full = full

    def _recorded(self, entry: Unconfirmed | tuple[Any, ...]) -> Unconfirmed:
        """Return the record of a message to be added; that which is owed, if one is."""
        self._record()
        if isinstance(entry, Unconfirmed):
            record = entry
        else:
            maker, what, size = entry
            record = maker.record(what, size)
        if self._owed and self._owed[0].message is record.message:
            return self._owed.popleft()
        self.published = record.number = self.published + 1
        return record

    def _record(self) -> None:
        """Make records of what is in flight."""
        newest = next((e for e in reversed(self._entries) if e is not _GAP), None)
        if newest.__class__ is not tuple:
            return
        records: deque[Any] = deque()
        for number, entry in enumerate(self._entries, self.published - len(self._entries) + 1):
            if entry.__class__ is tuple:
                maker, what, size = entry
                entry = maker.record(what, size)
                entry.number = number
            records.append(entry)
        self._entries = records

    @property
    def idle(self) -> bool:
        """Whether nothing is outstanding, and no failure is there to be taken."""
        return not (self._in_flight or self._owed or self._failures)

    def pass_by(self) -> None:
        """Count a message that was confirmed in the moment of publishing.

        For a broker that answers at once, and only while :attr:`idle`: the
        message never was outstanding.
        """
        with self._lock:
            self.published += 1
            self.confirmed += 1

    def holds(self, message: Any, since: int = 0) -> bool:
        """Return whether *message* is outstanding.

        Tells a publisher whose write failed if the message had been entered.

        :param since: :attr:`published` before the attempt, for a message that
            is sent several times over.
        """
        with self._lock:
            self._record()
            return any(
                entry.message is message and entry.number > since and not entry.settled
                for entries in (self._entries, self._owed)
                for entry in reversed(entries)
            )

    # -- the broker's side

    def ack(self, tag: int, multiple: bool = False, life: int | None = None) -> None:
        """Note that the broker has taken message *tag* (*multiple*: and all before)."""
        with self._lock:
            if life is not None and life != self.life:
                return
            count = size = 0
            for entry in self._take(tag, multiple):
                if entry.__class__ is tuple:
                    size += entry[2]
                elif entry.settled:
                    continue
                else:
                    size += entry.size
                    entry.settled = True
                    if entry.error is not None:
                        self.returned += 1
                        self.confirmed -= 1
                        self._failures.append(entry)
                count += 1
            self.confirmed += count
            self._in_flight -= count
            self._bytes -= size
            self._trim()

    def nack(self, tag: int, multiple: bool = False, life: int | None = None) -> None:
        """Note that the broker refuses message *tag* (*multiple*: and all before)."""
        with self._lock:
            if life is not None and life != self.life:
                return
            self._record()
            for entry in self._take(tag, multiple):
                if not entry.settled:
                    self._settle(entry)
                    self.nacked += 1
                    entry.error = PublishNacked("basic.nack")
                    self._failures.append(entry)
            self._trim()

    def bounced(
        self,
        exchange: str,
        routing_key: str,
        body: Any,
        reply_code: int = 312,
        reply_text: str = "NO_ROUTE",
        life: int | None = None,
    ) -> None:
        """Note a returned message; the ack that follows settles it as failed.

        A return carries no number. RabbitMQ sends returns in the order of
        publishing and each before the ack of its message, so it is the oldest
        mandatory message in flight that looks the same and was not returned.
        """
        with self._lock:
            if life is not None and life != self.life:
                return
            self._record()
            for entry in self._entries:
                if (
                    entry.mandatory
                    and entry.error is None
                    and not entry.settled
                    and entry.routing_key == routing_key
                    and entry.exchange == exchange
                    and _same_body(entry, body)
                ):
                    entry.error = Unroutable(f"{reply_code} {reply_text}")
                    return

    # -- failures

    def fail(self, entry: Unconfirmed, error: Exception) -> None:
        """Give up on an entry: it is a failure with *error*, unless settled before."""
        with self._lock:
            self._record()
            self._fail([entry], error)

    def fail_all(self, error: Exception, upto: int | None = None) -> None:
        """Give up on everything outstanding.

        :param upto: only on messages whose ``number`` is no greater.
        """
        with self._lock:
            self._record()
            entries = [*self._entries, *self._owed]
            self._fail([e for e in entries if upto is None or e.number <= upto], error)

    def withdraw(self, message: Any, since: int = 0) -> None:
        """Forget an outstanding message: its sender was told that it was not sent.

        :param since: as of :meth:`holds`.
        """
        with self._lock:
            self._record()
            for entry in [*self._entries, *self._owed]:
                if entry.message is message and entry.number > since:
                    self._drop(entry)
            self._trim()

    def reset(self) -> None:
        """Begin anew, as the child of a fork: what is outstanding is its parent's."""
        # Not under the lock: the thread that holds it may not exist here.
        self._lock = threading.Lock()
        self._renumber()
        self._owed.clear()
        self._failures = []

    def take_failures(self) -> list[Unconfirmed]:
        """Return the failures since the last call, in the order of sending."""
        with self._lock:
            failures, self._failures = self._failures, []
        return sorted(failures, key=_number)

    def _fail(self, entries: Iterable[Unconfirmed], error: Exception) -> None:
        for entry in entries:
            if entry.settled:
                continue
            entry.error = error
            self._failures.append(entry)
            self._drop(entry)
        self._trim()

    def _drop(self, entry: Unconfirmed) -> None:
        if entry.settled:
            return
        try:
            self._owed.remove(entry)
        except ValueError:
            self._settle(entry)
        else:
            entry.settled = True

    def _take(self, tag: int, multiple: bool) -> list[Any]:
        """Take out what a confirm is about; nothing for a number that is not in flight."""
        entries = self._entries
        index = tag - self._first
        if multiple and not tag:  # all so far (AMQP 0-9-1, basic.ack, delivery-tag)
            index = len(entries) - 1
        if multiple or index == 0:
            count = min(index + 1, len(entries))
            self._first += max(count, 0)
            return [entries.popleft() for _ in range(count)]
        if 0 <= index < len(entries):
            entry, entries[index] = entries[index], _GAP
            return [entry]
        return []

    def _settle(self, entry: Unconfirmed) -> None:
        entry.settled = True
        self._in_flight -= 1
        self._bytes -= entry.size

    def _trim(self) -> None:
        entries = self._entries
        while entries and entries[0].__class__ is not tuple and entries[0].settled:
            entries.popleft()
            self._first += 1
        self._look_full()


#: Stands where an entry was that is settled.
_GAP = Unconfirmed(None, "", "")
_GAP.settled = True


def _number(entry: Unconfirmed) -> int:
    return entry.number


def _same_body(entry: Unconfirmed, body: Any) -> bool:
    mine = entry.body
    if isinstance(mine, (bytes, bytearray, memoryview)):
        return bool(mine == body)
    if isinstance(mine, str) and isinstance(body, bytes):
        return mine.encode() == body or entry.size == len(body)
    return entry.size == len(body)
