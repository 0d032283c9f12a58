"""The order in which messages wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from carrot.broker.ready import Copies, Message, PrioritizedReady, Ready


def message(position: int, priority: int | None = None) -> Message:
    properties: dict[str, Any] = {} if priority is None else {"priority": priority}
    made = Message(b"%d" % position, properties, "", "q")
    made.position = position
    return made


def filled(*positions: int) -> Ready:
    ready = Ready()
    for position in positions:
        ready.append(message(position))
    return ready


def drained(ready: Ready | PrioritizedReady) -> list[int]:
    return [ready.take().position for _ in range(len(ready))]


def test_first_in_first_out() -> None:
    """Messages come out in the order in which they went in."""
    assert drained(filled(1, 2, 3)) == [1, 2, 3]


@pytest.mark.parametrize("order", ["12345", "54321", "31524", "24135", "15243"])
def test_what_comes_back_finds_its_place(order: str) -> None:
    """In whatever order messages come back, they come out in their own."""
    ready = filled(1, 2, 3, 4, 5, 6)
    taken = {str(number): ready.take() for number in range(1, 6)}
    for number in order:
        ready.restore(taken[number])
    head = ready.head()
    assert head is not None and head.position == 1
    assert drained(ready) == [1, 2, 3, 4, 5, 6]


def test_strays_alone() -> None:
    """A message inside what came back is found after its neighbours were taken."""
    ready = filled(1, 2, 3)
    one, two, three = ready.take(), ready.take(), ready.take()
    ready.restore(one)
    ready.restore(three)
    ready.restore(two)
    assert [ready.take() for _ in range(3)] == [one, two, three]
    ready.restore(one)
    ready.restore(three)
    ready.restore(two)
    ready.take()
    assert ready.head() is two


def test_an_empty_queue_has_no_head() -> None:
    """There is nothing to see or take where nothing waits."""
    for ready in (Ready(), PrioritizedReady(2)):
        assert ready.head() is None
        assert not ready
        with pytest.raises(IndexError):
            ready.take()


def test_looking_takes_nothing() -> None:
    """What waits can be looked at in its order, and waits on."""
    ready = filled(1, 2, 3, 4)
    one, two, three = ready.take(), ready.take(), ready.take()
    for back in (one, three, two):
        ready.restore(back)
    prioritized = PrioritizedReady(1)
    for position, priority in ((1, 0), (2, 1), (3, 0)):
        prioritized.append(message(position, priority))
    assert [each.position for each in ready] == [1, 2, 3, 4]
    assert [each.position for each in prioritized] == [2, 1, 3]
    assert (len(ready), len(prioritized)) == (4, 3)


def test_clear() -> None:
    """Clearing counts everything that waited, and leaves nothing."""
    ready = filled(1, 2, 3)
    first = ready.take()
    ready.restore(first)
    assert ready.clear() == 3
    assert (len(ready), ready.head()) == (0, None)
    prioritized = PrioritizedReady(1)
    prioritized.append(message(1))
    assert prioritized.clear() == 1
    assert (len(prioritized), prioritized.head()) == (0, None)


def test_priorities() -> None:
    """The highest goes first, equals in order; more than the highest counts as that."""
    ready = PrioritizedReady(5)
    for position, priority in enumerate([None, 1, 9, 5, 0], start=1):
        ready.append(message(position, priority))
    head = ready.head()
    assert head is not None and head.position == 3
    assert drained(ready) == [3, 4, 2, 1, 5]


def test_priorities_come_back_to_their_places() -> None:
    """A message that comes back stands before its equals that came later."""
    ready = PrioritizedReady(5)
    for position, priority in enumerate([1, 2, 2], start=1):
        ready.append(message(position, priority))
    taken = ready.take()
    ready.restore(taken)
    assert drained(ready) == [2, 3, 1]


def test_copies_and_routing_keys() -> None:
    """A copy for another queue shares what it carries, but not its state."""
    original = Message(b"", {}, "x", "k", Copies(("cc",), ("bcc",)))
    original.redelivered = True
    copy = original.copy()
    assert copy.routing_keys == ("k", "cc", "bcc")
    assert copy.properties is original.properties
    assert not copy.redelivered
    assert message(1).routing_keys == ("q",)


class ReadyOrder(RuleBasedStateMachine):
    """Any mix of appending, taking and restoring against a sorted list."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = Ready()
        self.expected: list[int] = []
        self.out: list[Message] = []
        self.last = 0

    @rule()
    def append(self) -> None:
        self.last += 1
        self.ready.append(message(self.last))
        self.expected.append(self.last)

    @precondition(lambda self: self.expected)
    @rule()
    def take(self) -> None:
        taken = self.ready.take()
        assert taken.position == self.expected.pop(0)
        self.out.append(taken)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 1000))
    def restore(self, which: int) -> None:
        back = self.out.pop(which % len(self.out))
        self.ready.restore(back)
        self.expected = sorted([*self.expected, back.position])

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 1000))
    def settle(self, which: int) -> None:
        self.out.pop(which % len(self.out))

    @invariant()
    def same(self) -> None:
        head = self.ready.head()
        assert len(self.ready) == len(self.expected)
        assert (head.position if head else None) == next(iter(self.expected), None)


TestReadyOrder = ReadyOrder.TestCase
TestReadyOrder.__doc__ = "Messages wait in the order of publishing, whatever came and went."


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40))
def test_priorities_agree_with_sorting(steps: list[tuple[int, bool]]) -> None:
    """What is taken is always the oldest of the highest priority."""
    ready = PrioritizedReady(3)
    waiting: list[tuple[int, int]] = []
    for position, (priority, take) in enumerate(steps, start=1):
        ready.append(message(position, priority))
        waiting.append((-min(priority, 3), position))
        if take:
            waiting.sort()
            assert ready.take().position == waiting.pop(0)[1]
    assert drained(ready) == [position for _, position in sorted(waiting)]
