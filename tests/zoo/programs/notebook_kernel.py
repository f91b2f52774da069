"""Jupyter: a notebook's cells run one by one in a kernel, which answers over ZeroMQ."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from pace import report, steps

CELLS = 60


def main() -> None:
    os.environ["JUPYTER_PLATFORM_DIRS"] = "1"
    sources = ["import hashlib\nstate = ''"]
    sources += [
        f"state = hashlib.sha256(f'{{state}} {cell}'.encode()).hexdigest()\nstate" for cell in range(CELLS)
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(sources)
        ]
    )
    client = NotebookClient(notebook, kernel_name="python3", record_timing=False, timeout=120)
    with client.setup_kernel():
        for number in steps(len(sources)):
            client.execute_cell(notebook.cells[number], number)
    nbformat.write(notebook, Path("executed.ipynb"))
    report(notebook.cells[-1].outputs[0]["data"]["text/plain"])


if __name__ == "__main__":
    main()
