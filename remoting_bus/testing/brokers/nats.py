"""`LocalNats`: private NATS servers with JetStream, TLS and credentials on request.

It knows how nats-server is configured and when it is ready; processes, ports and faults
are `base`'s.
"""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from remoting_bus_nats.server import find_server

from .base import LocalBroker, Node, free_ports

__all__ = ["LocalNats", "find_server"]

HTTP_LIMIT = 1.0
"""Seconds for an answer of the server."""


class LocalNats(LocalBroker):
    """NATS with one node, or a cluster of three.

    Args:
        nodes: 1 or 3.
        user: With `password`: who may log in; the URLs say so. Nobody else may.
        password: See `user`.
        token: Instead of user and password.
        tls: A folder for which TLS is set up with `ca.pem`, `cert.pem` and `key.pem` in
            it (made with trustme, say); the URLs begin with `tls://` and name the CA.
        jetstream: Whether it keeps streams.
        config: More lines for each node's configuration file.
    """

    def __init__(
        self,
        *,
        nodes: int = 1,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        tls: Path | None = None,
        jetstream: bool = True,
        config: str = "",
    ) -> None:
        super().__init__(nodes=nodes)
        self._user = user
        self._password = password
        self._token = token
        self._tls = tls
        self._jetstream = jetstream
        self._config = config
        self._http: list[int] = []
        self._routes: list[int] = []

    def reload(self, config: str, i: int = 0) -> None:
        """Replace a node's additional lines, and let it read its configuration again."""
        self._config = config
        self._write(self._nodes[i])
        self._nodes[i].send(signal.SIGHUP)

    def _prepare(self) -> None:
        self._http = free_ports(self._count)
        self._routes = free_ports(self._count)
        for node in self._nodes:
            self._write(node)

    def _write(self, node: Node) -> None:
        lines = [
            f"server_name: n{node.number}",
            "host: 127.0.0.1",
            f"port: {node.port}",
            f"http: 127.0.0.1:{self._http[node.number]}",
        ]
        if self._jetstream:
            lines += [
                f'jetstream {{ store_dir: "{node.folder}/js"',
                "  max_mem: 64MB, max_file: 1GB }",
            ]
        if self._count > 1:
            routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
            # Without advertising, clients stay behind the proxies they know.
            lines += [
                "cluster { name: local, host: 127.0.0.1, pool_size: 1",
                f"  port: {self._routes[node.number]}, no_advertise: true",
                f"  routes: [{routes}] }}",
            ]
        if self._token is not None:
            lines.append(f"authorization {{ token: {json.dumps(self._token)} }}")
        elif self._user is not None:
            who = f"user: {json.dumps(self._user)}"
            password = f"password: {json.dumps(self._password)}"
            lines.append(f"authorization {{ {who}, {password} }}")
        if self._tls is not None:
            files = [
                f'{key}_file: "{self._tls}/{key}.pem"' for key in ("ca", "cert", "key")
            ]
            lines.append(f"tls {{ {', '.join(files)}, timeout: 5 }}")
        text = "\n".join([*lines, self._config, ""])
        (node.folder / "nats.conf").write_text(text, encoding="utf-8")

    def _command(self, node: Node) -> list[str]:
        return [find_server(), "-c", str(node.folder / "nats.conf")]

    def _is_ready(self, node: Node) -> bool:
        http = f"http://127.0.0.1:{self._http[node.number]}"
        health = _get(f"{http}/healthz")
        if health is None or health.get("status") != "ok" or not _greets(node.port):
            return False
        if self._count == 1:
            return True
        cluster = (_get(f"{http}/jsz") or {}).get("meta_cluster")
        return (
            isinstance(cluster, dict)
            and bool(cluster.get("leader"))
            and cluster.get("cluster_size") == self._count
        )

    def _is_back(self, node: Node) -> bool:
        # The cluster's JetStream may be seconds from a new leader; clients are served.
        return _greets(node.port)

    def _url(self, node: Node, port: int) -> str:
        scheme = "nats" if self._tls is None else "tls"
        login = ""
        if self._token is not None:
            login = f"{quote(self._token, safe='')}@"
        elif self._user is not None:
            login = (
                f"{quote(self._user, safe='')}:{quote(self._password or '', safe='')}@"
            )
        options = "" if self._tls is None else f"?tls_ca={self._tls}/ca.pem"
        return f"{scheme}://{login}127.0.0.1:{port}{options}"


def _greets(port: int) -> bool:
    """Whether clients are served; the monitoring is, some milliseconds earlier."""
    try:
        with socket.create_connection(
            ("127.0.0.1", port), timeout=HTTP_LIMIT
        ) as client:
            return client.recv(4) == b"INFO"
    except OSError:
        return False


def _get(url: str) -> dict[str, object] | None:
    try:
        with urllib.request.urlopen(url, timeout=HTTP_LIMIT) as answer:  # noqa: S310
            found = json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return found if isinstance(found, dict) else None
