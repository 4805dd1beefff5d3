"""`LocalKafka`: private Kafka brokers without ZooKeeper, TLS and SASL on request.

It knows how Kafka is configured, formatted and when it is ready; processes, ports and
faults are `base`'s, the jars and what is made of them `kafka_files`'.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .base import LocalBroker, Node, free_ports
from .kafka_files import find_jars, find_java, made_folder

__all__ = ["LocalKafka", "Mechanism", "find_jars"]

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

ANSWER_LIMIT = 1.0
"""Seconds for an answer of a broker when it is asked whether it is ready."""

MAKE_LIMIT = 120.0
"""Seconds to start one broker slowly and end it, for the archive of its classes."""

FORMAT_LIMIT = 60.0
"""Seconds for a JVM that formats a folder; it takes one."""

JVM = [
    *("-Xms32m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"),
    # `info` is 1600 lines a start; failures to start are errors.
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-Djava.awt.headless=true"),
]

QUICK_FAILOVER = """\
broker.heartbeat.interval.ms=300
broker.session.timeout.ms=1500
controller.quorum.election.timeout.ms=400
controller.quorum.election.backoff.max.ms=400
controller.quorum.fetch.timeout.ms=1000
replica.lag.time.max.ms=2000
"""
"""A dead leader is replaced in 2 s instead of 10 (measured, with three nodes)."""

SMALL = """\
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=1048577
log.cleaner.threads=1
num.network.threads=2
num.io.threads=2
background.threads=2
"""
"""For little memory and quick starts. The cleaner's buffer alone is 128 MiB by default."""


