"""`LocalRabbitMQ`: private RabbitMQ nodes, TLS, credentials, limits and alarms on request.

It knows how a node is configured without root and when it is ready; processes, ports and
faults are `base`'s. Erlang's port mapper, which a node would start as a daemon that
outlives everything, runs under a keeper of its own, one for each cluster.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .base import LocalBroker, Node, free_ports, wait_until

__all__ = ["LocalRabbitMQ", "find_rabbitmq"]

DEBIAN = Path("/usr/lib/rabbitmq/bin")
"""Where Debian has the scripts themselves; those in /usr/sbin change the user first."""

ERLANG = "/usr/lib/erlang"
"""Where Debian has Erlang, for an `epmd` that is not on PATH."""

GREETING_LIMIT = 1.0
"""Seconds for a node to greet a client that came."""

CTL_LIMIT = 60.0
"""Seconds for `rabbitmqctl`, which starts a virtual machine: one as a rule."""

ERROR_LINES = 12
"""Lines of a failed node's log that are shown."""

GREETING = b"AMQP\x00\x00\x09\x01"
"""What a client says first (AMQP 0-9-1, 4.2.2)."""

_QUIET = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
"""One scheduler that does not spin while it is idle: tests share few cores."""


def find_rabbitmq() -> Path:
    """Return the folder of RabbitMQ's scripts.

    Raises:
        FileNotFoundError: RabbitMQ, or Erlang's `epmd`, is not on this machine.
    """
    found = DEBIAN
    if not (found / "rabbitmq-server").exists():
        on_path = shutil.which("rabbitmq-server")
        if on_path is None:
            raise FileNotFoundError(
                f"no rabbitmq-server in {DEBIAN} or on PATH; `make brokers` brings it"
            )
        found = Path(on_path).resolve().parent
    _find_epmd()
    return found


def _find_epmd() -> str:
    found = shutil.which("epmd") or next(
        (str(path) for path in Path(ERLANG).glob("erts-*/bin/epmd")), None
    )
    if found is None:
        raise FileNotFoundError(
            "no epmd (of Erlang) on PATH; `make brokers` brings RabbitMQ with its Erlang"
        )
    return found


