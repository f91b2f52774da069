"""mmap: one file mapped shared by two processes that take turns; another mapped in part, grown on the way."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from pace import report, sha, steps

STEPS, PAGE = 100, mmap.PAGESIZE


def turn(board: mmap.mmap, state: bytes, step: int) -> bytes:
    at = 64 + step * 32
    board[at : at + 32] = bytes.fromhex(sha(state, step))
    return board[at : at + 32]


def main() -> None:
    Path("board.bin").write_bytes(bytes(4 * PAGE))
    Path("growing.bin").write_bytes(b"")
    descriptor = os.open("board.bin", os.O_RDWR)
    board = mmap.mmap(descriptor, 4 * PAGE)
    os.close(descriptor)
    (asked, ask), (answered, answer) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ask)
        while number := os.read(asked, 4):
            (step,) = struct.unpack("i", number)
            turn(board, board[64 + (step - 1) * 32 : 64 + step * 32], step)
            os.write(answer, b"!")
        os._exit(0)
    os.close(asked)
    with Path("growing.bin").open("r+b") as growing:
        for step in steps(STEPS):
            if step % 2:
                os.write(ask, struct.pack("i", step))
                os.read(answered, 1)
            else:
                turn(board, board[64 + (step - 1) * 32 : 64 + step * 32], step)
            growing.truncate((step + 1) * PAGE)
            with mmap.mmap(growing.fileno(), PAGE, offset=step * PAGE) as last:
                last[:32] = board[64 + step * 32 : 96 + step * 32]
    os.close(ask)
    os.waitpid(child, 0)
    report(board[:], sha(Path("growing.bin").read_bytes()))


if __name__ == "__main__":
    main()
