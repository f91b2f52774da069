"""Finds in a log of CRIU's what went wrong, and who was to blame.

CRIU says the cause first and what follows from it afterwards, but it also complains about things it then does without.
So of all entries that match an error, the one whose match ends last counts: consequences have no entry. Warnings are
looked at only if no error is known, and the last line of each task only if there is no error at all: one that waited
for ever, until CRIU was killed, stopped there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptrun.criu.remedies.model import Finding
from ckptrun.criu.remedies.table import TABLE

if TYPE_CHECKING:
    from ckptrun.criu.remedies.model import Remedy

_COMPLAINT = re.compile(
    r"^(?:pie: *(?P<pie>\d+): )?(?:\([\d.]+\) +)?(?:(?P<task>\d+): )?(?P<kind>Error|Warn) +\([^)]*\): *(?P<text>.*)$"
)
_LINE = re.compile(r"^\([\d.]+\) +(?:(?P<task>\d+): )?(?P<text>.*)$")
_LAST = "last"
_HARMLESS = re.compile(
    r"RLIMIT_NOFILE for self|iptables|ip6tables|nft|Unable to get kernel capabilities|(?:Dump|Restor)ing FAILED"
)
"""What successful runs say, too, and the last line of every failed one."""

_TASK = re.compile(r"Dumping task \(pid: (\d+) comm: (.*)\)$", re.MULTILINE)
_FDINFO = re.compile(r"\) +(\d+) fdinfo (\d+): ")
_GAVE_UP = re.compile(r"\(pid: (\d+)\) failed with")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class _Complaint:
    """One line with an error or a warning, or a task's last one: which task said it (0: CRIU itself), and its text."""

    number: int
    line: str
    kind: str
    task: int
    text: str


def errors_of(text: str) -> list[str]:
    """Return the log's errors without their source positions, harmless ones left out."""
    return [complaint.text for complaint in _complaints(text) if complaint.kind == "Error"]


def find(text: str) -> Finding | None:
    """Return the cause that a log betrays, with the evidence that it has; None if it is unknown."""
    complaints = _complaints(text)
    failed = any(complaint.kind == "Error" for complaint in complaints)
    for kind in ("Error", "Warn") if failed else ("Warn", _LAST):
        chosen = [complaint for complaint in complaints if complaint.kind == kind]
        if found := _last_match([complaint.text for complaint in chosen]):
            remedy, match, line = found
            return _finding(text, remedy, match, chosen[line], complaints)
    return None


def _complaints(text: str) -> list[_Complaint]:
    found = []
    last = {}
    for number, line in enumerate(text.splitlines()):
        match = _COMPLAINT.match(line)
        if match and not _HARMLESS.search(match["text"]):
            task = int(match["task"] or match["pie"] or 0)
            found.append(_Complaint(number, line.strip(), match["kind"], task, match["text"].strip()))
        if match := _LINE.match(line):
            task = int(match["task"] or 0)
            last[task] = _Complaint(number, line.strip(), _LAST, task, match["text"])
    return [*found, *last.values()]


def _last_match(lines: list[str]) -> tuple[Remedy, re.Match[str], int] | None:
    """Return the entry whose last match ends last, that match, and the index of the line it begins in."""
    block = "\n".join(lines)
    best: tuple[Remedy, re.Match[str]] | None = None
    for remedy in TABLE:
        for match in remedy.log.finditer(block) if remedy.log else ():
            if best is None or _line_of(block, match.end()) > _line_of(block, best[1].end()):
                best = remedy, match
    return (*best, _line_of(block, best[1].start())) if best else None


def _line_of(block: str, position: int) -> int:
    return block.count("\n", 0, position)


def _finding(
    text: str, remedy: Remedy, match: re.Match[str], complaint: _Complaint, complaints: list[_Complaint]
) -> Finding:
    groups = {name: value for name, value in match.groupdict().items() if value is not None}
    pid = int(groups.get("pid") or groups.get("pid2") or complaint.task)
    fd = int(groups.get("fd", -1))
    program = ""
    before = "\n".join(text.splitlines()[: complaint.number])
    if not pid:
        later = [
            gave_up for c in complaints if c.number > complaint.number if (gave_up := _GAVE_UP.search(c.text))
        ]
        pid = int(later[0][1]) if later else 0
    if remedy.owned and pid and fd < 0:
        fd = _descriptor(before, pid)
    for task in _TASK.finditer(before):
        if int(task[1]) == pid:
            program = task[2]
    path = f"/{groups['rel'].lstrip('/')}" if "rel" in groups else groups.get("path", "")
    inode = int(groups["hexino"], 16) if "hexino" in groups else int(groups.get("ino", 0))
    return Finding(remedy, complaint.line, pid, 0, program, fd, path.removesuffix(_DELETED), inode)


def _descriptor(before: str, pid: int) -> int:
    """Return the descriptor that CRIU was at; -1 if it was at none of this process's."""
    seen = _FDINFO.findall(before)
    return int(seen[-1][1]) if seen and int(seen[-1][0]) == pid else -1
