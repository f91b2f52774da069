"""What a checkpoint depends on, `Compat`, and whether it fits a machine: `check`, before anything is fetched.

`Compat` is the manifest's ``facts.compat``; ``ckptrun show`` prints its `summary`. What is compared, and why:
docs/design/compat.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ckptrun.core import cpu as cpus
from ckptrun.errors import CorruptError, UnfitError
from ckptrun.journal.record import name_from_json, name_to_json, printable
from ckptrun.supervisor.binaries import Build
from ckptrun.supervisor.machine import Area, Cpu

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptrun.core.model import Json
    from ckptrun.supervisor.binaries import Binaries, Mapped
    from ckptrun.supervisor.machine import Machine

NAMED = 5
"""Files that a refusal names; the others are counted."""
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Compat:
    """What a checkpoint depends on; empty fields are not known and not checked.

    Args:
        architecture: as ``uname -m``.
        kernel: its release.
        criu: version of the CRIU that made the images.
        cpu: the CPU the job ran on.
        area: the area its registers are saved in.
        registers: components of the register state in use in any thread, as a mask.
        portable: what ``--portable-cpu`` said when the job was started.
        libc: name and version of the job's C library.
        gpu: the GPU driver's version, if the job uses a GPU, or did until a hook moved its memory out of it.
        files: executables, libraries and data mapped by any process.
    """

    architecture: str = ""
    kernel: str = ""
    criu: str = ""
    cpu: Cpu | None = None
    area: Area | None = None
    registers: int = 0
    portable: str = ""
    libc: str = ""
    gpu: str = ""
    files: Mapping[str, Build] = field(default_factory=dict)

    def summary(self) -> dict[str, Json]:
        """Return it in short, for ``ckptrun show``."""
        return {
            "cpu": (cpus.level_of(self.cpu.features) if self.cpu else "") or None,
            "cpu_model": (self.cpu.model if self.cpu else "") or None,
            "portable_cpu": self.portable or None,
            "architecture": self.architecture or None,
            "kernel": self.kernel or None,
            "criu": self.criu or None,
            "libc": self.libc or None,
            "gpu": self.gpu or None,
            "files": len(self.files),
        }

    def to_json(self) -> dict[str, Json]:
        """Return it for the manifest's facts."""
        return {
            "architecture": self.architecture,
            "kernel": self.kernel,
            "criu": self.criu,
            "cpu": [self.cpu.vendor, self.cpu.model, " ".join(self.cpu.features)] if self.cpu else None,
            "area": [self.area.components, self.area.size, self.area.most] if self.area else None,
            "registers": self.registers,
            "portable": self.portable,
            "libc": self.libc,
            "gpu": self.gpu,
            "files": [[name_to_json(path), b.size, b.identity] for path, b in sorted(self.files.items())],
        }

    @classmethod
    def from_json(cls, value: Any) -> Compat:
        """Read what `to_json` wrote, or another version of ckptrun: what is not there is not known.

        Raises:
            CorruptError: it does not parse.
        """
        value = value or {}
        texts = ("architecture", "kernel", "criu", "portable", "libc", "gpu")
        try:
            cpu, area = value.get("cpu"), value.get("area")
            files = {
                name_from_json(path): Build(size, identity) for path, size, identity in value.get("files", [])
            }
            return cls(
                cpu=Cpu(cpu[0], cpu[1], tuple(cpu[2].split())) if cpu else None,
                area=Area(*area) if area else None,
                registers=value.get("registers", 0),
                files=files,
                **{name: str(value.get(name) or "") for name in texts},
            )
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise CorruptError(f"what the checkpoint depends on does not parse: {error!r}") from error


def gather(
    machine: Machine, mapped: Mapped, *, apart: Collection[str], registers: int, portable: str
) -> Compat:
    """Return what a checkpoint that is being made here depends on.

    Args:
        machine: this one.
        mapped: what the job's processes have mapped.
        apart: paths whose files travel with the checkpoint.
        registers: see `Compat`.
        portable: see `Compat`.
    """
    return Compat(
        machine.architecture,
        machine.kernel,
        machine.criu,
        machine.cpu,
        machine.area,
        registers,
        portable,
        next((build.libc for build in mapped.files.values() if build.libc), ""),
        machine.gpu if mapped.gpu else "",
        {path: build for path, build in mapped.files.items() if path not in apart},
    )


def check(compat: Compat, machine: Machine, binaries: Binaries) -> list[str]:
    """Compare a checkpoint with this machine.

    Returns:
        What differs and does no harm by itself: sentences for the user.

    Raises:
        UnfitError: it cannot be restored here, or would run wrongly.
    """
    found: list[tuple[str, str]] = [
        *_platform(compat, machine),
        *_cpu(compat, machine),
        *_gpu(compat, machine),
        *_files(compat, binaries),
    ]
    if found:
        hints = dict.fromkeys(hint for _, hint in found)
        raise UnfitError("; ".join(problem for problem, _ in found), hint="; ".join(hints))
    return _harmless(compat, machine)