class LocalKafka(LocalBroker):
    """Kafka with one node, or a cluster of three; each is broker and controller.

    Clients are told the proxies' addresses; the nodes talk to each other past them, so a
    node that is cut off is cut off from clients only, and stays a leader.

    Args:
        nodes: 1 or 3.
        user: With `password`: who may log in; the URLs say so. Nobody else may.
        password: See `user`.
        sasl: How users log in.
        tls: A folder for which TLS is set up with `ca.pem`, `cert.pem` and `key.pem` in
            it (made with trustme, say); the URLs name the CA.
        max_message_bytes: The largest batch that brokers take; None means Kafka's 1 MiB.
        heap: Megabytes for each node.
        config: More lines for each node's properties, one key a line.
    """

    stop_grace = 0.0  # a clean stop of three takes 6 s, and saves nothing here
    ready_limit = 60.0

    def __init__(
        self,
        *,
        nodes: int = 1,
        user: str | None = None,
        password: str | None = None,
        sasl: Mechanism = "SCRAM-SHA-256",
        tls: Path | None = None,
        max_message_bytes: int | None = None,
        heap: int = 192,
        config: str = "",
    ) -> None:
        super().__init__(nodes=nodes)
        self._user = user
        self._password = password or ""
        self._sasl = sasl
        self._tls = tls
        self._max_message_bytes = max_message_bytes
        self._heap = heap
        self._config = config
        self._jars: list[Path] = []
        self._made = Path()
        self._controllers: list[int] = []
        self._internal: list[int] = []

    def inner_url(self, i: int = 0) -> str:
        """A node's URL past its proxy, without TLS and login, with all rights.

        For what a test does to a broker behind the back of those who use `urls`.
        """
        return f"kafka://127.0.0.1:{self._internal[i]}"

    def _prepare(self) -> None:
        self._jars = find_jars()
        self._made = _make(self._jars)
        self._controllers = free_ports(self._count)
        self._internal = free_ports(self._count)
        if self._tls is not None:
            _write_keystore(self._tls, self.folder / "keystore.pem")
        for node in self._nodes:
            (node.folder / "properties").write_text(self._properties(node))
        self._format()

    def _properties(self, node: Node) -> str:
        number, replicas = node.number, min(3, self._count)
        protocol = ("SASL_" if self._user is not None else "") + (
            "PLAINTEXT" if self._tls is None else "SSL"
        )
        voters = ",".join(
            f"{each + 1}@127.0.0.1:{port}"
            for each, port in enumerate(self._controllers)
        )
        lines = [
            "process.roles=broker,controller",
            f"node.id={number + 1}",
            f"controller.quorum.voters={voters}",
            (
                f"listeners=CLIENT://127.0.0.1:{node.port},"
                f"CONTROLLER://127.0.0.1:{self._controllers[number]},"
                f"INTERNAL://127.0.0.1:{self._internal[number]}"
            ),
            (
                f"advertised.listeners=CLIENT://127.0.0.1:{self._proxy(number).port},"
                f"INTERNAL://127.0.0.1:{self._internal[number]}"
            ),
            (
                "listener.security.protocol.map="
                f"CLIENT:{protocol},CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT"
            ),
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=INTERNAL",
            f"log.dirs={node.folder}/data",
            f"default.replication.factor={replicas}",
            f"min.insync.replicas={1 if self._count == 1 else 2}",
            f"offsets.topic.replication.factor={replicas}",
            f"transaction.state.log.replication.factor={replicas}",
            f"share.coordinator.state.topic.replication.factor={replicas}",
        ]
        if self._user is not None:
            lines += self._sasl_lines()
        if self._tls is not None:
            lines += [
                "ssl.keystore.type=PEM",
                f"ssl.keystore.location={self.folder}/keystore.pem",
                "ssl.truststore.type=PEM",
                f"ssl.truststore.location={self._tls}/ca.pem",
            ]
        if self._max_message_bytes is not None:
            lines.append(f"message.max.bytes={self._max_message_bytes}")
        return "\n".join([*lines, SMALL + QUICK_FAILOVER, self._config, ""])

    def _sasl_lines(self) -> list[str]:
        module = "org.apache.kafka.common.security."
        module += "plain.Plain" if self._sasl == "PLAIN" else "scram.Scram"
        login = f"{module}LoginModule required"
        if self._sasl == "PLAIN":
            login += f' user_{self._user}="{self._password}"'
        name = f"listener.name.client.{self._sasl.lower()}.sasl.jaas.config"
        return [f"sasl.enabled.mechanisms={self._sasl}", f"{name}={login};"]

    def _format(self) -> None:
        """Write each node's folder as Kafka's own tool does, without starting it."""
        checkpoint = self._made / "bootstrap.checkpoint"
        if self._user is not None and self._sasl != "PLAIN":
            user = f"name={self._user},password={self._password}"
            checkpoint = _checkpoint(self._jars, self.folder, f"{self._sasl}=[{user}]")
        cluster = _id()
        for node in self._nodes:
            data = node.folder / "data"
            data.mkdir()
            shutil.copyfile(checkpoint, data / "bootstrap.checkpoint")
            (data / "meta.properties").write_text(
                f"version=1\ncluster.id={cluster}\nnode.id={node.number + 1}\n"
                f"directory.id={_id()}\n"
            )

    def _command(self, node: Node) -> list[str]:
        archive = f"-XX:SharedArchiveFile={self._made}/classes.jsa"
        properties = str(node.folder / "properties")
        options = [f"-Xmx{self._heap}m", archive]
        return _java(self._jars, options, "kafka.Kafka", properties)

    def _is_ready(self, node: Node) -> bool:
        port = self._internal[node.number]
        return _accepts(node.port) and _brokers_known(port) == self._count

    def _is_back(self, node: Node) -> bool:
        # Others may be down, or be killed meanwhile.
        port = self._internal[node.number]
        return _accepts(node.port) and _brokers_known(port) > 0

    def _url(self, node: Node, port: int) -> str:
        options, login = [], ""
        if self._user is not None:
            login = f"{quote(self._user, safe='')}:{quote(self._password, safe='')}@"
            options.append(f"sasl={self._sasl}")
        if self._tls is not None:
            options.append(f"tls_ca={self._tls}/ca.pem")
        query = f"?{'&'.join(options)}" if options else ""
        return f"kafka://{login}127.0.0.1:{port}{query}"


