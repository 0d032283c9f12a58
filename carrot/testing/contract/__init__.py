"""What every backend promises, as tests: subclass :class:`BackendContract`.

::

    from carrot.testing import BackendContract

    class TestMyBackend(BackendContract):
        def make_connection(self, **options):
            options.setdefault("backend_cls", "my.module.Backend")
            return BrokerConnection("my.host", **options)

What the backend cannot do is said in ``lacks`` (see :class:`Scene`); what
stands in its way of running, in a fixture ``broker``.
"""

from __future__ import annotations

from carrot.testing.contract.behaviours import BrokerBehaviours
from carrot.testing.contract.connections import ConnectionContract
from carrot.testing.contract.consuming import ConsumingContract
from carrot.testing.contract.declaring import DeclaringContract
from carrot.testing.contract.fetching import FetchingContract
from carrot.testing.contract.publishing import PublishingContract
from carrot.testing.contract.scene import Inbox, Scene, needs
from carrot.testing.contract.seam import SeamContract
from carrot.testing.contract.serializing import SerializingContract
from carrot.testing.contract.sets import ConsumerSetContract
from carrot.testing.contract.settling import SettlingContract

__all__ = ["BackendContract", "BrokerBehaviours", "Inbox", "Scene", "needs"]


class BackendContract(
    ConnectionContract,
    DeclaringContract,
    PublishingContract,
    FetchingContract,
    ConsumingContract,
    ConsumerSetContract,
    SettlingContract,
    SerializingContract,
    SeamContract,
):
    """Everything that holds over every backend.

    Override :meth:`~Scene.make_connection`, and :attr:`~Scene.lacks` where
    the broker has not all abilities.
    """
