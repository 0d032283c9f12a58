"""The tracker that is given the arguments of records, rather than records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carrot.confirms import Tracker, Unconfirmed
from carrot.exceptions import ConnectionLost
from tests.unit.test_confirms import Message


def arguments(message: Message, mandatory: bool = False) -> tuple[Any, ...]:
    return Unconfirmed, (message, "x", "k", mandatory, None), len(message.body)


def shown(entries: list[Unconfirmed]) -> list[tuple[Any, ...]]:
    return [(e.message, e.number, e.mandatory, e.size, repr(e.error)) for e in entries]


class Sparing(RuleBasedStateMachine):
    """A tracker that is given the arguments of records, against one that is given records."""

    def __init__(self) -> None:
        super().__init__()
        self.trackers = Tracker(window=6, max_bytes=60), Tracker(window=6, max_bytes=60)
        self.life = self.both(lambda t: t.begin())
        self.messages: list[Message] = []

    def both(self, do: Callable[[Tracker], Any]) -> Any:
        """Do the same with both; return the answer, which is the same."""
        answers = [do(tracker) for tracker in self.trackers]
        assert answers[0] == answers[1]
        return answers[0]

    @rule(
        size=st.integers(0, 20),
        mandatory=st.booleans(),
        record=st.sampled_from([False, False, True]),
        shortly=st.booleans(),
    )
    def add(self, size: int, mandatory: bool, record: bool, shortly: bool) -> None:
        if self.trackers[0].failed >= 6:
            return
        owed = self.trackers[0].outstanding - self.trackers[0]._in_flight
        if owed:
            message = self.trackers[0]._owed[0].message
        else:
            message = Message(b"x" * size)
            self.messages.append(message)
        given = arguments(message, mandatory)
        one, other = self.trackers
        number = one.add(Unconfirmed.record(*given[1:]), self.life)
        if record:
            assert other.add(Unconfirmed.record(*given[1:]), self.life) == number
        elif not (shortly and other.enter(given, self.life)):
            assert other.add(given, self.life) == number

    @rule(
        at=st.none() | st.integers(-1, 7),
        multiple=st.booleans(),
        ack=st.sampled_from([True, True, False]),
    )
    def answer(self, at: int | None, multiple: bool, ack: bool) -> None:
        tag = 0 if at is None else max(0, self.trackers[0]._first + at)
        self.both(lambda t: (t.ack if ack else t.nack)(tag, multiple, self.life))

    @rule(size=st.integers(0, 20))
    def bounce(self, size: int) -> None:
        self.both(lambda t: t.bounced("x", "k", b"x" * size, life=self.life))

    @rule()
    def lose_the_channel(self) -> None:
        self.both(lambda t: shown(t.restart()))
        self.life = self.both(lambda t: t.begin())

    @rule(upto=st.integers(0, 20))
    def give_up(self, upto: int) -> None:
        error = ConnectionLost("given up")
        self.both(lambda t: t.fail_all(error, upto))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.messages:
            message = data.draw(st.sampled_from(self.messages))
            since = data.draw(st.integers(0, 3))
            self.both(lambda t: t.holds(message, since))
            self.both(lambda t: t.withdraw(message, since))

    @rule()
    def take(self) -> None:
        self.both(lambda t: shown(t.take_failures()))

    @rule()
    def look(self) -> None:
        self.both(lambda t: shown(t.unconfirmed()))

    @invariant()
    def agree(self) -> None:
        self.both(lambda t: (repr(t), t.full, t.published, t.nacked, t.returned))
        self.both(lambda t: (len(t), t.outstanding_bytes, t.oldest))


TestSparing = Sparing.TestCase


def test_what_is_confirmed_in_order_needs_no_record() -> None:
    """A message's record is made when something happens to it, or somebody looks."""
    tracker = Tracker()
    life = tracker.begin()
    messages = [Message(b"%d" % number) for number in range(5)]
    for message in messages:
        tracker.add(arguments(message), life)
    tracker.ack(1, False, life)
    tracker.ack(3, True, life)
    assert tracker.oldest == 4
    assert {type(each) for each in tracker._entries} == {tuple}
    assert [(e.message, e.number) for e in tracker.unconfirmed()] == [
        (messages[3], 4),
        (messages[4], 5),
    ]
    tracker.ack(0, True, life)
    assert (tracker.confirmed, tracker.outstanding) == (5, 0)
