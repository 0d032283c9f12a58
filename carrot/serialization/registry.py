"""The registry: which serializer encodes what, and which may decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from typing import Any

from carrot.exceptions import (
    ConfigurationError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SerializationError,
    SerializerNotInstalled,
)

__all__ = ["ACCEPT_VARIABLE", "SerializerRegistry", "raw_encode"]

#: Environment variable with the exact list of what a process decodes.
ACCEPT_VARIABLE = "CARROT_ACCEPT_CONTENT"

Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]

RAW, TEXT = "application/data", "text/plain"
_BINARY = frozenset(["binary", "ascii-8bit"])
_UTF8 = frozenset(["utf-8", "utf8"])
_EXCERPT = 80

_REMEDIES = {
    "json": (
        "json takes str, int, finite float, bool, None, UUID, Enum, and lists and dicts"
        " of them; convert the value first (a date by isoformat(), bytes by base64), or"
        ' send with serializer="yaml" or "pickle"'
    ),
    "yaml": (
        "yaml takes plain Python data, dates and bytes; convert the value first, or send"
        ' with serializer="pickle"'
    ),
    "pickle": "send plain data, or objects of classes that the receiver can import",
    "msgpack": "msgpack takes plain Python data, bytes and 64-bit integers; convert the value",
}


class _PackageMissing(DecodeError, SerializerNotInstalled):
    """The package that decodes the message is not installed."""


def raw_encode(data: Any) -> tuple[str, str, bytes]:
    """Return *data* as it is: ``str`` as UTF-8 text, ``bytes`` as binary.

    :returns: content type, content encoding, payload.
    :raises EncodeError: *data* is neither.
    """
    if isinstance(data, str):
        return RAW, "utf-8", _text(data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return RAW, "binary", bytes(data)
    raise EncodeError(
        f"raw data must be str or bytes, not {type(data).__name__};"
        ' encode it first, or choose a serializer ("json", "yaml", ...)'
    )


def _text(data: str) -> bytes:
    try:
        return data.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise EncodeError(
            f"cannot encode str as UTF-8: {exc.reason} at position {exc.start};"
            " remove the lone surrogate, or send bytes"
        ) from exc


class SerializerRegistry:
    """Serializers by name, decoders by content type, and what may be decoded.

    Threads may share it; registering while others encode is safe.
    """

    def __init__(self) -> None:
        self._encoders: dict[str, tuple[str, str, Encoder]] = {}
        self._decoders: dict[str, Decoder] = {}
        self._content_types: dict[str, str] = {}
        self._default_serializer: str | None = None
        # Content types whose decoder takes the body as bytes: of which
        # encodings (an empty set: of any).
        self._from_bytes: dict[str, frozenset[str | None]] = {}
        # Content types that are decoded only where they are accepted by name.
        self._restricted: set[str] = set()
        self._opted_in: set[str] = set()
        self._environment: str | None = None
        self._policy: frozenset[str] | None = None

    def register(
        self,
        name: str,
        encoder: Encoder | None,
        decoder: Decoder | None,
        content_type: str,
        content_encoding: str = "utf-8",
    ) -> None:
        """Add a serializer, or replace the one of that name or content type.

        :param encoder: ``encoder(data)`` returns the payload, ``str`` or ``bytes``;
            ``None``: the serializer only decodes.
        :param decoder: ``decoder(payload)`` returns the data; it is given ``str``,
            or ``bytes`` where the message's content encoding is ``binary``;
            ``None``: the serializer only encodes.
        :param content_encoding: a charset, or ``binary``.
        """
        key = content_type.lower()
        self._content_types[name] = key
        self._from_bytes.pop(key, None)
        self._restricted.discard(key)
        if encoder is not None:
            self._encoders[name] = (content_type, content_encoding, encoder)
        if decoder is not None:
            self._decoders[key] = decoder
        self._policy = None

    def unregister(self, name: str) -> None:
        """Forget a serializer.

        :raises SerializerNotInstalled: there is none of that name.
        """
        if name not in self._content_types:
            raise self._unknown(name)
        self._encoders.pop(name, None)
        self._decoders.pop(self._content_types.pop(name), None)
        self._policy = None

    def take_bytes(self, name: str, *encodings: str) -> None:
        """Hand the decoder the body as bytes, where it came in one of *encodings*.

        Without encodings: always.
        """
        self._from_bytes[self._content_types[name]] = frozenset(encodings)

    def restrict(self, name: str) -> None:
        """Decode what *name* encoded only where it is accepted by name."""
        self._restricted.add(self._content_types[name])
        self._policy = None

    def _set_default_serializer(self, name: str) -> None:
        """Choose what encodes data that is neither ``str`` nor ``bytes``.

        :raises SerializerNotInstalled: there is none of that name.
        """
        if name not in self._encoders:
            raise self._unknown(name)
        self._default_serializer = name

    def _unknown(self, name: object) -> SerializerNotInstalled:
        known = ", ".join(sorted([*self._encoders, "raw"]))
        return SerializerNotInstalled(
            f"no serializer {name!r} is registered; known are {known};"
            " add your own with carrot.serialization.registry.register()"
        )

    # -- encoding

    def encode(self, data: Any, serializer: str | None = None) -> tuple[str, str, bytes]:
        """Return the payload for *data*, and what it is.

        :param serializer: name; ``None``: ``bytes`` and ``str`` go as they are,
            all else by the default serializer.
        :returns: content type, content encoding, payload.
        :raises EncodeError: the serializer cannot express *data*.
        :raises SerializerNotInstalled: unknown, or its package is missing.
        """
        if not serializer:
            if isinstance(data, str):
                return TEXT, "utf-8", _text(data)
            if isinstance(data, (bytes, bytearray, memoryview)):
                return RAW, "binary", bytes(data)
            serializer = self._default_serializer
        elif serializer == "raw":
            return raw_encode(data)
        try:
            content_type, content_encoding, encoder = self._encoders[serializer]  # type: ignore[index]
        except (KeyError, TypeError):
            raise self._unknown(serializer) from None
        try:
            payload = encoder(data)
            if type(payload) is not bytes:
                payload = _as_bytes(payload, content_encoding)
        except SerializationError:
            raise
        except Exception as exc:
            raise _unencodable(data, serializer, exc) from exc
        return content_type, content_encoding, payload

    # -- decoding

    def decode(self, data: Any, content_type: str | None, content_encoding: str | None) -> Any:
        """Return what the payload says, whatever its serializer.

        Not restricted: it unpickles too. Give it only what you trust.

        :raises DecodeError: the payload is not what it is said to be.
        """
        return self._decode(data, content_type, content_encoding, self._decoders)

    def decode_accepted(
        self,
        data: Any,
        content_type: str | None,
        content_encoding: str | None,
        accept: frozenset[str] | None,
    ) -> Any:
        """Return what the payload says, if its serializer is accepted.

        Raw data, text and unknown content types are no serializer's, and
        always pass.

        :param accept: what :meth:`accepted` returned; ``None``: what the
            process accepts, all but pickle unless :meth:`accept` says more.
        :raises ContentDisallowed: the content type is not accepted.
        :raises DecodeError: the payload is not what it is said to be.
        """
        if accept is None:
            accept = self._policy or self._process_policy()
        # The common case without a detour: the exact content type and encoding.
        if (
            content_type in accept
            and content_encoding in self._from_bytes.get(content_type, ())
            and type(data) is bytes
        ):
            try:
                return self._decoders[content_type](data)
            except Exception as exc:
                raise _undecodable(data, content_type, content_encoding, exc) from exc
        return self._decode(data, content_type, content_encoding, accept)

    def _decode(
        self,
        data: Any,
        content_type: str | None,
        content_encoding: str | None,
        accept: Container[str],
    ) -> Any:
        try:
            key, encoding = self._resolve(content_type, content_encoding)
            decoder = self._decoders.get(key)
            if decoder is not None and key not in accept:
                raise self._disallowed(key)
            encodings = self._from_bytes.get(key)
            as_bytes = encoding in _BINARY or (
                encodings is not None and (not encodings or encoding in encodings)
            )
            if not isinstance(data, str):
                data = bytes(data) if as_bytes else str(data, encoding)
            return data if decoder is None else decoder(data)
        except (ContentDisallowed, DecodeError):
            raise
        except Exception as exc:
            raise _undecodable(data, content_type, content_encoding, exc) from exc

    def _resolve(
        self, content_type: str | None, content_encoding: str | None
    ) -> tuple[str, str]:
        """Return the key of the decoder and the encoding, from what peers write."""
        key = (content_type or RAW).strip().lower()
        charset = ""
        if key not in self._decoders and ";" in key:
            key, _, parameters = key.partition(";")
            key = key.strip()
            for parameter in parameters.split(";"):
                name, _, value = parameter.partition("=")
                if name.strip() == "charset":
                    charset = value.strip().strip('"')
        encoding = (content_encoding or charset or "utf-8").strip().lower()
        return key, "utf-8" if encoding in _UTF8 else encoding

    # -- what may be decoded

    def accepted(self, names: Iterable[str] | str | None) -> frozenset[str] | None:
        """Return the content types that *names* stand for.

        :param names: names of serializers or content types, or one string with
            commas; ``None``: what the process accepts.
        :raises ConfigurationError: a name is unknown.
        """
        if names is None:
            return None
        if isinstance(names, str):
            names = [name.strip() for name in names.split(",") if name.strip()]
        return frozenset(self._content_type(name) for name in names)

    def _content_type(self, name: object) -> str:
        if isinstance(name, str):
            found = self._content_types.get(name)
            if found is not None:
                return found
            if name == "raw":
                return RAW
            key = name.lower()
            if key in (RAW, TEXT) or key in self._decoders:
                return key
        known = ", ".join(sorted([*self._content_types, "raw"]))
        raise ConfigurationError(
            f"cannot accept {name!r}: it is neither a serializer nor the content type of"
            f" one; known are {known}; register your own before accepting them"
        )

    def accept(self, *names: str) -> None:
        """Decode what *names* encoded in the whole process, beside what is decoded already.

        :param names: names of serializers or content types.
        :raises ConfigurationError: a name is unknown.
        """
        self._opted_in |= self.accepted(names) or frozenset()
        self._policy = None

    def _process_policy(self) -> frozenset[str]:
        if self._environment is None:
            self._environment = os.environ.get(ACCEPT_VARIABLE, "").strip()
        if self._environment:
            allowed = self.accepted(self._environment) or frozenset()
        else:
            allowed = frozenset(self._decoders) - self._restricted
        self._policy = allowed | self._opted_in
        return self._policy

    def _disallowed(self, content_type: str) -> ContentDisallowed:
        name = next(
            (name for name, key in self._content_types.items() if key == content_type),
            content_type,
        )
        return ContentDisallowed(
            f"refused to decode content type {content_type!r}: serializer {name!r} is not"
            f" accepted here; to accept it, name it in accept=[...] of the Consumer,"
            f" ConsumerSet or BrokerConnection, or for the whole process by"
            f" carrot.serialization.accept({name!r}) or the environment variable"
            f" {ACCEPT_VARIABLE}=json,{name}"
        )


def _as_bytes(payload: Any, content_encoding: str) -> bytes:
    if isinstance(payload, str):
        return payload.encode(content_encoding)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"its encoder returned {type(payload).__name__}, not str or bytes")


def _unencodable(data: Any, serializer: str | None, exc: Exception) -> EncodeError:
    remedy = _REMEDIES.get(serializer or "", "send what its encoder takes")
    return EncodeError(
        f"serializer {serializer!r} cannot encode {type(data).__name__}: {exc}; {remedy}"
    )


def _undecodable(
    data: Any, content_type: str | None, content_encoding: str | None, exc: Exception
) -> DecodeError:
    cls = _PackageMissing if isinstance(exc, SerializerNotInstalled) else DecodeError
    excerpt = ""
    if isinstance(data, (bytes, str)):
        more = "..." if len(data) > _EXCERPT else ""
        excerpt = f": {data[:_EXCERPT]!r}{more} ({len(data)} long)"
    return cls(
        f"cannot decode the body as {content_type!r}, encoding {content_encoding!r}:"
        f" {type(exc).__name__}: {exc}{excerpt}",
        content_type,
        content_encoding,
        data,
    )
