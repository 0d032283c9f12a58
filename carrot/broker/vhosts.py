"""A virtual host: the names of exchanges and queues, and the way between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carrot import topology
from carrot.broker.deadletters import buried, is_cycle
from carrot.broker.exchanges import Exchange
from carrot.broker.queues import Queue
from carrot.broker.ready import Message
from carrot.broker.refusals import refusal, resource
from carrot.exceptions import ChannelError

if TYPE_CHECKING:
    from carrot.broker import Broker
    from carrot.broker.connections import Connection

__all__ = ["VirtualHost"]

_PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.topic": "topic",
}


class VirtualHost:
    """Exchanges and queues that see only each other."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {
            exchange: Exchange(topology.Exchange(exchange, type, durable=True))
            for exchange, type in _PREDECLARED.items()
        }
        self._dead_letters: deque[tuple[Message, str, Queue]] = deque()

    def exchange(self, name: str) -> Exchange:
        """Return an exchange. :raises NotFound: there is none of that name."""
        try:
            return self.exchanges[name]
        except KeyError:
            raise refusal(404, f"no {resource('exchange', name, self.name)}") from None

    def queue(self, name: str, user: Connection | None = None) -> Queue:
        """Return a queue.

        :param user: the connection that wants to use it.
        :raises NotFound: there is none of that name.
        :raises ResourceLocked: another connection has it for itself.
        """
        try:
            queue = self.queues[name]
        except KeyError:
            raise refusal(404, f"no {resource('queue', name, self.name)}") from None
        if user is not None and queue.owner is not None and queue.owner is not user:
            raise self.locked(name)
        return queue

    def locked(self, queue: str) -> ChannelError:
        """Return the error for a queue that another connection has for itself."""
        return refusal(
            405,
            f"cannot obtain exclusive access to locked {resource('queue', queue, self.name)}."
            " It could be originally declared on another connection or the exclusive"
            " property value does not match that of the original declaration.",
        )

    # -- declaring

    def add_queue(self, declared: topology.Queue, owner: Connection | None) -> Queue:
        """Create a queue."""
        queue = self.queues[declared.name] = Queue(self, declared, owner)
        if owner is not None:
            owner.exclusive_queues[queue] = None
        return queue

    def delete_queue(self, queue: Queue) -> int:
        """Delete a queue and its bindings, and cancel its consumers.

        :returns: the number of messages that were waiting.
        """
        queue.is_deleted = True
        del self.queues[queue.name]
        if queue.owner is not None:
            queue.owner.exclusive_queues.pop(queue, None)
        count = queue.purge()
        consumers, queue.consumers = queue.consumers, {}
        for consumer in sorted(consumers, key=lambda consumer: consumer.tag):
            consumer.channel.consumer_lost(consumer)
        self._unbind_all(queue)
        return count

    def delete_exchange(self, exchange: Exchange) -> None:
        """Delete an exchange and its bindings."""
        del self.exchanges[exchange.name]
        for binding, target in list(exchange.outgoing.values()):
            exchange.unbind(binding, target)
        self._unbind_all(exchange)

    def unbind(self, binding: topology.Binding, target: Queue | Exchange) -> None:
        """Remove a binding, and its source if it should go with its last one."""
        source = self.exchange(binding.source)
        source.unbind(binding, target)
        if source.declared.auto_delete and not source.outgoing:
            self.delete_exchange(source)

    def _unbind_all(self, target: Queue | Exchange) -> None:
        for binding in list(target.bindings.values()):
            self.unbind(binding, target)

    # -- routing

    def route(
        self, exchange: Exchange, keys: Sequence[str], headers: Mapping[str, Any]
    ) -> Iterable[Queue]:
        """Return the queues that a message reaches, each once."""
        if not exchange.name:
            # Every queue is bound to the default exchange by its name.
            queues = self.queues
            return [queues[key] for key in dict.fromkeys(keys) if key in queues]
        if len(keys) == 1 and not exchange.outgoing_to_exchanges:
            matched = exchange.routes.match(keys[0], headers)
            if matched or exchange.alternate is None:
                return matched  # type: ignore[return-value]  # no exchanges here
        return self._route_on(exchange, keys, headers)

    def _route_on(
        self, exchange: Exchange, keys: Sequence[str], headers: Mapping[str, Any]
    ) -> Iterable[Queue]:
        queues: dict[Queue, None] = {}
        seen = {exchange}
        waiting = [exchange]
        while waiting:
            current = waiting.pop()
            matched = [target for key in keys for target in current.routes.match(key, headers)]
            if not matched and current.alternate in self.exchanges:
                matched = [self.exchanges[current.alternate]]
            for target in matched:
                if isinstance(target, Queue):
                    queues[target] = None
                elif target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return queues

    def dead_letter(self, message: Message, reason: str, queue: Queue) -> None:
        """Publish a message to the dead letter exchange of its queue, if there is one.

        One dead letter may cause others; these follow after it, so that no
        queue changes in the middle of an operation of its own.
        """
        self._dead_letters.append((message, reason, queue))
        if len(self._dead_letters) > 1:
            return
        try:
            while self._dead_letters:
                self._bury(*self._dead_letters[0])
                self._dead_letters.popleft()
        finally:
            self._dead_letters.clear()

    def _bury(self, message: Message, reason: str, queue: Queue) -> None:
        exchange = self.exchanges.get(queue.dead_letter_exchange or "")
        if exchange is None:
            return
        message = buried(message, queue.name, reason, self.broker.posix_time)
        if queue.dead_letter_key is not None:
            message.routing_key = queue.dead_letter_key
            message.copies = None
        message.exchange = exchange.name
        headers = message.properties["headers"]
        for target in list(self.route(exchange, message.routing_keys, headers)):
            if reason == "rejected" or not is_cycle(message, target.name):
                target.publish(message.copy())
