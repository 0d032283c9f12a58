"""How a connection's settings become the arguments of the driver's connection."""

from __future__ import annotations

import platform
from typing import Any

from amqp import sasl

import carrot
from carrot.exceptions import ConfigurationError, MissingSetting

__all__ = ["login"]

#: Seconds in which a connection has to be established, where nothing is said.
_CONNECT_TIMEOUT = 5.0


def login(settings: Any, port: int) -> dict[str, Any]:
    """Return the arguments of :class:`~carrot.backends.pyamqplib.Connection`.

    :param settings: a :class:`~carrot.connection.BrokerConnection`, or shaped
        like one; our own options may be missing.
    :raises MissingSetting: host, user or password is ``None``.
    :raises ConfigurationError: an option has a value that cannot be.
    """
    authentication = _authentication(settings)
    hostname = settings.hostname
    if ":" in hostname:
        hostname = f"[{hostname}]"  # of IPv6
    arguments: dict[str, Any] = {
        "host": f"{hostname}:{port}",
        "authentication": authentication,
        "virtual_host": settings.virtual_host,
        "ssl": getattr(settings, "ssl", False),
        "connect_timeout": _seconds(settings, "connect_timeout", _CONNECT_TIMEOUT),
        "heartbeat": _seconds(settings, "heartbeat", None),
        "client_properties": {
            "product": "carrot",
            "version": getattr(carrot, "__version__", ""),
            "platform": f"Python {platform.python_version()}",
            **(getattr(settings, "client_properties", None) or {}),
        },
    }
    timeout = _seconds(settings, "timeout", None)
    if timeout is not None:
        arguments["timeout"] = timeout
    return arguments


def _seconds(settings: Any, name: str, default: float | None) -> float | None:
    value = getattr(settings, name, None)
    if value is None:
        return default
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigurationError(f"{name}={value!r} is no number of seconds")
    return seconds


def _authentication(settings: Any) -> tuple[Any, ...]:
    method = getattr(settings, "login_method", None)
    # A certificate, or a ticket of Kerberos, says who we are.
    needed = ["hostname"] if method in ("EXTERNAL", "GSSAPI") else _NEEDED
    missing = [name for name in needed if getattr(settings, name, None) is None]
    if missing:
        raise MissingSetting(
            f"the connection needs {' and '.join(missing)}: pass"
            f" {', '.join(f'{name}=...' for name in missing)}, or a URL"
        )
    user, password = settings.userid, settings.password
    mechanisms = {
        "PLAIN": lambda: sasl.PLAIN(user, password),
        "AMQPLAIN": lambda: sasl.AMQPLAIN(user, password),
        "EXTERNAL": sasl.EXTERNAL,
        "GSSAPI": lambda: sasl.GSSAPI(user),
    }
    if method is None:
        return (mechanisms["PLAIN"](), mechanisms["AMQPLAIN"]())
    if method not in mechanisms:
        raise ConfigurationError(
            f"login_method={method!r} is none of {', '.join(sorted(mechanisms))}"
        )
    return (mechanisms[method](),)


_NEEDED = ["hostname", "userid", "password"]