class LocalRabbitMQ(LocalBroker):
    """RabbitMQ with one node, or a cluster of three.

    A node that was paused for longer than Erlang's tick (60 s, or `tick`) does not come
    back to its cluster by `resume`: `kill` and `start` it.

    Args:
        nodes: 1 or 3.
        user: Who may log in and do everything; the URLs say so.
        password: See `user`.
        tls: A folder for which TLS is set up with `ca.pem`, `cert.pem` and `key.pem` in
            it (made with trustme, say); the URLs begin with `amqps://` and name the CA.
        max_message_size: Bytes of the largest message; None means RabbitMQ's default.
        tick: Seconds, `net_ticktime`: after about that long nodes give up a silent one.
        definitions: More users, permissions, vhosts and so on, in the form of RabbitMQ's
            definitions file; `user_definition` makes an entry of `users`.
        config: More lines for each node's configuration file.
    """

    stop_grace = 10.0
    ready_limit = 120.0

    def __init__(
        self,
        *,
        nodes: int = 1,
        user: str = "guest",
        password: str = "guest",  # noqa: S107 - RabbitMQ's own, on loopback
        tls: Path | None = None,
        max_message_size: int | None = None,
        tick: int | None = None,
        definitions: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        config: str = "",
    ) -> None:
        super().__init__(nodes=nodes)
        self._user = user
        self._password = password
        self._tls = tls
        self._max_message_size = max_message_size
        self._tick = tick
        self._definitions = definitions or {}
        self._config = config
        self._scripts = DEBIAN
        self._epmd: Node | None = None
        self._distribution: list[int] = []

    def ctl(self, *arguments: str, i: int = 0) -> str:
        """Run `rabbitmqctl` on a node, about a second, and return what it printed.

        Raises:
            RuntimeError: It failed; with its words.
        """
        command = [str(self._scripts / "rabbitmqctl"), "-q", "-n", _name(i), *arguments]
        done = subprocess.run(  # noqa: S603 - a test's own words
            self._with_environment(self._nodes[i], command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_LIMIT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"rabbitmqctl {arguments[0]}: {done.stderr or done.stdout}"
            )
        return done.stdout

    def alarm(self, i: int = 0) -> None:
        """Let a node think that its memory is full: nobody may publish."""
        self.ctl("set_vm_memory_high_watermark", "0", i=i)

    def end_alarm(self, i: int = 0) -> None:
        """Let a node think that its memory is free again."""
        self.ctl("set_vm_memory_high_watermark", "0.4", i=i)

    @staticmethod
    def user_definition(name: str, password: str, *tags: str) -> dict[str, Any]:
        """Return an entry of `definitions["users"]`."""
        salt = secrets.token_bytes(4)
        hashed = salt + hashlib.sha256(salt + password.encode()).digest()
        return {
            "name": name,
            "password_hash": base64.b64encode(hashed).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ",".join(tags),
            "limits": {},
        }

    def _prepare(self) -> None:
        self._scripts = find_rabbitmq()
        epmd_port, *self._distribution = free_ports(1 + self._count)
        home = self.folder / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(10))
        cookie.chmod(0o400)
        (self.folder / "defs.json").write_text(json.dumps(self._all_definitions()))
        for node in self._nodes:
            self._write(node)
        self._epmd = Node(-1, self.folder, epmd_port)
        # In the foreground, so that it ends with its keeper.
        command = [_find_epmd(), "-address", "127.0.0.1", "-port", str(epmd_port)]
        self._epmd.start(command, self.stop_grace)
        wait_until(lambda: _accepts(epmd_port), self.ready_limit, self._epmd.tail)

    def _all_definitions(self) -> dict[str, list[Any]]:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        found: dict[str, list[Any]] = {
            "users": [
                self.user_definition(self._user, self._password, "administrator")
            ],
            "vhosts": [{"name": "/"}],
            "permissions": [{"user": self._user, "vhost": "/", **everything}],
        }
        for kind, entries in self._definitions.items():
            found.setdefault(kind, []).extend(entries)
        return found

    def _write(self, node: Node) -> None:
        lines = [
            "loopback_users = none",
            "log.console.level = info",
            "disk_free_limit.absolute = 50MB",
            f"load_definitions = {self.folder}/defs.json",
        ]
        if self._tls is None:
            lines.append(f"listeners.tcp.1 = 127.0.0.1:{node.port}")
        else:
            lines += [
                "listeners.tcp = none",
                f"listeners.ssl.1 = 127.0.0.1:{node.port}",
                f"ssl_options.cacertfile = {self._tls}/ca.pem",
                f"ssl_options.certfile = {self._tls}/cert.pem",
                f"ssl_options.keyfile = {self._tls}/key.pem",
                "ssl_options.verify = verify_none",
            ]
        if self._max_message_size is not None:
            lines.append(f"max_message_size = {self._max_message_size}")
        if self._count > 1:
            lines += [
                "cluster_formation.peer_discovery_backend = classic_config",
                "cluster_partition_handling = pause_minority",
                *(
                    f"cluster_formation.classic_config.nodes.{n.number + 1} = "
                    f"{_name(n.number)}"
                    for n in self._nodes
                ),
            ]
        text = "\n".join([*lines, self._config, ""])
        (node.folder / "rabbitmq.conf").write_text(text, encoding="utf-8")
        (node.folder / "plugins").write_text("[].\n")

    def _command(self, node: Node) -> list[str]:
        return self._with_environment(node, [str(self._scripts / "rabbitmq-server")])

    def _with_environment(self, node: Node, command: list[str]) -> list[str]:
        """Run a command with the environment of a node, and nothing of ours."""
        assert self._epmd is not None
        erlang = f"-kernel inet_dist_use_interface {{127,0,0,1}} {_QUIET}"
        if self._tick is not None:
            erlang += f" -kernel net_ticktime {self._tick}"
        folder = node.folder
        variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.folder / "home"),
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the virtual machine
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP": str(folder / "crash"),
            "RABBITMQ_NODENAME": _name(node.number),
            "RABBITMQ_DIST_PORT": str(self._distribution[node.number]),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang,
        }
        assignments = [f"{name}={value}" for name, value in variables.items()]
        return ["env", "-i", *assignments, *command]

    def _log_of(self, node: Node) -> str:
        """What a node says first of an error; a crash report of pages follows it."""
        lines = node.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "[error]" in line][:ERROR_LINES]
        return "\n".join(errors) or node.tail()

    def _is_ready(self, node: Node) -> bool:
        return _greets(node.port, tls=self._tls is not None)

    def _url(self, node: Node, port: int) -> str:
        scheme = "amqp" if self._tls is None else "amqps"
        login = f"{quote(self._user, safe='')}:{quote(self._password, safe='')}"
        options = "" if self._tls is None else f"?tls_ca={self._tls}/ca.pem"
        return f"{scheme}://{login}@127.0.0.1:{port}{options}"

    def _stop_all(self) -> None:
        super()._stop_all()
        if self._epmd is not None:
            self._epmd.end()
            self._epmd = None


def _name(number: int) -> str:
    return f"n{number}@localhost"


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=GREETING_LIMIT).close()
    except OSError:
        return False
    return True


def _greets(port: int, *, tls: bool) -> bool:
    """Whether clients are served: the listeners are the last that a node starts."""
    try:
        with socket.create_connection(
            ("127.0.0.1", port), timeout=GREETING_LIMIT
        ) as plain:
            if not tls:
                return _answers(plain)
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with context.wrap_socket(plain) as secure:
                return _answers(secure)
    except OSError:
        return False


def _answers(client: socket.socket) -> bool:
    client.sendall(GREETING)
    return client.recv(1) == b"\x01"
