"""A pure broker to talk to in few words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carrot.broker import Broker, Channel, Connection, Delivery
from carrot.exceptions import ChannelError

__all__ = ["Bench", "delivered", "refused"]


class Bench:
    """A broker with a connection and a channel, and short words for both."""

    def __init__(self) -> None:
        self.broker = Broker(epoch=1_000_000.0)
        self.connection = self.connect()
        self.channel = self.connection.channel()

    def connect(self) -> Connection:
        """Open another connection."""
        return self.broker.connect()

    def queue(self, name: str = "q", **options: Any) -> str:
        """Declare a queue; options beginning with ``x_`` are arguments."""
        arguments = {
            option.replace("_", "-"): options.pop(option)
            for option in list(options)
            if option.startswith("x_")
        }
        return self.channel.queue_declare(name, arguments=arguments, **options)[0]

    def publish(
        self,
        *bodies: str,
        key: str = "q",
        exchange: str = "",
        mandatory: bool = False,
        **properties: Any,
    ) -> None:
        """Publish messages of these bodies."""
        for body in bodies:
            self.channel.basic_publish(body.encode(), properties, exchange, key, mandatory)

    def get(self, queue: str = "q") -> Delivery:
        """Fetch a message that is there, to be settled."""
        delivery = self.channel.basic_get(queue)
        assert delivery is not None
        return delivery

    def bodies(self, queue: str = "q") -> list[str]:
        """Take everything off a queue."""
        found = []
        while (delivery := self.channel.basic_get(queue, no_ack=True)) is not None:
            found.append(delivery.body.decode())
        return found

    def counts(self, queue: str = "q") -> tuple[int, int]:
        """Return how many messages wait and how many consumers there are."""
        return self.connection.channel().queue_declare(queue, passive=True)[1:]

    def exists(self, queue: str = "q") -> bool:
        """Return whether there is such a queue."""
        return queue in self.broker.vhost("/").queues

    def pass_time(self, seconds: float) -> None:
        """Move the time forward."""
        self.broker.advance(self.broker.now + seconds)


def delivered(channel: Channel) -> list[str]:
    """Take out what a channel was sent: ``tag:body`` of deliveries, names of the rest."""
    events = list(channel.events)
    channel.events.clear()
    return [
        f"{event.consumer_tag}:{event.body.decode()}"
        if isinstance(event, Delivery)
        else f"{type(event).__name__} {event[0]}"
        for event in events
    ]


def refused(
    channel: Channel, code: int, operation: Callable[..., Any], *args: Any, **kwargs: Any
) -> str:
    """Return the text with which an operation is refused, having closed its channel."""
    with pytest.raises(ChannelError) as caught:
        operation(*args, **kwargs)
    assert caught.value.reply_code == code
    assert not channel.is_open
    return caught.value.reply_text
