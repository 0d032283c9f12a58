"""What ``ssl=`` may be, made into a context that verifies unless told not to."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

from carrot.exceptions import ConfigurationError

__all__ = ["TLS"]

_OPTIONS = frozenset(
    [
        "ca_certs",
        "ca_path",
        "certfile",
        "cert_reqs",
        "check_hostname",
        "ciphers",
        "context",
        "keyfile",
        "password",
        "server_hostname",
        "ssl_version",
        "tls_maximum_version",
        "tls_minimum_version",
    ]
)


class TLS:
    """How to secure a link.

    :param option: ``True``: verify chain and host name against the system's
        authorities; an :class:`ssl.SSLContext`: what it says; or a mapping of
        ``ca_certs``, ``certfile``, ``keyfile``, ``password`` (of the key),
        ``server_hostname``, ``check_hostname`` (``False`` accepts any name),
        ``cert_reqs`` (``ssl.CERT_NONE`` accepts anyone), ``ciphers``,
        ``tls_minimum_version``, ``tls_maximum_version``, ``context``.
    :raises ConfigurationError: an option is unknown, or a file unusable.
    """

    def __init__(self, option: Any) -> None:
        self.server_hostname: str | None = None
        if isinstance(option, ssl.SSLContext):
            self.context = option
        elif isinstance(option, Mapping):
            unknown = sorted(set(option) - _OPTIONS)
            if unknown:
                raise ConfigurationError(
                    f"ssl has no option {', '.join(map(repr, unknown))};"
                    f" known are {', '.join(sorted(_OPTIONS))}"
                )
            self.server_hostname = option.get("server_hostname")
            self.context = _context(option)
        elif option is True:
            self.context = ssl.create_default_context()
        else:
            raise ConfigurationError(
                "ssl is True, False, a dictionary or an ssl.SSLContext,"
                f" not {type(option).__name__}"
            )

    def wrap(self, sock: socket.socket, host: str) -> ssl.SSLSocket:
        """Return *sock* secured; the handshake is still to come.

        :param host: name to announce (SNI) and to find in the certificate.
        """
        return self.context.wrap_socket(
            sock,
            server_hostname=self.server_hostname or host,
            do_handshake_on_connect=False,
        )


def _context(option: Mapping[str, Any]) -> ssl.SSLContext:
    given = {name: value for name, value in option.items() if value is not None}
    try:
        context = given.get("context")
        if context is None:
            context = ssl.create_default_context(
                cafile=given.get("ca_certs"), capath=given.get("ca_path")
            )
        if "certfile" in given:
            context.load_cert_chain(
                given["certfile"], given.get("keyfile"), given.get("password")
            )
        if "ciphers" in given:
            context.set_ciphers(given["ciphers"])
        if "tls_minimum_version" in given:
            context.minimum_version = given["tls_minimum_version"]
        if "tls_maximum_version" in given:
            context.maximum_version = given["tls_maximum_version"]
        if "check_hostname" in given:
            context.check_hostname = bool(given["check_hostname"])
        if "cert_reqs" in given:
            if given["cert_reqs"] == ssl.CERT_NONE:
                context.check_hostname = False
            context.verify_mode = given["cert_reqs"]
    except (OSError, ValueError, TypeError) as exc:
        # ssl.SSLError is an OSError; none of them names the file.
        files = [
            given[name]
            for name in ("ca_certs", "ca_path", "certfile", "keyfile")
            if name in given
        ]
        raise ConfigurationError(f"ssl options are unusable: {exc} (files: {files})") from exc
    assert isinstance(context, ssl.SSLContext)
    return context
