"""Signal handlers that raise, wherever they do, leave nothing locked or forgotten."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from carrot.backends.pyamqplib import keeper
from carrot.backends.pyamqplib.outbox import Outbox
from carrot.backends.pyamqplib.turns import Turns
from tests.unit.test_wire import opened, settled


class Interruption(BaseException):
    """What a signal handler raises."""


def interrupted(at: int, action: Callable[[], object]) -> bool:
    """Do something, and raise in the so-manieth call of a Python function that it makes.

    At the beginning of those CPython runs the handlers of signals. Meanwhile no garbage
    is collected: a finalizer of somebody else's would be the call that is interrupted.

    :param at: from 1.
    :returns: whether there were so many.
    """
    calls = 0

    def trace(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"
        if calls == at:
            sys.settrace(None)
            raise Interruption

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        action()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False


def within_seconds(action: Callable[[], object]) -> bool:
    """Return whether another thread is done with something soon."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(5)
    return not thread.is_alive()


class Link:
    """Takes everything, and knows whether it joins writes."""

    full = (BlockingIOError,)
    joined = False

    def send(self, data: Any) -> int:
        return len(data)

    def join_writes(self, joined: bool) -> None:
        self.joined = joined


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[keeper._Keeper]:
    keeping = keeper._Keeper()
    monkeypatch.setattr(keeper, "_keeper", keeping)
    yield keeping


def outbox() -> tuple[Outbox, Link]:
    outbox, link = Outbox(broken=lambda _: None, rouse=lambda: None), Link()
    outbox.connect(link)  # type: ignore[arg-type]
    return outbox, link


def test_reading() -> None:
    """Whoever is interrupted while it reads, or begins or ends to, leaves it to others."""
    for at in count(1):
        turns, passes = Turns(), []

        def read(timeout: float | None, passes: list[Any] = passes) -> bool:
            passes.append(timeout)
            return True

        def take(turns: Turns = turns, read: Any = read) -> None:
            turns.take(turns.passes, 0.1, read)

        if not interrupted(at, take):
            break
        passes.clear()
        assert within_seconds(take)
        assert passes == [0.1]
    assert at > 3


def test_asking_the_keeper(keeping: keeper._Keeper) -> None:
    """An outbox that could not ask the keeper asks again; the keeper can be asked by all."""
    for at in count(1):
        keeping._bursts.clear()
        written, _ = outbox()
        if not interrupted(at, written.attend):
            break
        assert within_seconds(written.attend)
        assert written.attended and written in keeping._bursts
    assert at > 2


def test_the_end_of_a_burst(keeping: keeper._Keeper) -> None:
    """If ending a burst is interrupted, the kernel does not go on joining writes for ever."""
    for at in count(1):
        written, link = outbox()
        with written.lock:
            written._join()
        assert link.joined
        again = interrupted(at, written.flush)
        written.flush()
        assert not link.joined
        if not again:
            break
    assert at > 2


@pytest.mark.parametrize("method", ["basic_ack", "basic_reject", "basic_nack"])
def test_settling(method: str) -> None:
    """If settling is interrupted it was not begun, or the connection is given up."""
    for at in count(1):
        channel, link = opened()
        driver = channel.connection
        if not interrupted(at, lambda channel=channel: getattr(channel, method)(1, False)):
            break
        if driver.alive:
            getattr(channel, method)(1, False)
            channel.flush()
            assert len(settled(link.data, 1)) == 1
    assert at > 3


def test_calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a method that the broker answers is interrupted, others need not wait for its end."""
    for at in count(1):
        channel, _ = opened()
        monkeypatch.setattr(channel.connection.inbox, "pump_until", lambda *_: None)
        again = interrupted(at, lambda channel=channel: channel.basic_get("q"))
        assert not channel._turns.locked()
        if not again:
            break
    assert at > 3
