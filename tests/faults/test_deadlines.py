"""Every call that may block ends in time, whoever keeps silent."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from carrot.backends.base import BaseBackend, BaseMessage
from carrot.connection import BrokerConnection
from carrot.exceptions import CarrotError, ConnectFailed, DrainTimeout
from carrot.messaging import Consumer, ConsumerSet, Messaging, Publisher
from carrot.pool import ConnectionPool
from tests.faults.traffic import declare
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost

Proxies = Callable[[VirtualHost], Proxy]

#: Seconds: the connection's ``timeout``, what channels take to close in vain,
#: and what a busy machine needs to say so.
TIMEOUT, CLOSING, MOMENT = 0.5, 3.0, 1.0

Action = Callable[[], Any]


def consumer_of(connection: Any, **options: Any) -> Consumer:
    return Consumer(connection, queue="q", exchange="x", routing_key="k", **options)


def consuming(connection: Any) -> Consumer:
    consumer = consumer_of(connection)
    consumer.register_callback(lambda data, message: None)
    consumer.consume()
    return consumer


def publisher_of(connection: Any) -> Publisher:
    return Publisher(connection, exchange="x", routing_key="nobody", confirm_window=2)


def unconfirmed(connection: Any, action: Callable[[Publisher], Any]) -> Action:
    """Return what sends a message, and does something, when the peer is silent."""
    publisher = publisher_of(connection)

    def act() -> None:
        publisher.send({})
        action(publisher)

    return act


def full(publisher: Publisher) -> None:
    publisher.send({})
    publisher.send({})


def cancelled(consumer: Consumer) -> Action:
    return partial(consumer.backend.cancel, consumer.consumer_tag)


def set_of(connection: Any, *more: Consumer, subscribed: bool = False) -> ConsumerSet:
    consumers = ConsumerSet(connection, from_dict={"q": {}}, consumers=more)
    consumers.register_callback(lambda data, message: None)
    if subscribed:
        consumers.consume()
    return consumers


def joined(connection: Any) -> Action:
    consumers, consumer = set_of(connection), consumer_of(connection)
    return partial(consumers.add_consumer, consumer)


def messaging_of(connection: Any) -> Messaging:
    messaging = Messaging(connection, queue="q", exchange="x", routing_key="k")
    messaging.register_callback(lambda data, message: None)
    return messaging


def pooled(connection: Any) -> tuple[ConnectionPool, Any]:
    pool = ConnectionPool(connection, max=1)
    lent = pool.acquire()
    lent.connect()
    return pool, lent


def given_back(connection: Any) -> Action:
    pool, lent = pooled(connection)
    pool.release(lent)
    return pool.close


def opened(connection: Any, method: str, *arguments: Any, **options: Any) -> Action:
    """Return a backend's method; its channel is open."""
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    return partial(getattr(backend, method), *arguments, **options)


def message_of(connection: Any, method: str) -> Action:
    queue = f"of {method}"
    consumer = Consumer(connection, queue=queue)
    publisher = Publisher(connection, routing_key=queue)
    publisher.send({})
    publisher.close()
    action: Action = getattr(consumer.fetch(), method)
    return action


def waiting(receiver: Any) -> Action:
    """Return what waits until it is stopped, soon, by another thread."""

    def wait() -> None:
        timer = threading.Timer(TIMEOUT, receiver.stop)
        timer.start()
        receiver.wait()
        timer.join()

    return wait


