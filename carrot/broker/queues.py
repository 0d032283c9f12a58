"""A queue: messages that wait, and the consumers that they are sent to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from carrot import topology
from carrot.broker.consumers import Consumer, Turns
from carrot.broker.ready import Message, PrioritizedReady, Ready

if TYPE_CHECKING:
    from carrot.broker.channels import Channel
    from carrot.broker.connections import Connection
    from carrot.broker.vhosts import VirtualHost

__all__ = ["Queue"]


class Queue:
    """A queue of a virtual host, as RabbitMQ's classic queues behave."""

    def __init__(
        self, vhost: VirtualHost, declared: topology.Queue, owner: Connection | None
    ) -> None:
        arguments = declared.arguments
        self.vhost = vhost
        self.declared = declared
        self.name = declared.name
        #: The connection that alone may use it, if exclusive.
        self.owner = owner
        self.is_deleted = False
        #: Bindings that lead here.
        self.bindings: dict[Hashable, topology.Binding] = {}

        highest = arguments.get("x-max-priority")
        self.ready: Ready | PrioritizedReady = (
            Ready() if highest is None else PrioritizedReady(highest)
        )
        #: Bytes of the bodies in :attr:`ready`.
        self.ready_bytes = 0
        #: Messages delivered and not settled yet.
        self.unacked = 0
        self._position = 0

        self.consumers: dict[Consumer, None] = {}
        self._turns = Turns()
        self._had_consumers = False
        self._single_active = bool(arguments.get("x-single-active-consumer"))
        #: The single active consumer, or the one that consumes exclusively.
        self._holder: Consumer | None = None

        self.dead_letter_exchange: str | None = arguments.get("x-dead-letter-exchange")
        self.dead_letter_key: str | None = arguments.get("x-dead-letter-routing-key")
        self._max_length: int | None = arguments.get("x-max-length")
        self._max_bytes: int | None = arguments.get("x-max-length-bytes")
        self._is_bounded = self._max_length is not None or self._max_bytes is not None
        self._overflow: str = arguments.get("x-overflow") or "drop-head"

        ttl, lease = arguments.get("x-message-ttl"), arguments.get("x-expires")
        self._ttl = None if ttl is None else ttl / 1000
        # Whether any message here ever had an expiry; saves looking for it.
        self._expiring = False
        # When the timer set for the head's expiry goes off.
        self._expiry_timer: float | None = None
        self._lease = None if lease is None else lease / 1000
        self._lease_end = 0.0
        # When the timer set for the end of the lease goes off.
        self._lease_timer: float | None = None
        if not (ttl is lease is self.dead_letter_exchange is None):
            vhost.broker.needs_time = True
        self.touch()

    def __repr__(self) -> str:
        return (
            f"<Queue {self.name!r} in {self.vhost.name!r}: {self.ready.count} ready,"
            f" {self.unacked} unacked, {len(self.consumers)} consumers>"
        )

    # -- messages

    def publish(self, message: Message) -> bool:
        """Take a message in. Returns whether it was accepted."""
        if self._is_bounded and self._overflow != "drop-head" and self._is_full_for(message):
            if self._overflow == "reject-publish-dlx":
                self._dead_letter(message, "maxlen")
            return False
        self._position += 1
        message.position = self._position
        if self._ttl is not None or "expiration" in message.properties:
            self._set_expiry(message)
        if self.consumers:
            consumer = self._next_consumer()
            if consumer is not None:
                consumer.channel.deliver(consumer, message)
                return True
        self.ready.append(message)
        self.ready_bytes += len(message.body)
        dropped = self._is_bounded and self._drop_heads()
        # RabbitMQ looks for expired messages only where the head changed by
        # this; one that overtakes by priority keeps its time to live unwatched.
        if self._expiring and (dropped or self.ready.count == 1):
            self.expire()
        return True

    def take(self) -> Message:
        """Remove and return the head. :raises IndexError: none is ready."""
        message = self.ready.take()
        self.ready_bytes -= len(message.body)
        if self._expiring:
            self.expire()
        return message

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Forget messages that were out."""
        self.unacked -= len(messages)
        self.run()

    def reject(self, messages: Sequence[Message]) -> None:
        """Discard messages that were out, or dead-letter them."""
        self.unacked -= len(messages)
        for message in messages:
            self._dead_letter(message, "rejected")
        self.run()

    def requeue(self, messages: Sequence[Message]) -> None:
        """Give messages that were out back to their places."""
        self.unacked -= len(messages)
        for message in messages:
            message.redelivered = True
            self.ready.restore(message)
            self.ready_bytes += len(message.body)
        if self._is_bounded and self._overflow == "drop-head":
            self._drop_heads()
        if self._expiring:
            self.expire()
        self.run()

    def purge(self) -> int:
        """Remove the waiting messages. Returns how many there were."""
        self.ready_bytes = 0
        return self.ready.clear()

    def run(self) -> None:
        """Send what waits to consumers that can take it."""
        while self.ready.count:
            consumer = self._next_consumer()
            if consumer is None:
                return
            consumer.channel.deliver(consumer, self.take())

    def _is_full_for(self, message: Message) -> bool:
        return (self._max_length is not None and self.ready.count >= self._max_length) or (
            self._max_bytes is not None
            and self.ready_bytes + len(message.body) > self._max_bytes
        )

    def _drop_heads(self) -> bool:
        dropped = False
        while (self._max_length is not None and self.ready.count > self._max_length) or (
            self._max_bytes is not None and self.ready_bytes > self._max_bytes
        ):
            message = self.ready.take()
            self.ready_bytes -= len(message.body)
            dropped = True
            self._dead_letter(message, "maxlen")
        return dropped

    def _dead_letter(self, message: Message, reason: str) -> None:
        if self.dead_letter_exchange is not None:
            self.vhost.dead_letter(message, reason, self)

    # -- time

    def _set_expiry(self, message: Message) -> None:
        times = [] if self._ttl is None else [self._ttl]
        if "expiration" in message.properties:
            times.append(int(message.properties["expiration"]) / 1000)
        message.expires = self.vhost.broker.now + min(times)
        self._expiring = self.vhost.broker.needs_time = True

    def expire(self) -> None:
        """Dead-letter the heads whose time has come; have the next one watched."""
        broker = self.vhost.broker
        while (head := self.ready.head()) is not None and head.expires is not None:
            if head.expires > broker.now:
                if self._expiry_timer is None or head.expires < self._expiry_timer:
                    self._expiry_timer = head.expires
                    broker.call_at(head.expires, self)
                return
            self.ready.take()
            self.ready_bytes -= len(head.body)
            self._dead_letter(head, "expired")

    def touch(self) -> None:
        """Begin the time anew after which the queue, unused, is deleted."""
        if self._lease is not None and not self.consumers:
            self._lease_end = self.vhost.broker.now + self._lease
            if self._lease_timer is None:
                self._watch_lease()

    def on_timer(self) -> None:
        """Do what is due. Called by the broker at the times asked for."""
        if self.is_deleted:
            return
        now = self.vhost.broker.now
        if self._lease_timer is not None and self._lease_timer <= now:
            self._lease_timer = None
            if self._lease_end > now:
                self._watch_lease()
            elif not self.consumers:
                self.vhost.delete_queue(self)
                return
        if self._expiry_timer is not None and self._expiry_timer <= now:
            self._expiry_timer = None
            self.expire()

    def _watch_lease(self) -> None:
        self._lease_timer = self._lease_end
        self.vhost.broker.call_at(self._lease_end, self)

    # -- consumers

    @property
    def is_reserved(self) -> bool:
        """Whether a consumer has it for itself."""
        return self._holder is not None and not self._single_active

    def can_reserve(self) -> bool:
        """Return whether a consumer may have it for itself."""
        return not self.consumers and not self._single_active

    def subscribe(self, consumer: Consumer, exclusive: bool) -> None:
        """Add a consumer and send it what waits."""
        self.consumers[consumer] = None
        self._had_consumers = True
        self._turns.join(consumer)
        if exclusive or (self._single_active and self._holder is None):
            self._holder = consumer
        self.run()

    def unsubscribe(self, consumer: Consumer) -> None:
        """Remove a consumer that was cancelled; its unsettled messages stay out."""
        self._remove(consumer)
        if self._is_abandoned():
            self.vhost.delete_queue(self)
        else:
            self.run()
            self.touch()

    def channel_closed(self, channel: Channel, messages: list[Message]) -> None:
        """Remove a channel's consumers and take its unsettled messages back."""
        gone = [consumer for consumer in self.consumers if consumer.channel is channel]
        for consumer in gone:
            self._remove(consumer)
        if gone and self._is_abandoned():
            self.vhost.delete_queue(self)
            return
        if gone:
            self.touch()
        self.requeue(messages)

    def unpark(self, consumer: Consumer) -> None:
        """Let a consumer that lost its turn have it again, if it can take now.

        Call :meth:`run` thereafter.
        """
        if consumer.parked and consumer in self.consumers and consumer.can_take():
            self._turns.join(consumer)

    def serve(self, consumer: Consumer) -> None:
        """Give a parked consumer that acknowledged one message its next one."""
        if self.ready.count > 1 and not self._single_active and consumer in self.consumers:
            # Where messages wait, every other consumer is parked as well: so
            # it is this one's turn, after which it is parked again.
            parked = consumer.channel.parked
            del parked[consumer]
            parked[consumer] = None  # as the last one
            consumer.channel.deliver(consumer, self.take())
        else:
            self.unpark(consumer)
            self.run()

    def _remove(self, consumer: Consumer) -> None:
        del self.consumers[consumer]
        self._turns.leave(consumer)
        if self._holder is consumer:
            self._holder = self._turns.first() if self._single_active else None

    def _is_abandoned(self) -> bool:
        return self.declared.auto_delete and self._had_consumers and not self.consumers

    def _next_consumer(self) -> Consumer | None:
        if not self._single_active:
            return self._turns.next()
        holder = self._holder
        if holder is None or holder.parked:
            return None
        if not holder.can_take():
            self._turns.leave(holder)
            holder.park()
            return None
        return holder
