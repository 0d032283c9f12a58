"""Random operations, most of which make sense."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import strategies as st

from tests.differential.observing import SHORT, SLOTS

__all__ = ["OPERATIONS", "PREPARATIONS"]

_LONG = 100_000_000

_slots = st.integers(0, SLOTS - 1)
_queues = st.sampled_from(["q1", "q2", "q3"])
#: Also "the queue that this channel declared last", and one that the broker named.
_any_queue = st.sampled_from(["q1", "q2", "q3"] * 6 + ["", "$0", "$0", "missing"])
_exchanges = st.sampled_from(["e1", "e2", "e3"])
_any_exchange = st.sampled_from(
    ["e1", "e2", "e3"] * 5 + ["amq.topic", "amq.headers", "amq.fanout", "", "missing"]
)
_patterns = st.sampled_from(["a", "a.b", "a.#", "#.b", "*.b", "#", "*", "", "q1"])
_keys = st.sampled_from(["q1", "q2", "q3", "a", "a.b", "a.c.b", "b", ""])
_rarely = st.sampled_from([False] * 11 + [True])
_flags = st.booleans()


def _table(*pairs: tuple[str, Any], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(st.sampled_from(pairs), max_size=most).map(dict)


_queue_arguments = _table(
    *[("x-max-length", value) for value in (0, 1, 2, 2, 3, 3, -1)],
    *[("x-max-length-bytes", value) for value in (3, 6, 6)],
    *[("x-overflow", value) for value in ("drop-head", "reject-publish", "reject-publish-dlx")],
    *[("x-message-ttl", value) for value in (0, _LONG, _LONG, "soon")],
    *[("x-dead-letter-exchange", value) for value in ("", "e1", "e2", "missing", "", "e1")],
    *[("x-dead-letter-routing-key", value) for value in ("q1", "q2", "a.b")],
    *[("x-max-priority", value) for value in (1, 3, 3, 3, 256)],
    *[("x-expires", value) for value in (_LONG, _LONG, 0)],
    *[("x-single-active-consumer", True)] * 2,
    ("x-overflow", "explode"),
    ("x-queue-mode", "lazy"),
    ("x-unheard-of", 1),
)
_exchange_arguments = _table(
    *[("alternate-exchange", value) for value in ("e1", "e2", "amq.topic", "missing", 5)],
    most=1,
)
_binding_arguments = st.sampled_from(
    [
        {},
        {},
        {},
        {"h": 1},
        {"h": 1},
        {"x-match": "any", "h": 1, "g": "x"},
        {"x-match": "all", "h": 1, "g": "x"},
        {"x-match": "any-with-x", "x-h": True},
        {"x-match": "all-with-x", "x-h": True, "h": 1},
        {"x-match": "none"},
        {"x-match": 1},
    ]
)
_headers = st.sampled_from(
    [
        {"h": 1},
        {"g": "x", "h": 1},
        {"h": 1},
        {"h": 1, "g": "x"},
        {"g": "x", "x-h": True},
        {"h": 1.0, "deep": {"list": [1, "two", True, None]}},
        {"h": True, "when": datetime(2020, 2, 2, 20, 20)},
        {"CC": ["q1", "a.b"]},
        {"BCC": ["q2"], "h": 1},
        {"CC": ["q3"], "BCC": ["q1"]},
        {"CC": "q1"},
    ]
)
_properties = st.lists(
    st.one_of(
        st.tuples(st.just("delivery_mode"), st.sampled_from([1, 2])),
        st.tuples(st.just("priority"), st.integers(0, 5)),
        st.tuples(st.just("headers"), _headers),
        st.tuples(
            st.just("expiration"),
            st.sampled_from(["0", str(_LONG), str(_LONG), SHORT] * 3 + ["soon", "-1", "1x"]),
        ),
        st.tuples(st.just("message_id"), st.just("m")),
        st.tuples(st.just("timestamp"), st.just(1_580_674_800)),
        st.tuples(st.just("content_type"), st.just("text/plain")),
        st.tuples(st.just("user_id"), st.sampled_from(["guest"] * 5 + ["mallory"])),
    ),
    max_size=3,
).map(dict)


def _call(method: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(_slots, st.just(method), st.fixed_dictionaries(arguments))


_declare_queue = _call(
    "queue_declare",
    queue=_queues,
    passive=st.just(False),
    durable=_flags,
    exclusive=_rarely,
    auto_delete=_rarely,
    arguments=_queue_arguments,
)
_declare_exchange = _call(
    "exchange_declare",
    exchange=_exchanges,
    type=st.sampled_from(
        ["direct", "fanout", "fanout", "fanout", "topic", "headers"] * 3 + ["x-carrots"]
    ),
    passive=st.just(False),
    durable=_flags,
    auto_delete=_rarely,
    internal=_rarely,
    arguments=_exchange_arguments,
)
_bind_queue = _call(
    "queue_bind",
    queue=_any_queue,
    exchange=_any_exchange,
    routing_key=_patterns,
    arguments=_binding_arguments,
)
_bind_exchange = _call(
    "exchange_bind",
    destination=_any_exchange,
    source=_any_exchange,
    routing_key=_patterns,
    arguments=_binding_arguments,
)
_publish = _call(
    "basic_publish",
    body=st.sampled_from([b"", b"1", b"22", b"4444"]),
    properties=_properties,
    exchange=st.one_of(st.just(""), _any_exchange),
    routing_key=_keys,
    mandatory=_flags,
)
_publish_plainly = _call(
    "basic_publish",
    body=st.sampled_from([b"1", b"22"]),
    properties=st.just({}),
    exchange=st.just(""),
    routing_key=_queues,
    mandatory=st.just(False),
)
_get = _call("basic_get", queue=_any_queue, no_ack=_rarely)
_consume = _call(
    "basic_consume",
    queue=_any_queue,
    consumer_tag=st.sampled_from(["t1", "t2", "t3", "t4", ""]),
    no_ack=_rarely,
    exclusive=_rarely,
    arguments=_table(*[("x-priority", value) for value in (1, 2, 0, -1, 1, "high")], most=1),
)
_qos = _call("basic_qos", prefetch_count=st.integers(0, 3), global_=_flags)
#: Which of the unsettled deliveries: the number is counted among them, and the
#: last one is none of them.
_unsettled = st.sampled_from([*range(4)] * 6 + [-1])
_ack = _call("basic_ack", delivery_tag=_unsettled, multiple=_flags)
_nack = _call("basic_nack", delivery_tag=_unsettled, multiple=_flags, requeue=_flags)
_reject = _call("basic_reject", delivery_tag=_unsettled, requeue=_flags)
_others = [
    _call("queue_declare", queue=_any_queue, passive=st.just(True)),
    _call("queue_declare", queue=st.just(""), exclusive=_flags, arguments=_queue_arguments),
    _call("exchange_declare", exchange=_any_exchange, passive=st.just(True)),
    # ``again`` stands for the properties that it has.
    _call("queue_declare", queue=_queues, again=st.just(True)),
    _call("exchange_delete", exchange=_any_exchange, if_unused=_flags),
    _call("queue_delete", queue=_any_queue, if_unused=_flags, if_empty=_flags),
    _call("queue_purge", queue=_any_queue),
    _call(
        "queue_unbind",
        queue=_any_queue,
        exchange=_any_exchange,
        routing_key=_patterns,
        arguments=_binding_arguments,
    ),
    _call(
        "exchange_unbind",
        destination=_any_exchange,
        source=_any_exchange,
        routing_key=_patterns,
        arguments=_binding_arguments,
    ),
    _call("basic_cancel", consumer_tag=st.sampled_from(["t1", "t2", "t3"])),
    _call("basic_recover", requeue=st.just(True)),
    _call("confirm_select"),
    _call("close"),
    _call("close_connection"),
]


def _named(strategy: st.SearchStrategy[Any], **names: str) -> st.SearchStrategy[Any]:
    return strategy.map(lambda drawn: (*drawn[:2], {**drawn[2], **names}))


#: What a sequence begins with, so that there is something to work on.
PREPARATIONS = st.tuples(
    _named(_declare_exchange, exchange="e1"),
    _named(_declare_exchange, exchange="e2"),
    *[_named(_declare_queue, queue=name) for name in ("q1", "q2", "q3")],
    *[_named(_bind_queue, exchange=name) for name in ("e1", "e1", "e1", "e2")],
).map(list)

_weighted = [
    *[_publish] * 8,
    *[_publish_plainly] * 12,
    *[_ack, _consume] * 8,
    *[_get, _nack] * 6,
    *[_reject, _qos, _bind_queue, _declare_queue] * 3,
    *[_declare_exchange, _bind_exchange],
    *_others,
]
OPERATIONS = st.sampled_from(_weighted).flatmap(lambda strategy: strategy)
