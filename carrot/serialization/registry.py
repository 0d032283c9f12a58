"""The registry: which serializer encodes what, and which may decode."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from typing import Any

from carrot.exceptions import (
    ConfigurationError,
    ContentDisallowed,
    EncodeError,
    SerializationError,
    SerializerNotInstalled,
)
from carrot.serialization.failures import undecodable, unencodable

__all__ = ["ACCEPT_VARIABLE", "SerializerRegistry", "raw_encode"]

#: Environment variable with the exact list of what a process decodes.
ACCEPT_VARIABLE = "CARROT_ACCEPT_CONTENT"

Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]

_RAW, _TEXT = "application/data", "text/plain"
_BINARY = frozenset(["binary", "ascii-8bit"])


def raw_encode(data: Any) -> tuple[str, str, bytes]:
    """Return *data* as it is: ``str`` as UTF-8 text, ``bytes`` as binary.

    :returns: content type, content encoding, payload.
    :raises EncodeError: *data* is neither.
    """
    if isinstance(data, str):
        return _RAW, "utf-8", _utf8(data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _RAW, "binary", bytes(data)
    raise EncodeError(
        f"raw data must be str or bytes, not {type(data).__name__};"
        ' encode it first, or choose a serializer ("json", "yaml", ...)'
    )


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        raise unencodable(text, "utf-8", exc) from exc


class SerializerRegistry:
    """Serializers by name, decoders by content type, and what may be decoded.

    Threads may share it; registering while others encode is safe.
    """

    def __init__(self) -> None:
        # By name: content type, content encoding, encoder.
        self._encoders: dict[str, tuple[str, str, Encoder]] = {}
        # By content type in lower case.
        self._decoders: dict[str, Decoder] = {}
        # By name: the key among the decoders.
        self._content_types: dict[str, str] = {}
        self._default_serializer: str | None = None
        # Content encodings in which a decoder takes the body undecoded.
        self._from_bytes: dict[str, frozenset[str | None]] = {}
        # Content types that are decoded only where they are accepted by name.
        self._restricted: set[str] = set()
        self._opted_in: set[str] = set()
        self._environment: str | None = None
        # What the process decodes; None until it is next asked for.
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
        key = content_type.strip().lower()
        if encoder is not None:
            self._encoders[name] = (content_type, content_encoding, encoder)
        if decoder is not None:
            # What was said of the decoder that this one replaces is void.
            self._from_bytes.pop(key, None)
            self._restricted.discard(key)
            self._decoders[key] = decoder
        self._content_types[name] = key
        self._policy = None

    def unregister(self, name: str) -> None:
        """Forget a serializer, and the decoder of its content type.

        :raises SerializerNotInstalled: there is none of that name.
        """
        if name not in self._content_types:
            raise self._unknown(name)
        self._encoders.pop(name, None)
        self._decoders.pop(self._content_types.pop(name), None)
        self._policy = None

    def take_bytes(self, name: str, *encodings: str) -> None:
        """Spare the decoder of *name* text: it takes bytes in these content encodings."""
        self._from_bytes[self._content_types[name]] = frozenset(encodings)

    def restrict(self, name: str) -> None:
        """Decode what *name* encoded only where that is accepted by name."""
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
        return SerializerNotInstalled(
            f"no serializer {name!r:.60} is registered; known are"
            f" {', '.join(sorted([*self._encoders, 'raw']))};"
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
            if type(data) is not dict:  # the common case need not be asked more
                if isinstance(data, str):
                    return _TEXT, "utf-8", _utf8(data)
                if isinstance(data, (bytes, bytearray, memoryview)):
                    return _RAW, "binary", bytes(data)
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
            raise unencodable(data, serializer, exc) from exc
        return content_type, content_encoding, payload

    # -- decoding

    def decode(self, data: Any, content_type: str | None, content_encoding: str | None) -> Any:
        """Return what the payload says, whatever its serializer.

        Not restricted: it unpickles too. Give it only what you trust.

        :raises DecodeError: the payload is not what it is said to be.
        """
        return self.decode_accepted(data, content_type, content_encoding, self._decoders)

    def decode_accepted(
        self,
        data: Any,
        content_type: str | None,
        content_encoding: str | None,
        accept: Container[str | None] | None,
    ) -> Any:
        """Return what the payload says, if its serializer is accepted.

        Raw data, text and unknown content types are no serializer's: they
        always pass, as text, or as bytes where the encoding is ``binary``.

        :param accept: what :meth:`accepted` returned; ``None``: what the
            process accepts, all but pickle unless :meth:`accept` says more.
        :raises ContentDisallowed: the content type is not accepted.
        :raises DecodeError: the payload is not what it is said to be.
        """
        if accept is None:
            accept = self._policy or self._process_policy()
        try:
            # The common case without a detour: spelled as we spell it.
            if (
                content_type in accept
                and content_encoding in self._from_bytes.get(content_type, ())  # type: ignore[arg-type]
                and type(data) is bytes
            ):
                return self._decoders[content_type](data)  # type: ignore[index]
            key, encoding = self._resolve(content_type, content_encoding)
            decoder = self._decoders.get(key)
            if decoder is None or key in accept:
                payload = data
                if not isinstance(data, str):
                    as_bytes = encoding in _BINARY or encoding in self._from_bytes.get(key, ())
                    payload = bytes(memoryview(data)) if as_bytes else str(data, encoding)
                return payload if decoder is None else decoder(payload)
        except Exception as exc:
            raise undecodable(data, content_type, content_encoding, exc) from exc
        raise self._disallowed(key)

    def _resolve(
        self, content_type: str | None, content_encoding: str | None
    ) -> tuple[str, str]:
        """Return the key of the decoder, and the encoding, from what peers write."""
        key = (content_type or _RAW).strip().lower()
        charset = None
        if ";" in key and key not in self._decoders:
            key, *parameters = (part.strip() for part in key.split(";"))
            pairs = dict(parameter.partition("=")[::2] for parameter in parameters)
            charset = pairs.get("charset", "").strip('"')
        encoding = (content_encoding or charset or "utf-8").strip().lower()
        return key, "utf-8" if encoding == "utf8" else encoding

    # -- what may be decoded

    def accepted(self, names: Iterable[str] | None) -> frozenset[str] | None:
        """Return the content types that *names* stand for.

        :param names: names of serializers or content types; or one string,
            with commas between them; ``None``: what the process accepts.
        :raises ConfigurationError: a name is unknown.
        """
        if names is None:
            return None
        if isinstance(names, str):
            names = filter(None, map(str.strip, names.split(",")))
        return frozenset(map(self._content_type, names))

    def _content_type(self, name: str) -> str:
        if isinstance(name, str):
            key = self._content_types.get(name, name.lower())
            if key in (_RAW, _TEXT) or key in self._decoders:
                return key
            if name == "raw":
                return _RAW
        raise ConfigurationError(
            f"cannot accept {name!r:.60}: it is no serializer, nor the content type of one;"
            f" known are {', '.join(sorted([*self._content_types, 'raw']))};"
            " register your own serializer before accepting it"
        )

    def accept(self, *names: str) -> None:
        """Decode what *names* encoded in the whole process, beside what it decodes already.

        :param names: names of serializers or content types.
        :raises ConfigurationError: a name is unknown.
        """
        self._opted_in.update(map(self._content_type, names))
        self._policy = None

    def _process_policy(self) -> frozenset[str]:
        # Not read before it is needed: until then the application may
        # register the serializers that it names.
        if self._environment is None:
            self._environment = os.environ.get(ACCEPT_VARIABLE, "").strip()
        if self._environment:
            try:
                allowed = self.accepted(self._environment) or frozenset()
            except ConfigurationError as exc:
                raise ConfigurationError(
                    f"in the environment variable {ACCEPT_VARIABLE}: {exc}"
                ) from None
        else:
            allowed = frozenset(self._decoders) - self._restricted
        self._policy = allowed | self._opted_in
        return self._policy

    def _disallowed(self, key: str) -> ContentDisallowed:
        names = (name for name, known in self._content_types.items() if known == key)
        name = next(names, key)
        return ContentDisallowed(
            f"refused to decode content type {key!r}: serializer {name!r} is not accepted"
            " here. To accept it, name it in the accept=[...] of the Consumer, ConsumerSet or"
            " BrokerConnection; or, for the whole process, call"
            f" carrot.serialization.accept({name!r}) or set the environment variable"
            f" {ACCEPT_VARIABLE}=json,{name} (in Django, the setting of that name)"
        )


def _as_bytes(payload: Any, content_encoding: str) -> bytes:
    if isinstance(payload, str):
        return payload.encode(content_encoding)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise TypeError(f"its encoder returned {type(payload).__name__}, not str or bytes")
