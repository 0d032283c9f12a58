"""What may be declared, and when declaring again is the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from datetime import datetime
from decimal import Decimal
from typing import Any

from carrot import topology
from carrot.broker.refusals import refusal, resource

__all__ = [
    "check_binding_arguments",
    "check_consumer_arguments",
    "check_exchange",
    "check_name",
    "check_not_default",
    "check_queue",
    "check_same_exchange",
    "check_same_queue",
    "check_unnamed",
    "expiration_fault",
    "wire_type",
]

#: RabbitMQ refuses longer times: ten years, in milliseconds.
_LONGEST = 315_360_000_000


def check_name(kind: str, name: str) -> None:
    """Refuse the names that belong to the broker."""
    if name.startswith("amq."):
        raise refusal(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def check_unnamed(arguments: Mapping[str, Any]) -> None:
    """Refuse to choose the name of a queue of a type that must have one."""
    kind = arguments.get("x-queue-type")
    if kind in ("quorum", "stream"):
        raise refusal(406, f"Cannot declare a server-named queue for type rabbit_{kind}_queue")


def check_not_default(*exchanges: str) -> None:
    """Refuse the default exchange where it cannot take part."""
    if "" in exchanges:
        raise refusal(403, "operation not permitted on the default exchange")


# -- arguments


def wire_type(value: Any) -> str:
    """Return what RabbitMQ calls the type that a value has on the wire."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "signedint" if abs(value) <= 0x7FFFFFFF else "long"
    for python_type, name in (
        ((str, bytes), "longstr"),
        (float, "double"),
        (Decimal, "decimal"),
        (datetime, "timestamp"),
        (Mapping, "table"),
        ((list, tuple), "array"),
    ):
        if isinstance(value, python_type):
            return name
    return "void"