def _java(jars: list[Path], options: list[str], *arguments: str) -> list[str]:
    path = os.pathsep.join(map(str, jars))
    return [find_java(), *JVM, *options, "-cp", path, *arguments]


def _make(jars: list[Path]) -> Path:
    """The folder with the class archive and the checkpoint; made if it is not there."""
    made = made_folder(jars)
    if made.is_dir():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="making-", dir=made.parent))
    try:
        shutil.copyfile(_checkpoint(jars, work), work / "bootstrap.checkpoint")
        with _ForArchive(jars, work) as broker:
            broker.write_archive()
        for left in work.iterdir():
            if left.name not in ("classes.jsa", "bootstrap.checkpoint"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        with contextlib.suppress(OSError):  # another process was quicker
            work.rename(made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


class _ForArchive(LocalKafka):
    """A broker that runs once, slowly, to write the archive of its classes."""

    stop_grace = MAKE_LIMIT
    ready_limit = MAKE_LIMIT

    def __init__(self, jars: list[Path], work: Path) -> None:
        super().__init__()
        self._jars, self._made = jars, work

    def write_archive(self) -> None:
        self._nodes[0].end()  # the clean stop writes it
        archive = self._made / "classes.jsa"
        if not archive.exists():
            raise RuntimeError(f"Java wrote no class archive: {self.log()}")

    def _prepare(self) -> None:
        self._controllers, self._internal = free_ports(1), free_ports(1)
        node = self._nodes[0]
        (node.folder / "properties").write_text(self._properties(node))
        self._format()

    def _command(self, node: Node) -> list[str]:
        archive = f"-XX:ArchiveClassesAtExit={self._made}/classes.jsa"
        properties = str(node.folder / "properties")
        return _java(self._jars, ["-Xmx256m", archive], "kafka.Kafka", properties)


def _checkpoint(jars: list[Path], work: Path, scram: str | None = None) -> Path:
    """Format a folder for throwing away; its checkpoint fits any node of any cluster."""
    data = work / "formatted"
    shutil.rmtree(data, ignore_errors=True)
    properties = work / "format.properties"
    properties.write_text(
        "process.roles=broker,controller\nnode.id=1\n"
        "controller.quorum.voters=1@127.0.0.1:9\n"
        f"controller.listener.names=CONTROLLER\nlog.dirs={data}\n"
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n"
        "listeners=PLAINTEXT://127.0.0.1:8,CONTROLLER://127.0.0.1:9\n"
    )
    command = _java(
        jars,
        [],
        *("kafka.tools.StorageTool", "format", "-t", _id(), "-c", str(properties)),
        *(() if scram is None else ("--add-scram", scram)),
    )
    done = subprocess.run(  # noqa: S603 - our own command
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FORMAT_LIMIT,
        check=False,
    )
    found = data / "bootstrap.checkpoint"
    if done.returncode or not found.exists():
        raise RuntimeError(f"Kafka could not format a folder: {done.stdout[-2000:]}")
    return found


def _write_keystore(folder: Path, target: Path) -> None:
    """Key and chain in one file; Kafka reads PKCS#8 only."""
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    target.write_bytes(text + (folder / "cert.pem").read_bytes())


def _id() -> str:
    """A Kafka id: 16 random bytes in base64url, not beginning with '-'."""
    while True:
        text = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT):
            return True
    except OSError:
        return False


def _brokers_known(port: int) -> int:
    """How many brokers of the cluster a broker knows to be up; 0 if it cannot say.

    A Metadata request (key 3, version 1) for no topic, written by hand: this file must
    work without any client.
    """
    body = struct.pack(">hhih", 3, 1, 0, -1) + struct.pack(">i", 0)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT) as sock,
            sock.makefile("rb") as reader,
        ):
            sock.sendall(struct.pack(">i", len(body)) + body)
            head = reader.read(12)
    except OSError:
        return 0
    return int(struct.unpack(">iii", head)[2]) if len(head) == 12 else 0
