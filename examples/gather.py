"""One function on many agents: results as they finish, failures as outcomes."""

from contextlib import AsyncExitStack

import anyio

import remoting_bus as rb

BUS = "memory://example"


def make_sensor(number: int) -> rb.Agent:
    """Agents of one process may also share an open bus: see `rb.open_bus`."""
    sensor = rb.Agent(BUS, name=f"sensor-{number}", labels={"sensor"})

    @sensor.command("measure")
    async def measure(limit: float) -> float:
        await anyio.sleep(0.01 * number)
        if number > limit:
            raise ValueError(f"{number} is too much")
        return number / 2

    return sensor


async def main() -> None:
    async with AsyncExitStack() as stack:
        master = await stack.enter_async_context(rb.Master(BUS))
        for number in range(1, 6):
            await stack.enter_async_context(make_sensor(number))
        sensors = master.agents(labels={"sensor"})
        many = master.using(limit=3, timeout=10)
        async with many.gather(sensors, "measure", 4) as results:
            async for agent, outcome in results:
                said = outcome.error or outcome.value
                print(f"{agent.name} {outcome.state}: {said}")


if __name__ == "__main__":
    rb.run(main)
