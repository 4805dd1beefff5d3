"""References are counted by travels, so a release never takes away one in use."""

from __future__ import annotations

import pytest

from remoting_bus.protocol.references import References


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.table = References(lambda which, count: self.sent.append((which, count)))


def test_an_object_is_exported_until_each_travel_is_given_back() -> None:
    """Two travels need two releases, or one of two."""
    table = Wire().table
    table.queued([4])
    table.queued([4, 5])
    assert not table.released(4, 1)
    assert table.released(4, 1)
    assert table.exported == {5: 1}


def test_a_call_that_never_counted_takes_its_travels_back() -> None:
    """What was refused, or taken back, is not owed."""
    table = Wire().table
    table.queued([4, 5, 5])
    assert table.taken_back([4, 5]) == [4]
    assert table.exported == {5: 1}


def test_a_release_gives_back_all_travels_at_once() -> None:
    """The proxy came three times; one release says so."""
    wire = Wire()
    wire.table.received([7, 7])
    wire.table.received([7])
    wire.table.release(7)
    assert wire.sent == [(7, 3)]
    wire.table.release(7)
    assert wire.sent == [(7, 3)]


def test_a_release_waits_for_frames_that_name_the_reference() -> None:
    """Law 8: an argument that sends it home is pulled before the release."""
    wire = Wire()
    wire.table.received([7])
    home = -1 - 7
    wire.table.queued([home])
    wire.table.queued([home])
    wire.table.release(7)
    assert wire.sent == []
    wire.table.pulled([home])
    assert wire.sent == []
    wire.table.pulled([home])
    assert wire.sent == [(7, 1)]


def test_an_object_that_never_was_exported_cannot_be_named() -> None:
    """A peer that names one breaks the protocol."""
    with pytest.raises(ValueError, match="not exported"):
        Wire().table.received([-1 - 3])


@pytest.mark.parametrize("count", [0, -1, 2])
def test_more_releases_than_travels_are_refused(count: int) -> None:
    """Else a peer could take the object from under somebody else's call."""
    table = Wire().table
    table.queued([4])
    with pytest.raises(ValueError, match="more often"):
        table.released(4, count)


def test_a_refused_call_owes_no_release() -> None:
    """Its sender takes the count back by itself."""
    wire = Wire()
    wire.table.received([7, 7])
    wire.table.not_received([7])
    wire.table.release(7)
    assert wire.sent == [(7, 1)]


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a faulty peer sends more references than a table holds."""
    monkeypatch.setattr("remoting_bus.protocol.references.MAX_REFERENCES", 2)
    table = Wire().table
    table.received([1, 2])
    with pytest.raises(ValueError, match="more references"):
        table.received([3])


def test_the_end_gives_all_objects_back() -> None:
    """A session that is over has exported nothing."""
    table = Wire().table
    table.queued([1, 2])
    table.received([9])
    assert table.clear() == [1, 2]
    assert not table.exported
    assert not table.imported
