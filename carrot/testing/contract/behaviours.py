"""What a broker does, item by item; RabbitMQ is the measure."""

from __future__ import annotations

from carrot.testing.contract.delivering import DeliveryBehaviours
from carrot.testing.contract.queueing import QueueBehaviours
from carrot.testing.contract.routing import RoutingBehaviours

__all__ = ["BrokerBehaviours"]


class BrokerBehaviours(RoutingBehaviours, QueueBehaviours, DeliveryBehaviours):
    """One test for each behaviour of RabbitMQ that another broker may get wrong.

    The docstring of a test names the behaviour. Not every broker can have
    all: this class is apart from :class:`BackendContract` for that.
    """
