"""The benchmark of the in-memory broker, in small."""

from __future__ import annotations

import pytest

from tests.bench.memory import main


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the ratio to kombu, the curve over depth, weight and bindings."""
    pytest.importorskip("kombu")
    assert main(["--messages", "20", "--rounds", "2", "--deepest", "1000"]) == 0
    printed = capsys.readouterr().out
    for words in ("ratio   publish", "requeue in disorder", "bytes of memory", "10,000"):
        assert words in printed
