"""Write what was measured into the manual."""

from __future__ import annotations

from pathlib import Path

from tests.bench.charts import charts
from tests.bench.report import as_rst, promises_table, table
from tests.bench.results import Results

__all__ = ["FOLDER", "pages", "write"]

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"

#: File -> the tasks whose tables it holds.
_PAGES = {
    "publish.inc": ("publish", "near"),
    "consume.inc": ("consume", "near"),
    "latency.inc": ("latency", "near"),
    "far.inc": (None, "far"),
}


def write(results: Results, folder: Path = FOLDER) -> None:
    """Write tables and charts, which ``docs/benchmarks.rst`` includes."""
    folder.mkdir(exist_ok=True)
    for name, text in pages(results).items():
        (folder / name).write_text(text)


def pages(results: Results) -> dict[str, str]:
    """Return the files: name -> content."""
    files = dict(charts(results))
    files["about.inc"] = "\n".join(f":{n}: {v}" for n, v in results.about.items()) + "\n"
    files["promises.inc"] = as_rst(promises_table(results))
    for name, (wanted, link) in _PAGES.items():
        tables = [
            as_rst(table(results, task, size, at))
            for task, size, at in results.tables()
            if at == link and wanted in (None, task)
        ]
        files[name] = "\n".join(tables) or "Not measured.\n"
    return files
