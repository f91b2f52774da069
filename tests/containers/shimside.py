"""A sidecar as small as can be, for the tests of the shim; it runs in the sidecar's container.

It starts the job, or takes over the one that runs; with the file `checkpoint` there it dumps it when told by the file
`go`, kills it and restores it; told by `end`, it has the job end and the container with it. It carries the job's output
to the job container's own, and says on its own what happens: a word and numbers a line.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.capsule import container
from ckptrun.capsule.capsule import Callbacks, Capsule
from ckptrun.capsule.helper import find
from ckptrun.capsule.listener import ShimListener
from ckptrun.capsule.shim import Shim, ShimCallbacks
from ckptrun.capsule.spec import CapsuleSpec, Identity, Offsets, Program
from ckptrun.criu import dumping, engine, restoring
from ckptrun.criu.images import ImageReader
from ckptrun.criu.program import open_prefix
from ckptrun.criu.staging import Slot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptrun.capsule.running import Running

ROOM = Path("/ckptrun")
ACTION = str(ROOM / "bin/ckptrun-shim")
SECONDS = 60.0
OUT = "stdout"


def say(*words: object) -> None:
    print(*words, flush=True)


class Side:
    """One sidecar with the shim that has come."""

    def __init__(self) -> None:
        self.work = ROOM / "work"
        for name in ("run", "work", "state"):
            (ROOM / name).mkdir(exist_ok=True)
        self.work.chmod(0o700)
        self.root = threading.Event()
        self.status = 0
        self.signals: list[int] = []
        self.signalled = threading.Event()
        self.listener = ShimListener(ROOM / "run/shim.sock", "", lambda error: say("refused", error))
        shim = self.listener.wait(SECONDS)
        assert shim is not None
        self.shim: Shim = shim
        self.helper = find()
        self.gone = threading.Event()
        self.pipe = ""
        self.tmp = ROOM / "state/tmp"
        self.tmp.mkdir(exist_ok=True)
        self.tmp.chmod(0o1777)  # there is no CHOWN
        shim.serve(ShimCallbacks(self._signal, lambda: say("lost")))
        say("shim", shim.pid, shim.hello.root_pid or 0, " ".join(shim.hello.argv))
        self.callbacks = Callbacks(self._exited, lambda _: None, self.gone.set)
        self.capsule: Capsule

    def _signal(self, number: int) -> None:
        say("signal", number)
        self.signals.append(number)
        self.signalled.set()

    def _exited(self, pid: int, status: int) -> None:
        say("exited", pid, status)
        if pid == self.pid:
            self.status = status
            self.root.set()

    def pump(self, reader: int) -> None:
        """Carry the job's output."""

        def carry() -> None:
            while data := os.read(reader, 65536):
                os.write(self.shim.hello.stdio[1], data)

        self.pumping = threading.Thread(target=carry, daemon=True)
        self.pumping.start()

    def spec(self) -> CapsuleSpec:
        return CapsuleSpec(self.helper, {"tmp": self.tmp})

    def fresh(self) -> None:
        """Start the job as the container's."""
        self.capsule = capsule = container.ContainerCapsule(self.spec(), self.shim, self.callbacks)
        capsule.start()
        hello = self.shim.hello
        reader, writer = os.pipe()
        self.pipe = f"pipe:[{os.fstat(writer).st_ino}]"
        argv = [self.helper.inside_path, "root", "0", "24", "80", *hello.argv]
        program = Program(
            argv, dict(hello.env), hello.cwd, {1: writer, 2: writer}, deny_io_uring=self.shim.no_new_privs
        )
        self.pid = 0
        self.pid = capsule.start_root(program, {OUT: reader})
        os.close(writer)
        self.pump(reader)
        say("root", self.pid)

    def taken_over(self) -> None:
        """Serve the job that an earlier sidecar started."""
        assert self.shim.hello.root_pid is not None
        self.pid = self.shim.hello.root_pid
        reader = self.shim.hello.kept[OUT]
        self.pipe = f"pipe:[{os.fstat(reader).st_ino}]"
        self.capsule = container.ContainerCapsule(self.spec(), self.shim, self.callbacks)
        self.capsule.start()
        self.pump(reader)
        say("root", self.pid)

    def spawn(self, identity: Identity | None, folder: Path) -> engine.Spawn:
        def spawn(argv: Sequence[str], env: Mapping[str, str], fds: Mapping[int, int]) -> Running:
            fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
            try:
                pid = self.capsule.next_helper_pid()
                return self.capsule.spawn(Program(argv, env, "/", fds, identity, pid=pid, folder=fd))
            finally:
                os.close(fd)

        return spawn

    def place(self, name: str) -> engine.Place:
        folder = self.work / name
        engine.clean(folder)
        return engine.Place(open_prefix(ROOM / "criu"), folder, ACTION, unprivileged=True, at_hand=True)

    def dump(self) -> dumping.DumpResult:
        slot = Slot(512 << 20)
        slot.populate(64 << 20)
        place = self.place("dump")
        ids = self.shim.identity
        dumper = Identity(ids.uid, ids.gid, ids.groups, keep_capabilities=True)
        self.clocks = 0, 0

        def frozen(_: object) -> None:
            self.clocks = (
                time.clock_gettime_ns(time.CLOCK_MONOTONIC),
                time.clock_gettime_ns(time.CLOCK_BOOTTIME),
            )

        request = dumping.DumpRequest(self.pid, slot, [self.pipe], 20.0, frozen)
        result = dumping.dump(place, request, self.spawn(dumper, place.folder))
        say("dumped", len(result.images))
        return result

    def restore(self, result: dumping.DumpResult) -> None:
        reader, writer = os.pipe()
        was, self.pipe = self.pipe, f"pipe:[{os.fstat(writer).st_ino}]"
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        offsets = Offsets(self.clocks[0] - now[0], self.clocks[1] - now[1])
        spec = container.within(CapsuleSpec(self.helper, {"tmp": self.tmp}, offsets=offsets), self.shim.pid)
        self.root.clear()
        self.gone = threading.Event()
        self.capsule = Capsule(spec, Callbacks(self._exited, lambda _: None, self.gone.set))
        self.capsule.start()
        place = self.place("restore")
        images = ImageReader(open_prefix(ROOM / "criu").pycriu_path)
        request = restoring.RestoreRequest(
            images.for_restore(result.images), images.last_pid(result.images), {was: writer}
        )
        restoring.restore(place, request, self.spawn(None, place.folder), SECONDS)
        os.close(writer)
        self.pump(reader)
        say("restored", self.capsule.host_pid(self.pid))

    def end(self) -> None:
        """Wait for the job's end and have the container end the same way."""
        assert self.root.wait(SECONDS)
        self.capsule.destroy()
        self.pumping.join(SECONDS)
        self.shim.taken()
        code = os.waitstatus_to_exitcode(self.status)
        self.shim.end(code if code >= 0 else 128 - code)


def main() -> None:
    side = Side()
    try:
        if side.shim.root_pid is None:
            side.fresh()
        else:
            side.taken_over()
        if (ROOM / "checkpoint").exists():
            wait_for_file("go")
            result = side.dump()
            os.kill(side.pid, signal.SIGKILL)
            assert side.root.wait(SECONDS)
            side.capsule.destroy()
            side.shim.taken()
            side.restore(result)
        wait_for_file("end")
        side.capsule.kill(side.pid, signal.SIGTERM)
        side.end()
    finally:
        for log in sorted(side.work.glob("*/*.log")) if sys.exc_info()[0] else ():
            say(log, log.read_text(errors="replace")[-6000:])


def wait_for_file(name: str) -> None:
    """Wait for the test's word."""
    while not (ROOM / name).exists():
        time.sleep(0.01)


if __name__ == "__main__":
    main()
