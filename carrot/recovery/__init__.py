"""A backend around a backend: what was lost with a connection comes back.

A :class:`Session` keeps the driver's connection and recovers it. It knows what
was declared (a :class:`Journal`) and which backends there are; each
:class:`RecoveringBackend` knows its consumers, its bounds, and, by its
:class:`~carrot.confirms.Tracker`, what the broker has not confirmed.
"""

from carrot.recovery.backend import RecoveringBackend
from carrot.recovery.journal import Journal
from carrot.recovery.session import Session

__all__ = ["Journal", "RecoveringBackend", "Session"]
