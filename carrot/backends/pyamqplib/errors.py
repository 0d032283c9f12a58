"""Errors of drivers, translated here and nowhere else."""

from __future__ import annotations

import ssl
from typing import Any

import amqp.exceptions

from carrot.backends.pyamqplib.wire import ProtocolError
from carrot.exceptions import (
    BrokerConnectionError,
    BrokerError,
    CarrotError,
    ConnectFailed,
    ConnectionLost,
    NotSupported,
    channel_error,
)

__all__ = ["connect_failed", "lost", "reason", "translated"]


def reason(exc: BaseException) -> str:
    """Return the words of an exception that help, without its numbers."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"TLS: {exc.reason or exc}"
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__


def connect_failed(exc: BaseException, host: str) -> ConnectFailed:
    """Return the error for a connection that could not be established.

    :param exc: why.
    :param host: host and port.
    """
    hint = "; does a broker listen there?" if isinstance(exc, ConnectionRefusedError) else ""
    error = ConnectFailed(f"cannot connect to {host}: {reason(exc)}{hint}")
    if isinstance(exc, ssl.SSLError):
        error.recoverable = False  # the certificate will be the same next time
    return error


def lost(exc: BaseException, host: str) -> BrokerConnectionError:
    """Return the error for an established connection that broke."""
    error: BrokerConnectionError
    if isinstance(exc, ProtocolError):
        error = ProtocolError(f"the connection to {host} is lost: {exc}")
    elif isinstance(exc, BrokerConnectionError):
        return exc
    else:
        error = ConnectionLost(f"the connection to {host} is lost: {reason(exc)}")
    error.__cause__ = exc
    return error


def translated(exc: Exception, host: str) -> Exception:
    """Return what stands for an error of any driver; others as they are.

    :param exc: of the ``amqp`` package, of one shaped like amqplib, or ours.
    :param host: host and port.
    """
    if isinstance(exc, CarrotError):
        return exc
    code: Any = getattr(exc, "amqp_reply_code", None)
    if isinstance(exc, amqp.exceptions.AMQPNotImplementedError):
        return NotSupported(f"the broker cannot do this: {exc.reply_text}")
    if isinstance(exc, amqp.exceptions.ChannelError):
        return channel_error(exc.reply_code or 0, str(exc.reply_text))
    if isinstance(code, int):  # amqplib's
        text = str(getattr(exc, "amqp_reply_text", exc))
        return (
            channel_error(code, text) if 300 < code < 500 and code != 320 else _lost(text, host)
        )
    if isinstance(exc, (amqp.exceptions.AMQPError, OSError)):
        return _lost(reason(exc), host)
    return exc


def _lost(text: str, host: str) -> BrokerError:
    return ConnectionLost(f"the connection to {host} is lost: {text}")
