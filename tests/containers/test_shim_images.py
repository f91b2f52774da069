"""The shim in real containers of several kinds of images, restricted as much as can be; and CRIU across containers."""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from images import images_locked
from podman import OWNER, RESTRICTED, Security
from support.run import REPOSITORY
from wrapping import CAPABILITIES, status

from ckptrun.capsule.helper import built_path
from ckptrun.criu import provision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakePod
    from podman import Container, Pod, Podman

pytestmark = pytest.mark.slow

SIDE = REPOSITORY / "tests/containers/shimside.py"
PT_INTERP = 3
SHIM = "/ckptrun/bin/ckptrun-shim"
SIDECAR = Security(caps=CAPABILITIES, seccomp="unconfined", read_only=True)
LOOP = """
trap 'echo bye; exit 5' TERM
n=0
echo pid $$
while :; do n=$((n+1)); echo tick $n; {0}sleep 0.05; done
"""
TICK = re.compile(r"^tick (\d+)$", re.MULTILINE)


class Image:
    """An image, and a job in it: a loop of a shell's that says bye and ends with 5 when it is told to end."""

    def __init__(self, name: str, *shell: str, programs: str = "") -> None:
        self.name = name
        self.job = (*shell, LOOP.format(programs))


@pytest.fixture(scope="module")
def busybox(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A small image with a shell and no library."""
    folder = tmp_path_factory.mktemp("busybox")
    (folder / "bin").mkdir()
    copy_busybox(folder / "bin/busybox")
    for applet in ("sh", "sleep"):
        (folder / "bin" / applet).symlink_to("busybox")
    return Image(imported(podman, folder), "sh", "-c")


@pytest.fixture(scope="module")
def bare(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image that is nothing but the job's program: no shell, no library, no folder but those a runtime makes."""
    folder = tmp_path_factory.mktemp("bare")
    copy_busybox(folder / "busybox")
    return Image(imported(podman, folder), "/busybox", "ash", "-c", programs="/busybox ")


@pytest.fixture(scope="module")
def debian(base_image: str) -> Image:
    return Image(base_image, "sh", "-c")


def copy_busybox(target: Path) -> None:
    found = shutil.which("busybox")
    if found is None or needs_loader(Path(found).read_bytes()):
        pytest.skip("no static busybox here: make test-packages installs busybox-static")
    shutil.copy(found, target)
    target.chmod(0o755)
    target.parent.chmod(0o755)


def needs_loader(elf: bytes) -> bool:
    """Whether a 64-bit program asks for a dynamic loader."""
    (start,), (size, count) = struct.unpack_from("<Q", elf, 32), struct.unpack_from("<HH", elf, 54)
    return any(struct.unpack_from("<I", elf, start + n * size)[0] == PT_INTERP for n in range(count))


def imported(podman: Podman, folder: Path) -> str:
    tag = f"localhost/{podman.name(folder.name)}"
    folder.chmod(0o755)  # the image's root
    tar = folder.with_suffix(".tar")
    with tarfile.open(tar, "w") as archive:
        archive.add(folder, "/")
    with images_locked():
        podman("import", "--quiet", f"--change=LABEL {OWNER}={podman.owner}", tar, tag)
    return tag


class Duo:
    """A pod of a job's container and a sidecar."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.room = pod.empty_dir("ckptrun")
        self.room.chmod(0o755)
        (self.room / "bin").mkdir()
        shutil.copy(built_path(), self.room / "bin/ckptrun-shim")
        (self.room / "VERSION").write_text("1.2.3\n")
        if (prefix := provision.find().prefix) is None:
            pytest.skip("this machine's own CRIU is used here; only a private prefix goes into a container")
        shutil.copytree(prefix, self.room / "criu", symlinks=True)
        self.job: Container
        self.side: Container

    def start_job(
        self, image: str, *command: str, security: Security = RESTRICTED, **options: object
    ) -> Container:
        self.job = self.pod.run(
            image,
            SHIM,
            "--",
            *command,
            security=security,
            volumes=[(self.room, "/ckptrun", "ro")],
            name="job",
            **options,
        )
        return self.job

    def start_side(self, image: str, flags: tuple[str, ...] = ()) -> Container:
        installed = sorted({Path(sys.base_prefix), Path(sys.prefix), REPOSITORY})
        self.side = self.pod.run(
            image,
            sys.executable,
            str(SIDE),
            security=SIDECAR,
            env={"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            volumes=[*((place, str(place), "ro") for place in installed), (self.room, "/ckptrun", "rw")],
            name="side",
            flags=flags,
        )
        return self.side

    def tell(self, word: str) -> None:
        (self.room / word).touch()

    def said(self, word: str) -> list[int]:
        """Return the numbers that the sidecar has said with a word, the last time; waits for it."""
        pattern = re.compile(rf"^{word}((?: -?\d+)*)", re.MULTILINE)
        self.side.until(f"{word!r}", lambda: pattern.search(self.side.out))
        return [int(number) for number in pattern.findall(self.side.out)[-1].split()]

    def ticks(self, more: int = 5) -> list[int]:
        """Wait until the job has said so many lines more, and return all its counts."""
        before = len(TICK.findall(self.job.out))
        self.job.until("more lines", lambda: len(TICK.findall(self.job.out)) >= before + more)
        return [int(number) for number in TICK.findall(self.job.out)]


@pytest.fixture
def duo(pod: MakePod) -> Iterator[Duo]:
    made = Duo(pod())
    yield made
    for container in made.pod.containers:
        print(container.name, container.story())  # shown of a test that failed


@pytest.mark.parametrize("kind", ["debian", "busybox", "bare"])
def test_a_restricted_job_of_any_image_is_dumped_killed_and_goes_on(
    duo: Duo, base_image: str, kind: str, request: pytest.FixtureRequest
):
    image: Image = request.getfixturevalue(kind)
    duo.tell("checkpoint")
    duo.start_side(base_image)
    job = duo.start_job(image.name, *image.job)
    duo.ticks()
    (root,) = duo.said("root")
    assert root > 1000
    inside = int(re.search(r"^pid (\d+)$", job.out, re.MULTILINE)[1])  # type: ignore[index]
    assert inside > root, "the pod's processes are one namespace"
    before = restrictions(host_pid(duo, inside))
    assert before["Uid"].split() == ["1000"] * 4
    assert int(before["CapBnd"], 16) == 0
    assert (before["NoNewPrivs"], before["Seccomp"]) == ("1", "2")

    job.kill(15)
    assert duo.said("signal") == [15]
    duo.tell("go")
    (restored,) = duo.said("restored")
    ticks = duo.ticks()
    process = host_pid(duo, restored, of="first")
    assert restrictions(process) == before
    for controllers in ("memory", "cpu", "pids"):  # with v2 the kernel does not let it
        assert cgroup(process, controllers) == cgroup(job.pid, controllers)
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(ticks)), "nothing is left out"
    duo.tell("end")
    assert job.wait() == 5
    assert job.out.splitlines()[-1] == "bye"
    assert job.err == ""
    assert duo.side.wait() == 0


def host_pid(duo: Duo, number: int, of: str = "") -> int:
    """Return this machine's number of a process of the pod, or of its first child."""
    for path in Path("/proc").glob("[0-9]*/status"):
        found = status(int(path.parent.name)).get("NSpid", "").split()
        if str(number) in found[1:] and (path.parent / "ns/net").samefile(f"/proc/{duo.job.pid}/ns/net"):
            if not of:
                return int(path.parent.name)
            return int((path.parent / f"task/{path.parent.name}/children").read_text().split()[0])
    raise AssertionError(f"no process {number} in the pod")


def cgroup(pid: int, controller: str) -> str:
    """Return where a process is in the hierarchy of a controller; empty if that is none of v1's."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return next((place for _, names, place in lines if controller in names.split(",")), "")


def restrictions(pid: int) -> dict[str, str]:
    names = (
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
    )
    found = status(pid)
    return {name: found[name] for name in (*names, "Seccomp_filters")}


def test_a_job_outlives_its_sidecar_and_the_next_one_restores_it(duo: Duo, base_image: str, debian: Image):
    duo.start_side(base_image)
    job = duo.start_job(debian.name, *debian.job)
    duo.ticks()
    (root,) = duo.said("root")
    duo.side.kill()
    duo.side.wait()
    duo.tell("checkpoint")
    duo.tell("go")
    duo.start_side(base_image)
    assert duo.said("root") == [root]
    duo.said("restored")
    ticks = duo.ticks()
    duo.tell("end")
    assert job.wait() == 5
    assert sorted(set(ticks)) == list(range(1, max(ticks) + 1)), "no line is lost between the two"


def test_without_a_shared_pid_namespace_both_say_what_to_set(pod: MakePod, base_image: str, debian: Image):
    duo = Duo(pod(share_pid=False))
    duo.start_side(base_image)
    job = duo.start_job(debian.name, *debian.job)
    assert job.wait() == 78
    assert "shareProcessNamespace: true" in job.err
    duo.side.prints("refused")


def test_a_shim_that_is_pid_1_serves_as_well(pod: MakePod, base_image: str, debian: Image):
    duo = Duo(pod(share_pid=False))
    duo.tell("checkpoint")
    job = duo.start_job(debian.name, *debian.job)
    duo.start_side(base_image, flags=(f"--pid=container:{job.id}",))
    duo.ticks()
    assert duo.said("shim")[0] == 1
    duo.tell("go")
    duo.said("restored")
    duo.ticks()
    job.kill(15)
    assert duo.said("signal") == [15]
    duo.tell("end")
    assert job.wait() == 5


def test_a_job_that_is_its_containers_root_without_capabilities_goes_on_too(
    duo: Duo, base_image: str, debian: Image
):
    duo.tell("checkpoint")
    duo.tell("go")
    duo.start_side(base_image)
    job = duo.start_job(debian.name, *debian.job, security=Security(caps=()))
    duo.said("restored")
    duo.ticks()
    duo.tell("end")
    assert job.wait() == 5
