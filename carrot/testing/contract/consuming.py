"""The contract of consumers that are subscribed."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from carrot.exceptions import (
    ConnectionClosed,
    ContentDisallowed,
    DecodeError,
    MessageStateError,
    NoCallbacks,
)
from carrot.messaging import Consumer, Messaging
from carrot.testing.contract.scene import Inbox, Scene, needs

_BROKEN = {"content_type": "application/json"}


class ConsumingContract(Scene):
    """Callbacks, the loops that run them, and their end."""

    def subscribed(self, *payloads: Any, **options: Any) -> tuple[Consumer, Inbox]:
        """Return a subscribed consumer of a queue with these payloads, and its callback."""
        consumer, inbox = self.filled(*payloads, **options), Inbox()
        consumer.register_callback(inbox)
        consumer.consume()
        return consumer, inbox

    # -- subscribing

    def test_consume_only_registers(self) -> None:
        """``consume()`` subscribes; callbacks run in ``drain_events()``."""
        consumer, inbox = self.subscribed("one")
        assert consumer.channel_open
        assert len(inbox) == 0
        self.drain(lambda: len(inbox) == 1)

    def test_a_second_consume_does_not_subscribe_twice(self) -> None:
        """A second ``consume()`` changes nothing; each message comes once."""
        consumer, inbox = self.subscribed()
        consumer.consume()
        consumer.iterconsume()
        self.put(consumer.queue, "one", "two")
        self.drain(lambda: len(inbox) == 2)
        assert inbox.payloads == ["one", "two"]

    def test_iterconsume_subscribes_at_once(self) -> None:
        """``iterconsume()`` subscribes when it is called, before the first ``next``."""
        consumer, inbox = self.consumer(), Inbox()
        consumer.register_callback(inbox)
        events = consumer.iterconsume(limit=4)
        assert consumer.channel_open
        sender = self.connect()
        for number in range(4):
            self.put(consumer.queue, number, connection=sender)
            assert next(events) is True
            assert inbox.payloads == list(range(number + 1))
        with pytest.raises(StopIteration):
            next(events)

    def test_iterconsume_leaves_what_is_beyond_its_limit(self) -> None:
        """``iterconsume(limit)`` runs callbacks for so many messages, and ends by returning."""
        consumer, inbox = self.subscribed(1, 2, 3)
        assert list(consumer.iterconsume(limit=2)) == [True, True]
        assert inbox.payloads == [1, 2]
        assert list(consumer.iterconsume(limit=1)) == [True]
        assert inbox.payloads == [1, 2, 3]

    def test_wait_returns_at_its_limit(self) -> None:
        """``wait(limit)`` processes so many messages and returns."""
        consumer, inbox = self.subscribed(1, 2, 3)
        assert consumer.wait(limit=3) is None  # type: ignore[func-returns-value]
        assert inbox.payloads == [1, 2, 3]

    def test_an_abandoned_generator_leaves_the_subscription(self) -> None:
        """Leaving a loop over ``iterconsume()`` keeps the consumer subscribed."""
        consumer, inbox = self.subscribed(1, 2)
        for _ in consumer.iterconsume():
            break
        assert inbox.payloads == [1]
        consumer.wait(limit=1)
        assert inbox.payloads == [1, 2]

    def test_consumer_tags_differ(self) -> None:
        """Each consumer has a tag of its own."""
        assert self.consumer().consumer_tag != self.consumer().consumer_tag

    def test_delivery_info_of_a_consumed_message(self) -> None:
        """``delivery_info`` has exchange, routing key, redelivered and consumer tag."""
        publisher, consumer = self.feed()
        inbox = Inbox()
        consumer.register_callback(inbox)
        publisher.send("x")
        consumer.wait(limit=1)
        info = inbox.messages[0].delivery_info
        assert info["exchange"] == consumer.exchange
        assert info["routing_key"] == "importer"
        assert info["consumer_tag"] == consumer.consumer_tag
        assert not info["redelivered"]

    # -- callbacks

    def test_callbacks_run_in_order(self) -> None:
        """Every callback gets every message, in the order of registration."""
        consumer = self.filled("x")
        calls: list[str] = []
        consumer.register_callback(lambda data, message: calls.append(f"first {data}"))
        consumer.register_callback(lambda data, message: calls.append(f"second {data}"))
        assert len(consumer.callbacks) == 2
        consumer.wait(limit=1)
        assert calls == ["first x", "second x"]

    def test_receive_may_be_overridden(self) -> None:
        """A subclass's ``receive`` gets the decoded data and the message."""
        received: list[Any] = []

        class FeedConsumer(Consumer):
            def receive(self, message_data: Any, message: Any) -> None:
                received.append(message_data["action"])
                message.ack()

        self.filled({"action": "import_feed"}, cls=FeedConsumer).wait(limit=1)
        assert received == ["import_feed"]

    def test_callback_missing(self) -> None:
        """A message for a consumer without callbacks raises, and is not lost."""
        consumer = self.filled("x")
        with pytest.raises(NotImplementedError) as caught:
            consumer.wait(limit=1)
        assert isinstance(caught.value, NoCallbacks)
        self.still_works()
        if "unacked_return" not in self.lacks:
            consumer.close()
            assert self.fetched(self.consumer(consumer.queue)).payload == "x"

    def test_a_callbacks_exception_passes(self) -> None:
        """An exception of a callback leaves the loop unchanged; the consumer can go on."""
        consumer, inbox = self.filled("bad", "good"), Inbox()
        error = LookupError("the callback's own")

        def failing(data: Any, message: Any) -> None:
            if data == "bad":
                raise error

        consumer.register_callback(failing)
        consumer.register_callback(inbox)
        with pytest.raises(LookupError) as caught:
            consumer.wait()
        assert caught.value is error
        assert len(inbox) == 0
        consumer.wait(limit=1)
        assert inbox.payloads == ["good"]

    @needs("unacked_return")
    def test_a_message_whose_callback_failed_is_not_acknowledged(self) -> None:
        """``auto_ack`` acknowledges after the callbacks: what they failed on comes again."""
        consumer = self.filled("again", auto_ack=True)

        def failing(data: Any, message: Any) -> None:
            raise LookupError

        consumer.register_callback(failing)
        with pytest.raises(LookupError):
            consumer.wait(limit=1)
        consumer.close()
        assert self.fetched(self.consumer(consumer.queue)).payload == "again"

    def test_auto_ack_acknowledges_after_the_callbacks(self) -> None:
        """``auto_ack`` acknowledges what the callbacks have not settled."""
        consumer, inbox = self.filled("x", auto_ack=True), Inbox(ack=False)
        states: list[str] = []
        consumer.register_callback(lambda data, message: states.append(message._state))
        consumer.register_callback(inbox)
        consumer.wait(limit=1)
        assert states == ["RECEIVED"]
        assert inbox.messages[0]._state == "ACK"
        with pytest.raises(MessageStateError):
            inbox.messages[0].ack()

    def test_no_ack_messages_count_as_settled(self) -> None:
        """With ``no_ack`` the broker has forgotten the message: settling it is an error."""
        consumer, inbox = self.consumer(no_ack=True), Inbox(ack=False)
        consumer.register_callback(inbox)
        self.put(consumer.queue, "x")
        consumer.wait(limit=1)
        assert inbox.messages[0].acknowledged
        with pytest.raises(MessageStateError):
            inbox.messages[0].ack()

    def test_no_ack_can_be_told_to_consume(self) -> None:
        """``iterconsume(no_ack=True)`` goes before the consumer's own option."""
        consumer, inbox = self.filled("x"), Inbox(ack=False)
        consumer.register_callback(inbox)
        next(consumer.iterconsume(limit=1, no_ack=True))
        assert inbox.messages[0].acknowledged
        consumer.close()
        assert self.consumer(consumer.queue).fetch() is None

    # -- what cannot be decoded

    def test_undecodable_messages_are_rejected(self, caplog: pytest.LogCaptureFixture) -> None:
        """What cannot be decoded is logged and rejected, counted, and the loop lives."""
        consumer = self.consumer()
        inbox = Inbox()
        consumer.register_callback(inbox)
        self.put(consumer.queue, b"{" + b"x" * 5000, **_BROKEN)
        self.put(consumer.queue, "good")
        before = self.connection.stats()["decode_failures"]
        with caplog.at_level(logging.ERROR, "carrot"):
            consumer.wait(limit=2)
        assert inbox.payloads == ["good"]
        assert self.connection.stats()["decode_failures"] == before + 1
        assert "application/json" in caplog.text and "5001 bytes" in caplog.text
        assert consumer.queue in caplog.text
        assert len(caplog.text) < 2500
        consumer.close()
        assert self.consumer(consumer.queue).fetch() is None

    def test_undecodable_messages_can_be_requeued(self) -> None:
        """``on_decode_error="requeue"`` gives them back to the queue."""
        consumer, inbox = self.consumer(on_decode_error="requeue"), Inbox()
        consumer.register_callback(inbox)
        self.put(consumer.queue, b"{", **_BROKEN)
        consumer.wait(limit=1)
        consumer.cancel()
        assert self.fetched(self.consumer(consumer.queue)).body == b"{"
        assert len(inbox) == 0

    def test_undecodable_messages_can_be_raised(self) -> None:
        """``on_decode_error="raise"`` raises out of the loop, the message unsettled."""
        consumer = self.consumer(on_decode_error="raise")
        consumer.register_callback(Inbox())
        self.put(consumer.queue, b"{", **_BROKEN)
        with pytest.raises(DecodeError):
            consumer.wait(limit=1)
        self.still_works()

    def test_undecodable_messages_can_be_handled(self) -> None:
        """``on_decode_error=function`` gets the message and the error, and settles it."""
        seen: list[Any] = []

        def keep(message: Any, error: Exception) -> None:
            seen.append((message.body, error))
            message.ack()

        consumer = self.consumer(on_decode_error=keep)
        consumer.register_callback(Inbox())
        self.put(consumer.queue, b"{", **_BROKEN)
        consumer.wait(limit=1)
        [(body, error)] = seen
        assert body == b"{"
        assert isinstance(error, DecodeError)

    def test_refused_content_is_rejected_too(self) -> None:
        """A pickle that nobody accepts is treated as what cannot be decoded."""
        errors: list[Exception] = []

        def keep(message: Any, error: Exception) -> None:
            errors.append(error)
            message.reject()

        consumer, inbox = self.consumer(on_decode_error=keep), Inbox()
        consumer.register_callback(inbox)
        self.put(consumer.queue, {"a": 1}, serializer="pickle")
        consumer.wait(limit=1)
        assert len(inbox) == 0
        assert isinstance(errors[0], ContentDisallowed)
        assert "accept" in str(errors[0])

    def test_accept_decodes_what_it_names_and_no_more(self) -> None:
        """``accept`` is the exact list of what a consumer decodes."""
        consumer, inbox = self.consumer(accept=["pickle", "application/json"]), Inbox()
        consumer.register_callback(inbox)
        self.put(consumer.queue, {"a": 1}, serializer="pickle")
        self.put(consumer.queue, {"a": 2}, serializer="yaml")
        self.put(consumer.queue, {"a": 3}, serializer="json")
        consumer.wait(limit=3)
        assert inbox.payloads == [{"a": 1}, {"a": 3}]

    def test_accept_of_the_connection(self) -> None:
        """``accept`` of the connection is that of its consumers."""
        connection = self.connect(accept=["pickle"])
        consumer, inbox = self.consumer(connection=connection), Inbox()
        consumer.register_callback(inbox)
        self.put(consumer.queue, {"a": 1}, serializer="pickle")
        consumer.wait(limit=1)
        assert inbox.payloads == [{"a": 1}]

    # -- flow

    @needs("prefetch")
    def test_prefetch_bounds_what_is_unsettled(self) -> None:
        """Never more than ``prefetch_count`` messages are delivered and unsettled."""
        consumer, inbox = self.filled(1, 2, 3, 4, 5), Inbox(ack=False)
        consumer.register_callback(inbox)
        consumer.qos(prefetch_count=2)
        consumer.consume()
        self.drain(lambda: len(inbox) == 2)
        # What the broker keeps back, another consumer can fetch.
        self.expect(self.consumer(consumer.queue), [3, 4, 5])
        self.put(consumer.queue, 6)
        inbox.messages[0].ack()
        self.drain(lambda: len(inbox) == 3)
        assert inbox.payloads == [1, 2, 6]

    @needs("flow")
    def test_flow_pauses_and_resumes(self) -> None:
        """``flow(True)`` is answered."""
        consumer, inbox = self.subscribed()
        consumer.flow(True)
        self.put(consumer.queue, "x")
        self.drain(lambda: len(inbox) == 1)

    def test_two_consumers_share_a_queue(self) -> None:
        """Each message of a queue goes to one of its consumers."""
        one, inbox = self.subscribed()
        _, other = self.subscribed(queue=one.queue)
        self.put(one.queue, *range(10))
        self.drain(lambda: len(inbox) + len(other) == 10)
        assert sorted(inbox.payloads + other.payloads) == list(range(10))

    # -- the end

    def test_cancel_ends_the_subscription(self) -> None:
        """After ``cancel()`` nothing comes any more; cancelling again is quiet."""
        consumer, inbox = self.subscribed("one")
        self.drain(lambda: len(inbox) == 1)
        consumer.cancel()
        consumer.cancel()
        assert not consumer.channel_open
        self.put(consumer.queue, "two")
        assert self.fetched(consumer, no_ack=True).payload == "two"
        assert len(inbox) == 1

    def test_consuming_again_after_cancel(self) -> None:
        """A cancelled consumer can subscribe again."""
        consumer, inbox = self.subscribed()
        consumer.cancel()
        self.put(consumer.queue, "again")
        consumer.wait(limit=1)
        assert inbox.payloads == ["again"]

    @needs("unacked_return")
    def test_close_gives_back_what_was_prefetched(self) -> None:
        """After ``close()`` a new consumer of the queue gets what had been prefetched."""
        consumer, inbox = self.subscribed(1, 2, 3)
        self.drain(lambda: len(inbox) == 1)
        consumer.close()
        other = self.consumer(consumer.queue)
        found = [self.fetched(other, auto_ack=True).payload for _ in range(2)]
        assert found == [2, 3]

    @needs("stop")
    def test_stop_from_a_callback(self) -> None:
        """``stop()`` ends ``wait()`` after the message that is being processed."""
        consumer, inbox = self.filled(1, 2, 3), Inbox()
        consumer.register_callback(lambda data, message: consumer.stop())
        consumer.register_callback(inbox)
        consumer.wait()
        assert inbox.payloads == [1]
        consumer.wait(limit=1)
        assert inbox.payloads == [1, 2]
        consumer.callbacks = [inbox]
        consumer.wait(limit=1)
        assert inbox.payloads == [1, 2, 3]

    @needs("stop", "threads")
    @pytest.mark.parametrize("end", ["stop", "close"])
    def test_ended_by_another_thread(self, end: str) -> None:
        """``stop()`` or ``close()`` of another thread ends a ``wait()`` for messages."""
        consumer, inbox = self.subscribed("x")
        waiting = threading.Thread(target=consumer.wait, daemon=True)
        waiting.start()
        self.eventually(lambda: len(inbox) == 1)
        getattr(consumer, end)()
        waiting.join(self.patience)
        assert not waiting.is_alive()

    @needs("stop")
    def test_stop_before_wait(self) -> None:
        """``stop()`` with no loop running ends the next one at once."""
        consumer, _ = self.subscribed()
        consumer.stop()
        consumer.wait()

    @needs("stop")
    def test_close_from_a_callback(self) -> None:
        """``close()`` ends ``wait()`` after the message that is being processed."""
        consumer, inbox = self.filled(1, 2, 3), Inbox()
        consumer.register_callback(inbox)
        consumer.register_callback(lambda data, message: consumer.close())
        consumer.wait()
        assert inbox.payloads == [1]
        with pytest.raises(ConnectionClosed, match="make a new Consumer"):
            consumer.wait()

    # -- Messaging

    def test_messaging_sends_and_receives(self) -> None:
        """``Messaging`` is a publisher and a consumer of the same names."""
        exchange, queue = self.new_exchange(), self.new_queue()
        with Messaging(
            self.connection, queue=queue, exchange=exchange, routing_key="key"
        ) as messaging:
            messaging.send({"a": 1}, delivery_mode="transient")
            messaging.publisher.flush()
            message = self.fetched(messaging)
            assert message.payload == {"a": 1}
            message.ack()
            inbox = Inbox()
            messaging.send("called")
            with pytest.raises(NotImplementedError):
                self.fetched(messaging, enable_callbacks=True)
            messaging.register_callback(inbox)
            messaging.send("again")
            messaging.publisher.flush()
            assert self.fetched(messaging, enable_callbacks=True) is inbox.messages[0]
        assert messaging._closed
        messaging.close()
