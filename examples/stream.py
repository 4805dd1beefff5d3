"""A generator function of an agent, and bytes through a pipe."""

import io
import tarfile
from collections.abc import Iterator

import anyio.abc

import remoting_bus as rb

BUS = "memory://example"

agent = rb.Agent(BUS, name="web-1")


@agent.command
def count(up_to: int) -> Iterator[int]:
    """Go on only as fast as the reader reads."""
    yield from range(1, up_to + 1)


@agent.command
def pack(names: list[str], out: anyio.abc.ByteSendStream) -> int:
    """Write an archive into a pipe; nothing of it is ever all in memory."""
    with rb.as_file(out) as file, tarfile.open(fileobj=file, mode="w|") as archive:
        for name in names:
            content = f"this is {name}\n".encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return len(names)


async def main() -> None:
    async with rb.Master(BUS) as master, agent:
        web = master.agent("web-1")
        async with web.stream(count, 5) as numbers:
            async for number in numbers:
                print(f"item {number}")

        size = 0
        async with rb.pipe() as (reader, writer):
            async with web.start(pack, ["a.txt", "b.txt"], writer) as call:
                async for piece in reader:
                    size += len(piece)
                print(f"{await call.result()} files in {size} bytes of archive")


if __name__ == "__main__":
    rb.run(main)
