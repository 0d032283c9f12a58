"""Testing code that uses carrot, and testing backends.

What needs pytest is imported on demand, so that importing this package does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot.testing.contract import BackendContract, BrokerBehaviours
    from carrot.testing.memory import ManualClock, MemoryBroker, Sent

__all__ = ["BackendContract", "BrokerBehaviours", "ManualClock", "MemoryBroker", "Sent"]

_HOMES = {
    "BackendContract": "carrot.testing.contract",
    "BrokerBehaviours": "carrot.testing.contract",
    "ManualClock": "carrot.testing.memory",
    "MemoryBroker": "carrot.testing.memory",
    "Sent": "carrot.testing.memory",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)
