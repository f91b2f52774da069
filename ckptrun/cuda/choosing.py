"""Which of the two ways to the driver is taken: the Python package if it works, else the program."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ckptrun.cuda.bindings import BindingsDriver
from ckptrun.cuda.driver import CudaError
from ckptrun.cuda.program import ProgramDriver

if TYPE_CHECKING:
    from ckptrun.cuda.driver import Driver

AUTO, BINDINGS, PROGRAM = "auto", "bindings", "program"
_NAME = "cuda-checkpoint"
_INSTALL = (
    "pip install 'ckptrun[cuda]' (an image of ckptrun's: make image EXTRAS=kube,postgres,redis,cuda), or put NVIDIA's "
    "cuda-checkpoint (see docs/gpu.md) on PATH; a container must also be shown the GPU and its driver"
)


def choose(wanted: str = AUTO, program: str = "") -> Driver:
    """Return a way to the driver that works.

    Args:
        wanted: one of the three above.
        program: path of ``cuda-checkpoint``; empty to look for it on PATH.

    Raises:
        CudaError: there is none; says why for each.
    """
    reasons = []
    if wanted in {AUTO, BINDINGS} and (why := _try_bindings()) is not None:
        if not isinstance(why, str):
            return why
        reasons.append(why)
    if wanted in {AUTO, PROGRAM}:
        path = program or shutil.which(_NAME)
        if path:
            driver = ProgramDriver(path)
            if driver.acts:
                return driver
            reasons.append(f"{path} does not work, or is older than 555")
        else:
            reasons.append(f"there is no {_NAME} on PATH")
    raise CudaError(f"nothing here can save CUDA state: {'; '.join(reasons)}", hint=_INSTALL)


def _try_bindings() -> Driver | str:
    """Return it, or why it cannot be used."""
    driver = BindingsDriver()
    try:
        driver.version()
    except CudaError as error:
        driver.close()
        return error.message
    return driver
