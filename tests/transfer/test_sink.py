"""A hostile sender gets nothing written outside, over, or under a name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoting_bus._transfer.records import (
    NOTHING_YET,
    Accept,
    BadTransfer,
    Frames,
    Header,
    frame,
    link_chain,
)
from remoting_bus._transfer.sink import Sink

from .conftest import hidden, run

FILE = b"content"


class Sender:
    """Sends what it likes."""

    def __init__(self, target: Path, kind: Any, *, resumable: bool = False) -> None:
        header = Header(kind, 0o755, 0, 0, 0, b"i" * 32, resumable=resumable)
        self.sink = Sink(str(target), header)
        self.claim = run(self.sink.prepare())
        self.frames = Frames()
        self.chain, self.records = NOTHING_YET, 0

    def accept(self, answer: Accept | None = None) -> None:
        self.sink.accept(answer or Accept())

    def raw(self, data: bytes) -> None:
        self.frames.add(data)
        self.sink.feed(self.frames)

    def send(self, *records: list[Any]) -> None:
        for record in records:
            self.raw(frame(record))
            self.chain = link_chain(self.chain, record)
            self.records += 1

    def file(self, name: bytes, content: bytes = FILE) -> None:
        self.raw(frame(["f", name, 0o644, 0, len(content)]))
        self.raw(content + hashlib.sha256(content).digest())
        self.chain = link_chain(self.chain, ["f", name, 0o644, 0, len(content)])
        self.records += 1

    def end(self) -> None:
        self.raw(frame(["e", self.records, self.chain]))
        run(self.sink.finish())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def sender(target: Path) -> Iterator[Sender]:
    made = Sender(target, "tree")
    made.accept()
    yield made
    made.sink.close(keep=False)
    assert hidden(target.parent) == []


def test_the_honest_one_gets_through(sender: Sender, target: Path) -> None:
    """So that the others fail for what is wrong with them."""
    sender.send(["l", b"link", b"/etc"], ["d", b"d"])
    sender.file(b"f")
    sender.send(["u", 0o500, 0])
    sender.end()
    assert (target / "d" / "f").read_bytes() == FILE
    assert (target / "d").stat().st_mode & 0o777 == 0o500
    (target / "d").chmod(0o700)


@pytest.mark.parametrize("name", [b"../x", b"/tmp/x", b"..", b"link/x", b"a\0"])
def test_hostile_names(sender: Sender, target: Path, name: bytes) -> None:
    sender.send(["l", b"link", os.fsencode(target.parent)])
    for record in (["f", name, 0o644, 0, 0], ["d", name], ["l", name, b"x"]):
        with pytest.raises(BadTransfer):
            sender.raw(frame(record))
    assert sorted(target.parent.iterdir()) == [target.parent / hidden(target.parent)[0]]


def test_a_link_of_the_tree_leads_nobody(sender: Sender, tmp_path: Path) -> None:
    """A folder cannot be entered where the tree put a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    sender.send(["l", b"way", os.fsencode(outside)])
    with pytest.raises(BadTransfer, match="twice"):
        sender.send(["d", b"way"])
    outside.rmdir()


@pytest.mark.parametrize("second", ["f", "d", "l"])
def test_what_comes_twice(sender: Sender, second: str) -> None:
    """A file over a link would write where the link leads."""
    sender.send(["l", b"same", b"/etc/passwd"])
    records: dict[str, list[Any]] = {
        "f": ["f", b"same", 0o644, 0, 0],
        "d": ["d", b"same"],
        "l": ["l", b"same", b"x"],
    }
    with pytest.raises(BadTransfer, match="twice"):
        sender.send(records[second])


def test_leaving_the_top(sender: Sender) -> None:
    with pytest.raises(BadTransfer, match="top"):
        sender.send(["u", 0o755, 0])


def test_another_hash_than_that_of_the_bytes(sender: Sender, target: Path) -> None:
    sender.raw(frame(["f", b"f", 0o644, 0, 3]))
    with pytest.raises(BadTransfer, match="SHA-256"):
        sender.raw(b"abc" + bytes(32))
    assert not target.exists()


