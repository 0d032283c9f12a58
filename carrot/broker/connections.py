"""A connection to the broker: channels, and queues for it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from carrot.broker.channels import Channel
from carrot.broker.refusals import refusal

if TYPE_CHECKING:
    from carrot.broker import Broker
    from carrot.broker.queues import Queue

__all__ = ["Connection"]


class Connection:
    """A connection of *user* to the virtual host *vhost*."""

    def __init__(self, broker: Broker, vhost: str, user: str) -> None:
        self.broker = broker
        self.vhost = broker.vhost(vhost)
        self.user = user
        self.is_open = True
        #: Open channels, in the order of their opening.
        self.channels: dict[Channel, None] = {}
        #: Queues that only this connection may use; deleted with it.
        self.exclusive_queues: dict[Queue, None] = {}

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Connection of {self.user!r} to {self.vhost.name!r}, {state}>"

    def channel(self) -> Channel:
        """Open a channel. :raises ChannelError: 504, the connection is closed."""
        if not self.is_open:
            raise refusal(504, "expected 'connection.open'")
        channel = Channel(self)
        self.channels[channel] = None
        return channel

    def close(self) -> None:
        """Close the channels, then delete the exclusive queues."""
        self.is_open = False
        for channel in list(self.channels):
            channel.close()
        for queue in list(self.exclusive_queues):
            self.vhost.delete_queue(queue)
