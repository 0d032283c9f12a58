"""The contract of publishers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from carrot.exceptions import (
    ConfigurationError,
    ConnectionClosed,
    EncodeError,
    NotFound,
    NotSupported,
    PublishError,
    SerializerNotInstalled,
)
from carrot.messaging import Publisher
from carrot.testing.contract.scene import Inbox, Scene, needs


class PublishingContract(Scene):
    """Sending: where a message goes, in what form, and when it has arrived."""

    def received(self, *args: Any, **options: Any) -> Any:
        """Send a message, with these arguments, and return it as it arrived."""
        publisher, consumer = self.feed()
        publisher.send(*args, **options)
        publisher.flush()
        return self.fetched(consumer, no_ack=True)

    # -- where

    def test_send_positions(self) -> None:
        """``send`` takes its arguments in the positional order of old."""
        names = list(inspect.signature(Publisher.send).parameters)
        assert names[1:11] == [
            *("message_data", "routing_key", "delivery_mode", "mandatory", "immediate"),
            *("priority", "content_type", "content_encoding", "serializer", "exchange"),
        ]
        consumer = self.consumer(exchange=self.new_exchange(), routing_key="key")
        with self.publisher() as publisher:
            publisher.send({}, "key", 1, False, False, 0, None, None, "json", consumer.exchange)
        self.expect(consumer, [{}])

    def test_routing_key_and_exchange_can_be_told_per_message(self) -> None:
        """``routing_key=`` and ``exchange=`` of ``send`` go before the publisher's own."""
        publisher, consumer = self.feed()
        other = self.consumer(exchange=self.new_exchange(), routing_key="other")
        publisher.send("here")
        publisher.send("there", routing_key="other", exchange=other.exchange)
        publisher.send("by name", routing_key=other.queue, exchange="")
        publisher.flush()
        self.expect(consumer, ["here"])
        self.expect(other, ["there", "by name"])

    def test_a_publisher_class_is_its_configuration(self) -> None:
        """Class attributes of a subclass configure it as constructor arguments do."""
        consumer = self.consumer(exchange=self.new_exchange(), routing_key="importer")

        class FeedPublisher(Publisher):
            exchange = consumer.exchange
            routing_key = "importer"
            serializer = "yaml"

            def import_feed(self, feed_url: str) -> None:
                self.send({"action": "import_feed", "feed_url": feed_url})

        with FeedPublisher(connection=self.connection) as publisher:
            publisher.import_feed("http://cnn.com/rss")
        message = self.fetched(consumer, no_ack=True)
        assert message.content_type == "application/x-yaml"
        assert message.payload == {"action": "import_feed", "feed_url": "http://cnn.com/rss"}

    def test_messages_arrive_in_the_order_of_sending(self) -> None:
        """What one publisher sends to one queue arrives in that order."""
        publisher, consumer = self.feed()
        for number in range(50):
            publisher.send(number)
        publisher.flush()
        self.expect(consumer, list(range(50)))

    # -- in what form

    def test_the_default_is_json(self) -> None:
        """What is neither text nor bytes goes as JSON, with its content type."""
        message = self.received({"list": [1, 2.5, None, True], "text": "ö"})
        assert message.payload == {"list": [1, 2.5, None, True], "text": "ö"}
        assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
        assert isinstance(message.body, bytes)

    def test_a_serializer_can_be_told_per_message(self) -> None:
        """``serializer=`` of ``send`` goes before the publisher's own."""
        assert self.received([1], serializer="yaml").content_type == "application/x-yaml"

    def test_with_a_content_type_text_is_encoded(self) -> None:
        """With ``content_type``, ``str`` is encoded with ``content_encoding`` or utf-8."""
        message = self.received("häuser", content_type="text/x-houses")
        assert (message.body, message.content_encoding) == ("häuser".encode(), "utf-8")
        message = self.received(
            "häuser", content_type="text/x-houses", content_encoding="iso-8859-1"
        )
        assert (message.body, message.content_encoding) == (b"h\xe4user", "iso-8859-1")
        assert message.content_type == "text/x-houses"
        assert message.payload == "häuser"

    def test_with_a_content_type_bytes_go_as_they_are(self) -> None:
        """With ``content_type``, ``bytes`` go unchanged, as ``binary``."""
        picture = bytes(range(256))
        message = self.received(picture, content_type="image/jpeg")
        assert (message.content_type, message.content_encoding) == ("image/jpeg", "binary")
        assert message.body == message.payload == picture

    def test_with_a_content_type_data_is_refused(self) -> None:
        """With ``content_type``, anything but text and bytes is an ``EncodeError``."""
        publisher, _ = self.feed()
        with pytest.raises(EncodeError, match="dict") as caught:
            publisher.send({"a": 1}, content_type="application/json")
        assert isinstance(caught.value, TypeError)
        self.still_works()

    @pytest.mark.parametrize("size", [0, 1, 4096, 131_072, 1_048_576])
    def test_bodies_of_all_sizes_arrive(self, size: int) -> None:
        """Bodies of no byte, of one, and of many frames arrive unchanged."""
        body = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert self.received(body).body == body

    def test_what_cannot_be_serialized_is_refused(self) -> None:
        """Data that the serializer cannot express is an ``EncodeError``; nothing is sent."""
        publisher, consumer = self.feed()
        with pytest.raises(EncodeError):
            publisher.send({"object": object()})
        with pytest.raises(EncodeError):
            publisher.send("\ud800")
        with pytest.raises(SerializerNotInstalled, match="nosuch"):
            publisher.send({}, serializer="nosuch")
        publisher.send("only this")
        publisher.flush()
        self.expect(consumer, ["only this"])

    def test_create_message_makes_what_the_backend_publishes(self) -> None:
        """What ``create_message`` returns is what the backend's ``publish`` takes."""
        publisher, consumer = self.feed()
        message = publisher.create_message({"made": "by hand"}, 1, 3, serializer="json")
        publisher.backend.publish(
            message, exchange=consumer.exchange, routing_key="importer", mandatory=False
        )
        publisher.flush()
        assert self.fetched(consumer, no_ack=True).payload == {"made": "by hand"}

    def test_create_message_can_be_handed_to_receive_callback(self) -> None:
        """A created message, its ``delivery_tag`` set, can be handed to a consumer."""
        publisher, consumer = self.feed()
        inbox = Inbox(ack=False)
        consumer.register_callback(inbox)
        message = publisher.create_message({"name": "George"})
        message.delivery_tag = "Elaine was here"
        consumer._receive_callback(message)
        assert inbox.payloads == [{"name": "George"}]
        assert inbox.messages[0].delivery_tag == "Elaine was here"

    # -- with what properties

    @needs("message_properties")
    def test_messages_are_persistent_by_default(self) -> None:
        """The delivery mode is 2 unless the publisher or the message says otherwise."""
        assert self.received({}).properties["delivery_mode"] == 2

    @needs("message_properties")
    @pytest.mark.parametrize(
        ("mode", "number"),
        [(1, 1), (2, 2), ("transient", 1), ("non-persistent", 1), ("persistent", 2)],
    )
    def test_delivery_modes_have_names(self, mode: Any, number: int) -> None:
        """Delivery modes are numbers or names, in ``send`` and in the publisher."""
        assert self.received({}, delivery_mode=mode).properties["delivery_mode"] == number
        consumer = self.consumer()
        with self.publisher("", consumer.queue, delivery_mode=mode) as publisher:
            publisher.send({})
        assert self.fetched(consumer, no_ack=True).properties["delivery_mode"] == number

    @pytest.mark.parametrize("mode", [0, 3, "eternal", True, 1.5])
    def test_other_delivery_modes_are_refused(self, mode: Any) -> None:
        """An unknown delivery mode is an error that lists the known ones."""
        publisher, _ = self.feed()
        with pytest.raises(ConfigurationError, match="persistent"):
            publisher.send({}, delivery_mode=mode)
        with pytest.raises(ConfigurationError, match="persistent"):
            self.publisher(delivery_mode=mode)
        self.still_works()

    @needs("message_properties", "priority")
    def test_priority_travels(self) -> None:
        """``priority`` of ``send`` (0 to 255) is the message's."""
        assert self.received({}, priority=7).properties["priority"] == 7
        assert self.received({}, priority=255).properties["priority"] == 255

    @pytest.mark.parametrize("priority", [-1, 256, "high", 1.5])
    def test_other_priorities_are_refused(self, priority: Any) -> None:
        """A priority outside 0 to 255 is an error that says so; nothing is sent."""
        publisher, consumer = self.feed()
        with pytest.raises(ConfigurationError, match="255"):
            publisher.send({}, priority=priority)
        publisher.flush()
        assert consumer.fetch() is None

    @needs("message_headers")
    def test_headers_travel(self) -> None:
        """``headers`` of ``send`` arrive as they were: text, numbers, booleans, nested."""
        headers = {
            "text": "ö",
            "number": -5,
            "large": 2**40,
            "float": 2.5,
            "flag": True,
            "nothing": None,
            "list": [1, "two", [3]],
            "table": {"inner": {"deep": 1}},
        }
        message = self.received({}, headers=headers)
        assert message.headers == headers
        assert message.headers["flag"] is True

    @needs("message_headers")
    def test_without_headers_there_are_none(self) -> None:
        """A message that was sent without headers has an empty dictionary of them."""
        assert self.received({}).headers == {}

    @needs("properties")
    def test_properties_travel(self) -> None:
        """Each keyword of ``send`` beyond the old ones is a property of the message."""
        sent: dict[str, Any] = {
            "correlation_id": "c-1",
            "reply_to": "answers",
            "message_id": "m-1",
            "timestamp": 1_700_000_000,
            "type": "feed",
            "app_id": "importer",
        }
        properties = self.received({}, **sent).properties
        received = {name: properties.get(name) for name in sent}
        timestamp = received.pop("timestamp")
        if timestamp != sent["timestamp"]:
            assert timestamp.timestamp() == sent["timestamp"]
        sent.pop("timestamp")
        assert received == sent

    @needs("properties")
    def test_user_id_travels(self) -> None:
        """``user_id`` may be the user that the connection belongs to."""
        user = self.connection.userid or "guest"
        assert self.received({}, user_id=user).properties["user_id"] == user

    @needs("properties")
    def test_expiration_is_in_seconds(self) -> None:
        """``expiration`` of ``send`` is in seconds; on the wire it is milliseconds, as text."""
        assert self.received({}, expiration=60).properties["expiration"] == "60000"
        assert self.received({}, expiration=0.25).properties["expiration"] == "250"

    def test_options_may_be_set_later(self) -> None:
        """Attributes set after the constructor count, and are checked as its arguments are."""
        publisher, consumer = self.feed()
        publisher.send({"n": 1})
        for delivery_mode in ("transient", "persistent", 1, 2):
            publisher.delivery_mode = delivery_mode
            publisher.send({"n": delivery_mode})
            publisher.send({"n": delivery_mode})
        wrong: Any
        for wrong in ("eternal", 7, None):
            publisher.delivery_mode = wrong
            for _ in range(2):
                with pytest.raises(ConfigurationError, match="delivery_mode must be 1, 2"):
                    publisher.send({"n": 0})
        publisher.delivery_mode = 2
        exchange = publisher.exchange
        for wrong in (None, 5, "x" * 300):
            publisher.exchange = wrong
            with pytest.raises(ConfigurationError, match="exchange"):
                publisher.send({"n": 0})
        publisher.exchange = exchange
        publisher.send({"n": "last"})
        publisher.flush()
        sent = [1, *("transient", "persistent", 1, 2) * 2, "last"]
        received = [self.fetched(consumer, auto_ack=True).payload["n"] for _ in sent]
        assert sorted(map(str, received)) == sorted(map(str, sent))
        assert received[-1] == "last"

    def test_what_the_backend_cannot_send_is_an_error(self) -> None:
        """Properties that the backend does not know are an error, not dropped."""
        if "properties" in getattr(self.connection.get_backend_cls(), "features", ()):
            pytest.skip("the backend can send properties")
        publisher, _ = self.feed()
        with pytest.raises(NotSupported, match="correlation_id"):
            publisher.send({}, correlation_id="c-1")
        self.still_works()

    @needs("refusals")
    def test_immediate_is_refused(self) -> None:
        """``immediate=True`` is refused before a byte is sent: brokers have given it up."""
        publisher, _ = self.feed()
        with pytest.raises(NotSupported, match="immediate"):
            publisher.send({}, immediate=True)
        self.still_works()

    # -- when it has arrived

    def test_flush_returns_when_all_has_arrived(self) -> None:
        """After ``flush()`` everything sent is on its queues."""
        publisher, consumer = self.feed()
        for number in range(10):
            publisher.send(number)
        publisher.flush()
        self.expect(consumer, list(range(10)))
        publisher.flush()

    def test_close_flushes(self) -> None:
        """``close()`` and the end of a ``with`` block wait as ``flush()`` does."""
        publisher, consumer = self.feed()
        publisher.send("by close")
        publisher.close()
        with self.publisher(consumer.exchange, "importer") as publisher:
            publisher.send("by with")
        self.expect(consumer, ["by close", "by with"])

    @needs("confirms")
    def test_a_full_window_waits_and_goes_on(self) -> None:
        """``confirm_window`` bounds what is unconfirmed; sending more waits, then goes on."""
        consumer = self.consumer()
        with self.publisher("", consumer.queue, confirm_window=3) as publisher:
            for number in range(20):
                publisher.send(number)
                assert publisher._tracker is not None
                assert publisher._tracker.outstanding <= 3
        self.expect(consumer, list(range(20)))

    def test_confirm_false_sends_all_the_same(self) -> None:
        """``confirm=False`` is fire and forget: messages arrive, nothing is waited for."""
        consumer = self.consumer()
        with self.publisher("", consumer.queue, confirm=False) as publisher:
            publisher.send("forgotten")
            publisher.flush()
        assert self.fetched(consumer, no_ack=True).payload == "forgotten"

    @needs("confirms", "errors")
    def test_a_missing_exchange_is_reported(self) -> None:
        """A message to a missing exchange is raised by ``flush``, with the message itself."""
        publisher, consumer = self.feed()
        missing = self.name("exchange")
        publisher.send("lost", exchange=missing)
        with pytest.raises(NotFound) as caught:
            publisher.flush()
        assert isinstance(caught.value, PublishError)
        assert [(entry.exchange, entry.body) for entry in caught.value.messages] == [
            (missing, b"lost")
        ]
        publisher.send("home")
        publisher.flush()
        self.expect(consumer, ["home"])

    @needs("confirms", "errors")
    def test_close_reports_and_closes(self) -> None:
        """``close()`` raises what was not accepted, and closes all the same."""
        publisher, _ = self.feed()
        publisher.send("lost", exchange=self.name("exchange"))
        with pytest.raises(NotFound):
            publisher.close()
        with pytest.raises(ConnectionClosed):
            publisher.send("after")
        publisher.close()

    @needs("confirms", "errors")
    def test_the_applications_exception_goes_first(self) -> None:
        """An exception that leaves the ``with`` block is not replaced by a failed publish."""
        error = LookupError("the application's own")
        publisher, _ = self.feed()
        with pytest.raises(LookupError) as caught, publisher:
            publisher.send("lost", exchange=self.name("exchange"))
            raise error
        assert caught.value is error

    def test_sending_after_close_says_so(self) -> None:
        """A closed publisher refuses to send and says what to do."""
        publisher, _ = self.feed()
        publisher.close()
        publisher.close()
        with pytest.raises(ConnectionClosed, match="new Publisher"):
            publisher.send({})
        self.still_works()

    def test_sending_runs_no_callbacks(self) -> None:
        """A publisher never runs a consumer's callback: deliveries wait for the drain."""
        publisher, consumer = self.feed()
        inbox = Inbox()
        consumer.register_callback(inbox)
        consumer.consume()
        for number in range(20):
            publisher.send(number)
        publisher.flush()
        assert len(inbox) == 0
        self.drain(lambda: len(inbox) == 20)
