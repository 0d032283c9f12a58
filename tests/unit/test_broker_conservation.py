"""No message is lost, doubled or overtaken, whatever clients do to the broker."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carrot.broker import Broker, Channel, Delivery

QUEUES = ("one", "two")
which = st.integers(0, 1000)


class Conservation(RuleBasedStateMachine):
    """Publishers and consumers on two queues; a book is kept of every message."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.control = self.broker.connect().channel()
        for queue in QUEUES:
            self.control.queue_declare(queue)
            self.control.queue_bind(queue, "amq.fanout")
        self.channels: list[Channel] = []
        self.published: dict[str, list[bytes]] = {queue: [] for queue in QUEUES}
        self.settled: dict[str, set[bytes]] = {queue: set() for queue in QUEUES}
        self.seen: dict[str, set[bytes]] = {queue: set() for queue in QUEUES}
        self.number = 0

    def pick(self, number: int) -> Channel:
        return self.channels[number % len(self.channels)]

    def watch(self, queue: str, delivery: Delivery) -> None:
        assert delivery.redelivered == (delivery.body in self.seen[queue])
        self.seen[queue].add(delivery.body)

    @rule(shared=st.booleans(), prefetch=st.integers(0, 3))
    def open_channel(self, shared: bool, prefetch: int) -> None:
        if len(self.channels) < 4:
            channel = self.broker.connect().channel()
            channel.basic_qos(prefetch, global_=shared)
            self.channels.append(channel)

    @rule(queue=st.sampled_from([*QUEUES, ""]), count=st.integers(1, 5))
    def publish(self, queue: str, count: int) -> None:
        for _ in range(count):
            self.number += 1
            body = b"%d" % self.number
            exchange = "" if queue else "amq.fanout"
            for name in [queue] if queue else QUEUES:
                self.published[name].append(body)
            self.control.basic_publish(body, {}, exchange, queue)

    @precondition(lambda self: self.channels)
    @rule(number=which, queue=st.sampled_from(QUEUES))
    def get(self, number: int, queue: str) -> None:
        delivery = self.pick(number).basic_get(queue)
        if delivery is not None:
            self.watch(queue, delivery)

    @precondition(lambda self: self.channels)
    @rule(number=which, queue=st.sampled_from(QUEUES), priority=st.integers(0, 1))
    def consume(self, number: int, queue: str, priority: int) -> None:
        self.number += 1
        tag = f"{queue}-{self.number}"
        self.pick(number).basic_consume(queue, tag, arguments={"x-priority": priority})

    @precondition(lambda self: self.channels)
    @rule(number=which, consumer=which)
    def cancel(self, number: int, consumer: int) -> None:
        channel = self.pick(number)
        tags = list(channel.consumers)
        if tags:
            channel.basic_cancel(tags[consumer % len(tags)])

    @precondition(lambda self: any(channel.unacked for channel in self.channels))
    @rule(number=which, tag=which, multiple=st.booleans(), how=st.sampled_from("arn"))
    def settle(self, number: int, tag: int, multiple: bool, how: str) -> None:
        self.read()
        channels = [channel for channel in self.channels if channel.unacked]
        channel = channels[number % len(channels)]
        tags = sorted(channel.unacked)
        chosen = tags[tag % len(tags)]
        if how != "n":
            for each in tags if multiple else [chosen]:
                if each <= chosen:
                    message, queue, _ = channel.unacked[each]
                    self.settled[queue.name].add(message.body)
        if how == "a":
            channel.basic_ack(chosen, multiple)
        else:
            channel.basic_nack(chosen, multiple, requeue=how == "n")

    @precondition(lambda self: self.channels)
    @rule(number=which)
    def recover(self, number: int) -> None:
        self.read()
        self.pick(number).basic_recover()

    @precondition(lambda self: self.channels)
    @rule(number=which, whole=st.booleans())
    def close(self, number: int, whole: bool) -> None:
        self.read()
        channel = self.channels.pop(number % len(self.channels))
        if whole:
            channel.connection.close()
        else:
            channel.close()

    @rule()
    def read(self) -> None:
        for channel in self.channels:
            while channel.events:
                event = channel.events.popleft()
                assert isinstance(event, Delivery)
                self.watch(event.consumer_tag.partition("-")[0], event)

    def out(self, queue: str) -> list[bytes]:
        return [
            message.body
            for channel in self.channels
            for message, home, _ in channel.unacked.values()
            if home.name == queue
        ]

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        for name in QUEUES:
            queue = self.broker.vhost("/").queues[name]
            out = self.out(name)
            waiting = [body for body in self.published[name] if body not in self.settled[name]]
            assert len(out) == len(set(out)) == queue.unacked
            assert len(queue.ready) + len(out) == len(waiting)
            assert set(out) <= set(waiting)

    @invariant()
    def the_head_is_the_oldest_that_waits(self) -> None:
        for name in QUEUES:
            gone = self.settled[name] | set(self.out(name))
            oldest = next((body for body in self.published[name] if body not in gone), None)
            head = self.broker.vhost("/").queues[name].ready.head()
            assert (head.body if head else None) == oldest

    @invariant()
    def nobody_holds_too_much(self) -> None:
        for channel in self.channels:
            held = [consumer for _, _, consumer in channel.unacked.values() if consumer]
            for consumer in channel.consumers.values():
                assert consumer.unacked == held.count(consumer)
                assert not consumer.prefetch or consumer.unacked <= consumer.prefetch
            if channel._shared_prefetch:
                assert len(held) <= channel._shared_prefetch

    @invariant()
    def nothing_waits_for_someone_who_could_take_it(self) -> None:
        for name in QUEUES:
            queue = self.broker.vhost("/").queues[name]
            if queue.ready:
                assert not any(consumer.can_take() for consumer in queue.consumers)

    def teardown(self) -> None:
        for channel in self.channels:
            channel.close()
        self.channels.clear()
        for name in QUEUES:
            left = []
            while (delivery := self.control.basic_get(name, no_ack=True)) is not None:
                left.append(delivery.body)
            assert left == [b for b in self.published[name] if b not in self.settled[name]]


TestConservation = Conservation.TestCase
TestConservation.__doc__ = "Every message is in one place, in order, and with who may have it."
