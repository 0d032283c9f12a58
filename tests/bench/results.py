"""What came out: medians and spreads of the samples. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.bench.plan import CONTENDERS, SIZES, Contender

__all__ = ["Results", "Row", "Spread"]


@dataclass(frozen=True)
class Spread:
    """The middle one of several figures, and the extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Iterable[float]) -> Spread:
        """Return the spread of some figures."""
        ordered = sorted(figures)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Row:
    """The figures of one client in one table."""

    contender: Contender
    #: Name -> spread: ``cpu`` (microseconds a message) and ``rate`` (messages
    #: a second), or ``p50`` and ``p99`` (milliseconds).
    figures: dict[str, Spread]


@dataclass
class Results:
    """All samples of a run.

    :param about: what was measured, where and when.
    :param samples: :class:`~tests.bench.runner.Sample` as dictionaries.
    """

    about: dict[str, str]
    samples: list[dict[str, Any]]
    failures: dict[str, str] = field(default_factory=dict)

    def tables(self) -> list[tuple[str, str, str]]:
        """Return the (task, size, link) of which there are figures, in order."""
        seen = {(s["task"], s["size"], s["link"]) for s in self.samples}
        tasks = ["publish", "consume", "latency"]
        return sorted(
            seen,
            key=lambda table: (
                table[2] != "near",
                tasks.index(table[0]),
                list(SIZES).index(table[1]),
            ),
        )

    def rows(self, task: str, size: str, link: str = "near") -> list[Row]:
        """Return a row for each client, in the order of the plan."""
        figures: dict[tuple[str, str], dict[str, list[float]]]
        figures = defaultdict(lambda: defaultdict(list))
        for sample in self.samples:
            if (sample["task"], sample["size"], sample["link"]) == (task, size, link):
                mine = figures[sample["client"], sample["mode"]]
                for name, figure in _figures(sample["numbers"]).items():
                    mine[name].append(figure)
        return [
            Row(contender, {name: Spread.of(each) for name, each in measured.items()})
            for contender in CONTENDERS
            if (measured := figures.get(contender.who))
        ]


def _figures(numbers: dict[str, Any]) -> dict[str, float]:
    if "seconds" in numbers:
        ordered = sorted(numbers["seconds"])
        return {"p50": _percentile(ordered, 50) * 1e3, "p99": _percentile(ordered, 99) * 1e3}
    return {
        "cpu": numbers["cpu"] / numbers["count"] * 1e6,
        "rate": numbers["count"] / numbers["wall"],
    }


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
