"""An AMQP broker in memory, without I/O, threads or a clock.

What RabbitMQ does with exchanges, queues and messages, as plain method calls:
:class:`Broker` holds virtual hosts, :class:`Connection` and :class:`Channel`
stand for the clients. A method returns what RabbitMQ answers, or raises the
:class:`~carrot.exceptions.ChannelError` with which RabbitMQ would close the
channel (and closes it). What the broker sends by itself waits in
:attr:`Channel.events`. Time passes only by :meth:`Broker.advance`.

Not for several threads at once: :mod:`carrot.backends.queue` guards it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from carrot.broker.channels import Channel
from carrot.broker.connections import Connection
from carrot.broker.events import Cancelled, Confirmed, Delivery, Event, Nacked, Returned
from carrot.broker.queues import Queue
from carrot.broker.vhosts import VirtualHost

__all__ = [
    "Broker",
    "Cancelled",
    "Channel",
    "Confirmed",
    "Connection",
    "Delivery",
    "Event",
    "Nacked",
    "Queue",
    "Returned",
    "VirtualHost",
]


class Broker:
    """A broker.

    :param now: the time to begin with, seconds on any clock.
    :param epoch: POSIX time at which that clock reads 0; dates the deaths of
        messages.
    """

    #: Size of the largest message that is accepted, bytes. RabbitMQ 4.0's.
    max_message_size = 16 * 2**20

    def __init__(self, now: float = 0.0, epoch: float = 0.0) -> None:
        #: The time, as far as the broker knows.
        self.now = now
        self.epoch = epoch
        #: Whether the time matters to anything that was declared or published.
        self.needs_time = False
        self.vhosts: dict[str, VirtualHost] = {}
        #: Called for each message taken in, with its virtual host, exchange,
        #: routing key, properties, body and the names of the queues it went to.
        self.on_publish: Callable[..., object] | None = None
        #: What is due when, the next first; for who only wants to know if
        #: there is anything.
        self.timers: list[tuple[float, int, Queue]] = []
        self._numbers = count()

    @property
    def posix_time(self) -> float:
        """The time as POSIX has it, seconds."""
        return self.epoch + self.now

    def connect(self, vhost: str = "/", user: str = "guest") -> Connection:
        """Open a connection. The virtual host comes into being if need be."""
        return Connection(self, vhost, user)

    def vhost(self, name: str) -> VirtualHost:
        """Return the virtual host of that name; it comes into being if need be."""
        vhost = self.vhosts.get(name)
        if vhost is None:
            vhost = self.vhosts[name] = VirtualHost(self, name)
        return vhost

    def advance(self, now: float) -> None:
        """Move the time forward and do what is due: messages and queues expire.

        :param now: the new time; one that lies in the past changes nothing.
        """
        timers = self.timers
        while timers and timers[0][0] <= now:
            due, _, queue = heappop(timers)
            # What is due happens at its own time, in order, even if we are late.
            self.now = max(self.now, due)
            queue.on_timer()
        if now > self.now:
            self.now = now

    def next_due(self) -> float | None:
        """Return when :meth:`advance` will have something to do, if ever."""
        return self.timers[0][0] if self.timers else None

    def call_at(self, due: float, queue: Queue) -> None:
        """Have a queue's ``on_timer`` called at a time."""
        heappush(self.timers, (due, next(self._numbers), queue))
