"""An exchange: bindings, and the queues that a message reaches through them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Union

from carrot import topology

if TYPE_CHECKING:
    from carrot.broker.queues import Queue

__all__ = ["Exchange"]

Target = Union["Queue", "Exchange"]


class Exchange:
    """An exchange of a virtual host."""

    def __init__(self, declared: topology.Exchange) -> None:
        self.declared = declared
        self.name = declared.name
        self.is_internal = declared.internal
        #: Name of the exchange that gets what matches no binding here.
        self.alternate: str | None = declared.arguments.get("alternate-exchange")
        self.routes: topology.Routes[Target] = topology.EXCHANGE_TYPES[declared.type]()
        #: Bindings that lead away from here, with what they lead to.
        self.outgoing: dict[Hashable, tuple[topology.Binding, Target]] = {}
        #: How many of them lead to other exchanges.
        self.outgoing_to_exchanges = 0
        #: Bindings that lead here.
        self.bindings: dict[Hashable, topology.Binding] = {}

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r} ({self.declared.type}): {len(self.outgoing)} bindings>"

    def bind(self, binding: topology.Binding, target: Target) -> None:
        """Add a binding; adding it again changes nothing."""
        identity = binding.identity
        if identity not in self.outgoing:
            self.outgoing[identity] = (binding, target)
            target.bindings[identity] = binding
            self.outgoing_to_exchanges += binding.to_exchange
            self.routes.add(binding.routing_key, binding.arguments, target)

    def unbind(self, binding: topology.Binding, target: Target) -> None:
        """Remove a binding that is there."""
        del self.outgoing[binding.identity]
        del target.bindings[binding.identity]
        self.outgoing_to_exchanges -= binding.to_exchange
        self.routes.remove(binding.routing_key, binding.arguments, target)
