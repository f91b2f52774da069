"""A machine with a GPU, or the reason why there is none: every test here is then skipped at its collection, with it.

Self-contained: a checkout, an interpreter with ckptrun, pytest and psutil, CRIU (``ckptrun doctor --fix``), and a CUDA
build of PyTorch in the same interpreter or in the one that CKPTRUN_GPU_PYTHON names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.gpu import missing
from support.run import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    if not mine:
        return
    reason = missing()
    for item in mine:
        item.add_marker(pytest.mark.slow)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path, options=("--interval", "off")) as lab:
        yield lab
        lab.close()
        lab.expect_nothing_left()
