"""The keeper goes on, whatever becomes of those whom it keeps alive."""

from __future__ import annotations

import gc
import signal
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends.pyamqplib.keeper import _Keeper
from tests.waiting import wait_until


class Kept:
    """A connection, or an outbox, that counts what is asked of it."""

    heartbeat = 0.0

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error

    def tick(self, now: float) -> None:
        self.calls += 1

    def push(self) -> bool:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return True


@pytest.fixture
def keeper() -> Iterator[_Keeper]:
    keeper, connection = _Keeper(), Kept()
    keeper.watch(connection)
    yield keeper
    keeper.unwatch(connection)
    keeper.watch(Kept())  # look at once
    wait_until(lambda: not keeper._running)


def test_an_error_of_one_is_not_the_end_of_the_others(
    keeper: _Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """An outbox that fails is logged, once, and left alone; others are pushed as before."""
    broken, sound = Kept(ZeroDivisionError()), Kept()
    keeper.attend(broken)
    keeper.attend(sound)
    wait_until(lambda: sound.calls > 3)
    assert broken.calls == 1
    assert len(caplog.records) == 1


def test_connections_come_and_go_while_it_looks() -> None:
    """Connections may be closed at any time, by any thread, without an error here."""
    keeper = _Keeper()
    keeper._running = True  # it is us
    others = [Kept() for _ in range(10)]

    class Closing(Kept):
        @property
        def heartbeat(self) -> float:  # type: ignore[override]
            for other in others:
                keeper.unwatch(other)
            return 8.0

    closing = [Closing() for _ in range(10)]
    for connection in (*others, *closing):
        keeper.watch(connection)
    assert keeper._interval() == 1.0
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            connection = Kept()
            keeper.watch(connection)
            keeper.unwatch(connection)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(500):
            keeper._tick()
    finally:
        stop.set()
        changing.join()
    assert closing[0].calls == 500


def test_what_is_dead_is_not_held() -> None:
    """With its last connection the keeper forgets their outboxes."""
    keeper, connection, outbox = _Keeper(), Kept(), Kept()
    keeper.watch(connection)
    keeper.attend(outbox)
    wait_until(lambda: keeper._bursts[0].calls)
    keeper.unwatch(connection)
    with keeper._lock:
        keeper._due = 0.0
    wait_until(lambda: not keeper._running)
    reference: Any = weakref.ref(outbox)
    del outbox
    gc.collect()
    assert reference() is None


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has no thread left for it, it begins with the next connection."""
    keeper, connection = _Keeper(), Kept()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            keeper.watch(connection)
    keeper.watch(connection)
    wait_until(lambda: connection.calls)
    keeper.unwatch(connection)
    keeper.watch(Kept())
    wait_until(lambda: not keeper._running)


def test_signals_where_a_loss_is_heard(keeper: _Keeper) -> None:
    """Threads begun because the keeper met a loss take signals, though it takes none."""
    taken: list[set[int]] = []

    def look(*_: Any) -> None:
        taken.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    class Lost(Kept):
        def push(self) -> bool:
            look()
            keeper.tell(lambda error: threading.Thread(target=look).start(), OSError())
            wait_until(lambda: len(taken) == 2)
            look()
            return False

    keeper.attend(Lost())
    wait_until(lambda: len(taken) == 3)
    before, within, after = taken
    assert signal.SIGTERM in before and before == after
    assert signal.SIGTERM not in within