def test_an_end_that_does_not_fit(sender: Sender) -> None:
    sender.file(b"f")
    with pytest.raises(BadTransfer, match="end"):
        sender.raw(frame(["e", 2, sender.chain]))
    with pytest.raises(BadTransfer, match="end"):
        sender.raw(frame(["e", 1, NOTHING_YET]))
    sender.send(["d", b"open"])
    with pytest.raises(BadTransfer, match="end"):
        sender.raw(frame(["e", sender.records, sender.chain]))


def test_more_after_the_end(sender: Sender) -> None:
    with pytest.raises(BadTransfer, match="after the end"):
        sender.raw(frame(["e", 0, NOTHING_YET]) + b"more")


def test_a_file_has_one_record_and_no_other(target: Path) -> None:
    for hostile in (["d", b"x"], ["l", b"x", b"/etc"], ["u", 0o755, 0]):
        sender = Sender(target, "file")
        sender.accept()
        with pytest.raises(BadTransfer):
            sender.send(hostile)
        sender.sink.close(keep=False)
    sender = Sender(target, "file")
    sender.accept()
    sender.file(b"")
    with pytest.raises(BadTransfer):
        sender.file(b"")
    sender.sink.close(keep=False)
    sender = Sender(target, "file")
    sender.accept()
    with pytest.raises(BadTransfer):
        sender.end()
    sender.sink.close(keep=False)


@pytest.mark.parametrize(
    "answer",
    [
        Accept(records=7),
        Accept(records=1, offset=3),
        Accept(records=1, folders=(b"way",)),
        Accept(records=1, folders=(b"no such",)),
    ],
)
def test_an_answer_that_leads_elsewhere(target: Path, answer: Accept) -> None:
    """Where to go on from is the sender's word; links are not followed for it."""
    outside = target.parent / "outside"
    outside.mkdir()
    first = Sender(target, "tree", resumable=True)
    first.accept()
    first.send(["l", b"way", os.fsencode(outside)])
    first.sink.close(keep=True)
    second = Sender(target, "tree", resumable=True)
    assert second.claim.records == 1
    with pytest.raises((BadTransfer, OSError)):
        second.accept(answer)
    second.sink.close(keep=False)
    assert list(outside.iterdir()) == []
    outside.rmdir()


def test_a_step_done_but_not_noted_is_done_again(target: Path) -> None:
    """A process may be killed between the two."""
    first = Sender(target, "tree", resumable=True)
    first.accept()
    first.send(["d", b"d"])
    noted = (first.records, first.chain)
    first.file(b"f")
    staging = first.sink._staging
    assert staging is not None
    staging.note(*noted)
    first.sink.close(keep=True)
    second = Sender(target, "tree", resumable=True)
    assert (second.claim.records, second.claim.chain) == noted
    second.accept(Accept(records=1, folders=(b"d",)))
    second.records, second.chain = noted
    second.file(b"f", b"again")
    second.send(["u", 0o755, 0])
    second.end()
    assert (target / "d" / "f").read_bytes() == b"again"


def test_after_a_crash_of_the_machine_it_starts_over(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may have less than the journal says: boots are told apart."""
    first = Sender(target, "tree", resumable=True)
    first.accept()
    first.send(["l", b"x", b"y"])
    first.sink.close(keep=True)
    monkeypatch.setattr("remoting_bus._transfer.staging._boot", lambda: b"b" * 16)
    second = Sender(target, "tree", resumable=True)
    assert second.claim.records == 0
    second.accept()
    second.send(["l", b"x", b"z"])
    second.end()
    assert (target / "x").readlink() == Path("z")


def test_somebody_elses_folder_is_not_used(target: Path) -> None:
    """A name that can be guessed may be taken by a link or by another user."""
    first = Sender(target, "tree", resumable=True)
    first.sink.close(keep=True)
    (left,) = hidden(target.parent)
    path = target.parent / left
    path.rename(target.parent / "elsewhere")
    path.symlink_to("elsewhere")
    with pytest.raises(OSError):
        Sender(target, "tree", resumable=True)
    path.unlink()
    if os.geteuid() == 0:
        (target.parent / "elsewhere").rename(path)
        os.chown(path, 12345, 12345)
        with pytest.raises(PermissionError):
            Sender(target, "tree", resumable=True)
