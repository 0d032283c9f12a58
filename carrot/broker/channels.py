"""A channel: the methods of AMQP 0-9-1, answered as RabbitMQ answers them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

from carrot.broker import checks
from carrot.broker.consumers import Consumer
from carrot.broker.declaring import DeclaringChannel, channel_method
from carrot.broker.events import Cancelled, Confirmed, Delivery, Event, Nacked, Returned
from carrot.broker.exchanges import Exchange
from carrot.broker.queues import Queue
from carrot.broker.ready import Copies, Message
from carrot.broker.refusals import refusal, resource
from carrot.exceptions import ChannelError

if TYPE_CHECKING:
    from carrot.broker.connections import Connection

__all__ = ["Channel"]

Table = Mapping[str, Any]
Messages = Sequence[Message]
_NO_HEADERS: Table = {}
#: A message that awaits settling, its queue, and who got it (``None``: fetched).
Unacked = tuple[Message, Queue, Consumer | None]


class Channel(DeclaringChannel):
    """A channel of a connection.

    Methods take the arguments that AMQP names, and answer at once. An error
    that they raise has closed the channel, or where RabbitMQ does that, the
    whole connection; every method of a closed channel is refused with 504.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        #: What the broker sent, oldest first. Taken out by whoever reads it.
        self.events: deque[Event] = deque()
        #: Called with each event, which then is not added to :attr:`events`;
        #: in the middle of an operation of the broker: it must not begin another.
        self.on_event: Callable[[Event], object] | None = None
        #: Deliveries that were not settled yet, by their tags.
        self.unacked: dict[int, Unacked] = {}
        self.consumers: dict[str, Consumer] = {}
        #: Consumers that lost their turn, in the order in which they did.
        self.parked: dict[Consumer, None] = {}
        #: Whether the bound on all its consumers together is reached.
        self.is_full = False
        #: Number of the last delivery; they count from 1.
        self.last_delivery_tag = 0
        self._settled_up_to = 0
        self._prefetch = 0
        # The bound on all consumers together, and how much of it is used.
        self._shared_prefetch = 0
        self._in_flight = 0
        #: Messages published since confirm_select, or None without it.
        self._published: int | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return (
            f"<Channel of {self.connection.user!r}, {state}: {len(self.consumers)}"
            f" consumers, {len(self.unacked)} unacked, {len(self.events)} events>"
        )

    def close(self) -> None:
        """Close it: its consumers end, its unsettled messages return to their queues."""
        if not self.is_open:
            return
        self.is_open = False
        self.connection.channels.pop(self, None)
        returning: dict[Queue, list[Message]] = {
            consumer.queue: [] for consumer in self.consumers.values()
        }
        for message, queue, _ in self.unacked.values():
            returning.setdefault(queue, []).append(message)
        self.events.clear()
        self.unacked.clear()
        self.consumers.clear()
        for queue, messages in returning.items():
            if not queue.is_deleted:
                queue.channel_closed(self, messages)

    # -- publishing

    def basic_publish(
        self,
        body: bytes,
        properties: dict[str, Any],
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
    ) -> bool:
        """Publish a message.

        :param properties: under their AMQP names; not to be changed thereafter.
        :returns: whether no queue refused it; what a confirm or nack will say.
        """
        if not self.is_open:
            raise refusal(504, "expected 'channel.open'")
        vhost = self._vhost
        try:
            source = vhost.exchanges.get(exchange) or vhost.exchange(exchange)
            if (
                len(body) > vhost.broker.max_message_size
                or source.is_internal
                or "expiration" in properties
            ):
                self._check_message(body, properties, source)
            headers = properties.get("headers") or _NO_HEADERS
            copies = None
            if "CC" in headers or "BCC" in headers:
                copies = _copies(headers)
            if "user_id" in properties:
                self._check_user(properties["user_id"])
        except ChannelError:
            self.close()
            raise
        keys: Sequence[str] = (routing_key,)
        if copies is not None:
            keys = (routing_key, *copies.shown, *copies.hidden)
            if "BCC" in headers:
                headers = {name: headers[name] for name in headers if name != "BCC"}
                properties = {**properties, "headers": headers}
        queues = vhost.route(source, keys, headers)
        if vhost.broker.on_publish is not None:
            reached = [queue.name for queue in queues]
            vhost.broker.on_publish(
                vhost.name, exchange, routing_key, properties, body, reached
            )
        accepted = True
        for queue in queues:
            if not queue.publish(Message(body, properties, exchange, routing_key, copies)):
                accepted = False
        if mandatory and not queues:
            self.send(Returned(312, "NO_ROUTE", exchange, routing_key, properties, body))
        if self._published is not None:
            self._published += 1
            self.send((Confirmed if accepted else Nacked)(self._published))
        return accepted

    def _check_message(
        self, body: bytes, properties: dict[str, Any], exchange: Exchange
    ) -> None:
        # Of a message that is too large, or goes to an internal exchange, or
        # has an expiration.
        vhost = self._vhost
        if len(body) > vhost.broker.max_message_size:
            raise refusal(
                406,
                f"message size {len(body)} is larger than configured max size"
                f" {vhost.broker.max_message_size}",
            )
        if exchange.is_internal:
            where = resource("exchange", exchange.name, vhost.name)
            raise refusal(403, f"cannot publish to internal {where}")
        expiration = properties["expiration"]
        fault = checks.expiration_fault(expiration)
        if fault is not None:
            raise refusal(406, f"invalid expiration '{expiration}': {fault}")

    def _check_user(self, user: str) -> None:
        if user != self.connection.user:
            raise refusal(
                406,
                f"user_id property set to '{user}' but authenticated user was"
                f" '{self.connection.user}'",
            )

    @channel_method
    def confirm_select(self) -> None:
        """Have every message confirmed from now on, numbered from 1."""
        if self._published is None:
            self._published = 0

    # -- receiving

    def basic_get(self, queue: str, no_ack: bool = False) -> Delivery | None:
        """Fetch the next message of a queue, if there is one."""
        if not self.is_open:
            raise refusal(504, "expected 'channel.open'")
        try:
            found = self._vhost.queue(queue or self._named(queue), self.connection)
        except ChannelError:
            self.close()
            raise
        found.touch()
        if not found.ready.count:
            return None
        message = found.take()
        self.last_delivery_tag = tag = self.last_delivery_tag + 1
        if not no_ack:
            self.unacked[tag] = (message, found, None)
            found.unacked += 1
        return Delivery(
            "",
            tag,
            message.redelivered,
            message.exchange,
            message.routing_key,
            message.properties,
            message.body,
            found.ready.count,
        )

    @channel_method
    def basic_consume(
        self,
        queue: str,
        consumer_tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Table | None = None,
    ) -> str:
        """Subscribe to a queue. Returns the consumer tag."""
        vhost, queue = self._vhost, self._named(queue)
        if consumer_tag in self.consumers:
            raise refusal(530, f"attempt to reuse consumer tag '{consumer_tag}'")
        consumer_tag = consumer_tag or "amq.ctag-" + token_urlsafe(16)
        found = vhost.queue(queue, self.connection)
        arguments = arguments or {}
        checks.check_consumer_arguments(queue, vhost.name, arguments)
        if found.is_reserved or (exclusive and not found.can_reserve()):
            where = resource("queue", queue, vhost.name)
            raise refusal(403, f"{where} in exclusive use")
        consumer = Consumer(self, found, consumer_tag, no_ack, self._prefetch, arguments)
        self.consumers[consumer_tag] = consumer
        found.subscribe(consumer, exclusive)
        return consumer_tag

    @channel_method
    def basic_cancel(self, consumer_tag: str) -> None:
        """End a subscription, if there is one. What it got stays unsettled."""
        consumer = self.consumers.pop(consumer_tag, None)
        if consumer is not None:
            consumer.queue.unsubscribe(consumer)

    @channel_method
    def basic_qos(self, prefetch_count: int, global_: bool = False) -> None:
        """Bound the unsettled messages of consumers; 0 lifts the bound.

        :param global_: bound all consumers of the channel together; otherwise
            each consumer that subscribes from now on, and together no longer.
        """
        if not global_:
            self._prefetch = prefetch_count
            prefetch_count = 0
        if prefetch_count and not self._shared_prefetch:
            self._in_flight = len(self.unacked)
        self._shared_prefetch = prefetch_count
        self._make_room(0)

    def deliver(self, consumer: Consumer, message: Message) -> None:
        """Send a message to a consumer of this channel."""
        self.last_delivery_tag = tag = self.last_delivery_tag + 1
        if not consumer.no_ack:
            self.unacked[tag] = (message, consumer.queue, consumer)
            consumer.unacked += 1
            consumer.queue.unacked += 1
            if self._shared_prefetch:
                self._in_flight += 1
                self.is_full = self._in_flight >= self._shared_prefetch
        # What Delivery(...) does, at half its price: nothing is done more often.
        delivery = tuple.__new__(
            Delivery,
            (
                consumer.tag,
                tag,
                message.redelivered,
                message.exchange,
                message.routing_key,
                message.properties,
                message.body,
                None,
            ),
        )
        (self.on_event or self.events.append)(delivery)

    def consumer_lost(self, consumer: Consumer) -> None:
        """Tell the channel that the queue of a consumer was deleted."""
        del self.consumers[consumer.tag]
        self.parked.pop(consumer, None)
        self.send(Cancelled(consumer.tag))

    def send(self, event: Event) -> None:
        """Hand over an event."""
        (self.on_event or self.events.append)(event)

    # -- settling

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Acknowledge a delivery, or all up to it; 0 with *multiple*: all."""
        unacked = None if multiple else self.unacked.pop(delivery_tag, None)
        if unacked is None:
            self._settle(delivery_tag, multiple, Queue.acknowledge)
            return
        # The same as _settle does, for the common case.
        _, queue, consumer = unacked
        queue.unacked -= 1
        if consumer is not None:
            consumer.unacked -= 1
            if self._shared_prefetch:
                queue.unpark(consumer)
                queue.run()
                self._make_room(1)
            elif consumer.parked:
                queue.serve(consumer)

    def basic_nack(
        self, delivery_tag: int, multiple: bool = False, requeue: bool = True
    ) -> None:
        """Refuse a delivery, or all up to it: requeued, or else dead-lettered."""
        self._settle(delivery_tag, multiple, Queue.requeue if requeue else Queue.reject)

    def basic_reject(self, delivery_tag: int, requeue: bool) -> None:
        """Refuse a delivery: requeued, or else dead-lettered."""
        self._settle(delivery_tag, False, Queue.requeue if requeue else Queue.reject)

    @channel_method
    def basic_recover(self, requeue: bool = True) -> None:
        """Requeue all unsettled messages."""
        if not requeue:
            raise refusal(540, "requeue=false")
        self._settle_groups(self._taken_up_to(0), Queue.requeue)

    def _settle(
        self, delivery_tag: int, multiple: bool, how: Callable[[Queue, Messages], None]
    ) -> None:
        if not self.is_open:
            raise refusal(504, "expected 'channel.open'")
        if delivery_tag not in self.unacked and (delivery_tag or not multiple):
            self.close()
            raise refusal(406, f"unknown delivery tag {delivery_tag}")
        if multiple:
            self._settle_groups(self._taken_up_to(delivery_tag), how)
        else:
            message, queue, consumer = self.unacked.pop(delivery_tag)
            self._settle_groups([(queue, consumer, (message,))], how)

    def _settle_groups(
        self,
        groups: Iterable[tuple[Queue, Consumer | None, Messages]],
        how: Callable[[Queue, Messages], None],
    ) -> None:
        freed = 0
        for queue, consumer, messages in groups:
            if consumer is not None:
                freed += len(messages)
                consumer.unacked -= len(messages)
                queue.unpark(consumer)
            if not queue.is_deleted:
                how(queue, messages)
        if self._shared_prefetch:
            self._make_room(freed)

    def _taken_up_to(
        self, delivery_tag: int
    ) -> Iterable[tuple[Queue, Consumer | None, Messages]]:
        # Taken out and grouped as RabbitMQ settles them: by queue, each
        # fetched message, then the messages of each consumer.
        last = delivery_tag or self.last_delivery_tag
        groups: dict[tuple[str, str, int], tuple[Queue, Consumer | None, list[Message]]] = {}
        # Tags below were taken before: each is looked at once in a channel's life.
        for tag in range(self._settled_up_to + 1, last + 1):
            taken = self.unacked.pop(tag, None)
            if taken is not None:
                message, queue, consumer = taken
                key = (queue.name, consumer.tag, 0) if consumer else (queue.name, "", tag)
                groups.setdefault(key, (queue, consumer, []))[2].append(message)
        self._settled_up_to = last
        return [groups[key] for key in sorted(groups)]

    def _make_room(self, freed: int) -> None:
        # Count down what the consumers hold together; serve those that waited.
        self._in_flight = max(0, self._in_flight - freed)
        was_full = self.is_full
        self.is_full = 0 < self._shared_prefetch <= self._in_flight
        if was_full and not self.is_full:
            parked = list(self.parked)
            for consumer in parked:
                consumer.queue.unpark(consumer)
            for queue in dict.fromkeys(consumer.queue for consumer in parked):
                queue.run()


def _copies(headers: Table) -> Copies:
    found = []
    for name in ("CC", "BCC"):
        keys = headers.get(name, ())
        if not isinstance(keys, (list, tuple)):
            fault = f'{{unacceptable_type_in_header,"{name}",{checks.wire_type(keys)}}}'
            raise refusal(406, f"invalid message: {fault}")
        found.append(tuple(key for key in keys if isinstance(key, str)))
    return Copies(*found)
