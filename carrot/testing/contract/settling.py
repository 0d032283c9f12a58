"""The contract of messages: what they carry, and how they are settled."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from carrot.backends.base import ACKNOWLEDGED_STATES, BaseMessage
from carrot.exceptions import MessageStateError
from carrot.testing.contract.scene import Inbox, Scene, needs


class SettlingContract(Scene):
    """A message is settled once, by whoever holds it."""

    # -- what a message carries

    def test_a_message_carries_its_body_and_properties(self) -> None:
        """A message has its body, tag, content type and encoding, and three tables."""
        consumer = self.filled({"a": 1})
        message = self.fetched(consumer)
        assert message.body == b'{"a":1}'
        assert message.delivery_tag
        assert message.content_type == "application/json"
        assert message.content_encoding == "utf-8"
        for table in (message.delivery_info, message.headers, message.properties):
            assert isinstance(table, dict)
        message.ack()

    def test_a_message_is_of_the_backends_class(self) -> None:
        """Received messages are instances of the backend's ``Message``."""
        message = self.fetched(self.filled("x"), no_ack=True)
        assert isinstance(message, self.connection.create_backend().Message)
        assert isinstance(message, BaseMessage)

    def test_payload_is_decoded_once(self) -> None:
        """``payload`` is decoded once, ``decode()`` each time."""
        message = self.fetched(self.filled([1, [2]]), no_ack=True)
        assert message.payload is message.payload
        assert message.decode() == message.payload
        assert message.decode() is not message.payload

    @pytest.mark.parametrize("falsy", [0, "", [], {}, None, False, b""])
    def test_falsy_payloads_are_payloads(self, falsy: Any) -> None:
        """A payload that is false is decoded once as well, and delivered as it is."""
        consumer, inbox = self.filled(falsy, falsy), Inbox()
        message = self.fetched(consumer, auto_ack=True)
        assert message.payload == falsy
        assert type(message.payload) is type(falsy)
        assert message.payload is message.payload
        consumer.register_callback(inbox)
        consumer.wait(limit=1)
        assert inbox.payloads == [falsy]

    def test_messages_accept_attributes(self) -> None:
        """Messages accept arbitrary attributes."""
        message = self.fetched(self.filled("x"), no_ack=True)
        message.seen_by = "Kramer"
        assert message.seen_by == "Kramer"

    def test_repr_tells_the_state_not_the_body(self) -> None:
        """``repr`` of a message tells its state and size, not its contents."""
        message = self.fetched(self.filled("secret"))
        assert "RECEIVED" in repr(message)
        assert "secret" not in repr(message)
        message.ack()
        assert "ACK" in repr(message)

    # -- settling

    def test_ack_forgets(self) -> None:
        """``ack()`` has the broker forget the message."""
        consumer = self.filled("x")
        message = self.fetched(consumer)
        assert (message._state, message.acknowledged) == ("RECEIVED", False)
        message.ack()
        assert (message._state, message.acknowledged) == ("ACK", True)
        consumer.close()
        assert self.consumer(consumer.queue).fetch() is None

    def test_reject_discards(self) -> None:
        """``reject()`` discards the message."""
        consumer = self.filled("x")
        message = self.fetched(consumer)
        message.reject()
        assert (message._state, message.acknowledged) == ("REJECTED", True)
        consumer.close()
        assert self.consumer(consumer.queue).fetch() is None

    def test_requeue_gives_back(self) -> None:
        """``requeue()`` gives the message back to its queue."""
        consumer = self.filled("x")
        message = self.fetched(consumer)
        message.requeue()
        assert (message._state, message.acknowledged) == ("REQUEUED", True)
        again = self.fetched(consumer)
        assert again.payload == "x"
        if "redelivered" not in self.lacks:
            assert again.delivery_info["redelivered"]
        again.ack()

    @pytest.mark.parametrize("first", ["ack", "reject", "requeue"])
    @pytest.mark.parametrize("second", ["ack", "reject", "requeue"])
    def test_settling_twice_is_an_error(self, first: str, second: str) -> None:
        """Settling a settled message raises, whichever ways; the consumer goes on."""
        consumer = self.filled("x")
        message = self.fetched(consumer)
        getattr(message, first)()
        state = message._state
        assert state in ACKNOWLEDGED_STATES
        with pytest.raises(MessageStateError, match=state) as caught:
            getattr(message, second)()
        assert isinstance(caught.value, message.MessageStateError)
        assert message._state == state
        consumer.purge()
        self.put(consumer.queue, "y")
        assert self.fetched(consumer, no_ack=True).payload == "y"

    @needs("unacked_return")
    def test_what_is_not_settled_comes_again(self) -> None:
        """What was not settled when its consumer closed is delivered again, so flagged."""
        consumer = self.filled("x")
        self.fetched(consumer)
        consumer.close()
        again = self.fetched(self.consumer(consumer.queue))
        assert again.payload == "x"
        if "redelivered" not in self.lacks:
            assert again.delivery_info["redelivered"]

    def test_messages_can_be_settled_in_any_order(self) -> None:
        """Messages are settled one by one, in any order."""
        consumer = self.filled(1, 2, 3)
        one, two, three = consumer.iterqueue()
        two.ack()
        three.requeue()
        one.ack()
        assert self.fetched(consumer, auto_ack=True).payload == 3
        assert consumer.fetch() is None

    @needs("threads")
    def test_another_thread_may_settle(self) -> None:
        """Threads settle messages that another thread received."""
        consumer = self.filled(*range(20))
        messages = list(consumer.iterqueue())
        threads = [threading.Thread(target=message.ack) for message in messages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        assert all(message.acknowledged for message in messages)
        consumer.close()
        assert self.consumer(consumer.queue).fetch() is None

    # -- what is no longer, or never was, the broker's

    def test_settling_after_the_channel_closed_is_quiet(self) -> None:
        """Settling a message whose consumer was closed does no harm."""
        consumer = self.filled("x")
        message = self.fetched(consumer)
        consumer.close()
        message.ack()
        self.still_works()

    def test_settling_after_the_connection_closed_is_quiet(self) -> None:
        """Settling a message whose connection was closed does no harm."""
        connection = self.connect()
        consumer = self.filled("x", connection=connection)
        message = self.fetched(consumer)
        connection.close()
        message.ack()
        connection.connect()
        self.still_works(connection)

    @pytest.mark.parametrize("tag", ["Elaine was here", None, object()])
    def test_a_message_made_by_hand(self, tag: Any) -> None:
        """A message made by hand decodes and settles without touching the broker."""
        backend = self.connection.create_backend()
        for settle in ("ack", "reject", "requeue"):
            message = backend.Message(
                backend=backend,
                body=b'{"by": "hand"}',
                delivery_tag=tag,
                content_type="application/json",
                content_encoding="utf-8",
            )
            assert message.payload == {"by": "hand"}
            getattr(message, settle)()
            assert message.acknowledged
        assert self.connection.state == "new"
