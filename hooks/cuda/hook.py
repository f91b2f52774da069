"""The hook `cuda`: moves the job's GPU memory out of the way and back. See README.md beside this file.

Everything it does is in `ckptrun.cuda`, where it can be tested and where the doctor finds it too.
"""

from __future__ import annotations

import json
import sys

from ckptrun.cuda.phases import run

if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)
