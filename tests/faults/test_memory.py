"""The in-memory broker goes through the scenarios that make sense for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from inspect import signature
from typing import Any

import pytest

from tests.faults import (
    test_callbacks,
    test_compatibility,
    test_consuming,
    test_delivery,
    test_recovery,
    test_resources,
    test_sharing,
)
from tests.faults.memory import MemoryHost, MemoryLink

#: What needs bytes on a wire, a peer that may be silent, or another process,
#: is not here.
SCENARIOS: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (test_delivery.test_01_a_connection_that_breaks_while_sending, {"fault": "cut"}),
    (test_delivery.test_03_a_server_that_is_restarted, {"seconds": 0.2}),
    (test_delivery.test_04_messages_to_a_missing_exchange, {}),
    (test_delivery.test_04_messages_that_no_queue_takes, {}),
    (test_delivery.test_05_a_queue_that_rejects_what_is_too_much, {}),
    (test_delivery.test_07_a_message_that_is_too_large, {}),
    (test_consuming.test_08_a_connection_that_breaks_after_some_messages, {"after": 50}),
    (test_consuming.test_08_a_connection_that_breaks_after_every_few_messages, {}),
    (test_consuming.test_09_settling_after_the_connection_broke, {"verb": "ack"}),
    (test_consuming.test_09_settling_after_the_connection_broke, {"verb": "reject"}),
    (test_consuming.test_09_settling_after_the_connection_broke, {"verb": "requeue"}),
    (test_consuming.test_09_settling_before_anybody_noticed, {}),
    (test_callbacks.test_11_messages_that_cannot_be_decoded, {}),
    (test_callbacks.test_11_what_else_may_be_done_with_them, {}),
    (test_callbacks.test_12_a_callback_that_raises, {"error": ValueError}),
    (test_callbacks.test_12_a_callback_that_raises, {"error": ConnectionResetError}),
    (test_callbacks.test_12_a_callback_that_raises_stop_iteration, {}),
    (test_consuming.test_13_a_queue_that_the_server_side_deletes, {}),
    (test_consuming.test_13_without_recovery_a_deleted_queue_is_an_error, {}),
    (test_consuming.test_14_a_bound_on_messages_holds_after_a_recovery, {}),
    (test_consuming.test_14_never_more_than_the_bound_is_outstanding, {}),
    (
        test_consuming.test_15_two_consumers_share_a_queue_and_one_is_cancelled,
        {"apart": False},
    ),
    (
        test_consuming.test_15_two_consumers_share_a_queue_and_one_is_cancelled,
        {"apart": True},
    ),
    (test_recovery.test_16_a_thousand_queues_and_consumers, {}),
    (test_recovery.test_16_server_named_queues, {}),
    (test_recovery.test_16_what_was_deleted_stays_deleted, {}),
    (test_recovery.test_16_close_during_recovery_returns_at_once, {"silent": False}),
    (test_recovery.test_17_an_unreachable_broker_fails_within_the_deadline, {}),
    (
        test_sharing.test_18_threads_on_one_connection_beside_a_consumer,
        {"threads": 4, "shared": True},
    ),
    (
        test_sharing.test_18_threads_on_one_connection_beside_a_consumer,
        {"threads": 32, "shared": False},
    ),
    (test_resources.test_21_a_blocked_broker, {}),
    (test_compatibility.test_24_either_version, {}),
]


@pytest.fixture
def memory() -> Iterator[MemoryHost]:
    """A broker of the test's own."""
    with closing(MemoryHost()) as host:
        yield host


@pytest.mark.parametrize(
    "scenario, options",
    SCENARIOS,
    ids=[f"{s.__name__}-{'-'.join(map(str, o.values()))}".strip("-") for s, o in SCENARIOS],
)
def test_25_in_memory(
    memory: MemoryHost,
    request: pytest.FixtureRequest,
    scenario: Callable[..., None],
    options: dict[str, Any],
) -> None:
    """It holds of the in-memory broker, and of recovering from its faults, too."""
    known = {
        "rabbitmq": memory,
        "rabbitmq_newest": memory,
        "every_rabbitmq": [memory],
        "proxy": MemoryLink,
    }
    for name in signature(scenario).parameters:
        if name not in options:
            options = {**options, name: known.get(name) or request.getfixturevalue(name)}
    scenario(**options)
