"""asyncio: children that live on behind pipes, and one that ends at every step, on one event loop."""

from __future__ import annotations

import asyncio
import sys

from pace import pause, report, sha

PIPE = asyncio.subprocess.PIPE
ECHO = "import sys\nfor line in sys.stdin: print(int(line) * 31 % 1_000_003, flush=True)"


async def asked(child: asyncio.subprocess.Process, number: int) -> int:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{number}\n".encode())
    await child.stdin.drain()
    return int(await child.stdout.readline())


async def checksum(text: str) -> bytes:
    child = await asyncio.create_subprocess_exec("sha256sum", stdin=PIPE, stdout=PIPE)
    return (await child.communicate(text.encode()))[0]


async def main() -> None:
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", ECHO, stdin=PIPE, stdout=PIPE)
        for _ in range(3)
    ]
    numbers = [1, 2, 3]
    total = ""
    for step in range(80):
        print(f"step {step}", flush=True)
        answers = [asked(child, number + step) for child, number in zip(children, numbers, strict=True)]
        *numbers, checked = await asyncio.gather(*answers, checksum(total))
        total = sha(total, numbers, checked)
        await asyncio.sleep(pause())
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    report(total, [await child.wait() for child in children])


if __name__ == "__main__":
    asyncio.run(main())
