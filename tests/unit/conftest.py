"""What all tests without servers share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.faulty import World


@pytest.fixture(autouse=True)
def nothing_recovers_on() -> Iterator[None]:
    """Close what a test left recovering: it would log and compute into the next tests."""
    yield
    World.close_all()
    for thread in threading.enumerate():
        if thread.name == "carrot-recovery":
            thread.join(10)
            assert not thread.is_alive(), "a test left a recovery that does not end"
