"""The contract, and the behaviours of a broker, over RabbitMQ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import amqp
import pytest

from carrot.backends import pyamqplib
from carrot.connection import BrokerConnection
from carrot.testing import BackendContract, BrokerBehaviours
from carrot.testing.contract import Scene
from tests.servers.vhost import VirtualHost


class OnRabbitMQ(Scene):
    """A virtual host on each RabbitMQ at hand; the tests of a class share it."""

    @pytest.fixture
    def broker(self, rabbitmq_of_class: VirtualHost) -> Iterator[VirtualHost]:
        with contextlib.ExitStack() as self._further:
            yield rabbitmq_of_class

    def make_connection(self, **options: Any) -> BrokerConnection:
        return BrokerConnection(**{**self.broker_in_use.conninfo, **options})

    def make_virtual_host(self) -> str:
        another: VirtualHost = self._further.enter_context(self.broker_in_use.another())
        return another.vhost


class TestRabbitMQ(OnRabbitMQ, BackendContract):
    """The RabbitMQ backend keeps the contract."""


class TestRabbitMQBehaviours(OnRabbitMQ, BrokerBehaviours):
    """RabbitMQ behaves as the measure says."""


class AmqplibShaped(pyamqplib.Backend):
    """Reaches the broker by another connection of amqplib's shape, as subclasses do."""

    def establish_connection(self) -> Any:
        to = self.connection
        connection = amqp.Connection(
            host=to.host,
            userid=to.userid,
            password=to.password,
            virtual_host=to.virtual_host,
            connect_timeout=to.connect_timeout,
        )
        connection.connect()
        return connection

    def publish(self, *args: Any, **kwargs: Any) -> None:
        super().publish(*args, **kwargs)
        # Such connections know no confirms; an answer on the channel says that
        # the broker is done with what was sent before. Waiting for it would
        # run the callbacks of consumers, though.
        channels = self.connection.connection.channels.values()
        if not any(getattr(channel, "callbacks", None) for channel in channels):
            self.channel.exchange_declare("amq.direct", "direct", passive=True)


class TestAmqplibShaped(BackendContract):
    """A subclass of the RabbitMQ backend with a plain connection keeps the contract."""

    # amqplib's connections are one thread's.
    lacks = frozenset(["threads"])

    @pytest.fixture
    def broker(self, rabbitmq_newest_of_class: VirtualHost) -> VirtualHost:
        return rabbitmq_newest_of_class

    def make_connection(self, **options: Any) -> BrokerConnection:
        options.setdefault("backend_cls", AmqplibShaped)
        return BrokerConnection(**{**self.broker_in_use.conninfo, **options})
