"""What an installation brings."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import carrot

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def installed() -> metadata.Distribution:
    """The installed carrot, this one."""
    try:
        found = metadata.distribution("carrot")
    except metadata.PackageNotFoundError:
        pytest.skip("carrot is not installed here: pip install -e .[test]")
    return found


def test_metadata(installed: metadata.Distribution) -> None:
    """The version is the package's, and two packages are required."""
    assert installed.version == carrot.__version__
    required = [line for line in installed.requires or () if "extra ==" not in line]
    assert {re.split(r"\W", line)[0] for line in required} == {"amqp", "PyYAML"}


def test_extras(installed: metadata.Distribution) -> None:
    """The extras that the README names are there."""
    extras = installed.metadata.get_all("Provides-Extra") or []
    assert {"fast", "msgpack", "django", "test"} <= set(extras)


def test_pytest_finds_the_plugin(installed: metadata.Distribution) -> None:
    """pytest loads carrot's fixtures by itself."""
    plugins = [point for point in installed.entry_points if point.group == "pytest11"]
    assert [(point.name, point.value) for point in plugins] == [
        ("carrot", "carrot.testing.plugin")
    ]


def test_the_plugin_is_light() -> None:
    """The plugin, loaded into every run of pytest, loads nothing else of carrot."""
    program = (
        "import sys, carrot.testing.plugin;"
        "print(*(name for name in sys.modules if name.startswith('carrot.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"carrot.testing", "carrot.testing.plugin"}


def test_types_are_delivered() -> None:
    """Type checkers find carrot's annotations, and every folder is a package."""
    package = Path(carrot.__file__).parent
    assert (package / "py.typed").exists()
    folders = {path.parent for path in package.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
