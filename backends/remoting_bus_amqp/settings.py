"""What an AMQP URL may say: hosts, credentials, TLS and options, checked and typed.

It makes a frozen `Settings` of a URL, and the client's URL and TLS context of that. It
opens nothing but the TLS files; `link` does the rest.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import quote

from remoting_bus.bus.log import LOG_OPTIONS, Retention, retention_of
from remoting_bus.bus.options import (
    Option,
    count,
    one_of,
    read_options,
    seconds,
    text,
    tls_context,
)
from remoting_bus.bus.urls import parse_url
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
        return tls_context(self.tls_ca, self.tls_cert, self.tls_key)


def _age(value: str) -> float:
    age = seconds(value)
    if not 0.001 <= age < 2**31 / 1000:  # the broker's numbers are ms of 32 bits
        raise ValueError(value)
    return age


def _heartbeat(value: str) -> int:
    number = count(value)
    if number > 600:
        raise ValueError(value)
    return number


_OPTIONS: dict[str, Option] = {
    "topology": (
        one_of("classic", "quorum", "priority"),
        "classic, quorum or priority",
    ),
    "tls_ca": (text, "a file of certificates"),
    "tls_cert": (text, "a certificate file"),
    "tls_key": (text, "a key file"),
    "tls_hostname": (text, "a host name"),
    "heartbeat": (_heartbeat, "whole seconds from 1 to 600"),
    "connect_timeout": (seconds, "seconds above 0"),
    "name": (text, "a text"),
    "max_bytes": (count, "a number of bytes above 0"),
    "mailbox_bytes": (count, "a number of bytes above 0"),
    "mailbox_age": (_age, "seconds, at least 0.001 and less than 25 days"),
    "replicas": (count, "a number above 0"),
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
    found = read_options(parts, _OPTIONS, LOG_OPTIONS)
    found["logs"] = retention_of(parts)
    tls = parts.scheme == "amqps"
    if not tls and any(name.startswith("tls_") for name in found):
        raise ValueError("options of TLS need amqps://, not amqp://")
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
