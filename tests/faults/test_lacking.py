"""A kernel without nf_tables: connections inside the job are restored without their packets being held back."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import pytest
from injected import REFUSE, Fault
from support.talking import HALF, WAIT, restored_at

if TYPE_CHECKING:
    from support.run import Lab

pytestmark = pytest.mark.slow
NO_TABLES = Fault("ckptrun.criu.portlock:PortLock._apply", nth=0, commits=0, act=REFUSE)
FULL = """
import socket
listener = socket.socket()
for size in socket.SO_SNDBUF, socket.SO_RCVBUF: listener.setsockopt(socket.SOL_SOCKET, size, 4096)
listener.bind(("127.0.0.1", 0))
listener.listen(10)
ends = []
for _ in range(150):
    client = socket.socket()
    for size in socket.SO_SNDBUF, socket.SO_RCVBUF: client.setsockopt(socket.SOL_SOCKET, size, 4096)
    client.connect(listener.getsockname())
    ends += client, listener.accept()[0]
for end in ends:
    end.setblocking(False)
    try:
        while True: end.send(bytes(1000))
    except BlockingIOError: pass
say("full")
wait_for("go")
"""


@pytest.fixture
def lacking(lab: Lab) -> Lab:
    return dataclasses.replace(lab, program=NO_TABLES.program())


def test_a_quiet_connection_inside_the_job_is_kept_all_the_same(lacking: Lab):
    run = restored_at(lacking, HALF, "asked")
    result = run.wait()
    assert (result.code, result.out) == (0, "asked\nb'QUESTION' b''\n"), result.err


def test_where_the_kernel_comes_first_the_message_names_what_it_lacks(lacking: Lab):
    run = lacking.start(sys.executable, "-c", WAIT + FULL, options=("--max-restarts", "1"))
    run.prints("full")
    run.checkpoint()
    run.kill_job()
    result = run.wait()
    assert result.code == 74, result.err
    assert "nf_tables" in result.err
    assert "could not be used: Operation not supported" in result.err
