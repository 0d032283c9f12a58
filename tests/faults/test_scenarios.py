"""The scenarios that must hold are all tested, on the servers that they are for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
GUARANTEES = FOLDER.parent.parent / "docs" / "guarantees.rst"

#: 1 to 7 are about delivery, 8 to 15 about consuming, 16 and 17 about
#: recovery, 18 to 20 about concurrency, 21 to 23 about resources, 24 to 26
#: about compatibility.
SCENARIOS = range(1, 27)
ON_BOTH_SERVERS = range(1, 16)


def numbered() -> Iterator[tuple[int, str, set[str]]]:
    """Yield number, name and fixtures of each test that has a number."""
    for path in FOLDER.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (
                match := re.match(r"test_(\d\d)_", node.name)
            ):
                yield int(match[1]), node.name, {each.arg for each in node.args.args}


def test_every_scenario_has_a_test() -> None:
    """`pytest tests/faults -k test_NN` finds at least one for each number."""
    assert {number for number, _, _ in numbered()} == set(SCENARIOS)


def test_delivery_and_consuming_are_tested_on_both_servers() -> None:
    """The distribution's RabbitMQ goes through them as 4.0 does."""
    fixtures = {"rabbitmq", "every_rabbitmq"}
    both = {number for number, _, known in numbered() if known & fixtures}
    assert both >= set(ON_BOTH_SERVERS)


def test_guarantees_name_every_scenario() -> None:
    """The manual's page says which scenarios a promise is tested by, and leaves none out."""
    _, _, table = GUARANTEES.read_text(encoding="utf-8").partition("Where it is tested\n")
    named = {int(number) for number in re.findall(r"``(\d\d)``", table)}
    assert named == set(SCENARIOS)
