"""The in-memory broker's side of the comparison."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

from carrot.broker import (
    Broker,
    Cancelled,
    Channel,
    Confirmed,
    Connection,
    Delivery,
    Nacked,
    Queue,
    Returned,
)
from carrot.exceptions import ChannelError
from tests.differential.observing import CHANNELS_EACH, SLOTS, Names, Operation, Seen

__all__ = ["MemorySide"]


class MemorySide:
    """An in-memory broker with its connections and channels.

    :param vhost: name of the virtual host; error texts tell it.
    :param before: operations to begin with.
    """

    def __init__(self, vhost: str, before: list[Operation]) -> None:
        self.broker = Broker()
        self.vhost = self.broker.vhost(vhost)
        self.names = Names()
        #: Whether the last operation's outcome depends on RabbitMQ's scheduler.
        self.is_racy = False
        self._senders: dict[Any, set[Any]] = defaultdict(set)
        # The queue that is dead-lettering just now; None: a channel publishes.
        self._burying: Queue | None = None
        bury = self.vhost._bury
        self.vhost._bury = partial(self._bury, bury)  # type: ignore[method-assign]
        self.connections: list[Connection] = []
        self.channels: list[Channel] = []
        for _ in range(SLOTS // CHANNELS_EACH):
            self.connections.append(self.broker.connect(vhost))
        for slot in range(SLOTS):
            self.channels.append(self._open(slot))
        for operation in before:
            self.do(operation)
            self.seen()

    def do(self, operation: Operation) -> Any:
        """Do an operation. Returns the answer, or the error."""
        slot, method, arguments = operation
        self._senders.clear()
        overtakes = self._overtakes(slot, method, arguments)
        try:
            arguments = self.names.resolve(arguments)
            return self.names.comparable(self._answer(slot, method, arguments))
        except ChannelError as error:
            return self.names.comparable(("error", error.reply_code, error.reply_text))
        finally:
            self._heal()
            self.is_racy = overtakes or any(len(each) > 1 for each in self._senders.values())
            for queue in self.vhost.queues.values():
                if "publish" not in vars(queue):
                    queue.publish = partial(  # type: ignore[method-assign]
                        self._publish, queue.publish, queue
                    )

    def _overtakes(self, slot: int, method: str, arguments: dict[str, Any]) -> bool:
        """Return whether room that is made may reach a queue before the message does.

        With a prefetch count for a whole channel RabbitMQ tells a queue of the
        room with priority: if it is busy, it delivers what waits before it
        hears that a message comes back.
        """
        channel = self.channels[slot]
        comes_back = method == "basic_recover" or arguments.get("requeue")
        return bool(comes_back and channel._shared_prefetch) and any(
            queue.ready.count for _, queue, _ in channel.unacked.values()
        )

    def _answer(self, slot: int, method: str, arguments: dict[str, Any]) -> Any:
        if method == "wait":
            self.broker.advance(self.broker.now + arguments["seconds"])
            return None
        if method == "close_connection":
            connection = slot // CHANNELS_EACH
            for each in range(connection * CHANNELS_EACH, (connection + 1) * CHANNELS_EACH):
                self.channels[each].close()
            self.connections[connection].close()
            return None
        answer = getattr(self.channels[slot], method)(**arguments)
        if method == "queue_declare":
            if not arguments.get("queue"):
                self.names.note(answer[0])
            return answer
        if method == "basic_consume" and not arguments.get("consumer_tag"):
            self.names.note(answer)
            return answer
        if isinstance(answer, Delivery):
            return [*answer[1:7], answer.message_count]
        return None if method == "basic_publish" else answer

    def seen(self) -> list[Seen]:
        """Return what each channel was sent since this was asked last."""
        found, comparable = [], self.names.comparable
        for channel in self.channels:
            seen = Seen()
            while channel.events:
                event = channel.events.popleft()
                if isinstance(event, Delivery):
                    seen.delivered.append(comparable(event[:7]))
                elif isinstance(event, Returned):
                    seen.returned.append(comparable(event))
                elif isinstance(event, Cancelled):
                    seen.cancelled.add(comparable(event.consumer_tag))
                elif isinstance(event, Confirmed):
                    seen.confirmed.add(event.delivery_tag)
                elif isinstance(event, Nacked):
                    seen.nacked.add(event.delivery_tag)
            found.append(seen)
        return found

    def queues(self) -> dict[str, tuple[int, int]]:
        """Return all queues: how many messages wait, how many consumers they have."""
        return {
            self.names.comparable(name): (queue.ready.count, len(queue.consumers))
            for name, queue in self.vhost.queues.items()
        }

    def owner(self, queue: str) -> int | None:
        """Return which connection has a queue for itself, if one has."""
        owner = self.vhost.queues[self.names.resolve({"": queue})[""]].owner
        return None if owner is None else self.connections.index(owner)

    # -- channels

    def _open(self, slot: int) -> Channel:
        channel = self.connections[slot // CHANNELS_EACH].channel()
        channel.deliver = partial(  # type: ignore[method-assign]
            self._deliver, channel.deliver, channel
        )
        return channel

    def _heal(self) -> None:
        for number, connection in enumerate(self.connections):
            if not connection.is_open:
                self.connections[number] = self.broker.connect(self.vhost.name)
        for slot, channel in enumerate(self.channels):
            if not channel.is_open:
                self.channels[slot] = self._open(slot)

    # -- who sends to whom

    def _bury(self, bury: Any, message: Any, reason: str, queue: Queue) -> None:
        self._burying = queue
        try:
            bury(message, reason, queue)
        finally:
            self._burying = None

    def _publish(self, publish: Any, queue: Queue, message: Any) -> Any:
        self._senders[queue].add(self._burying)
        return publish(message)

    def _deliver(self, deliver: Any, channel: Channel, consumer: Any, message: Any) -> None:
        self._senders[channel].add(consumer.queue)
        deliver(consumer, message)
