"""The functions, by the words that the documentation has for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["MISUSES", "Misuse", "misuse"]

#: Does something wrong on the scene's connection.
Misuse = Callable[[Any], Any]

#: What the documentation calls it -> the function, and the brokers it is for.
MISUSES: dict[str, tuple[Misuse, str]] = {}


def misuse(words: str, only: str = "") -> Callable[[Misuse], Misuse]:
    """Register a function that does what *words* say.

    :param only: ``"rabbitmq"`` where the in-memory broker has no such thing.
    """

    def register(function: Misuse) -> Misuse:
        assert words not in MISUSES, words
        MISUSES[words] = function, only
        return function

    return register
