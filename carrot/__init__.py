"""Messaging for Python: Publisher, Consumer, BrokerConnection.

Metadata only; importing the package loads no other module of it.
"""

__version__ = "1.0.0.dev0"
__author__ = "The Carrot developers"
__license__ = "BSD-3-Clause"
__docformat__ = "restructuredtext"

VERSION = (1, 0, 0)
