"""What ckptrun takes and how soon it brings a job back in a pod: the chart's own, mode sidecar, played with podman."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from figures import Figure, at_most
from support import chart
from support.s3 import S3Server, weed
from workbench import MB, PATIENCE, SETTLED_SECONDS, SkipError, cpu_seconds, pss_bytes

sys.path.append(str(Path(__file__).parents[1] / "containers"))

from charted import RESTORED, Release
from images import made_base, made_image
from kubelet import Kubelet
from podman import Podman, why_not

from ckptrun.capsule.helper import find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from charted import ChartedPod
    from workbench import Bench

SMALL = 100 * MB
GRACE = 60.0
POLL_SECONDS = 0.005
JOB = """
import os, sys, time
memory = bytearray(int(sys.argv[1]))
for at in range(0, len(memory), 1 << 24):
    memory[at : at + (1 << 24)] = os.urandom(min(1 << 24, len(memory) - at))
number = 0
while True:
    step = -(-len(memory) // 50)
    slot = number % 50
    sum(memory[slot * step : (slot + 1) * step : 4096])
    print(number, flush=True)
    number += 1
    time.sleep(float(sys.argv[2]))
"""
"""It holds random memory, reads all of it again and again, and prints a number each time."""


def measure(bench: Bench) -> list[Figure]:
    """Play pods: one that idles, one whose job is killed, one that ends and is followed by another."""
    if reason := why_not():
        raise SkipError(reason)
    try:
        weed(), chart.program("helm")
    except pytest.skip.Exception as reason:
        raise SkipError(str(reason)) from None
    bench.need_memory(4)
    place = bench.folder / "pod"
    place.mkdir()
    with S3Server(place) as server, Podman() as podman:
        bench.say("making the image")
        base = made_base(podman)
        image = made_image(podman, base)
        size = podman("image", "inspect", image).json[0]["Size"]
        shim = find().path.stat().st_size

        @contextlib.contextmanager
        def release(name: str, memory: int, pause: float) -> Iterator[Release]:
            folder = place / name
            folder.mkdir()
            kubelet = Kubelet(podman, base, folder)
            job = {"command": ["python3", "-c", JOB], "args": [str(memory), str(pause)]}
            images = {"job": base, "ckptrun:test": image}
            values = {"job": job, "checkpoint": {"interval": "10m", "grace": f"{GRACE:g}s"}}
            try:
                yield Release(kubelet, podman, server, images, folder, values)
            finally:
                kubelet.close()

        figures = [
            at_most("pod: image", "MB", [size / MB], 250, "< 250 MB", "as podman has it, not compressed"),
            at_most("pod: shim", "kB", [shim / 1000], 100, "< 100 kB", "the static helper, all its roles"),
        ]
        with release("idle", 10 * MB, 1e6) as idle:
            figures += _idle(bench, idle)
        with release("kills", SMALL, 0.02) as kills:
            figures.append(_kills(bench, kills))
        with release("cold", bench.sizes.memory, 0.02) as cold:
            figures.append(_cold(bench, cold))
    return figures


def _idle(bench: Bench, release: Release) -> list[Figure]:
    bench.say("a sidecar with nothing to do")
    pod = _playing(release)
    _staging_ready(pod)
    processes = [psutil.Process(pid) for pid in pod.container().processes()]
    before, began = cpu_seconds(processes), time.monotonic()
    time.sleep(bench.sizes.idle_seconds)
    percent = (cpu_seconds(processes) - before) / (time.monotonic() - began) * 100
    used = pss_bytes(processes) - _status_bytes(pod)
    window = f"utime + stime of all its processes in {bench.sizes.idle_seconds:g} s; s3 store, encrypted"
    return [
        at_most("pod: processor, sidecar idle", "%", [percent], 0.5, "<= 0.5 %", window),
        at_most(
            "pod: memory beyond staging, sidecar idle",
            "MB",
            [used / MB],
            120,
            "< 120 MB",
            "PSS of all its processes",
        ),
    ]


def _kills(bench: Bench, release: Release) -> Figure:
    pod = _playing(release)
    _staging_ready(pod)
    seconds = []
    for number in range(bench.sizes.restores + 1):
        bench.say(f"kill {number} of {bench.sizes.restores}" if number else "a first kill, not counted")
        pod.checkpoint()
        seen = len(pod.out)
        _wait(pod, "another line", lambda seen=seen: len(pod.out) > seen)
        seen, restored = len(pod.out), len(pod.events(RESTORED))
        began = time.monotonic()
        pod.kill_job()
        _wait(pod, "a line after the restore", lambda seen=seen: _went_back(pod, seen))
        seconds.append(time.monotonic() - began)
        pod.event(RESTORED, restored + 1)
    size = f"job of {SMALL / MB:g} MB"
    return at_most(
        "pod: restore in it, from SIGKILL of the job to its next line", "s", seconds[1:], 2, "<= 2 s", size
    )


def _cold(bench: Bench, release: Release) -> Figure:
    pod, seconds = _playing(release), []
    for number in range(min(bench.sizes.restores, 3)):
        bench.say(f"pod {number + 2} of the large job")
        last = pod.out[-1]
        pod.played.terminate(GRACE)
        assert pod.played.code("job") == 75, pod.told()
        pod.played.remove_without_warning()
        began = time.monotonic()
        pod = _playing(release)
        seconds.append(time.monotonic() - began)
        assert int(pod.out[0]) > 0, f"the job began anew in place of going on after {last}"
    return at_most(
        "pod: restore in a new one, from its creation to the job's next line",
        "s",
        seconds,
        10,
        "<= 10 s",
        f"job of {bench.sizes.memory / 1e9:g} GB; s3 store, encrypted; the pod before was told to end",
    )


def _playing(release: Release) -> ChartedPod:
    pod = release.play()
    _wait(pod, "a line of the job", lambda: pod.played.slot("job").incarnations and pod.out)
    return pod


def _went_back(pod: ChartedPod, seen: int) -> bool:
    numbers = [int(line) for line in pod.out[seen - 1 :]]
    return any(new <= old for old, new in itertools.pairwise(numbers))


def _wait(pod: ChartedPod, what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline or pod.played.over():
            raise TimeoutError(f"no {what}: {pod.told()}")
        time.sleep(POLL_SECONDS)


def _staging_ready(pod: ChartedPod) -> None:
    """Wait until staging has stopped growing."""
    pod.until(
        "a job", lambda: pod.container().exec("ckptrun", "status", pod.release.name, check=False).code == 0
    )
    held, since = -1, time.monotonic()
    while time.monotonic() - since < SETTLED_SECONDS or held <= 0:
        if (now := _status_bytes(pod)) != held:
            held, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise TimeoutError(f"staging is not ready: {pod.told()}")


def _status_bytes(pod: ChartedPod) -> int:
    done = pod.container().exec("ckptrun", "status", pod.release.name, "--json")
    return int(json.loads(done.out)["staging_bytes"])
