"""What all tests without servers share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.faulty import World
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def nothing_recovers_on() -> Iterator[None]:
    """Close what a test left recovering: it would log and compute into the next tests."""
    yield
    World.close_all()
    wait_until(nothing_recovers, what="the end of the recoveries that a test left")


def nothing_recovers() -> bool:
    return all(thread.name != "carrot-recovery" for thread in threading.enumerate())
