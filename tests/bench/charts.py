"""Bar charts as SVG, for the docs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from tests.bench.results import Results, Row, Spread

__all__ = ["Bar", "chart", "charts"]

_WIDTH, _NAMES, _FIGURE = 760, 262, 80
_ROW, _TOP, _PAD = 24, 52, 14
_OURS, _THEIRS, _C_CLIENT, _INK, _PAPER = "#d9640f", "#8aa0b4", "#5d7288", "#1c2733", "#ffffff"


@dataclass(frozen=True)
class Bar:
    """One bar, and a thin line from the lowest to the highest figure."""

    name: str
    spread: Spread
    colour: str = _THEIRS


def chart(title: str, unit: str, bars: list[Bar]) -> str:
    """Return a chart of horizontal bars.

    :param unit: what the figures count.
    """
    height = _TOP + _ROW * len(bars) + _PAD
    longest = max(bar.spread.high for bar in bars)
    scale = (_WIDTH - _NAMES - _FIGURE - _PAD) / longest
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        f' width="{_WIDTH}" height="{height}" role="img" font-size="13"'
        ' font-family="system-ui, sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="{_PAPER}"/>',
        f'<text x="{_PAD}" y="24" font-weight="600" fill="{_INK}">{escape(title)}</text>',
        f'<text x="{_PAD}" y="42" font-size="11" fill="{_C_CLIENT}">{escape(unit)}</text>',
    ]
    for number, bar in enumerate(bars):
        lines += _bar(bar, _TOP + number * _ROW, scale)
    return "\n".join([*lines, "</svg>", ""])


def _bar(bar: Bar, top: int, scale: float) -> list[str]:
    length = max(1.0, bar.spread.median * scale)
    low, high = (_NAMES + figure * scale for figure in (bar.spread.low, bar.spread.high))
    middle = top + _ROW // 2
    return [
        f'<text x="{_NAMES - 8}" y="{middle + 4}" text-anchor="end" fill="{_INK}">'
        f"{escape(bar.name)}</text>",
        f'<rect x="{_NAMES}" y="{top + 4}" width="{length:.1f}" height="{_ROW - 8}" rx="2"'
        f' fill="{bar.colour}"/>',
        f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="{_INK}" stroke-width="1.5"/>',
        f'<text x="{max(high, _NAMES + length) + 6:.1f}" y="{middle + 4}" fill="{_INK}">'
        f"{_digits(bar.spread.median)}</text>",
    ]


def _digits(number: float) -> str:
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def charts(results: Results) -> dict[str, str]:
    """Return the charts that these results allow: file name -> SVG."""
    drawn: dict[str, str] = {}
    for name, title, unit, task, size, link, figure in _CHARTS:
        rows = results.rows(task, size, link)
        if figure == "rate" and task == "publish":
            rows = [row for row in rows if row.contender.mode != "plain"]
        elif figure == "cpu":  # waiting for each takes up to a thousand times as much
            rows = [
                row
                for row in rows
                if row.contender.mode != "each" and row.contender.client != "raw"
            ]
        if rows:
            drawn[name] = chart(title, unit, [_bar_of(row, figure) for row in rows])
    return drawn


def _bar_of(row: Row, figure: str) -> Bar:
    colours = {"carrot": _OURS, "rabbitmq-c": _C_CLIENT, "raw": _C_CLIENT}
    colour = colours.get(row.contender.client, _THEIRS)
    return Bar(row.contender.name, row.figures[figure], colour)


_CPU = "microseconds of the client's CPU time per message; less is better"
_CHARTS = (
    ("publish-cpu.svg", "Publish, 85 bytes of JSON", _CPU, "publish", "85", "near", "cpu"),
    (
        "consume-cpu.svg",
        "Consume and ack, 85 bytes of JSON",
        _CPU,
        "consume",
        "85",
        "near",
        "cpu",
    ),
    (
        *("publish-confirmed.svg", "Publish confirmed, 85 bytes of JSON"),
        *("messages per second; more is better", "publish", "85", "near", "rate"),
    ),
    (
        *("publish-far.svg", "Publish confirmed, the broker 10 ms away"),
        *("messages per second; more is better", "publish", "85", "far", "rate"),
    ),
    (
        *("latency-p50.svg", "From send to callback, 100 messages a second: median"),
        *("milliseconds; less is better", "latency", "85", "near", "p50"),
    ),
    (
        *("latency-p99.svg", "From send to callback, 100 messages a second: 99th percentile"),
        *("milliseconds; less is better", "latency", "85", "near", "p99"),
    ),
    (
        *("consume-large.svg", "Consume and ack, 1 MiB"),
        *("messages per second; more is better", "consume", "1m", "near", "rate"),
    ),
)
