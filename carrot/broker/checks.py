"""What may be declared, and when declaring again is the same thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from carrot import topology
from carrot.broker.refusals import refusal, resource

__all__ = [
    "check_binding_arguments",
    "check_consumer_arguments",
    "check_exchange_arguments",
    "check_name",
    "check_not_default",
    "check_queue_arguments",
    "check_same_exchange",
    "check_same_queue",
    "expiration_fault",
    "wire_type",
]

#: RabbitMQ refuses longer times: ten years, in milliseconds.
_LONGEST = 315_360_000_000


def check_name(kind: str, name: str) -> None:
    """Refuse the names that belong to the broker."""
    if name.startswith("amq."):
        raise refusal(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")


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
#: Arguments that count when a queue is declared again, in RabbitMQ's order.
_COMPARED = (
    *(name for name in _QUEUE_ARGUMENTS if name != "x-queue-leader-locator"),
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
)
#: Arguments of the other queue types, which this broker has not.
_FOREIGN = (
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-initial-cluster-size",
    "x-max-age",
    "x-max-in-memory-bytes",
    "x-max-in-memory-length",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
    "x-stream-filter-size-bytes",
    "x-stream-max-segment-size-bytes",
)


def check_queue_arguments(name: str, vhost: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a queue that have no meaning."""
    queue = resource("queue", name, vhost)
    kind = arguments.get("x-queue-type", "classic")
    fault = _one_of("\"unsupported queue type '{}'\"", "classic", "quorum", "stream")(kind)
    if fault is not None:
        raise refusal(406, f"invalid arg 'x-queue-type' for {queue}: {fault}")
    for argument, check in _QUEUE_ARGUMENTS.items():
        if argument not in arguments:
            continue
        fault = check(arguments[argument])
        if (
            fault is None
            and argument == "x-dead-letter-routing-key"
            and "x-dead-letter-exchange" not in arguments
        ):
            fault = "routing_key_but_no_dlx_defined"
        if fault is not None:
            raise refusal(406, f"invalid arg '{argument}' for {queue}: {fault}")
    for argument in arguments:
        if argument in _FOREIGN:
            raise refusal(
                406,
                f"invalid arg '{argument}' for {queue} of queue type rabbit_classic_queue",
            )


def check_consumer_arguments(name: str, vhost: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of a consumer that have no meaning."""
    fault = _integer(arguments.get("x-priority", 0))
    if fault is not None:
        queue = resource("queue", name, vhost)
        raise refusal(406, f"invalid arg 'x-priority' for {queue}: {fault}")


def check_exchange_arguments(name: str, vhost: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of an exchange that have no meaning."""
    alternate = arguments.get("alternate-exchange", "")
    if not isinstance(alternate, str):
        raise refusal(
            406,
            f"invalid type '{wire_type(alternate)}' for arg 'alternate-exchange'"
            f" in {resource('exchange', name, vhost)}",
        )


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


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"the value '{str(value).lower()}' of type 'bool'"
    return f"the value '{value}' of type '{wire_type(value)}'"


def _differ(name: str, where: str, received: str, current: str) -> Exception:
    return refusal(
        406,
        f"inequivalent arg '{name}' for {where}: received {received} but current is {current}",
    )


def _check_fields(where: str, fields: tuple[str, ...], current: Any, received: Any) -> None:
    for field in fields:
        old, new = getattr(current, field), getattr(received, field)
        if old != new:
            old, new = (f"'{str(value).lower()}'" for value in (old, new))
            raise _differ(field, where, new, old)


def _check_arguments(
    where: str,
    names: tuple[str, ...],
    current: Mapping[str, Any],
    received: Mapping[str, Any],
) -> None:
    for name in names:
        old, new = current.get(name), received.get(name)
        if name == "x-queue-type":
            old, new = old or "classic", new or "classic"
        if topology.frozen_arguments(old) != topology.frozen_arguments(new):
            raise _differ(name, where, _shown(new), _shown(old))


def check_same_queue(vhost: str, current: topology.Queue, received: topology.Queue) -> None:
    """Refuse to declare a queue again with other properties."""
    where = resource("queue", current.name, vhost)
    _check_fields(where, ("durable", "auto_delete"), current, received)
    _check_arguments(where, _COMPARED, current.arguments, received.arguments)


def check_same_exchange(
    vhost: str, current: topology.Exchange, received: topology.Exchange
) -> None:
    """Refuse to declare an exchange again with other properties."""
    where = resource("exchange", current.name, vhost)
    _check_fields(where, ("type", "durable", "auto_delete", "internal"), current, received)
    _check_arguments(where, ("alternate-exchange",), current.arguments, received.arguments)
