"""Behaviours of a broker: deliveries, acknowledgements, and consumers."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.exceptions import NotFound
from carrot.messaging import Consumer
from carrot.testing.contract.scene import Inbox, Scene


class DeliveryBehaviours(Scene):
    """Who gets a message, and what becomes of it until it is settled."""

    def listening(self, queue: str, **options: Any) -> tuple[Consumer, Inbox]:
        """Return a subscribed consumer of a queue, and its callback."""
        inbox = Inbox(ack=options.pop("ack", True))
        consumer = self.consumer(queue, **options)
        consumer.register_callback(inbox)
        consumer.consume()
        return consumer, inbox

    def test_redelivered_flag(self) -> None:
        """A message that was delivered before is flagged so, and counted; only such a one."""
        consumer = self.filled("x")
        before = self.connection.stats()["redelivered"]
        message = self.fetched(consumer)
        assert message.delivery_info["redelivered"] is False
        message.requeue()
        assert self.fetched(consumer).delivery_info["redelivered"] is True
        assert self.connection.stats()["redelivered"] == before + 1

    def test_requeued_messages_return_to_their_place(self) -> None:
        """Requeued messages return to their place in the queue, in whatever order."""
        consumer = self.filled(1, 2, 3, 4)
        one, two, three = (self.fetched(consumer) for _ in range(3))
        for message in (three, one, two):
            message.requeue()
        self.expect(consumer, [1, 2, 3, 4])

    def test_unacked_messages_return_when_the_channel_closes(self) -> None:
        """What a closing channel holds unacknowledged returns, flagged redelivered."""
        consumer = self.filled(1, 2, 3)
        self.fetched(consumer).ack()
        self.fetched(consumer)
        consumer.close()
        again = self.consumer(consumer.queue)
        messages = [self.fetched(again), self.fetched(again)]
        assert [message.payload for message in messages] == [2, 3]
        assert [message.delivery_info["redelivered"] for message in messages] == [True, False]

    def test_unacked_messages_return_when_the_connection_closes(self) -> None:
        """What a closing connection holds unacknowledged returns, flagged redelivered."""
        other = self.connect()
        consumer = self.filled("x", connection=other)
        self.fetched(consumer)
        again = self.consumer(consumer.queue)
        assert again.fetch() is None
        other.close()
        message = self.fetched(again)
        assert (message.payload, message.delivery_info["redelivered"]) == ("x", True)

    def test_prefetch(self) -> None:
        """Never more than the prefetch count is delivered and unacknowledged."""
        queue = self.filled(1, 2, 3).queue
        consumer, inbox = self.consumer(queue), Inbox(ack=False)
        consumer.register_callback(inbox)
        consumer.qos(prefetch_count=1)
        consumer.consume()
        self.drain(lambda: len(inbox) == 1)
        spare = self.consumer(queue)
        self.expect(spare, [2, 3])
        self.put(queue, 4)
        inbox.messages[0].ack()
        self.drain(lambda: len(inbox) == 2)
        assert inbox.payloads == [1, 4]

    def test_consumers_take_turns(self) -> None:
        """Consumers of a queue get its messages in turn."""
        queue = self.consumer().queue
        (_, one), (_, other) = self.listening(queue), self.listening(queue)
        self.put(queue, *range(6))
        self.drain(lambda: len(one) + len(other) == 6)
        assert sorted([one.payloads, other.payloads]) == [[0, 2, 4], [1, 3, 5]]

    def test_cancelling_one_leaves_the_other(self) -> None:
        """Cancelling one of two consumers leaves the other all messages that follow."""
        queue = self.consumer().queue
        (one, inbox), (_, other) = self.listening(queue), self.listening(queue)
        one.cancel()
        self.put(queue, *range(4))
        self.drain(lambda: len(other) == 4)
        assert len(inbox) == 0

    def test_unknown_delivery_tag(self) -> None:
        """Acknowledging an unknown delivery tag is 406 and closes the channel."""
        channel = self.connection.get_channel()
        with pytest.raises(self.connection.channel_errors) as caught:
            channel.basic_ack(99)
            # RabbitMQ says so when it is asked the next time.
            channel.queue_declare(queue=self.new_queue(), durable=True, auto_delete=False)
        assert caught.value.reply_code == 406  # type: ignore[attr-defined]

    def test_single_active_consumer(self) -> None:
        """``x-single-active-consumer`` gives one consumer everything, the next one after it."""
        arguments = {"x-single-active-consumer": True}
        queue = self.consumer(queue_arguments=arguments).queue
        first, inbox = self.listening(queue, queue_arguments=arguments)
        _, other = self.listening(queue, queue_arguments=arguments)
        self.put(queue, *range(4))
        self.drain(lambda: len(inbox) == 4)
        first.cancel()
        self.put(queue, *range(4, 8))
        self.drain(lambda: len(other) == 4)
        assert (inbox.payloads, other.payloads) == ([0, 1, 2, 3], [4, 5, 6, 7])

    def test_confirms(self) -> None:
        """A message is confirmed when it is on its queues, or when none wants it."""
        publisher = self.publisher("", self.consumer().queue)
        publisher.send("wanted")
        publisher.send("unwanted", routing_key=self.name())
        publisher.flush()
        stats = self.connection.stats()
        assert (stats["published"], stats["confirmed"]) == (2, 2)

    def test_deleting_a_queue_cancels_its_consumers(self) -> None:
        """Deleting a queue cancels its consumers, and they are told."""
        connection = self.connect(recover=False)
        queue = self.consumer().queue
        self.listening(queue, connection=connection)
        self.connection.create_backend().queue_delete(queue=queue)
        with pytest.raises(NotFound, match=queue):
            self.drain(lambda: False, connection)
