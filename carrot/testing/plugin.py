"""Fixtures for pytest, found by it wherever carrot is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from carrot.connection import BrokerConnection
    from carrot.testing.memory import MemoryBroker


@pytest.fixture
def carrot_broker() -> Iterator[MemoryBroker]:
    """An in-memory broker that only this test uses."""
    # Imported here: the plugin is loaded into every run of pytest.
    from carrot.testing.memory import MemoryBroker

    with MemoryBroker() as broker:
        yield broker


@pytest.fixture
def carrot_connection(carrot_broker: MemoryBroker) -> BrokerConnection:
    """A connection to :func:`carrot_broker`, closed at the end of the test."""
    return carrot_broker.connection()
