"""An agent and a master: a function is called by itself, and by its name.

Both are in one process here, on a bus in memory; put a URL such as
nats://127.0.0.1:4222 in its place, and each in a program of its own.
"""

import shutil

import remoting_bus as rb

BUS = "memory://example"

agent = rb.Agent(BUS, name="web-1", labels={"web"})


@agent.command
def disk_usage(path: str) -> int:
    """Sync, so it runs in a worker thread; an `async def` runs as a task."""
    return shutil.disk_usage(path).used


@agent.command("words.count")
async def count_words(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in text.split():
        found[word] = found.get(word, 0) + 1
    return found


async def main() -> None:
    async with rb.Master(BUS, name="control") as master, agent:
        web = master.agent("web-1")
        await web.ready(timeout=10)
        print(f"{web.name} is {web.state}")
        print(f"used: {await web.call(disk_usage, '/')} bytes")
        print(await web.call("words.count", "to be or not to be"))
        try:
            await web.using(timeout=5).call(disk_usage, "/no/such/folder")
        except FileNotFoundError as error:  # as itself, with the remote traceback
            print(f"there: {error}")


if __name__ == "__main__":
    rb.run(main)
