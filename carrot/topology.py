"""What can be declared on a broker, and the rules by which exchanges match.

The records say what was declared; recovery keeps them to declare it again.
The route tables say which targets a message reaches. A target is anything
hashable; the in-memory broker uses its queues and exchanges. A target that
several bindings match is answered once, in the order of the first binding.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

__all__ = [
    "EXCHANGE_TYPES",
    "Binding",
    "DirectRoutes",
    "Exchange",
    "FanoutRoutes",
    "HeadersRoutes",
    "Queue",
    "Routes",
    "TopicRoutes",
    "frozen_arguments",
]

T = TypeVar("T", bound=Hashable)

#: A table of arguments or headers, as AMQP has it.
Table = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange as it was declared."""

    name: str
    type: str = "direct"
    durable: bool = False
    auto_delete: bool = False
    #: Only other exchanges may publish to it.
    internal: bool = False
    arguments: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as it was declared."""

    #: Name; where the broker chose it, the name that it chose.
    name: str
    durable: bool = False
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Table = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of a queue, or of an exchange, to the exchange *source*."""

    source: str
    destination: str
    routing_key: str = ""
    arguments: Table = field(default_factory=dict)
    #: Whether *destination* names an exchange.
    to_exchange: bool = False

    @property
    def identity(self) -> Hashable:
        """Equal for bindings that a broker takes for the same one."""
        return (
            self.source,
            self.to_exchange,
            self.destination,
            self.routing_key,
            frozen_arguments(self.arguments),
        )


