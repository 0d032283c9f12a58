"""The option that sets the length of the comparison with RabbitMQ."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--differential",
        metavar="N",
        type=int,
        default=200,
        help="compare the in-memory broker with RabbitMQ over N random sequences"
        " of operations (default: 200)",
    )
