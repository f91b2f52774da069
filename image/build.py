"""Build ckptrun's image with podman: what `make image` runs, and the tests of containers.

    python image/build.py [--base IMAGE] [--tag NAME]… [--extras NAMES] [--lock]

Without ``--base`` it is the Dockerfile's own, and where no registry answers, one made from Debian's packages
(`base`). What this machine knows about ways to package registries (pip's and apt's settings, certificates,
folders of packages) is mounted while the build runs, and is in no layer.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import base  # noqa: E402 - a module beside this one

ROOT = Path(__file__).parents[1]
REGISTRY_BASE = "debian:trixie-slim"
PULL_SECONDS = 300
PACKAGES = "localhost/ckptrun-packages:latest"
_UNIFIED = " /sys/fs/cgroup/unified cgroup2 "
_PIP_OPTIONS = frozenset(
    {"index-url", "extra-index-url", "find-links", "cert", "trusted-host", "timeout", "proxy"}
)
_LOCK_EXTRAS = "kube,postgres,redis,mlflow,cuda"


def main(words: list[str]) -> None:
    """Build, and say what was built."""
    parser = argparse.ArgumentParser(
        prog="image/build.py", description="Build ckptrun's container image with podman."
    )
    parser.add_argument(
        "--base", default=os.environ.get("BASE", ""), help="an image of Debian trixie, or of one like it"
    )
    parser.add_argument("--tag", action="append", help="name of the image; may be given often")
    parser.add_argument("--extras", default="", help="optional packages, separated by commas")
    parser.add_argument(
        "--lock", action="store_true", help="write image/constraints.txt anew, and build nothing"
    )
    options = parser.parse_args(words)
    _leave_mixed_cgroups()
    with Path(tempfile.gettempdir(), f"ckptrun-image-{os.geteuid()}.lock").open(
        "a", encoding="utf-8"
    ) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        foundation = options.base or _registry_base() or base.ensure()
        if options.lock:
            _lock(foundation)
            return
        tags = options.tag or [f"localhost/ckptrun:{version()}", "localhost/ckptrun:dev"]
        build(foundation, tags, extras=options.extras)
    _say(f"{' and '.join(tags)}, from {foundation}")


def build(foundation: str, tags: list[str], *, extras: str = "") -> None:
    """Build the image on a base, which gets Python first if it has none; layers that are there already are used.

    Without a tag, only as far as the packages.

    Every time in its layers is `base.EPOCH`: a layer whose files are the same is the same, in every build.

    Raises:
        SystemExit: podman failed; what it said has gone to standard error.
    """
    with tempfile.TemporaryDirectory(prefix="ckptrun-image-") as folder:
        if not _has_python(foundation):
            with_python = f"localhost/ckptrun-root:{_digest_of(foundation)[:12]}"
            _podman_build(with_python, f"--build-arg=BASE={foundation}", "--target=root")
            foundation = with_python
        flags = [
            f"--build-arg=BASE={foundation}",
            "--build-arg=ROOT=base",
            f"--build-arg=VERSION={version()}",
        ]
        flags += [f"--build-arg=REVISION={_git('rev-parse', 'HEAD') or 'unknown'}"]
        flags += [f"--build-arg=CREATED={_created()}"]
        flags += [f"--build-arg=EXTRAS={extras}"] if extras else []
        flags += _volumes(Path(folder), foundation)
        # Its layers seldom change: the name keeps them from being pruned with the others below.
        _podman_build(PACKAGES, "--target=packages", *flags)
        if not tags:
            return
        _podman_build(tags[0], *flags)
    for tag in tags[1:]:
        _run(["podman", "tag", tags[0], tag])
    # The layers of builds of long ago, which no image has.
    _succeeds(
        ["podman", "image", "prune", "--force", "--filter=label=ckptrun.image=build", "--filter=until=24h"]
    )


def version() -> str:
    """Return ckptrun's version; an image's tag has no plus sign."""
    return str(_project()["project"]["version"]).replace("+", "-")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def mounts(folder: Path, foundation: str) -> list[tuple[Path, str]]:
    """Return what the build's steps are shown of this machine, as (file or folder, place in the container)."""
    found: dict[str, Path] = {}
    settings = _pip_settings()
    for value in settings.values():
        found |= {str(path): path for path in _local_paths(value)}
    (folder / "pip.conf").write_text(
        "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()), encoding="utf-8"
    )
    found["/etc/pip.conf"] = folder / "pip.conf"
    if options := base.apt_options():
        (folder / "apt.conf").write_text("\n".join(options) + "\n", encoding="utf-8")
        found["/etc/apt/apt.conf.d/99ckptrun-build"] = folder / "apt.conf"
        found |= {
            word: Path(word)
            for line in options
            for word in shlex.split(line.rstrip(";"))
            if Path(word).is_file()
        }
    if not _asks(foundation, "cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -q deb"):
        (folder / "base.sources").write_text(base.sources(), encoding="utf-8")
        found["/etc/apt/sources.list.d/ckptrun-build.sources"] = folder / "base.sources"
    return [(path, place) for place, path in found.items()]


