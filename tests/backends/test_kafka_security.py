"""The Kafka driver's logins, TLS and rights, on real brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from remoting_bus.errors import ConnectionFailed, SecurityError
from remoting_bus.names import Address, Lane
from remoting_bus.testing.brokers import LocalKafka
from remoting_bus_kafka import KafkaBackend

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("kafka"),
    pytest.mark.usefixtures("no_blocking"),
]

TO = Address("ns", "reader", "writer")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    own = ca.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(folder / "key.pem")
    for number, pem in enumerate(own.cert_chain_pems):
        pem.write_to_path(folder / "cert.pem", append=number > 0)
    return folder


@pytest.fixture(scope="module")
def secure(certificates: Path) -> Iterator[LocalKafka]:
    """TLS, and a user who logs in by SCRAM."""
    with LocalKafka(tls=certificates, user="me", password="p@ss/w:rd") as running:
        yield running


NO_RIGHTS = """\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


@pytest.fixture(scope="module")
def strict() -> Iterator[LocalKafka]:
    """A user who logs in by PLAIN and may do nothing; the inner URL may do all."""
    with LocalKafka(
        user="me", password="secret", sasl="PLAIN", config=NO_RIGHTS
    ) as running:
        yield running


async def try_it(url: str) -> None:
    """Publish and read a message."""
    arrived = asyncio.Event()
    async with KafkaBackend().open(url) as bus:
        async with bus.consume(
            TO, [Lane.CALL], prefetch=1, deliver=lambda _body, _lane: arrived.set()
        ):
            await bus.publish(TO, Lane.CALL, bytes(100_000))
            async with asyncio.timeout(20):
                await arrived.wait()


async def refusal(url: str) -> ConnectionFailed:
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionFailed) as caught:
            async with KafkaBackend().open(url):
                pass
    assert "wrong" not in str(caught.value)
    return caught.value


async def test_tls_and_scram(secure: LocalKafka) -> None:
    """Right ones let us in; a wrong password and user are told at once, for good."""
    url = secure.urls[0]
    await try_it(url)
    _, _, place = url.rpartition("@")
    for login in ("me:wrong", "wrong:p%40ss%2Fw%3Ard"):
        error = await refusal(f"kafka://{login}@{place}")
        assert error.final
        assert "refuses the credentials" in str(error)


async def test_another_way_to_log_in_is_told(secure: LocalKafka) -> None:
    """With the one that was tried."""
    url = secure.urls[0].replace("sasl=SCRAM-SHA-256", "sasl=PLAIN")
    error = await refusal(url)
    assert error.final
    assert "does not know PLAIN" in str(error)


async def test_a_certificate_of_another_authority(secure: LocalKafka) -> None:
    """Refused by us, without a login."""
    url = secure.urls[0].partition("tls_ca")[0] + "tls=1"
    assert "certificate" in str(await refusal(url))


async def test_tls_where_the_broker_has_none(strict: LocalKafka) -> None:
    """The message has the question to ask."""
    error = await refusal(strict.inner_url() + "?tls=1")
    assert "TLS" in str(error)
    assert not error.final


async def test_no_tls_where_the_broker_wants_it(secure: LocalKafka) -> None:
    """The message has the question to ask."""
    place = secure.urls[0].rpartition("@")[2].partition("?")[0]
    assert "TLS" in str(await refusal(f"kafka://{place}"))


async def test_plain(strict: LocalKafka) -> None:
    """A wrong password is told, and so is a login that is missing or not wanted."""
    url = strict.urls[0]
    async with KafkaBackend().open(url):
        pass
    error = await refusal(url.replace("secret", "wrong"))
    assert error.final
    assert "refuses the credentials" in str(error)
    place = url.rpartition("@")[2].partition("?")[0]
    assert "does it want a login" in str(await refusal(f"kafka://{place}"))
    login = strict.inner_url().replace("kafka://", "kafka://me:secret@")
    error = await refusal(login)
    assert error.final
    assert "wants no login" in str(error)


async def test_without_rights(strict: LocalKafka) -> None:
    """Reading and writing say what is missing, before and after the topic is there."""
    async with KafkaBackend().open(strict.urls[0]) as bus:
        for _ in range(2):
            with pytest.raises(SecurityError, match="topic rb-2-ns-calls"):
                async with bus.consume(
                    TO, [Lane.CALL], prefetch=1, deliver=lambda _body, _lane: None
                ):
                    pass
            with pytest.raises(SecurityError, match="topic rb-2-ns-calls"):
                await bus.publish(TO, Lane.CALL, b"x")
            await try_it(strict.inner_url())
