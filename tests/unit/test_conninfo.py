"""Addresses: broker URLs, host lists, Django's settings; and no password in any text."""

from __future__ import annotations

import ssl
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carrot import conninfo
from carrot.conninfo import parse_url
from carrot.exceptions import ConfigurationError

# user, password, host, port, virtual host: the examples of RabbitMQ's URI
# specification (appendix A), absent parts as None, an absent virtual host as "/".
SPECIFIED = [
    ("amqp://user:pass@host:10000/vhost", ("user", "pass", "host", 10000, "vhost")),
    (
        "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
        ("usera", "apass", "hoast", 10000, "v/host"),
    ),
    ("amqp://", (None, None, None, None, "/")),
    ("amqp://:@/", ("", "", None, None, "")),
    ("amqp://user@", ("user", None, None, None, "/")),
    ("amqp://user:pass@", ("user", "pass", None, None, "/")),
    ("amqp://host", (None, None, "host", None, "/")),
    ("amqp://:10000", (None, None, None, 10000, "/")),
    ("amqp:///vhost", (None, None, None, None, "vhost")),
    ("amqp://host/", (None, None, "host", None, "")),
    ("amqp://host/%2f", (None, None, "host", None, "/")),
    ("amqp://[::1]", (None, None, "::1", None, "/")),
    # And beyond it.
    ("amqp://host//", (None, None, "host", None, "/")),
    ("AMQP://host", (None, None, "host", None, "/")),
    ("amqp://host:", (None, None, "host", None, "/")),
    ("amqp://[fe80::1%25eth0]:5673/x", (None, None, "fe80::1%eth0", 5673, "x")),
    ("amqp://ü:%C3%BC@bücher.example/%C3%BC", ("ü", "ü", "bücher.example", None, "ü")),
    ("amqp://a@b:c:d@host", ("a@b", "c:d", "host", None, "/")),
    ("amqps://host", (None, None, "host", 5671, "/")),
    ("amqps://host:5673", (None, None, "host", 5673, "/")),
    ("memory://", (None, None, None, None, "/")),
    ("memory://name/test", (None, None, "name", None, "test")),
]


@pytest.mark.parametrize(("url", "parts"), SPECIFIED)
def test_urls_mean_what_the_specification_says(url: str, parts: tuple[Any, ...]) -> None:
    """Each part of a URL is decoded, and told apart absent from empty."""
    info = parse_url(url)
    ((host, port),) = info.hosts
    assert (info.userid, info.password, host, port, info.virtual_host) == parts
    assert info.transport == ("memory" if url.startswith("memory") else "pyamqplib")
    assert info.ssl is url.startswith("amqps")
    assert info.options == {}


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(_TEXT, _TEXT, _TEXT)
def test_escaped_parts_come_back(userid: str, password: str, vhost: str) -> None:
    """Whatever is percent-encoded arrives as it was."""
    user, secret, path = (quote(part, safe="") for part in (userid, password, vhost))
    info = parse_url(f"amqp://{user}:{secret}@[::1]:5672/{path}")
    assert (info.userid, info.password, info.virtual_host) == (userid, password, vhost)


WRONG = [
    ("localhost/test", "begins with its scheme"),
    ("", "begins with its scheme"),
    ("://host", "begins with its scheme"),
    (None, "must be a str, not NoneType"),
    ([], "must be a str, not list"),
    ([5], "begins with its scheme"),
    ("http://host", "unknown scheme 'http'.* amqp, amqps, memory"),
    ("amqp://host:port", "port after a host is not a number"),
    ("amqp://host:-1", "port after a host is not a number"),
    ("amqp://host:٣", "port after a host is not a number"),
    ("amqp://host:0", "port after a host is not from 1 to 65535"),
    ("amqp://host:65536", "port after a host is not from 1 to 65535"),
    ("amqp://u:p@ho st", "host .* has a blank"),
    ("amqp://ho(st", "host .* is no name"),
    ("amqp://[::1", "IPv6 address is written"),
    ("amqp://[::1]5672", "IPv6 address is written"),
    ("amqp://[host]", "no IPv6 address"),
    ("amqp://us%er@host", "user .* % that is no escape.* %25"),
    ("amqp://user:100%@host", "password .* % that is no escape"),
    ("amqp://user:\ud800@host", "password .* has a blank"),
    ("amqp://user:%ff@host", "password .* not UTF-8"),
    ("amqp://host/%zz", "virtual host .* % that is no escape"),
    ("amqp://host/a/b", "virtual host .* one segment.* %2F"),
    ("amqp://host/vhost/", "virtual host .* one segment"),
    ("amqp://host/vhost#x", "fragment"),
    ("amqp://user:pa/ss@host", "@ .* stands after the host.* %40"),
    ("amqp://host?color=1", "unknown parameter 'color'.* heartbeat"),
    ("amqp://host?channel_max=5", "unknown parameter 'channel_max'"),
    ("amqp://host?heartbeat=soon", "heartbeat must be a whole number of seconds"),
    ("amqp://host?heartbeat=", "heartbeat must be a whole number"),
    ("amqp://host?connection_timeout=1.5", "connection_timeout .* milliseconds"),
    ("amqp://host?verify=verify_peer", "'verify' needs amqps://, not amqp://"),
    ("memory://?certfile=x", "'certfile' needs amqps://, not memory://"),
    ("amqps://host?verify=no", "verify must be verify_peer or verify_none, not 'no'"),
    ("amqps://host?auth_mechanism=external", "auth_mechanism 'external' is not supported"),
]


