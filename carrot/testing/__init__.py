"""Testing code that uses carrot, and testing backends.

What needs pytest is imported on demand, so that importing this package does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot.testing.contract import BackendContract, BrokerBehaviours

__all__ = ["BackendContract", "BrokerBehaviours"]

_HOMES = {
    "BackendContract": "carrot.testing.contract",
    "BrokerBehaviours": "carrot.testing.contract",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)
