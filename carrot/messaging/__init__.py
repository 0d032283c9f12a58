"""Sending and receiving messages: Publisher, Consumer, and sets of them."""

from __future__ import annotations

# Not used here: the name that carrot 0.5's documentation imported from this
# module. The rooms behind this door know nothing of connections.
from carrot.connection import BrokerConnection as AMQPConnection
from carrot.messaging.consumer import Consumer
from carrot.messaging.consumerset import ConsumerSet
from carrot.messaging.messaging import Messaging
from carrot.messaging.publisher import Publisher

__all__ = ["AMQPConnection", "Consumer", "ConsumerSet", "Messaging", "Publisher"]