@pytest.mark.parametrize(("url", "said"), WRONG)
def test_the_wrong_part_is_named(url: Any, said: str) -> None:
    """A URL that cannot be is one ConfigurationError, which names the part at fault."""
    with pytest.raises(ConfigurationError, match=said):
        parse_url(url)


def test_parameters_become_options() -> None:
    """RabbitMQ's query parameters set our options: milliseconds become seconds."""
    info = parse_url(
        "amqps://host?heartbeat=5&connection_timeout=1500&auth_mechanism=PLAIN&verify=verify_peer"
        "&cacertfile=/etc/ca%2Bb.pem&certfile=c.pem&keyfile=k.pem&server_name_indication=mq"
    )
    assert info.options == {"heartbeat": 5, "connect_timeout": 1.5}
    assert info.ssl == {
        "ca_certs": "/etc/ca+b.pem",
        "certfile": "c.pem",
        "keyfile": "k.pem",
        "server_hostname": "mq",
    }
    assert parse_url("amqps://host?verify=verify_none").ssl == {"cert_reqs": ssl.CERT_NONE}
    assert parse_url("memory://?heartbeat=5&").options == {"heartbeat": 5}


def test_urls_to_try_in_turn() -> None:
    """Several hosts stand in one URL or in several, which must agree in all else."""
    hosts = (("a", 1), ("b", None), ("::1", 3))
    for urls in (
        "amqp://u:p@a:1,b,[::1]:3/x",
        "amqp://u:p@a:1/x;amqp://u:p@b/x ; amqp://u:p@[::1]:3/x",
        ["amqp://u:p@a:1/x", "amqp://u:p@b/x", "amqp://u:p@[::1]:3/x"],
    ):
        info = parse_url(urls)
        assert info.hosts == hosts
        assert (info.userid, info.password, info.virtual_host) == ("u", "p", "x")
    for other in ("amqp://v:p@b/x", "amqp://u:q@b/x", "amqp://u:p@b/y", "amqps://u:p@b/x"):
        with pytest.raises(
            ConfigurationError, match=r"agree in all but their hosts.* differ in"
        ):
            parse_url(["amqp://u:p@a/x", other])


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://user:{SECRET}@host:5672/vhost",
        [f"amqp://user:{SECRET}@host/a", f"amqp://user:{SECRET}@host/b"],
        f"amqp://user:{SECRET}@host/a;amqp://user:other@host/a",
        f"amqp://user:{SECRET}",
        f"amqp://user:{SECRET}/x@host",
        f"amqp://user:x@y?{SECRET}@host",
        f"amqp://user:x#{SECRET}@host",
        f"amqp://user:x%{SECRET}@host",
        f"amqp://user:{SECRET}@host:port/a/b?c",
        f"http://user:{SECRET}@host",
        f"user:{SECRET}@host",
        f"user:{SECRET}@host://",
    ],
)
def test_no_text_shows_a_password(url: Any) -> None:
    """Neither errors nor texts made of a URL, a right or a wrong one, have its password."""
    texts = [conninfo.redact(url)]
    for read in (parse_url, conninfo.host_list, lambda url: conninfo.settle({"hostname": url})):
        try:
            found = read(url)
        except ConfigurationError as exc:
            texts.append(str(exc))
        else:
            if isinstance(found, conninfo.ConnInfo):
                texts += [str(found), repr(found)]
    texts.append(conninfo.display(_connection(hostname=url)))
    assert not [text for text in texts if SECRET in text]


