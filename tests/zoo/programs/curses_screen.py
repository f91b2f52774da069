"""curses: the whole screen of a terminal in raw mode; what the screen shows is the result."""

from __future__ import annotations

import curses

from pace import report, sha, steps


def show(screen: curses.window) -> list[bytes]:
    state = ""
    for step in steps(100):
        state = sha(state, step)
        screen.addstr(2 + step % 10, 4, f"{step:3} {state[:32]}")
        screen.noutrefresh()
        curses.doupdate()
    return [screen.instr(row, 0, 60) for row in range(2, 12)]


if __name__ == "__main__":
    report(curses.wrapper(show))
