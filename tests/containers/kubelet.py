"""Play a pod's manifest with podman, as a kubelet would: init containers, native sidecars, probes, restarts, grace.

The fixture ``kubelet`` plays manifests as the chart renders them. What differs from a real node: back-off is
short, probes come as often as they can (at most every second), images are not pulled, CPU is not limited.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pods import Pod
from podspec import ACCOUNT, Cluster, ConfigError, Dict, PodSpec, expand, pod_of, quantity
from support.processes import PATIENCE, POLL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from container import Container
    from podman import Podman

BACK_OFF = 0.2
"""Seconds before a container that has ended is started again; a real kubelet takes ten and doubles them."""
LEAST_GRACE = 2.0
"""Seconds that a sidecar gets after SIGTERM even when the main containers have used the whole grace up."""
START_ERROR = 128
"""The exit code of a container that could not be started."""


class Slot:
    """One container of the manifest, through all its restarts."""

    def __init__(self, spec: Dict) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.incarnations: list[Container] = []
        self.codes: list[int] = []
        self.complaint = ""
        self.thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        return len(self.codes) < len(self.incarnations)


class PlayedPod:
    """A pod that is being played, from its start to its end.

    Args:
        podman: the session's.
        base_image: for the pod's first process.
        folder: its volumes lie below it.
        manifest: a Pod, Job or CronJob.
        cluster: what the kubelet knows beside.
        index: completion index of an indexed Job's pod.
        job_uid: the Job's, the same for all its pods.
        ports: of this machine's loopback that the pod is to reach at its own.
    """

    def __init__(
        self,
        podman: Podman,
        base_image: str,
        folder: Path,
        manifest: Dict,
        cluster: Cluster,
        *,
        index: int | None = None,
        job_uid: str = "",
        ports: Sequence[int] = (),
    ) -> None:
        described = pod_of(manifest, index=index, job_uid=job_uid)
        self.name: str = described["metadata"]["name"]
        self.podspec = PodSpec(described, cluster)
        spec = self.podspec.spec
        self.grace = float(spec.get("terminationGracePeriodSeconds", 30))
        self.phase = "Pending"
        self.problem = ""
        """What keeps a pod Pending, in Kubernetes' words."""
        self.inits = [Slot(one) for one in spec.get("initContainers", [])]
        self.mains = [Slot(one) for one in spec["containers"]]
        self._ending = threading.Event()
        self._main_over = threading.Event()
        self._gone = threading.Event()
        self._changed = threading.Condition()
        self.pod = Pod(
            podman,
            base_image,
            folder,
            share_pid=bool(spec.get("shareProcessNamespace")),
            host_network=bool(spec.get("hostNetwork")),
            hostname=self.name,
            memory=int(quantity((spec.get("resources") or {}).get("limits", {}).get("memory", 0))),
        )
        for port in [*ports, *([cluster.api.port] if cluster.api else [])]:
            self.pod.forward(port)
        if cluster.api is not None:
            cluster.api.add(self.name, described["metadata"]["uid"])
        self._life = threading.Thread(target=self._live, name=self.name, daemon=True)
        self._life.start()

    # What tests ask

    def slot(self, name: str) -> Slot:
        return next(one for one in [*self.inits, *self.mains] if one.name == name)

    def container(self, name: str, incarnation: int = -1, timeout: float = PATIENCE) -> Container:
        """Wait until a container has been started (so many times) and return it; the latest unless told."""
        slot = self.slot(name)
        count = incarnation + 1 if incarnation >= 0 else 1
        self.until(f"start {count} of {name}", lambda: len(slot.incarnations) >= count, timeout)
        return slot.incarnations[incarnation]

    def log(self, name: str, stream: str = "stdout") -> str:
        """Return what a container has written, in all its incarnations."""
        return "".join(one.log(stream) for one in list(self.slot(name).incarnations))

    def prints(self, name: str, text: str, stream: str = "stdout", timeout: float = PATIENCE) -> None:
        """Wait until a container's log has `text`."""
        self.until(f"{text!r} on {name}'s {stream}", lambda: text in self.log(name, stream), timeout)

    def restarts(self, name: str) -> int:
        return max(len(self.slot(name).incarnations) - 1, 0)

    def code(self, name: str) -> int:
        """Return the last exit code of a container."""
        return self.slot(name).codes[-1]

    def volume(self, name: str) -> Path:
        """Return a volume's folder on the node."""
        return self._volumes[name]

    def over(self) -> bool:
        return self.phase in {"Succeeded", "Failed"} or self._gone.is_set() or bool(self.problem)

    def wait(self, timeout: float = PATIENCE) -> str:
        """Wait for the pod's end and return its phase; `Pending` where it cannot be started."""
        self._life.join(timeout)
        assert not self._life.is_alive(), f"{self.name} still runs after {timeout:g} s\n{self.story()}"
        return self.phase

    def until(self, what: str, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until `condition` returns something true, and return that; fail when the pod ends first."""
        deadline = time.monotonic() + timeout
        while True:
            over = self.over()  # asked first: what holds at the end counts
            if found := condition():
                return found
            assert not over, f"{self.name} ended ({self.phase} {self.problem}) before {what}\n{self.story()}"
            assert time.monotonic() < deadline, f"no {what} within {timeout:g} s\n{self.story()}"
            time.sleep(POLL_SECONDS)

    def story(self) -> str:
        """Return what is known about the pod, for failures."""
        parts = [f"pod {self.name}: {self.phase} {self.problem}"]
        for slot in [*self.inits, *self.mains]:
            parts.append(
                f"=== {slot.name}: codes {slot.codes}, starts {len(slot.incarnations)} {slot.complaint}"
            )
            for one in slot.incarnations[-3:]:
                with contextlib.suppress(Exception):
                    parts += [f"--- {name}\n{one.log(name)[-5000:]}" for name in ("stdout", "stderr")]
        return "\n".join(parts)

    # What tests do

    def terminate(self, grace: float | None = None, timeout: float = 2 * PATIENCE) -> str:
        """Delete the pod as the API would, wait for its end and return its phase.

        SIGTERM goes to the main containers; when they have ended, to the sidecars, the last one first; whoever is
        left at the end of the grace is killed.
        """
        self.begin_termination(grace)
        return self.wait(timeout)

    def begin_termination(self, grace: float | None = None) -> None:
        """Begin what `terminate` does, and do not wait."""
        self.grace = self.grace if grace is None else grace
        self._ending.set()

    def remove_without_warning(self) -> None:
        """Take the pod away at once, its volumes too, as a node is lost."""
        self._gone.set()
        self._ending.set()
        self._main_over.set()
        self.pod.remove()
        self._life.join(PATIENCE)

    def kill_container(self, name: str) -> None:
        """SIGKILL every process of a container at once, as the kernel does with memory.oom.group."""
        self.container(name).kill_all()

    # The pod's life

    def _live(self) -> None:
        try:
            self._volumes = self._make_volumes()
            if not self._initialise():
                return
            self.phase = "Running"
            for slot in self.mains:
                slot.thread = self._spawn(self._keep_main, slot)
            self._end_mains()
            self._main_over.set()
            self._end_sidecars(self._deadline)
            self._finish()
        except ConfigError as error:
            self.problem = f"CreateContainerConfigError: {error}"
        except Exception as error:
            if not self._gone.is_set():
                self.problem = f"{type(error).__name__}: {error}"
                raise

    def _make_volumes(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        cluster = self.podspec.cluster
        for volume in self.podspec.spec.get("volumes", []):
            name = volume["name"]
            if "emptyDir" in volume:
                about = volume["emptyDir"] or {}
                limit = about.get("sizeLimit", "1Gi" if about.get("medium") == "Memory" else 0)
                found[name] = self.pod.empty_dir(name, int(quantity(limit)))
                self.podspec.own(found[name])
            elif "hostPath" in volume:
                found[name] = Path(volume["hostPath"]["path"])
                if volume["hostPath"].get("type") == "DirectoryOrCreate":
                    found[name].mkdir(parents=True, exist_ok=True)
            elif "persistentVolumeClaim" in volume:
                found[name] = cluster.claims[volume["persistentVolumeClaim"]["claimName"]]
            else:
                found[name] = self.pod.folder / name
                self.podspec.write(volume, found[name])
        if cluster.api is not None:
            found[ACCOUNT] = self.pod.folder / ".account"
            self.podspec.account(found[ACCOUNT])
        return found

    def _initialise(self) -> bool:
        """Run the init containers and start the sidecars, in their order; tell whether the pod goes on."""
        for slot in self.inits:
            if slot.spec.get("restartPolicy") == "Always":
                started = threading.Event()
                slot.thread = self._spawn(self._keep_sidecar, slot, started)
                while not started.wait(POLL_SECONDS):
                    if self._ending.is_set() or slot.complaint:
                        break
            else:
                while not self._ending.is_set() and self._run_once(slot) != 0:
                    if self.podspec.spec.get("restartPolicy", "Always") == "Never":
                        self._fail_early()
                        return False
                    self._ending.wait(BACK_OFF)
            if self._ending.is_set():
                self._fail_early()
                return False
        return True

    def _fail_early(self) -> None:
        self._main_over.set()
        self._end_sidecars(time.monotonic() + self.grace)
        self.phase = "Failed"

    def _keep_main(self, slot: Slot) -> None:
        policy = self.podspec.spec.get("restartPolicy", "Always")
        while True:
            code = self._run_once(slot)
            if self._ending.is_set() or policy == "Never" or (policy == "OnFailure" and code == 0):
                return
            if self._ending.wait(BACK_OFF):
                return

    def _keep_sidecar(self, slot: Slot, started: threading.Event) -> None:
        while not self._main_over.is_set():
            self._run_once(slot, started)
            self._main_over.wait(BACK_OFF)

    def _run_once(self, slot: Slot, started: threading.Event | None = None) -> int:
        """Start a container, wait for its end and return its exit code."""
        try:
            container = self._start(slot.spec)
        except ConfigError as error:
            slot.complaint = f"CreateContainerConfigError: {error}"
            self.problem = self.problem or slot.complaint
            return START_ERROR
        except AssertionError as error:
            slot.complaint = f"RunContainerError: {error}"
            return START_ERROR
        slot.complaint = ""
        slot.incarnations.append(container)
        if started is not None:
            self._probe(slot, container, started)
        code = START_ERROR
        with contextlib.suppress(AssertionError):  # it was removed with the whole pod
            code = container.wait(timeout=24 * 3600)
        slot.codes.append(code)
        return code

    def _start(self, spec: Dict) -> Container:
        image = self.podspec.cluster.images.get(spec["image"], spec["image"])
        env = self.podspec.env(spec)
        command = [expand(word, env) for word in spec.get("command") or []]
        arguments = [expand(word, env) for word in spec.get("args") or []]
        return self.pod.run(
            image,
            *command[1:],
            *arguments,
            entrypoint=command[0] if command else None,
            env=env,
            security=self.podspec.security(spec),
            volumes=self.podspec.mounts(spec, self._volumes),
            workdir=spec.get("workingDir", ""),
            flags=self.podspec.flags(spec),
            name=spec["name"],
        )

    def _probe(self, slot: Slot, container: Container, started: threading.Event) -> None:
        """Ask the startup probe until it says yes; kill the container that never does."""
        probe = slot.spec.get("startupProbe")
        if probe is None:
            started.set()
            return
        period = float(probe.get("periodSeconds", 10))
        deadline = time.monotonic() + max(period * probe.get("failureThreshold", 3), 5)
        while container.alive():
            if container.exec(*probe["exec"]["command"], check=False).code == 0:
                started.set()
                return
            if time.monotonic() > deadline:
                slot.complaint = "startup probe failed"
                with contextlib.suppress(AssertionError):
                    container.kill()
                return
            self._ending.wait(min(period, 1.0))

    def _end_mains(self) -> None:
        """Wait until the main containers have ended for good, or end them when the pod is to end."""
        threads = [slot.thread for slot in self.mains if slot.thread is not None]
        while any(thread.is_alive() for thread in threads) and not self._ending.wait(POLL_SECONDS):
            pass
        self._deadline = time.monotonic() + self.grace
        if self._ending.is_set():
            self._stop(self.mains, self._deadline)
        for thread in threads:
            thread.join()

    def _end_sidecars(self, deadline: float) -> None:
        for slot in reversed([slot for slot in self.inits if slot.thread is not None]):
            self._stop([slot], max(deadline, time.monotonic() + LEAST_GRACE))
            assert slot.thread is not None
            slot.thread.join()

    def _stop(self, slots: list[Slot], deadline: float) -> None:
        """Send SIGTERM, after what the container's preStop does, and SIGKILL to who is left at the deadline."""
        for slot in slots:
            if slot.alive:
                hook = slot.spec.get("lifecycle", {}).get("preStop")
                with contextlib.suppress(AssertionError):  # it has just ended
                    if hook is not None:
                        slot.incarnations[-1].exec(*hook["exec"]["command"], check=False)
                    slot.incarnations[-1].kill(signal.SIGTERM)
        threads = [slot.thread for slot in slots if slot.thread is not None]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for slot in slots:
            if slot.alive:
                with contextlib.suppress(AssertionError):
                    slot.incarnations[-1].kill(signal.SIGKILL)

    def _finish(self) -> None:
        codes = [slot.codes[-1] if slot.codes else START_ERROR for slot in self.mains]
        self.phase = "Succeeded" if not any(codes) else "Failed"

    def _spawn(self, target: Callable[..., None], *arguments: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        return thread


class Kubelet:
    """Plays manifests for one test; see `PlayedPod` for the arguments."""

    def __init__(self, podman: Podman, base_image: str, folder: Path) -> None:
        self._podman = podman
        self._base_image = base_image
        self._folder = folder
        self.pods: list[PlayedPod] = []

    def play(self, manifest: Dict, cluster: Cluster | None = None, **options: Any) -> PlayedPod:
        folder = self._folder / f"node-pod{len(self.pods)}"
        played = PlayedPod(self._podman, self._base_image, folder, manifest, cluster or Cluster(), **options)
        self.pods.append(played)
        return played

    def close(self) -> None:
        for played in self.pods:
            played.remove_without_warning()


__all__ = ["Cluster", "ConfigError", "Kubelet", "PlayedPod"]
