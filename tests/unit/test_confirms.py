"""The tracker of publisher confirms."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carrot.confirms import Tracker, Unconfirmed, publish_error
from carrot.exceptions import (
    ChannelError,
    ConfirmTimeout,
    ConnectionLost,
    NotFound,
    PublishError,
    PublishNacked,
    PublishNotFound,
    PublishPreconditionFailed,
    Unroutable,
    channel_error,
)


class Message:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.properties = {"content_type": "text/plain"}


def entry(body: bytes = b"x", mandatory: bool = False, key: str = "k") -> Unconfirmed:
    return Unconfirmed(Message(body), "x", key, mandatory, None, len(body))


def filled(count: int, **options: int) -> tuple[Tracker, list[Unconfirmed]]:
    tracker = Tracker(**options)
    entries = [entry(str(n).encode()) for n in range(count)]
    life = tracker.begin()
    assert [tracker.add(each, life) for each in entries] == list(range(1, count + 1))
    return tracker, entries


def failed(error: Exception, count: int = 1, exchange: str = "x") -> list[Unconfirmed]:
    entries = [Unconfirmed(Message(b"x"), exchange, f"k{n}") for n in range(count)]
    for each in entries:
        each.error = error
    return entries


# -- the window


def test_the_window_is_full_at_so_many_messages_and_opens_with_a_confirm() -> None:
    """As many messages as the window holds may be in flight, and no more."""
    tracker, _ = filled(2, window=3)
    assert not tracker.full
    tracker.add(entry())
    assert tracker.full
    tracker.ack(1)
    assert not tracker.full
    assert tracker.outstanding == len(tracker) == 2


def test_the_window_is_full_at_so_many_bytes() -> None:
    """The bytes in flight are bounded too: one message over the bound is the last."""
    tracker = Tracker(max_bytes=100)
    tracker.add(entry(b"x" * 99))
    assert not tracker.full
    tracker.add(entry(b"x" * 1000))
    assert tracker.full
    assert tracker.outstanding_bytes == 1099
    tracker.ack(2)
    assert not tracker.full


def test_failures_that_nobody_takes_are_bounded_by_the_window() -> None:
    """A sender that never flushes is told when as many messages failed as the window holds."""
    tracker, entries = filled(2, window=2)
    tracker.nack(2, multiple=True)
    with pytest.raises(PublishNacked) as caught:
        tracker.add(entry())
    assert caught.value.messages == entries
    assert tracker.outstanding == 0
    tracker.add(entry())
    assert tracker.outstanding == 1


# -- confirms


def test_confirms_may_come_out_of_order() -> None:
    """Each confirm settles the message of its number, whatever was confirmed before."""
    tracker, entries = filled(5)
    tracker.ack(3)
    tracker.ack(1)
    assert [each.settled for each in entries] == [True, False, True, False, False]
    tracker.ack(4, multiple=True)
    assert [each.settled for each in entries] == [True, True, True, True, False]
    tracker.ack(5)
    assert tracker.outstanding == 0
    assert tracker.confirmed == 5


def test_number_zero_with_multiple_means_all_so_far() -> None:
    """AMQP's delivery tag 0 with `multiple` confirms everything outstanding."""
    tracker, _ = filled(3)
    tracker.ack(0, multiple=True)
    assert tracker.confirmed == 3


@pytest.mark.parametrize("tag", [0, 4, 1000, -1])
def test_a_confirm_of_an_unknown_number_is_ignored(tag: int) -> None:
    """A number that is not in flight settles nothing."""
    tracker, _ = filled(3)
    tracker.ack(tag)
    assert tracker.outstanding == 3


def test_a_confirm_said_twice_counts_once() -> None:
    """A number that was confirmed before settles nothing again."""
    tracker, _ = filled(3)
    tracker.ack(2)
    tracker.ack(2)
    tracker.ack(2, multiple=True)
    assert (tracker.confirmed, tracker.outstanding) == (2, 1)


def test_a_nacked_message_fails() -> None:
    """What the broker refuses is a failure, reported once."""
    tracker, entries = filled(3)
    tracker.nack(2)
    assert tracker.failed == 1
    assert tracker.take_failures() == [entries[1]]
    assert isinstance(entries[1].error, PublishNacked)
    assert tracker.take_failures() == []
    assert tracker.nacked == 1


