"""Calls between two channels over the memory bus: how each kind runs, and ends."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest

import remoting_bus as rb
from remoting_bus._loop.workers import MAX_THREADS

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class Host:
    name: str
    port: int


@dataclasses.dataclass
class Config:
    hosts: list[Host]


class OwnError(Exception):
    pass


@asynccontextmanager
async def between(
    *functions: Callable[..., Any], **named: Callable[..., Any]
) -> AsyncIterator[rb.Channel]:
    """Give a channel whose peer serves the functions."""
    commands = {each.__name__: each for each in functions} | named
    for each in functions:
        rb.command(each.__name__)(each)
    async with (
        rb.open_bus("memory://calls") as bus,
        rb.Channel(bus, local="b", peer="a", commands=commands),
        rb.Channel(bus, local="a", peer="b") as channel,
    ):
        with anyio.fail_after(20):
            yield channel


async def echo(value: Any) -> Any:
    return value


def in_thread(value: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return value + 1


@rb.inline
def in_loop(value: int) -> int:
    assert threading.current_thread() is threading.main_thread()
    return value + 1


async def typed(config: Config, where: Path = Path("/")) -> Host:
    assert isinstance(where, Path)
    return config.hosts[0]


async def test_functions_of_every_kind_return() -> None:
    async with between(echo, in_thread, in_loop, typed) as channel:
        assert await channel.call(echo, {"a": [1, b"x"]}) == {"a": [1, b"x"]}
        assert await channel.call(in_thread, 1) == 2
        assert await channel.call(in_loop, 1) == 2
        config = Config([Host("h", 1)])
        assert await channel.call(typed, config) == Host("h", 1)
        assert await channel.call(typed, config=config, where=Path("/x")) == (
            Host("h", 1)
        )
        assert await channel.call("typed", config) == {"name": "h", "port": 1}
        partial = functools.partial(typed, config)
        assert await channel.call(partial) == Host("h", 1)


async def test_a_sync_function_may_return_what_an_async_one_gave_it() -> None:
    async with between(later=lambda: echo(3)) as channel:
        assert await channel.call("later") == 3


async def test_many_calls_at_once_each_get_their_own_result() -> None:
    async with between(echo, in_thread) as channel:
        results: dict[int, tuple[int, int]] = {}

        async def one(number: int) -> None:
            results[number] = (
                await channel.call(echo, number),
                await channel.call(in_thread, number),
            )

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(one, number)
        assert results == {n: (n, n + 1) for n in range(200)}


# -- refused --


async def test_an_unknown_function_is_refused_and_known_ones_are_named() -> None:
    async with between(echo) as channel:
        with pytest.raises(rb.CallRefused, match=r"'nobody' is not known.*echo"):
            await channel.call("nobody", 1)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ({"hosts": [{"name": "a", "port": 1}, {"name": "b", "port": "x"}]},),
            r"argument 'config\.hosts\[1\]\.port': Expected int, got str",
        ),
        ((), "missing a required argument: 'config'"),
        (({"hosts": []}, 3), "argument 'where': Expected a path"),
        (({"hosts": []}, "/", 3), "too many positional arguments"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused(
    args: tuple[Any, ...], words: str
) -> None:
    async with between(typed) as channel:
        with pytest.raises(rb.CallRefused, match=words):
            await channel.call("typed", *args)


async def test_an_argument_that_cannot_be_sent_is_refused_here() -> None:
    async with between(typed, echo) as channel:
        bad = Config([Host("a", object())])  # type: ignore[arg-type]
        with pytest.raises(rb.CallRefused, match=r"'config\.hosts\[0\]\.port'"):
            await channel.call(typed, bad)
        deep: Any = []
        for _ in range(10_000):
            deep = [deep]
        with pytest.raises(rb.CallRefused, match="max_depth"):
            await channel.call(echo, deep)


async def test_an_argument_over_the_limit_names_it() -> None:
    async with between(echo) as channel:
        with pytest.raises(rb.LimitExceeded, match="max_message") as caught:
            await channel.call(echo, bytes(17 * 1024 * 1024))
        assert caught.value.limit == "max_message"
        assert await channel.call(echo, 1) == 1


async def test_a_result_that_cannot_be_sent_says_that_it_ran() -> None:
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    results: dict[str, Any] = {
        "object": [1, {"x": object()}],
        "deep": deep,
        "large": bytes(17 * 1024 * 1024),
    }
    async with between(give=lambda kind: results[kind]) as channel:
        with pytest.raises(rb.CallRefused, match=r"result\[1\]\['x'\]: .*call ran"):
            await channel.call("give", "object")
        with pytest.raises(rb.CallRefused, match=r"max_depth.*call ran"):
            await channel.call("give", "deep")
        with pytest.raises(rb.CallRefused, match=r"max_message.*call ran"):
            await channel.call("give", "large")


async def test_a_result_that_is_not_as_annotated_is_told() -> None:
    def lies() -> int:
        return "x"  # type: ignore[return-value]

    async with between(lies) as channel:
        with pytest.raises(rb.CallRefused, match="result: Expected int, got str"):
            await channel.call(lies)


async def test_the_wrong_verb_is_told() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async with between(numbers, echo) as channel:
        with pytest.raises(rb.CallRefused, match=r"call it with stream\(\)"):
            await channel.call("numbers")
        with pytest.raises(rb.CallRefused, match=r"call it with call\(\)"):
            await _exhaust(channel.stream("echo", 1))


async def test_a_key_is_refused_where_no_journal_is_kept() -> None:
    async with between(echo) as channel:
        with pytest.raises(rb.CallRefused, match="no journal"):
            await channel.using(key="once").call(echo, 1)


async def _exhaust(stream: AbstractAsyncContextManager[AsyncIterator[Any]]) -> None:
    async with stream as items:
        async for _ in items:
            pass


# -- raised --


async def raises(kind: str) -> None:
    match kind:
        case "own":
            raise OwnError("mine", 3)
        case "os":
            raise FileNotFoundError(2, "No such file", "/nowhere/at/all")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "base":
            raise BaseException("base")
        case "generator":
            raise GeneratorExit
        case _:
            raise ValueError(kind)


@pytest.mark.parametrize("threaded", [False, True])
async def test_what_a_function_raises_is_raised_at_its_caller(threaded: bool) -> None:
    def raises_in_thread(kind: str) -> None:
        coroutine = raises(kind)
        coroutine.send(None)

    raises_in_thread.__module__ = __name__
    function: Any = raises_in_thread if threaded else raises
    async with between(function, echo) as channel:
        with pytest.raises(OwnError) as own:
            await channel.call(function, "own")
        assert own.value.args == ("mine", 3)
        assert "in raises" in own.value.__notes__[-1]
        assert "dispatch.py" not in own.value.__notes__[-1]
        with pytest.raises(FileNotFoundError) as missing:
            await channel.call(function, "os")
        assert missing.value.filename == "/nowhere/at/all"
        with pytest.raises(rb.RemoteError, match=r"OwnError: \('mine', 3\)"):
            await channel.call(function.__name__, "own")
        for kind, shown in (
            ("exit", "SystemExit: 3"),
            ("interrupt", "KeyboardInterrupt"),
            ("base", "BaseException: base"),
            ("generator", "GeneratorExit"),
        ):
            with pytest.raises(rb.RemoteError, match=shown):
                await channel.call(function, kind)
        assert await channel.call(echo, "still there") == "still there"


async def test_a_function_that_cancels_itself_ends_its_call_only() -> None:
    async def cancels_itself() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0):
            await anyio.sleep_forever()

    async def raises_cancelled() -> None:
        import asyncio

        raise asyncio.CancelledError("mine")

    async with between(cancels_itself, raises_cancelled, echo) as channel:
        await channel.call(cancels_itself)
        with pytest.raises(rb.RemoteError, match="CancelledError"):
            await channel.call(raises_cancelled)
        assert await channel.call(echo, 1) == 1


# -- cancelled and timed out --


async def test_leaving_the_scope_cancels_the_far_side() -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def forever() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with between(forever, echo) as channel:
        async with anyio.create_task_group() as group:
            group.start_soon(channel.call, forever)
            await began.wait()
            group.cancel_scope.cancel()
        await ended.wait()
        assert await channel.call(echo, 1) == 1


async def test_a_sync_function_sees_the_cancel_at_its_checkpoint() -> None:
    began, go_on = anyio.Event(), threading.Event()
    seen: list[BaseException] = []

    def works() -> None:
        anyio.from_thread.run_sync(began.set)
        assert go_on.wait(10)
        try:
            rb.checkpoint()
        except rb.CallCancelled as error:
            seen.append(error)
            raise

    async with between(works) as channel, channel.start(works) as call:
        await began.wait()
        call.cancel()
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        with pytest.raises(rb.CallCancelled, match="it was stopped"):
            await call.result()
        assert call.state == "cancelled"
    assert len(seen) == 1


async def test_from_thread_is_cancelled_with_its_call() -> None:
    began = anyio.Event()

    def waits() -> None:
        anyio.from_thread.run_sync(began.set)
        while True:
            anyio.from_thread.run(anyio.sleep, 0.01)
            rb.checkpoint()

    async with between(waits, echo) as channel:
        async with channel.start(waits) as call:
            await began.wait()
            call.cancel()
            with pytest.raises(rb.CallCancelled):
                await call.result()
        assert await channel.call(echo, 1) == 1


async def test_a_function_that_finishes_all_the_same_gives_its_result() -> None:
    began, go_on = anyio.Event(), threading.Event()

    def stubborn() -> int:
        anyio.from_thread.run_sync(began.set)
        assert go_on.wait(10)
        return 3

    async with between(stubborn) as channel, channel.start(stubborn) as call:
        await began.wait()
        call.cancel()
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        assert await call.result() == 3


async def test_a_call_ends_at_its_deadline_whatever_runs() -> None:
    go_on = threading.Event()

    async def forever() -> None:
        await anyio.sleep_forever()

    def blocks() -> None:
        assert go_on.wait(10)

    async with between(forever, blocks, echo) as channel:
        brief = channel.using(timeout=0.1)
        for function in (forever, blocks):
            with pytest.raises(rb.CallTimeout) as caught:
                await brief.call(function)
            assert caught.value.executed == "unknown"
        go_on.set()
        assert await channel.call(echo, 1) == 1


async def test_functions_that_never_return_hold_up_no_others() -> None:
    """Their callers have left: other calls run, those for a thread are refused."""
    all_began, go_on = anyio.Event(), threading.Event()
    began: list[None] = []

    def note() -> None:
        began.append(None)
        if len(began) == MAX_THREADS:
            all_began.set()

    def never() -> None:
        anyio.from_thread.run_sync(note)
        assert go_on.wait(60)

    async with between(never, echo, in_thread, in_loop) as channel:
        try:
            async with anyio.create_task_group() as callers:
                for _ in range(MAX_THREADS + 6):
                    callers.start_soon(channel.call, never)
                await all_began.wait()
                callers.cancel_scope.cancel()
            for number in range(1_500):  # more than may run and wait
                assert await channel.call(echo, number) == number
            assert await channel.call(in_loop, 1) == 2
            for _ in range(2):
                with pytest.raises(rb.Overloaded, match=r"all 64 threads .*\(never\)"):
                    await channel.call(in_thread, 1)
            assert len(began) == MAX_THREADS
        finally:
            go_on.set()
        while True:  # until one of them has ended
            try:
                assert await channel.call(in_thread, 1) == 2
            except rb.Overloaded:
                continue
            break


async def test_a_call_to_a_peer_that_is_not_there_times_out_unrun() -> None:
    async with (
        rb.open_bus("memory://alone") as bus,
        rb.Channel(bus, local="a", peer="b") as channel,
    ):
        with anyio.fail_after(10), pytest.raises(rb.CallTimeout) as caught:
            await channel.using(timeout=0.1).call("echo", 1)
        assert caught.value.executed == "no"


async def test_options_are_checked_and_inherited() -> None:
    async with between(echo) as channel:
        with pytest.raises(ValueError, match="timeout is -1"):
            channel.using(timeout=-1)
        handle = channel.using(timeout=5).using(priority=rb.Priority.URGENT)
        assert handle._options.timeout == 5
        assert handle._options.priority is rb.Priority.URGENT
        assert await handle.call(echo, 1) == 1


# -- the context of a call --


async def test_a_function_knows_its_call() -> None:
    def report() -> list[Any]:
        context = rb.current()
        assert context.deadline is not None
        left = context.deadline - anyio.from_thread.run_sync(anyio.current_time)
        return [context.peer, int(context.priority), 0 < left < 30]

    async with between(report) as channel:
        handle = channel.using(timeout=30, priority=rb.Priority.BACKGROUND)
        assert await handle.call(report) == ["a", 2, True]


async def test_each_call_has_its_own_view_of_context_variables() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("v", default=0)

    async def count() -> int:
        variable.set(variable.get() + 1)
        await anyio.lowlevel.checkpoint()
        return variable.get()

    def count_in_thread() -> int:
        variable.set(variable.get() + 1)
        return variable.get()

    async with between(count, count_in_thread) as channel:
        for function in (count, count_in_thread):
            for _ in range(3):
                assert await channel.call(function) == 1


async def test_outside_a_call_there_is_no_context() -> None:
    rb.checkpoint()
    with pytest.raises(RuntimeError, match="no call is answered here"):
        rb.current()


async def test_progress_comes_while_it_runs_and_ends_with_the_call() -> None:
    seen_first = anyio.Event()

    async def works() -> int:
        rb.current().progress(1, 3, "first")
        await seen_first.wait()
        for step in range(1000):
            rb.current().progress(step, 1000)
        rb.current().progress(3, 3, "last")
        return 7

    def works_in_thread() -> int:
        rb.current().progress(1, 3, "first")
        anyio.from_thread.run(seen_first.wait)
        rb.current().progress(3, 3, "last")
        return 7

    async with between(works, works_in_thread) as channel:
        for function in (works, works_in_thread):
            async with channel.start(function) as call:
                reports = []
                async for report in call.progress:
                    reports.append(report)
                    seen_first.set()
                assert reports[0] == rb.Progress(1, 3, "first")
                assert len(reports) < 1000
                assert await call.result() == 7
            seen_first = anyio.Event()


# -- calls that are held --


async def test_leaving_the_block_cancels_what_runs() -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def forever() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with between(forever) as channel:
        async with channel.start(forever) as call:
            assert call.state == "running"
            await began.wait()
        await ended.wait()
        with pytest.raises(rb.CallCancelled):
            await call.result()


async def test_a_failure_that_nobody_asked_for_is_raised_on_leaving() -> None:
    async with between(raises) as channel:

        async def hold(kind: str, *, ask: bool = False, fail: bool = False) -> None:
            async with channel.start(raises, kind) as call:
                async for _ in call.progress:
                    pass
                if ask:
                    await call.result()
                if fail:
                    raise KeyError

        with pytest.raises(ValueError, match="unasked"):
            await hold("unasked")
        with pytest.raises(ValueError, match="asked"):
            await hold("asked", ask=True)
        with pytest.raises(KeyError):
            await hold("hidden", fail=True)


async def test_several_tasks_may_wait_for_one_call() -> None:
    go_on = anyio.Event()

    async def waits() -> int:
        await go_on.wait()
        return 3

    async with between(waits) as channel, channel.start(waits) as call:
        results: list[int] = []

        async def one() -> None:
            results.append(await call.result())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        assert results == [3, 3, 3]


async def test_a_peer_that_leaves_ends_the_call() -> None:
    began = anyio.Event()

    async def forever() -> None:
        began.set()
        await anyio.sleep_forever()

    served: AbstractAsyncContextManager[Any]
    async with rb.open_bus("memory://leaves") as bus:
        served = rb.Channel(bus, local="b", peer="a", commands={"forever": forever})
        async with rb.Channel(bus, local="a", peer="b") as channel:
            with anyio.fail_after(20):
                async with served:
                    call_context = channel.start("forever")
                    call = await call_context.__aenter__()
                    await began.wait()
                with pytest.raises((rb.PeerLost, rb.CallCancelled)):
                    await call.result()
                await call_context.__aexit__(None, None, None)


async def test_either_side_may_call_also_while_it_is_called() -> None:
    async with rb.open_bus("memory://both") as bus:
        a: rb.Channel
        b: rb.Channel

        async def ping(depth: int) -> int:
            return depth if depth == 0 else 1 + await b.call("pong", depth - 1)

        async def pong(depth: int) -> int:
            return depth if depth == 0 else 1 + await a.call("ping", depth - 1)

        async with (
            rb.Channel(bus, local="a", peer="b", commands={"pong": pong}) as a,
            rb.Channel(bus, local="b", peer="a", commands={"ping": ping}) as b,
        ):
            with anyio.fail_after(20):
                assert await a.call("ping", 10) == 10


async def test_attempt_gives_an_outcome_and_raises_nothing() -> None:
    async with between(echo, raises) as channel:
        good = await channel.attempt(echo, (3,))
        assert (good.state, good.value) == ("returned", 3)
        bad = await channel.attempt(raises, ("x",))
        assert bad.state == "raised"
        assert isinstance(bad.error, ValueError)
        refused = await channel.attempt("nobody")
        assert refused.state == "refused"
