"""The steps that call: a function everywhere, a command, a cancel."""

from __future__ import annotations

import statistics
import sys

from anyio.streams.text import TextReceiveStream

from remoting_bus._loop import clock
from remoting_bus.errors import CallCancelled

from . import work
from .show import Done, Show, expect
from .stage import Stage

__all__ = ["call_all", "cancel", "command"]

CALLS = 200
"""Calls one after the other, for a median."""

STEPS = 5

STATUS = 3

BUILD = f"""
import sys, time
for step in range(1, {STEPS + 1}):
    print(f"step {{step}} of {STEPS}", flush=True)
    time.sleep(0.2)
print("one warning", file=sys.stderr)
sys.exit({STATUS})
"""

LIVE = 0.4
"""Seconds that the first line has to be ahead of the end; the command itself takes 1."""


async def call_all(stage: Stage, show: Show) -> Done:
    """Call a function on every agent, then one of them again and again."""
    pids = {}
    async with stage.master.gather(stage.agents, work.who) as results:
        async for agent, outcome in results:
            pids[agent.name] = outcome.value
    started = {name: child.pid for name, child in stage.processes.items()}
    expect(
        pids == started, f"agents said they are {pids}, and were started as {started}"
    )
    times = []
    for number in range(CALLS):
        began = clock()
        same = await stage.agents[0].call(work.echo, number)
        times.append(clock() - began)
        expect(same == number, f"echo of {number} was {same}")
    median = statistics.median(times) * 1000
    names = ", ".join(f"{name} (pid {pid})" for name, pid in sorted(pids.items()))
    return Done(
        f"{names} answered; a call takes {median:.2f} ms",
        {"agents": len(pids), "call_p50_ms": median},
    )


async def command(stage: Stage, show: Show) -> Done:
    """Run a build-like command and show its output as it comes."""
    began = clock()
    lines: list[tuple[float, str]] = []
    line = [sys.executable, "-c", BUILD]
    async with stage.agents[1].open_process(line, merge_stderr=True) as process:
        rest = ""
        async for text in TextReceiveStream(process.stdout):
            *whole, rest = (rest + text).split("\n")
            for each in whole:
                lines.append((clock() - began, each))
                show.say(f"  | {each}")
        status = await process.wait()
    took = clock() - began
    said = [each for _, each in lines]
    wanted = [f"step {step} of {STEPS}" for step in range(1, STEPS + 1)]
    expect(said == [*wanted, "one warning"], f"its output was {said}")
    expect(status == STATUS, f"its exit status was {status}, not {STATUS}")
    first = lines[0][0]
    expect(took - first >= LIVE, f"the first line came only {took - first:.2f} s ahead")
    return Done(
        f"{len(lines)} lines, the first after {first:.2f} s, the end after {took:.2f} s; "
        f"exit status {status}",
        {
            "lines": len(lines),
            "first_line_s": first,
            "took_s": took,
            "exit_status": status,
        },
    )


async def cancel(stage: Stage, show: Show) -> Done:
    """Cancel a call whose function runs a process there."""
    agent = stage.agents[2]
    async with agent.start(work.job) as call:
        pid = 0
        async for report in call.progress:
            pid = int(report.done)
            break
        running = await agent.call(work.is_running, pid)
        expect(running, f"process {pid} should be running and is not")
        began = clock()
        call.cancel()
        try:
            await call.result()
        except CallCancelled as error:
            took = (clock() - began) * 1000
            answer = str(error)
        else:
            expect(False, "the call ended as if nobody had cancelled it")
            raise AssertionError
    left = await agent.call(work.is_running, pid)
    expect(not left, f"process {pid} still runs")
    return Done(
        f"cancelled, acknowledged after {took:.1f} ms; process {pid} on {agent.name} is "
        "gone",
        {"acknowledged_ms": took, "pid": pid, "answer": answer},
    )