def test_failures_come_in_the_order_of_sending() -> None:
    """However they failed, failures are listed as they were sent."""
    tracker, entries = filled(4)
    tracker.nack(4)
    tracker.fail(entries[2], ConnectionLost("gone"))
    tracker.nack(1)
    assert tracker.take_failures() == [entries[0], entries[2], entries[3]]


# -- the life of a channel


def test_a_late_confirm_of_a_former_channel_settles_nothing() -> None:
    """A confirm belongs to the channel that it came by, though the numbers are the same."""
    tracker, entries = filled(3)
    former = tracker.life
    assert tracker.restart() == entries
    life = tracker.begin()
    for each in entries:
        tracker.add(entry_again(each), life)
    tracker.ack(3, multiple=True, life=former)
    tracker.nack(1, life=former)
    tracker.bounced("x", "k", b"0", life=former)
    assert tracker.outstanding == 3
    assert not tracker.failed
    tracker.ack(3, multiple=True, life=life)
    assert tracker.confirmed == 3


def entry_again(former: Unconfirmed) -> Unconfirmed:
    """What a backend enters when the same message is published again."""
    return Unconfirmed(former.message, former.exchange, former.routing_key, size=former.size)


def test_nothing_is_added_to_a_former_channel() -> None:
    """A publisher that was overtaken by a recovery is told, and nothing is entered."""
    tracker, _ = filled(1)
    former = tracker.life
    tracker.restart()
    with pytest.raises(ChannelError):
        tracker.add(entry(), former)
    assert tracker.outstanding == 1


def test_a_channel_does_not_begin_over_messages_in_flight() -> None:
    """Numbers of a new channel cannot be mistaken for those of the last: it is refused."""
    tracker, _ = filled(2)
    with pytest.raises(ChannelError, match="2 messages"):
        tracker.begin()
    tracker.ack(2, multiple=True)
    tracker.begin()
    assert tracker.add(entry()) == 1


def test_what_is_owed_is_outstanding_but_not_in_the_window() -> None:
    """Messages to be sent again do not keep themselves from being sent."""
    tracker, entries = filled(2, window=2)
    assert tracker.full
    tracker.restart()
    assert not tracker.full
    assert tracker.outstanding == 2
    assert tracker.oldest == 1
    tracker.add(entry_again(entries[0]))
    assert tracker.unconfirmed() == entries
    assert tracker.published == 2


def test_a_second_loss_while_sending_again_keeps_the_order() -> None:
    """However often the connection is lost, what is owed stays in the order of sending."""
    tracker, entries = filled(4)
    tracker.restart()
    tracker.add(entry_again(entries[0]), tracker.begin())
    tracker.add(entry_again(entries[1]))
    tracker.ack(1)
    assert tracker.restart() == entries[1:]
    assert tracker.published == 4


def test_a_returned_message_that_is_sent_again_may_be_routed_then() -> None:
    """What a lost channel returned but did not confirm starts afresh."""
    tracker = Tracker()
    one = entry(mandatory=True)
    tracker.add(one)
    tracker.bounced("x", "k", b"x")
    tracker.restart()
    tracker.add(entry_again(one))
    tracker.ack(1)
    assert (tracker.confirmed, tracker.returned, tracker.failed) == (1, 0, 0)


def test_reset_forgets_what_is_the_parents() -> None:
    """After a fork the child neither waits for nor reports its parent's messages."""
    tracker, entries = filled(3)
    tracker.nack(1)
    tracker.restart()
    tracker.reset()
    assert (tracker.outstanding, tracker.failed, tracker.oldest) == (0, 0, None)
    assert not any(each.settled for each in entries[1:])


# -- returns


def test_a_return_marks_the_oldest_that_looks_the_same() -> None:
    """A return has no number: it is of the oldest mandatory message alike, and each once."""
    tracker = Tracker()
    entries = [
        entry(b"a"),
        entry(b"a", mandatory=True),
        entry(b"b", mandatory=True),
        entry(b"a", mandatory=True),
        entry(b"a", mandatory=True, key="other"),
    ]
    for each in entries:
        tracker.add(each)
    tracker.bounced("x", "k", b"a")
    tracker.bounced("x", "k", b"a")
    tracker.bounced("x", "k", b"a")
    tracker.ack(5, multiple=True)
    assert tracker.take_failures() == [entries[1], entries[3]]
    assert all(isinstance(each.error, Unroutable) for each in (entries[1], entries[3]))
    assert (tracker.returned, tracker.confirmed) == (2, 3)


