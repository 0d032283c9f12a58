"""Subscriptions, and whose turn it is among those of a queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot.broker.channels import Channel
    from carrot.broker.queues import Queue

__all__ = ["Consumer", "Turns"]


class Consumer:
    """A subscription of a channel to a queue."""

    __slots__ = (
        "arguments",
        "channel",
        "no_ack",
        "parked",
        "prefetch",
        "priority",
        "queue",
        "tag",
        "unacked",
    )

    def __init__(
        self,
        channel: Channel,
        queue: Queue,
        tag: str,
        no_ack: bool,
        prefetch: int,
        arguments: Mapping[str, Any],
    ) -> None:
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        #: Most messages it may hold unacknowledged; 0 is no bound.
        self.prefetch = prefetch
        self.arguments = arguments
        #: Consumers of a higher priority are served first.
        self.priority: int = arguments.get("x-priority") or 0
        #: Messages delivered to it and not settled yet.
        self.unacked = 0
        #: Whether it lost its turn because it could take no message.
        self.parked = False

    def park(self) -> None:
        """Note that it lost its turn, after all others that did."""
        self.parked = True
        self.channel.parked[self] = None

    def can_take(self) -> bool:
        """Return whether it may be sent one more message."""
        if self.prefetch and self.unacked >= self.prefetch and not self.no_ack:
            return False
        return not self.channel.is_full


class Turns:
    """The consumers of a queue that may be served, in turn.

    Consumers of the highest priority come first, round-robin among equals.
    One that can take nothing is parked: it leaves the line until room is
    made, then joins at the end.
    """

    __slots__ = ("_lines", "_priorities")

    def __init__(self) -> None:
        self._lines: dict[int, deque[Consumer]] = {}
        #: Keys of the lines, the highest first.
        self._priorities: list[int] = []

    def join(self, consumer: Consumer) -> None:
        """Let a consumer have its turn after its equals."""
        if consumer.parked:
            consumer.parked = False
            del consumer.channel.parked[consumer]
        line = self._lines.get(consumer.priority)
        if line is None:
            line = self._lines[consumer.priority] = deque()
            self._priorities = sorted(self._lines, reverse=True)
        line.append(consumer)

    def leave(self, consumer: Consumer) -> None:
        """Take a consumer out, parked or not."""
        if consumer.parked:
            consumer.channel.parked.pop(consumer, None)
        else:
            self._lines[consumer.priority].remove(consumer)

    def first(self) -> Consumer | None:
        """Return the consumer that is next in line, whether or not it can take."""
        for priority in self._priorities:
            if self._lines[priority]:
                return self._lines[priority][0]
        return None

    def next(self) -> Consumer | None:
        """Return the next consumer that can take a message, if any."""
        for priority in self._priorities:
            line = self._lines[priority]
            while line:
                consumer = line[0]
                if consumer.can_take():
                    line.rotate(-1)
                    return consumer
                line.popleft()
                consumer.park()
        return None
