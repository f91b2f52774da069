"""Can this machine, for this user, checkpoint and restore at all? The machine's part of ``ckptrun doctor``.

Called by the application. Everything said here was tried on the spot, in namespaces of our own. What an
ordinary user cannot have is named in the check ``ordinary user``, which is no failure: the rest works.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core import confinement
from ckptrun.core.health import Check
from ckptrun.criu import ownrights, probe, provision
from ckptrun.criu.available import available_memory
from ckptrun.errors import MissingFeatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptrun.criu.program import Criu

ARCHITECTURES = ("x86_64", "aarch64")
_LITTLE_MEMORY = 256 << 20
_PTRACE_SEIZE = 0x4206
_PTRACE_O_SUSPEND_SECCOMP = 1 << 21
_USEFUL = {
    "DAC_READ_SEARCH": (2, "files that were written and closed come back only by --preserve"),
    "NET_ADMIN": (12, "established TCP connections are closed at a dump"),
    "SYS_RESOURCE": (24, "jobs of another user need CRIU's unprivileged mode, pipes stay at 1 MiB"),
}


def machine_checks(criu_finder: Callable[[], Criu] = provision.find) -> list[Check]:
    """Examine the kernel, this process's rights and CRIU; takes about half a second."""
    checks = [_kernel(), _namespaces(), _time_namespace(), _last_pid(), _seccomp(), _memory()]
    checks.append(
        capability_check(ownrights.effective_capabilities()) if ownrights.is_root() else _ordinary_user()
    )
    try:
        return checks + provision.check(criu_finder())
    except MissingFeatureError as error:
        remedy = error.hint or "run `ckptrun doctor --fix`"
        return [*checks, Check("criu program", ok=False, detail=error.message, remedy=remedy)]


def _kernel() -> Check:
    uname = os.uname()
    detail = f"Linux {uname.release} on {uname.machine}"
    if platform.machine() not in ARCHITECTURES:
        return Check("kernel", False, detail, f"ckptrun runs on {' and '.join(ARCHITECTURES)}")
    if not Path("/proc/self/map_files").is_dir():
        remedy = "use a kernel with CONFIG_CHECKPOINT_RESTORE; every distribution's has it"
        return Check("kernel", False, f"{detail}, without checkpoint/restore support", remedy)
    return Check("kernel", True, detail)


def _unshare(*argv: str, stdin: str = "") -> str:
    """Run a program in a capsule's namespaces and return why it failed, '' if it did not."""
    user = [] if ownrights.is_root() else ["--user", "--map-root-user"]
    return probe.complaint_of(["unshare", *user, *argv], stdin)


def _namespaces() -> Check:
    problem = _unshare("--pid", "--mount", "--fork", "--mount-proc", "true")
    if not problem:
        owner = "" if ownrights.is_root() else " in a user namespace"
        return Check("namespaces", True, f"a PID and mount namespace can be made{owner}")
    return Check("namespaces", False, problem, namespace_remedy(_settings(), root=ownrights.is_root()))


def namespace_remedy(settings: Mapping[str, int], *, root: bool) -> str:
    """Return what lets this user make namespaces, from the kernel's settings by name."""
    if root:
        return f"{confinement.mounting(ownrights.security_label())}; or run ckptrun outside it"
    if settings.get("user.max_user_namespaces") == 0:
        return "as root: sysctl user.max_user_namespaces=10000; or run ckptrun with sudo"
    if settings.get("kernel.unprivileged_userns_clone") == 0:
        return "as root: sysctl kernel.unprivileged_userns_clone=1; or run ckptrun with sudo"
    if settings.get("kernel.apparmor_restrict_unprivileged_userns") == 1:
        return (
            "AppArmor forbids user namespaces here (Ubuntu's default); as root:"
            " sysctl kernel.apparmor_restrict_unprivileged_userns=0; or run ckptrun with sudo"
        )
    return "user namespaces are forbidden, perhaps by a container's seccomp filter; run ckptrun with sudo"


def _settings() -> dict[str, int]:
    names = (
        "user.max_user_namespaces",
        "kernel.unprivileged_userns_clone",
        "kernel.apparmor_restrict_unprivileged_userns",
    )
    found = {}
    for name in names:
        try:
            found[name] = int(Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return found


def _time_namespace() -> Check:
    problem = _unshare("--time", "--fork", "true")
    remedy = (
        f"clocks would jump at a restore: use Linux 5.6 or newer; {confinement.capabilities(['SYS_TIME'])}"
    )
    return Check("time namespace", not problem, problem or "can be made", remedy if problem else "")


def _last_pid() -> Check:
    """A restored job's next child must not get a PID that is taken; see DESIGN, "Process model"."""
    where = "/proc/sys/kernel/ns_last_pid"
    problem = _unshare("--pid", "--mount", "--fork", "--mount-proc", "tee", where, stdin="500")
    remedy = confinement.capabilities(["SYS_ADMIN"])
    return Check("ns_last_pid", not problem, problem or f"{where} can be set", remedy if problem else "")


def _seccomp() -> Check:
    problem = suspend_seccomp_problem()
    if not problem:
        return Check("seccomp", True, "a job with a seccomp filter can be dumped")
    if not ownrights.is_root():
        return Check("seccomp", True, "a job with a seccomp filter cannot be dumped by an ordinary user")
    remedy = (
        confinement.SECCOMP if ownrights.has_seccomp_filter() else confinement.capabilities(["SYS_ADMIN"])
    )
    return Check("seccomp", False, f"a job with a seccomp filter cannot be dumped: {problem}", remedy)


def suspend_seccomp_problem() -> str:
    """Try on a child what CRIU does to a process with a filter; return why it fails, '' if it works."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        failed = libc.ptrace(_PTRACE_SEIZE, pid, None, _PTRACE_O_SUSPEND_SECCOMP) != 0
        return os.strerror(ctypes.get_errno()) if failed else ""
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _memory() -> Check:
    free = available_memory()
    detail = f"{free / (1 << 30):.1f} GiB are free for staging and the job"
    if free < _LITTLE_MEMORY:
        return Check("memory", False, detail, "free some, or dump without staging: --staging 0")
    return Check("memory", True, detail)


def capability_check(effective: int) -> Check:
    """Judge a mask of effective capabilities: what is needed, and what is merely missed."""
    if missing := ownrights.missing_capabilities(effective):
        remedy = confinement.capabilities(missing)
        return Check("capabilities", False, f"missing: {', '.join(missing)}", remedy)
    absent = [f"no {name}: {cost}" for name, (number, cost) in _USEFUL.items() if not effective >> number & 1]
    return Check("capabilities", True, "; ".join(["all that are needed", *absent]))


def _ordinary_user() -> Check:
    limits = ["established TCP connections are closed at a dump", "every process of the job has one user id"]
    try:
        text = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii")
        limits.append(f"ports below {int(text)} cannot be opened")
    except (OSError, ValueError):
        pass
    if suspend_seccomp_problem():
        limits.append("jobs with a seccomp filter cannot be dumped (so io_uring is not kept from them)")
    return Check("ordinary user", True, f"works with limits that sudo lifts: {'; '.join(limits)}")
