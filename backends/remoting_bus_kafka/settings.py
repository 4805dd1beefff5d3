"""What a Kafka URL may say: hosts, credentials, TLS and options, checked and typed.

It makes a frozen `Settings` of a URL. It opens nothing but the TLS files; `wire` and
`backend` do the rest.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Literal

from remoting_bus.bus.log import LOG_OPTIONS, Retention, retention_of
from remoting_bus.bus.options import (
    Option,
    count,
    one_of,
    read_options,
    seconds,
    switch,
    text,
    tls_context,
)
from remoting_bus.bus.urls import parse_url
from remoting_bus_kafka.topology import TopologyName

__all__ = ["Mechanism", "Settings", "parse"]

DEFAULT_PORT = 9092

CONNECT_TIMEOUT = 3.0
"""Seconds for one attempt at one broker: TCP, TLS, versions, login. A Java that has just
started takes one for its first TLS handshake on a busy machine."""

ANSWER_TIMEOUT = 2.0
"""Seconds for a broker's answer; past it the connection is given up. An answer of three
replicas takes 2 to 12 ms on a busy machine, so this is a broker that stands still."""

FETCH_WAIT = 1.0
"""Seconds that a broker holds a fetch while there is nothing. It answers at once when
there is (measured: 50 ms or 500 ms make no difference to a call), so the number is only
the load of an idle connection, and what a silent broker is noticed after, with
`ANSWER_TIMEOUT`."""

PING_INTERVAL = 5.0
"""Seconds between looks at who leads what, without a cause to look sooner."""

PARTITIONS = 16
"""Of each topic that all peers of a namespace share. A peer gets the records of all with
its partition; a partition costs a broker some files and kilobytes."""

RETENTION = 600.0
"""Seconds a message is kept: twice the default grace of a session. Past that nobody can
resume what the messages belong to."""

RETENTION_BYTES = 64 * 1024 * 1024
"""Bytes a partition keeps: 256 bulk envelopes. Who is behind by more has lost some, and
is sent them again by its session."""

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class Settings:
    """One URL, understood. Secrets do not show in its repr.

    Attributes:
        hosts: Name and port of the brokers to begin with, in the order given.
        user: Who we are; None where no login is wanted.
        password: As `user`.
        sasl: How we log in.
        tls: Speak TLS.
        tls_ca: A file of certificates to trust instead of the system's.
        tls_cert: This peer's certificate chain, with `tls_key`.
        topology: "partitions", or "topic" with topics for each peer.
        partitions: Of topics that we create; those that exist keep theirs.
        replication: Of topics that we create; 0 means three, or all brokers if less.
        acks: Who has a message before it counts as taken: "all" replicas that are in
            step, or the "leader".
        connect_timeout: Seconds; see `CONNECT_TIMEOUT`.
        answer_timeout: Seconds; see `ANSWER_TIMEOUT`.
        fetch_wait: Seconds; see `FETCH_WAIT`.
        ping_interval: Seconds; see `PING_INTERVAL`.
        max_bytes: The largest message; 0 means what the brokers say.
        retention: Seconds that our topics keep a message.
        retention_bytes: What each partition of our topics keeps.
        name: How brokers' logs show this connection.
        logs: What durable logs keep.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None = None
    password: str = field(default="", repr=False)
    sasl: Mechanism = "SCRAM-SHA-256"
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    topology: TopologyName = "partitions"
    partitions: int = PARTITIONS
    replication: int = 0
    acks: Literal["all", "leader"] = "all"
    connect_timeout: float = CONNECT_TIMEOUT
    answer_timeout: float = ANSWER_TIMEOUT
    fetch_wait: float = FETCH_WAIT
    ping_interval: float = PING_INTERVAL
    max_bytes: int = 0
    retention: float = RETENTION
    retention_bytes: int = RETENTION_BYTES
    name: str = "remoting_bus"
    logs: Retention = field(default_factory=Retention)

    @property
    def protocol(self) -> str:
        """What Kafka calls this way of speaking."""
        secure = "SSL" if self.tls else "PLAINTEXT"
        return secure if self.user is None else f"SASL_{secure}"

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS as the files say now; read in a thread. None without TLS.

        Raises:
            ConnectionFailed: A file cannot be read.
        """
        if not self.tls:
            return None
        return tls_context(self.tls_ca, self.tls_cert, self.tls_key)


_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_OPTIONS: dict[str, Option] = {
    "topology": (one_of("partitions", "topic"), "partitions or topic"),
    "partitions": (count, "a number above 0"),
    "replication": (count, "a number above 0"),
    "acks": (one_of("all", "leader"), "all or leader"),
    "sasl": (one_of(*_MECHANISMS), "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    "tls": (switch, "0 or 1"),
    "tls_ca": (text, "a file of certificates"),
    "tls_cert": (text, "a certificate file"),
    "tls_key": (text, "a key file"),
    "connect_timeout": (seconds, "seconds above 0"),
    "answer_timeout": (seconds, "seconds above 0"),
    "fetch_wait": (seconds, "seconds above 0"),
    "ping_interval": (seconds, "seconds above 0"),
    "max_bytes": (count, "a number of bytes above 0"),
    "retention": (seconds, "seconds above 0"),
    "retention_bytes": (count, "a number of bytes above 0"),
    "name": (text, "a text"),
}


def parse(url: str) -> Settings:
    """Understand `kafka://[user:password@]host[:port],host…[?option=value&…]`.

    Raises:
        ValueError: What is wrong, and what would be right. Secrets are not shown.
    """
    parts = parse_url(url)
    if parts.scheme != "kafka":
        raise ValueError(f"a Kafka URL begins with kafka://, not {parts.scheme}://")
    if parts.path:
        raise ValueError(
            "a Kafka URL has no path: kafka://host:port,host:port?option=value"
        )
    found = read_options(parts, _OPTIONS, LOG_OPTIONS)
    found["logs"] = retention_of(parts)
    secure = any(name.startswith("tls_") for name in found)
    if secure and not found.setdefault("tls", True):
        raise ValueError("options 'tls_…' of kafka:// contradict 'tls=0'")
    logins = {(h.user, h.password) for h in parts.hosts if h.user is not None}
    if len(logins) > 1:
        raise ValueError("a Kafka URL takes one user and password for all its hosts")
    if "sasl" in found and not logins:
        raise ValueError("option 'sasl' of kafka:// needs user:password@")
    for user, password in logins:
        if not user or password is None:
            raise ValueError("a Kafka URL wants both, user:password@")
        found.update(user=user, password=password)
    hosts = tuple((host.name, host.port or DEFAULT_PORT) for host in parts.hosts)
    return Settings(hosts=hosts, **found)
