"""``python -m tests.bench``: the command line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench import docs, profiling
from tests.bench.plan import CLIENTS, SIZES, Contender, Scale, choose
from tests.bench.report import as_text, promises_table, table
from tests.bench.results import Results
from tests.bench.runner import Progress, Runner, steps
from tests.bench.target import UNREACHABLE, Target, private_server, target_of_url
from tests.servers.places import NoServer, find_place

__all__ = ["main"]

_PACKAGES = ("kombu", "amqp", "pika", "amqpstorm", "rabbitpy", "orjson")
_FAILURES: tuple[type[Exception], ...] = (ValueError, NoServer, *UNREACHABLE)
_SERVERS = ("4.0", "distribution")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        if options.read:
            results = read(Path(options.read))
        else:
            contenders = choose(_words(options.only))
            sizes = _sizes(options)
            with broker(options) as target:
                if options.profile:
                    size = sizes[0] if options.sizes else "85"
                    count = SIZES[size].count(_scale(options))
                    print(profiling.profile(target, options.profile, count, size))
                    return 0
                results = measure(target, _scale(options), sizes, contenders)
    except _FAILURES as error:
        print(f"tests.bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(written(results))
    if options.json:
        Path(options.json).write_text(json.dumps(vars(results), indent=1) + "\n")
    if options.write_docs:
        docs.write(results)
    return 1 if results.failures else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure carrot beside other AMQP clients.",
        epilog="Figures to quote want an idle machine: CPU time per message suffers less than"
        " messages per second when others use it, but it suffers.",
    )
    add = made.add_argument
    add("--url", help="use this broker (amqp://...), rather than a private one")
    add(
        "--server",
        choices=_SERVERS,
        help="which private RabbitMQ; default is the newest",
    )
    add("--quick", action="store_true", help="a look, in less than 2 minutes")
    add("--only", metavar="CLIENTS", help=f"comma-separated: {', '.join(CLIENTS)}")
    add("--sizes", help=f"comma-separated: {', '.join(SIZES)}")
    add("--rounds", type=number, help="how often everybody has a turn")
    add("--messages", type=number, help="messages of one sample")
    add("--json", metavar="FILE", help="write every sample to a file")
    add("--read", metavar="FILE", help="measure nothing; report what --json wrote")
    add("--write-docs", action="store_true", help="write the tables and charts of the manual")
    add("--profile", choices=("publish", "consume"), help="say where carrot's time goes")
    return made


def number(text: str) -> int:
    """Read a number of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 up")
    return value


def check(options: argparse.Namespace) -> None:
    """Find out what cannot be done before minutes were spent on it.

    :raises ValueError: the manual would be told half of it.
    :raises OSError: the file cannot be written.
    """
    if options.write_docs and (options.only or options.sizes or options.quick):
        raise ValueError(
            "--write-docs writes the manual's tables, which show everything: run it"
            " without --only, --sizes and --quick"
        )
    if options.json:
        with Path(options.json).open("a"):
            pass


def read(file: Path) -> Results:
    """Return what ``--json`` wrote.

    :raises ValueError: it did not write this.
    """
    try:
        return Results(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is nothing that --json wrote: {error}") from error


def measure(
    target: Target, scale: Scale, sizes: list[str], contenders: tuple[Contender, ...]
) -> Results:
    """Take all samples."""
    with tempfile.TemporaryDirectory(prefix="carrot-bench-") as folder:
        load = os.getloadavg()[0]
        runner = Runner(target, scale, Path(folder))
        try:
            todo = list(steps(scale, sizes, contenders))
            runner.run(todo, Progress(len(todo), sys.stderr))
            about = _about(runner.server, scale, load)
        finally:
            runner.close()
    samples = [sample.asdict() for sample in runner.samples]
    return Results(about, samples, runner.failures)


def written(results: Results) -> str:
    """Return everything that is to be said of the results, as text."""
    parts = ["\n".join(f"{name}: {value}" for name, value in results.about.items()) + "\n"]
    parts += [as_text(table(results, *which)) for which in results.tables()]
    promises = promises_table(results)
    if len(promises.lines) > 1:
        parts.append(as_text(promises))
    parts += [f"failed: {who}: {why}\n" for who, why in results.failures.items()]
    return "\n".join(parts)


@contextlib.contextmanager
def broker(options: argparse.Namespace) -> Iterator[Target]:
    """Yield the broker that the options mean."""
    if options.url:
        yield target_of_url(options.url)
        return
    which = options.server or next(filter(_is_here, _SERVERS), _SERVERS[0])
    print("starting a private RabbitMQ ...", file=sys.stderr, flush=True)
    with private_server(which) as server:
        yield target_of_url(f"amqp://guest:guest@{server.host}:{server.port}/")


def _is_here(which: str) -> bool:
    try:
        find_place(which)
    except NoServer:
        return False
    return True


def _scale(options: argparse.Namespace) -> Scale:
    scale = Scale.quick() if options.quick else Scale.full()
    if options.rounds:
        scale = replace(
            scale, rounds=options.rounds, slow_rounds=min(options.rounds, scale.slow_rounds)
        )
    if options.messages:
        scale = replace(
            scale, messages=options.messages, latency=min(options.messages, scale.latency)
        )
    return scale


def _sizes(options: argparse.Namespace) -> list[str]:
    chosen = _words(options.sizes) or (["85", "1m"] if options.quick else list(SIZES))
    unknown = set(chosen) - set(SIZES)
    if unknown:
        raise ValueError(f"no such size: {', '.join(sorted(unknown))}; {', '.join(SIZES)}")
    return chosen


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _about(server: str, scale: Scale, load: float) -> dict[str, str]:
    packages = []
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages.append(f"{name} {version(name)}")
    return {
        "broker": server,
        "python": platform.python_version(),
        "packages": ", ".join(packages),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load": f"{load:.1f} before it began",
        "date": date.today().isoformat(),
        "rounds": f"{scale.rounds}; {scale.slow_rounds} of latency and of the far broker",
        "messages": f"{scale.messages:,} a sample, or {scale.volume // 2**20} MiB",
    }


if __name__ == "__main__":
    sys.exit(main())
