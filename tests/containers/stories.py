"""What may happen to a pod of the chart, the same in both modes; each story ends with an exact result."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import counting
from charted import ENDED, RESTORED, RESUMED, STEPS, continued, step_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from charted import ChartedPod, Release

GRACE = 30.0
STEPS_LATER = 10


def begun(release: Release, **options: Any) -> tuple[ChartedPod, int]:
    """Play a pod, have one checkpoint committed and some steps done after it; return the step it came after."""
    release.hold()
    pod = release.play(**options)
    pod.prints(STEPS_LATER)
    at = pod.checkpoint()
    pod.prints(at + STEPS_LATER)
    return pod, at


def ended_well(release: Release, pod: ChartedPod, code: int = 0) -> list[str]:
    """Let the job take its last step: its container ends with its code, all is exact, and nothing is left.

    Returns:
        What the job has printed in this pod.
    """
    release.release()
    assert pod.played.wait() == ("Failed" if code else "Succeeded"), pod.told()
    assert pod.played.code("job") == code, pod.told()
    out = pod.out
    assert out[-1:] == [counting.result(STEPS)]
    release.expect_exact()
    pod.expect_nothing_left()
    return out


def killed_job(release: Release, code: int) -> None:
    """The job alone is killed: it is restored in its pod, and goes on in the next."""
    pod, at = begun(release)
    pod.restored(pod.kill_job)
    assert pod.played.restarts("job") == 0
    moved_on(release, pod, at, code)


def out_of_memory(release: Release) -> None:
    """The job meets its memory limit, and is what the kernel kills; it is restored, and goes on in the next pod."""
    pod, at = begun(release)

    def meet_the_limit() -> None:
        (release.data / "hog").touch()
        pod.until("a hog", lambda: "hogging" in pod.out)
        (release.data / "hog").unlink()

    pod.restored(meet_the_limit)
    (ended,) = pod.events(ENDED)
    assert ended["signal"] == signal.SIGKILL, pod.told()
    assert ended["oom"], pod.told()
    assert "the OOM killer: memory ran out" in pod.said
    assert pod.played.restarts("job") == 0
    moved_on(release, pod, at)


def started_again(release: Release, harm: Callable[[ChartedPod], None], container: str) -> None:
    """A container goes down with all that is in it and is started again in its pod: the job goes on."""
    pod, at = begun(release)
    pod.restored(lambda: harm(pod))
    pod.until(f"restart of {container}", lambda: pod.played.restarts(container) == 1)
    continued(ended_well(release, pod), at)
    began_anew(release)


def began_anew(release: Release) -> None:
    """See what the next pod does once the job has ended well: all of it, from the first line."""
    again = release.play()
    assert again.played.wait() == "Succeeded", again.told()
    assert again.out == [*counting.lines(STEPS), counting.result(STEPS)]
    assert not again.events(RESTORED)
    release.expect_exact()
    again.expect_nothing_left()


def moved_on(release: Release, pod: ChartedPod, at: int, code: int = 0) -> None:
    """After what has befallen a pod it is told to end: the next one goes on at the very next line, to the end."""
    pod.until("more steps", lambda: len(release.lines()) > at)
    assert pod.played.terminate(GRACE) == "Failed"
    assert pod.played.code("job") == 75, pod.told()
    before, written = pod.out, len(release.lines())
    continued(before, at)
    pod.expect_nothing_left()
    again = release.play()
    again.event(RESTORED)
    out = ended_well(release, again, code)  # a job that fails is tried again: then there is more
    assert out[: STEPS - written + 1] == [*counting.lines(STEPS)[written:], counting.result(STEPS)]


def ended_as_a_whole(release: Release) -> None:
    """The job's container goes down and is not started again: its pod ends at once, and the next goes on from there."""
    pod, at = begun(release)
    before = pod.out
    pod.played.kill_container("job")
    assert pod.played.wait() == "Failed"
    assert [pod.played.code(name) for name in ("job", "ckptrun")] == [128 + signal.SIGKILL, 0], pod.told()
    assert pod.played.restarts("ckptrun") == 0
    pod.expect_nothing_left()
    gone_on(release, at, before)


def outlasted(release: Release) -> None:
    """The sidecar goes down and is started again: the job has run on, no line is lost, and it is restored as ever."""
    pod, _ = begun(release)
    pod.container("ckptrun").kill()
    pod.event(RESUMED)
    assert pod.played.restarts("ckptrun") == 1
    assert pod.events(RESTORED) == [], pod.told()
    at = pod.checkpoint()
    assert pod.out == counting.lines(STEPS)[: len(pod.out)]
    pod.restored(pod.kill_job)
    assert pod.played.restarts("job") == 0
    continued(ended_well(release, pod), at)
    began_anew(release)


def told_to_end(release: Release, code: int) -> None:
    """The pod is told to end, with 30 s: a last checkpoint, exit 75; the next pod goes on at the very next line."""
    pod, _ = begun(release)
    assert pod.played.terminate(GRACE) == "Failed"
    assert pod.played.code("job") == 75, pod.told()
    assert len(pod.events("checkpoint-committed")) == 2
    before = pod.out
    pod.expect_nothing_left()
    again = release.play()
    again.event(RESTORED)
    whole = [*before, *ended_well(release, again, code)]
    assert whole[: STEPS + 1] == [*counting.lines(STEPS), counting.result(STEPS)]


def taken_away(release: Release) -> None:
    """The pod is gone without a warning: once its lease has run out the next one goes on from the last checkpoint."""
    pod, at = begun(release)
    before = pod.out
    pod.expect_nothing_left()
    gone_on(release, at, before)


def gone_on(release: Release, at: int, before: list[str]) -> None:
    """See a pod go on from the checkpoint that came after a step, and end well; what was printed later comes again."""
    again = release.play()
    again.event(RESTORED)
    out = ended_well(release, again)
    first = step_of(out[0])
    assert at < first <= step_of(before[-1]) + 1
    assert out == [*counting.lines(STEPS)[first - 1 :], counting.result(STEPS)]
