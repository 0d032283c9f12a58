"""The journal of what was declared."""

from __future__ import annotations

from typing import Any

from carrot.recovery.journal import Journal, replay


def exchange(name: str, auto_delete: bool = False) -> dict[str, Any]:
    return {"exchange": name, "type": "direct", "durable": True, "auto_delete": auto_delete}


def queue(name: str, auto_delete: bool = False) -> dict[str, Any]:
    return {
        "queue": name,
        "durable": True,
        "exclusive": False,
        "auto_delete": auto_delete,
        "arguments": None,
        "warn_if_exists": True,
    }


def binding(
    queue: str, exchange: str, key: str = "k", arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "queue": queue,
        "exchange": exchange,
        "routing_key": key,
        "arguments": arguments,
    }


def replayed(
    journal: Journal, only: str | None = None, names: dict[str, str] | None = None
) -> list[str]:
    steps = []

    def perform(method: str, declaration: dict[str, Any]) -> Any:
        subject = "queue" if "queue" in declaration else "exchange"
        steps.append(f"{method} {declaration[subject]}".strip())
        if method == "queue_declare":
            assert declaration["warn_if_exists"] is False
            return (names or {}).get(declaration["queue"], declaration["queue"]), 0, 0
        return None

    replay(journal, perform, only)
    return steps


def test_everything_is_declared_again_once_in_an_order_that_works() -> None:
    """Exchanges come before queues, queues before bindings; and each once."""
    journal = Journal()
    for _ in range(2):
        journal.queue_declared(queue("q"), "q")
        journal.exchange_declared(exchange("x"))
        journal.bound(binding("q", "x"))
        journal.bound(binding("q", "x", arguments={"a": 1}))
    assert replayed(journal) == [
        "exchange_declare x",
        "queue_declare q",
        "queue_bind q",
        "queue_bind q",
    ]
    assert repr(journal) == "<Journal 1 exchanges, 1 queues, 2 bindings>"


def test_what_was_deleted_stays_deleted() -> None:
    """A deleted queue goes with its bindings, a deleted exchange with its own."""
    journal = Journal()
    for name in ("a", "b"):
        journal.exchange_declared(exchange(f"x{name}"))
        journal.queue_declared(queue(name), name)
        journal.bound(binding(name, "xa"))
        journal.bound(binding(name, "xb"))
    journal.queue_deleted("a")
    journal.exchange_deleted("xb")
    assert replayed(journal) == ["exchange_declare xa", "queue_declare b", "queue_bind b"]


def test_an_auto_delete_queue_goes_with_its_last_consumer() -> None:
    """What the broker deletes by itself is not brought back to life without its consumers."""
    journal = Journal()
    journal.exchange_declared(exchange("x", auto_delete=True))
    journal.queue_declared(queue("q", auto_delete=True), "q")
    journal.bound(binding("q", "x"))
    journal.consumed("q", "one")
    journal.consumed("q", "two")
    journal.cancelled("q", "one")
    journal.cancelled("q", "unknown")
    assert "queue_declare q" in replayed(journal)
    journal.cancelled("q", "two")
    assert replayed(journal) == []


def test_an_auto_delete_queue_that_never_had_a_consumer_stays() -> None:
    """Auto-delete means after the last use, not before the first."""
    journal = Journal()
    journal.queue_declared(queue("q", auto_delete=True), "q")
    journal.cancelled("q", "nobody")
    assert replayed(journal) == ["queue_declare q"]


def test_a_durable_queue_survives_its_consumers() -> None:
    """A queue that is not auto-delete is declared again, consumers or not."""
    journal = Journal()
    journal.queue_declared(queue("q"), "q")
    journal.consumed("q", "one")
    journal.cancelled("q", "one")
    assert replayed(journal) == ["queue_declare q"]


def test_a_server_named_queue_gets_a_new_name_and_its_bindings_follow() -> None:
    """The broker chooses another name; every former name leads to the present one."""
    journal = Journal()
    journal.exchange_declared(exchange("x"))
    journal.queue_declared(queue(""), "gen-1")
    journal.bound(binding("gen-1", "x"))
    journal.queue_declared(queue("gen-1"), "gen-1")
    steps = replayed(journal, names={"": "gen-2"})
    assert steps == ["exchange_declare x", "queue_declare", "queue_bind gen-2"]
    assert journal.name("gen-1") == "gen-2"
    steps = replayed(journal, names={"": "gen-3"})
    assert steps[-1] == "queue_bind gen-3"
    assert journal.name("gen-1") == journal.name("gen-2") == "gen-3"
    journal.queue_deleted("gen-3")
    assert journal.name("gen-1") == "gen-1"
    assert replayed(journal) == ["exchange_declare x"]


def test_one_queue_can_be_declared_again_with_what_belongs_to_it() -> None:
    """For a queue alone: the exchanges that it is bound to, itself, its bindings."""
    journal = Journal()
    for name in ("a", "b"):
        journal.exchange_declared(exchange(f"x{name}"))
        journal.queue_declared(queue(name), name)
        journal.bound(binding(name, f"x{name}"))
    assert replayed(journal, "b") == ["exchange_declare xb", "queue_declare b", "queue_bind b"]
    assert replayed(journal, "unknown") == []


def test_a_declaration_that_cannot_be_repeated_is_dropped() -> None:
    """What the broker kills a connection for is not said to it on each new one."""
    journal = Journal()
    journal.exchange_declared(exchange("x"))
    journal.exchange_declared(exchange("y"))
    journal.queue_declared(queue("q"), "q")
    journal.queue_declared(queue("r"), "r")
    journal.bound(binding("q", "y"))
    journal.bound(binding("r", "y"))
    journal.dropped("queue_bind", binding("r", "y"))
    journal.dropped("exchange_declare", exchange("x"))
    journal.dropped("queue_declare", {**queue("q"), "warn_if_exists": False})
    assert replayed(journal) == ["exchange_declare y", "queue_declare r"]
