"""The messages of a queue that wait for delivery, in their order.

Every operation costs the same at a million messages as at ten, giving
messages back to their old places included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any, NamedTuple

__all__ = ["Copies", "Message", "PrioritizedReady", "Ready"]


class Copies(NamedTuple):
    """Routing keys beside the first (a RabbitMQ extension)."""

    #: Those of the header CC, which stays.
    shown: tuple[str, ...]
    #: Those of the header BCC, which is removed.
    hidden: tuple[str, ...]


class Message:
    """One message on one queue."""

    __slots__ = (
        "body",
        "copies",
        "deaths",
        "exchange",
        "expires",
        "position",
        "properties",
        "redelivered",
        "routing_key",
    )

    def __init__(
        self,
        body: bytes,
        properties: dict[str, Any],
        exchange: str,
        routing_key: str,
        copies: Copies | None = None,
        deaths: tuple[Any, ...] = (),
    ) -> None:
        self.body = body
        self.properties = properties
        self.exchange = exchange
        self.routing_key = routing_key
        #: Further routing keys, where the headers CC or BCC name some.
        self.copies = copies
        #: Deaths so far, the latest first: see :mod:`carrot.broker.deadletters`.
        self.deaths = deaths
        self.redelivered = False
        #: Place in the queue, given once; ascending.
        self.position = 0
        #: When it expires at the head of the queue, on the broker's clock.
        self.expires: float | None = None

    @property
    def routing_keys(self) -> tuple[str, ...]:
        """All keys that it is routed by."""
        if self.copies is None:
            return (self.routing_key,)
        return (self.routing_key, *self.copies.shown, *self.copies.hidden)

    def copy(self) -> Message:
        """Return the message for one more queue."""
        return Message(
            self.body,
            self.properties,
            self.exchange,
            self.routing_key,
            self.copies,
            self.deaths,
        )


class Ready:
    """The waiting messages of a queue without priorities.

    Whatever was taken off was the head once, hence precedes everything that
    never was: what comes back forms a part of its own in front. Mostly it
    comes back in ascending or descending order, to either end of that part;
    only a message whose place is inside it goes to a heap.
    """

    __slots__ = ("_fresh", "_returned", "_strays", "count")

    def __init__(self) -> None:
        #: How many messages wait; an attribute, since it is asked for all the time.
        self.count = 0
        self._fresh: deque[Message] = deque()
        self._returned: deque[Message] = deque()
        self._strays: list[tuple[int, Message]] = []

    def __len__(self) -> int:
        return self.count

    def append(self, message: Message) -> None:
        """Add a message at the end."""
        self.count += 1
        self._fresh.append(message)

    def restore(self, message: Message) -> None:
        """Give a message that was taken its old place back."""
        self.count += 1
        returned = self._returned
        if not returned or message.position > returned[-1].position:
            returned.append(message)
        elif message.position < returned[0].position:
            returned.appendleft(message)
        else:
            heappush(self._strays, (message.position, message))

    def take(self) -> Message:
        """Remove and return the head. :raises IndexError: there is none."""
        if self._returned or self._strays:
            self.count -= 1
            if self._stray_first():
                return heappop(self._strays)[1]
            return self._returned.popleft()
        message = self._fresh.popleft()
        self.count -= 1
        return message

    def head(self) -> Message | None:
        """Return the message that is next, without removing it."""
        if self._stray_first():
            return self._strays[0][1]
        first = self._returned or self._fresh
        return first[0] if first else None

    def clear(self) -> int:
        """Remove all messages. Returns how many there were."""
        count = self.count
        self.__init__()  # type: ignore[misc]
        return count

    def __iter__(self) -> Iterator[Message]:
        """Iterate over what waits, the head first. For looking, not for delivery."""
        strays = [message for _, message in self._strays]
        yield from sorted([*self._returned, *strays], key=attrgetter("position"))
        yield from self._fresh

    def _stray_first(self) -> bool:
        strays, returned = self._strays, self._returned
        return bool(strays) and (not returned or strays[0][0] < returned[0].position)


class PrioritizedReady:
    """The waiting messages of a queue with priorities: highest first.

    :param highest: the highest priority; higher ones count as this one.
    """

    __slots__ = ("_lanes", "_used", "count")

    def __init__(self, highest: int) -> None:
        self._lanes = [Ready() for _ in range(highest + 1)]
        #: A bit for each lane that holds something.
        self._used = 0
        #: How many messages wait; an attribute, since it is asked for all the time.
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Message]:
        """Iterate over what waits, the head first. For looking, not for delivery."""
        for lane in reversed(self._lanes):
            yield from lane

    def _lane_of(self, message: Message) -> Ready:
        priority = min(message.properties.get("priority") or 0, len(self._lanes) - 1)
        self._used |= 1 << priority
        self.count += 1
        return self._lanes[priority]

    def append(self, message: Message) -> None:
        """Add a message behind those of its priority."""
        self._lane_of(message).append(message)

    def restore(self, message: Message) -> None:
        """Give a message that was taken its old place back."""
        self._lane_of(message).restore(message)

    def take(self) -> Message:
        """Remove and return the head. :raises IndexError: there is none."""
        if not self.count:
            raise IndexError("no message is ready")
        priority = self._used.bit_length() - 1
        lane = self._lanes[priority]
        message = lane.take()
        self.count -= 1
        if not lane.count:
            self._used ^= 1 << priority
        return message

    def head(self) -> Message | None:
        """Return the message that is next, without removing it."""
        return self._lanes[self._used.bit_length() - 1].head() if self._used else None

    def clear(self) -> int:
        """Remove all messages. Returns how many there were."""
        count = self.count
        self.__init__(len(self._lanes) - 1)  # type: ignore[misc]
        return count
