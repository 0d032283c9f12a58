"""Class attributes as configuration: how constructors read their options."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from sys import _getframe
from typing import Any

from carrot.exceptions import ConfigurationError, UnknownOptionWarning

_PACKAGE = str(Path(__file__).parent)


def set_options(owner: object, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Set the options that are not ``None`` as attributes; warn of unknown ones.

    :param owner: the object being made; ``None`` leaves its class's value.
    :param known: names that it understands.
    """
    known = frozenset(known)
    for name, value in options.items():
        if name not in known:
            warn_unknown_option(owner, name, known)
        elif value is not None:
            setattr(owner, name, value)


def warn_unknown_option(owner: object, name: str, known: Iterable[str]) -> None:
    """Warn that *owner* ignores an option, naming the one that was meant."""
    real = sorted(name for name in known if not name.startswith("_"))
    near = get_close_matches(name, real, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(real)}"
    warnings.warn(
        f"{type(owner).__name__} ignores the unknown option {name!r}; {hint}",
        UnknownOptionWarning,
        stacklevel=_application_level(),
    )


def checked_connection(value: Any) -> Any:
    """Return a connection: what has a ``create_backend`` method.

    :raises ConfigurationError: it has none.
    """
    if isinstance(value, type) or not hasattr(value, "create_backend"):
        what = value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
        raise ConfigurationError(
            f"the first argument must be a BrokerConnection, not {what};"
            " make one: BrokerConnection('amqp://...')"
        )
    return value


def checked_count(value: Any, what: str, least: int = 0, most: int | None = None) -> int:
    """Return a number of things, 0 for ``None``.

    :param what: what is counted, for the error.
    :raises ConfigurationError: it is no whole number from *least* to *most*.
    """
    if value is None:
        return 0
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):
        bounds = f"from {least} up" if most is None else f"from {least} to {most}"
        raise ConfigurationError(f"{what} must be a whole number {bounds}, not {value!r:.60}")
    count: int = value
    return count


def checked_seconds(value: Any, what: str) -> float | None:
    """Return a length of time in seconds, ``None`` for ``None``.

    :param what: what takes this long, for the error.
    :raises ConfigurationError: it is no number from 0 up.
    """
    if value is None or (
        isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    ):
        return value
    raise ConfigurationError(f"{what} must be a number of seconds from 0 up, not {value!r:.60}")


def _application_level() -> int:
    # The warning shall point at the application's line, however many
    # constructors stand between.
    level, frame = 1, _getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
