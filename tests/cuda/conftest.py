"""A machine with GPUs that are none, and both ways to its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.cuda_standin import Standin

from ckptrun.cuda.bindings import BindingsDriver
from ckptrun.cuda.program import ProgramDriver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptrun.cuda.driver import Driver


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    made = Standin(tmp_path / "gpu", gpus=1)
    monkeypatch.setenv("PATH", str(made.folder / "bin"), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(made.folder / "site"))
    yield made
    made.close()


@pytest.fixture(params=["bindings", "program"])
def driver(request: pytest.FixtureRequest, standin: Standin) -> Iterator[Driver]:
    made = BindingsDriver() if request.param == "bindings" else ProgramDriver(str(standin.program))
    yield made
    made.close()
