"""Time, length and death: what the in-memory broker does with messages by itself."""

from __future__ import annotations

from datetime import datetime

import pytest

from carrot.broker.deadletters import Death
from tests.unit.broker_bench import Bench, delivered, refused


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.queue("dead")
    return bench


def reasons(bench: Bench) -> list[tuple[str, str]]:
    """Take everything off the dead letter queue: bodies, and why they died last."""
    found = []
    while (delivery := bench.channel.basic_get("dead", no_ack=True)) is not None:
        headers = delivery.properties["headers"]
        found.append((delivery.body.decode(), headers["x-last-death-reason"]))
    return found


# -- time


def test_messages_expire(bench: Bench) -> None:
    """A message waits as long as its queue or itself says, whichever is less."""
    bench.queue("q", x_message_ttl=1000)
    bench.publish("a")
    bench.publish("b", expiration="5000")
    bench.queue("p")
    bench.publish("c", key="p", expiration="500")
    assert bench.broker.next_due() == 0.5
    bench.pass_time(0.499)
    assert bench.counts("p") == (1, 0)
    bench.pass_time(0.001)
    assert bench.counts("p") == (0, 0)
    assert bench.counts() == (2, 0)
    bench.pass_time(0.5)
    assert bench.counts() == (0, 0)
    assert bench.broker.next_due() is None


def test_messages_expire_at_the_head_only(bench: Bench) -> None:
    """One that waits behind others is not looked at before its turn."""
    bench.queue("q")
    bench.publish("a")
    bench.publish("b", expiration="100")
    bench.pass_time(1)
    assert bench.counts() == (2, 0)
    assert bench.bodies() == ["a"]


def test_the_next_head_is_watched(bench: Bench) -> None:
    """Each message has its own time, as the one before it goes."""
    bench.queue("q")
    bench.publish("a", expiration="100")
    bench.publish("b", expiration="300")
    bench.publish("c", expiration="200")
    bench.pass_time(0.25)
    assert bench.counts() == (2, 0)
    bench.pass_time(0.05)
    assert bench.counts() == (0, 0)


def test_a_head_that_expires_sooner_is_watched(bench: Bench) -> None:
    """A message that comes back in front has its time, before the other's."""
    bench.queue("q")
    bench.publish("a", expiration="100")
    first = bench.get()
    bench.publish("b", expiration="300")
    bench.channel.basic_reject(first.delivery_tag, requeue=True)
    assert bench.broker.next_due() == 0.1
    bench.pass_time(0.1)
    assert bench.bodies() == ["b"]
    bench.pass_time(1)


def test_no_time_at_all(bench: Bench) -> None:
    """A message that may not wait reaches a consumer that is there, or nobody."""
    bench.queue("q", x_message_ttl=0)
    bench.publish("a")
    assert bench.counts() == (0, 0)
    bench.channel.basic_consume("q", "t")
    bench.publish("b")
    assert delivered(bench.channel) == ["t:b"]


def test_what_came_back_keeps_its_time(bench: Bench) -> None:
    """Requeueing does not prolong the life of a message."""
    bench.queue("q", x_message_ttl=100)
    bench.publish("a", "b")
    bench.get()
    bench.pass_time(0.2)
    bench.channel.basic_nack(1)
    assert bench.counts() == (0, 0)


def test_priority_overtakes_unwatched(bench: Bench) -> None:
    """RabbitMQ does not watch the time of a message that overtook; nor do we."""
    bench.queue("q", x_max_priority=5)
    bench.publish("low")
    bench.publish("high", priority=4, expiration="50")
    bench.pass_time(1)
    assert bench.bodies() == ["high", "low"]


def test_time_never_goes_back(bench: Bench) -> None:
    """An earlier time than the broker knows changes nothing."""
    bench.broker.advance(5)
    bench.broker.advance(3)
    assert (bench.broker.now, bench.broker.posix_time) == (5, 1_000_005.0)


def test_late_is_as_if_in_time(bench: Bench) -> None:
    """What was due while nobody looked happened at its time, one after the other."""
    arguments = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": "p"}
    bench.queue("q", x_message_ttl=1000, **arguments)
    bench.queue("p", x_message_ttl=1000)
    bench.publish("a")
    bench.pass_time(10)
    assert bench.counts("p") == (0, 0)


def test_unused_queues_expire(bench: Bench) -> None:
    """A queue goes when nobody declared, fetched or consumed for so long."""
    bench.queue("q", x_expires=1000)
    bench.pass_time(0.9)
    bench.queue("q", x_expires=1000)
    bench.pass_time(0.9)
    bench.channel.basic_get("q")
    bench.publish("does not count")
    bench.pass_time(0.9)
    assert bench.exists()
    bench.pass_time(0.1)
    assert not bench.exists()


