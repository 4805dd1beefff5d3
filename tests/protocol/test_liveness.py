"""How often a side asks whether its peer is there: less in a large fleet, and not as one."""

from __future__ import annotations

import random

import pytest

from remoting_bus.names import Lane
from remoting_bus.protocol import liveness
from remoting_bus.protocol.envelope import read_header
from remoting_bus.protocol.liveness import (
    BEATS_PER_SECOND,
    LONGEST_HEARTBEAT,
    asks_after,
    heartbeat_of,
)
from remoting_bus.protocol.terms import Phase, Terms
from remoting_bus.testing.world import Peer, World

TERMS = Terms(heartbeat=1.0, grace=200.0)


def test_a_small_fleet_has_the_interval_that_was_asked_for() -> None:
    assert heartbeat_of(0, 5.0) == 5.0
    assert heartbeat_of(5 * BEATS_PER_SECOND, 5.0) == 5.0
    assert heartbeat_of(3, 0.1) == 0.1


def test_a_large_fleet_has_a_longer_one_up_to_a_minute() -> None:
    assert heartbeat_of(20 * BEATS_PER_SECOND, 5.0) == 20.0
    assert heartbeat_of(10**6, 5.0) == LONGEST_HEARTBEAT
    assert heartbeat_of(10**6, 90.0) == 90.0


def test_a_fleet_that_grew_beats_with_the_logarithm_of_its_size() -> None:
    """Ten times the agents, not ten times the beats."""

    def beats(size: int) -> float:
        return sum(1 / heartbeat_of(each, 5.0) for each in range(size))

    assert beats(1_000) == pytest.approx(200)
    assert beats(10_000) < 3.5 * beats(1_000)


def test_each_session_has_a_part_of_the_interval() -> None:
    dice = random.Random(1)
    parts = [asks_after(dice.randbytes(16), 8.0) for _ in range(1000)]
    assert 6.0 <= min(parts) < 6.1
    assert 7.5 < max(parts) < 7.6


class Counted(World):
    """A world that notes when the master sends on CONTROL."""

    def __init__(self) -> None:
        super().__init__(1)
        self.beats: list[float] = []

    def send(self, sender: Peer, kind: str, to: str, body: bytes) -> None:
        header = read_header(body)
        assert header is not None
        if sender.name == "master" and header.lane is Lane.CONTROL:
            self.beats.append(self.now)
        super().send(sender, kind, to, body)


def fleet(size: int) -> Counted:
    world = Counted()
    master = world.peer("master", TERMS)
    for each in range(size):
        world.peer(f"agent-{each}", TERMS).connect("master")
        world.run(0.2)
    assert len(master.endpoint.current) == size
    return world


def beats_in(world: Counted, seconds: float) -> int:
    world.beats.clear()
    world.run(seconds)
    return len(world.beats)


def test_both_sides_keep_what_the_master_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The later an agent came, the longer the interval of both; they are never silent."""
    monkeypatch.setattr(liveness, "BEATS_PER_SECOND", 2)
    world = fleet(20)
    master = world.peers["master"].endpoint
    intervals = []
    for each in range(20):
        session = world.peers[f"agent-{each}"].endpoint.current["master"]
        interval = session.terms.heartbeat
        assert interval == master.current[f"agent-{each}"].terms.heartbeat
        intervals.append(interval)
    assert intervals == [max(1.0, each / 2) for each in range(20)]
    assert beats_in(world, 100) < 1000
    assert all(each.phase is Phase.OPEN for each in master.current.values())


def test_one_question_serves_both() -> None:
    """The master sends one envelope an interval and session, not two."""
    world = fleet(20)
    assert 20 * 100 < beats_in(world, 100) < 20 * 100 * 1.35


def test_those_that_open_at_once_agree_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet grows between a hello, its answer and its proof."""
    monkeypatch.setattr(liveness, "BEATS_PER_SECOND", 2)
    world = Counted()
    world.peer("master", TERMS)
    names = [f"agent-{each}" for each in range(12)]
    for name in names[:6]:
        world.peer(name, TERMS).connect("master")
    world.run(0.011)
    for name in names[6:]:
        world.peer(name, TERMS).connect("master")
    world.run(3)
    master = world.peers["master"].endpoint
    for name in names:
        ours = world.peers[name].endpoint.current["master"].terms
        assert ours == master.current[name].terms


def test_a_fleet_that_was_cut_off_does_not_beat_as_one() -> None:
    """All are asked at once when the link is back; some rounds later that has spread."""
    world = fleet(40)
    world.cut("master", "call")
    world.run(5)
    world.heal("master", "call")
    world.run(10)
    world.beats.clear()
    start = world.now
    world.run(4)
    slots = [int((at - start) / 0.1) for at in world.beats]
    busiest = max(slots.count(slot) for slot in set(slots))
    assert len(slots) > 100
    assert busiest < 20
