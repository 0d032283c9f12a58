"""What exchanges match, by the rules said once in carrot.topology."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrot.topology import (
    EXCHANGE_TYPES,
    Binding,
    DirectRoutes,
    FanoutRoutes,
    HeadersRoutes,
    TopicRoutes,
    frozen_arguments,
)


def matched(routes: Any, key: str = "", headers: dict[str, Any] | None = None) -> list[str]:
    return list(routes.match(key, headers or {}))


# -- equality of tables


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        ("1", 1),
        (None, ""),
        ([1], [True]),
        ({"a": 1}, {"a": True}),
        (Decimal(1), 1),
        (b"a", "b"),
    ],
)
def test_values_of_different_types_differ(one: Any, other: Any) -> None:
    """Values that Python calls equal, but AMQP does not, are told apart."""
    assert frozen_arguments(one) != frozen_arguments(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"text", "text"),
        (bytearray(b"text"), "text"),
        ((1, 2), [1, 2]),
        ({"a": [1], "b": {}}, {"b": {}, "a": (1,)}),
        (datetime(2020, 1, 1), datetime(2020, 1, 1)),
    ],
)
def test_values_that_travel_alike_are_equal(one: Any, other: Any) -> None:
    """Values that look the same on the wire are the same."""
    assert frozen_arguments(one) == frozen_arguments(other)
    assert hash(frozen_arguments(one)) == hash(frozen_arguments(other))


def test_bindings_are_told_apart_by_all_they_say() -> None:
    """A binding is the same one only with the same ends, key and arguments."""
    binding = Binding("x", "q", "k", {"a": 1})
    assert binding.identity == Binding("x", "q", "k", {"a": 1}).identity
    others = [
        Binding("y", "q", "k", {"a": 1}),
        Binding("x", "p", "k", {"a": 1}),
        Binding("x", "q", "l", {"a": 1}),
        Binding("x", "q", "k", {"a": True}),
        Binding("x", "q", "k", {"a": 1}, to_exchange=True),
    ]
    assert binding.identity not in [other.identity for other in others]


# -- the simple types


def test_fanout_matches_everything() -> None:
    """A fanout exchange looks at neither key nor headers."""
    routes: FanoutRoutes[str] = FanoutRoutes()
    routes.add("k", {}, "q")
    routes.add("", {}, "p")
    assert matched(routes, "whatever") == ["q", "p"]


def test_direct_matches_the_equal_key() -> None:
    """A direct exchange matches the same key, and nothing like it."""
    routes: DirectRoutes[str] = DirectRoutes()
    routes.add("k", {}, "q")
    assert matched(routes, "k") == ["q"]
    assert matched(routes, "K") == matched(routes, "") == matched(routes, "k.") == []


@pytest.mark.parametrize("exchange_type", sorted(EXCHANGE_TYPES))
def test_a_target_is_matched_once_while_any_binding_is_left(exchange_type: str) -> None:
    """Several bindings lead to one target once; it goes with the last of them."""
    routes = EXCHANGE_TYPES[exchange_type]()
    routes.add("k", {}, "q")
    routes.add("k", {"x-other": 1}, "q")
    assert matched(routes, "k") == ["q"]
    routes.remove("k", {}, "q")
    assert matched(routes, "k") == ["q"]
    routes.remove("k", {"x-other": 1}, "q")
    assert matched(routes, "k") == []


@pytest.mark.parametrize("exchange_type", ["direct", "headers", "topic"])
def test_removing_what_is_not_there_changes_nothing(exchange_type: str) -> None:
    """Removing an unknown binding is harmless."""
    routes = EXCHANGE_TYPES[exchange_type]()
    routes.add("k.l", {}, "q")
    routes.remove("other", {}, "q")
    routes.remove("k", {}, "q")
    routes.remove("k.l.m", {}, "q")
    routes.remove("k.l", {}, "p")
    assert matched(routes, "k.l") == ["q"]


# -- topic


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.#", ["a", "a.b", "a.b.c", "a."], ["", "b", "b.a", "aa"]),
        ("#.x", ["x", "a.x", "a.b.x"], ["", "x.a", "xx"]),
        ("#", ["", "a", "a.b", "."], []),
        ("*", ["a", "#", "*"], ["", "a.b"]),
        ("", [""], ["a", "."]),
        ("a.*.b", ["a.x.b", "a..b"], ["a.b", "a.x.y.b"]),
        ("a..b", ["a..b"], ["a.b", "a.x.b"]),
        ("#.#", ["", "a", "a.b"], []),
        ("*.#.*", ["a.b", "a.x.y.b", "."], ["", "a"]),
        ("#.*", ["a", "a.b"], [""]),
    ],
)
def test_topic_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    """``*`` is one word, ``#`` zero or more; an empty key has no words."""
    routes: TopicRoutes[str] = TopicRoutes()
    routes.add(pattern, {}, "q")
    assert [key for key in matching if not matched(routes, key)] == []
    assert [key for key in others if matched(routes, key)] == []


