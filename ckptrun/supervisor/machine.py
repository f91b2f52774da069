"""This machine, as far as a checkpoint depends on it: CPU, register area, kernel, CRIU, GPU driver.

Read once per run. What a checkpoint says of the machine it was made on: `ckptrun.supervisor.compat`.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ckptrun.core.cpu import LEVELS, level_of, noticed
from ckptrun.errors import ConfigurationError, DumpError

if TYPE_CHECKING:
    from ckptrun.criu.images import ImageReader
    from ckptrun.criu.program import Criu

CPUINFO = Path("/proc/cpuinfo")
NVIDIA = Path("/proc/driver/nvidia")
_FEATURES = ("flags", "Features")
_MODEL = ("model name", "Processor", "CPU implementer")
_CRIU_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU: who made it, which it is, and its `noticed` features."""

    vendor: str
    model: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """The area registers are saved in, as CRIU sees it: components as XCR0 has them, and bytes.

    Args:
        components: bit mask.
        size: with what is enabled.
        most: with all that the CPU has.
    """

    components: int
    size: int
    most: int


class Machine:
    """This machine.

    Args:
        criu: the one in use.
        reader: reads its images.
        scratch: a folder that can be written.
    """

    def __init__(self, criu: Criu, reader: ImageReader, scratch: Path) -> None:
        self._criu = criu
        self._reader = reader
        self._scratch = scratch
        self.architecture = this_architecture()
        self.kernel = os.uname().release
        self.criu = ".".join(map(str, criu.version))

    def know(self) -> None:
        """Find out now what takes a moment: inside a freeze there is no time for it."""
        _ = self.cpu, self.area, self.gpu

    @cached_property
    def cpu(self) -> Cpu:
        """Its CPU."""
        return read_cpu(CPUINFO.read_text(encoding="utf-8", errors="replace"), self.architecture)

    @cached_property
    def area(self) -> Area | None:
        """Its register area; None if CRIU does not say, and where there is none.

        Raises:
            DumpError: there is no room for what it says.
        """
        if self.architecture != "x86_64":
            return None
        with tempfile.TemporaryDirectory(prefix="cpuinfo-", dir=self._scratch) as folder:
            argv = [*self._criu.argv, "cpuinfo", "dump", "--images-dir", folder]
            try:
                subprocess.run(argv, capture_output=True, timeout=_CRIU_SECONDS, check=True)
                data = (Path(folder) / "cpuinfo.img").read_bytes()
            except (OSError, subprocess.SubprocessError):
                return None
        found = next(self._reader.entries(data, "cpuinfo", "cpuinfo_entry"), None)
        if found is None:  # CRIU does not notice that its file was not written
            raise DumpError(
                f"no room on the filesystem in {self._scratch} for what CRIU says of the CPU",
                hint="free some space there; if it is a pod's emptyDir, raise its sizeLimit",
            )
        entry = found.x86_entry[0]
        return Area(entry.xfeatures_mask, entry.xsave_size, entry.xsave_size_max)

    @cached_property
    def gpu(self) -> str:
        """Version of the GPU's driver; empty if there is no GPU."""
        return read_gpu(NVIDIA)


def this_architecture() -> str:
    """Return what ``uname -m`` says."""
    return os.uname().machine


def read_cpu(text: str, architecture: str) -> Cpu:
    """Return the first CPU that ``/proc/cpuinfo`` describes."""
    fields = dict(re.findall(r"^([^\t:]+?)\s*:[ ]*(.*)$", text.partition("\n\n")[0], re.MULTILINE))
    features = next((fields[name] for name in _FEATURES if name in fields), "")
    model = next((fields[name] for name in _MODEL if name in fields), "")
    return Cpu(fields.get("vendor_id", ""), model, noticed(features.split(), architecture))


def read_gpu(folder: Path) -> str:
    """Return the version of NVIDIA's driver, by its ``version`` file, if it has a GPU."""
    try:
        text = (folder / "version").read_text(encoding="utf-8", errors="replace")
        devices = any((folder / "gpus").iterdir())
    except OSError:
        return ""
    version = re.search(r"^NVRM version:.*?(\d+\.\d+(?:\.\d+)*)", text, re.MULTILINE)
    return version[1] if version and devices else ""


def check_level(level: str) -> None:
    """Refuse a ``--portable-cpu`` that this CPU cannot give.

    Raises:
        ConfigurationError: it lacks features of that level.
    """
    architecture = this_architecture()
    if architecture != "x86_64":
        raise ConfigurationError(
            f"--portable-cpu {level} says nothing about this machine, which is {architecture}",
            hint="leave it out",
        )
    cpu = read_cpu(CPUINFO.read_text(encoding="utf-8", errors="replace"), architecture)
    if lacking := LEVELS[level] - set(cpu.features):
        best = level_of(cpu.features)
        raise ConfigurationError(
            f"--portable-cpu {level} is above this CPU, a {cpu.model}: it lacks {', '.join(sorted(lacking))}",
            hint=f"choose {best} or lower" if best else "leave it out",
        )
