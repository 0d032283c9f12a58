"""The contract, and the behaviours of a broker, over the in-memory broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends import queue
from carrot.connection import BrokerConnection
from carrot.testing import BackendContract, BrokerBehaviours
from carrot.testing.contract import Scene


class InMemory(Scene):
    """An in-memory broker of the test's own."""

    @pytest.fixture
    def broker(self) -> Iterator[str]:
        host = uuid.uuid4().hex
        yield host
        queue.reset(host)

    def make_connection(self, **options: Any) -> BrokerConnection:
        options.setdefault("backend_cls", "memory")
        return BrokerConnection(self.broker_in_use, **options)

    def make_virtual_host(self) -> str:
        return "/elsewhere"


class TestMemory(InMemory, BackendContract):
    """The in-memory backend keeps the contract."""


class TestMemoryBehaviours(InMemory, BrokerBehaviours):
    """The in-memory broker behaves like RabbitMQ."""