def _integer(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return None
    return f'"expected integer, got {wire_type(value)}"'


def _time(value: Any) -> str | None:
    fault = _integer(value)
    if fault is None and value < 0:
        fault = f"{{value_negative,{value}}}"
    elif fault is None and value > _LONGEST:
        fault = f"{{value_too_large,{value}}}"
    return fault


def _lease(value: Any) -> str | None:
    return "{value_zero,0}" if value == 0 and _integer(value) is None else _time(value)


def _count(value: Any) -> str | None:
    fault = _integer(value)
    return f"{{value_negative,{value}}}" if fault is None and value < 0 else fault


def _priority(value: Any) -> str | None:
    fault = _count(value)
    return f"{{max_value_exceeded,{value}}}" if fault is None and value > 255 else fault


def _version(value: Any) -> str | None:
    fault = _count(value)
    if fault is None and value not in (1, 2):
        fault = f"\"unsupported queue version '{value}'\""
    return fault


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"{{unacceptable_type,{wire_type(value)}}}"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{{unacceptable_type,{wire_type(value)}}}"


def _one_of(fault: str, *allowed: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return _text(value) or (None if value in allowed else fault.format(value))

    return check


_QUEUE_ARGUMENTS: dict[str, Callable[[Any], str | None]] = {
    "x-expires": _lease,
    "x-message-ttl": _time,
    "x-dead-letter-exchange": _text,
    "x-dead-letter-routing-key": _text,
    "x-max-length": _count,
    "x-max-length-bytes": _count,
    "x-max-priority": _priority,
    "x-overflow": _one_of(
        "invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx"
    ),
    "x-queue-mode": _one_of("\"unsupported queue mode '{}'\"", "default", "lazy"),
    "x-queue-version": _version,
    "x-single-active-consumer": _flag,
    "x-queue-leader-locator": _one_of(
        "invalid_queue_locator_arg", "client-local", "balanced", "random", "least-leaders"
    ),
}
#: What each queue type understands, in the order in which RabbitMQ compares.
_UNDERSTOOD: dict[str, tuple[str, ...]] = {
    "classic": (
        "x-expires",
        "x-message-ttl",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-priority",
        "x-overflow",
        "x-queue-mode",
        "x-queue-version",
        "x-single-active-consumer",
        "x-queue-type",
        "x-queue-master-locator",
        "x-queue-leader-locator",
    ),
    "quorum": (
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-dead-letter-strategy",
        "x-expires",
        "x-max-length",
        "x-max-length-bytes",
        "x-max-in-memory-length",
        "x-max-in-memory-bytes",
        "x-overflow",
        "x-single-active-consumer",
        "x-queue-type",
        "x-quorum-initial-group-size",
        "x-delivery-limit",
        "x-message-ttl",
        "x-queue-leader-locator",
    ),
    "stream": (
        "x-max-length-bytes",
        "x-queue-type",
        "x-max-age",
        "x-stream-max-segment-size-bytes",
        "x-initial-cluster-size",
        "x-queue-leader-locator",
    ),
}
_KNOWN = frozenset(name for names in _UNDERSTOOD.values() for name in names)
_queue_type = _one_of("\"unsupported queue type '{}'\"", *_UNDERSTOOD)


def check_queue(vhost: str, declared: topology.Queue) -> None:
    """Refuse properties and arguments of a queue that have no meaning."""
    arguments = declared.arguments
    where = resource("queue", declared.name, vhost)
    _check_text("x-dead-letter-exchange", where, arguments)
    kind = arguments.get("x-queue-type", "classic")
    fault = _queue_type(kind)
    if fault is not None:
        raise refusal(406, f"invalid arg 'x-queue-type' for {where}: {fault}")
    understood = _UNDERSTOOD[kind]
    for argument, check in _QUEUE_ARGUMENTS.items():
        if argument not in arguments or argument not in understood:
            continue
        fault = check(arguments[argument])
        if (
            fault is None
            and argument == "x-dead-letter-routing-key"
            and "x-dead-letter-exchange" not in arguments
        ):
            fault = "routing_key_but_no_dlx_defined"
        if fault is not None:
            raise refusal(406, f"invalid arg '{argument}' for {where}: {fault}")
    _check_understood(where, arguments, _KNOWN.difference(understood), kind)
    if kind != "classic":
        for name, wrong in (
            ("auto-delete", declared.auto_delete),
            ("exclusive-owner", declared.exclusive),
            ("non-durable", not declared.durable),
        ):
            if wrong:
                raise refusal(406, f"invalid property '{name}' for {where}")


def _check_understood(
    where: str, arguments: Mapping[str, Any], others: Set[str], kind: str
) -> None:
    for argument in arguments:
        if argument in others:
            raise refusal(
                406, f"invalid arg '{argument}' for {where} of queue type rabbit_{kind}_queue"
            )


def _check_text(argument: str, where: str, arguments: Mapping[str, Any]) -> None:
    value = arguments.get(argument, "")
    if not isinstance(value, str):
        raise refusal(406, f"invalid type '{wire_type(value)}' for arg '{argument}' in {where}")


_OF_STREAM_CONSUMERS = frozenset(
    ["x-stream-offset", "x-stream-filter", "x-stream-match-unfiltered"]
)


def check_consumer_arguments(name: str, vhost: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a consumer that have no meaning."""
    where = resource("queue", name, vhost)
    fault = _integer(arguments.get("x-priority", 0))
    if fault is not None:
        raise refusal(406, f"invalid arg 'x-priority' for {where}: {fault}")
    _check_understood(where, arguments, _OF_STREAM_CONSUMERS, "classic")


def check_exchange(vhost: str, declared: topology.Exchange) -> None:
    """Refuse arguments of an exchange that have no meaning."""
    where = resource("exchange", declared.name, vhost)
    _check_text("alternate-exchange", where, declared.arguments)


def check_binding_arguments(exchange_type: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a binding that its exchange cannot match by."""
    mode = arguments.get("x-match", "all")
    if exchange_type != "headers" or mode in topology.HeadersRoutes.MODES:
        return
    if isinstance(mode, str):
        raise refusal(
            406,
            f'Invalid x-match field value <<"{mode}">>;'
            " expected all, any, all-with-x, or any-with-x",
        )
    raise refusal(
        406,
        f"Invalid x-match field type {wire_type(mode)} (value {mode}); expected longstr",
    )


def expiration_fault(expiration: Any) -> str | None:
    """Return what is wrong with the property ``expiration``, if anything.

    It is a string of milliseconds.
    """
    text = str(expiration)
    digits = text.lstrip("+-")
    number = len(digits) - len(digits.lstrip("0123456789"))
    if not number or len(text) - len(digits) > 1:
        return "no_integer"
    if number < len(digits):
        return f'{{leftover_string,"{digits[number:]}"}}'
    return _time(int(text))


# -- declaring again


def _shown(value: Any, with_type: bool = False) -> str:
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"the value '{text}' of type '{wire_type(value)}'" if with_type else f"'{text}'"


def _check_same(name: str, where: str, current: Any, received: Any) -> None:
    if topology.frozen_arguments(current) == topology.frozen_arguments(received):
        return
    one_is_missing = current is None or received is None
    raise refusal(
        406,
        f"inequivalent arg '{name}' for {where}: received {_shown(received, one_is_missing)}"
        f" but current is {_shown(current, one_is_missing)}",
    )


def check_same_queue(vhost: str, current: topology.Queue, received: topology.Queue) -> None:
    """Refuse to declare a queue again with other properties."""
    where = resource("queue", current.name, vhost)
    _check_same("durable", where, current.durable, received.durable)
    _check_same("auto_delete", where, current.auto_delete, received.auto_delete)
    kind = current.arguments.get("x-queue-type", "classic")
    for name in _UNDERSTOOD[kind]:
        default = "classic" if name == "x-queue-type" else None
        old, new = (each.arguments.get(name, default) for each in (current, received))
        _check_same(name, where, old, new)


def check_same_exchange(
    vhost: str, current: topology.Exchange, received: topology.Exchange
) -> None:
    """Refuse to declare an exchange again with other properties."""
    where = resource("exchange", current.name, vhost)
    for name in ("type", "durable", "auto_delete", "internal"):
        _check_same(name, where, getattr(current, name), getattr(received, name))
    name = "alternate-exchange"
    _check_same(name, where, current.arguments.get(name), received.arguments.get(name))
