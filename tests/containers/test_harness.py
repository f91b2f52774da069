"""What the tests of containers stand on does what it says."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from podman import OWNER, RESTRICTED, Podman, Security

if TYPE_CHECKING:
    from conftest import MakePod

pytestmark = pytest.mark.slow

STATUS = "grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status"
FOREVER = "sleep infinity & wait"


def test_a_container_ends_with_its_code_and_its_words(podman: Podman, base_image: str):
    container = podman.run_container(base_image, "sh", "-c", "echo out; echo err >&2; echo -n rest; exit 7")
    assert container.wait() == 7
    assert (container.out, container.err) == ("out\nrest", "err\n")
    assert not container.running()
    container.rm()


def test_a_restricted_container_is_restricted(podman: Podman, base_image: str):
    container = podman.run_container(
        base_image, "sh", "-c", f"{STATUS}; touch /here || echo refused", security=RESTRICTED
    )
    assert container.wait() == 0
    facts = dict(line.split(":", 1) for line in container.out.splitlines() if ":" in line)
    assert facts["Uid"].split()[0] == "1000"
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")
    assert "refused" in container.out


def test_capabilities_and_the_filter_are_as_asked(podman: Podman, base_image: str):
    security = Security(caps=("SYS_ADMIN", "KILL"), seccomp="unconfined")
    container = podman.run_container(base_image, "sh", "-c", STATUS, security=security)
    assert container.wait() == 0
    facts = dict(line.split(":", 1) for line in container.out.splitlines())
    assert int(facts["CapEff"], 16) == 1 << 21 | 1 << 5
    assert facts["Seccomp"].strip() == "0"


def test_the_memory_limit_kills(podman: Podman, base_image: str):
    security = Security(memory=64 << 20)
    container = podman.run_container(base_image, "python3", "-c", "b'x' * (256 << 20)", security=security)
    assert container.wait() == 137


def test_a_signal_reaches_the_first_process(podman: Podman, base_image: str):
    container = podman.run_container(base_image, "bash", "-c", f"trap 'exit 3' USR1; echo up; {FOREVER}")
    container.prints("up")
    container.kill(signal.SIGUSR1)
    assert container.wait() == 3


def test_a_pod_shares_processes_that_its_first_one_reaps(pod: MakePod, base_image: str):
    made = pod()
    other = made.run(base_image, "sh", "-c", "sleep infinity", name="other")
    own = made.run(base_image, "bash", "-c", FOREVER, name="own")
    seen = own.exec("sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done").out
    assert "sleep infinity" in seen.replace(FOREVER, "")
    assert "signal.SIGCHLD" in own.exec("cat", "/proc/1/cmdline").out
    # An orphan of one container is reaped by the pod's first process, not left as a zombie.
    own.exec("sh", "-c", "(sleep 0.1 & echo $! >/tmp/orphan)")
    own.until("the orphan's end", lambda: not _exists_in(own.pid, "/tmp/orphan"))
    assert other.running()


def _exists_in(pid: int, written: str) -> bool:
    orphan = Path(f"/proc/{pid}/root{written}").read_text().strip()
    return Path(f"/proc/{pid}/root/proc/{orphan}").exists()


def test_a_pod_shares_folders_and_shared_memory(pod: MakePod, base_image: str):
    made = pod()
    shared = made.empty_dir("shared")
    write = "echo there >/shared/file; echo here >/dev/shm/file"
    one = made.run(base_image, "sh", "-c", write, volumes=[(shared, "/shared", "rw")], security=RESTRICTED)
    assert one.wait() == 0, one.err
    read = "cat /shared/file /dev/shm/file; touch /shared/other || echo refused"
    two = made.run(base_image, "sh", "-c", read, volumes=[(shared, "/shared", "ro")])
    assert two.wait() == 0, two.err
    assert two.out == "there\nhere\nrefused\n"
    assert (shared / "file").read_text() == "there\n"


def test_an_emptydir_with_a_limit_gets_full(pod: MakePod, base_image: str):
    made = pod()
    small = made.empty_dir("small", size=1 << 20)
    fill = "head -c 2000000 /dev/zero >/small/file"
    container = made.run(base_image, "sh", "-c", fill, volumes=[(small, "/small", "rw")])
    assert container.wait() != 0
    assert "No space left" in container.err


def test_a_pod_reaches_a_server_of_the_tests_and_nothing_else(pod: MakePod, base_image: str):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        made = pod()
        ask = f"from urllib.request import urlopen; print(urlopen('http://127.0.0.1:{port}/').status)"
        before = made.run(base_image, "python3", "-c", ask)
        assert before.wait() == 1
        made.forward(port)
        after = made.run(base_image, "python3", "-c", ask)
        assert (after.wait(), after.out) == (0, "200\n"), after.err
        interfaces = made.run(base_image, "cat", "/proc/net/dev")
        interfaces.wait()
        assert {line.split(":")[0].strip() for line in interfaces.out.splitlines() if ":" in line} == {"lo"}
        server.shutdown()


def test_a_removed_pod_leaves_nothing(pod: MakePod, podman: Podman, base_image: str):
    made = pod()
    container = made.run(base_image, "sh", "-c", FOREVER)
    pid = container.pid
    made.remove()
    assert not Path(f"/proc/{pid}").exists()
    assert podman("ps", "--all", f"--filter=name={made.name}", "--format=json").json == []
    assert not made.folder.exists()


def test_what_a_killed_session_left_is_removed_by_the_next(base_image: str):
    folder = Path(__file__).parent
    script = f"""
import os, sys
sys.path[:0] = [{str(folder)!r}, {str(folder.parent)!r}]
from podman import Podman
podman = Podman().__enter__()
print(podman.run_container({base_image!r}, "sleep", "infinity").name, flush=True)
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    name = killed.stdout.strip()
    assert name, killed.stderr
    with Podman() as next_one:
        listed = next_one("ps", "--all", f"--filter=label={OWNER}", "--format=json").json
        assert name not in {each for one in listed for each in one["Names"]}
        assert next_one.prefix.startswith(f"ckptrun-test-{os.getpid()}-")
