"""What was declared over a connection, to be declared again. Pure: no I/O."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Journal", "replay"]


class _Queue:
    """A queue that was declared."""

    def __init__(self, declaration: dict[str, Any], server_named: bool) -> None:
        self.declaration = declaration
        #: The broker chose the name, and will choose another.
        self.server_named = server_named
        self.consumer_tags: set[str] = set()


class Journal:
    """Exchanges, queues and bindings in the order of their first declaration.

    Forgets what the application deletes, and what the broker deletes by
    itself: auto-delete queues with their last consumer, auto-delete exchanges
    with their last binding. Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._exchanges: dict[str, dict[str, Any]] = {}
        self._queues: dict[str, _Queue] = {}
        self._bindings: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        # Former names of server-named queues, and what they are called now.
        self._renamed: dict[str, str] = {}
        self._followers: set[weakref.WeakMethod[Callable[[str, str], Any]]] = set()

    def __repr__(self) -> str:
        return (
            f"<Journal {len(self._exchanges)} exchanges, {len(self._queues)} queues,"
            f" {len(self._bindings)} bindings>"
        )

    def forked(self) -> None:
        """Go on in the child of a fork, where a thread may hold the lock for ever."""
        self._lock = threading.RLock()

    # -- what happened

    def exchange_declared(self, declaration: dict[str, Any]) -> None:
        """Remember an exchange."""
        with self._lock:
            self._exchanges[declaration["exchange"]] = declaration

    def exchange_deleted(self, exchange: str) -> None:
        """Forget an exchange and its bindings."""
        with self._lock:
            self._exchanges.pop(exchange, None)
            self._unbind(lambda binding: binding["exchange"] == exchange)

    def queue_declared(self, declaration: dict[str, Any], name: str) -> None:
        """Remember a queue.

        :param name: what the broker calls it, where the declaration leaves that open.
        """
        with self._lock:
            known = self._queues.get(name)
            if known is None:
                server_named = not declaration["queue"]
                self._queues[name] = _Queue(declaration, server_named)
            elif not known.server_named:
                known.declaration = declaration

    def queue_deleted(self, queue: str) -> None:
        """Forget a queue and its bindings."""
        with self._lock:
            if self._queues.pop(queue, None) is not None:
                self._renamed = {a: b for a, b in self._renamed.items() if b != queue}
            self._unbind(lambda binding: binding["queue"] == queue)

    def bound(self, binding: dict[str, Any]) -> None:
        """Remember a binding."""
        with self._lock:
            self._bindings[_key(binding)] = binding

    def dropped(self, method: str, declaration: dict[str, Any]) -> None:
        """Forget what cannot be declared again."""
        if method == "exchange_declare":
            self.exchange_deleted(declaration["exchange"])
        elif method == "queue_bind":
            with self._lock:
                self._bindings.pop(_key(declaration), None)
        else:
            with self._lock:
                arguments = {**declaration, "warn_if_exists": None}
                for name, known in list(self._queues.items()):
                    if {**known.declaration, "warn_if_exists": None} == arguments:
                        self.queue_deleted(name)

    def consumed(self, queue: str, consumer_tag: str) -> None:
        """Note that a queue has a consumer."""
        with self._lock:
            if queue in self._queues:
                self._queues[queue].consumer_tags.add(consumer_tag)

    def cancelled(self, queue: str, consumer_tag: str) -> None:
        """Note that a consumer is gone; with the last one goes an auto-delete queue."""
        with self._lock:
            known = self._queues.get(queue)
            if known is None or consumer_tag not in known.consumer_tags:
                return
            known.consumer_tags.discard(consumer_tag)
            if known.declaration["auto_delete"] and not known.consumer_tags:
                self.queue_deleted(queue)

    def renamed(self, old: str, new: str) -> None:
        """Note that the broker gave a server-named queue another name."""
        with self._lock:
            if old == new or old not in self._queues:
                return
            self._queues = {new if q == old else q: r for q, r in self._queues.items()}
            bindings = list(self._bindings.values())
            for binding in bindings:
                if binding["queue"] == old:
                    binding["queue"] = new
            self._bindings = {_key(binding): binding for binding in bindings}
            self._renamed = {a: new if b == old else b for a, b in self._renamed.items()}
            self._renamed[old] = new
        for reference in list(self._followers):
            follower = reference()
            if follower is not None:
                follower(old, new)

    def follow(self, follower: Callable[[str, str], Any]) -> None:
        """Have a method, held weakly, called with the former and the new name of queues."""
        self._followers.add(weakref.WeakMethod(follower, self._followers.discard))

    def _unbind(self, gone: Callable[[dict[str, Any]], bool]) -> None:
        bindings = self._bindings
        self._bindings = {k: binding for k, binding in bindings.items() if not gone(binding)}
        still_bound = {binding["exchange"] for binding in self._bindings.values()}
        for exchange in {b["exchange"] for b in bindings.values()} - still_bound:
            declaration = self._exchanges.get(exchange)
            if declaration is not None and declaration["auto_delete"]:
                del self._exchanges[exchange]

    # -- what to do about it

    def name(self, queue: str) -> str:
        """Return what a queue is called now."""
        return self._renamed.get(queue, queue) if self._renamed else queue

    def exchanges(self, queue: str | None = None) -> list[dict[str, Any]]:
        """Return the declared exchanges; of *queue*: those that it is bound to."""
        with self._lock:
            bound = {binding["exchange"] for binding in self.bindings(queue)}
            return [
                dict(declaration)
                for name, declaration in self._exchanges.items()
                if queue is None or name in bound
            ]

    def queues(self, queue: str | None = None) -> dict[str, dict[str, Any]]:
        """Return the declared queues by name; *queue*: it alone."""
        with self._lock:
            return {
                name: {**known.declaration, "warn_if_exists": False}
                for name, known in self._queues.items()
                if queue is None or name == queue
            }

    def bindings(self, queue: str | None = None) -> list[dict[str, Any]]:
        """Return the bindings; of *queue*: its own."""
        with self._lock:
            return [
                dict(binding)
                for binding in self._bindings.values()
                if queue is None or binding["queue"] == queue
            ]


def replay(
    journal: Journal, perform: Callable[[str, dict[str, Any]], Any], queue: str | None = None
) -> None:
    """Declare again what was declared, in an order that works.

    :param perform: called with the name of a backend's method and its keyword
        arguments; returns what the method returns.
    :param queue: only this one, its bindings, and the exchanges of these.
    """
    for declaration in journal.exchanges(queue):
        perform("exchange_declare", declaration)
    for name, declaration in journal.queues(queue).items():
        declared = perform("queue_declare", declaration)
        if not declaration["queue"] and declared:
            journal.renamed(name, declared[0])
    for binding in journal.bindings(None if queue is None else journal.name(queue)):
        perform("queue_bind", binding)


def _key(binding: Mapping[str, Any]) -> tuple[str, str, str, str]:
    arguments = sorted((binding.get("arguments") or {}).items())
    return binding["queue"], binding["exchange"], binding["routing_key"], repr(arguments)
