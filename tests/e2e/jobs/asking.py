"""A job that talks to its user through /dev/tty, as ssh, sudo and getpass do, and a child that has the same open.

With ``too``, the child opens it for itself; with ``child``, it is the only one to have it; with ``apart``, the
standard streams are elsewhere.
"""

from __future__ import annotations

import os
import sys
import termios

from parts import ended, forked, until_go


def ask(tty: int, what: str) -> str:
    os.write(tty, f"{what}? ".encode())
    return os.read(tty, 100).decode().strip()


def helper() -> None:
    """Hold the terminal in a group in the background, and say something on it at the end."""
    os.setpgid(0, 0)
    own = os.open("/dev/tty", os.O_RDWR) if {"too", "child"} & {*sys.argv} else tty
    os.write(writer, b"x")
    until_go()
    os.write(own, b"helper is done\n")


tty = os.open("/dev/tty", os.O_RDWR)
quiet = termios.tcgetattr(tty)
quiet[3] &= ~termios.ECHO
termios.tcsetattr(tty, termios.TCSANOW, quiet)
os.write(tty, f"hello {ask(tty, 'name')}\n".encode())
reader, writer = os.pipe()
pid = forked(helper)
os.read(reader, 1)
if "apart" in sys.argv:
    for stream in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)
os.write(tty, b"waiting\n")
if "child" in sys.argv:
    os.close(tty)
until_go()
code = ended(pid)
again = os.open("/dev/tty", os.O_RDWR)
silent = not termios.tcgetattr(again)[3] & termios.ECHO
os.write(again, f"{ask(again, 'word')} {silent} {code} {os.tcgetpgrp(again) == os.getpid()}\n".encode())
