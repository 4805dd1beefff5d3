"""Stopping work: by leaving a scope, by a deadline, by hand; and progress meanwhile."""

import time

import anyio

import remoting_bus as rb

BUS = "memory://example"

agent = rb.Agent(BUS, name="builder")


@agent.command
async def wait_for_ever() -> None:
    """Is cancelled at its await, as any async function."""
    try:
        await anyio.sleep_forever()
    finally:
        print("  there: stopped")


@agent.command
def build(layers: int) -> str:
    """A thread cannot be interrupted: it looks at `checkpoint` now and then."""
    for done in range(layers):
        rb.checkpoint()
        rb.current().progress(done, layers, f"layer {done}")
        time.sleep(0.01)
    return "image"


async def main() -> None:
    async with rb.Master(BUS) as master, agent:
        builder = master.agent("builder")

        print("leaving a scope")
        with anyio.move_on_after(0.1):
            await builder.call(wait_for_ever)

        print("a deadline, which travels with the call")
        try:
            await builder.using(timeout=0.1).call(wait_for_ever)
        except rb.CallTimeout as error:
            print(f"  here: CallTimeout, executed: {error.executed}")

        print("by hand, once it has begun")
        async with builder.start(build, 10_000) as call:
            async for step in call.progress:
                if step.done >= 3:
                    call.cancel()
            try:
                await call.result()
            except rb.CallCancelled:
                print("  here: CallCancelled")


if __name__ == "__main__":
    rb.run(main)
