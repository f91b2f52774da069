"""Whether checkpoints will work here, and what a failed one's log means: ``doctor`` and ``explain``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ckptrun.core.health import Check
from ckptrun.errors import (
    CkptrunError,
    MissingFeatureError,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.settings import StoreSettings

STORE_CHECK = "store"


def diagnose(settings: StoreSettings, *, fix: bool) -> dict[str, Any]:
    """Examine this machine and the store.

    Args:
        settings: the store that runs would use.
        fix: provide CRIU first, if none works here.

    Returns:
        ``ok`` and ``checks``, each with ``name, ok, detail, remedy``.

    Raises:
        MissingFeatureError: with ``fix``, CRIU could not be provided.
    """
    from ckptrun.criu.doctor import machine_checks  # noqa: PLC0415 -- 'explain' needs no CRIU
    from ckptrun.cuda.doctor import machine_checks as gpu_checks  # noqa: PLC0415 -- nor a GPU

    if fix:
        from ckptrun.criu.provision import provide  # noqa: PLC0415 -- downloads; only on request

        provide()
    checks = [*machine_checks(), *gpu_checks(), _store_check(settings)]
    return {
        "ok": all(check.ok for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def diagnose_process(pid: int) -> dict[str, Any]:
    """Examine a process and all below it, running undisturbed; /proc is all that is read.

    Returns:
        As `diagnose`; the checks' names are the table's.

    Raises:
        UsageError: there is no such process.
    """
    from ckptrun.criu.remedies.preflight import process_checks  # noqa: PLC0415 -- 'explain' needs no /proc

    checks = process_checks(pid)
    if not checks:
        raise UsageError(f"there is no process {pid}", hint="ps -e names those that run")
    checks = _with_gpus(checks, pid)
    return {
        "ok": all(check.ok for check in checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def _with_gpus(checks: list[Check], pid: int) -> list[Check]:
    """Have the CUDA hook's part speak of devices of GPUs, for CRIU's knows of none."""
    from ckptrun.criu.remedies.processes import tree_of  # noqa: PLC0415 -- as above
    from ckptrun.cuda.doctor import process_checks as gpu_checks  # noqa: PLC0415 -- as above

    found = gpu_checks(tree_of(pid))
    if not found:
        return checks
    return [check for check in checks if not _of_a_gpu(check)] + found


def _of_a_gpu(check: Check) -> bool:
    return check.name == "nvidia-device" or (check.name == "device-memory" and "/dev/nvidia" in check.detail)


def exit_code(result: dict[str, Any]) -> int:
    """Return what ``doctor`` exits with: 0, 73 if only the store fails, else 69."""
    failed = {check["name"] for check in result["checks"] if not check["ok"]}
    if not failed:
        return 0
    return StoreError.exit_code if failed == {STORE_CHECK} else MissingFeatureError.exit_code


def explain(log: Path) -> dict[str, Any]:
    """Return what a log of CRIU's says.

    Returns:
        ``cause`` and ``remedy``, a sentence each; ``evidence``, the line that betrays the cause; ``known``,
        whether the cause is one that ckptrun knows. A known one also has its ``name``, ``during`` what it happens,
        and ``pid``, ``program``, ``fd``, ``path`` and ``retried`` (what ckptrun tries by itself), or None.

    Raises:
        UsageError: it cannot be read.
    """
    from ckptrun.criu.remedies import errors_of, find  # noqa: PLC0415 -- 'doctor' needs no table

    try:
        text = log.read_text("utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{log} cannot be read: {error.strerror}", hint="name a log of CRIU's") from error
    if (found := find(text)) is not None:
        retry = found.remedy.retry
        return {
            "cause": found.cause,
            "evidence": found.line,
            "remedy": found.remedy.remedy,
            "known": True,
            "name": found.remedy.name,
            "during": found.remedy.during.value,
            "pid": found.pid or None,
            "program": found.program or None,
            "fd": None if found.fd < 0 else found.fd,
            "path": found.path or None,
            "retried": None if retry is None else f"once, {retry}",
        }
    errors = errors_of(text)
    if not errors:
        remedy = "look at its last lines; a CRIU that was killed leaves no error"
        return {"cause": "the log names no error", "evidence": "", "remedy": remedy, "known": False}
    remedy = f"look at the lines before it in {log}, and report them, so that the cause becomes a known one"
    return {"cause": errors[-1], "evidence": errors[-1], "remedy": remedy, "known": False}


def _store_check(settings: StoreSettings) -> Check:
    from ckptrun.app.stores import backend_of  # noqa: PLC0415 -- 'explain' needs no store
    from ckptrun.store.probing import probe  # noqa: PLC0415

    try:
        backend = backend_of(settings)
        backend.prepare()
        probe(backend)
    except CkptrunError as error:
        remedy = error.hint or "choose another --store"
        return Check(STORE_CHECK, ok=False, detail=error.message, remedy=remedy)
    return Check(STORE_CHECK, ok=True, detail=f"{settings.url} can be written and honours preconditions")
