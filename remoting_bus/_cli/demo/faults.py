"""The steps where something breaks: the bus stands still, an agent is killed."""

from __future__ import annotations

import os
import secrets
import signal

import anyio

from remoting_bus._loop import clock
from remoting_bus._master import AgentEvent, AgentLost, AgentResumed, AgentSuspended
from remoting_bus._remote.call import Call
from remoting_bus.errors import PeerLost

from . import work
from .show import Done, Show, Skipped, expect
from .stage import HEARTBEAT, PATIENCE, Stage

__all__ = ["kill_agent", "stop_bus"]

STOPPED = 4.0
"""Seconds that the bus stands still: longer than what suspends a session, 4 heartbeats,
shorter than what ends it."""

WORK = 1.0
"""Seconds that the call takes by itself: it ends on the agent while the bus is away."""

NOTICED = 4 * HEARTBEAT + PATIENCE + 10.0
"""Seconds in which a killed agent has to be given up: with room for a busy machine."""


async def stop_bus(stage: Stage, show: Show) -> Done:
    """Stop the bus process in the middle of a call, let it go on, and get the result."""
    if stage.broker is None or stage.broker.pid is None:
        raise Skipped("the bus is not ours to stop")
    pid, agent = stage.broker.pid, stage.agents[0]
    seen: list[AgentEvent] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_note_events, stage, seen)
        async with agent.start(work.steady, secrets.token_hex(4), WORK) as call:
            await _under_way(call)
            began = clock()
            os.kill(pid, signal.SIGSTOP)
            try:
                await anyio.sleep(STOPPED)
                expect(call.state == "running", f"the call was {call.state} meanwhile")
            finally:
                os.kill(pid, signal.SIGCONT)
            again = clock()
            runs = await call.result()
            took, after = clock() - began, clock() - again
        group.cancel_scope.cancel()
    expect(runs == 1, f"the function ran {runs} times")
    mine = [type(event) for event in seen if event.agent is agent]
    suspended = AgentSuspended in mine
    expect(AgentLost not in mine, "the agent was given up")
    return Done(
        f"process {pid} of the bus stood still for {STOPPED:.0f} s; the same call ended "
        f"{after:.2f} s after it went on, and had run once",
        {
            "stopped_s": STOPPED,
            "call_took_s": took,
            "after_s": after,
            "runs": runs,
            "suspended": suspended,
            "resumed": AgentResumed in mine,
        },
    )


async def _note_events(stage: Stage, seen: list[AgentEvent]) -> None:
    async with stage.master.watch() as events:
        async for event in events:
            seen.append(event)  # noqa: PERF401 - it is read while it grows


async def _under_way(call: Call[int] | Call[None]) -> None:
    async for _ in call.progress:
        return
    await call.result()


async def kill_agent(stage: Stage, show: Show) -> Done:
    """Kill an agent in the middle of a call, and show what its caller gets."""
    agent = stage.agents[2]
    pid = stage.processes[agent.name].pid
    async with agent.start(work.hold) as call:
        await _under_way(call)
        began = clock()
        os.kill(pid, signal.SIGKILL)
        try:
            with anyio.fail_after(NOTICED):
                await call.result()
        except PeerLost as lost:
            took, executed, said = clock() - began, lost.executed, str(lost)
        else:
            expect(False, "the call returned")
            raise AssertionError
    expect(executed == "unknown", f"executed was {executed!r}")
    expect(agent.state == "lost", f"the agent's state was {agent.state!r}")
    others = [each.state for each in stage.agents[:2]]
    expect(others == ["joined", "joined"], f"the others were {others}")
    return Done(
        f"process {pid} was killed; {took:.1f} s later the caller got PeerLost, "
        f"executed={executed!r}: {said}",
        {"noticed_s": took, "error": "PeerLost", "executed": executed, "message": said},
    )