def test_a_text_body_is_matched_by_its_bytes() -> None:
    """Drivers return bytes where the application's backend may have been given text."""
    tracker = Tracker()
    one = Unconfirmed("ünï", "", "q", True, None, 5)
    tracker.add(one)
    tracker.bounced("", "q", "ünï".encode())
    tracker.ack(1)
    assert tracker.take_failures() == [one]


# -- giving up


def test_fail_all_leaves_what_was_sent_later() -> None:
    """Giving up at a deadline does not concern messages that others sent meanwhile."""
    tracker, entries = filled(3)
    tracker.fail_all(ConfirmTimeout("late"), upto=2)
    assert tracker.take_failures() == entries[:2]
    assert tracker.unconfirmed() == entries[2:]
    tracker.ack(3, multiple=True)
    assert tracker.confirmed == 1


def test_a_withdrawn_message_is_neither_sent_again_nor_reported() -> None:
    """A message whose sender was told otherwise is forgotten; the others are not."""
    tracker, entries = filled(3)
    tracker.withdraw(entries[1].message)
    assert tracker.restart() == [entries[0], entries[2]]
    tracker.withdraw(entries[0].message)
    assert tracker.unconfirmed() == [entries[2]]
    assert not tracker.failed


def test_holds_tells_attempts_with_the_same_message_apart() -> None:
    """Of a message sent twice, the second attempt is not mistaken for the first."""
    tracker = Tracker()
    one = entry()
    tracker.add(one)
    assert tracker.holds(one.message)
    assert not tracker.holds(one.message, since=tracker.published)
    tracker.add(Unconfirmed(one.message, "x", "k"))
    assert tracker.holds(one.message, since=1)


