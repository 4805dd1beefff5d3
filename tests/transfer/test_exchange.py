"""Files and trees arrive as they are, and an attempt that was cut is gone on with."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import anyio
import pytest

from remoting_bus._remote.context import Progress

from .conftest import described, hidden, make_file, make_tree, transfer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking")]

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [0, 1, 1000, MIB, 3 * MIB + 17])
async def test_a_file_arrives_as_it_is(tmp_path: Path, size: int) -> None:
    """Bytes, mode and time, at any size; nothing is left beside it."""
    source = make_file(tmp_path / "source", size)
    source.chmod(0o640)
    os.utime(source, ns=(1, 1_600_000_000_123_456_789))
    said, _ = await transfer(source, tmp_path / "target")
    target = tmp_path / "target"
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert said.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (said.files, said.size, said.resumed_at) == (1, size, 0)
    assert hidden(tmp_path) == []


async def test_a_file_replaces_one_and_no_folder(tmp_path: Path) -> None:
    source = make_file(tmp_path / "source", 10)
    (tmp_path / "old").write_text("old")
    await transfer(source, tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == source.read_bytes()
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        await transfer(source, tmp_path / "folder")
    assert caught.value.filename == str(tmp_path / "folder")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a file"):
        await transfer(source, tmp_path / "fifo")


async def test_a_target_that_is_a_link_stays_one(tmp_path: Path) -> None:
    """What it leads to is replaced."""
    source = make_file(tmp_path / "source", 10)
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    await transfer(source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == source.read_bytes()


async def test_a_tree_arrives_as_it_is(tmp_path: Path) -> None:
    """Modes, times, empty folders, links as links, names that are not UTF-8."""
    source = make_tree(tmp_path / "source")
    said, _ = await transfer(source, tmp_path / "target", tree=True)
    assert described(tmp_path / "target") == described(source)
    assert (said.files, said.folders, said.links) == (34, 4, 4)
    assert hidden(tmp_path) == []


async def test_a_tree_joins_a_folder_that_is_there(tmp_path: Path) -> None:
    """What both have is replaced, the rest stays; links are replaced, not followed."""
    source = make_tree(tmp_path / "source")
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    (target / "a").mkdir(parents=True)
    (target / "a" / "mine").write_text("mine")
    (target / "a" / "run").write_text("old")
    (target / "z").symlink_to(outside)
    (target / "outer").write_text("was a file")
    await transfer(source, target, tree=True)
    expected = described(source)
    found = described(target)
    assert found.pop(b"a/mine")[2] == b"mine"
    assert found == expected
    assert not (target / "z").is_symlink()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("swap", [False, True])
async def test_a_tree_does_not_replace_folders_by_files(
    tmp_path: Path, swap: bool
) -> None:
    """Nor files by folders; and then nothing at all was changed."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "b").mkdir(parents=True)
    (source / "a").write_text("new")
    target.mkdir()
    (target / "a").write_text("old")
    if swap:
        (target / "b").write_text("a file")
    else:
        source.joinpath("c").write_text("new")
        (target / "c").mkdir()
    with pytest.raises(OSError) as caught:
        await transfer(source, target, tree=True)
    assert caught.value.errno == (errno.ENOTDIR if swap else errno.EISDIR)
    assert (target / "a").read_text() == "old"
    assert hidden(tmp_path) == []


async def test_a_tree_with_a_socket_is_refused_by_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    os.mkfifo(source / "fifo")
    with pytest.raises(anyio.BrokenResourceError):
        await transfer(source, tmp_path / "target", tree=True)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("tree", [False, True])
async def test_what_was_cut_is_gone_on_with(tmp_path: Path, tree: bool) -> None:
    """What is there already is not sent again, and is never seen half."""
    source, target = tmp_path / "source", tmp_path / "target"
    if tree:
        make_tree(source, 6)
        make_file(source / "a" / "big", 6 * MIB)
        make_file(source / "b", 3 * MIB)
    else:
        make_file(source, 9 * MIB)
    with pytest.raises(anyio.BrokenResourceError):
        await transfer(source, target, tree=tree, cut_after=5 * MIB)
    assert not target.exists()
    assert len(hidden(tmp_path)) == 1
    said, sent = await transfer(source, target, tree=tree)
    assert said.resumed_at >= 3 * MIB
    assert sent <= 7 * MIB
    if tree:
        assert described(target) == described(source)
        assert said.files == 12
    else:
        assert target.read_bytes() == source.read_bytes()
    assert hidden(tmp_path) == []


