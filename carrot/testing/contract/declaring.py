"""The contract of declaring queues, exchanges and bindings."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.backends.base import QueueAlreadyExistsWarning
from carrot.exceptions import (
    ConfigurationError,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    Unroutable,
)
from carrot.messaging import Consumer
from carrot.testing.contract.scene import Inbox, Scene, needs


class DeclaringContract(Scene):
    """A consumer declares its queue, its exchange, and the binding between them."""

    # -- when

    def test_a_consumer_declares_and_binds(self) -> None:
        """A new consumer's queue gets what is sent to its exchange with its routing key."""
        publisher, consumer = self.feed()
        publisher.send({"import_feed": "http://cnn.com/rss"})
        publisher.send("astray", routing_key="elsewhere")
        publisher.flush()
        message = self.fetched(consumer)
        assert message.payload == {"import_feed": "http://cnn.com/rss"}
        message.ack()
        assert consumer.fetch() is None

    def test_a_publisher_declares_its_exchange(self) -> None:
        """A new publisher declares its exchange, so that sending to it is no error."""
        with self.publisher(self.new_exchange(), "nobody") as publisher:
            publisher.send("unheard")
        self.still_works()

    @needs("queue_exists")
    def test_auto_declare_false_declares_nothing(self) -> None:
        """With ``auto_declare=False`` nothing is declared before ``declare()``."""
        consumer = self.consumer(auto_declare=False)
        assert not consumer.backend.queue_exists(queue=consumer.queue)
        assert consumer.declare() is consumer
        assert consumer.backend.queue_exists(queue=consumer.queue)

    @needs("errors")
    def test_a_publisher_with_auto_declare_false_declares_nothing(self) -> None:
        """A publisher with ``auto_declare=False`` declares by ``declare()`` only."""
        exchange = self.new_exchange()
        publisher = self.publisher(exchange, "key", auto_declare=False)
        with pytest.raises(NotFound):
            self.consumer().backend.queue_bind(
                queue=self.consumer().queue, exchange=exchange, routing_key="key"
            )
        publisher.declare()
        with publisher:
            publisher.send({})

    def test_declaring_again_changes_nothing(self) -> None:
        """Declaring what exists with the same settings keeps it and its messages."""
        publisher, consumer = self.feed()
        publisher.send("kept")
        publisher.flush()
        consumer.declare()
        publisher.declare()
        other = self.consumer(
            consumer.queue, exchange=consumer.exchange, routing_key=consumer.routing_key
        )
        self.expect(other, ["kept"])

    def test_declare_may_be_overridden(self) -> None:
        """A subclass's ``declare()`` replaces ours, and its ``_init_opts`` add options."""
        exchange = self.new_exchange()

        class TwoKeys(Consumer):
            second_key: str = ""
            _init_opts = (*Consumer._init_opts, "second_key")

            def declare(self) -> Any:
                super().declare()
                self.backend.queue_bind(
                    queue=self.queue, exchange=self.exchange, routing_key=self.second_key
                )
                return self

        consumer = self.consumer(
            cls=TwoKeys, exchange=exchange, routing_key="one", second_key="two"
        )
        with self.publisher(exchange) as publisher:
            publisher.send(1, routing_key="one")
            publisher.send(2, routing_key="two")
        self.expect(consumer, [1, 2])

    def test_a_class_is_its_configuration(self) -> None:
        """Class attributes of a subclass configure it as constructor arguments do."""

        class FeedConsumer(Consumer):
            queue = self.new_queue()
            exchange = self.new_exchange()
            routing_key = "importer"
            auto_ack = True

        consumer = FeedConsumer(self.connection)
        with self.publisher(FeedConsumer.exchange, "importer") as publisher:
            publisher.send("configured")
        assert self.fetched(consumer).acknowledged

    # -- exchanges

    def test_without_an_exchange_nothing_is_bound(self) -> None:
        """Without an exchange the queue gets what the default exchange is sent by its name."""
        consumer = self.consumer()
        assert consumer.exchange == ""
        with self.publisher("", consumer.queue) as publisher:
            publisher.send("by name")
        self.expect(consumer, ["by name"])

    def test_a_direct_exchange_matches_the_key(self) -> None:
        """A direct exchange (the default type) delivers where the keys are identical."""
        publisher, consumer = self.feed(routing_key="importer")
        for key in ("importer", "imp", "importer.x", ""):
            publisher.send(key, routing_key=key)
        publisher.flush()
        self.expect(consumer, ["importer"])

    def test_a_fanout_exchange_matches_always(self) -> None:
        """A fanout exchange delivers to every queue bound, whatever the keys."""
        exchange = self.new_exchange()
        options = {"exchange": exchange, "exchange_type": "fanout"}
        consumers = [self.consumer(**options), self.consumer(routing_key="other", **options)]
        with self.publisher(exchange, "any", exchange_type="fanout") as publisher:
            publisher.send("to all")
        for each in consumers:
            self.expect(each, ["to all"])

    @needs("topic")
    def test_a_topic_exchange_matches_patterns(self) -> None:
        """A topic exchange knows ``*`` (one word) and ``#`` (any number of words)."""
        exchange = self.new_exchange()
        consumer = self.consumer(
            exchange=exchange, exchange_type="topic", routing_key="*.stock.#"
        )
        with self.publisher(exchange, exchange_type="topic") as publisher:
            for key in (
                "usd.stock",
                "eur.stock.db",
                "stock.nasdaq",
                "a.b.stock",
                "usd.stock.a.b",
            ):
                publisher.send(key, routing_key=key)
        self.expect(consumer, ["usd.stock", "eur.stock.db", "usd.stock.a.b"])

    @needs("headers", "message_headers")
    def test_a_headers_exchange_matches_a_table(self) -> None:
        """The ``routing_key`` of a headers exchange's consumer is the binding's table."""
        exchange = self.new_exchange()
        consumer = self.consumer(
            exchange=exchange,
            exchange_type="headers",
            routing_key={"x-match": "all", "kind": "feed", "size": 1},
        )
        with self.publisher(exchange, exchange_type="headers") as publisher:
            publisher.send("both", headers={"kind": "feed", "size": 1, "more": True})
            publisher.send("one", headers={"kind": "feed"})
            publisher.send("by key", routing_key={"kind": "feed", "size": 1})
        self.expect(consumer, ["both", "by key"])

    @needs("headers")
    def test_a_headers_binding_that_is_no_table_is_an_error(self) -> None:
        """A text as the binding of a headers exchange is an error that says what it must be."""
        with pytest.raises(ConfigurationError, match="dictionary"):
            self.consumer(
                exchange=self.new_exchange(), exchange_type="headers", routing_key="text"
            )
        self.still_works()

    # -- settings

    @needs("errors")
    def test_other_settings_are_refused(self) -> None:
        """Redeclaring with other settings raises; the text of the error names the way out."""
        consumer = self.consumer()
        with pytest.raises(PreconditionFailed, match="queue_auto_delete") as caught:
            self.consumer(consumer.queue, auto_delete=True)
        assert caught.value.reply_code == caught.value.args[0] == 406
        self.still_works()

    @needs("errors")
    def test_other_settings_of_an_exchange_are_refused(self) -> None:
        """Redeclaring an exchange with another type or durability raises."""
        exchange = self.new_exchange()
        self.publisher(exchange)
        with pytest.raises(PreconditionFailed):
            self.publisher(exchange, exchange_type="fanout")
        with pytest.raises(PreconditionFailed, match="exchange_durable"):
            self.consumer(exchange=exchange, exchange_durable=False)
        self.still_works()

    @needs("errors")
    def test_settings_can_be_set_apart(self) -> None:
        """``queue_*`` and ``exchange_*`` set durable and auto_delete of one of the two."""
        exchange = self.new_exchange()
        self.publisher(exchange, durable=False, auto_delete=True)
        consumer = self.consumer(
            exchange=exchange, exchange_durable=False, exchange_auto_delete=True
        )
        same = self.consumer(consumer.queue)
        assert same.durable and not same.auto_delete
        self.consumer(queue_durable=True, queue_auto_delete=True, exchange=self.new_exchange())

    @needs("exclusive")
    def test_an_exclusive_queue_is_locked(self) -> None:
        """Another connection that uses an exclusive queue gets ``ResourceLocked`` (405)."""
        consumer = self.consumer(exclusive=True)
        assert consumer.auto_delete
        other = self.connect()
        with pytest.raises(ResourceLocked) as caught:
            self.consumer(consumer.queue, exclusive=True, connection=other)
        assert caught.value.reply_code == 405
        self.still_works(other)
        self.still_works()

    @needs("exclusive", "queue_exists")
    def test_an_exclusive_queue_ends_with_its_connection(self) -> None:
        """An exclusive queue vanishes with the connection that declared it."""
        owner = self.connect()
        queue = self.consumer(exclusive=True, connection=owner).queue
        backend = self.connection.create_backend()
        owner.close()
        self.eventually(lambda: not backend.queue_exists(queue=queue))

    @needs("auto_delete", "queue_exists")
    def test_an_auto_delete_queue_ends_with_its_last_consumer(self) -> None:
        """An ``auto_delete`` queue vanishes when its last consumer is cancelled, not before."""
        one = self.consumer(auto_delete=True)
        other = self.consumer(one.queue, auto_delete=True)
        backend = self.connection.create_backend()
        for each in (one, other):
            each.consume()
        one.cancel()
        assert backend.queue_exists(queue=one.queue)
        other.cancel()
        self.eventually(lambda: not backend.queue_exists(queue=one.queue))

    @needs("server_named")
    def test_the_broker_may_choose_the_name(self) -> None:
        """A consumer given ``queue=""`` uses the name that the broker chose, bound as asked."""
        exchange = self.new_exchange()
        consumers = [
            Consumer(
                self.connection, queue="", exchange=exchange, routing_key="k", exclusive=True
            )
            for _ in range(2)
        ]
        assert consumers[0].queue and consumers[0].queue != consumers[1].queue
        with self.publisher(exchange, "k", auto_delete=True) as publisher:
            publisher.send("to each")
        for each in consumers:
            self.expect(each, ["to each"])

    @needs("arguments")
    def test_queue_arguments_reach_the_broker(self) -> None:
        """``queue_arguments`` are the queue's: one of length 1 keeps one message."""
        consumer = self.consumer(queue_arguments={"x-max-length": 1})
        self.put(consumer.queue, "dropped", "kept")
        self.expect(consumer, ["kept"])

    @needs("warn_if_exists")
    def test_warn_if_exists_warns(self) -> None:
        """``warn_if_exists=True`` warns where the queue exists, and is silent where not."""
        consumer = self.consumer(warn_if_exists=True)
        with pytest.warns(QueueAlreadyExistsWarning, match=consumer.queue):
            self.consumer(consumer.queue, warn_if_exists=True)

    # -- undoing

    @needs("queue_exists", "queue_delete")
    def test_queue_exists_tells_and_asking_costs_nothing(self) -> None:
        """``queue_exists`` answers for missing queues too, and the channel stays usable."""
        consumer = self.consumer()
        backend = consumer.backend
        assert not backend.queue_exists(queue=self.name())
        assert backend.queue_exists(queue=consumer.queue)
        backend.queue_delete(queue=consumer.queue)
        assert not backend.queue_exists(queue=consumer.queue)

    def test_purge_counts(self) -> None:
        """``purge()`` and ``discard_all()`` empty the queue and return how many there were."""
        consumer = self.filled(1, 2, 3)
        assert consumer.purge() == 3
        self.put(consumer.queue, "again")
        assert consumer.discard_all() == 1
        assert consumer.purge() == 0

    @needs("queue_delete")
    def test_queue_delete_counts(self) -> None:
        """``queue_delete`` returns how many messages went with the queue."""
        consumer = self.filled(1, 2, 3)
        assert consumer.backend.queue_delete(queue=consumer.queue) == 3

    @needs("queue_delete", "errors")
    def test_queue_delete_heeds_conditions(self) -> None:
        """``if_empty`` and ``if_unused`` keep a queue that is not; the channel heals."""
        consumer = self.filled("something")
        with pytest.raises(PreconditionFailed):
            consumer.backend.queue_delete(queue=consumer.queue, if_empty=True)
        used = self.consumer()
        used.consume()
        with pytest.raises(PreconditionFailed):
            consumer.backend.queue_delete(queue=used.queue, if_unused=True)
        assert consumer.purge() == 1
        assert consumer.backend.queue_delete(queue=consumer.queue, if_empty=True) == 0

    # -- errors

    @needs("errors")
    def test_an_unknown_queue_is_not_found(self) -> None:
        """Fetching and consuming of an unknown queue raise ``NotFound`` that names it."""
        consumer = self.consumer(auto_declare=False)
        inbox = Inbox()
        consumer.register_callback(inbox)
        for use in (consumer.fetch, consumer.consume, consumer.purge):
            with pytest.raises(NotFound, match=consumer.queue) as caught:
                use()
            assert caught.value.reply_code == caught.value.amqp_reply_code == 404
        consumer.declare()
        self.put(consumer.queue, "found")
        consumer.wait(limit=1)
        assert inbox.payloads == ["found"]

    @needs("errors")
    def test_an_error_on_one_channel_spares_the_others(self) -> None:
        """A refused operation leaves other consumers and publishers of the connection alone."""
        publisher, consumer = self.feed()
        inbox = Inbox()
        consumer.register_callback(inbox)
        consumer.consume()
        with pytest.raises(NotFound):
            self.consumer(auto_declare=False).fetch()
        publisher.send("unharmed")
        self.drain(lambda: len(inbox) == 1)

    @needs("confirms")
    def test_an_unbound_key_is_unroutable(self) -> None:
        """A mandatory message that no queue gets is raised by the first flush."""
        publisher, consumer = self.feed()
        publisher.send("astray", routing_key="nobody", mandatory=True)
        publisher.send("home", mandatory=True)
        with pytest.raises(Unroutable) as caught:
            publisher.flush()
        assert [entry.routing_key for entry in caught.value.messages] == ["nobody"]
        assert caught.value.messages[0].body == b"astray"
        self.expect(consumer, ["home"])
        publisher.flush()