def frozen_arguments(value: Any) -> Hashable:
    """Return a hashable stand-in of a table, or of a value in one.

    Two are equal exactly where AMQP sees equal values: ``1``, ``1.0`` and
    ``True`` are three different ones there, text and its bytes are one.
    """
    if isinstance(value, Mapping):
        return frozenset((key, frozen_arguments(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(frozen_arguments(item) for item in value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (bool, int, float, datetime)):
        return (type(value).__name__, value)
    return value  # type: ignore[no-any-return]  # bytes, None, Decimal


class Routes(Protocol[T]):
    """Bindings of one exchange, by the rule of its type."""

    def add(self, routing_key: str, arguments: Table, target: T) -> None:
        """Add a binding. Adding it again counts once more."""

    def remove(self, routing_key: str, arguments: Table, target: T) -> None:
        """Take back one :meth:`add`."""

    def match(self, routing_key: str, headers: Table) -> Iterable[T]:
        """Return the targets that a message reaches, each once."""


class _Targets(dict[T, int]):
    """Targets with the number of bindings that lead to each."""

    def include(self, target: T) -> None:
        self[target] = self.get(target, 0) + 1

    def discard(self, target: T) -> None:
        left = self.get(target, 0) - 1
        if left > 0:
            self[target] = left
        else:
            self.pop(target, None)


class FanoutRoutes(Generic[T]):
    """Every message matches."""

    def __init__(self) -> None:
        self._targets: _Targets[T] = _Targets()

    def add(self, routing_key: str, arguments: Table, target: T) -> None:
        self._targets.include(target)

    def remove(self, routing_key: str, arguments: Table, target: T) -> None:
        self._targets.discard(target)

    def match(self, routing_key: str, headers: Table) -> Iterable[T]:
        return self._targets


class DirectRoutes(Generic[T]):
    """The routing key of the message equals that of the binding."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Targets[T]] = {}

    def add(self, routing_key: str, arguments: Table, target: T) -> None:
        self._by_key.setdefault(routing_key, _Targets()).include(target)

    def remove(self, routing_key: str, arguments: Table, target: T) -> None:
        targets = self._by_key.get(routing_key)
        if targets is not None:
            targets.discard(target)
            if not targets:
                del self._by_key[routing_key]

    def match(self, routing_key: str, headers: Table) -> Iterable[T]:
        return self._by_key.get(routing_key, ())


class _Node(Generic[T]):
    """A place in the trie of patterns: the words read so far."""

    __slots__ = ("following", "repeats", "targets")

    def __init__(self, repeats: bool = False) -> None:
        self.following: dict[str, _Node[T]] = {}
        self.targets: _Targets[T] = _Targets()
        #: Reached by ``#``, so that any further word leads here again.
        self.repeats = repeats


def _words(routing_key: str) -> list[str]:
    # An empty key has no words at all, but "a." has two.
    return routing_key.split(".") if routing_key else []


class TopicRoutes(Generic[T]):
    """Words between dots; in patterns ``*`` is one word, ``#`` zero or more.

    Patterns form a trie, walked with the set of all places that the words
    read so far can lead to: the cost depends on the words of the key and the
    patterns that resemble it, not on the number of bindings.
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, routing_key: str, arguments: Table, target: T) -> None:
        node = self._root
        for word in _words(routing_key):
            following = node.following.get(word)
            if following is None:
                following = node.following[word] = _Node(repeats=word == "#")
            node = following
        node.targets.include(target)

    def remove(self, routing_key: str, arguments: Table, target: T) -> None:
        path: list[tuple[_Node[T], str]] = []
        node: _Node[T] | None = self._root
        for word in _words(routing_key):
            assert node is not None
            path.append((node, word))
            node = node.following.get(word)
            if node is None:
                return
        assert node is not None
        node.targets.discard(target)
        while path and not node.targets and not node.following:
            node, word = path.pop()
            del node.following[word]

    def match(self, routing_key: str, headers: Table) -> Iterable[T]:
        places = _with_empty_hash([self._root])
        for word in _words(routing_key):
            reached: dict[_Node[T], None] = {}
            for place in places:
                for step in (word, "*"):
                    following = place.following.get(step)
                    if following is not None:
                        reached[following] = None
                if place.repeats:
                    reached[place] = None
            places = _with_empty_hash(reached)
        found: dict[T, None] = {}
        for place in places:
            found.update(dict.fromkeys(place.targets))
        return found


def _with_empty_hash(places: Iterable[_Node[T]]) -> dict[_Node[T], None]:
    # "#" stands for no word as well: where it follows, we are there already.
    found: dict[_Node[T], None] = {}
    for place in places:
        following: _Node[T] | None = place
        while following is not None and following not in found:
            found[following] = None
            following = following.following.get("#")
    return found


class HeadersRoutes(Generic[T]):
    """The headers of the message hold the arguments of the binding.

    ``x-match`` says whether all must match (the default) or any; other
    arguments beginning with ``x-`` count only with ``all-with-x`` and
    ``any-with-x``. An argument of no value matches any value.
    """

    #: What ``x-match`` may be.
    MODES = ("all", "any", "all-with-x", "any-with-x")

    def __init__(self) -> None:
        self._bindings: dict[Hashable, tuple[Table, T]] = {}

    def add(self, routing_key: str, arguments: Table, target: T) -> None:
        # Bindings that differ only in the routing key match alike.
        identity = (routing_key, frozen_arguments(arguments), target)
        self._bindings[identity] = (arguments, target)

    def remove(self, routing_key: str, arguments: Table, target: T) -> None:
        self._bindings.pop((routing_key, frozen_arguments(arguments), target), None)

    def match(self, routing_key: str, headers: Table) -> Iterable[T]:
        return {
            target: None
            for arguments, target in self._bindings.values()
            if _headers_match(arguments, headers)
        }


def _headers_match(arguments: Table, headers: Table) -> bool:
    mode = str(arguments.get("x-match", "all"))
    with_x = mode.endswith("-with-x")
    answers = (
        name in headers
        and (wanted is None or frozen_arguments(headers[name]) == frozen_arguments(wanted))
        for name, wanted in arguments.items()
        if name != "x-match" and (with_x or not name.startswith("x-"))
    )
    return any(answers) if mode.startswith("any") else all(answers)


#: The route table of each exchange type.
EXCHANGE_TYPES: dict[str, type[Routes[Any]]] = {
    "direct": DirectRoutes,
    "fanout": FanoutRoutes,
    "headers": HeadersRoutes,
    "topic": TopicRoutes,
}