@given(st.text("aé:/?#@[]%;,.& \x00\ud800=5", max_size=20), st.sampled_from(["", "amqp://"]))
@example("@@@", "amqp://")
def test_any_text_is_read_or_refused(text: str, scheme: str) -> None:
    """Garbage is parsed or is a ConfigurationError, never anything else."""
    for read in (parse_url, conninfo.host_list, conninfo.redact):
        with suppress(ConfigurationError):
            read(scheme + text)


def test_redact_shows_all_but_the_password() -> None:
    """What is left of a URL without its password still tells where it leads."""
    assert (
        conninfo.redact(f"amqp://guest:{SECRET}@localhost") == "amqp://guest@localhost:5672//"
    )
    assert conninfo.redact("amqp://host:x") == "amqp://..."
    assert conninfo.redact(f"x{SECRET}://") == conninfo.redact(None) == "...://..."


# -- host lists


@pytest.mark.parametrize(
    ("hostname", "port", "hosts"),
    [
        (None, None, ((None, None),)),
        (None, 5673, ((None, 5673),)),
        ("", "", ((None, None),)),
        ([], None, ((None, None),)),
        ("localhost", "5673", (("localhost", 5673),)),
        ("localhost:5673", 5672, (("localhost", 5673),)),
        ("a; b:1 ,[::1]:2;::1", 9, (("a", 9), ("b", 1), ("::1", 2), ("::1", 9))),
        (["a", "b:1"], None, (("a", None), ("b", 1))),
        (("a", ""), None, (("a", None),)),
        ("amqp://u:p@a/x;amqp://u:p@b:1/x", 9, (("a", 9), ("b", 1))),
        ("/var/run/broker", None, (("/var/run/broker", None),)),
    ],
)
def test_host_lists(hostname: Any, port: Any, hosts: Any) -> None:
    """Hosts come in texts and lists; the port is that of those that say none."""
    assert conninfo.host_list(hostname, port) == hosts


@pytest.mark.parametrize(
    ("hostname", "port", "said"),
    [
        (5, None, "hostname must be a str or a list of them, not int"),
        (["a", 5], None, "a host must be a str, not int"),
        ("a:b", None, "port after a host is not a number"),
        ("a", "b", "port must be a number from 1 to 65535, not 'b'"),
        ("a", 0, "port must be"),
        ("a", True, "port must be"),
        ("a", 1.5, "port must be"),
        ("a:b:c", None, "no IPv6 address"),
    ],
)
def test_wrong_hosts_are_named(hostname: Any, port: Any, said: str) -> None:
    """What is no host or port is one ConfigurationError."""
    with pytest.raises(ConfigurationError, match=said):
        conninfo.host_list(hostname, port)


# -- what a connection was given


def _connection(**attributes: Any) -> Any:
    defaults = {
        "hostname": None,
        "port": None,
        "userid": None,
        "virtual_host": "/",
        "ssl": False,
        "backend_cls": None,
    }
    return SimpleNamespace(**{**defaults, **attributes})


class Backend:
    """A backend of the application's."""


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({}, "amqp://localhost:5672//"),
        ({"hostname": "mq", "port": 1, "userid": "guest"}, "amqp://guest@mq:1//"),
        ({"ssl": True, "virtual_host": "test"}, "amqps://localhost:5671/test"),
        ({"hostname": ["a", "::1"]}, "amqp://a:5672,[::1]:5672//"),
        ({"hostname": "amqp://u:p@a/x"}, "amqp://a:5672//"),
        ({"hostname": 5}, "amqp://?:5672//"),
        ({"backend_cls": "amqplib"}, "amqp://localhost:5672//"),
        ({"backend_cls": "memory"}, "memory://localhost//"),
        ({"backend_cls": "carrot.backends.queue.Backend"}, "memory://localhost//"),
        ({"backend_cls": "my.sql.Backend"}, "sql://localhost//"),
        ({"backend_cls": Backend}, "test_conninfo://localhost//"),
    ],
)
def test_display(attributes: dict[str, Any], text: str) -> None:
    """A connection's text is the URL it stands for, whatever it was given."""
    assert conninfo.display(_connection(**attributes)) == text


def test_display_can_be_read_again() -> None:
    """What is shown is a URL that leads to the same place."""
    shown = conninfo.display(_connection(hostname="a,[::1]:7", userid="u", virtual_host="/"))
    info = parse_url(shown)
    assert info.hosts == (("a", 5672), ("::1", 7))
    assert (info.userid, info.virtual_host) == ("u", "/")