def test_the_trie_forgets_patterns() -> None:
    """Removing all patterns leaves nothing behind, words they share included."""
    routes: TopicRoutes[str] = TopicRoutes()
    patterns = ["a.b.c", "a.b", "a.#", "#", "*.b.*"]
    for pattern in patterns:
        routes.add(pattern, {}, "q")
    for pattern in patterns:
        routes.remove(pattern, {}, "q")
    assert routes._root.following == {}


def words_match(pattern: list[str], words: list[str]) -> bool:
    """Match by the definition, word by word."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return words_match(pattern[1:], words) or (
            bool(words) and words_match(pattern, words[1:])
        )
    return bool(words) and pattern[0] in ("*", words[0]) and words_match(pattern[1:], words[1:])


keys = st.lists(st.sampled_from(["a", "b", "", "#", "*"]), max_size=5)


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "", "#", "*"]), max_size=5), max_size=8),
    st.lists(st.integers(0, 7), max_size=4),
    keys,
)
def test_the_trie_agrees_with_the_definition(
    patterns: list[list[str]], removed: list[int], key: list[str]
) -> None:
    """However many patterns came and went, exactly the matching ones are found."""
    routes: TopicRoutes[int] = TopicRoutes()
    texts = [".".join(pattern) for pattern in patterns]
    for number, text in enumerate(texts):
        routes.add(text, {}, number)
    left = dict(enumerate(texts))
    for number in removed:
        if number in left:
            routes.remove(left.pop(number), {}, number)
    routing_key = ".".join(key)
    words = routing_key.split(".") if routing_key else []
    assert set(routes.match(routing_key, {})) == {
        number
        for number, text in left.items()
        if words_match(text.split(".") if text else [], words)
    }


# -- headers


@pytest.mark.parametrize(
    ("arguments", "headers", "answer"),
    [
        ({}, {"any": 1}, True),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": 1}, True),
        ({"a": 1, "b": "x"}, {"a": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": None}, {"a": "whatever"}, True),
        ({"a": None}, {}, False),
        ({"a": [1, "x"]}, {"a": [1, "x"]}, True),
        ({"x-match": "all", "x-a": 1}, {}, True),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"b": 2}, True),
        ({"x-match": "any", "a": 1, "x-a": 2}, {"x-a": 2}, False),
        ({"x-match": "any-with-x", "a": 1, "x-a": 2}, {"x-a": 2}, True),
    ],
)
def test_headers(arguments: dict[str, Any], headers: dict[str, Any], answer: bool) -> None:
    """A headers exchange matches by the binding's arguments, as ``x-match`` says."""
    routes: HeadersRoutes[str] = HeadersRoutes()
    routes.add("", arguments, "q")
    assert bool(matched(routes, "", headers)) is answer
