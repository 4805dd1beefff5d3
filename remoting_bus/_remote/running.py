"""The ways of running a function that are not a plain await: threads and generators.

A function in a thread cannot be stopped from outside. Its call's cancel is seen by
`checkpoint` and by `anyio.from_thread`, and its worker stays with it until it has ended,
so that what became of the work is known. Meanwhile other calls have its place, except
those that need a thread: where such functions hold all of them, these are refused. It
must not know how calls are answered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from remoting_bus._loop import Job, current_loop
from remoting_bus.channel.streams import SendStream
from remoting_bus.errors import CallCancelled, Overloaded
from remoting_bus.protocol.calls import IncomingCall, RefusalCode
from remoting_bus.protocol.codec import EncodeError
from remoting_bus.protocol.ends import MAX_PIECE, Outlet

from .context import CURRENT
from .items import frame_item
from .relay import Relay, RelayClosed

if TYPE_CHECKING:
    from remoting_bus.channel.link import Link

__all__ = ["Unsendable", "in_thread", "items_of", "items_of_thread"]

_TURN = 32
"""Items after which others may run, where the generator never waits."""


class Unsendable(Exception):
    """A generator yielded what cannot be sent."""


async def in_thread(link: Link, call: IncomingCall, function: Callable[[], Any]) -> Any:
    """Run a sync function in a worker thread and return its result.

    A cancel of the call is told to the thread and then waited out. The end of this
    program is not: the thread is left behind.
    """
    job, scope = _submit(link, call, function)
    with scope:
        return await job.wait()
    return await _wait_out(link, call, job)


def _submit(
    link: Link, call: IncomingCall, function: Callable[[], Any]
) -> tuple[Job[Any], anyio.CancelScope]:
    context = CURRENT.get()
    assert context is not None
    threads = link.node.threads
    if threads.held >= threads.limit:
        message = _all_held(link, threads.limit)
        link.refused(call, RefusalCode.OVERLOADED, message)
        raise Overloaded(message)
    context.runs_beside()
    scope = anyio.CancelScope()
    if call.cancelled is not None:
        scope.cancel()
    job = threads.submit(function, scope=scope)
    call.on_cancel = scope.cancel
    return job, scope


async def _wait_out(link: Link, call: IncomingCall, job: Job[Any]) -> Any:
    """The thread was told; wait for what it makes of that."""
    if job.withdraw():
        link.cancelled_done(call, ran=False, message="it was never started")
        raise CallCancelled("it was never started")
    with link.node.pool.linger(call), link.node.threads.hold():
        return await job.wait()


def _all_held(link: Link, limit: int) -> str:
    names = sorted(set(link.node.pool.lingering))[:_SHOWN]
    which = f" ({', '.join(names)})" if names else ""
    return (
        f"all {limit} threads here are held by functions that were cancelled and go "
        f"on{which}; a function that may take long should call rb.checkpoint()"
    )


_SHOWN = 5
"""Names of functions that the refusal shows."""


async def items_of(generator: AsyncGenerator[Any, None], outlet: Outlet) -> None:
    """Send what an async generator yields."""
    sender = SendStream(outlet)
    loop = current_loop()
    count = 0
    try:
        async with aclosing(generator):
            async for item in generator:
                piece = _framed(item, count)
                count += 1
                if len(piece) > MAX_PIECE or not outlet.write_nowait(piece):
                    await sender.send(piece)
                elif count % _TURN == 0:
                    await loop.turn()
    except Exception:
        outlet.finish()  # what it yielded before it raised still arrives
        raise


def _framed(item: Any, index: int) -> bytes:
    try:
        return frame_item(item)
    except EncodeError as error:
        where = f"item {index}{error.path}"
        raise Unsendable(
            f"what it yields cannot be sent: {where}: {error.reason}"
        ) from (error)


async def items_of_thread(
    link: Link,
    call: IncomingCall,
    generator: Generator[Any, Any, Any],
    outlet: Outlet,
) -> None:
    """Run a sync generator in a worker thread and send what it yields."""
    relay = Relay(current_loop())
    sender = SendStream(outlet)
    job, scope = _submit(link, call, lambda: _drive(generator, relay))
    try:
        with scope:
            while part := await relay.take():
                await sender.send(part)
            await job.wait()
            return
        relay.close()
        await _wait_out(link, call, job)
    except Exception:
        outlet.finish()
        raise
    finally:
        relay.close()


def _drive(generator: Generator[Any, Any, Any], relay: Relay) -> None:
    """Run the generator to its end; in the thread."""
    count = 0
    try:
        for item in generator:
            relay.put(_framed(item, count))
            count += 1
    except RelayClosed:
        context = CURRENT.get()
        if context is not None:
            context.checkpoint()
        raise CallCancelled("nobody reads what this generator yields") from None
    finally:
        try:
            generator.close()
        finally:
            relay.finish()
