"""Options: what is unknown warns, what is known is set."""

from __future__ import annotations

import warnings

import pytest

from carrot.exceptions import ConfigurationError, UnknownOptionWarning
from carrot.options import checked_count, set_options, warn_unknown_option


class Owner:
    color = "orange"


def test_known_options_are_set() -> None:
    """Known options are set, unless they are ``None``."""
    owner = Owner()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_options(owner, {"color": None, "size": 0}, known=["color", "size"])
    assert (owner.color, vars(owner)) == ("orange", {"size": 0})


def test_unknown_options_are_not_set() -> None:
    """Unknown options warn at the caller's line, whatever their value, and are not set."""
    owner = Owner()
    with pytest.warns(UnknownOptionWarning, match="did you mean 'color'") as caught:
        set_options(owner, {"colour": None}, known=["color", "size"])
    assert caught[0].filename == __file__
    assert vars(owner) == {}


def test_far_off_options_list_the_known() -> None:
    """Where no name is near, the warning lists all."""
    with pytest.warns(UnknownOptionWarning, match="it knows color, size"):
        warn_unknown_option(Owner(), "weight", known=["size", "color"])


@pytest.mark.parametrize(("value", "count"), [(None, 0), (0, 0), (5, 5)])
def test_counts(value: int | None, count: int) -> None:
    """A count is a whole number from 0 up; ``None`` is 0."""
    assert checked_count(value, "limit") == count


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", [1]])
def test_what_is_no_count(value: object) -> None:
    """Anything else is an error that names what was counted."""
    with pytest.raises(ConfigurationError, match="limit must be a whole number"):
        checked_count(value, "limit")
