"""What an agent offers by default, through the handle that a master has on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from remoting_bus.errors import NotGranted

from .conftest import Place, on

pytestmark = [pytest.mark.anyio, on("memory", "nats")]

ALL = {"commands", "files", "processes"}


async def test_files_and_processes_of_an_agent(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 300_000)
    async with place.master() as master, place.agent(master, offers=ALL):
        agent = master.agent("agent")
        await agent.files.put(source, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == source.read_bytes()
        done = await agent.run_process(
            [sys.executable, "-c", "print(input()[::-1])"], input=b"abc\n"
        )
        assert done.stdout == b"cba\n"
        command = [sys.executable, "-c", "print('out')"]
        async with agent.open_process(command, cwd=tmp_path) as process:
            assert b"".join([part async for part in process.stdout]) == b"out\n"
            assert await process.wait() == 0


async def test_what_is_not_offered_is_not_granted(place: Place, tmp_path: Path) -> None:
    async with place.master() as master, place.agent(master, offers={"commands"}):
        agent = master.agent("agent")
        with pytest.raises(NotGranted, match=r"'files'.*not offered here"):
            await agent.files.put(__file__, tmp_path / "target")
        with pytest.raises(NotGranted, match=r"'processes'.*not offered here"):
            await agent.run_process(["true"])
