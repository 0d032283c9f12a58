"""The documentation tells the truth: its code is run, its pages are built."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from carrot.backends import queue
from tests.documentation import OTHER, ROOT, TERMINAL, TLS_URL, URL, Page, blocks_of, pages
from tests.servers.vhost import VirtualHost

DOCS = ROOT / "docs"
EXAMPLES = sorted(path.stem for path in (DOCS / "examples").glob("*.txt"))
LANGUAGES = {"console", "diff", "pycon", "python", *OTHER}
#: Modules whose public names are the users'.
PUBLIC = [
    "carrot.backends",
    "carrot.backends.base",
    "carrot.backends.pyamqplib",
    "carrot.backends.queue",
    "carrot.broker",
    "carrot.confirms",
    "carrot.connection",
    "carrot.conninfo",
    "carrot.exceptions",
    "carrot.messaging",
    "carrot.names",
    "carrot.pool",
    "carrot.recovery",
    "carrot.serialization",
    "carrot.testing",
    "carrot.topology",
    "carrot.utils",
]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def has_blocks(page: Path) -> bool:
    return any(True for _ in blocks_of(page))


def needs_server(page: Path) -> bool:
    return any(URL in block.text or TLS_URL in block.text for block in blocks_of(page))


LOCAL = [page for page in pages() if has_blocks(page) and not needs_server(page)]
REMOTE = [page for page in pages() if needs_server(page)]


@pytest.fixture(autouse=True)
def _empty_broker() -> Iterator[None]:
    queue.reset()
    yield
    queue.reset()


# -- what it says is done


def run(page: Path, folder: Path, replace: dict[str, str]) -> None:
    reader = Page(folder, replace)
    for example in (DOCS / "examples").glob("*.py"):
        shutil.copy(example, folder)
    try:
        reader.run(list(blocks_of(page)))
    finally:
        reader.close()


@pytest.mark.parametrize("page", LOCAL, ids=named)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every code block of a page does what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, tmp_path, {})


@pytest.mark.parametrize("page", REMOTE, ids=named)
def test_page_with_rabbitmq(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rabbitmq_newest: VirtualHost
) -> None:
    """Every code block of a page about RabbitMQ does there what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    certificates = rabbitmq_newest.certificates
    shutil.copy(certificates.ca.cert, "ca.pem")
    shutil.copy(certificates.client.cert, "client.pem")
    shutil.copy(certificates.client.key, "client.key")
    run(page, tmp_path, {TLS_URL: rabbitmq_newest.tls_url, URL: rabbitmq_newest.url})


def output_of(example: str, *arguments: str) -> str:
    program = DOCS / "examples" / f"{example}.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=60,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example: str) -> None:
    """An example prints in memory what the manual shows."""
    assert output_of(example) == (DOCS / "examples" / f"{example}.txt").read_text()


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_with_rabbitmq(example: str, rabbitmq_newest: VirtualHost) -> None:
    """An example prints on RabbitMQ what it prints in memory."""
    shown = (DOCS / "examples" / f"{example}.txt").read_text()
    assert output_of(example, rabbitmq_newest.url) == shown


# -- nothing escapes


@pytest.mark.parametrize("page", pages(), ids=named)
def test_blocks_name_their_language(page: Path) -> None:
    """No code hides from the tests: blocks have a language, and it is a known one."""
    assert {block.language for block in blocks_of(page)} <= LANGUAGES
    text = page.read_text().splitlines()
    hidden = [
        line for line in text if line.endswith("::") and not line.lstrip().startswith("..")
    ]
    assert not hidden, "a literal block without a language"
    shown = sum(
        block.text.count("\n>>> ") + block.text.startswith(">>> ") for block in blocks_of(page)
    )
    assert shown == sum(line.lstrip().startswith(">>> ") for line in text)


@pytest.mark.parametrize("page", pages(), ids=named)
def test_python_is_not_called_text(page: Path) -> None:
    """No Python escapes being run by the name of another language."""
    statements = (ast.Import, ast.ImportFrom, ast.Call, ast.Assign)
    for block in blocks_of(page):
        if block.language in OTHER and not block.is_output and block.caption != TERMINAL:
            with contextlib.suppress(SyntaxError):
                nodes = list(ast.walk(ast.parse(block.text)))
                assert not any(isinstance(node, statements) for node in nodes), str(block)


# -- the pages


class Manual:
    """The pages as Sphinx makes them, and what it complained about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.complaints = subprocess.run(
            [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", DOCS, folder],
            env=unmeasured(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ).stdout

    def names(self) -> set[str]:
        """Return the Python names that the reference describes."""
        from sphinx.util.inventory import InventoryFile

        with (self.folder / "objects.inv").open("rb") as stream:
            inventory = InventoryFile.load(stream, "", lambda base, path: path)
        return {
            name
            for kind, names in inventory.items()
            if kind.startswith("py:")
            for name in names
        }


def unmeasured() -> dict[str, str]:
    """Return the environment without what has coverage measured: it doubles the time."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
    }


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Manual:
    if not os.environ.get("CI"):
        pytest.importorskip("sphinx")
        pytest.importorskip("furo")
    return Manual(tmp_path_factory.mktemp("manual"))


def test_manual_builds(manual: Manual) -> None:
    """The manual builds without a warning, every reference resolved."""
    assert manual.complaints == ""
    assert (manual.folder / "index.html").exists()


@pytest.mark.parametrize("module", PUBLIC)
def test_reference_is_complete(manual: Manual, module: str) -> None:
    """Every public name of a module appears in the reference."""
    public = importlib.import_module(module).__all__
    assert public
    assert {f"{module}.{name}" for name in public} - manual.names() == set()


def test_readme_renders() -> None:
    """The README is valid reStructuredText, for tools that know no Sphinx."""
    docutils = pytest.importorskip("docutils.core")
    text = (ROOT / "README.rst").read_text()
    docutils.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})


def test_readme_links() -> None:
    """What the README links to in the repository is there."""
    text = (ROOT / "README.rst").read_text()
    targets = re.findall(r"<([^<>:]+)>`_", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