#: Makes the call ready, on a connection that works; the call is made in silence.
CALLS: dict[str, Callable[[Any], Action]] = {
    "BrokerConnection.drain_events": lambda c: partial(c.drain_events, timeout=TIMEOUT),
    "BrokerConnection.get_channel": lambda c: c.get_channel,
    "BrokerConnection.close": lambda c: c.close,
    "Publisher.__init__": lambda c: partial(publisher_of, c),
    "Publisher.declare": lambda c: publisher_of(c).declare,
    "Publisher.send": lambda c: unconfirmed(c, full),
    "Publisher.flush": lambda c: unconfirmed(c, Publisher.flush),
    "Publisher.close": lambda c: unconfirmed(c, Publisher.close),
    "Consumer.__init__": lambda c: partial(consumer_of, c),
    "Consumer.declare": lambda c: consumer_of(c).declare,
    "Consumer.fetch": lambda c: consumer_of(c).fetch,
    "Consumer.process_next": lambda c: consumer_of(c).process_next,
    "Consumer.iterqueue": lambda c: partial(list, consumer_of(c).iterqueue()),
    "Consumer.consume": lambda c: consumer_of(c).consume,
    "Consumer.iterconsume": lambda c: consumer_of(c).iterconsume,
    "Consumer.wait": lambda c: waiting(consuming(c)),
    "Consumer.qos": lambda c: partial(consumer_of(c).qos, prefetch_count=1),
    "Consumer.flow": lambda c: partial(consumer_of(c).flow, True),
    "Consumer.discard_all": lambda c: consumer_of(c).discard_all,
    "Consumer.purge": lambda c: consumer_of(c).purge,
    "Consumer.cancel": lambda c: consuming(c).cancel,
    "Consumer.close": lambda c: consuming(c).close,
    "ConsumerSet.__init__": lambda c: partial(set_of, c),
    "ConsumerSet.add_consumer": joined,
    "ConsumerSet.add_consumer_from_dict": lambda c: partial(
        set_of(c).add_consumer_from_dict, "other"
    ),
    "ConsumerSet.consume": lambda c: set_of(c).consume,
    "ConsumerSet.iterconsume": lambda c: set_of(c).iterconsume,
    "ConsumerSet.wait": lambda c: waiting(set_of(c, subscribed=True)),
    "ConsumerSet.discard_all": lambda c: set_of(c).discard_all,
    "ConsumerSet.flow": lambda c: partial(set_of(c).flow, True),
    "ConsumerSet.qos": lambda c: partial(set_of(c).qos, prefetch_count=1),
    "ConsumerSet.cancel": lambda c: set_of(c, subscribed=True).cancel,
    "ConsumerSet.cancel_by_queue": lambda c: partial(
        set_of(c, subscribed=True).cancel_by_queue, "q"
    ),
    "ConsumerSet.close": lambda c: set_of(c, subscribed=True).close,
    "Messaging.__init__": lambda c: partial(messaging_of, c),
    "Messaging.send": lambda c: partial(messaging_of(c).send, {}),
    "Messaging.fetch": lambda c: messaging_of(c).fetch,
    "Messaging.close": lambda c: messaging_of(c).close,
    "BrokerConnection.release": lambda c: pooled(c)[1].release,
    "ConnectionPool.acquire": lambda c: partial(
        pooled(c)[0].acquire, block=True, timeout=TIMEOUT
    ),
    "ConnectionPool.release": lambda c: partial(pooled(c)[0].release, c),
    "ConnectionPool.close": given_back,
    "BaseMessage.ack": lambda c: message_of(c, "ack"),
    "BaseMessage.reject": lambda c: message_of(c, "reject"),
    "BaseMessage.requeue": lambda c: message_of(c, "requeue"),
    "BaseBackend.queue_declare": lambda c: opened(c, "queue_declare", "r", True, False, False),
    "BaseBackend.queue_exists": lambda c: opened(c, "queue_exists", "q"),
    "BaseBackend.queue_delete": lambda c: opened(c, "queue_delete", "r"),
    "BaseBackend.queue_purge": lambda c: opened(c, "queue_purge", "q"),
    "BaseBackend.exchange_declare": lambda c: opened(
        c, "exchange_declare", "y", "direct", True, False
    ),
    "BaseBackend.queue_bind": lambda c: opened(c, "queue_bind", "q", "amq.direct", "k"),
    "BaseBackend.get": lambda c: opened(c, "get", "q"),
    "BaseBackend.declare_consumer": lambda c: opened(
        c, "declare_consumer", "q", False, print, "tag"
    ),
    "BaseBackend.cancel": lambda c: cancelled(consuming(c)),
    "BaseBackend.qos": lambda c: opened(c, "qos", 0, 1, False),
    "BaseBackend.flow": lambda c: opened(c, "flow", True),
    "BaseBackend.pump": lambda c: opened(c, "pump", TIMEOUT),
    "BaseBackend.close": lambda c: opened(c, "close"),
}

#: What never waits for the peer.
QUICK = {
    *("BrokerConnection.channel", "BrokerConnection.count", "BrokerConnection.create_backend"),
    *("BrokerConnection.get_backend_cls", "BrokerConnection.info", "BrokerConnection.stats"),
    *("Publisher.create_message", "Consumer.receive", "Consumer.register_callback"),
    *("Consumer.stop", "ConsumerSet.receive", "ConsumerSet.register_callback"),
    *("ConsumerSet.stop", "Messaging.receive", "Messaging.register_callback"),
    *("BaseMessage.decode", "BaseBackend.message_to_python", "BaseBackend.prepare_message"),
    *("BaseBackend.stop", "BaseBackend.shortcuts"),
}
#: What establishes connections: see the test below.
CONNECTING = {
    "BrokerConnection.connect",
    "BrokerConnection.ensure_connection",
    "BaseBackend.establish_connection",
}
#: What is called by, and as long as, what is called above.
WITHIN = {
    *("BaseBackend.ack", "BaseBackend.reject", "BaseBackend.requeue", "BaseBackend.publish"),
    *("BaseBackend.confirm_select", "BaseBackend.consume", "BaseBackend.close_connection"),
}


