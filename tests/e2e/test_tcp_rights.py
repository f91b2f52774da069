"""Connections of jobs whose ckptrun may not rebuild any: an ordinary user's, and root's without NET_ADMIN."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import as_user
from support.run import Lab
from support.talking import HALF, OFTEN, WAIT, expect_to_reconnect, restored_at

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
NOBODY = 64322
"""A user id that no machine has a name for."""


ANSWERED = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
client.shutdown(socket.SHUT_WR)
server, _ = listener.accept()
server.sendall(b"answer")
server.close()
while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 7: time.sleep(0.01)
say("closed")
wait_for("go")
try: say(client.recv(100), client.recv(100))
except OSError as error: say(type(error).__name__)
"""
LISTENING = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
say("listening")
wait_for("go")
client = socket.create_connection(listener.getsockname())
listener.accept()[0].sendall(b"hello")
say(client.recv(5))
"""


@contextlib.contextmanager
def ordinary() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="lab-"))  # pytest's own are root's
    folder.chmod(0o755)
    prefix = as_user.command(NOBODY, NOBODY, folder / "home")
    with Lab(folder, prefix=prefix, options=("--interval", "off")) as lab:
        for path in (lab.folder, lab.work, lab.home):
            os.chown(path, NOBODY, NOBODY)
        yield lab
        lab.close()
        lab.expect_nothing_left()
    shutil.rmtree(folder)


@pytest.fixture(params=["an ordinary user", "root without NET_ADMIN"])
def limited(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """What runs with fewer rights than connections need."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    if request.param == "an ordinary user":
        with ordinary() as lab:
            yield lab
    else:
        lab = request.getfixturevalue("lab")
        lab.prefix = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
        yield lab


def test_a_client_of_a_server_outside_reconnects_and_finishes(limited: Lab):
    expect_to_reconnect(limited)


def test_a_connection_inside_the_job_is_refused_by_name(limited: Lab):
    run = limited.start(sys.executable, "-c", WAIT + HALF, options=OFTEN)
    run.prints("asked")
    run.says("which only root with NET_ADMIN can rebuild")
    (limited.work / "go").touch()
    result = run.wait()
    assert (result.code, result.out) == (0, "asked\nb'QUESTION' b''\n"), result.err
    assert "127.0.0.1:" in result.err
    assert "--tcp close" in result.err


def test_all_connections_may_be_closed(limited: Lab):
    run = restored_at(limited, HALF, "asked", "--tcp", "close", "--max-restarts", "1")
    result = run.wait()
    assert result.code == 1
    assert "ConnectionResetError" in result.err


def test_who_wants_connections_kept_is_refused_at_once(limited: Lab):
    result = limited.run(sys.executable, "-c", "print('ran')", options=["--tcp", "keep"])
    assert result.code == 77
    assert "--tcp keep needs root with NET_ADMIN" in result.err
    assert "ran" not in result.out


def test_a_connection_of_which_both_sides_are_closed_is_told_not_ended_early(limited: Lab):
    run = restored_at(limited, ANSWERED, "closed")
    result = run.wait()
    assert (result.code, result.out) == (0, "closed\nConnectionResetError\n"), result.err
    assert "1 connection inside the job came back closed" in result.err


def test_a_listening_server_without_connections_is_restored(limited: Lab):
    run = restored_at(limited, LISTENING, "listening")
    result = run.wait()
    assert (result.code, result.out) == (0, "listening\nb'hello'\n"), result.err
