"""Behaviours of a broker: how long queues keep messages, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.exceptions import PublishNacked, Unroutable
from carrot.messaging import Consumer
from carrot.testing.contract.scene import Scene


class QueueBehaviours(Scene):
    """Expiry, dead letters, length and priority."""

    def with_dead_letters(self, **arguments: Any) -> tuple[Consumer, Consumer]:
        """Return a consumer, and one of the queue that its queue's dead letters go to."""
        exchange = self.new_exchange()
        dead = self.consumer(exchange=exchange, routing_key="dead")
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        arguments |= {
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": "dead",
        }
        return self.consumer(queue_arguments=arguments), dead

    def died(self, dead: Consumer, queue: str, reason: str) -> Any:
        """Return the next dead letter, after asserting what its ``x-death`` says."""
        message = self.fetched(dead, no_ack=True)
        [death] = message.headers["x-death"]
        assert (death["queue"], death["reason"], death["count"]) == (queue, reason, 1)
        assert (death["exchange"], death["routing-keys"]) == ("", [queue])
        assert message.headers["x-first-death-queue"] == queue
        assert message.headers["x-first-death-reason"] == reason
        return message

    # -- expiry

    def test_expiration_of_a_message(self) -> None:
        """A message with an expiration vanishes when its time is over."""
        consumer = self.consumer()
        self.put(consumer.queue, "short", expiration=0.05)
        self.eventually(lambda: consumer.purge() == 0)
        self.put(consumer.queue, "long", expiration=60)
        self.expect(consumer, ["long"])

    def test_ttl_of_a_queue(self) -> None:
        """``x-message-ttl`` is how long (milliseconds) a queue keeps each message."""
        consumer, dead = self.with_dead_letters(x_message_ttl=50)
        self.put(consumer.queue, "one", "two")
        assert self.fetched(dead, no_ack=True).payload == "one"
        assert self.fetched(dead, no_ack=True).payload == "two"
        assert consumer.fetch() is None

    def test_expiry_of_an_unused_queue(self) -> None:
        """``x-expires`` is how long (milliseconds) a queue lasts without use."""
        queue = self.consumer(queue_arguments={"x-expires": 100}).queue
        publisher = self.publisher("", queue)

        def is_gone() -> bool:
            publisher.send("anybody there?", mandatory=True)
            try:
                publisher.flush()
            except Unroutable:
                return True
            return False

        self.eventually(is_gone)

    # -- dead letters

    def test_dead_letter_on_reject(self) -> None:
        """A rejected message goes to the dead-letter exchange, with ``x-death``."""
        consumer, dead = self.with_dead_letters()
        self.put(consumer.queue, "refused")
        self.fetched(consumer).reject()
        message = self.died(dead, consumer.queue, "rejected")
        assert message.payload == "refused"

    def test_dead_letter_on_expiry(self) -> None:
        """An expired message goes there as well; its expiration is taken off."""
        consumer, dead = self.with_dead_letters()
        self.put(consumer.queue, "late", expiration=0.02)
        message = self.died(dead, consumer.queue, "expired")
        assert message.headers["x-death"][0]["original-expiration"] == "20"
        assert "expiration" not in message.properties

    def test_dead_letter_on_length(self) -> None:
        """What a full queue drops goes there as well."""
        consumer, dead = self.with_dead_letters(x_max_length=1)
        self.put(consumer.queue, "first", "second")
        assert self.died(dead, consumer.queue, "maxlen").payload == "first"
        self.expect(consumer, ["second"])

    def test_dead_letters_count_their_deaths(self) -> None:
        """A message that dies again in the same queue has its count raised."""
        consumer, dead = self.with_dead_letters()
        self.put(consumer.queue, "again")
        self.fetched(consumer).reject()
        message = self.died(dead, consumer.queue, "rejected")
        self.put(consumer.queue, "again", headers=message.headers)
        self.fetched(consumer).reject()
        [death] = self.fetched(dead, no_ack=True).headers["x-death"]
        # Since 4.0 the header of a client counts for nothing.
        assert death["count"] in (1, 2)

    # -- length and priority

    def test_max_length_drops_the_head(self) -> None:
        """A queue with ``x-max-length`` drops its oldest message."""
        consumer = self.consumer(queue_arguments={"x-max-length": 2})
        self.put(consumer.queue, 1, 2, 3)
        self.expect(consumer, [2, 3])

    def test_reject_publish_refuses_the_new(self) -> None:
        """A full queue with ``x-overflow: reject-publish`` refuses what comes (nacks)."""
        consumer = self.consumer(
            queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        publisher = self.publisher("", consumer.queue)
        publisher.send("first")
        publisher.flush()
        publisher.send("second")
        with pytest.raises(PublishNacked) as caught:
            publisher.flush()
        assert [entry.body for entry in caught.value.messages] == [b"second"]
        self.expect(consumer, ["first"])
        publisher.send("third")
        publisher.flush()
        self.expect(consumer, ["third"])

    def test_priorities(self) -> None:
        """A queue with ``x-max-priority`` gives out higher priorities first, each in order."""
        consumer = self.consumer(queue_arguments={"x-max-priority": 5})
        with self.publisher("", consumer.queue) as publisher:
            for number, priority in enumerate([0, 5, 1, 5, 9, 0]):
                publisher.send(number, priority=priority)
        self.expect(consumer, [1, 3, 4, 2, 0, 5])
