"""Publisher confirms, counted: which messages the broker has not answered for yet.

Pure: no socket, no thread, no clock. A backend enters each message and passes
on what the broker says; whoever waits, waits elsewhere.

The life of a message in a :class:`Tracker`::

    add() --> in flight -- ack ------------------> confirmed
                 |  `----- bounced, then ack ----> failed (Unroutable)
                 |  `----- nack -----------------> failed (PublishNacked)
                 |  `----- fail() ---------------> failed (what fail() was given)
                 `-- restart() --> owed -- add() again, in order --> in flight
"""

from carrot.confirms.failures import publish_error
from carrot.confirms.tracker import Tracker
from carrot.confirms.unconfirmed import Unconfirmed

__all__ = ["Tracker", "Unconfirmed", "publish_error"]
