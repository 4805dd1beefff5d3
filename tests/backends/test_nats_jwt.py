"""Logging in with a credentials file: an operator's server, an account, a user's JWT."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nkeys
import pytest

from remoting_bus.errors import ConnectionFailed
from remoting_bus.names import Address, Lane
from remoting_bus.testing.brokers import LocalNats
from remoting_bus_nats import NatsBackend

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("nats"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 20.0
NO_LIMITS = {"subs": -1, "data": -1, "payload": -1}


@dataclass
class Key:
    """An nkey pair: who signs, or is signed."""

    seed: bytes
    pair: Any

    @classmethod
    def new(cls, prefix: int) -> Key:
        seed = nkeys.encode_seed(os.urandom(32), prefix)
        return cls(bytes(seed), nkeys.from_seed(bytearray(seed)))

    @property
    def public(self) -> str:
        name: str = bytes(self.pair.public_key).decode()
        return name

    def sign(self, subject: Key, name: str, **nats: Any) -> str:
        """Return a JWT: this key says something of another one."""
        expires = nats.pop("expires", None)
        claims: dict[str, Any] = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": {"version": 2, **nats},
        }
        if expires is not None:
            claims["exp"] = int(time.time() + expires)
        claims["jti"] = hashlib.sha256(json.dumps(claims).encode()).hexdigest()
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        parts = [_base64(json.dumps(part).encode()) for part in (header, claims)]
        text = ".".join(parts)
        return f"{text}.{_base64(self.pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Operator:
    """Who runs the server: it trusts the accounts that this one has signed."""

    def __init__(self) -> None:
        key = Key.new(nkeys.PREFIX_BYTE_OPERATOR)
        self.account = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)
        system = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {
            **NO_LIMITS,
            "imports": -1,
            "exports": -1,
            "conn": -1,
            "leaf": -1,
            "wildcards": True,
        }
        storage = {
            "mem_storage": -1,
            "disk_storage": -1,
            "streams": -1,
            "consumer": -1,
        }
        own = key.sign(key, "operator", type="operator", system_account=system.public)
        accounts = {
            self.account.public: key.sign(
                self.account, "fleet", type="account", limits={**limits, **storage}
            ),
            system.public: key.sign(system, "SYS", type="account", limits=limits),
        }
        preload = "\n".join(f"  {name}: {jwt}" for name, jwt in accounts.items())
        self.config = (
            f"operator: {own}\nresolver: MEMORY\n"
            f"system_account: {system.public}\n"
            f"resolver_preload {{\n{preload}\n}}"
        )

    def creds(
        self, name: str, *, by: Key | None = None, expires: float | None = None
    ) -> str:
        """Return the credentials file of a user who may write as itself only."""
        user = Key.new(nkeys.PREFIX_BYTE_USER)
        jwt = (by or self.account).sign(
            user,
            name,
            type="user",
            expires=expires,
            pub={"allow": [f"rb.ns.*.*.{name}"]},
            sub={"allow": [f"rb.ns.{name}.>"]},
            **NO_LIMITS,
        )
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "-----BEGIN USER NKEY SEED-----\n"
            f"{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )


@pytest.fixture(scope="module")
def operator() -> Operator:
    return Operator()


@pytest.fixture(scope="module")
def server(operator: Operator) -> Iterator[LocalNats]:
    with LocalNats(config=operator.config) as running:
        yield running


def url(server: LocalNats, path: Path, text: str) -> str:
    """Return a URL whose credentials stand in a file."""
    path.write_text(text, encoding="ascii")
    return f"{server.urls[0]}?creds={path}"


async def test_a_credentials_file_logs_in(
    server: LocalNats, operator: Operator, tmp_path: Path
) -> None:
    """What the account signed is enough, and both may do what their JWT says."""
    writer = url(server, tmp_path / "writer.creds", operator.creds("writer"))
    reader = url(server, tmp_path / "reader.creds", operator.creds("reader"))
    came: asyncio.Queue[tuple[bytes, Lane]] = asyncio.Queue()
    async with (
        asyncio.timeout(LIMIT),
        NatsBackend().open(writer) as here,
        NatsBackend().open(reader) as there,
        there.consume(
            Address("ns", "reader"),
            [Lane.CALL],
            prefetch=8,
            deliver=lambda body, lane: came.put_nowait((body, lane)),
        ),
    ):
        await here.publish(Address("ns", "reader", "writer"), Lane.CALL, b"signed")
        assert await came.get() == (b"signed", Lane.CALL)
        forged = Address("ns", "reader", "somebody")
        async with here.link_events() as events:
            await here.publish(forged, Lane.CALL, b"forged")
            async for event in events:
                if event.state == "lost":
                    assert "somebody" in event.cause
                    break
        assert came.empty()


async def test_credentials_of_somebody_else_are_refused(
    server: LocalNats, operator: Operator, tmp_path: Path
) -> None:
    """Signed by an account that the operator does not know, or with another's seed."""
    stranger = Key.new(nkeys.PREFIX_BYTE_ACCOUNT)
    jwt_of_one, seed_of_other = operator.creds("a"), operator.creds("b")
    mixed = jwt_of_one.partition("-----BEGIN USER")[0] + "".join(
        seed_of_other.partition("-----BEGIN USER")[1:]
    )
    for number, text in enumerate([operator.creds("a", by=stranger), mixed]):
        bad = url(server, tmp_path / f"{number}.creds", text)
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ConnectionFailed, match="refuses the credentials"):
                async with NatsBackend().open(bad):
                    pass


@pytest.mark.parametrize("text", ["", "no credentials at all\n"])
async def test_a_file_that_holds_no_credentials_is_named(
    server: LocalNats, tmp_path: Path, text: str
) -> None:
    """It is an error that names the file, not a retry for ever."""
    bad = url(server, tmp_path / "bad.creds", text)
    async with asyncio.timeout(LIMIT):
        with pytest.raises(ConnectionFailed, match=r"bad\.creds"):
            async with NatsBackend().open(bad):
                pass
    with pytest.raises(ConnectionFailed, match=r"none\.creds"):
        async with NatsBackend().open(f"{server.urls[0]}?creds={tmp_path}/none.creds"):
            pass


async def test_credentials_that_expire_are_read_again(
    server: LocalNats, operator: Operator, tmp_path: Path
) -> None:
    """The server cuts the connection at its second; what stands in the file then counts."""
    path = tmp_path / "writer.creds"
    short = url(server, path, operator.creds("writer", expires=2.0))
    async with (
        asyncio.timeout(LIMIT),
        NatsBackend().open(short) as bus,
        bus.link_events() as events,
    ):
        path.write_text(operator.creds("writer"), encoding="ascii")
        states: list[str] = []
        async for event in events:
            states.append(event.state)
            assert event.state != "failed", event.cause
            if "down" in states and event.state == "up":
                break
        await bus.publish(Address("ns", "reader", "writer"), Lane.CALL, b"again")