def test_settle_leaves_plain_arguments() -> None:
    """Without a URL, arguments stay as they are; None is none; the port is a number."""
    assert conninfo.settle({"hostname": None, "password": None}) == {}
    given = {"hostname": "mq", "port": "1", "userid": "u", "virtual_host": "", "insist": False}
    assert conninfo.settle(given) == {**given, "port": 1}
    assert conninfo.settle({"port": 1}) == {"hostname": None, "port": 1}
    assert conninfo.settle({"hostname": "mq:5", "port": 1}) == {"hostname": "mq", "port": 5}


def test_settle_expands_urls() -> None:
    """A URL is replaced by its parts, and explicit arguments win over them."""
    url = "amqps://u:p@mq:1/test?heartbeat=5"
    assert conninfo.settle({"hostname": url}) == {
        "backend_cls": "pyamqplib",
        "hostname": "mq",
        "port": 1,
        "userid": "u",
        "password": "p",
        "virtual_host": "test",
        "ssl": True,
        "heartbeat": 5,
    }
    explicit = {"userid": "v", "port": 2, "heartbeat": 9, "ssl": False, "backend_cls": "my.B"}
    settled = conninfo.settle({"hostname": url, **explicit})
    assert explicit.items() <= settled.items()
    assert settled["hostname"] == "mq"
    assert conninfo.settle({"hostname": "memory://"}) == {
        "backend_cls": "memory",
        "virtual_host": "/",
    }


def test_settle_keeps_several_hosts() -> None:
    """Several hosts are kept apart; the first of them is hostname and port."""
    for hostname in ("a:1;b", "amqp://a:1,b", ["amqp://a:1", "amqp://b"]):
        settled = conninfo.settle({"hostname": hostname})
        assert (settled["hostname"], settled["port"]) == ("a", 1)
        assert settled["_hosts"] == (("a", 1), ("b", None))
    settled = conninfo.settle({"hostname": "amqp://a:1,b", "port": 7})
    assert settled["_hosts"] == (("a", 7), ("b", 7))


@pytest.mark.parametrize("name", ["userid", "password", "virtual_host"])
def test_settle_refuses_other_types(name: str) -> None:
    """Who we are is text; the error names the argument and not its value."""
    with pytest.raises(ConfigurationError, match=f"{name} must be a str, not int") as caught:
        conninfo.settle({name: 424242})
    assert "424242" not in str(caught.value)


# -- Django


def test_django_settings_are_all_optional() -> None:
    """No setting is needed; an empty one is none."""
    assert conninfo.from_django(SimpleNamespace()) == {}
    empty = SimpleNamespace(BROKER_HOST="", AMQP_PORT=None, BROKER_URL="")
    assert conninfo.from_django(empty) == {}


def test_django_settings_by_both_names() -> None:
    """The names of carrot 0.5 work as well as the later ones, which win."""
    old = {
        "AMQP_SERVER": "old",
        "AMQP_PORT": 1,
        "AMQP_USER": "u",
        "AMQP_PASSWORD": "p",
        "AMQP_VHOST": "/test",
    }
    expected = {
        "hostname": "old",
        "port": 1,
        "userid": "u",
        "password": "p",
        "virtual_host": "/test",
    }
    assert conninfo.from_django(SimpleNamespace(**old)) == expected
    new = {
        "BROKER_HOST": "new",
        "BROKER_PORT": 2,
        "BROKER_USER": "v",
        "BROKER_PASSWORD": "q",
        "BROKER_VHOST": "w",
        "CARROT_BACKEND": "memory",
        "CARROT_ACCEPT_CONTENT": ["json"],
    }
    assert conninfo.from_django(SimpleNamespace(**old, **new)) == {
        "hostname": "new",
        "port": 2,
        "userid": "v",
        "password": "q",
        "virtual_host": "w",
        "backend_cls": "memory",
        "accept": ["json"],
    }


def test_django_settings_win_over_the_url() -> None:
    """BROKER_URL says it all at once; what is said explicitly wins over its parts."""
    url = "amqp://u:p@a:1,b/x?heartbeat=3"
    assert conninfo.from_django(SimpleNamespace(BROKER_URL=url)) == {
        "backend_cls": "pyamqplib",
        "hostname": "a:1,b",
        "userid": "u",
        "password": "p",
        "virtual_host": "x",
        "heartbeat": 3,
    }
    explicit = SimpleNamespace(BROKER_URL=url, BROKER_PORT="7", AMQP_USER="v", BROKER_VHOST="y")
    found = conninfo.from_django(explicit)
    assert (found["hostname"], found["port"]) == ("a,b", "7")
    assert (found["userid"], found["password"], found["virtual_host"]) == ("v", "p", "y")
    with pytest.raises(ConfigurationError, match="unknown scheme"):
        conninfo.from_django(SimpleNamespace(BROKER_URL="redis://localhost"))
