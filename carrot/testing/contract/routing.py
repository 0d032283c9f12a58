"""Behaviours of a broker: exchanges, bindings, and what may be declared."""

from __future__ import annotations

from typing import Any

import pytest

from carrot.exceptions import NotFound, PreconditionFailed, ResourceLocked, Unroutable
from carrot.messaging import Consumer
from carrot.testing.contract.scene import Scene, needs


class RoutingBehaviours(Scene):
    """Which queues a message reaches."""

    def bound(self, exchange: str, routing_key: Any, type: str = "topic") -> Consumer:
        """Return a consumer whose queue is bound so."""
        return self.consumer(exchange=exchange, exchange_type=type, routing_key=routing_key)

    def reaches(self, consumer: Consumer, *keys: str) -> list[Any]:
        """Send a message with each of these keys; return those that arrive."""
        with self.publisher(
            consumer.exchange, exchange_type=consumer.exchange_type
        ) as publisher:
            for key in keys:
                publisher.send(key, routing_key=key)
        return self.payloads(consumer)

    def test_one_copy_per_matching_queue(self) -> None:
        """A queue that several bindings match gets one copy."""
        consumer = self.bound(self.new_exchange(), "a.*")
        for key in ("*.b", "#", "a.b"):
            consumer.backend.queue_bind(
                queue=consumer.queue, exchange=consumer.exchange, routing_key=key
            )
        assert self.reaches(consumer, "a.b") == ["a.b"]

    def test_direct(self) -> None:
        """A direct exchange reaches every queue bound with the key, and no other."""
        exchange = self.new_exchange()
        one, other = self.bound(exchange, "a", "direct"), self.bound(exchange, "b", "direct")
        assert self.reaches(one, "a", "b", "c") == ["a"]
        self.expect(other, ["b"])

    def test_fanout(self) -> None:
        """A fanout exchange reaches every queue bound."""
        exchange = self.new_exchange()
        one, other = self.bound(exchange, "a", "fanout"), self.bound(exchange, "", "fanout")
        assert self.reaches(one, "a", "b") == ["a", "b"]
        self.expect(other, ["a", "b"])

    def test_default_exchange(self) -> None:
        """The default exchange reaches the queue that the key names."""
        consumer = self.consumer()
        self.put(consumer.queue, "by name")
        self.expect(consumer, ["by name"])

    def test_topic_hash_matches_no_word(self) -> None:
        """Topic ``a.#`` matches ``a``."""
        consumer = self.bound(self.new_exchange(), "a.#")
        assert self.reaches(consumer, "a", "a.b.c", "b") == ["a", "a.b.c"]

    def test_topic_leading_hash_matches_no_word(self) -> None:
        """Topic ``#.x`` matches ``x``."""
        consumer = self.bound(self.new_exchange(), "#.x")
        assert self.reaches(consumer, "x", "a.b.x", "x.y") == ["x", "a.b.x"]

    @pytest.mark.parametrize(
        ("mode", "reached"), [("all", ["both"]), ("any", ["both", "one", "other"])]
    )
    def test_headers(self, mode: str, reached: list[str]) -> None:
        """A headers exchange matches all, or any, of the binding's headers."""
        table = {"x-match": mode, "kind": "feed", "size": 1}
        consumer = self.bound(self.new_exchange(), table, "headers")
        with self.publisher(consumer.exchange, exchange_type="headers") as publisher:
            publisher.send("both", headers={"kind": "feed", "size": 1})
            publisher.send("one", headers={"kind": "feed", "size": 2})
            publisher.send("other", headers={"size": 1})
            publisher.send("none", headers={"kind": 1, "size": "feed"})
        self.expect(consumer, reached)

    def test_exchange_to_exchange_bindings(self) -> None:
        """An exchange bound to another gets, by its key, what that gets."""
        source = self.bound(self.new_exchange(), "nothing").exchange
        consumer = self.bound(self.new_exchange(), "a.b", "direct")
        channel = self.connection.get_channel()
        channel.exchange_bind(destination=consumer.exchange, source=source, routing_key="a.*")
        with self.publisher(source, exchange_type="topic") as publisher:
            for key in ("a.b", "a.c", "b.b"):
                publisher.send(key, routing_key=key)
        self.expect(consumer, ["a.b"])

    def test_publish_to_a_missing_exchange(self) -> None:
        """Publishing to a missing exchange is 404."""
        publisher = self.publisher(self.name("missing"), "key", auto_declare=False)
        publisher.send("lost")
        with pytest.raises(NotFound) as caught:
            publisher.flush()
        assert caught.value.reply_code == 404

    def test_mandatory_messages_are_returned(self) -> None:
        """A mandatory message that reaches no queue is returned."""
        publisher = self.publisher(self.new_exchange(), "nobody")
        publisher.send("unheard")
        publisher.flush()
        publisher.send("important", mandatory=True)
        with pytest.raises(Unroutable) as caught:
            publisher.flush()
        assert [entry.body for entry in caught.value.messages] == [b"important"]

    @needs("exchange_arguments")
    def test_alternate_exchange(self) -> None:
        """What an exchange cannot route goes to its alternate exchange."""
        spare = self.bound(self.new_exchange(), "", "fanout")
        exchange = self.new_exchange()
        spare.backend.exchange_declare(
            exchange=exchange,
            type="direct",
            durable=True,
            auto_delete=False,
            arguments={"alternate-exchange": spare.exchange},
        )
        with self.publisher(exchange, "nobody", auto_declare=False) as publisher:
            publisher.send("caught", mandatory=True)
        self.expect(spare, ["caught"])

    def test_virtual_hosts_are_apart(self) -> None:
        """Queues of the same name in two virtual hosts are two queues."""
        other = self.make_virtual_host()
        if other is None:
            pytest.skip("the broker has no virtual_hosts")
        consumer = self.consumer()
        elsewhere = self.consumer(consumer.queue, connection=self.connect(virtual_host=other))
        self.put(consumer.queue, "here")
        assert elsewhere.fetch() is None
        self.expect(consumer, ["here"])

    # -- declaring

    def test_redeclaring_a_queue_with_other_settings(self) -> None:
        """Redeclaring a queue with other properties or arguments is 406."""
        queue = self.consumer().queue
        for options in ({"auto_delete": True}, {"queue_arguments": {"x-max-length": 5}}):
            with pytest.raises(PreconditionFailed) as caught:
                self.consumer(queue, **options)
            assert caught.value.reply_code == 406

    def test_redeclaring_an_exchange_with_other_settings(self) -> None:
        """Redeclaring an exchange with another type or property is 406."""
        exchange = self.new_exchange()
        self.publisher(exchange)
        for options in ({"exchange_type": "topic"}, {"auto_delete": True}, {"durable": False}):
            with pytest.raises(PreconditionFailed) as caught:
                self.publisher(exchange, **options)
            assert caught.value.reply_code == 406

    def test_passive_declare_of_a_missing_queue(self) -> None:
        """Passive declaring of a missing queue is 404."""
        channel = self.connection.get_channel()
        with pytest.raises(self.connection.channel_errors) as caught:
            channel.queue_declare(queue=self.name(), passive=True)
        assert caught.value.reply_code == 404  # type: ignore[attr-defined]

    def test_exclusive_queues_are_locked(self) -> None:
        """Using another connection's exclusive queue, in whatever way, is 405."""
        queue = self.consumer(exclusive=True).queue
        other = self.consumer(queue, connection=self.connect(), auto_declare=False)
        for use in (other.fetch, other.consume, other.purge, other.declare):
            with pytest.raises(ResourceLocked) as caught:
                use()
            assert caught.value.reply_code == 405

    def test_auto_delete_after_the_last_consumer(self) -> None:
        """An auto-delete queue vanishes when its last consumer goes."""
        one, other = self.consumer(auto_delete=True), self.connect()
        two = self.consumer(one.queue, auto_delete=True, connection=other)
        backend = self.connection.create_backend()
        one.consume()
        two.consume()
        one.close()
        assert backend.queue_exists(queue=one.queue)
        other.close()
        self.eventually(lambda: not backend.queue_exists(queue=one.queue))

    def test_auto_delete_after_the_last_binding(self) -> None:
        """An auto-delete exchange vanishes with its last binding."""
        exchange = self.new_exchange()
        consumer = self.consumer(exchange=exchange, routing_key="k", exchange_auto_delete=True)
        publisher = self.publisher(exchange, "k", auto_delete=True)
        publisher.send("there")
        publisher.flush()
        consumer.backend.queue_delete(queue=consumer.queue)
        publisher.send("gone")
        with pytest.raises(NotFound):
            publisher.flush()

    def test_server_named_queues(self) -> None:
        """A queue declared without a name gets a new one from the broker."""
        names = {Consumer(self.connection, queue="", exclusive=True).queue for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("amq.gen-") for name in names)

    def test_purge_counts(self) -> None:
        """Purging answers how many messages were ready; unacknowledged ones stay."""
        consumer = self.filled(1, 2, 3)
        held = self.fetched(consumer)
        assert consumer.purge() == 2
        held.requeue()
        assert self.fetched(consumer, no_ack=True).payload == 1

    def test_delete_counts(self) -> None:
        """Deleting a queue answers how many messages were ready."""
        consumer = self.filled(1, 2, 3)
        self.fetched(consumer)
        assert self.connection.create_backend().queue_delete(queue=consumer.queue) == 2

    def test_delete_if_unused(self) -> None:
        """Deleting a queue if unused is 406 while it has a consumer."""
        consumer = self.consumer()
        consumer.consume()
        backend = self.connection.create_backend()
        with pytest.raises(PreconditionFailed):
            backend.queue_delete(queue=consumer.queue, if_unused=True)
        consumer.cancel()
        backend.queue_delete(queue=consumer.queue, if_unused=True)
        assert not backend.queue_exists(queue=consumer.queue)

    def test_delete_if_empty(self) -> None:
        """Deleting a queue if empty is 406 while it holds messages."""
        consumer = self.filled("x")
        backend = self.connection.create_backend()
        with pytest.raises(PreconditionFailed):
            backend.queue_delete(queue=consumer.queue, if_empty=True)
        consumer.purge()
        backend.queue_delete(queue=consumer.queue, if_empty=True)
        assert not backend.queue_exists(queue=consumer.queue)