def public_calls() -> Iterator[str]:
    """Yield the names of all public methods."""
    for cls in (BrokerConnection, Publisher, Consumer, ConsumerSet, Messaging, ConnectionPool):
        yield from (f"{cls.__name__}.{name}" for name in dir(cls) if is_method(cls, name))
    for seam in (BaseMessage, BaseBackend):
        yield from (f"{seam.__name__}.{name}" for name in vars(seam) if is_method(seam, name))


def is_method(cls: type, name: str) -> bool:
    known = getattr(cls, name)
    return callable(known) and not name.startswith("_") and not isinstance(known, type)


def test_23_no_call_is_left_out() -> None:
    """Each public method is timed below, or does not wait."""
    timed = {name for name in CALLS if not name.endswith("__init__")}
    assert set(public_calls()) == timed | QUICK | CONNECTING | WITHIN


def bound(name: str) -> float:
    """Return the seconds that a call may take."""
    if name.endswith((".close", ".add_consumer")):  # may have two channels, and confirms
        return TIMEOUT + 2 * CLOSING + MOMENT
    return TIMEOUT + MOMENT


def test_23_every_blocking_call_ends_at_its_deadline(
    rabbitmq_newest: VirtualHost, proxy: Proxies
) -> None:
    """The peer falls silent, and no heartbeat tells: whatever is called then ends in time."""
    declare(rabbitmq_newest, "r")
    link = proxy(rabbitmq_newest)
    options: dict[str, Any] = {"timeout": 30, "connect_timeout": 30, "heartbeat": 60}
    connections = {name: BrokerConnection(link.url, **options) for name in CALLS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        actions = {name: make(connections[name]) for name, make in CALLS.items()}
        for connection in connections.values():
            # Only now: a busy broker may take longer to make all this ready.
            driver = connection.connect()
            driver.timeout = connection.timeout = connection.connect_timeout = TIMEOUT
        link.swallow()
        ended: dict[str, float] = {}
        failed: dict[str, BaseException] = {}

        def call(name: str) -> None:
            started = time.monotonic()
            try:
                actions[name]()
            except BaseException as exc:
                failed[name] = exc
            ended[name] = time.monotonic() - started

        threads = [threading.Thread(target=call, args=(n,), daemon=True) for n in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(map(bound, actions)))
    late = {name: ended.get(name) for name in actions if ended.get(name, 999) > bound(name)}
    strange = {n: exc for n, exc in failed.items() if not isinstance(exc, CarrotError)}
    link.heal()
    for connection in connections.values():
        connection.close()
    assert late == {}
    assert strange == {}
    assert sum(seconds > TIMEOUT * 0.9 for seconds in ended.values()) > 40  # it was silent


@pytest.mark.parametrize("call", sorted(CONNECTING))
def test_23_connecting_to_a_silent_peer(
    rabbitmq_newest: VirtualHost, proxy: Proxies, call: str
) -> None:
    """Whoever accepts and says nothing is given up after `connect_timeout`."""
    link = proxy(rabbitmq_newest)
    link.swallow()
    connection = BrokerConnection(link.url, connect_timeout=TIMEOUT)
    owner, method = call.split(".")
    of = connection.create_backend() if owner == "BaseBackend" else connection
    options = {"max_retries": 0} if method == "ensure_connection" else {}
    started = time.monotonic()
    with pytest.raises(ConnectFailed, match=r"no answer|timed out"):
        getattr(of, method)(**options)
    assert time.monotonic() - started < TIMEOUT + MOMENT
    connection.close()


def test_23_a_heartbeat_extends_no_deadline(rabbitmq_newest: VirtualHost) -> None:
    """`drain_events(timeout)` ends in time though heartbeats come more often."""
    with BrokerConnection(rabbitmq_newest.url, heartbeat=1) as connection:
        consuming(connection)
        started = time.monotonic()
        with pytest.raises(DrainTimeout):
            connection.drain_events(timeout=1.5)
        assert 1.4 < time.monotonic() - started < 1.5 + MOMENT
