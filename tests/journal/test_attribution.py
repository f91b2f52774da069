"""What the job writes and closes, renames, makes and removes: in the checkpoint, and undone by a rollback."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from journalkit import age, picture
from watched import Story

from ckptrun.journal import Journal, listed
from ckptrun.journal.attribution import Attribution, Look

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def story(work: Path, tmp_path: Path) -> Iterator[Story]:
    story = Story(work, tmp_path / "trail", tmp_path / "aside")
    yield story
    story.job.kill()


def theirs(path: Path) -> tuple[bytes, int, int]:
    status = path.stat()
    return path.read_bytes(), status.st_mtime_ns, status.st_ino


def test_a_log_reopened_for_every_line_is_not_repeated(story: Story, work: Path):
    line = "n = globals().get('n', 0) + 1; f = open('log', 'a'); f.write(f'{n}\\n'); f.close()"
    story.do(*[line] * 5)
    story.take()
    story.do(*[line] * 7)
    report = story.back()
    assert (work / "log").read_text() == "1\n2\n3\n4\n5\n"
    assert report.truncated == (str(work / "log"),)


ROTATE = (
    "import logging, logging.handlers",
    "h = logging.handlers.RotatingFileHandler('run.log', maxBytes=40, backupCount=3)",
    "logger = logging.getLogger('x'); logger.addHandler(h); logger.setLevel(10)",
)
WORKS = {
    "rotated logs": (
        [*ROTATE, *[f"logger.info('message %d', {n})" for n in range(9)]],
        [f"logger.info('message %d', {n})" for n in range(9, 30)],
    ),
    "atomic replacement": (
        ["open('t', 'w').write('1'); os.rename('t', 'state')"],
        ["open('t', 'w').write('2'); os.rename('t', 'state')", "open('t', 'w').write('3')"],
    ),
    "files and an index": (
        ["[open(f'part-{n}', 'w').write(str(n)) for n in range(20)]; open('index', 'w').write('20')"],
        ["[open(f'part-{n}', 'w').write(str(n)) for n in range(10, 40)]; open('index', 'w').write('40')"],
    ),
    "removed later": (
        ["open('a', 'w').write('a'); os.makedirs('d/e'); open('d/e/b', 'w').write('b')"],
        ["import shutil; os.unlink('a'); shutil.rmtree('d')"],
    ),
    "folders made later": (
        ["os.mkdir('old'); open('old/x', 'w').close()"],
        [
            "os.makedirs('new/deep'); open('new/deep/f', 'w').write('f'); os.mkdir('old/sub'); os.mkdir('empty')"
        ],
    ),
    "folders renamed later": (
        ["os.makedirs('a/b'); open('a/b/f', 'w').write('1'); open('a/g', 'w').write('2')"],
        [
            "os.rename('a', 'z'); os.rename('z/b', 'y'); open('y/f', 'a').write('more'); open('y/new', 'w').close()"
        ],
    ),
    "folders renamed before": (
        [
            "os.makedirs('a/b'); open('a/b/f', 'w').write('1'); os.rename('a', 'z'); open('z/b/g', 'w').write('2')"
        ],
        ["open('z/b/f', 'w').write('changed'); os.unlink('z/b/g')"],
    ),
    "links": (
        ["open('f', 'w').write('1'); os.symlink('f', 's'); os.link('f', 'h')"],
        [
            "os.unlink('s'); os.symlink('h', 's'); os.unlink('h'); open('f', 'w').write('2'); os.link('f', 'h2')"
        ],
    ),
    "modes and owners": (
        ["open('f', 'w').write('1'); os.chmod('f', 0o640)", "os.setxattr('f', 'user.k', b'1')"],
        ["os.chmod('f', 0o600); os.setxattr('f', 'user.k', b'2'); os.utime('f', (1, 1))"],
    ),
    "holes": (
        ["f = open('f', 'wb'); f.seek(1 << 24); f.write(b'x'); f.close()"],
        ["f = open('f', 'r+b'); f.write(b'y'); f.close()"],
    ),
    "names that are no text": (
        ["open(b'n-\\xff', 'w').write('1'); os.mkdir(b'd-\\xfe')"],
        [
            "os.rename(b'n-\\xff', b'm-\\xff'); open(b'd-\\xfe/\\xfd', 'w').close(); open(b'\\xfc', 'w').close()"
        ],
    ),
    "written through a mapping": (
        ["f = open('f', 'w+b'); f.truncate(5000); f.close()"],
        ["f = open('f', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0] = 7; m.close(); f.close()"],
    ),
    "a file swapped with another": (
        ["open('a', 'w').write('a'); open('b', 'w').write('b')"],
        ["os.rename('a', 't'); os.rename('b', 'a'); os.rename('t', 'b')"],
    ),
}


@pytest.mark.parametrize("what", WORKS)
@pytest.mark.parametrize("known", [True, False], ids=["here", "elsewhere"])
def test_what_the_job_does_is_undone(story: Story, work: Path, what: str, known: bool):
    before, after = WORKS[what]
    story.do("import os, mmap", *before)
    story.take()
    wanted = picture(work)
    story.do(*after)
    assert picture(work) != wanted
    if known:
        report = story.back()
    else:  # a machine that has nothing but the store
        story.job.kill()
        subprocess.run(["rm", "-rf", work], check=True)
        work.mkdir()
        report = story.checkpoints["1"].rollback(story.aside)
    assert not report.problems
    assert picture(work) == wanted


def test_a_file_changed_in_one_of_many_is_in_the_next_checkpoint(story: Story):
    story.do("[open(f'f{n}', 'w').write('1') for n in range(50)]")
    story.take()
    story.do("open('f7', 'w').write('22'); os.unlink('f8'); os.rename('f9', 'g9')")
    checkpoint = story.take()
    names = {Path(record.path).name: record.size for record in checkpoint.records}
    assert names == {**{f"f{n}": 1 for n in range(50) if n not in (8, 9)}, "f7": 2, "g9": 1}


def test_a_write_between_preparation_and_freeze_is_captured(story: Story, work: Path):
    story.do("open('f', 'w').write('early'); open('g', 'w').write('g')")
    checkpoint = story.take(lambda: story.do("open('f', 'w').write('later'); os.rename('g', 'h')"))
    assert {Path(record.path).name for record in checkpoint.records} == {"f", "h"}
    story.do("open('f', 'w').write('too late')")
    story.back()
    assert (work / "f").read_text() == "later"


def test_a_job_goes_on_over_restores_and_supervisors(story: Story, work: Path):
    story.do("open('a', 'w').write('1')")
    story.take()
    story.do("open('b', 'w').write('2')")
    story.back()
    story.go_on()
    story.do("open('c', 'w').write('3'); open('a', 'a').write('+')")
    story.take()
    assert {Path(record.path).name for record in story.checkpoints["2"].records} == {"a", "c"}
    story.do("open('d', 'w').close(); os.rename('c', 'e')")
    story.job.kill()
    story.new_supervisor()
    story.back(1)  # past the newest: what both incarnations have done goes
    assert {path.name: path.read_text() for path in work.iterdir()} == {"a": "1"}


def test_what_others_do_in_the_same_folder_is_untouched(story: Story, work: Path):
    story.do("os.mkdir('d'); open('mine', 'w').write('1')")
    other = "import os; open('theirs', 'w').write('x'); open('t', 'w').write('y'); os.rename('t', 'notes')"
    subprocess.run([sys.executable, "-c", other], cwd=work, check=True)
    story.take()
    assert {Path(record.path).name for record in story.checkpoints["1"].records} == {"d", "mine"}
    story.do("open('mine', 'w').write('2'); os.mkdir('new')")
    other = (
        "import os; open('theirs', 'a').write('z'); open('t', 'w').write('yy'); os.rename('t', 'notes');"
        "open('d/later', 'w').write('l'); open('new/later', 'w').write('n')"
    )
    subprocess.run([sys.executable, "-c", other], cwd=work, check=True)
    paths = [work / name for name in ("theirs", "notes", "d/later", "new/later")]
    before = [theirs(path) for path in paths]
    report = story.back()
    assert [theirs(path) for path in paths] == before
    assert (work / "mine").read_text() == "1"
    assert not report.problems


def test_two_jobs_in_one_folder_keep_apart(story: Story, work: Path, tmp_path: Path):
    other = Story(work, tmp_path / "other", tmp_path / "other-aside")
    for number, job in enumerate((story, other)):
        job.do(f"open('of-{number}', 'w').write('1')")
        job.take()
    for number, job in enumerate((story, other)):
        job.do(f"open('of-{number}', 'a').write('2'); open('new-{number}', 'w').close()")
    story.back()
    other.job.kill()
    assert {path.name: path.read_text() for path in work.iterdir()} == {
        "of-0": "1",
        "of-1": "12",
        "new-1": "",
    }


def test_a_file_that_somebody_else_replaces_is_no_longer_the_jobs(story: Story, work: Path):
    story.do("open('f', 'w').write('job')")
    story.take()
    (work / "t").write_text("editor")
    (work / "t").rename(work / "f")
    before = theirs(work / "f")
    taken = story.take()
    assert not taken.records
    assert [p for p in taken.capture.problems if f"{work}/f, which the job had written, was replaced" in p]
    assert not story.take().capture.problems, "it is said once"
    story.back()
    assert theirs(work / "f") == before


def test_a_file_that_somebody_else_removes_is_named(story: Story, work: Path):
    story.do("open('f', 'w').write('job'); open('g', 'w').write('job')")
    story.take()
    (work / "f").unlink()
    story.do("import os; os.unlink('g')")
    [problem] = story.take().capture.problems
    assert f"{work}/f, which the job had written, was removed by another program" in problem


def test_what_the_job_does_right_after_a_look_is_not_blamed_on_others(
    story: Story, work: Path, monkeypatch: pytest.MonkeyPatch
):
    story.do("open('f', 'w').write('job'); open('g', 'w').write('job')")
    story.take()
    statements = ["os.unlink('g'); open('t', 'w').write('new'); os.rename('t', 'f')"]
    look = Attribution.look

    def just_before(attribution: Attribution, checkpoint: str = "") -> Look:
        seen = look(attribution, checkpoint)
        while statements:
            story.do(statements.pop())
        return seen

    monkeypatch.setattr(Attribution, "look", just_before)
    taken = story.take()
    assert not taken.capture.problems
    assert {record.path for record in taken.records} == {f"{work}/f"}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("open('old', 'r+').write('x')", "was changed by the job"),
        ("os.unlink('old')", "was removed by the job"),
        ("open('t', 'w').write('x'); os.rename('t', 'old')", "was removed by the job"),
    ],
)
def test_what_cannot_be_brought_back_is_named(story: Story, work: Path, what: str, says: str):
    (work / "old").write_text("from before the run")
    story.take()
    story.do(what)
    [problem] = story.back().problems
    assert f"{work}/old {says}" in problem
    assert "--preserve" in problem


def test_a_file_from_before_the_run_that_was_renamed_gets_its_name_back(story: Story, work: Path):
    (work / "old").write_text("from before the run")
    (work / "folder").mkdir()
    (work / "folder" / "inner").write_text("inner")
    before = theirs(work / "old")
    story.take()
    story.do("os.rename('old', 'new'); open('old', 'w').write('other'); os.rename('folder', 'moved')")
    report = story.back()
    assert not report.problems
    assert theirs(work / "old") == before
    assert sorted(path.name for path in work.rglob("*")) == ["folder", "inner", "old"]
    assert [(entry.reason, entry.bytes) for entry in listed(story.aside)] == [
        ("created after the checkpoint", 5)
    ]


def test_a_hard_link_made_later_goes_and_its_file_stays(story: Story, work: Path):
    (work / "old").write_text("old")
    story.take()
    story.do("os.link('old', 'link')", "open('old').read()")
    story.back()
    assert [path.name for path in work.iterdir()] == ["old"]


def test_a_rollback_can_be_repeated(story: Story, work: Path):
    story.do("open('a', 'w').write('1')")
    (work / "old").write_text("old")
    story.take()
    wanted = picture(work)
    story.do("os.mkdir('d'); open('d/f', 'w').close(); os.rename('old', 'd/old'); open('a', 'w').write('2')")
    story.back()
    story.back()
    assert picture(work) == wanted


def test_a_database_closed_between_transactions_comes_back(story: Story, work: Path):
    story.do(
        "import sqlite3",
        "def add(n):\n c = sqlite3.connect('db'); c.execute('pragma journal_mode=wal')\n"
        " c.execute('create table if not exists t(n)'); c.execute('insert into t values(?)', (n,))\n"
        " c.commit(); c.close()",
        "[add(n) for n in range(5)]",
    )
    story.take()
    story.do("[add(n) for n in range(5, 9)]")
    story.back()
    assert sqlite3.connect(work / "db").execute("select n from t").fetchall() == [(n,) for n in range(5)]


@pytest.mark.usefixtures("settled_soon")
def test_closed_files_that_did_not_change_are_not_stored_again(story: Story, work: Path):
    story.do("[open(f'f{n}', 'wb').write(os.urandom(100_000)) for n in range(20)]")
    story.take()
    age(*work.iterdir())
    story.take()
    known = story.keeper.put_bytes
    story.do("open('f3', 'ab').write(b'x')")
    checkpoint = story.take()
    assert story.keeper.put_bytes - known < 200_000
    assert checkpoint.capture.bytes_inside < 100_000  # what lies in /dev/shm


def test_a_long_closed_file_costs_its_new_tail(story: Story, work: Path):
    story.do("open('log', 'ab').write(os.urandom(9 << 20))")
    story.take()
    before = story.keeper.put_bytes
    story.do("open('log', 'ab').write(b'tail')")
    checkpoint = story.take()
    assert story.keeper.put_bytes - before < 6 << 20
    content = (work / "log").read_bytes()
    story.do("open('log', 'wb').write(b'')")
    story.back()
    assert (work / "log").read_bytes() == content
    assert checkpoint.record(work / "log").size == len(content)


def test_files_past_the_limit_are_named(work: Path, tmp_path: Path):
    story = Story(work, tmp_path / "trail", tmp_path / "aside", limit=1000)
    story.do("open('small', 'w').write('s'); open('large', 'w').write('x' * 2000)")
    capture = story.take().capture
    story.job.kill()
    assert capture.inexact == (f"{work}/large",)
    assert "--journal-limit" in capture.problems[0]


def test_a_preserved_tree_is_left_to_its_own_rules(work: Path, tmp_path: Path):
    (work / "kept").mkdir()
    story = Story(work, tmp_path / "trail", tmp_path / "aside", preserve=(f"{work}/kept",))
    (work / "kept" / "before").write_text("1")
    story.do("open('kept/a', 'w').write('1')")
    story.take()
    wanted = picture(work)
    story.do("open('kept/b', 'w').close(); os.rename('kept/before', 'kept/x'); open('kept/a', 'w').close()")
    assert not story.back().problems
    assert picture(work) == wanted


def test_the_log_says_nothing_of_a_checkpoint_it_does_not_know(story: Story):
    story.do("open('a', 'w').close()")
    story.job.kill()
    assert story.keeper.journal.since("another") == []


def test_a_torn_log_ends_where_it_is_torn(story: Story):
    story.take()
    story.do("open('a', 'w').close(); open('b', 'w').close()")
    story.job.kill()
    whole = story.keeper.journal.since("1")
    log = story.trail / "1.log"
    os.truncate(log, log.stat().st_size - 5)
    with (story.trail / "marks.jsonl").open("a") as marks:
        marks.write('{"checkpoint": "1", "lo')
    assert story.keeper.journal.since("1") == whole[:-1]


def test_without_the_right_to_watch_it_is_said(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from ckptrun.journal.attribution import Attribution; from ckptrun.journal.trail import Trail\n"
        "os.setuid(65534); a = Attribution(Trail(Path(sys.argv[1])), ())\n"
        "print(a.watch('/', None, None, '/'), a.files(), a.look().touched)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "t"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "changes to files cannot be watched here (Operation not permitted) {} set()\n"


def test_marks_are_plain_lines(story: Story):
    story.take()
    [line] = (story.trail / "marks.jsonl").read_text().splitlines()
    assert json.loads(line)["checkpoint"] == "1"
    assert (story.trail).stat().st_mode & 0o777 == 0o700


def test_a_journal_without_a_log_watches_nothing():
    journal = Journal(1)
    assert not journal.watch("/", lambda *_: None, lambda: None, "/")
    assert journal.since("x") == []


def test_a_lost_log_is_told_once_and_open_files_still_count(story: Story, work: Path):
    story.do("open('closed', 'w').close(); f = open('open', 'w', 1); f.write('1')")
    story.take()
    story.keeper.journal._attribution._sync = Path("/nowhere").stat
    capture = story.take().capture
    assert [record.path for record in story.checkpoints["2"].records] == [str(work / "open")]
    assert capture.problems == ("changes to files are no longer watched: No such file or directory",)
    assert story.take().capture.problems == ()


def test_what_a_dump_found_of_a_job_that_had_ended_is_not_said_of_the_next_incarnation(
    story: Story, work: Path
):
    story.do("open('closed', 'w').write('1')")
    story.take()
    keeper, pids = story.keeper, story.job.pids
    story.back()
    with suppress(OSError):  # a dump that had begun: the job is gone, and the capsule with it
        keeper.journal.prepare(pids, keeper.put, keeper.previous)
    story.go_on()
    story.do("open('later', 'w').write('2')")
    checkpoint = story.take()
    assert checkpoint.capture.problems == ()
    assert [record.path for record in checkpoint.records] == [
        f"{work}/{name}" for name in ("closed", "later")
    ]


def test_everything_the_job_has_is_recorded_once(story: Story, work: Path):
    story.do("open('a', 'w').close(); os.mkdir('d'); os.symlink('a', 's'); open('d/f', 'w').close()")
    story.take()
    again = (
        "os.unlink('s'); os.symlink('d', 's'); os.chmod('d', 0o700); os.unlink('a'); open('d/f', 'w').close()"
    )
    checkpoint = story.take(lambda: story.do(again))
    assert sorted(record.path for record in checkpoint.records) == [
        f"{work}/{name}" for name in ("d", "d/f", "s")
    ]


@pytest.mark.parametrize(
    ("after", "left"),
    [
        ("os.unlink('b')", {"a": "a", "b": "b", "other": "other"}),
        ("os.link('other', 'link')", {"a": "a", "b": "b", "other": "other"}),
        ("os.link('other', 'link'); os.unlink('other')", {"a": "a", "b": "b", "other": "other"}),
    ],
)
def test_a_link_or_an_unlink_right_after_a_rename_is_not_taken_for_a_replacement(
    story: Story, work: Path, after: str, left: dict[str, str]
):
    (work / "other").write_text("other")
    story.do("import os", "open('a', 'w').write('a'); open('b', 'w').write('b')")
    story.take()
    story.do("os.mkdir('new'); os.rename('a', 'new/a')", after)
    report = story.back()
    assert not report.problems
    assert {path.name: path.read_text() for path in work.iterdir()} == left
