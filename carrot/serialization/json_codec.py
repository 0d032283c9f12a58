"""JSON: what the standard library gives, at orjson's speed where orjson is installed.

The standard library, with the arguments below, decides every byte and every
error. orjson is asked first and believed only where its answer is provably
the same; everything else, its own errors included, goes to the standard
library. Where the two differ (orjson 3.x), and what catches it:

encoding
    NaN and the infinities come out as ``null``: no output with ``null`` in it
    is believed. Small and large floats are spelled otherwise (``0.00001``,
    ``1e-6``, ``1e16``): no output with an exponent or four zeros after the
    point is. Between these both spell a float by the shortest digits that
    read back as the same float. Keys that are no ``str``, integers beyond 64
    bits, subclasses, dates, data classes, lone surrogates and deep nesting
    are errors of orjson. UUID and Enum orjson always takes, as text and as
    the member's value: so does the standard library here, by its ``default``
    argument. (Left over: a member of a mixed-in type, as of ``IntEnum``, whose
    class gave it a value other than its content: one writes the value, the
    other the content.)
decoding
    Integers beyond 64 bits become floats: no document with 19 digits in a
    row is believed. ``NaN``, ``1e400``, lone surrogates and nesting beyond
    1024 levels are errors of orjson.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import Enum
from importlib import import_module
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any, NoReturn
from uuid import UUID

__all__ = ["codec", "dumps", "loads"]

Dumps = Callable[[Any], bytes]
Loads = Callable[["bytes | str"], Any]

_DIGITS = bytes.maketrans(b"0123456789", b"0" * 10)
#: As many digits as every 64-bit integer can have, and one more.
_LONG = b"0" * 19
# What stands before a number, made one; and all that a number has before its exponent.
_BEFORE = bytes.maketrans(b"[:", b",,")
_NUMERIC = b"0123456789.-"
# Before Python 3.12 the standard library nests as deep as the recursion limit
# (1000) lets it, not as deep as orjson: documents that might nest deeper are
# the standard library's.
_ANY_DEPTH = sys.version_info >= (3, 12)
_SHALLOW = 400


def _default(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"json has no {type(value).__name__}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _standard_dumps() -> Dumps:
    encode = json.JSONEncoder(
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        check_circular=False,
        default=_default,
    ).encode
    if c_make_encoder is None:  # pragma: no cover - other than CPython
        return lambda data: encode(data).encode()
    # What JSONEncoder makes anew for each message, made once: half the time.
    chunks = c_make_encoder(
        None, _default, encode_basestring, None, ":", ",", False, False, False
    )
    join = "".join
    return lambda data: join(chunks(data, 0)).encode()


def _standard_loads() -> Loads:
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    decode = decoder.decode
    scan = decoder.scan_once  # type: ignore[attr-defined]

    def loads(data: bytes | str) -> Any:
        text = data if isinstance(data, str) else str(data, "utf-8")
        try:
            # What decode() does between two searches for white space.
            value, end = scan(text, 0)
        except StopIteration:
            pass
        else:
            if end == len(text):
                return value
        # White space around the value, a byte order mark, or an error.
        return decode(text.removeprefix("\ufeff"))

    return loads


def _exponent_in(out: bytes) -> bool:
    # Half the cost of a regular expression and, like it, sometimes wrong about
    # text, never about numbers.
    rest = out.translate(_BEFORE, _NUMERIC)
    return rest.find(b",e") >= 0 or rest.startswith(b"e")


def codec(orjson: ModuleType | None) -> tuple[Dumps, Loads]:
    """Return the functions that encode and decode JSON.

    :param orjson: the module, or ``None`` for the standard library alone.
    :returns: ``dumps(data) -> bytes`` and ``loads(bytes or str) -> data``.
    """
    standard_dumps, standard_loads = _standard_dumps(), _standard_loads()
    if orjson is None:
        return standard_dumps, standard_loads
    fast_dumps, fast_loads = orjson.dumps, orjson.loads
    options = (
        orjson.OPT_PASSTHROUGH_SUBCLASS
        | orjson.OPT_PASSTHROUGH_DATETIME
        | orjson.OPT_PASSTHROUGH_DATACLASS
    )

    def dumps(data: Any) -> bytes:
        try:
            out: bytes = fast_dumps(data, None, options)
        except Exception:
            return standard_dumps(data)
        # find(), because `in` tries the needle as an integer first: 5 times the cost.
        if (
            out.find(b"null") < 0
            and out.find(b"0.0000") < 0
            # A digit before an e is in most UUIDs too: only then a closer look.
            and (out.translate(_DIGITS).find(b"0e") < 0 or not _exponent_in(out))
        ):
            return out
        return standard_dumps(data)

    def loads(data: bytes | str) -> Any:
        if (
            data.__class__ is bytes
            and data.translate(_DIGITS).find(_LONG) < 0
            and (_ANY_DEPTH or data.count(b"[") + data.count(b"{") < _SHALLOW)
        ):
            try:
                return fast_loads(data)
            except Exception:
                pass
        return standard_loads(data)

    return dumps, loads


def _installed() -> ModuleType | None:
    try:
        return import_module("orjson")
    except ImportError:
        return None


dumps, loads = codec(_installed())
