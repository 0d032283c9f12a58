"""The methods of a channel that declare exchanges, queues and bindings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from carrot import topology
from carrot.broker import checks
from carrot.broker.exchanges import Exchange
from carrot.broker.queues import Queue
from carrot.broker.refusals import CLOSES_CONNECTION, refusal, resource
from carrot.exceptions import ChannelError

if TYPE_CHECKING:
    from carrot.broker.connections import Connection

__all__ = ["DeclaringChannel", "channel_method"]

C = TypeVar("C", bound="DeclaringChannel")
P = ParamSpec("P")
R = TypeVar("R")
Table = Mapping[str, Any]


def channel_method(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Make a method refuse a closed channel, and close the channel when it refuses."""

    @wraps(method)
    def call(self: C, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self.is_open:
            raise refusal(504, "expected 'channel.open'")
        try:
            return method(self, *args, **kwargs)
        except ChannelError as error:
            if error.reply_code in CLOSES_CONNECTION:
                self.connection.close()
            else:
                self.close()
            raise

    return cast("Callable[Concatenate[C, P], R]", call)


class DeclaringChannel(ABC):
    """What a channel needs to declare things."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_open = True
        self._vhost = connection.vhost
        self._last_queue = ""

    @abstractmethod
    def close(self) -> None:
        """Close the channel."""

    # -- exchanges

    @channel_method
    def exchange_declare(
        self,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Table | None = None,
    ) -> None:
        """Declare an exchange."""
        vhost, exchange = self._vhost, _one_line(exchange)
        if passive:
            checks.check_not_default(exchange)
            vhost.exchange(exchange)
            return
        if type not in topology.EXCHANGE_TYPES:
            raise refusal(406, f"unknown exchange type '{type}'")
        checks.check_not_default(exchange)
        declared = topology.Exchange(
            exchange, type, durable, auto_delete, internal, dict(arguments or {})
        )
        existing = vhost.exchanges.get(exchange)
        if existing is not None:
            checks.check_same_exchange(vhost.name, existing.declared, declared)
            return
        checks.check_name("exchange", exchange)
        checks.check_exchange(vhost.name, declared)
        vhost.exchanges[exchange] = Exchange(declared)

    @channel_method
    def exchange_delete(self, exchange: str, if_unused: bool = False) -> None:
        """Delete an exchange, if there is one."""
        vhost, exchange = self._vhost, _one_line(exchange)
        checks.check_not_default(exchange)
        where = resource("exchange", exchange, vhost.name)
        if exchange.startswith("amq."):
            raise refusal(403, f"deletion of system {where} not allowed")
        existing = vhost.exchanges.get(exchange)
        if existing is not None:
            if if_unused and existing.outgoing:
                raise refusal(406, f"{where} in use")
            vhost.delete_exchange(existing)

    @channel_method
    def exchange_bind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Table | None = None,
    ) -> None:
        """Bind the exchange *destination* to the exchange *source*."""
        self._bind(_binding(source, destination, routing_key, arguments, to_exchange=True))

    @channel_method
    def exchange_unbind(
        self,
        destination: str,
        source: str,
        routing_key: str = "",
        arguments: Table | None = None,
    ) -> None:
        """Remove the binding of *destination* to *source*, if there is one."""
        self._unbind(_binding(source, destination, routing_key, arguments, to_exchange=True))

    # -- queues

    @channel_method
    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = False,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: Table | None = None,
    ) -> tuple[str, int, int]:
        """Declare a queue; ``""`` lets the broker choose its name.

        :returns: its name, how many messages wait, how many consumers it has.
        """
        vhost, user, queue = self._vhost, self.connection, _one_line(queue)
        if passive:
            found = vhost.queue(queue, user)
        else:
            if not queue:
                checks.check_unnamed(arguments or {})
                queue = "amq.gen-" + token_urlsafe(16)
            else:
                checks.check_name("queue", queue)
            # An exclusive queue goes with its connection: it is never durable.
            durable = durable and not exclusive
            declared = topology.Queue(
                queue, durable, exclusive, auto_delete, dict(arguments or {})
            )
            owner = user if exclusive else None
            existing = vhost.queues.get(queue)
            if existing is None:
                checks.check_queue(vhost.name, declared)
                found = vhost.add_queue(declared, owner)
            else:
                if existing.owner is not owner:
                    raise vhost.locked(queue)
                checks.check_same_queue(vhost.name, existing.declared, declared)
                found = existing
        found.touch()
        self._last_queue = queue
        return queue, found.ready.count, len(found.consumers)

    @channel_method
    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue, if there is one. Returns how many messages waited in it."""
        vhost, queue = self._vhost, _one_line(self._named(queue))
        if queue not in vhost.queues:
            return 0
        found = vhost.queue(queue, self.connection)
        if if_empty and found.ready.count:
            raise refusal(406, f"{resource('queue', queue, vhost.name)} not empty")
        if if_unused and found.consumers:
            raise refusal(406, f"{resource('queue', queue, vhost.name)} in use")
        return vhost.delete_queue(found)

    @channel_method
    def queue_purge(self, queue: str) -> int:
        """Remove the messages that wait in a queue. Returns how many."""
        return self._vhost.queue(self._named(queue), self.connection).purge()

    @channel_method
    def queue_bind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Table | None = None
    ) -> None:
        """Bind a queue to an exchange."""
        if not queue and not routing_key:
            routing_key = self._named(queue)
        queue = self._named(queue)
        self._bind(_binding(exchange, queue, routing_key, arguments))

    @channel_method
    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: Table | None = None
    ) -> None:
        """Remove a binding, if there is one."""
        if not queue and not routing_key:
            routing_key = self._named(queue)
        queue = self._named(queue)
        self._unbind(_binding(exchange, queue, routing_key, arguments))

    def _named(self, queue: str) -> str:
        # An empty name means the queue that this channel declared last.
        name = queue or self._last_queue
        if not name:
            raise refusal(404, "no previously declared queue")
        return name

    def _bind(self, binding: topology.Binding) -> None:
        vhost = self._vhost
        checks.check_not_default(binding.source, binding.destination)
        source = vhost.exchange(binding.source)
        target: Exchange | Queue
        if binding.to_exchange:
            target = vhost.exchange(binding.destination)
        else:
            target = vhost.queue(binding.destination)
        checks.check_binding_arguments(source.declared.type, binding.arguments)
        if not binding.to_exchange:
            vhost.queue(binding.destination, self.connection)
        source.bind(binding, target)

    def _unbind(self, binding: topology.Binding) -> None:
        vhost = self._vhost
        checks.check_not_default(binding.source, binding.destination)
        source = vhost.exchanges.get(binding.source)
        if source is not None and binding.identity in source.outgoing:
            if not binding.to_exchange:
                vhost.queue(binding.destination, self.connection)
            vhost.unbind(binding, source.outgoing[binding.identity][1])


def _one_line(name: str) -> str:
    # RabbitMQ takes line ends out of the names of what is declared and bound.
    return name.replace("\r", "").replace("\n", "")


def _binding(
    source: str,
    destination: str,
    routing_key: str,
    arguments: Table | None,
    to_exchange: bool = False,
) -> topology.Binding:
    source, destination = _one_line(source), _one_line(destination)
    return topology.Binding(source, destination, routing_key, arguments or {}, to_exchange)
