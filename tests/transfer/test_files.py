"""`RemoteFiles` over a real session: what programs see of it."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.abc
import psutil
import pytest

import remoting_bus as rb
from remoting_bus._transfer import RemoteFiles
from remoting_bus._transfer.disk import in_thread
from remoting_bus.testing.brokers import LocalNats

from .conftest import described, fleet, hidden, make_file, make_tree

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
_numbers = itertools.count()

PLACES = [
    ("memory", "asyncio"),
    ("memory", "trio"),
    pytest.param(("nats", "asyncio"), marks=pytest.mark.broker("nats")),
]


@pytest.fixture(scope="session")
def nats() -> Iterator[LocalNats]:
    with LocalNats() as made:
        yield made


@pytest.fixture(params=PLACES, ids="-".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind: tuple[str, str] = request.param
    return kind


@pytest.fixture
def anyio_backend(place: tuple[str, str]) -> str:
    return place[1]


@pytest.fixture
def url(place: tuple[str, str], request: pytest.FixtureRequest) -> str:
    if place[0] == "memory":
        return f"memory://files-{next(_numbers)}"
    made: LocalNats = request.getfixturevalue("nats")
    return made.urls[0]


@pytest.fixture
async def files(url: str, anyio_backend: str) -> AsyncIterator[RemoteFiles]:
    """The files of an agent in this process."""
    async with fleet(url) as worker:
        yield worker.files


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_large_file_goes_both_ways(files: RemoteFiles, tmp_path: Path) -> None:
    """64 MiB, by hash, and memory does not grow with it."""
    source = make_file(tmp_path / "source", 64 * MIB)
    expected = sha256(source)
    await files.put(source, tmp_path / "warm")
    before = psutil.Process().memory_info().rss
    there = await files.put(source, tmp_path / "there")
    back = await files.get(tmp_path / "there", tmp_path / "back")
    grown = psutil.Process().memory_info().rss - before
    assert sha256(tmp_path / "there") == sha256(tmp_path / "back") == expected
    assert there.sha256 == back.sha256 == expected
    assert grown < 32 * MIB


async def test_a_tree_goes_both_ways(files: RemoteFiles, tmp_path: Path) -> None:
    """A thousand files, nested empty folders, links; and no round trip for each."""
    source = make_tree(tmp_path / "source", 1000)
    with anyio.fail_after(60):
        said = await files.put_tree(source, tmp_path / "there")
        await files.get_tree(tmp_path / "there", tmp_path / "back")
    assert said.files == 1004
    assert described(tmp_path / "there") == described(source)
    assert described(tmp_path / "back") == described(source)


async def test_progress_is_told_in_bytes(files: RemoteFiles, tmp_path: Path) -> None:
    """From this side's view, up to the whole, for each direction."""
    source = make_file(tmp_path / "source", 4 * MIB)
    for which in ("put", "get"):
        seen: list[rb.Progress] = []
        move = getattr(files, which)
        await move(source, tmp_path / which, progress=seen.append)
        assert [each.done for each in seen] == sorted(each.done for each in seen)
        assert (seen[-1].done, seen[-1].total) == (4 * MIB, 4 * MIB)


@pytest.mark.parametrize("which", ["put", "get", "put_tree", "get_tree"])
async def test_a_cancel_leaves_nothing_under_the_name(
    files: RemoteFiles, tmp_path: Path, which: str
) -> None:
    """The caller is free, and the same again goes on from what is there."""
    tree = which.endswith("tree")
    source = tmp_path / "source"
    if tree:
        source.mkdir()
    make_file(source / "x" if tree else source, 24 * MIB)
    target = tmp_path / "target"
    move = getattr(files, which)

    def stop(progress: rb.Progress) -> None:
        if progress.done > 8 * MIB:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await move(source, target, progress=stop)
    assert scope.cancelled_caught
    assert not target.exists()
    with anyio.fail_after(20):  # the far side lets go of it a moment later
        while True:
            said = await move(source, target)
            if said.resumed_at or target.exists():
                break
    assert sha256(target / "x" if tree else target) == sha256(
        source / "x" if tree else source
    )


