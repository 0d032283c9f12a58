"""The contract, over a backend that knows nothing but the seam."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.testing import BackendContract


class TestThirdParty(BackendContract):
    """What a backend written for carrot 0.10.7 can do goes on working."""

    lacks = frozenset(
        [
            *("arguments", "auto_delete", "errors", "exclusive", "flow", "headers"),
            *("message_headers", "message_properties", "prefetch", "priority", "queue_delete"),
            *("queue_exists", "redelivered", "refusals", "requeue_place", "server_named"),
            *("topic", "unacked_return", "warn_if_exists"),
        ]
    )

    @pytest.fixture
    def broker(self) -> str:
        return uuid.uuid4().hex

    def make_connection(self, **options: Any) -> BrokerConnection:
        options.setdefault("backend_cls", "tests.contract.thirdparty.Backend")
        return BrokerConnection(self.broker_in_use, "elaine", "secret-word", **options)

    def test_the_backend_may_write_the_port(self) -> None:
        """A backend may set the port of its connection, as old ones do."""
        assert self.connection.port is None
        self.connection.connect()
        assert self.connection.port == 7777
        assert self.connection.host.endswith(":7777")
