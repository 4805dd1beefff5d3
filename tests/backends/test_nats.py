"""The NATS driver on real servers: promises, outages, credentials, limits."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nkeys
import pytest
import trustme

from remoting_bus.bus import Bus, LinkEvent
from remoting_bus.errors import (
    ChannelBroken,
    ConnectionFailed,
    LimitExceeded,
    SecurityError,
)
from remoting_bus.names import Address, Lane
from remoting_bus.testing import check_backend
from remoting_bus.testing.brokers import LocalNats
from remoting_bus_nats import NatsBackend
from remoting_bus_nats.wire import UNSENT_HIGH

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.broker("nats"),
    pytest.mark.usefixtures("no_blocking"),
]

LIMIT = 20.0
TO_READER = Address("ns", "reader", "writer")
QUICK = "?ping_interval=0.3&connect_timeout=0.5"


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalNats]:
    with LocalNats() as running:
        yield running


@pytest.fixture
def own() -> Iterator[LocalNats]:
    with LocalNats() as running:
        yield running


@pytest.fixture
def cluster() -> Iterator[LocalNats]:
    with LocalNats(nodes=3) as running:
        yield running


class Reader:
    """What was delivered, and a way to wait for it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._arrival = asyncio.Event()

    def deliver(self, body: bytes, lane: Lane) -> None:
        self.bodies.append(body)
        self._arrival.set()

    async def wait_for(self, body: bytes) -> None:
        async with asyncio.timeout(LIMIT):
            while body not in self.bodies:
                self._arrival.clear()
                await self._arrival.wait()


@asynccontextmanager
async def reading(bus: Bus) -> AsyncIterator[Reader]:
    reader = Reader()
    async with bus.consume(
        TO_READER, [Lane.CALL], prefetch=100, deliver=reader.deliver
    ):
        yield reader


async def wait_state(events: AsyncIterator[LinkEvent], *states: str) -> LinkEvent:
    async with asyncio.timeout(LIMIT):
        async for event in events:
            if event.state in states:
                return event
    raise AssertionError("events ended")


@pytest.mark.parametrize("topology", ["core", "jetstream"])
async def test_it_keeps_every_promise(broker: LocalNats, topology: str) -> None:
    """Both topologies are buses as the contract says."""
    url = f"{broker.urls[0]}?topology={topology}&mailbox_bytes=8000000"
    await check_backend(NatsBackend(), url)


async def test_a_message_crosses_the_nodes_of_a_cluster(cluster: LocalNats) -> None:
    """Peers on different hosts of one cluster reach each other."""
    backend = NatsBackend()
    async with (
        backend.open(cluster.urls[0]) as here,
        backend.open(cluster.urls[1]) as there,
        reading(there) as reader,
    ):
        # Interest spreads between nodes without anybody telling when it has.
        async with asyncio.timeout(LIMIT):
            while not reader.bodies:
                await here.publish(TO_READER, Lane.CALL, b"x")
                await asyncio.sleep(0.02)


