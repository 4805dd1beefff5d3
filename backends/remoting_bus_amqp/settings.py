"""What an AMQP URL may say: hosts, credentials, TLS and options, checked and typed.

It makes a frozen `Settings` of a URL, and the client's URL and TLS context of that. It
opens nothing but the TLS files; `link` does the rest.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from remoting_bus.bus.log import LOG_OPTIONS, Retention, retention_of
from remoting_bus.bus.urls import parse_url
from remoting_bus.errors import ConnectionFailed
from remoting_bus_amqp.topology import Topology

__all__ = ["Host", "Settings", "parse"]

DEFAULT_PORT = 5672
DEFAULT_TLS_PORT = 5671

HEARTBEAT = 4
"""Seconds, negotiated with the broker. It says something every two, so a dead one is
noticed after 5; it drops a connection whose loop stands still for 8 to 12."""

CONNECT_TIMEOUT = 2.0
"""Seconds for each step of one attempt at one host: TCP and TLS, greeting, channels."""

MAX_BYTES = 512 * 1024
"""The largest body unless the URL says otherwise or the broker takes less: twice the
largest envelope. RabbitMQ's own limit (128 MiB) is no size for one message of many."""

MAILBOX_BYTES = 64 * 1024 * 1024
"""What one queue keeps: 250 bulk envelopes; the oldest go first."""

MAILBOX_AGE = 600.0
"""Seconds a mailbox keeps a message, and stays itself when nobody reads it: twice the
default grace of a session. Past that nobody can resume what the messages belong to."""


@dataclass(frozen=True, slots=True)
class Host:
    """One node that may be tried, with who we are there."""

    name: str
    port: int
    user: str = "guest"
    password: str = field(default="guest", repr=False)

    def __str__(self) -> str:
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return f"{shown}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """One URL, understood. Secrets do not show in its repr.

    Attributes:
        hosts: In the order given.
        vhost: RabbitMQ's virtual host.
        topology: What queues readers have; see `topology`.
        tls: Speak TLS.
        tls_ca: A file of certificates to trust instead of the system's.
        tls_cert: This peer's certificate chain, with `tls_key`.
        tls_hostname: The name to expect in the broker's certificate.
        heartbeat: Seconds; see `HEARTBEAT`.
        connect_timeout: Seconds; see `CONNECT_TIMEOUT`.
        name: How the broker's monitoring shows this connection.
        max_bytes: The largest body; None means to ask the broker.
        mailbox_bytes: What one queue keeps.
        mailbox_age: Seconds a mailbox keeps a message.
        replicas: On how many nodes a mailbox or log lives; None means as the broker likes.
        logs: What durable logs keep.
    """

    hosts: tuple[Host, ...]
    vhost: str = "/"
    topology: Topology = "classic"
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_hostname: str | None = None
    heartbeat: int = HEARTBEAT
    connect_timeout: float = CONNECT_TIMEOUT
    name: str = "remoting_bus"
    max_bytes: int | None = None
    mailbox_bytes: int = MAILBOX_BYTES
    mailbox_age: float = MAILBOX_AGE
    replicas: int | None = None
    logs: Retention = field(default_factory=Retention)

    def client_url(self, host: Host) -> str:
        """The client's own URL of a host; the virtual host is given apart."""
        login = f"{quote(host.user, safe='')}:{quote(host.password, safe='')}"
        options = f"heartbeat={self.heartbeat}&name={quote(self.name, safe='')}"
        return f"{'amqps' if self.tls else 'amqp'}://{login}@{host}/?{options}"

    def tls_context(self) -> ssl.SSLContext:
        """The context of a TLS connection; reads files, so it belongs into a thread.

        They are read each time: what was renewed on disk is used by the next connect.

        Raises:
            ConnectionFailed: A file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert is not None:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(
                f for f in (self.tls_ca, self.tls_cert, self.tls_key) if f
            )
            raise ConnectionFailed(f"TLS files {files}: {error}") from error
        return context


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 < seconds < float("inf"):
        raise ValueError(value)
    return seconds


def _age(value: str) -> float:
    seconds = _seconds(value)
    if not 0.001 <= seconds < 2**31 / 1000:  # the broker's numbers are ms of 32 bits
        raise ValueError(value)
    return seconds


def _count(value: str) -> int:
    count = int(value)
    if count <= 0:
        raise ValueError(value)
    return count


def _heartbeat(value: str) -> int:
    seconds = _count(value)
    if seconds > 600:
        raise ValueError(value)
    return seconds


def _one_of(*allowed: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in allowed:
            raise ValueError(value)
        return value

    return check


def _text(value: str) -> str:
    if not value:
        raise ValueError(value)
    return value


_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "topology": (
        _one_of("classic", "quorum", "priority"),
        "classic, quorum or priority",
    ),
    "tls_ca": (_text, "a file of certificates"),
    "tls_cert": (_text, "a certificate file"),
    "tls_key": (_text, "a key file"),
    "tls_hostname": (_text, "a host name"),
    "heartbeat": (_heartbeat, "whole seconds from 1 to 600"),
    "connect_timeout": (_seconds, "seconds above 0"),
    "name": (_text, "a text"),
    "max_bytes": (_count, "a number of bytes above 0"),
    "mailbox_bytes": (_count, "a number of bytes above 0"),
    "mailbox_age": (_age, "seconds, at least 0.001 and less than 25 days"),
    "replicas": (_count, "a number above 0"),
}


def parse(url: str) -> Settings:
    """Understand `amqp://[user:password@]host[:port],host…[/vhost][?option=value&…]`.

    `amqps://` is the same over TLS. Without a virtual host it is "/", as it is with an
    empty one.

    Raises:
        ValueError: What is wrong, and what would be right. Secrets are not shown.
    """
    parts = parse_url(url)
    if parts.scheme not in ("amqp", "amqps"):
        raise ValueError(
            f"an AMQP URL begins with amqp:// or amqps://, not {parts.scheme}://"
        )
    parts.check_options(_OPTIONS.keys() | LOG_OPTIONS)
    found: dict[str, Any] = {"logs": retention_of(parts)}
    for name, value in parts.options.items():
        if name in LOG_OPTIONS:
            continue
        convert, wanted = _OPTIONS[name]
        try:
            found[name] = convert(value)
        except ValueError:
            raise ValueError(
                f"option {name!r} of {parts.scheme}:// wants {wanted}"
            ) from None
    tls = parts.scheme == "amqps"
    if not tls and any(name.startswith("tls_") for name in found):
        raise ValueError("options of TLS need amqps://, not amqp://")
    if ("tls_key" in found) > ("tls_cert" in found):
        raise ValueError("option 'tls_key' of amqps:// needs 'tls_cert' too")
    # What one host says of the login holds for all that say nothing.
    login = next((h for h in parts.hosts if h.user is not None), None)
    port = DEFAULT_TLS_PORT if tls else DEFAULT_PORT
    hosts = []
    for host in parts.hosts:
        who = host if host.user is not None or login is None else login
        place = (host.name, host.port or port)
        if who.user is None:
            hosts.append(Host(*place))
        else:
            hosts.append(Host(*place, who.user, who.password or ""))
    return Settings(hosts=tuple(hosts), vhost=parts.path or "/", tls=tls, **found)
