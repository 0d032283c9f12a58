"""The benchmark of the in-memory broker, in small."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_the_benchmark_runs() -> None:
    """It prints the ratio to kombu, the curve over depth, weight and bindings."""
    pytest.importorskip("kombu")
    # In a process of its own: collections of garbage, which it asks for before
    # each measurement, are slow beside all that the tests have imported.
    small = ["--messages=20", "--rounds=2", "--deepest=1000", "--bindings=100"]
    printed = subprocess.run(
        [sys.executable, "-m", "tests.bench.memory", *small],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    for words in ("ratio   publish", "requeue in disorder", "bytes of memory", "\n        100"):
        assert words in printed
