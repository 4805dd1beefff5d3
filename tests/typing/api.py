"""The public API as a user writes it: checked by mypy strict and pyright, never run."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, assert_type, overload

import anyio
import anyio.abc

import remoting_bus as rb

T = TypeVar("T")

agent = rb.Agent("nats://a:4222,b:4222", name="web-1", labels={"linux", "web"})


@dataclass
class Image:
    tag: str


@agent.command
async def disk_usage(path: str) -> int:
    return len(path)


@agent.command("restart")
def restart(name: str, *, hard: bool = False) -> bool:
    return hard


@rb.command
def build(tag: str) -> Image:
    context = rb.current()
    assert_type(context, rb.CallContext)
    assert_type(context.peer, str)
    assert_type(context.deadline, float | None)
    assert_type(context.priority, rb.Priority)
    context.progress(1, 2, "layer 3")
    rb.checkpoint()
    return Image(tag)


@rb.command("tail")
async def tail(path: str) -> AsyncIterator[str]:
    yield path


def numbers(count: int) -> Iterator[int]:
    yield count


def identity(value: T) -> T:
    return value


@rb.inline
def quick(a: int) -> int:
    return a


@overload
def either(value: int) -> int: ...
@overload
def either(value: str) -> str: ...
def either(value: int | str) -> int | str:
    return value


def names_of_ours(self: int, function: str, key: bytes, timeout: float) -> int:
    return self


def tar_create(where: str, out: anyio.abc.ByteSendStream) -> None:
    with rb.as_file(out) as file:
        file.write(where.encode())


async def calls(web: rb.RemoteAgent) -> None:
    assert_type(await web.call(disk_usage, "/var"), int)
    assert_type(await web.call(restart, "nginx", hard=True), bool)
    assert_type(await web.call(build, "app:1.2"), Image)
    assert_type(await web.call(quick, 1), int)
    assert_type(await web.call(identity, 3), int)
    assert_type(await web.call(either, 3), int)
    assert_type(await web.call(functools.partial(disk_usage, "/var")), int)
    assert_type(await web.call(functools.partial(restart, hard=True), "x"), bool)
    assert_type(await web.call(names_of_ours, 1, "a", b"k", 2.0), int)
    assert_type(
        await web.call(names_of_ours, self=1, function="", key=b"", timeout=1), int
    )
    named: Any = await web.call("disk_usage", "/var", anything=3)
    del named
    await web.call(disk_usage, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await web.call(disk_usage)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await web.call(restart, "a", soft=True)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def options(web: rb.RemoteAgent) -> None:
    urgent = web.using(timeout=30, priority=rb.Priority.URGENT)
    assert_type(await urgent.call(restart, "nginx"), bool)
    assert_type(await urgent.using(key="rollout-17").call(disk_usage, "/"), int)
    await web.using(limit=3).call(restart, "x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def held(web: rb.RemoteAgent) -> None:
    async with web.start(build, "app:1.2") as call:
        assert_type(call, rb.Call[Image])
        async for step in call.progress:
            assert_type(step, rb.Progress)
            assert_type(step.done, float)
            assert_type(step.total, float | None)
        assert_type(await call.result(), Image)
        call.cancel()
    async with web.start(disk_usage, "/") as second:
        assert_type(second, rb.Call[int])
    async with web.using(timeout=3).start("by name", 3) as third:
        assert_type(third, rb.Call[Any])


async def streams(web: rb.RemoteAgent) -> None:
    async with web.stream(tail, "/var/log/syslog") as lines:
        async for line in lines:
            assert_type(line, str)
    async with web.using(timeout=3).stream(numbers, 3) as found:
        async for number in found:
            assert_type(number, int)
    async with rb.pipe() as (reader, writer):
        receive: anyio.abc.ByteReceiveStream = reader
        async with web.start(tar_create, "/etc", writer) as call:
            async for chunk in receive:
                assert_type(chunk, bytes)
            assert_type(await call.result(), None)


async def many(master: rb.Master) -> None:
    agents = master.agents(labels={"web"})
    assert_type(agents, list[rb.RemoteAgent])
    together = master.using(limit=50, timeout=30)
    async with together.gather(agents, disk_usage, "/var") as results:
        async for one, outcome in results:
            assert_type(one, rb.RemoteAgent)
            assert_type(outcome, rb.Outcome[int])
            assert_type(outcome.value, int)
            assert_type(outcome.error, Exception | None)
    async with together.gather(agents, build, "x") as images:
        async for _, image in images:
            assert_type(image, rb.Outcome[Image])


async def programs() -> None:
    async with rb.Master("nats://a:4222", name="control") as master:
        web = master.agent("web-1")
        await web.ready(timeout=10)
        async with master.watch() as events:
            async for event in events:
                if isinstance(event, rb.AgentJoined):
                    assert_type(event, rb.AgentJoined)
    async with anyio.create_task_group() as group:
        await group.start(agent.serve)
    async with agent:
        pass
    rb.run(programs)


async def channel() -> None:
    async with (
        rb.open_bus("amqp://a?topology=quorum") as bus,
        rb.Channel(bus, local="a", peer="b", commands={"echo": quick}) as between,
    ):
        assert_type(await between.call(quick, 3), int)
        urgent = between.using(priority=rb.Priority.URGENT)
        anything: Any = await urgent.call("echo", b"x")
        del anything
        stream: anyio.abc.ByteStream = await between.open_stream("upload")
        await stream.send(b"x")
        async for name, incoming in between.incoming_streams():
            assert_type(name, str)
            await incoming.receive()
        between.statistics()


async def errors(web: rb.RemoteAgent) -> None:
    try:
        await web.call(disk_usage, "/")
    except rb.PeerLost as lost:
        if lost.executed == "no":
            pass
    except rb.RemoteError as error:
        assert_type(error.traceback, str)
    except (rb.CallTimeout, rb.CallCancelled, rb.Overloaded, rb.NotGranted):
        pass
