"""Read the documentation's code blocks, and do what they say.

What becomes of a block is told by its language:

``python``
    is run; the blocks of a page share their names and run in order. With a
    caption it is a file instead, for the page's later commands.
``pycon``
    is a session; what it shows must come out.
``diff``
    changes the ``python`` block before it, which is run again so changed and
    must print the same.
``console``
    holds shell commands, each after ``$``, and what they print. Those that
    install things or need the network are not run (:data:`NOT_RUN`). With the
    caption "First terminal" the command runs on, to the page's end.
``text``
    of class ``output`` is what the block before it prints; with the caption
    "First terminal" it is what that shows next.
anything else
    is not code of ours (:data:`OTHER`).
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

__all__ = [
    "NOT_RUN",
    "OTHER",
    "ROOT",
    "TERMINAL",
    "TLS_URL",
    "URL",
    "Block",
    "Page",
    "blocks_of",
    "pages",
]

ROOT = Path(__file__).parent.parent
#: The addresses of a broker, as the documentation writes them.
URL, TLS_URL = "amqp://guest:guest@localhost", "amqps://guest:guest@localhost"

#: Commands that change the machine, need the network, or take minutes.
NOT_RUN = (
    ".venv/bin/",
    "apt-get",
    "git",
    "pip",
    "python3 -m venv",
    "sphinx-build",
    "sudo",
    "tests/run",
    "tox",
)
#: Languages of blocks that are not run.
OTHER = ("ini", "text", "yaml")

#: Caption of what happens in a terminal where a command runs on.
TERMINAL = "First terminal"

_PATIENCE = 60.0
_DIRECTIVE = re.compile(r"^( *)\.\. code-block:: *(\S*)$")
_OPTION = re.compile(r"^ +:([a-z]+): *(.*)$")


@dataclass(frozen=True)
class Block:
    """A code block: where it stands, what it is, and what it says."""

    page: Path
    line: int
    language: str
    text: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        return self.options.get("caption", "")

    @property
    def is_output(self) -> bool:
        return self.options.get("class") == "output"

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page that people read: the README and the manual's."""
    manual = (p for p in (ROOT / "docs").rglob("*.rst") if "_build" not in p.parts)
    return [ROOT / "README.rst", *sorted(manual)]


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the code blocks of a page."""
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        found = _DIRECTIVE.match(lines[number])
        number += 1
        if not found:
            continue
        options = {}
        while number < len(lines) and (option := _OPTION.match(lines[number])):
            options[option[1]] = option[2]
            number += 1
        start = number
        while number < len(lines) and _indent(lines[number]) > len(found[1]):
            number += 1
        body = lines[start:number]
        margin = min((_indent(line) for line in body if line.strip()), default=0)
        text = "\n".join(line[margin:] for line in body).strip("\n") + "\n"
        yield Block(page, start + 1, found[2], text, options)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else sys.maxsize


class Page:
    """Does what the blocks of a page say, in order.

    :param folder: where files are written and commands run.
    :param replace: what to put for a text, such as the URL of the broker.
    """

    def __init__(self, folder: Path, replace: dict[str, str]) -> None:
        self.folder = folder
        self.replace = replace
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self._last: tuple[str, str] = "", ""
        self._terminal: subprocess.Popen[bytes] | None = None
        self._seen = 0
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self._environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        if not entry_points(group="pytest11", name="carrot"):  # not installed, just cloned
            self._environment["PYTEST_PLUGINS"] = "carrot.testing.plugin"

    def run(self, blocks: list[Block]) -> None:
        """Run the blocks; :exc:`AssertionError` where the page is wrong."""
        for block, following in zip(blocks, [*blocks[1:], None], strict=False):
            shown = following.text if following and following.is_output else ""
            action = getattr(self, f"_{block.language}", None)
            if action is not None:
                action(block, self._real(block.text), shown)

    def close(self) -> None:
        """End the first terminal as Ctrl-C does."""
        if self._terminal is not None:
            self._terminal.send_signal(signal.SIGINT)
            self._terminal.wait(_PATIENCE)
            self._terminal = None
            assert "Traceback" not in self._screen.read_text(), self._screen.read_text()

    def _real(self, text: str) -> str:
        for old, new in self.replace.items():
            text = text.replace(old, new)
        return text

    # -- one for each language

    def _python(self, block: Block, text: str, shown: str) -> None:
        if block.caption:
            path = self.folder / block.caption
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        self._last = text, shown
        with contextlib.redirect_stdout(io.StringIO()) as out:
            # Line numbers of tracebacks are the page's.
            code = compile("\n" * (block.line - 1) + text, str(block.page), "exec")
            exec(code, self.names)
        check(block, shown, out.getvalue())

    def _pycon(self, block: Block, text: str, shown: str) -> None:
        parser, report = doctest.DocTestParser(), io.StringIO()
        test = parser.get_doctest(text, {}, str(block), str(block.page), block.line)
        test.globs = self.names
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=report.write, clear_globs=False)
        assert not runner.failures, f"{block}\n{report.getvalue()}"

    def _diff(self, block: Block, text: str, shown: str) -> None:
        program, shown = self._last
        changes = {sign: text.splitlines() for sign in "-+"}
        old, new = (
            "\n".join(line[1:] for line in changes[sign] if line.startswith(sign))
            for sign in "-+"
        )
        assert program.count(old) == 1, f"{block}: the program has no {old!r}"
        self._python(block, program.replace(old, new), shown)

    def _console(self, block: Block, text: str, shown: str) -> None:
        for command, output in commands_of(text):
            if command.startswith(NOT_RUN):
                continue
            if block.caption == TERMINAL:
                self._start(command)
                self._text(block, output, "")
                continue
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=self.folder,
                env=self._environment,
                text=True,
                timeout=_PATIENCE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            check(block, output or shown, done.stdout)

    def _text(self, block: Block, text: str, shown: str) -> None:
        if block.caption == TERMINAL:
            with contextlib.suppress(AssertionError):
                wait_until(lambda: self._news().count("\n") >= text.count("\n"), _PATIENCE)
            check(block, text, self._news())
            self._seen += len(self._news())

    # -- the first terminal

    @property
    def _screen(self) -> Path:
        return self.folder / "terminal.txt"

    def _start(self, command: str) -> None:
        self.close()
        self._seen = 0
        with self._screen.open("w") as screen:
            self._terminal = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self._environment,
                stdout=screen,
                stderr=subprocess.STDOUT,
            )

    def _news(self) -> str:
        return self._screen.read_text()[self._seen :]


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a ``console`` block, each with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.replace("\\\n", " ").partition("\n")
        yield command, output


def check(block: Block, expected: str, got: str) -> None:
    """Compare output; ``...`` in *expected* stands for anything."""
    assert doctest.OutputChecker().check_output(expected, got, doctest.ELLIPSIS), (
        f"{block}\nthe page shows:\n{expected}\nit prints:\n{got}"
    )
