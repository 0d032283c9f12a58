"""Where the broker is and who we are, read from URLs, host lists and settings.

No error and no text made here shows a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv6Address
from typing import Any, NamedTuple

from carrot.exceptions import ConfigurationError

__all__ = [
    "ConnInfo",
    "Host",
    "display",
    "from_django",
    "host_list",
    "is_url",
    "parse_url",
    "redact",
    "settle",
]

Host = tuple["str | None", "int | None"]


class _Scheme(NamedTuple):
    backend: str
    tls: bool
    port: int | None


# Without a port amqp:// leaves it to the backend.
_SCHEMES = {
    "amqp": _Scheme("pyamqplib", False, None),
    "amqps": _Scheme("pyamqplib", True, 5671),
    "memory": _Scheme("memory", False, None),
}
_TLS_FILES = {"cacertfile": "ca_certs", "certfile": "certfile", "keyfile": "keyfile"}
_TLS_PARAMETERS = (*_TLS_FILES, "verify", "server_name_indication")
_PARAMETERS = ("heartbeat", "connection_timeout", "auth_mechanism", *_TLS_PARAMETERS)

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?P<fragment>\#.*)?",
    re.DOTALL,
)
_ENCODE_IT = (
    "; in a user, password or virtual host write @ : / ? # % as %40 %3A %2F %3F %23 %25"
)
# A comma or semicolon is legal inside a URL: it separates only before the next scheme.
_BETWEEN_URLS = re.compile(r"\s*[;,]\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_HOST_NAME = re.compile(r"[\w.-]*")


@dataclass(frozen=True)
class ConnInfo:
    """What a broker URL, or a list of them, says."""

    #: Alias of the backend: ``"pyamqplib"`` or ``"memory"``.
    transport: str
    #: Hosts to try in turn; ``None`` where the URL names none.
    hosts: tuple[Host, ...]
    userid: str | None = None
    password: str | None = field(default=None, repr=False)
    virtual_host: str = "/"
    #: ``True``, or a dictionary of TLS settings: ``ca_certs``, ``certfile``,
    #: ``keyfile``, ``cert_reqs``, ``server_hostname``.
    ssl: bool | dict[str, Any] = False
    #: Further options of the connection: ``heartbeat``, ``connect_timeout`` (seconds).
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        scheme = "memory" if self.transport == "memory" else "amqps" if self.ssl else "amqp"
        return _display(scheme, self.hosts, self.userid, self.virtual_host)

    def settings(self) -> dict[str, Any]:
        """Return keyword arguments of a connection; what is not said is left out."""
        hostname, port = self.hosts[0]
        if len(self.hosts) > 1:
            hostname, port = _hosts_text(self.hosts), None
        said = {
            "backend_cls": self.transport,
            "hostname": hostname,
            "port": port,
            "userid": self.userid,
            "password": self.password,
            "virtual_host": self.virtual_host,
            "ssl": self.ssl or None,
            **self.options,
        }
        return {name: value for name, value in said.items() if value is not None}


# -- URLs


def is_url(value: Any) -> bool:
    """Return whether *value* is a broker URL, or a list with one in it."""
    if isinstance(value, str):
        return "://" in value
    return isinstance(value, (list, tuple)) and any(is_url(item) for item in value)


def parse_url(url: Any) -> ConnInfo:
    """Return what a broker URL says.

    The rules are RFC 3986 and RabbitMQ's URI specification: the parts are
    percent-decoded; without a path the virtual host is ``/``; the path ``/``
    is the virtual host of the empty name, and ``/%2F`` is ``/``, which may
    also be written ``//``, as other libraries and our own texts do.

    :param url: ``amqp://user:password@host:port/vhost?heartbeat=10``, ``amqps://``
        or ``memory://``. Hosts to try in turn stand in one URL, with commas
        between them, or in several: in a list, or separated by ``;``. Several
        URLs have to agree in all but their hosts.
    :raises ConfigurationError: names the part that is wrong.
    """
    urls = _BETWEEN_URLS.split(url.strip()) if isinstance(url, str) else url
    if not isinstance(urls, (list, tuple)) or not urls:
        raise ConfigurationError(f"a broker URL must be a str, not {type(url).__name__}")
    infos = [_parse_one(one) for one in urls]
    first = infos[0]
    for other in infos[1:]:
        for part in ("transport", "userid", "password", "virtual_host", "ssl", "options"):
            if getattr(other, part) != getattr(first, part):
                raise ConfigurationError(
                    "broker URLs tried in turn must agree in all but their hosts:"
                    f" {first} and {other} differ in {part}"
                )
    return replace(first, hosts=tuple(host for info in infos for host in info.hosts))


def _parse_one(url: Any) -> ConnInfo:
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise ConfigurationError(
            "a broker URL begins with its scheme, as in amqp://user:password@host:5672/vhost;"
            f" known schemes are {', '.join(_SCHEMES)}"
        )
    name = match["scheme"].lower()
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise ConfigurationError(
            f"unknown scheme {name!r} in a broker URL; known are {', '.join(_SCHEMES)}"
        )
    if match["fragment"] is not None:
        raise ConfigurationError(f"a broker URL has no fragment (#...){_ENCODE_IT}")
    if "@" in url[match.end("authority") :]:
        # RFC 3986 lets it pass; but the one before is likely within a password,
        # and what follows that would be taken, and shown, for the host.
        raise ConfigurationError(f"an @ in a broker URL stands after the host{_ENCODE_IT}")
    userinfo, at, address = match["authority"].rpartition("@")
    user, colon, password = userinfo.partition(":")
    hosts = tuple(_url_host(item, scheme.port) for item in address.split(","))
    options, ssl = _parameters(match["query"] or "", name, scheme.tls)
    return ConnInfo(
        scheme.backend,
        hosts,
        _unquote(user, "user") if at else None,
        _unquote(password, "password") if colon else None,
        _virtual_host(match["path"]),
        ssl,
        options,
    )


def _url_host(address: str, default_port: int | None) -> Host:
    name, port = _host_and_port(address)
    if not address.startswith("["):
        name = _unquote(name, "host")
        if not _HOST_NAME.fullmatch(name):
            raise ConfigurationError(f"the host in a broker URL is no name{_ENCODE_IT}")
    return name or None, port or default_port


def _virtual_host(path: str | None) -> str:
    if path is None or path == "//":
        return "/"
    if "/" in path[1:]:
        raise ConfigurationError(
            "the virtual host of a broker URL is one segment: write a slash in it as %2F"
        )
    return _unquote(path[1:], "virtual host")


def _unquote(text: str, part: str) -> str:
    # Not urllib's: it lets wrong escapes and wrong UTF-8 pass.
    if re.search(r"[\x00-\x20\x7f\ud800-\udfff]|%(?![0-9A-Fa-f]{2})", text):
        raise ConfigurationError(
            f"the {part} in a broker URL has a blank, or a % that is no escape{_ENCODE_IT}"
        )
    raw = re.sub(rb"%(..)", lambda m: bytes.fromhex(m[1].decode()), text.encode())
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"the percent-encoded {part} in a broker URL is not UTF-8"
        ) from None


def _parameters(
    query: str, scheme: str, tls: bool
) -> tuple[dict[str, Any], bool | dict[str, Any]]:
    """Return the options and TLS settings that a query stands for.

    The names are those of RabbitMQ's "URI query parameters".
    """
    given: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if name not in _PARAMETERS:
            raise ConfigurationError(
                f"unknown parameter {name!r:.60} in a broker URL; known are"
                f" {', '.join(_PARAMETERS)}"
            )
        if name in _TLS_PARAMETERS and not tls:
            raise ConfigurationError(f"parameter {name!r} needs amqps://, not {scheme}://")
        given[name] = _unquote(value, name)
    options: dict[str, Any] = {}
    if "heartbeat" in given:
        options["heartbeat"] = _whole(given["heartbeat"], "heartbeat", "seconds")
    if "connection_timeout" in given:
        milliseconds = _whole(given["connection_timeout"], "connection_timeout", "milliseconds")
        options["connect_timeout"] = milliseconds / 1000
    if given.get("auth_mechanism", "plain").lower() != "plain":
        raise ConfigurationError(
            f"auth_mechanism {given['auth_mechanism']!r} is not supported; only plain is"
        )
    return options, _tls(given) if tls else False


def _tls(given: Mapping[str, str]) -> bool | dict[str, Any]:
    settings: dict[str, Any] = {
        ours: given[name] for name, ours in _TLS_FILES.items() if name in given
    }
    if "server_name_indication" in given:
        settings["server_hostname"] = given["server_name_indication"]
    verify = given.get("verify", "verify_peer")
    if verify == "verify_none":
        import ssl  # only here: connections without TLS need not load it

        settings["cert_reqs"] = ssl.CERT_NONE
    elif verify != "verify_peer":
        raise ConfigurationError(f"verify must be verify_peer or verify_none, not {verify!r}")
    return settings or True


def _whole(text: str, name: str, unit: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigurationError(f"{name} must be a whole number of {unit}, not {text!r:.60}")
    return int(text)


# -- hosts


def _host_and_port(address: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[IPv6]`` or ``[IPv6]:port``."""
    if address.startswith("["):
        literal, bracket, rest = address[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigurationError("an IPv6 address is written [address] or [address]:port")
        # RFC 6874: the % before a zone is written %25.
        literal = literal.replace("%25", "%")
        try:
            IPv6Address(literal)
        except AddressValueError:
            raise ConfigurationError("what stands in [...] is no IPv6 address") from None
        return literal, _port(rest[1:])
    host, _, port = address.partition(":")
    return host, _port(port)


def _port(text: str) -> int | None:
    # The text itself is not shown: it may be the rest of a password.
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ConfigurationError(f"the port after a host is not a number{_ENCODE_IT}")
    if not 1 <= int(text) <= 65535:
        raise ConfigurationError(f"the port after a host is not from 1 to 65535{_ENCODE_IT}")
    return int(text)


def _port_argument(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ConfigurationError(f"port must be a number from 1 to 65535, not {value!r:.60}")
    return value


def host_list(hostname: Any, port: Any = None) -> tuple[Host, ...]:
    """Return the hosts to try in turn, as pairs of name and port.

    :param hostname: name, address, ``host:port``; several in a list, or
        separated by ``;`` or ``,``; URLs, of which only the hosts count;
        ``None`` is one host without a name.
    :param port: for the hosts that say none.
    :raises ConfigurationError: it is none of these.
    """
    port = _port_argument(port)
    hosts: tuple[Host, ...]
    if is_url(hostname):
        hosts = parse_url(hostname).hosts
    else:
        items = re.split("[;,]", hostname) if isinstance(hostname, str) else hostname
        hosts = tuple(_hosts(items)) or ((None, None),)
    return tuple((name, port if own is None else own) for name, own in hosts)


def _hosts(items: Iterable[Any] | None) -> Iterable[Host]:
    if items is None:
        return
    if not isinstance(items, (list, tuple)):
        raise ConfigurationError(
            f"hostname must be a str or a list of them, not {type(items).__name__}"
        )
    for item in items:
        if not isinstance(item, str):
            raise ConfigurationError(f"a host must be a str, not {type(item).__name__}")
        item = item.strip()
        # More colons than one, and no brackets: a bare IPv6 address.
        if item.count(":") > 1 and not item.startswith("["):
            item = f"[{item}]"
        if item:
            yield _host_and_port(item)


def _hosts_text(hosts: Iterable[Host], port: int | None = None) -> str:
    def one(name: str, own: int | None) -> str:
        name = f"[{name}]" if ":" in name else name
        return f"{name}:{own}" if own else name

    return ",".join(one(name or "", own or port) for name, own in hosts)


# -- texts without passwords


def redact(url: Any) -> str:
    """Return a URL without its password, for errors and logs. Never raises."""
    try:
        return str(parse_url(url))
    except ConfigurationError:
        scheme = url.partition("://")[0] if isinstance(url, str) else ""
        return f"{scheme if scheme in _SCHEMES else '...'}://..."


def display(connection: Any) -> str:
    """Return a connection's address, as in ``amqp://guest@localhost:5672//``.

    Never shows the password, never raises.

    :param connection: anything with the attributes of a connection.
    """
    try:
        hosts = host_list(connection.hostname, connection.port)
    except ConfigurationError:
        hosts = (("?", None),)
    return _display(
        _scheme_of(connection.backend_cls, connection.ssl),
        hosts,
        connection.userid,
        connection.virtual_host,
    )


def _display(scheme: str, hosts: Iterable[Host], userid: Any, virtual_host: Any) -> str:
    port = {"amqp": 5672, "amqps": 5671}.get(scheme)
    address = _hosts_text([(name or "localhost", own) for name, own in hosts], port)
    user = f"{userid}@" if userid else ""
    return f"{scheme}://{user}{address}/{virtual_host}"


def _scheme_of(backend_cls: Any, ssl: Any) -> str:
    """Return the scheme for an alias, a dotted path, or a class."""
    name = (
        backend_cls if isinstance(backend_cls, str) else getattr(backend_cls, "__module__", "")
    )
    name = name.removesuffix(".Backend").rpartition(".")[2]
    if name in ("memory", "mem", "queue"):
        return "memory"
    if name in ("", "amqp", "amqplib", "pyamqplib"):
        return "amqps" if ssl else "amqp"
    return name


# -- what a connection was given


def settle(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a connection's arguments with URLs and host lists resolved.

    A URL in ``hostname`` is replaced by what it says; the other arguments win
    over its parts. Several hosts are the tuple ``_hosts``, of which
    ``hostname`` and ``port`` are the first.

    :param given: keyword arguments of a connection; ``None`` is not given.
    :raises ConfigurationError: one of them cannot be.
    """
    settled = {name: value for name, value in given.items() if value is not None}
    if is_url(settled.get("hostname")):
        said = parse_url(settled.pop("hostname")).settings()
        if "port" in settled:
            said["hostname"] = ";".join(
                name or "" for name, _ in host_list(said.get("hostname"))
            )
        settled = {**said, **settled}
    for name in ("userid", "password", "virtual_host"):
        if not isinstance(settled.get(name, ""), str):
            raise ConfigurationError(
                f"{name} must be a str, not {type(settled[name]).__name__}"
            )
    if "hostname" in settled or "port" in settled:
        hosts = host_list(settled.get("hostname"), settled.get("port"))
        settled["hostname"], settled["port"] = hosts[0]
        if len(hosts) > 1:
            settled["_hosts"] = hosts
    return settled


def _override(url: Any, explicit: dict[str, Any]) -> dict[str, Any]:
    """Return what a URL says, but for what is said explicitly."""
    info = parse_url(url)
    if "port" in explicit:
        info = replace(info, hosts=tuple((name, None) for name, _ in info.hosts))
    return {**info.settings(), **explicit}


_DJANGO = {
    "hostname": ("BROKER_HOST", "AMQP_SERVER"),
    "port": ("BROKER_PORT", "AMQP_PORT"),
    "userid": ("BROKER_USER", "AMQP_USER"),
    "password": ("BROKER_PASSWORD", "AMQP_PASSWORD"),
    "virtual_host": ("BROKER_VHOST", "AMQP_VHOST"),
    "backend_cls": ("CARROT_BACKEND",),
    "accept": ("CARROT_ACCEPT_CONTENT",),
}


def from_django(settings: Any) -> dict[str, Any]:
    """Return what Django's settings say of the connection, as keyword arguments.

    Every setting is optional, and an empty one is none. ``BROKER_*`` wins
    over ``AMQP_*``, and both win over the parts of ``BROKER_URL``.

    :param settings: any object with the settings as attributes.
    :raises ConfigurationError: ``BROKER_URL`` cannot be read.
    """
    found = {}
    for name, candidates in _DJANGO.items():
        values = (getattr(settings, candidate, None) for candidate in candidates)
        value = next((value for value in values if value not in (None, "")), None)
        if value is not None:
            found[name] = value
    url = getattr(settings, "BROKER_URL", None)
    return _override(url, found) if url else found
