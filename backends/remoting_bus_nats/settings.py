"""What a NATS URL may say: hosts, credentials, TLS and options, checked and typed.

It makes a frozen `Settings` of a URL and the client's arguments of that. It opens
nothing but the TLS files; `wire` and `backend` do the rest.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from nats.aio.client import RawCredentials

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
from remoting_bus.errors import ConnectionFailed

__all__ = ["Host", "Settings", "parse"]

DEFAULT_PORT = 4222

PING_INTERVAL = 2.0
"""Seconds between pings. One may be unanswered, so a dead server is noticed in 2 to 4 s;
a thousand idle connections cost a server 500 pings a second."""

CONNECT_TIMEOUT = 2.0
"""Seconds for each step of one attempt at one host: TCP, TLS, greeting."""

MAILBOX_BYTES = 256 * 1024 * 1024
"""What all mailboxes of a namespace keep: a thousand bulk envelopes; the oldest go first.
The server sets it aside at once, so it must fit a small one."""

MAILBOX_AGE = 600.0
"""Seconds a message is kept: twice the default grace of a session. Past that nobody can
resume what the messages belong to."""


@dataclass(frozen=True, slots=True)
class Host:
    """One server that may be tried, with who we are there.

    A user without a password is a token, as in NATS's own URLs.
    """

    name: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """As the client wants it; credentials are given apart."""
        shown = f"[{self.name}]" if ":" in self.name else self.name
        return f"nats://{shown}:{self.port}"

    def __str__(self) -> str:
        return self.url.removeprefix("nats://")


@dataclass(frozen=True, slots=True)
class Settings:
    """One URL, understood. Secrets do not show in its repr.

    Attributes:
        hosts: In the order given.
        topology: "core", or "jetstream" with a mailbox for each peer.
        token: For hosts that say nothing of their own.
        nkey: A file with an nkey seed.
        creds: A file with a JWT and its seed, as `nsc` writes it.
        tls: Refuse to speak in the clear.
        tls_ca: A file of certificates to trust instead of the system's.
        tls_cert: This peer's certificate chain, with `tls_key`.
        tls_hostname: The name to expect in the server's certificate.
        ping_interval: Seconds; see `PING_INTERVAL`.
        connect_timeout: Seconds; see `CONNECT_TIMEOUT`.
        name: How the server's monitoring shows this connection.
        mailbox_bytes: The size of a namespace's mailboxes together.
        mailbox_age: Seconds a mailbox keeps a message.
        storage: Where mailboxes and logs live on the server.
        replicas: On how many servers they live.
        retention: What logs keep.
    """

    hosts: tuple[Host, ...]
    topology: Literal["core", "jetstream"] = "core"
    token: str | None = field(default=None, repr=False)
    nkey: str | None = None
    creds: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_hostname: str | None = None
    ping_interval: float = PING_INTERVAL
    connect_timeout: float = CONNECT_TIMEOUT
    name: str = "remoting_bus"
    mailbox_bytes: int = MAILBOX_BYTES
    mailbox_age: float = MAILBOX_AGE
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    retention: Retention = field(default_factory=Retention)

    @property
    def reads_files(self) -> bool:
        """Whether `client_options` reads files, and so belongs into a thread."""
        return self.tls or self.nkey is not None or self.creds is not None

    def client_options(self, host: Host) -> dict[str, Any]:
        """The arguments of the client's `connect` to a host, but for the callbacks.

        Files are read each time: what was renewed on disk is used by the next connect.

        Raises:
            ConnectionFailed: A file for TLS or credentials cannot be read.
        """
        login = host.user is not None
        token = login and host.password is None
        options: dict[str, Any] = {
            "servers": [host.url],
            "allow_reconnect": False,
            "connect_timeout": self.connect_timeout,
            "ping_interval": self.ping_interval,
            "max_outstanding_pings": 1,
            "name": self.name,
            "user": host.user if login and not token else None,
            "password": host.password,
            "token": host.user if token else None if login else self.token,
        }
        if self.nkey is not None:
            options["nkeys_seed_str"] = _secret_file("nkey", self.nkey)
        if self.creds is not None:
            options["user_credentials"] = RawCredentials(_creds_file(self.creds))
        if self.tls:
            options["tls"] = self._tls_context()
        if self.tls_hostname is not None:
            options["tls_hostname"] = self.tls_hostname
        return options

    def _tls_context(self) -> ssl.SSLContext:
        return tls_context(self.tls_ca, self.tls_cert, self.tls_key)


def _secret_file(what: str, path: str) -> str:
    if find_spec("nkeys") is None:
        raise ConnectionFailed(
            f'credentials by {what} need the package nkeys: pip install "nkeys"',
            final=True,
        )
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise ConnectionFailed(
            f"the {what} file {path!r}: {error}", final=True
        ) from error


def _creds_file(path: str) -> str:
    text = _secret_file("creds", path)
    for part in ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED"):
        if part not in text:  # what the client says of that helps nobody
            raise ConnectionFailed(
                f"the creds file {path!r} has no {part!r}: it is to hold a user's JWT and "
                "seed, as `nsc generate creds` writes them",
                final=True,
            )
    return text


_OPTIONS: dict[str, Option] = {
    "topology": (one_of("core", "jetstream"), "core or jetstream"),
    "token": (text, "a token"),
    "nkey": (text, "a file with an nkey seed"),
    "creds": (text, "a credentials file"),
    "tls_ca": (text, "a file of certificates"),
    "tls_cert": (text, "a certificate file"),
    "tls_key": (text, "a key file"),
    "tls_hostname": (text, "a host name"),
    "ping_interval": (seconds, "seconds above 0"),
    "connect_timeout": (seconds, "seconds above 0"),
    "name": (text, "a text"),
    "mailbox_bytes": (count, "a number of bytes above 0"),
    "mailbox_age": (seconds, "seconds above 0"),
    "storage": (one_of("file", "memory"), "file or memory"),
    "replicas": (count, "a number above 0"),
}


def parse(url: str) -> Settings:
    """Understand `nats://[user:password@|token@]host[:port],host…[?option=value&…]`.

    `tls://` is the same and refuses to speak in the clear, as any `tls_…` option does.

    Raises:
        ValueError: What is wrong, and what would be right. Secrets are not shown.
    """
    parts = parse_url(url)
    if parts.scheme not in ("nats", "tls"):
        raise ValueError(
            f"a NATS URL begins with nats:// or tls://, not {parts.scheme}://"
        )
    if parts.path:
        raise ValueError(
            "a NATS URL has no path: nats://host:port,host:port?option=value"
        )
    found = read_options(parts, _OPTIONS, LOG_OPTIONS)
    found["retention"] = retention_of(parts)
    # What one host says of the login holds for all that say nothing.
    login = next((h for h in parts.hosts if h.user is not None), None)
    ways = [way for way in ("token", "nkey", "creds") if way in found]
    if len(ways) + (login is not None) > 1:
        raise ValueError(
            "a NATS URL takes one of user:password@, token, nkey and creds"
        )
    hosts = tuple(
        Host(host.name, host.port or DEFAULT_PORT, who.user, who.password)
        for host in parts.hosts
        for who in [host if host.user is not None or login is None else login]
    )
    found["tls"] = parts.scheme == "tls" or any(n.startswith("tls_") for n in found)
    return Settings(hosts=hosts, **found)