class Confirming(RuleBasedStateMachine):
    """A channel that confirms in any way, against a plain list of what is outstanding."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = Tracker(window=5, max_bytes=40)
        self.life = self.tracker.begin()
        self.outstanding: list[Unconfirmed] = []
        self.owed: list[Unconfirmed] = []
        self.numbers: dict[int, Unconfirmed] = {}
        self.added = 0
        self.failures: list[Unconfirmed] = []

    @rule(size=st.integers(0, 20))
    def add(self, size: int) -> None:
        if self.owed or len(self.failures) >= 5:
            return
        one = entry(b"x" * size)
        self.numbers[self.tracker.add(one, self.life)] = one
        self.outstanding.append(one)
        self.added += 1

    @rule()
    def add_owed(self) -> None:
        if self.owed and len(self.failures) < 5:
            one = self.owed.pop(0)
            self.numbers[self.tracker.add(entry_again(one), self.life)] = one

    @rule(tag=st.integers(0, 12), multiple=st.booleans(), life=st.integers(-2, 0))
    def answer(self, tag: int, multiple: bool, life: int) -> None:
        self.tracker.ack(tag, multiple, self.life + life)
        if life == 0:
            self.settle(tag, multiple)

    @rule(tag=st.integers(0, 12), multiple=st.booleans())
    def refuse(self, tag: int, multiple: bool) -> None:
        self.tracker.nack(tag, multiple, self.life)
        self.failures += self.settle(tag, multiple)

    def settle(self, tag: int, multiple: bool) -> list[Unconfirmed]:
        settled = [
            self.numbers.pop(number)
            for number in sorted(self.numbers)
            if number == tag or (multiple and (number < tag or tag == 0))
        ]
        self.outstanding = [each for each in self.outstanding if each not in settled]
        return settled

    @rule()
    def lose_the_channel(self) -> None:
        self.owed = list(self.outstanding)
        assert self.tracker.restart() == self.owed
        self.life = self.tracker.begin()
        self.numbers.clear()

    @rule(index=st.integers(0, 5))
    def fail(self, index: int) -> None:
        if index < len(self.outstanding):
            one = self.outstanding.pop(index)
            self.tracker.fail(one, ConnectionLost("given up"))
            self.failures.append(one)
            self.owed = [each for each in self.owed if each is not one]
            self.numbers = {n: each for n, each in self.numbers.items() if each is not one}

    @rule()
    def take(self) -> None:
        assert set(self.tracker.take_failures()) == set(self.failures)
        self.failures.clear()

    @invariant()
    def agree(self) -> None:
        tracker, flying = self.tracker, list(self.numbers.values())
        assert tracker.unconfirmed() == self.outstanding
        assert tracker.outstanding == len(self.outstanding)
        assert tracker.outstanding_bytes == sum(each.size for each in self.outstanding)
        assert tracker.full == (len(flying) >= 5 or sum(each.size for each in flying) >= 40)
        assert tracker.failed == len(self.failures)
        assert tracker.published == self.added
        assert tracker.oldest == (self.outstanding[0].number if self.outstanding else None)


TestConfirming = Confirming.TestCase


@given(st.permutations(range(1, 9)), st.data())
def test_any_order_of_confirms_settles_all(order: list[int], data: st.DataObject) -> None:
    """In whatever order confirms come, all are settled at the end and none twice."""
    tracker, _ = filled(8)
    for tag in order:
        tracker.ack(tag, data.draw(st.booleans()))
    assert tracker.outstanding == 0
    assert tracker.confirmed == 8
    assert not tracker.full


def test_threads_may_add_and_confirm_at_once() -> None:
    """Counts are right when one thread adds while another confirms."""
    tracker = Tracker()
    life = tracker.begin()
    count = 5_000

    def confirm() -> None:
        tag = 0
        while tag < count:
            if tag < tracker.published:
                tag += 1
                tracker.ack(tag, life=life)

    confirming = threading.Thread(target=confirm)
    confirming.start()
    for _ in range(count):
        tracker.add(entry(), life)
    confirming.join(30)
    assert not confirming.is_alive()
    assert (tracker.outstanding, tracker.outstanding_bytes) == (0, 0)
    assert tracker.confirmed == count


# -- telling the application


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unroutable("312 NO_ROUTE"), Unroutable),
        (PublishNacked("basic.nack"), PublishNacked),
        (channel_error(404, "NOT_FOUND - no exchange 'x'"), PublishNotFound),
        (channel_error(406, "PRECONDITION_FAILED - message size"), PublishPreconditionFailed),
        (ConfirmTimeout("no answer"), ConfirmTimeout),
        (ConnectionLost("gone"), PublishError),
    ],
)
def test_failures_for_one_reason_raise_its_class(
    error: Exception, expected: type[PublishError]
) -> None:
    """The error is of the class that says why, names how many and where, and has them."""
    failures = failed(error, 3)
    raised = publish_error(failures)
    assert type(raised) is expected
    assert raised.messages == failures
    assert "3 messages" in str(raised)
    assert "'x'" in str(raised)
    assert "'k0'" in str(raised)
    assert "2 other destinations" in str(raised)


def test_a_missing_exchange_is_also_not_found() -> None:
    """Old code that catches the channel's error catches the publisher's too."""
    raised = publish_error(failed(channel_error(404, "NOT_FOUND - no exchange 'x'")))
    assert isinstance(raised, NotFound)
    assert (raised.reply_code, raised.reply_text) == (404, "NOT_FOUND - no exchange 'x'")
    assert "declare the exchange" in str(raised)


def test_failures_for_several_reasons_raise_the_common_class() -> None:
    """Where reasons differ, the error names them all."""
    failures = failed(Unroutable("312 NO_ROUTE")) + failed(PublishNacked("basic.nack"))
    raised = publish_error(failures)
    assert type(raised) is PublishError
    assert "Unroutable: 312 NO_ROUTE" in str(raised)
    assert "PublishNacked: basic.nack" in str(raised)


def test_what_is_shown_has_no_bodies() -> None:
    """Neither records nor trackers nor errors show what was in a message."""
    one = Unconfirmed(Message(b"secret"), "x", "k", size=6)
    one.error = PublishNacked("basic.nack")
    tracker = Tracker()
    tracker.add(one)
    shown = f"{one!r} {tracker!r} {publish_error([one])}"
    assert "secret" not in shown
    assert "6 bytes" in repr(one)
    assert "1/1000 in flight" in repr(tracker)


def test_a_record_tells_body_and_properties() -> None:
    """What failed can be inspected and sent again."""
    one = entry(b"body")
    assert one.body == b"body"
    assert one.properties == {"content_type": "text/plain"}
    bare = Unconfirmed("text", None, None)
    assert (bare.body, bare.properties, bare.exchange, bare.routing_key) == ("text", {}, "", "")