async def test_it_comes_back_after_the_server_was_killed(own: LocalNats) -> None:
    """Killed and started: down, up, and consumers are back before up is told."""
    async with (
        NatsBackend().open(own.urls[0]) as bus,
        reading(bus) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        own.kill()
        down = await wait_state(events, "down")
        assert "closed the connection" in down.cause
        assert not bus.try_publish(TO_READER, Lane.CALL, b"while down")
        with pytest.raises(ChannelBroken, match="down"):
            await bus.publish(TO_READER, Lane.CALL, b"while down")
        await asyncio.to_thread(own.start)
        await wait_state(events, "up")
        await bus.publish(TO_READER, Lane.CALL, b"after")
        await reader.wait_for(b"after")
        assert reader.bodies == [b"after"]


async def test_the_next_host_is_tried_at_once(cluster: LocalNats) -> None:
    """With several hosts the loss of one costs next to no time."""
    url = ",".join(cluster.urls).replace(",nats://", ",")
    async with NatsBackend().open(url) as bus, bus.link_events() as events:
        ports = [url.rpartition(":")[2] for url in cluster.urls]
        began = time.monotonic()
        for _ in range(2):
            up = await wait_state(events, "up")
            cluster.kill(ports.index(up.cause.rpartition(":")[2]))
            await wait_state(events, "down")
        await wait_state(events, "up")
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("fault", ["pause", "cut"])
async def test_a_silent_server_is_noticed_by_its_pings(
    own: LocalNats, fault: str
) -> None:
    """Stopped or unreachable without a closed connection: down, in two intervals."""
    async with (
        NatsBackend().open(own.urls[0] + QUICK) as bus,
        reading(bus) as reader,
        bus.link_events() as events,
    ):
        assert (await anext(events)).state == "up"
        began = time.monotonic()
        getattr(own, fault)()
        down = await wait_state(events, "down")
        assert time.monotonic() - began < 3.0
        assert "did not answer pings" in down.cause
        (own.resume if fault == "pause" else own.heal)()
        await wait_state(events, "up")
        await bus.publish(TO_READER, Lane.CALL, b"after")
        await reader.wait_for(b"after")


async def test_publishing_to_a_paused_server_neither_hangs_nor_piles_up(
    own: LocalNats,
) -> None:
    """It waits for room, "blocked" is told, and it raises when the link is given up."""
    body = bytes(UNSENT_HIGH)
    url = own.urls[0] + "?ping_interval=1.5&connect_timeout=0.5"
    async with NatsBackend().open(url) as bus, bus.link_events() as events:
        own.pause()
        sent = 0
        async with asyncio.timeout(LIMIT):
            try:
                while True:
                    await bus.publish(TO_READER, Lane.BULK, body)
                    sent += len(body)
            except ChannelBroken as error:
                assert "did not answer pings" in str(error)  # noqa: PT017 - of a loop
        assert sent < 64 * 1024 * 1024  # kernel and proxy buffers, and nothing more
        assert not bus.try_publish(TO_READER, Lane.BULK, body)
        await wait_state(events, "blocked")
        await wait_state(events, "down")


async def test_try_publish_says_no_when_there_is_no_room(own: LocalNats) -> None:
    """False before anything piles up, and True again when there is room."""
    body = bytes(UNSENT_HIGH)
    async with NatsBackend().open(own.urls[0]) as bus:
        own.cut()
        taken = 0
        while bus.try_publish(TO_READER, Lane.BULK, body):
            taken += 1
            assert taken < 256
            await asyncio.sleep(0)
        own.heal()
        async with asyncio.timeout(LIMIT):
            await bus.publish(TO_READER, Lane.BULK, body)


async def test_a_message_over_the_limit_is_refused_here(broker: LocalNats) -> None:
    """The server's max_payload is the limit, and it is named."""
    async with NatsBackend().open(broker.urls[0]) as bus, reading(bus) as reader:
        largest = bus.limits.max_bytes
        assert largest == 1024 * 1024
        with pytest.raises(LimitExceeded):
            bus.try_publish(TO_READER, Lane.CALL, bytes(largest + 1))
        with pytest.raises(LimitExceeded) as caught:
            await bus.publish(TO_READER, Lane.CALL, bytes(largest + 1))
        assert caught.value.limit == "max_payload"
        assert (caught.value.value, caught.value.asked) == (largest, largest + 1)
        await bus.publish(TO_READER, Lane.CALL, bytes(largest))
        await reader.wait_for(bytes(largest))


async def test_a_reader_that_stands_still_is_told(no_blocking: None) -> None:
    """A server that gave us up for being slow: an event with the reason, and a new link."""
    config = "write_deadline: 300ms\nmax_pending: 2MB"
    with LocalNats(config=config) as own:
        async with (
            NatsBackend().open(own.urls[0]) as slow,
            NatsBackend().open(own.urls[0]) as quick,
            slow.link_events() as events,
        ):

            def block(body: bytes, lane: Lane) -> None:
                blocked.set()
                time.sleep(0.05)

            blocked = asyncio.Event()
            async with slow.consume(TO_READER, [Lane.BULK], prefetch=1, deliver=block):
                assert (await anext(events)).state == "up"

                async def flood() -> None:
                    body = bytes(512 * 1024)
                    while True:
                        await quick.publish(TO_READER, Lane.BULK, body)
                        await asyncio.sleep(0)

                task = asyncio.create_task(flood())
                down = await wait_state(events, "down")
                assert "slow consumer" in down.cause
                task.cancel()
                await asyncio.wait([task])
                await wait_state(events, "up")


async def test_a_slow_reader_keeps_its_link(own: LocalNats) -> None:
    """The answer to its ping stands behind seconds of unread data: what comes is enough."""
    bodies, size = 240, 64 * 1024
    interval = 0.2
    came = 0
    done = asyncio.Event()

    def read(body: bytes, lane: Lane) -> None:
        nonlocal came
        came += 1
        until = time.perf_counter() + 0.01
        while time.perf_counter() < until:
            pass
        if came == bodies:
            done.set()

    def flood() -> None:
        """Publish all of it at once, from a thread that nobody slows down."""
        where = urlsplit(own.urls[0])
        with socket.create_connection((where.hostname, where.port)) as raw:
            raw.sendall(b'CONNECT {"verbose":false}\r\n')
            subject = b"rb.ns.reader.bulk.writer"
            message = b"PUB %s %d\r\n%s\r\n" % (subject, size, bytes(size))
            for _ in range(bodies):
                raw.sendall(message)
            raw.sendall(b"PING\r\n")
            heard = b""
            while b"PONG" not in heard:
                heard += raw.recv(4096)

    url = f"{own.urls[0]}?ping_interval={interval}"
    async with (
        asyncio.timeout(LIMIT),
        NatsBackend().open(url) as slow,
        slow.link_events() as events,
        slow.consume(TO_READER, [Lane.BULK], prefetch=1, deliver=read),
    ):
        assert (await anext(events)).state == "up"
        began = time.perf_counter()
        await asyncio.gather(asyncio.to_thread(flood), done.wait())
        assert time.perf_counter() - began > 8 * interval, "it was not slow at all"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4 * interval):
                await anext(events)


