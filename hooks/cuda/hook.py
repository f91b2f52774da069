"""The hook `cuda`: moves the job's GPU memory out of the way and back. See README.md beside this file.

Everything it does is in `ckptrun.cuda`, where it can be tested and where the doctor finds it too. Its process stays
from the opening phase to the closing one, with all that calls the driver at hand: the job's CUDA calls wait meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import sys

from ckptrun.cuda.calls import Ways
from ckptrun.cuda.phases import run

if __name__ == "__main__":
    with contextlib.closing(Ways()) as ways:
        for line in sys.stdin:
            print(json.dumps(run(json.loads(line), ways)), flush=True)
