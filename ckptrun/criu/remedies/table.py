"""The one table: every cause this program knows, by CRIU's log text or by facts of /proc.

The texts are those of CRIU 4.2's source: match the words, never the line number, which drifts. Of all entries that
match a log, the one that it ends with counts (see `logs`); of two that match at the same line, the first one here.
"""

from __future__ import annotations

from ckptrun.criu.remedies.descriptors import DESCRIPTORS
from ckptrun.criu.remedies.restoring import RESTORING
from ckptrun.criu.remedies.sockets import SOCKETS
from ckptrun.criu.remedies.tasks import TASKS

TABLE = (*DESCRIPTORS, *SOCKETS, *TASKS, *RESTORING)
BY_NAME = {remedy.name: remedy for remedy in TABLE}

assert len(BY_NAME) == len(TABLE), "a name stands for one cause"