@pytest.mark.parametrize(
    ("login", "bad"),
    [
        (("me", "p@ss/w:rd", None), "nats://me:wrong@{}"),
        ((None, None, "secret"), "nats://wrong@{}"),
        ((None, None, "secret"), "nats://{}"),
    ],
)
async def test_wrong_credentials_are_an_error_at_once(
    login: tuple[str | None, str | None, str | None], bad: str
) -> None:
    """Right ones let us in, wrong ones raise at open and are not tried again."""
    user, password, token = login
    with LocalNats(user=user, password=password, token=token) as own:
        async with NatsBackend().open(own.urls[0]):
            pass
        host = own.urls[0].rpartition("@")[2]
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ConnectionFailed, match="refuses the credentials"):
                async with NatsBackend().open(bad.format(host)):
                    pass


async def test_credentials_refused_later_end_the_link() -> None:
    """Changed while connected: "failed", and everything says so from then on."""
    before = 'authorization { user: "me", password: "old" }'
    after = 'authorization { user: "me", password: "new" }'
    with LocalNats(config=before) as own:
        url = own.urls[0].replace("nats://", "nats://me:old@")
        async with NatsBackend().open(url) as bus, bus.link_events() as events:
            own.reload(after)
            failed = await wait_state(events, "failed")
            assert "refuses the credentials" in failed.cause
            assert isinstance(failed.error, ConnectionFailed)
            with pytest.raises(ChannelBroken, match="over"):
                await bus.publish(TO_READER, Lane.CALL, b"x")
            with pytest.raises(ChannelBroken, match="over"):
                async with reading(bus):
                    pass


async def test_an_nkey_seed_logs_in(tmp_path: Path) -> None:
    """A seed in a file is enough; another one is refused; none is told."""
    seeds = [
        nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in range(2)
    ]
    for number, seed in enumerate(seeds):
        (tmp_path / f"{number}.nk").write_bytes(seed)
    (tmp_path / "2.nk").write_text("SUNOTASEED")
    public = nkeys.from_seed(bytearray(seeds[0])).public_key.decode()
    with LocalNats(config=f"authorization {{ users: [{{ nkey: {public} }}] }}") as own:
        url = f"{own.urls[0]}?nkey={tmp_path}"
        async with NatsBackend().open(f"{url}/0.nk") as bus, reading(bus) as reader:
            await bus.publish(TO_READER, Lane.CALL, b"x")
            await reader.wait_for(b"x")
        for name, words in (
            ("1.nk", "refuses the credentials"),
            ("2.nk", "cannot be used"),
            ("3.nk", "3.nk"),
        ):
            with pytest.raises(ConnectionFailed, match=words):
                async with NatsBackend().open(f"{url}/{name}"):
                    pass


