"""What carrot promises of itself beside others, and whether it holds. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.plan import CONTENDERS
from tests.bench.results import Results, Row

__all__ = ["PROMISES", "Promise", "Verdict", "best", "verdicts"]

Who = tuple[str, str]

_CONFIRMED: Who = ("carrot", "window")
_UNCONFIRMED: Who = ("carrot", "plain")
_KOMBU: tuple[Who, ...] = (("kombu", "plain"),)
_AMQPSTORM: tuple[Who, ...] = (("amqpstorm", "plain"),)
_RABBITMQ_C: tuple[Who, ...] = (("rabbitmq-c", "plain"),)
_LIMIT: tuple[Who, ...] = (("raw", "window"),)
_PEERS: tuple[Who, ...] = tuple(c.who for c in CONTENDERS if c.is_peer and c.mode == "plain")
_EACH: tuple[Who, ...] = tuple(c.who for c in CONTENDERS if c.is_peer and c.mode == "each")
_CONFIRMING: tuple[Who, ...] = (("kombu", "each"), ("pika", "each"), ("amqpstorm", "each"))


@dataclass(frozen=True)
class Promise:
    """A bound on the ratio of two medians of one run.

    :param figure: see :class:`~tests.bench.results.Row`.
    :param others: the best of them is compared with.
    :param at_least: the ratio may be no less, rather than no more.
    """

    text: str
    task: str
    size: str
    figure: str
    ours: Who
    others: tuple[Who, ...]
    bound: float
    at_least: bool = False


_CPU, _SMALL, _LARGE = "cpu", "85", "1m"
PROMISES = (
    Promise(
        "confirmed / kombu's unconfirmed", "publish", _SMALL, _CPU, _CONFIRMED, _KOMBU, 1 / 5
    ),
    Promise(
        "confirmed / amqpstorm's unconfirmed",
        "publish",
        _SMALL,
        _CPU,
        _CONFIRMED,
        _AMQPSTORM,
        1 / 3,
    ),
    Promise("unconfirmed / kombu's", "publish", _SMALL, _CPU, _UNCONFIRMED, _KOMBU, 1 / 8),
    Promise(
        "unconfirmed / rabbitmq-c's", "publish", _SMALL, _CPU, _UNCONFIRMED, _RABBITMQ_C, 2.5
    ),
    Promise("carrot's / kombu's", "consume", _SMALL, _CPU, _CONFIRMED, _KOMBU, 1 / 5),
    Promise("carrot's / the best peer's", "consume", _SMALL, _CPU, _CONFIRMED, _PEERS, 1 / 4),
    Promise("carrot's / rabbitmq-c's", "consume", _SMALL, _CPU, _CONFIRMED, _RABBITMQ_C, 2.5),
    Promise(
        "confirmed / the best of kombu, pika, amqpstorm confirmed",
        "publish",
        _SMALL,
        "rate",
        _CONFIRMED,
        _CONFIRMING,
        10.0,
        True,
    ),
    Promise(
        "confirmed / the broker's own limit",
        "publish",
        _SMALL,
        "rate",
        _CONFIRMED,
        _LIMIT,
        0.8,
        True,
    ),
    Promise(
        "unconfirmed / the best peer's",
        "publish",
        _LARGE,
        "rate",
        _UNCONFIRMED,
        _PEERS,
        1.0,
        True,
    ),
    Promise(
        "carrot's / the best peer's", "consume", _LARGE, "rate", _CONFIRMED, _PEERS, 1.0, True
    ),
    Promise(
        "confirmed / the best peer's, median", "latency", _SMALL, "p50", _CONFIRMED, _EACH, 1.0
    ),
    Promise(
        "confirmed / the best peer's, 99 %", "latency", _SMALL, "p99", _CONFIRMED, _EACH, 1.0
    ),
    Promise(
        "unconfirmed / the best peer's, median",
        "latency",
        _SMALL,
        "p50",
        _UNCONFIRMED,
        _PEERS,
        1.0,
    ),
    Promise(
        "unconfirmed / the best peer's, 99 %",
        "latency",
        _SMALL,
        "p99",
        _UNCONFIRMED,
        _PEERS,
        1.0,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """A promise, and the ratio that was measured."""

    promise: Promise
    ours: float
    other: float
    #: Whose figure ours was compared with.
    beside: str

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours / self.other

    @property
    def holds(self) -> bool:
        """Whether the ratio is within the bound."""
        if self.promise.at_least:
            return self.ratio >= self.promise.bound
        return self.ratio <= self.promise.bound


def best(rows: list[Row], figure: str, *, highest: bool = False) -> Row | None:
    """Return the row whose median of a figure is lowest, or highest."""
    sign = -1 if highest else 1
    return min(
        (row for row in rows if figure in row.figures),
        key=lambda row: sign * row.figures[figure].median,
        default=None,
    )


def verdicts(results: Results) -> Iterator[Verdict]:
    """Yield what the results say of each promise of which they say anything."""
    for promise in PROMISES:
        rows = {row.contender.who: row for row in results.rows(promise.task, promise.size)}
        ours = rows.get(promise.ours)
        others = [rows[who] for who in promise.others if who in rows]
        other = best(others, promise.figure, highest=promise.at_least)
        if ours is not None and other is not None:
            yield Verdict(
                promise,
                ours.figures[promise.figure].median,
                other.figures[promise.figure].median,
                other.contender.name,
            )
