"""The contract of sets of consumers."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.exceptions import ConnectionClosed, DecodeError
from carrot.messaging import Consumer, ConsumerSet
from carrot.testing.contract.scene import Inbox, Scene, needs


class ConsumerSetContract(Scene):
    """Several consumers on one channel."""

    def test_a_set_is_made_from_a_dictionary(self) -> None:
        """``from_dict`` maps queues to options, ``binding_key`` among them."""
        exchange, queues, inbox = (
            self.new_exchange(),
            [self.new_queue(), self.new_queue()],
            Inbox(),
        )
        consumers = self.consumer_set(
            from_dict={
                queues[0]: {"exchange": exchange, "binding_key": "one"},
                queues[1]: {"exchange": exchange, "routing_key": "two"},
            },
            callbacks=[inbox],
        )
        assert [each.queue for each in consumers.consumers] == queues
        with self.publisher(exchange) as publisher:
            publisher.send(1, routing_key="one")
            publisher.send(2, routing_key="two")
        assert list(consumers.iterconsume(limit=2)) == [True, True]
        assert sorted(inbox.payloads) == [1, 2]
        consumers.close()

    def test_a_set_is_made_of_consumers(self) -> None:
        """Consumers that were made before move to the channel of the set."""
        one, other, inbox = self.filled("one"), self.filled("other"), Inbox()
        consumers = self.consumer_set(consumers=[one, other])
        consumers.register_callback(inbox)
        assert one.backend is other.backend is consumers.backend
        consumers.wait(limit=2)
        assert sorted(inbox.payloads) == ["one", "other"]
        consumers.close()

    def test_consume_declares_and_subscribes_those_added_since(self) -> None:
        """``consume()`` again subscribes what was added since, and nothing twice."""
        inbox = Inbox()
        consumers = self.consumer_set(callbacks=[inbox])
        first = consumers.add_consumer_from_dict(self.new_queue())
        consumers.consume()
        second = consumers.add_consumer_from_dict(self.new_queue())
        assert first.channel_open and not second.channel_open
        consumers.consume()
        for number, each in enumerate([first, second]):
            self.put(each.queue, number)
        self.drain(lambda: len(inbox) == 2)
        assert sorted(inbox.payloads) == [0, 1]
        consumers.close()

    def test_own_callbacks_go_before_the_sets(self) -> None:
        """A consumer with callbacks of its own uses those, the others use the set's."""
        own, shared = Inbox(), Inbox()
        one, other = self.filled("own"), self.filled("shared")
        one.register_callback(own)
        self.consumer_set(consumers=[one, other], callbacks=[shared]).wait(limit=2)
        assert (own.payloads, shared.payloads) == (["own"], ["shared"])

    def test_without_callbacks_the_consumers_own_receive(self) -> None:
        """Where the set has no callbacks, a consumer's own ``receive`` gets its messages."""
        received: list[Any] = []

        class FeedConsumer(Consumer):
            def receive(self, message_data: Any, message: Any) -> None:
                received.append(message_data)
                message.ack()

        self.consumer_set(consumers=[self.filled("own", cls=FeedConsumer)]).wait(limit=1)
        assert received == ["own"]

    def test_receive_of_the_set_may_be_overridden(self) -> None:
        """A subclass of the set may override ``receive``."""
        received: list[Any] = []

        class FeedSet(ConsumerSet):
            def receive(self, message_data: Any, message: Any) -> None:
                received.append(message_data)
                message.ack()

        with FeedSet(self.connection, consumers=[self.filled("to the set")]) as consumers:
            consumers.wait(limit=1)
        assert received == ["to the set"]

    def test_nobody_to_call_is_an_error(self) -> None:
        """A message for which neither set nor consumer has callbacks raises."""
        with pytest.raises(NotImplementedError):
            self.consumer_set(consumers=[self.filled("x")]).wait(limit=1)
        self.still_works()

    def test_an_empty_set_consumes_nothing(self) -> None:
        """An empty set consumes nothing, without error, and ends at once."""
        consumers = self.consumer_set(from_dict={})
        consumers.consume()
        assert list(consumers.iterconsume()) == []
        consumers.wait()
        assert consumers.discard_all() == 0
        consumers.cancel()
        consumers.close()

    def test_auto_ack_of_the_set(self) -> None:
        """``auto_ack`` of the set acknowledges for all its consumers."""
        inbox = Inbox(ack=False)
        self.consumer_set(consumers=[self.filled("x")], callbacks=[inbox], auto_ack=True).wait(
            limit=1
        )
        assert inbox.messages[0].acknowledged

    def test_auto_ack_of_one_consumer(self) -> None:
        """``auto_ack`` of a consumer holds within a set, for that consumer."""
        inbox = Inbox(ack=False)
        one, other = self.filled("acked", auto_ack=True), self.filled("not")
        self.consumer_set(consumers=[one, other], callbacks=[inbox]).wait(limit=2)
        states = {message.payload: message.acknowledged for message in inbox.messages}
        assert states == {"acked": True, "not": False}

    def test_on_decode_error_of_the_set(self) -> None:
        """``on_decode_error`` of the set says what becomes of undecodable messages."""
        consumer = self.consumer()
        self.put(consumer.queue, b"{", content_type="application/json")
        consumers = self.consumer_set(
            consumers=[consumer], callbacks=[Inbox()], on_decode_error="raise"
        )
        with pytest.raises(DecodeError):
            consumers.wait(limit=1)

    def test_accept_of_the_set(self) -> None:
        """``accept`` of the set is that of consumers that have none of their own."""
        inbox = Inbox()
        one, other = self.consumer(), self.consumer(accept=["json"])
        for each in (one, other):
            self.put(each.queue, [each.queue], serializer="pickle")
        consumers = self.consumer_set(
            consumers=[one, other], callbacks=[inbox], accept=["pickle"]
        )
        consumers.wait(limit=2)
        assert inbox.payloads == [[one.queue]]

    def test_discard_all_sums_up(self) -> None:
        """``discard_all()`` empties every queue of the set and returns how many messages."""
        consumers = self.consumer_set(consumers=[self.filled(1, 2), self.filled(3)])
        assert consumers.discard_all() == 3
        assert consumers.discard_all() == 0

    def test_cancel_by_queue_ends_one(self) -> None:
        """``cancel_by_queue`` ends one subscription; the others go on."""
        inbox = Inbox()
        one, other = self.consumer(), self.consumer()
        consumers = self.consumer_set(consumers=[one, other], callbacks=[inbox])
        consumers.consume()
        consumers.cancel_by_queue(one.queue)
        consumers.cancel_by_queue("no such queue")
        self.put(one.queue, "stays")
        self.put(other.queue, "comes")
        self.drain(lambda: len(inbox) == 1)
        assert inbox.payloads == ["comes"]
        assert self.fetched(self.consumer(one.queue), no_ack=True).payload == "stays"

    def test_cancel_ends_all(self) -> None:
        """``cancel()`` ends every subscription; ``consume()`` renews them."""
        inbox = Inbox()
        consumers = self.consumer_set(consumers=[self.consumer()], callbacks=[inbox])
        consumers.consume()
        consumers.cancel()
        queue = consumers.consumers[0].queue
        self.put(queue, "x")
        assert self.fetched(self.consumer(queue), no_ack=True).payload == "x"
        consumers.consume()
        self.put(queue, "y")
        self.drain(lambda: inbox.payloads == ["y"])

    @needs("prefetch")
    def test_qos_of_the_set(self) -> None:
        """``qos`` of the set bounds what each of its consumers holds unsettled."""
        inbox = Inbox(ack=False)
        consumers = self.consumer_set(consumers=[self.filled(1, 2, 3)], callbacks=[inbox])
        consumers.qos(prefetch_count=1)
        consumers.consume()
        self.drain(lambda: len(inbox) == 1)
        self.expect(self.consumer(consumers.consumers[0].queue), [2, 3])

    @needs("flow")
    def test_flow_of_the_set(self) -> None:
        """``flow(True)`` of the set is answered."""
        self.consumer_set(consumers=[self.consumer()]).flow(True)
        self.still_works()

    @needs("stop")
    def test_stop_of_the_set(self) -> None:
        """``stop()`` ends ``wait()`` after the message that is being processed."""
        consumer = self.filled(1, 2)
        consumers = self.consumer_set(consumers=[consumer])
        inbox = Inbox()
        consumers.register_callback(inbox)
        consumers.register_callback(lambda data, message: consumers.stop())
        consumers.wait()
        assert inbox.payloads == [1]

    def test_a_raw_message_can_be_handed_to_the_set(self) -> None:
        """``_receive_callback`` of the set decodes a raw message and calls the callbacks."""
        inbox = Inbox(ack=False)
        consumers = self.consumer_set(callbacks=[inbox])
        consumers._receive_callback(self.publisher().create_message({"by": "hand"}))
        assert inbox.payloads == [{"by": "hand"}]

    def test_close_closes_the_consumers(self) -> None:
        """``close()`` closes set and consumers, is idempotent, and later use says so."""
        one = self.consumer()
        with self.consumer_set(consumers=[one], callbacks=[Inbox()]) as consumers:
            consumers.consume()
        consumers.close()
        assert one._closed
        with pytest.raises(ConnectionClosed, match="new ConsumerSet"):
            consumers.consume()
        self.still_works()
