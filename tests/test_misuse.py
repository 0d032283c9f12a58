"""Walk the tables of docs/reference/misuse.rst: each misuse has the error that they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from carrot import exceptions
from carrot.testing.contract import Scene
from tests.contract.test_memory import InMemory
from tests.contract.test_rabbitmq import OnRabbitMQ
from tests.misuse import connecting, declaring, receiving, sending
from tests.misuse.register import MISUSES

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "misuse.rst"
MODULES = (connecting, declaring, receiving, sending)

_ROW = re.compile(
    r"^   \* - (.+)\n     - (:exc:.+)\n     - (.+(?:\n       .+)*)$", re.MULTILINE
)
_ERROR = re.compile(r":exc:`(\w+)`")
_LITERAL = re.compile(r"``(.+?)``")


class Row(NamedTuple):
    """A row of the tables."""

    misuse: str
    errors: str
    remedy: str


def rows() -> list[Row]:
    """Return the rows of the page."""
    return [Row(*found) for found in _ROW.findall(PAGE.read_text())]


def test_the_page_lists_every_misuse() -> None:
    """Every row has a function that does it, and every function a row."""
    listed = [row.misuse for row in rows()]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(MISUSES)
    # No row escaped the pattern above (headings aside).
    assert PAGE.read_text().count("\n   * - ") == len(listed) + PAGE.read_text().count(
        "   * - Misuse\n"
    )


class Walk(Scene):
    """Does what each row says, on a broker."""

    @pytest.mark.parametrize("row", rows(), ids=lambda row: row.misuse)
    def test_misuse(self, row: Row) -> None:
        """Each misuse raises its error, with its remedy, and the connection stays usable."""
        function, only = MISUSES[row.misuse]
        if only == "rabbitmq" and not isinstance(self, OnRabbitMQ):
            pytest.skip("the in-memory broker has no such thing")
        expected = tuple(getattr(exceptions, name) for name in _ERROR.findall(row.errors))
        with pytest.raises((exceptions.CarrotError, Warning)) as caught:
            function(self)
        assert isinstance(caught.value, expected)
        # The very class, or one of another room that is built on it.
        raised = type(caught.value)
        assert raised in expected or raised.__module__ != exceptions.__name__
        said = str(caught.value)
        for words in _LITERAL.findall(row.remedy):
            assert words in said
        assert "secret" not in said
        self.still_works()


class TestMisuseInMemory(InMemory, Walk):
    """On the in-memory broker."""


class TestMisuseOnRabbitMQ(OnRabbitMQ, Walk):
    """On each RabbitMQ at hand."""