async def test_it_may_be_cut_at_any_place(tmp_path: Path) -> None:
    """A tree of small files, cut after more and more bytes, always comes to its end."""
    source = make_tree(tmp_path / "source", 40, size=60_000)
    size = sum(each.stat().st_size for each in source.rglob("*") if each.is_file())
    target = tmp_path / "target"
    resumed = 0
    cuts = [300_000, 900_000, 1_000_000, 700_000]
    for cut in cuts:
        with pytest.raises(anyio.BrokenResourceError):
            await transfer(source, target, tree=True, cut_after=cut)
    said, sent = await transfer(source, target, tree=True)
    resumed = said.resumed_at
    assert described(target) == described(source)
    assert sent < size - resumed + 50_000


@pytest.mark.parametrize("tree", [False, True])
async def test_a_source_that_changed_is_sent_anew(tmp_path: Path, tree: bool) -> None:
    """What is there of the old one is not mixed with the new."""
    source, target = tmp_path / "source", tmp_path / "target"
    if tree:
        source.mkdir()
    content = source / "x" if tree else source
    make_file(content, 5 * MIB)
    with pytest.raises(anyio.BrokenResourceError):
        await transfer(source, target, tree=tree, cut_after=3 * MIB)
    status = content.stat()
    data = bytearray(content.read_bytes())
    data[100] ^= 1
    content.write_bytes(data)  # the same size, and below the same time
    os.utime(content, ns=(status.st_atime_ns, status.st_mtime_ns))
    said, _ = await transfer(source, target, tree=tree)
    assert (target / "x" if tree else target).read_bytes() == data
    assert said.resumed_at == 0


async def test_what_was_left_of_an_older_source_goes(tmp_path: Path) -> None:
    """A target has at most one unfinished transfer beside it, but for a minute."""
    source, target = make_file(tmp_path / "source", 5 * MIB), tmp_path / "target"
    with pytest.raises(anyio.BrokenResourceError):
        await transfer(source, target, cut_after=3 * MIB)
    (left,) = hidden(tmp_path)
    os.utime(tmp_path / left, (0, 0))
    other = make_file(tmp_path / "other", 2 * MIB)
    await transfer(other, target)
    assert hidden(tmp_path) == []


async def test_two_transfers_to_one_target_do_not_mix(tmp_path: Path) -> None:
    """The later one appears last, whole."""
    source, target = make_file(tmp_path / "source", 4 * MIB), tmp_path / "target"
    async with anyio.create_task_group() as group:
        group.start_soon(transfer, source, target)
        group.start_soon(transfer, source, target)
    assert target.read_bytes() == source.read_bytes()
    assert hidden(tmp_path) == []


async def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    source = make_file(tmp_path / "source", 5 * MIB)
    seen: list[Progress] = []
    await transfer(source, tmp_path / "target", report=seen.append)
    done = [each.done for each in seen]
    assert done == sorted(done)
    assert len(done) >= 5
    assert (seen[-1].done, seen[-1].total) == (5 * MIB, 5 * MIB)


async def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    """It is not passed off as whole."""
    source = make_file(tmp_path / "source", 8 * MIB)

    def shorten(progress: Progress) -> None:
        with source.open("r+b") as file:
            file.truncate(MIB)

    with pytest.raises(anyio.BrokenResourceError, match="shorter"):
        await transfer(source, tmp_path / "target", report=shorten)
    assert not (tmp_path / "target").exists()


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = make_file(tmp_path / "source", 10)
    with pytest.raises(FileNotFoundError) as caught:
        await transfer(source, tmp_path / "no" / "such")
    assert caught.value.filename == str(tmp_path / "no")


async def test_a_tree_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """The receiver said what it expects."""
    source = make_tree(tmp_path / "source", 1)
    with pytest.raises(anyio.BrokenResourceError, match="directory"):
        await transfer(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


async def test_folders_too_deep_are_refused(tmp_path: Path) -> None:
    deep = tmp_path / "source"
    deep.mkdir()
    folder = os.open(deep, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    with pytest.raises(anyio.BrokenResourceError):
        await transfer(deep, tmp_path / "target", tree=True)
    assert not (tmp_path / "target").exists()
