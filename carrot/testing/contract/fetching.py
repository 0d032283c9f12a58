"""The contract of polling a queue."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.exceptions import (
    ConfigurationError,
    ConnectionClosed,
    ContentDisallowed,
    DecodeError,
    NoCallbacks,
)
from carrot.messaging import Consumer
from carrot.testing.contract.scene import Inbox, Scene, needs


class FetchingContract(Scene):
    """Taking messages off a queue one by one."""

    def test_fetch_returns_a_message_or_none(self) -> None:
        """``fetch()`` returns the next message, and ``None`` where there is none."""
        consumer = self.consumer()
        assert consumer.fetch() is None
        self.put(consumer.queue, {"name": "Elaine"})
        message = consumer.fetch()
        assert message.payload == {"name": "Elaine"}
        assert not message.acknowledged
        assert consumer.fetch() is None

    def test_fetch_leaves_settling_to_the_application(self) -> None:
        """A fetched message is the application's to settle; closing gives it back."""
        consumer = self.filled("kept")
        assert consumer.fetch().payload == "kept"
        if "unacked_return" in self.lacks:
            pytest.skip("the backend has no unacked_return")
        consumer.close()
        assert self.fetched(self.consumer(consumer.queue)).payload == "kept"

    def test_fetch_no_ack_has_the_broker_forget(self) -> None:
        """``fetch(no_ack=True)`` takes the message for good; it counts as settled."""
        consumer = self.filled("taken")
        assert consumer.fetch(no_ack=True).acknowledged
        consumer.close()
        again = self.consumer(consumer.queue)
        assert again.fetch() is None

    @needs("unacked_return")
    def test_no_ack_false_overrides_the_class(self) -> None:
        """``fetch(no_ack=False)`` goes before a class that says ``no_ack = True``."""

        class Forgetful(Consumer):
            no_ack = True

        consumer = self.filled("one", "two", cls=Forgetful)
        assert consumer.fetch().acknowledged
        message = consumer.fetch(no_ack=False)
        assert not message.acknowledged
        message.requeue()
        assert self.fetched(consumer).payload == "two"

    def test_auto_ack_acknowledges(self) -> None:
        """``auto_ack`` acknowledges what is fetched; the argument goes before the option."""
        consumer = self.filled("one", "two", "three", auto_ack=True)
        assert consumer.fetch().acknowledged
        message = consumer.fetch(auto_ack=False)
        assert not message.acknowledged
        message.ack()
        consumer.auto_ack = False
        assert consumer.fetch(auto_ack=True)._state == "ACK"

    def test_enable_callbacks_calls_them(self) -> None:
        """``fetch(enable_callbacks=True)`` passes the message to the callbacks as well."""
        consumer, inbox = self.filled("one", "two"), Inbox()
        consumer.register_callback(inbox)
        consumer.fetch().ack()
        assert inbox.payloads == []
        message = consumer.fetch(enable_callbacks=True)
        assert inbox.payloads == ["two"]
        assert inbox.messages == [message]
        assert message.acknowledged

    def test_process_next_is_deprecated(self) -> None:
        """``process_next()`` does that too, and warns."""
        consumer, inbox = self.filled("one"), Inbox()
        consumer.register_callback(inbox)
        with pytest.warns(DeprecationWarning, match="fetch"):
            message = consumer.process_next()
        assert inbox.messages == [message]

    def test_enable_callbacks_without_callbacks_is_an_error(self) -> None:
        """Without callbacks, a message that should be passed to them raises."""
        consumer = self.filled("one")
        with pytest.raises(NoCallbacks, match="register_callback"):
            consumer.fetch(enable_callbacks=True)

    def test_delivery_info_of_a_fetched_message(self) -> None:
        """``delivery_info`` has exchange, routing key, redelivered and messages left."""
        publisher, consumer = self.feed()
        for number in range(3):
            publisher.send(number)
        publisher.flush()
        info = self.fetched(consumer).delivery_info
        assert info["exchange"] == consumer.exchange
        assert info["routing_key"] == "importer"
        assert not info["redelivered"]
        assert info["message_count"] == 2

    # -- iterating

    def test_iterqueue_ends_with_the_queue(self) -> None:
        """``iterqueue()`` yields the messages that are there, and ends."""
        consumer = self.filled(1, 2, 3)
        self.expect(consumer, [1, 2, 3])
        assert list(consumer.iterqueue()) == []

    def test_iterqueue_takes_no_more_than_its_limit(self) -> None:
        """``iterqueue(limit)`` never takes a message beyond the limit off the queue."""
        consumer = self.filled(1, 2, 3)
        messages = list(consumer.iterqueue(limit=2))
        assert [message.payload for message in messages] == [1, 2]
        for message in messages:
            message.ack()
        self.expect(consumer, [3])

    def test_iterqueue_infinite_yields_none(self) -> None:
        """``iterqueue(infinite=True)`` yields ``None`` on an empty queue, and goes on."""
        consumer = self.filled("one")
        messages = consumer.iterqueue(infinite=True)
        first = next(messages)
        assert first.payload == "one"
        first.ack()
        assert next(messages) is None
        assert next(messages) is None
        self.put(consumer.queue, "two")
        assert self.eventually(lambda: next(messages)).payload == "two"

    def test_a_limit_of_zero_is_none(self) -> None:
        """A limit of 0 means no limit."""
        consumer = self.filled(1, 2, 3)
        assert len(list(consumer.iterqueue(limit=0))) == 3

    def test_iterating_a_consumer_never_ends(self) -> None:
        """``iter(consumer)`` is ``iterqueue(infinite=True)``."""
        consumer = self.filled("one")
        messages = iter(consumer)
        assert next(messages).payload == "one"
        assert next(messages) is None

    # -- discarding

    def test_discard_all_keeps_what_the_filter_refuses(self) -> None:
        """``discard_all(filter)`` counts what it discards; the rest stays, in its order."""
        consumer = self.filled(*range(10))
        assert consumer.discard_all(lambda message: message.payload % 3) == 6
        kept = [self.fetched(consumer, auto_ack=True).payload for _ in range(4)]
        assert sorted(kept) == [0, 3, 6, 9]
        if "requeue_place" not in self.lacks:
            assert kept == [0, 3, 6, 9]
        assert consumer.fetch() is None

    def test_discard_all_gives_back_when_the_filter_raises(self) -> None:
        """When the filter raises, what it has not discarded is on the queue afterwards."""
        consumer = self.filled(1, 2)

        def failing(message: Any) -> bool:
            if message.payload == 2:
                raise LookupError("the filter's own")
            return False

        with pytest.raises(LookupError):
            consumer.discard_all(failing)
        found = [self.fetched(consumer, auto_ack=True).payload for _ in range(2)]
        assert sorted(found) == [1, 2]

    @pytest.mark.parametrize("option", ["auto_ack", "no_ack"])
    def test_discard_all_with_a_filter_needs_acks(self, option: str) -> None:
        """A filter with ``auto_ack`` or ``no_ack`` is refused: nothing could be given back."""
        consumer = self.filled("kept", **{option: True})
        with pytest.raises(ConfigurationError, match="auto_ack"):
            consumer.discard_all(lambda message: True)
        assert consumer.discard_all() == 1

    # -- decoding

    def test_fetch_leaves_decoding_to_payload(self) -> None:
        """``fetch()`` returns what cannot be decoded; ``payload`` raises ``DecodeError``."""
        consumer = self.consumer()
        self.put(consumer.queue, b"{no json", content_type="application/json")
        message = self.fetched(consumer)
        with pytest.raises(DecodeError) as caught:
            _ = message.payload
        assert caught.value.body == message.body == b"{no json"
        assert caught.value.content_type == "application/json"
        message.reject()
        self.still_works()

    def test_fetch_refuses_pickle_unless_accepted(self) -> None:
        """A fetched pickle is decoded only by a consumer that accepts it."""
        consumer = self.consumer()
        self.put(consumer.queue, {"a": 1}, {"a": 2}, serializer="pickle")
        message = self.fetched(consumer)
        with pytest.raises(ContentDisallowed, match="accept"):
            _ = message.payload
        message.ack()
        trusting = self.consumer(consumer.queue, accept=["pickle"])
        assert self.fetched(trusting, no_ack=True).payload == {"a": 2}

    # -- the end

    def test_a_closed_consumer_says_so(self) -> None:
        """A closed consumer refuses to receive and says what to do; closing is idempotent."""
        consumer = self.consumer()
        assert not consumer._closed
        consumer.close()
        consumer.close()
        assert consumer._closed
        for use in (consumer.fetch, consumer.consume, consumer.purge, consumer.discard_all):
            with pytest.raises(ConnectionClosed, match="new Consumer"):
                use()
        self.still_works()

    def test_the_context_manager_closes_the_consumer(self) -> None:
        """A ``with`` block closes the consumer and lets exceptions pass."""
        with pytest.raises(LookupError), self.consumer() as consumer:
            raise LookupError
        assert consumer._closed