def test_consumed_queues_do_not_expire(bench: Bench) -> None:
    """A queue with a consumer is in use; its time begins as the last one goes."""
    bench.queue("q", x_expires=1000)
    bench.channel.basic_consume("q", "t")
    bench.pass_time(5)
    channel = bench.connection.channel()
    channel.basic_consume("q")
    bench.channel.basic_cancel("t")
    bench.pass_time(5)
    channel.close()
    bench.pass_time(0.9)
    assert bench.exists()
    bench.pass_time(0.1)
    assert not bench.exists()


def test_timers_of_deleted_queues(bench: Bench) -> None:
    """Nothing happens at the times of a queue that is gone."""
    bench.queue("q", x_expires=1000, x_message_ttl=500)
    bench.publish("a")
    bench.channel.queue_delete("q")
    bench.queue("q")
    bench.publish("b")
    bench.pass_time(2)
    assert bench.bodies() == ["b"]


# -- length


def test_the_oldest_are_dropped(bench: Bench) -> None:
    """A queue that is too long drops its head."""
    bench.queue("q", x_max_length=2)
    bench.publish("a", "b", "c")
    assert bench.bodies() == ["b", "c"]


def test_the_largest_part_is_dropped(bench: Bench) -> None:
    """Bytes of bodies count as well, those of the new message included."""
    bench.queue("q", x_max_length_bytes=10)
    bench.publish("12345", "67890", "x")
    assert bench.bodies() == ["67890", "x"]
    bench.publish("y", "0123456789a")
    assert bench.bodies() == []


def test_only_what_waits_counts(bench: Bench) -> None:
    """Messages that are out do not count; coming back they may be too many."""
    bench.queue("q", x_max_length=1)
    bench.publish("a")
    bench.get()
    bench.publish("b")
    assert bench.counts() == (1, 0)
    bench.channel.basic_reject(1, requeue=True)
    assert bench.bodies() == ["b"]


def test_a_consumer_takes_before_anything_is_dropped(bench: Bench) -> None:
    """A message that is delivered at once never was in the queue."""
    bench.queue("q", x_max_length=0)
    bench.channel.basic_consume("q", "t")
    bench.publish("a", "b")
    assert delivered(bench.channel) == ["t:a", "t:b"]


@pytest.mark.parametrize("bound", [{"x_max_length": 1}, {"x_max_length_bytes": 1}])
def test_new_messages_are_refused(bench: Bench, bound: dict[str, int]) -> None:
    """``reject-publish`` refuses what is new; nothing comes back too much."""
    bench.queue("q", x_overflow="reject-publish", **bound)
    bench.channel.confirm_select()
    bench.publish("a", "b")
    assert delivered(bench.channel) == ["Confirmed 1", "Nacked 2"]
    bench.get()
    bench.publish("c")
    bench.channel.basic_reject(1, requeue=True)
    assert bench.bodies() == ["a", "c"]


def test_refused_messages_may_be_dead_lettered(bench: Bench) -> None:
    """``reject-publish-dlx`` dead-letters what it refuses."""
    bench.queue(
        "q",
        x_max_length=1,
        x_overflow="reject-publish-dlx",
        x_dead_letter_exchange="",
        x_dead_letter_routing_key="dead",
    )
    bench.publish("a", "b")
    assert reasons(bench) == [("b", "maxlen")]
    assert bench.bodies() == ["a"]


# -- death


def dying(bench: Bench, name: str = "q", **options: object) -> None:
    """Declare a queue whose dead go to the queue ``dead``."""
    bench.queue(name, x_dead_letter_exchange="", x_dead_letter_routing_key="dead", **options)


def test_three_ways_to_die(bench: Bench) -> None:
    """Rejected, expired and dropped messages are dead-lettered, with the reason."""
    dying(bench, x_max_length=2, x_message_ttl=1000)
    bench.publish("a", "b", "c")
    bench.channel.basic_reject(bench.get().delivery_tag, requeue=False)
    bench.pass_time(1)
    assert reasons(bench) == [("a", "maxlen"), ("b", "rejected"), ("c", "expired")]


def test_what_the_dead_carry(bench: Bench) -> None:
    """The headers of RabbitMQ 4.0 tell where, why and when; the expiration is gone."""
    dying(bench)
    bench.publish("m", expiration="60000", priority=3, headers={"a": 1})
    bench.broker.advance(5.5)
    bench.channel.basic_reject(bench.get().delivery_tag, requeue=False)
    delivery = bench.get("dead")
    assert (delivery.exchange, delivery.routing_key) == ("", "dead")
    assert delivery.redelivered is False
    assert delivery.properties == {
        "priority": 3,
        "headers": {
            "a": 1,
            "x-death": [
                {
                    "count": 1,
                    "reason": "rejected",
                    "queue": "q",
                    "time": datetime(1970, 1, 12, 13, 46, 45),
                    "exchange": "",
                    "routing-keys": ["q"],
                    "original-expiration": "60000",
                }
            ],
            "x-first-death-exchange": "",
            "x-first-death-queue": "q",
            "x-first-death-reason": "rejected",
            "x-last-death-exchange": "",
            "x-last-death-queue": "q",
            "x-last-death-reason": "rejected",
        },
    }