async def test_what_the_server_forbids_is_told() -> None:
    """Reading elsewhere raises, publishing elsewhere is an event; the link stands."""
    config = """authorization { users: [ { user: a, password: p, permissions: {
        publish: ["rb.ns.*.*.writer"], subscribe: ["rb.ns.reader.>"] } } ] }"""
    with LocalNats(config=config) as own:
        url = own.urls[0].replace("nats://", "nats://a:p@")
        async with (
            NatsBackend().open(url) as bus,
            reading(bus) as reader,
            bus.link_events() as events,
        ):
            with pytest.raises(SecurityError, match="other"):
                async with bus.consume(
                    Address("ns", "other"),
                    [Lane.CALL],
                    prefetch=1,
                    deliver=reader.deliver,
                ):
                    pass
            forged = Address("ns", "reader", "somebody")
            await bus.publish(forged, Lane.CALL, b"forged")
            lost = await wait_state(events, "lost")
            assert "permissions violation" in lost.cause
            lost = await wait_state(events, "lost")
            assert "somebody" in lost.cause
            await bus.publish(TO_READER, Lane.CALL, b"allowed")
            await reader.wait_for(b"allowed")
            assert reader.bodies == [b"allowed"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = ca.issue_cert("localhost", "127.0.0.1")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, pem in enumerate(own.cert_chain_pems):
        pem.write_to_path(tmp_path / "cert.pem", append=number > 0)
    return tmp_path


async def test_tls_with_our_own_authority(certificates: Path) -> None:
    """tls:// with tls_ca reads and writes; without the authority it is refused."""
    with LocalNats(tls=certificates) as own:
        async with NatsBackend().open(own.urls[0]) as bus, reading(bus) as reader:
            body = bytes(512 * 1024)
            await bus.publish(TO_READER, Lane.CALL, body)
            await reader.wait_for(body)
        with pytest.raises(ConnectionFailed, match="certificate"):
            async with NatsBackend().open(own.urls[0].partition("?")[0]):
                pass


async def test_a_client_certificate_is_shown(certificates: Path) -> None:
    """A server that verifies takes us with one and refuses us without."""
    config = f"""tls {{ ca_file: "{certificates}/ca.pem", verify: true,
        cert_file: "{certificates}/cert.pem", key_file: "{certificates}/key.pem" }}"""
    with LocalNats(config=config) as own:
        host = own.urls[0].removeprefix("nats://")
        url = f"tls://{host}?tls_ca={certificates}/ca.pem"
        files = f"&tls_cert={certificates}/cert.pem&tls_key={certificates}/key.pem"
        async with NatsBackend().open(url + files):
            pass
        with pytest.raises(ConnectionFailed):
            async with NatsBackend().open(url):
                pass


async def test_tls_asked_for_is_never_given_up(own: LocalNats) -> None:
    """tls:// to a server without TLS sends nothing, credentials least of all."""
    url = own.urls[0].replace("nats://", "tls://me:secret@")
    with pytest.raises(ConnectionFailed, match="does not offer TLS"):
        async with NatsBackend().open(url):
            pass


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nats://h/path", "no path"),
        ("nats://h?nope=1", "nope"),
        ("nats://h?topology=star", "core or jetstream"),
        ("nats://h?ping_interval=0", "seconds above 0"),
        ("nats://h?tls_key=k", "tls_cert"),
        ("nats://me:secret@h?token=t", "one of"),
        ("http://h", "nats://"),
    ],
)
async def test_a_url_that_is_wrong_is_told(url: str, words: str) -> None:
    """The message says what is wrong, and shows no secret."""
    with pytest.raises(ValueError, match=words) as caught:
        NatsBackend().open(url)
    assert "secret" not in str(caught.value)


async def test_nobody_there_is_an_error_that_names_each_host() -> None:
    """Every host is tried once; the message says what each of them said."""
    with pytest.raises(ConnectionFailed) as caught:
        async with NatsBackend().open("nats://127.0.0.1:1,127.0.0.1:2"):
            pass
    assert "127.0.0.1:1:" in str(caught.value)
    assert "127.0.0.1:2:" in str(caught.value)


async def test_a_cancelled_consume_leaves_the_connection_whole(
    own: LocalNats,
) -> None:
    """Cancelled while it waits for the server; the next consume works, and is alone."""
    async with NatsBackend().open(own.urls[0]) as bus:
        own.cut()

        async def enter() -> None:
            async with reading(bus):
                raise AssertionError("the server cannot have answered")

        task = asyncio.create_task(enter())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        own.heal()
        async with reading(bus) as reader:
            await bus.publish(TO_READER, Lane.CALL, b"x")
            await reader.wait_for(b"x")
            assert reader.bodies == [b"x"]


async def test_a_consumer_that_raises_does_not_end_the_reader(
    broker: LocalNats,
) -> None:
    """It is a bug, told to the loop; messages go on."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: told.append(context["exception"])
    )
    reader = Reader()

    def deliver(body: bytes, lane: Lane) -> None:
        reader.deliver(body, lane)
        if body == b"bad":
            raise ZeroDivisionError

    async with (
        NatsBackend().open(broker.urls[0]) as bus,
        bus.consume(TO_READER, [Lane.CALL], prefetch=1, deliver=deliver),
    ):
        await bus.publish(TO_READER, Lane.CALL, b"bad")
        await bus.publish(TO_READER, Lane.CALL, b"good")
        await reader.wait_for(b"good")
    assert [type(error) for error in told] == [ZeroDivisionError]
