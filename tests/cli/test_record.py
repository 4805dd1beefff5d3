"""How a master on this machine is found: privately, and only while it lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoting_bus._cli.failures import Failure
from remoting_bus._cli.record import Record, folder, latest, published

FIRST = Record(("nats://first:1",), "default", "first", 1)
SECOND = Record(("nats://second:1", "nats://third:1"), "fleet", "second", 2)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_nobody_is_found_where_nobody_was() -> None:
    assert latest() is None


def test_the_one_started_last_is_found_then_the_one_before() -> None:
    with published(FIRST):
        assert latest() == FIRST
        with published(SECOND):
            assert latest() == SECOND
        assert latest() == FIRST
    assert latest() is None
    assert list(folder().iterdir()) == []


def test_what_a_killed_master_left_is_removed() -> None:
    with published(FIRST) as path:
        left = path.read_bytes()
    path.write_bytes(left)  # as if it had not come to remove it
    assert latest() is None
    assert not path.exists()


def test_a_file_that_is_not_understood_is_passed_over() -> None:
    with published(FIRST), published(SECOND) as path:
        path.write_text("{}")
        assert latest() == FIRST


def test_only_the_user_can_read_it() -> None:
    with published(FIRST) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert folder().stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_to_is_refused() -> None:
    with published(FIRST):
        folder().chmod(0o777)
        with pytest.raises(Failure, match="not this user's alone"):
            latest()
        with pytest.raises(Failure, match="not this user's alone"):
            published(SECOND).__enter__()


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder().symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match="not this user's alone"):
        latest()
