"""Pods of the chart: its own template, rendered by helm, played against the S3 server of the tests.

One `Release` is a Job: its pods come one after another (or beside each other), each on a node of its own as far as
anything here can tell, and have nothing in common but the store and the job's volume.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import counting
import psutil
import yaml
from podspec import ApiServer, Cluster
from support import chart
from support import cluster as clusters
from support.cluster import until
from support.processes import PATIENCE, started_with

from ckptrun.settings.names import run_directory
from ckptrun.telemetry.events import FILE_NAME, read_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from container import Container
    from kubelet import Kubelet, PlayedPod
    from podman import Podman
    from support.cluster import StandIn
    from support.s3 import S3Server

JOB = Path(counting.__file__)
NAME = f"{chart.NAMESPACE}.{chart.RELEASE}"
"""The lineage of the chart's Job that has no indexes."""
UID = 1000
STEPS = 150
COMMITTED, RESTORED, ENDED = "checkpoint-committed", "job-restored", "job-ended"
RESUMED = "job-resumed"


class Release:
    """The chart, installed; a lineage of its own in the store.

    Args:
        kubelet: the test's.
        podman: the session's.
        server: where the checkpoints go.
        images: of this machine, by their names in the values: ``job`` and ``ckptrun:test``.
        folder: the job's volume lies below it.
        values: of the chart, in place of or beside those that every release here has; merged one level deep.
        api: what answers as the cluster's API; without one, the pods are told to leave it alone.
        version: of Kubernetes.
    """

    def __init__(
        self,
        kubelet: Kubelet,
        podman: Podman,
        server: S3Server,
        images: dict[str, str],
        folder: Path,
        values: dict[str, Any],
        api: StandIn | None = None,
        version: str = chart.NEWEST,
    ) -> None:
        self.api = api
        self.kubelet = kubelet
        self.podman = podman
        self.tag = f"release-{secrets.token_hex(8)}"
        self.store = f"{server.url}/{self.tag}"
        self.port = int(urlsplit(server.endpoint).port or 0)
        self.data = folder / "data"
        self.data.mkdir()
        shutil.copy(JOB, self.data)
        for path in (self.data, self.data / JOB.name):
            os.chown(path, UID, UID)
        self.mode: str = values.get("mode", "sidecar")
        self.name = f"{NAME}.0" if values.get("kind") == "IndexedJob" else NAME
        """Of the lineage; that of the first index."""
        self.values = _merged(self._values(server), values)
        self.command = [*self.values["job"]["command"], *self.values["job"]["args"]]
        self.text = text = self._rendered(folder / "values.yaml", version)
        self.manifest = chart.workload(text)
        self.cluster = Cluster(
            images=images,
            secrets={
                "bucket": {key: server.env[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
                "key": {"key": secrets.token_hex(32)},
            },
            claims={"data": self.data},
            namespace=chart.NAMESPACE,
            **({} if api is None else _reachable(api, text)),
        )
        self.pods: list[ChartedPod] = []

    def _values(self, server: S3Server) -> dict[str, Any]:
        mark = [{"name": "LAB", "value": self.tag}]
        return {
            "job": {
                "image": "job",
                "command": ["python3", f"/data/{JOB.name}", str(STEPS)],
                "args": ["0"],
                "env": mark,
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            },
            "image": {"repository": "ckptrun", "tag": "test", "pullPolicy": "Never"},
            "store": {
                "url": self.store,
                "endpoint": server.endpoint,
                "region": "us-east-1",
                "credentials": {"secret": "bucket"},
            },
            "key": {"secret": "key"},
            "checkpoint": {"interval": "off", **({} if self.mode == "wrapper" else {"env": mark})},
            "api": {"enabled": self.api is not None},
        }

    def _rendered(self, path: Path, version: str) -> str:
        path.write_text(yaml.safe_dump(self.values), encoding="utf-8")
        return chart.rendered("--values", str(path), version=version)

    def play(self, **options: Any) -> ChartedPod:
        """Have a pod of the Job run on the next node."""
        played = self.kubelet.play(self.manifest, self.cluster, ports=[self.port], **options)
        pod = ChartedPod(self, played)
        self.pods.append(pod)
        return pod

    def hold(self) -> None:
        """Have the job wait before its last step."""
        (self.data / "hold").touch()

    def release(self) -> None:
        """Undo `hold`."""
        (self.data / "hold").unlink(missing_ok=True)

    def lines(self) -> list[str]:
        """Return what the job has written to its file."""
        log = self.data / "log.txt"
        return log.read_text().splitlines() if log.exists() else []

    def processes(self) -> list[psutil.Process]:
        """Return every process of the release's pods, on all nodes, by the environment it was started with."""
        return started_with(f"LAB={self.tag}")

    def expect_exact(self, steps: int = STEPS) -> None:
        """The job's file is as if nobody had disturbed it, and no other has come."""
        assert self.lines() == counting.lines(steps)
        assert {path.name for path in self.data.iterdir()} == {JOB.name, "log.txt"}
        assert (self.data / "log.txt").stat().st_uid == UID


class ChartedPod:
    """One pod of a `Release`."""

    def __init__(self, release: Release, played: PlayedPod) -> None:
        self.release = release
        self.played = played
        self.agent = "job" if release.mode == "wrapper" else "ckptrun"
        """The container that ckptrun runs in."""

    @property
    def _run_dir(self) -> Path:
        state = self.played.volume("ckptrun") / "state/ckptrun"
        return run_directory(state, self.release.store, self.release.name)

    def shows(self, reason: str, *texts: str) -> str:
        """Wait for an Event of this reason on the pod that has these texts; return what it says."""

        def found() -> str:
            said = [str(event["message"]) for event in self.shown() if event["reason"] == reason]
            return next((one for one in said if all(text in one for text in texts)), "")

        try:
            return str(until(f"{reason} with {texts}", found))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown()}\n{self.told()}") from None

    def shown(self) -> list[dict[str, Any]]:
        """Return the Events on the pod."""
        api, metadata = self.release.api, self.played.podspec.metadata
        assert api is not None
        return clusters.Pod(api, metadata["name"], metadata["uid"]).events()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """Return the diary, or its events of these names."""
        events = read_events(self._run_dir / FILE_NAME) if self.played.phase != "Pending" else iter(())
        return [event for event in events if not names or event["event"] in names]

    def event(self, name: str, count: int = 1, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait for the event of this name that is the `count`th, and return it."""
        self.until(f"{count} events {name!r}", lambda: len(self.events(name)) >= count, timeout)
        return self.events(name)[count - 1]

    def until(self, what: str, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait as `PlayedPod.until` does; a failure tells what ckptrun says of itself, too."""
        try:
            return self.played.until(what, condition, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def story(self) -> str:
        """Return what ckptrun has written down, for failures."""
        parts = [str(event) for event in self.events()[-20:]]
        logs = sorted((self._run_dir / "logs").glob("*.log"))[-1:]
        parts += ["\n".join([log.name, *log.read_text(errors="replace").splitlines()[-30:]]) for log in logs]
        return "\n".join(parts)

    @property
    def out(self) -> list[str]:
        """What the job has printed in this pod, as the log of its container has it."""
        return self.played.log("job").splitlines()

    @property
    def said(self) -> str:
        """What ckptrun has said in this pod."""
        return self.played.log(self.agent, "stderr")

    def prints(self, step: int) -> None:
        """Wait until the job has printed a step in this pod."""
        self.until(f"step {step}", lambda: any(step_of(line) >= step for line in self.out))

    def checkpoint(self) -> int:
        """Have a checkpoint taken and committed; return the step of the job before which it was asked for."""
        self.until("a job", self.job)
        before = max(map(step_of, self.out), default=0)
        committed = len(self.events(COMMITTED))
        command = ("ckptrun", "checkpoint", self.release.name, "--wait")
        done = self.played.container(self.agent).exec(*command, check=False)
        assert done.code == 0, f"{done.err}\n{self.played.story()}\n{self.story()}"
        assert len(self.events(COMMITTED)) > committed
        return before

    def job(self) -> psutil.Process | None:
        """Return the job's process, as this machine numbers it; None while there is none."""
        return next(iter(self._jobs()), None)

    def _jobs(self) -> Iterator[psutil.Process]:
        pod = {container.id for container in self.played.pod.containers}
        for process in self.release.processes():
            with contextlib.suppress(OSError, psutil.Error):
                if process.cmdline() == self.release.command and _containers(process.pid) & pod:
                    yield process

    def kill_job(self) -> None:
        """SIGKILL the job's process."""
        os.kill(self.until("a job", self.job).pid, signal.SIGKILL)

    def restored(self, harm: Callable[[], None]) -> None:
        """Do something that ends the job, and wait until it runs again."""
        before = len(self.events(RESTORED))
        harm()
        self.event(RESTORED, before + 1)

    def told(self) -> str:
        """Return all that is known, for failures."""
        return f"{self.played.story()}\n{self.story()}"

    def container(self, name: str = "", incarnation: int = -1) -> Container:
        return self.played.container(name or self.agent, incarnation)

    def expect_nothing_left(self) -> None:
        """After the pod's end and removal: no process, mount, cgroup or folder is left of it on the node."""
        containers = {one.id for one in [*self.played.pod.containers, self.played.pod.infra]}
        self.played.remove_without_warning()
        folder = self.played.pod.folder
        left = [one for one in psutil.pids() if _containers(one) & containers]
        assert not left, [(one, psutil.Process(one).cmdline()) for one in left]
        places = [str(folder), *containers]
        for mountinfo in ("/proc/self/mountinfo", self.release.podman.root.parent / "mountinfo"):
            mounts = Path(mountinfo).read_text().splitlines()
            assert not [line for line in mounts if any(place in line for place in places)]
        groups = [
            found for found, _, _ in os.walk("/sys/fs/cgroup")
        ]  # past those of others that go meanwhile
        assert not [found for found in groups if any(one in found for one in containers)]
        assert not folder.exists()


def _reachable(api: StandIn, rendered: str) -> dict[str, Any]:
    """Return what a kubelet knows of the API; the account there may do what the chart's Role says."""
    api.grant(chart.of_kind(rendered, "Role")["rules"])
    ca = (api.account / "ca.crt").read_text()
    return {
        "api": ApiServer(api.port, clusters.TOKEN, ca, api.add_pod),
        "config_maps": {"kube-root-ca.crt": {"ca.crt": ca}},
    }


def continued(out: list[str], at: int) -> None:
    """See that lines go on in the right place: none is left out or wrong, and what comes again came after `at`."""
    expected = counting.lines(STEPS)
    steps = [step_of(line) for line in out if step_of(line)]
    assert [line for line in out if step_of(line)] == [expected[step - 1] for step in steps]
    for one, following in itertools.pairwise(steps):
        assert following == one + 1 or at < following <= one, f"{following} follows {one}"


def step_of(line: str) -> int:
    """Return the step that a line of the job is about; 0 for any other."""
    first = line.partition(" ")[0]
    return int(first) if first.isdecimal() else 0


def _containers(pid: int) -> set[str]:
    """Return the names of the cgroups a process is in that look like containers'."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return set()
    return {part.removeprefix("libpod-").removesuffix(".scope") for line in lines for part in line.split("/")}


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
    return merged
