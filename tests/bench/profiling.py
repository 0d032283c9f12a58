"""Where carrot's own time goes: calls per message, and the dearest functions."""

from __future__ import annotations

import cProfile
import io
import pstats
from pathlib import Path
from typing import Any

from tests.bench.client import Carrot
from tests.bench.plan import SIZES
from tests.bench.target import Control, Target

__all__ = ["profile"]

#: Lines of the list of functions.
_LINES = 30
_BUILT_IN = "~"


def profile(target: Target, task: str, count: int, size_name: str) -> str:
    """Publish or consume under ``cProfile``; return the report.

    The profiler itself costs more than what it measures: its counts are
    exact, its times only say what is dear beside what.

    :param task: ``publish`` (confirmed) or ``consume``.
    """
    size = SIZES[size_name]
    control = Control(target)
    profiler = cProfile.Profile()
    try:
        client = Carrot(target, "window", size)
        try:
            if task == "publish":
                client.publish(size.data(), 200)  # what is cached is cached
                client.settle()
                with profiler:
                    client.publish(size.data(), count)
                    client.settle()
            else:
                control.fill(size, count)
                with profiler:
                    client.consume(count)
        finally:
            client.close()
    finally:
        control.close()
    return _report(profiler, f"{task}, {count} messages of {size.name}", count)


def _report(profiler: cProfile.Profile, title: str, count: int) -> str:
    out = io.StringIO()
    stats = pstats.Stats(profiler, stream=out)
    calls: dict[str, int] = {}
    for (path, _, _), (_, ncalls, *_) in _entries(stats):
        calls[_room(path)] = calls.get(_room(path), 0) + ncalls
    lines = [title, "", "calls per message, by room:"]
    lines += [
        f"{calls[room] / count:10.2f}  {room}"
        for room in sorted(calls, key=lambda room: -calls[room])
        if calls[room] >= count / 100
    ]
    stats.sort_stats("tottime").print_stats(_LINES)
    lines += ["", *_shortened(out.getvalue())]
    return "\n".join(lines)


def _entries(stats: pstats.Stats) -> Any:
    return stats.stats.items()  # type: ignore[attr-defined]


def _room(path: str) -> str:
    """Return the library's room, or the package, that a file belongs to."""
    parts = Path(path).parts
    for package in ("carrot", "amqp"):
        if package in parts and "tests" not in parts:
            start = len(parts) - 1 - parts[::-1].index(package)
            return "/".join(parts[start:])
    return "built in" if path == _BUILT_IN else "elsewhere"


def _shortened(text: str) -> list[str]:
    root = str(Path(__file__).parents[2]) + "/"
    lines = text.replace(root, "").splitlines()
    start = next(n for n, line in enumerate(lines) if "ncalls" in line)
    return [line.rstrip() for line in lines[start:] if line.strip()]
