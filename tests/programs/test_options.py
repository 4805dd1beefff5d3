"""Seconds and counts that cannot be: refused at once, by name, and nothing hangs."""

from __future__ import annotations

import math
from typing import Any

import pytest

import remoting_bus as rb


@pytest.mark.parametrize("kind", [rb.Master, rb.Agent])
@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("timeout", -1, "timeout is -1: give seconds, 0 or more"),
        ("timeout", math.nan, "timeout is nan"),
        ("grace", 0, r"grace is 0: give seconds, 0.001 to 31622400"),
        ("grace", -1, "grace is -1"),
        ("grace", math.nan, "grace is nan"),
        ("grace", math.inf, "grace is inf"),
        ("heartbeat", 0, "heartbeat is 0"),
        ("heartbeat", -1, "heartbeat is -1"),
        ("heartbeat", math.inf, "heartbeat is inf"),
        ("workers", 0, "workers is 0: give 1 or more"),
        ("waiting", -1, "waiting is -1: give 0 or more"),
    ],
)
def test_of_a_program(kind: Any, option: str, value: float, says: str) -> None:
    """Peers would drop what such a program says, and it would wait for ever."""
    with pytest.raises(ValueError, match=says):
        kind("memory://x", name="a", **{option: value})
    with pytest.raises(TypeError, match=f"{option} must be"):
        kind("memory://x", name="a", **{option: "5"})


def test_of_one_of_them() -> None:
    with pytest.raises(ValueError, match="idle is -1"):
        rb.Master("memory://x", idle=-1)
    with pytest.raises(ValueError, match="patience is nan"):
        rb.Agent("memory://x", name="a", patience=math.nan)
    with pytest.raises(ValueError, match="timeout is -1"):
        rb.open_bus("memory://x", timeout=-1)


async def _echo(value: int) -> int:
    return value


@pytest.mark.anyio
async def test_of_a_call(remoting_master: rb.Master, remoting_agent: rb.Agent) -> None:
    """Infinity is no limit, as anyio has it: it undoes one that was set."""
    remoting_agent.command("echo")(_echo)
    agent = remoting_master.agent(remoting_agent.name)
    await agent.ready(timeout=math.inf)
    forever = agent.using(timeout=1e-9).using(timeout=math.inf)
    assert await forever.call("echo", 1) == 1
    many = remoting_master.using(timeout=math.inf)
    async with many.gather([agent], "echo", 1) as results:
        assert [outcome.value async for _, outcome in results] == [1]
    for wrong in (-1, math.nan, -math.inf):
        says = f"timeout is {wrong}: give seconds, 0 or more"
        with pytest.raises(ValueError, match=says):
            agent.using(timeout=wrong)
        with pytest.raises(ValueError, match=says):
            remoting_master.using(timeout=wrong)
        with pytest.raises(ValueError, match=says):
            await agent.ready(timeout=wrong)
        with pytest.raises(ValueError, match=says):
            await remoting_master.survey(timeout=wrong)
        with pytest.raises(ValueError, match=says):
            await remoting_agent.drain(wrong)
    text: Any = "5"
    with pytest.raises(TypeError, match="timeout must be seconds, a number, not str"):
        agent.using(timeout=text)
    with pytest.raises(ValueError, match="limit is 0: give 1 or more"):
        remoting_master.using(limit=0)