def _volumes(folder: Path, foundation: str) -> list[str]:
    return [f"--volume={source}:{place}:ro" for source, place in mounts(folder, foundation)]


def _pip_settings() -> dict[str, str]:
    """Return how this machine's pip finds packages; the environment goes before files."""
    listed = _output([sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"])
    found: dict[str, str] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        if (key := name.rpartition(".")[2]) in _PIP_OPTIONS:
            found[key] = str(ast.literal_eval(value))
    return found


def _local_paths(value: str) -> list[Path]:
    """Return the files and folders that a setting of pip's names; an index's files lie beside it."""
    paths = []
    for word in value.split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            beside = word.startswith("file://") and path.is_dir() and path.parent != Path("/")
            paths.append(path.parent if beside else path)
    return paths


def _leave_mixed_cgroups() -> None:
    """Start again in a mount namespace without the second cgroup layout, where root has both: crun refuses that."""
    if os.geteuid() != 0 or _UNIFIED not in Path("/proc/self/mounts").read_text(encoding="utf-8"):
        return
    command = shlex.join([sys.executable, *sys.orig_argv[1:]])
    unmount = "umount /sys/fs/cgroup/unified && mount -t tmpfs tmpfs /sys/fs/cgroup/unified"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{unmount} && exec {command}"]
    os.execvp(argv[0], argv)  # noqa: S606 - a list of words


def _registry_base() -> str:
    """Return the Dockerfile's own base if it is here or a registry has it, else nothing."""
    if _succeeds(["podman", "image", "exists", REGISTRY_BASE]):
        return REGISTRY_BASE
    try:
        pulled = _succeeds(["podman", "pull", "--quiet", REGISTRY_BASE], timeout=PULL_SECONDS)
    except subprocess.TimeoutExpired:
        pulled = False
    if not pulled:
        _say("no registry has the base image; making one from Debian's packages")
    return REGISTRY_BASE if pulled else ""


def _podman_build(tag: str, *flags: str) -> None:
    nofile = min(20000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    nproc = min(10000, resource.getrlimit(resource.RLIMIT_NPROC)[1] % 2**63)
    command = ["podman", "--cgroup-manager=cgroupfs"] if os.geteuid() == 0 else ["podman"]
    command += [
        "build",
        "--quiet",
        "--layers",
        "--network=host",
        "--pull=never",
        f"--timestamp={base.EPOCH}",
    ]
    command += [f"--ulimit=nofile={nofile}:{nofile}", f"--ulimit=nproc={nproc}:{nproc}", f"--tag={tag}"]
    _run([*command, *flags, str(ROOT)])


def _created() -> str:
    """Return the commit's time, or SOURCE_DATE_EPOCH, as the label has it."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or base.EPOCH
    return datetime.fromtimestamp(int(seconds), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _lock(foundation: str) -> None:
    """Write down the versions that pip takes today."""
    constraints = ROOT / "image/constraints.txt"
    before = constraints.read_text(encoding="utf-8")
    head = "".join(line for line in before.splitlines(keepends=True) if line.startswith("#"))
    constraints.write_text(head, encoding="utf-8")
    try:
        build(foundation, [], extras=_LOCK_EXTRAS)
        pip = "/opt/tools/bin/pip"
        script = f"{pip} install -q {shlex.join(_project()['build-system']['requires'])}; {pip} freeze; "
        script += f"{pip} --python /opt/ckptrun/bin/python freeze"
        with tempfile.TemporaryDirectory(prefix="ckptrun-image-") as folder:
            flags = [*_volumes(Path(folder), foundation), "--network=host", "--entrypoint=sh"]
            listed = _output(["podman", *_RUN, *flags, PACKAGES, "-c", script])
        lines = sorted({line for line in listed.splitlines() if "==" in line}, key=str.lower)
        before = head + "\n".join(lines) + "\n"
    finally:
        constraints.write_text(before, encoding="utf-8")


_RUN = ("run", "--rm", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


def _has_python(image: str) -> bool:
    return _asks(image, "command -v python3")


def _asks(image: str, script: str) -> bool:
    return _succeeds(["podman", *_RUN, "--network=none", "--entrypoint=sh", image, "-c", script])


def _digest_of(image: str) -> str:
    return _output(["podman", "image", "inspect", "--format={{.Id}}", image]).strip()


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)  # noqa: S607 - git is found by PATH
    return done.stdout.strip() if done.returncode == 0 else ""


def _say(words: str) -> None:
    sys.stderr.write(f"image: {words}\n")


def _succeeds(command: list[str], timeout: float | None = None) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=timeout).returncode == 0


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise SystemExit(f"image: {command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"image: {' '.join(command[:3])} ended with {error.returncode}; see above") from None


if __name__ == "__main__":
    main(sys.argv[1:])
