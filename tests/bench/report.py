"""Tables: for the terminal, and as reStructuredText for the docs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.plan import SIZES
from tests.bench.promises import best, verdicts
from tests.bench.results import Results, Row, Spread

__all__ = ["Table", "as_rst", "as_text", "promises_table", "table"]

_TASKS = {
    "publish": "Publish",
    "consume": "Consume + ack",
    "latency": "Latency at 100 a second",
}
_LINKS = {"near": "", "far": ", 10 ms away"}
_NATIVE = ("rabbitmq-c", "plain")
#: Bytes of a message above which megabytes a second say more.
_LARGE = 4096


@dataclass(frozen=True)
class Table:
    """A heading, and lines of cells, the first of which name the columns."""

    title: str
    lines: list[list[str]]


def table(results: Results, task: str, size: str, link: str) -> Table:
    """Return the table of one task."""
    rows = results.rows(task, size, link)
    title = _TASKS[task] + _LINKS[link]
    if task == "latency":
        return Table(f"{title}, ms", _latency_lines(rows))
    return Table(f"{title}, {SIZES[size].name}", _speed_lines(rows, SIZES[size].bytes))


def promises_table(results: Results) -> Table:
    """Return what was promised of the ratios, and what they are."""
    lines = [["", "carrot", "other", "ratio", "promised", ""]]
    for verdict in verdicts(results):
        promise = verdict.promise
        bound = f"{'>=' if promise.at_least else '<='} {promise.bound:.3g}"
        where = "" if promise.task == "latency" else f", {SIZES[promise.size].name}"
        where = f"{_TASKS[promise.task]}{where}, {_FIGURES[promise.figure]}: "
        cells = [f"{verdict.ours:,.3g}", f"{verdict.other:,.3g}"]
        if verdict.ours >= 1000:
            cells = [f"{verdict.ours:,.0f}", f"{verdict.other:,.0f}"]
        held = "yes" if verdict.holds else "NO"
        lines.append([where + promise.text, *cells, f"{verdict.ratio:.3g}", bound, held])
    return Table("Promises", lines)


_FIGURES = {"cpu": "CPU", "rate": "messages/s", "p50": "ms", "p99": "ms"}


def _speed_lines(rows: list[Row], size: int) -> list[list[str]]:
    peer = best([row for row in rows if row.contender.is_peer], "cpu")
    native = next((row for row in rows if row.contender.who == _NATIVE), None)
    lines = [["client", "us of CPU", "min-max", "/ best peer", "/ rabbitmq-c"]]
    lines[0] += ["messages/s", "min-max"] + ["MB/s"] * (size > _LARGE)
    for row in rows:
        cpu, rate = row.figures["cpu"], row.figures["rate"]
        line = [row.contender.name, *_cells(cpu, _three_digits)]
        line += [_ratio(cpu, peer, "cpu"), _ratio(cpu, native, "cpu")]
        line += _cells(rate, "{:,.0f}".format)
        if size > _LARGE:
            line.append(f"{rate.median * size / 1e6:,.0f}")
        lines.append(line)
    return lines


def _latency_lines(rows: list[Row]) -> list[list[str]]:
    lines = [["client", "p50", "min-max", "/ best alike", "p99", "min-max", "/ best alike"]]
    for row in rows:
        line = [row.contender.name]
        alike = [
            other
            for other in rows
            if other.contender.is_confirmed == row.contender.is_confirmed
        ]
        for figure in ("p50", "p99"):
            peer = best([other for other in alike if other.contender.is_peer], figure)
            spread = row.figures[figure]
            line += [*_cells(spread, _three_digits), _ratio(spread, peer, figure)]
        lines.append(line)
    return lines


def _cells(spread: Spread, form: Callable[[float], str]) -> list[str]:
    return [form(spread.median), f"{form(spread.low)}-{form(spread.high)}"]


def _ratio(spread: Spread, other: Row | None, figure: str) -> str:
    return f"{spread.median / other.figures[figure].median:.2f}" if other else ""


def _three_digits(number: float) -> str:
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def as_text(table: Table) -> str:
    """Return a table for a terminal."""
    widths = [max(len(line[column]) for line in table.lines) for column in _columns(table)]
    written = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table.lines
    ]
    written.insert(1, "-" * max(map(len, written)))
    return "\n".join([table.title, "", *written, ""])


def as_rst(table: Table) -> str:
    """Return a table as a ``list-table``."""
    lines = [f".. list-table:: {table.title}", "   :header-rows: 1", "   :widths: auto", ""]
    for line in table.lines:
        lines += _rst_row(line)
    return "\n".join([*lines, ""])


def _rst_row(line: list[str]) -> Iterator[str]:
    for column, cell in enumerate(line):
        yield f"   {' ' if column else '*'} - {cell}".rstrip()


def _columns(table: Table) -> range:
    return range(len(table.lines[0]))