async def test_errors_of_either_side_are_what_they_are(
    files: RemoteFiles, tmp_path: Path
) -> None:
    """The classes that a local copy would raise, with the path that is to blame."""
    source = make_file(tmp_path / "source", 10)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="no such"):
        await files.put(tmp_path / "no such", tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="no such"):
        await files.get(tmp_path / "no such", tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await files.put(source, tmp_path / "nowhere" / "x")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await files.get(source, tmp_path / "nowhere" / "x")
    with pytest.raises(IsADirectoryError):
        await files.put(source, tmp_path / "folder")
    with pytest.raises(IsADirectoryError):
        await files.get(tmp_path / "folder", tmp_path / "x")
    with pytest.raises(NotADirectoryError):
        await files.put_tree(source, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert hidden(tmp_path) == []


async def test_open_reads_writes_and_appends(
    files: RemoteFiles, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    data = os.urandom(3 * MIB)
    async with files.open(path, "wb") as writer:
        await writer.send(data)
        assert not path.exists()
    assert path.read_bytes() == data
    async with files.open(path, "ab") as writer:
        await writer.send(b"more")
    async with files.open(path) as reader:
        read = b"".join([piece async for piece in reader])
    assert read == data + b"more"
    async with files.open(path) as reader:
        first = await reader.receive(10)
    assert first == data[:10]


async def test_a_file_written_appears_only_if_the_block_ends_well(
    files: RemoteFiles, tmp_path: Path
) -> None:
    """Closing the stream first changes nothing about that; the old one stays."""
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o600)

    async def fail() -> None:
        async with files.open(path, "wb") as writer:
            await writer.send(b"new")
            await writer.aclose()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    with anyio.move_on_after(60) as scope:
        async with files.open(path, "wb") as writer:
            await writer.send(b"new")
            scope.cancel()
            await anyio.sleep_forever()
    async with files.open(path, "wb") as writer:
        await writer.send(b"newest")
        assert path.read_text() == "old"
    assert path.read_text() == "newest"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_open_says_why_it_cannot(files: RemoteFiles, tmp_path: Path) -> None:
    """On entering, before anything is sent."""
    entered = False
    for path, mode, kind in [
        (tmp_path / "none", "rb", FileNotFoundError),
        (tmp_path, "rb", IsADirectoryError),
        (tmp_path, "wb", IsADirectoryError),
        (tmp_path, "ab", IsADirectoryError),
        (tmp_path / "none" / "x", "wb", FileNotFoundError),
        (Path("/dev/null"), "rb", OSError),
        (Path("/dev/null"), "wb", OSError),
    ]:
        with pytest.raises(kind):
            async with files.open(path, mode):  # type: ignore[call-overload]
                entered = True
    assert not entered
    with pytest.raises(ValueError, match="r\\+"):
        files.open(tmp_path, "r+")  # type: ignore[call-overload]


async def test_an_agent_that_offers_no_files_refuses(url: str, tmp_path: Path) -> None:
    async with rb.Master(url, name="control", timeout=20) as master:
        async with rb.Agent(master.urls, name="worker", offers={"commands"}):
            files = master.agent("worker").files
            with pytest.raises(rb.CallRefused):
                await files.get("/etc/passwd", tmp_path / "x")
            assert not (tmp_path / "x").exists()


async def test_calls_go_on_beside_a_transfer(
    files: RemoteFiles, tmp_path: Path
) -> None:
    """Small ones end while a large one runs."""
    source = make_file(tmp_path / "source", 48 * MIB)
    (tmp_path / "small").write_text("small")
    calls = 0
    async with anyio.create_task_group() as group:
        done = anyio.Event()

        async def large() -> None:
            await files.put(source, tmp_path / "target")
            done.set()

        group.start_soon(large)
        while not done.is_set():
            async with files.open(tmp_path / "small") as reader:
                assert await reader.receive() == b"small"
            calls += 1
    assert calls > 5


@pytest.mark.parametrize("place", PLACES[2:], ids="-".join, indirect=True)
@pytest.mark.parametrize("which", ["put", "get"])
async def test_it_goes_on_while_the_loop_is_blocked(
    files: RemoteFiles, tmp_path: Path, which: str
) -> None:
    """On a bus with two connections its bytes do not need this loop, on either side."""
    source = make_file(tmp_path / "source", 64 * MIB)
    parts: list[int] = []

    def block(progress: rb.Progress) -> None:
        if not parts and progress.done:
            (part,) = (tmp_path / each / "part" for each in hidden(tmp_path))
            parts.append(part.stat().st_size)
            time.sleep(0.5)
            whole = (tmp_path / "target").exists()  # the far side was even quicker
            parts.append(64 * MIB if whole else part.stat().st_size)

    await getattr(files, which)(source, tmp_path / "target", progress=block)
    assert parts[1] > parts[0] + 8 * MIB
    assert sha256(tmp_path / "target") == sha256(source)


# -- the disk is full --


async def write_for_ever(files: RemoteFiles, path: Path) -> None:
    async with files.open(path, "wb") as writer:
        while True:
            await writer.send(bytes(256 * 1024))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(where)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"needs to mount a tmpfs: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def test_a_full_disk_is_told_on_both_sides(
    files: RemoteFiles,
    tmp_path: Path,
    small_disk: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To the caller by the error of the disk, to the agent's operator by its log."""
    source = make_file(tmp_path / "source", 12 * MIB)
    for move in (files.put, files.get):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "remoting_bus.files"):
            with pytest.raises(OSError, match="No space left") as caught:
                await move(source, small_disk / "target")
            assert caught.value.filename == str(small_disk / "target")
        assert "No space left" in caplog.text
        assert hidden(small_disk) == []


async def test_a_disk_that_fills_up_meanwhile(
    files: RemoteFiles, tmp_path: Path, small_disk: Path
) -> None:
    """No half file under the name, and what was written is given back to the disk."""
    source = make_file(tmp_path / "source", 6 * MIB)

    def fill(progress: rb.Progress) -> None:
        if not (small_disk / "other").exists():
            with (small_disk / "other").open("wb") as file:
                file.write(bytes(3 * MIB))

    for move in (files.put, files.get):
        with pytest.raises(OSError, match="No space left"):
            await move(source, small_disk / "target", progress=fill)
        (small_disk / "other").unlink()
        assert hidden(small_disk) == []
    with pytest.raises(OSError, match="No space left"):
        await write_for_ever(files, small_disk / "target")
    assert not (small_disk / "target").exists()


# -- a session ends in the middle --

AGENT = """
import sys, anyio, remoting_bus as rb
agent = rb.Agent(sys.argv[1], name="worker", offers={"files"})
rb.run(agent.serve)
"""


def start_agent(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", AGENT, url])


@pytest.mark.parametrize("place", PLACES[2:], ids="-".join, indirect=True)
@pytest.mark.parametrize("which", ["put", "get", "put_tree"])
async def test_an_agent_killed_in_the_middle(
    url: str, tmp_path: Path, which: str
) -> None:
    """Its successor is sent what the first one did not have yet; `put` itself goes on."""
    source = tmp_path / "source"
    if which == "put_tree":
        make_tree(source, 20)
        make_file(source / "m", 64 * MIB)
    else:
        make_file(source, 64 * MIB)
    agents = [start_agent(url)]
    restarted = False

    async def restart() -> None:
        agents[0].send_signal(signal.SIGKILL)
        await in_thread(agents[0].wait)
        assert not (tmp_path / "target").exists()
        agents.append(start_agent(url))

    try:
        async with rb.Master(url, name="control", timeout=20) as master:
            worker = master.agent("worker")
            await worker.ready(timeout=30)
            async with anyio.create_task_group() as group:

                def kill(progress: rb.Progress) -> None:
                    nonlocal restarted
                    if not restarted and progress.done > 24 * MIB:
                        restarted = True
                        group.start_soon(restart)

                with anyio.fail_after(90):
                    move = getattr(worker.files, which)
                    said = await move(source, tmp_path / "target", progress=kill)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert len(agents) == 2
    assert said.resumed_at >= 8 * MIB
    if which == "put_tree":
        assert described(tmp_path / "target") == described(source)
    else:
        assert sha256(tmp_path / "target") == sha256(source)
    assert hidden(tmp_path) == []