def test_dying_again(bench: Bench) -> None:
    """Each place and reason is listed once, with a count, the latest first."""
    bench.queue("q", x_dead_letter_exchange="", x_dead_letter_routing_key="p")
    bench.queue("p", x_dead_letter_exchange="", x_dead_letter_routing_key="q")
    bench.publish("m", headers={"x-death": "forged", "x-first-death-queue": "forged"})
    for queue in ("q", "p", "q"):
        bench.channel.basic_reject(bench.get(queue).delivery_tag, requeue=False)
    headers = bench.get("p").properties["headers"]
    assert [(death["queue"], death["count"]) for death in headers["x-death"]] == [
        ("q", 2),
        ("p", 1),
    ]
    assert headers["x-first-death-queue"] == headers["x-last-death-queue"] == "q"


def test_the_dead_keep_their_keys(bench: Bench) -> None:
    """Without a dead letter key they are routed by all they had, hidden ones too."""
    bench.queue("q", x_dead_letter_exchange="amq.direct")
    for key in ("q", "cc", "bcc"):
        bench.queue("to-" + key)
        bench.channel.queue_bind("to-" + key, "amq.direct", key)
    bench.publish("m", headers={"CC": ["cc"], "BCC": ["bcc"]})
    bench.channel.basic_reject(bench.get().delivery_tag, requeue=False)
    for key in ("q", "cc", "bcc"):
        delivery = bench.get("to-" + key)
        assert delivery.properties["headers"]["x-death"][0]["routing-keys"] == ["q", "cc"]
        assert delivery.routing_key == "q"


def test_dying_into_nothing(bench: Bench) -> None:
    """Where the dead letter exchange is missing, messages are gone."""
    bench.queue("q", x_dead_letter_exchange="nowhere")
    bench.publish("a")
    bench.channel.basic_reject(bench.get().delivery_tag, requeue=False)
    assert bench.counts() == (0, 0)


def test_a_circle_without_rejection_ends(bench: Bench) -> None:
    """A message that only expires does not go round; one that was rejected may."""
    for name, next_name in [("q", "p"), ("p", "q")]:
        bench.queue(
            name,
            x_message_ttl=1000,
            x_dead_letter_exchange="",
            x_dead_letter_routing_key=next_name,
        )
    bench.publish("a")
    bench.pass_time(1)
    assert bench.counts("p") == (1, 0)
    bench.pass_time(1)
    assert bench.counts() == (0, 0)
    bench.publish("b")
    bench.channel.basic_reject(bench.get().delivery_tag, requeue=False)
    bench.pass_time(1)
    assert bench.counts() == (1, 0)


def test_dropping_causes_dropping(bench: Bench) -> None:
    """A dead letter that overfills the next queue makes another one there."""
    bench.queue("q", x_max_length=1, x_dead_letter_exchange="", x_dead_letter_routing_key="p")
    dying(bench, "p", x_max_length=1)
    bench.publish("a", "b", "c")
    assert (bench.bodies(), bench.bodies("p")) == (["c"], ["b"])
    assert reasons(bench) == [("a", "maxlen")]


def test_the_dead_reach_consumers(bench: Bench) -> None:
    """A consumer of the dead letter queue gets them as they die."""
    dying(bench, x_message_ttl=1000)
    bench.channel.basic_consume("dead", "t")
    bench.publish("a", "b")
    bench.pass_time(1)
    assert delivered(bench.channel) == ["t:a", "t:b"]


def test_deleted_messages_do_not_die(bench: Bench) -> None:
    """Purging a queue, or deleting it, dead-letters nothing."""
    dying(bench)
    bench.publish("a", "b")
    bench.channel.queue_purge("q")
    bench.publish("c")
    bench.channel.queue_delete("q")
    assert reasons(bench) == []


def test_a_death_without_expiration() -> None:
    """What never had an expiration does not mention one."""
    assert "original-expiration" not in Death("q", "rejected", "", ("q",), 0.0, None).header()


def test_refusals_leave_dead_letters_alone(bench: Bench) -> None:
    """A refused settlement kills nobody."""
    dying(bench)
    bench.publish("a")
    bench.get()
    refused(bench.channel, 406, bench.channel.basic_reject, 2, requeue=False)
    assert bench.broker.vhost("/").queues["dead"].ready.head() is None
