"""The one table: every cause this program knows, by CRIU's log text or by facts of /proc."""

from __future__ import annotations

from ckptrun.criu.remedies.dumping import DUMPING
from ckptrun.criu.remedies.restoring import RESTORING

TABLE = (*DUMPING, *RESTORING)
BY_NAME = {remedy.name: remedy for remedy in TABLE}

assert len(BY_NAME) == len(TABLE), "a name stands for one cause"
