"""What is said when a payload cannot be encoded or decoded."""

from __future__ import annotations

from typing import Any

from carrot.exceptions import DecodeError, EncodeError, SerializerNotInstalled

__all__ = ["undecodable", "unencodable"]

#: Characters or bytes of a body that an error shows.
_EXCERPT = 80
#: Characters of another error that ours shows.
_REASON = 300

_REMEDIES = {
    "json": (
        "json takes str, int, finite float, bool, None, UUID, Enum, and lists, tuples and"
        " dicts of them: convert the value first (a date by its isoformat()), or choose"
        ' serializer="yaml" or "pickle"'
    ),
    "yaml": (
        "yaml takes what json takes, and dates, bytes and sets: convert the value first, or"
        ' choose serializer="pickle"'
    ),
    "pickle": "pickle takes objects whose class is found by its import path",
    "msgpack": "msgpack takes what json takes, and bytes, and no integer beyond 64 bits",
    "utf-8": "remove the lone surrogates from the text, or send bytes",
}


class _PackageMissing(DecodeError, SerializerNotInstalled):
    """The package that decodes the message is not installed."""


def _reason(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"[:_REASON]


def unencodable(data: Any, serializer: str | None, exc: Exception) -> EncodeError:
    """Return the error for data that a serializer refused by raising *exc*."""
    remedy = _REMEDIES.get(serializer or "", "convert the value first")
    what = type(data).__name__
    return EncodeError(
        f"serializer {serializer!r} cannot encode {what}: {_reason(exc)}; {remedy}"
    )


def undecodable(
    data: Any, content_type: str | None, content_encoding: str | None, exc: Exception
) -> DecodeError:
    """Return the error for a body whose decoder raised *exc*."""
    error = _PackageMissing if isinstance(exc, SerializerNotInstalled) else DecodeError
    text = f"cannot decode content type {content_type!r}, encoding {content_encoding!r}: "
    text += _reason(exc)
    if isinstance(data, (bytes, str)):
        text += (
            f"; the body has {len(data)} {'bytes' if isinstance(data, bytes) else 'characters'}"
        )
        text += f" and begins {data[:_EXCERPT]!r}"
    return error(text, content_type, content_encoding, data)
