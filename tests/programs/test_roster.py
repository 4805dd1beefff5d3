"""What a master keeps of its agents: bounded, and never believed more than it must."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from remoting_bus._master.events import (
    AgentEvent,
    AgentJoined,
    AgentLeft,
    AgentLost,
    AgentResumed,
    AgentSuspended,
    Watcher,
)
from remoting_bus._master.remote_agent import RemoteAgent
from remoting_bus._master.roster import MAX_DEPARTED, Roster, labels_of
from remoting_bus.channel.link import Link
from remoting_bus.protocol.terms import Phase, PhaseChanged, PhaseKind

from .conftest import on


def no_node() -> Any:
    raise AssertionError("a roster does no I/O")


def new_roster() -> Roster:
    return Roster("master", lambda name: RemoteAgent(name, no_node, list))


def link_of(name: str, **info: Any) -> Link:
    """Return what a roster looks at of a link."""
    return cast(Link, SimpleNamespace(peer=name, info=info))


def change(phase: Phase, kind: PhaseKind, reason: str = "") -> PhaseChanged:
    return PhaseChanged(phase, kind, None, reason)


@pytest.fixture
def roster() -> Roster:
    return new_roster()


def taken(watcher: Watcher) -> list[AgentEvent]:
    """Return what waits for a reader, without waiting."""
    events = list(watcher._events.values())
    watcher._events.clear()
    return events


def test_the_way_of_an_agent(roster: Roster) -> None:
    link = link_of("a")
    agent = roster.agent("a")
    with roster.watch() as watcher:
        roster.joined(link)
        assert taken(watcher) == [AgentJoined(agent)]
        roster.changed(link, change(Phase.SUSPENDED, "link down", "cut"))
        roster.changed(link, change(Phase.SUSPENDED, "peer silent"))
        assert taken(watcher) == [AgentSuspended(agent, "link down: cut")]
        assert agent.state == "suspended"
        roster.changed(link, change(Phase.OPEN, "resumed"))
        assert taken(watcher) == [AgentResumed(agent)]
        roster.changed(link, change(Phase.OPEN, "peer slow"))
        roster.changed(link, change(Phase.OPEN, "resumed"))
        assert taken(watcher) == []
        roster.changed(link, change(Phase.OVER, "closed", "bye"))
        assert taken(watcher) == [AgentLeft(agent, "bye")]
    assert roster.agents(()) == []


def test_an_agent_that_comes_back_as_a_new_process(roster: Roster) -> None:
    old, new = link_of("a"), link_of("a")
    roster.joined(old)
    with roster.watch() as watcher:
        taken(watcher)
        roster.joined(new)
        assert taken(watcher) == [AgentJoined(roster.agent("a"))]
        roster.changed(old, change(Phase.OVER, "fenced"))
        assert taken(watcher) == [], "what becomes of the old session is no news"
    assert roster.agent("a").state == "joined"


@pytest.mark.parametrize("kind", ["lost", "fenced", "refused"])
def test_all_ends_but_a_goodbye_are_a_loss(roster: Roster, kind: PhaseKind) -> None:
    link = link_of("a")
    roster.joined(link)
    with roster.watch() as watcher:
        taken(watcher)
        roster.changed(link, change(Phase.OVER, kind, "gone"))
        assert taken(watcher) == [AgentLost(roster.agent("a"), "gone")]


def test_events_of_another_session_with_the_agent_are_not_its_own(
    roster: Roster,
) -> None:
    roster.joined(link_of("a"))
    roster.changed(link_of("a"), change(Phase.OVER, "closed"))
    assert roster.agent("a").state == "joined"


def test_the_departed_are_bounded(roster: Roster) -> None:
    first = roster.agent("agent-0")
    for number in range(MAX_DEPARTED + 10):
        link = link_of(f"agent-{number}")
        roster.joined(link)
        roster.changed(link, change(Phase.OVER, "closed"))
    assert len(roster.records()) == MAX_DEPARTED
    assert roster.agent("agent-0") is first, "whoever holds a handle keeps it"
    roster.joined(link_of("agent-0"))
    assert first.state == "joined"
    assert len(roster.records()) == MAX_DEPARTED + 1


def test_handles_that_nobody_holds_are_forgotten(roster: Roster) -> None:
    for number in range(100):
        roster.agent(f"agent-{number}")
    assert len(roster._handles) <= 1


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        (["web", "linux"], {"web", "linux"}),
        (None, set()),
        ("web", set()),
        ({"web": 1}, set()),
        ([1, "", "x" * 129, ["web"], "ok"], {"ok"}),
        ([str(n) for n in range(1000)], {str(n) for n in range(64)}),
    ],
)
def test_labels_are_taken_as_far_as_they_are_labels(
    said: object, labels: set[str]
) -> None:
    assert labels_of({"labels": said}) == labels


def test_a_record_holds_only_what_it_should(roster: Roster) -> None:
    roster.joined(link_of("a", host=7, pid=True, version=None, labels=["b", "a"]))
    (record,) = roster.records()
    assert (record.host, record.pid, record.version) == ("", 0, "")
    assert record.labels == ["a", "b"]
    assert record.master == "master"


@on("memory")
@pytest.mark.anyio
async def test_a_cancelled_read_takes_nothing(roster: Roster) -> None:
    with roster.watch() as watcher:
        with anyio.move_on_after(0):
            await anext(watcher)
        roster.joined(link_of("a"))
        with anyio.fail_after(1):
            assert await anext(watcher) == AgentJoined(roster.agent("a"))