def _platform(compat: Compat, machine: Machine) -> list[tuple[str, str]]:
    found = []
    if compat.architecture and compat.architecture != machine.architecture:
        problem = f"it was made on {compat.architecture}, this machine is {machine.architecture}"
        found.append((problem, f"run the command on {compat.architecture}"))
    if compat.criu and _numbers(machine.criu)[:2] < _numbers(compat.criu)[:2]:
        problem = (
            f"its images were made by CRIU {compat.criu}, and CRIU {machine.criu} may not know all they say"
        )
        found.append((problem, "get a newer CRIU with `ckptrun doctor --fix`"))
    return found


def _cpu(compat: Compat, machine: Machine) -> list[tuple[str, str]]:
    there, here = compat.cpu, machine.cpu
    if there is None or compat.architecture != machine.architecture:
        return []
    found = []
    lost = cpus.missing(there.features, here.features, compat.portable)
    if lost:
        what = f"this CPU ({here.model}) lacks {', '.join(lost)}, which the job may use"
        best = cpus.level_of(set(there.features) & set(here.features))
        portable = f", or start such jobs anew with --portable-cpu {best}" if best else ""
        found.append(
            (f"{what}: it found them on its own ({there.model})", f"run it on a CPU that has them{portable}")
        )
    held = {name for bit, name in cpus.COMPONENTS.items() if compat.registers >> bit & 1}
    if gone := sorted(held - set(here.features) - set(lost)):
        what = f"a thread holds {', '.join(gone)} registers, and this CPU ({here.model}) has none"
        found.append(
            (f"{what}; --portable-cpu {compat.portable} did not reach it", "run it on a CPU that has them")
        )
    if (wider := _wider(compat, machine)) and "xsavec" not in there.features:
        what = (
            f"this CPU ({here.model}) saves more registers ({wider}) than the job's C library made room for"
        )
        found.append((what, f"run it on a CPU like its own ({there.model})"))
    return found


def _wider(compat: Compat, machine: Machine) -> str:
    """Return the features that bring registers here which the checkpoint's CPU did not have."""
    there = compat.cpu
    if there is None or there.features == machine.cpu.features or compat.area is None or machine.area is None:
        return ""
    more = machine.area.components & ~compat.area.components
    return ", ".join(dict.fromkeys(name for bit, name in cpus.COMPONENTS.items() if more >> bit & 1))


def _gpu(compat: Compat, machine: Machine) -> list[tuple[str, str]]:
    if not compat.gpu or machine.gpu:
        return []
    return [
        (f"the job uses a GPU (driver {compat.gpu}), and there is none here", "run it on a machine with one")
    ]


def _files(compat: Compat, binaries: Binaries) -> list[tuple[str, str]]:
    differing = []
    for path, build in compat.files.items():
        here = binaries.look(path, program=build.identity.startswith("blake3:"))
        if here is None:
            differing.append(f"{printable(path)} is not here")
        elif here.identity != build.identity:
            differing.append(f"{printable(path)} is another one ({_short(build)} there, {_short(here)} here)")
        elif here.size != build.size:
            differing.append(f"{printable(path)} has {here.size} bytes instead of {build.size}")
    if not differing:
        return []
    more = f"; and {len(differing) - NAMED} more" if len(differing) > NAMED else ""
    problem = (
        f"{len(differing)} of the {len(compat.files)} programs, libraries and data files that the job has mapped "
        f"differ: {'; '.join(differing[:NAMED])}{more}"
    )
    return [(problem, "put the same versions there")]


def _short(build: Build) -> str:
    kind, _, digest = build.identity.partition(":")
    return f"{kind} {digest[:_SHORT]}" if digest else f"{build.size} bytes"


def _harmless(compat: Compat, machine: Machine) -> list[str]:
    notes = []
    if compat.kernel and _numbers(machine.kernel)[:2] < _numbers(compat.kernel)[:2]:
        notes.append(
            f"this kernel ({machine.kernel}) is older than the checkpoint's ({compat.kernel}): what the job found in "
            "that one may be missing"
        )
    if compat.gpu and compat.gpu != machine.gpu:
        notes.append(f"the GPU's driver is {machine.gpu} here, {compat.gpu} at the checkpoint")
    capped = compat.portable and "avx512f" in cpus.capped(compat.portable)
    if (wider := _wider(compat, machine)) and not capped:
        notes.append(
            f"this CPU has {wider}, the checkpoint's had not: libraries that the job loads from now on may use it "
            "where its C library has made no room for it; --portable-cpu at the start keeps them from it"
        )
    return notes


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("-", maxsplit=1)[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
