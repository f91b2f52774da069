from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from journalkit import Checkpoint, Job, Keeper, age

from ckptrun.journal import How, Journal
from ckptrun.journal.candidates import scan

if TYPE_CHECKING:
    from ckptrun.core.model import BytesSource


def data_of(checkpoint: Checkpoint, path: Path) -> bytes:
    return b"".join(
        bytes(checkpoint.contents[part.key].read(0, part.size)) for part in checkpoint.record(path).parts
    )


def test_an_appended_log_is_as_of_the_freeze(job: Job, keeper: Keeper, tmp_path: Path):
    log = tmp_path / "log"
    job.do("f = open('log', 'ab', 0); f.write(b'a' * 100_000)")
    checkpoint = keeper.take(job, between=lambda: job.do("f.write(b'tail')"))
    job.do("f.write(b'later')")
    assert data_of(checkpoint, log) == b"a" * 100_000 + b"tail"
    assert checkpoint.record(log).how is How.APPEND


def test_only_the_tail_of_a_log_is_copied_inside_the_freeze(job: Job, keeper: Keeper):
    job.do("f = open('log', 'ab', 0); f.write(b'a' * 3_000_000)")
    checkpoint = keeper.take(job, between=lambda: job.do("f.write(b'tail')"))
    assert checkpoint.capture.bytes_inside == 4


def test_a_known_prefix_of_a_log_is_not_stored_again(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('log', 'ab', 0); f.write(os.urandom(9_000_000))")
    first = keeper.take(job)
    job.do("f.write(b'x' * 1000)")
    keeper.put_bytes = 0
    second = keeper.take(job)
    assert keeper.put_bytes == second.capture.bytes_early == 1000
    assert second.capture.reused == {first.record(tmp_path / "log").parts[0].key}
    assert data_of(second, tmp_path / "log") == (tmp_path / "log").read_bytes()


def test_a_long_prefix_stays_in_its_file_and_is_not_staged(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('log', 'ab', 0); f.write(os.urandom(17 << 20))")
    checkpoint = keeper.take(job)
    assert keeper.put_bytes == 0
    assert data_of(checkpoint, tmp_path / "log") == (tmp_path / "log").read_bytes()
    (source,) = checkpoint.contents.values()
    job.do("f.seek(0); os.ftruncate(f.fileno(), 0); f.write(os.urandom(17 << 20))")
    with pytest.raises(Exception, match="changed before its checkpoint was stored"):
        list(source.pieces())


def test_many_small_tails_do_not_become_many_parts(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('log', 'ab', 0); f.write(os.urandom(5_000_000))")
    for _ in range(6):
        checkpoint = keeper.take(job, between=lambda: job.do("f.write(b'x' * 1000)"))
    assert len(checkpoint.record(tmp_path / "log").parts) <= 3
    assert data_of(checkpoint, tmp_path / "log") == (tmp_path / "log").read_bytes()


def test_a_log_rewritten_between_checkpoints_is_not_taken_for_grown(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('log', 'ab', 0); f.write(b'a' * 9_000_000)")
    keeper.take(job)
    job.do("f.truncate(0); f.write(b'b' + b'a' * 9_000_100)")
    second = keeper.take(job)
    assert data_of(second, tmp_path / "log") == b"b" + b"a" * 9_000_100


def test_a_long_log_rewritten_between_checkpoints_is_known_by_its_end(
    job: Job, keeper: Keeper, tmp_path: Path
):
    job.do("f = open('log', 'ab', 0); f.write(os.urandom(17 << 20))")
    keeper.take(job)
    job.do("f.truncate(0); f.write(os.urandom((17 << 20) + 100))")
    second = keeper.take(job)
    assert not second.capture.reused
    assert data_of(second, tmp_path / "log") == (tmp_path / "log").read_bytes()


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_log_rewritten_just_before_the_freeze_is_read_again(
    job: Job, keeper: Keeper, tmp_path: Path, size: int
):
    job.do(f"f = open('log', 'ab', 0); f.write(os.urandom({size}))")
    checkpoint = keeper.take(job, between=lambda: job.do(f"f.truncate(0); f.write(b'new' * {size})"))
    assert data_of(checkpoint, tmp_path / "log") == b"new" * size


def test_one_descriptor_without_o_append_makes_a_file_in_place(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('log', 'ab', 0); f.write(b'a' * 100_000); g = open('log', 'r+b', 0)")
    checkpoint = keeper.take(job, between=lambda: job.do("g.write(b'changed')"))
    assert checkpoint.record(tmp_path / "log").how is How.COPY
    assert data_of(checkpoint, tmp_path / "log") == b"changed" + b"a" * 99_993


@pytest.mark.usefixtures("settled_soon")
def test_stores_through_a_mapping_are_seen_though_times_stay(job: Job, keeper: Keeper, memory_disk: Path):
    path = memory_disk / "map"
    path.write_bytes(bytes(8192))
    job.do(f"f = open({str(path)!r}, 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); m[:]")
    age(path)
    keeper.take(job)
    before = path.stat()
    job.do("m[0:5] = b'first'")
    second = keeper.take(job)
    job.do("m[0:5] = b'secon'; m.close()")
    job.do(f"f = open({str(path)!r}, 'r+b')")
    third = keeper.take(job)
    after = path.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
    assert data_of(second, path)[:5] == b"first"
    assert data_of(third, path)[:5] == b"secon"


@pytest.mark.usefixtures("settled_soon")
def test_a_mapping_made_and_gone_between_checkpoints_is_not_overlooked(
    job: Job, keeper: Keeper, memory_disk: Path
):
    path = memory_disk / "map"
    path.write_bytes(bytes(8192))
    job.do(f"f = open({str(path)!r}, 'r+b')")
    age(path)
    keeper.take(job)
    before = path.stat()
    job.do("m = mmap.mmap(f.fileno(), 0); m[:]; m[0:5] = b'other'; m.close()")
    assert path.stat().st_ctime_ns == before.st_ctime_ns
    assert data_of(keeper.take(job), path)[:5] == b"other"


@pytest.mark.usefixtures("settled_soon")
def test_a_mapping_gone_since_the_last_checkpoint_still_makes_times_doubtful(
    job: Job, keeper: Keeper, tmp_path: Path
):
    path = tmp_path / "map"
    path.write_bytes(bytes(8192))
    job.do("f = open('map', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0:1] = b'x'")
    age(path)
    keeper.take(job)
    job.do("m[0:5] = b'other'; m.close()")
    assert data_of(keeper.take(job), path)[:5] == b"other"


@pytest.mark.usefixtures("settled_soon")
def test_a_mapped_file_is_copied_whatever_its_times_say(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('map', 'w+b', 0); f.truncate(4096)")
    age(tmp_path / "map")
    keeper.take(job)
    job.do("m = mmap.mmap(f.fileno(), 0)")
    assert keeper.take(job).record(tmp_path / "map").how is How.COPY


def test_mappings_are_found_without_privileges(public_folder: Path):
    name = str(public_folder / "odd\nname")
    Path(name).write_bytes(bytes(4096))
    Path(name).chmod(0o666)
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        with Path(name).open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0)
        os.setuid(65534)
        found = scan([os.getpid()], "/", [])
        os.write(write_end, repr([file.path for file in found.files.values() if file.mapped]).encode())
        mapping.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 10_000).decode() == repr([name])
    os.close(read_end)
    os.close(write_end)


def test_a_mapping_that_is_read_only_now_counts_if_it_may_become_writable(
    job: Job, keeper: Keeper, tmp_path: Path
):
    (tmp_path / "map").write_bytes(bytes(4096))
    job.do("f = open('map', 'r+b', 0); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()")
    assert keeper.take(job).record(tmp_path / "map").size == 4096


def test_files_only_read_are_left_alone(job: Job, keeper: Keeper, tmp_path: Path):
    (tmp_path / "input").write_bytes(bytes(4096))
    job.do("f = open('input', 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)")
    assert keeper.take(job).records == ()


def test_a_private_mapping_is_no_reason_to_capture(job: Job, keeper: Keeper, tmp_path: Path):
    (tmp_path / "input").write_bytes(bytes(4096))
    job.do("f = open('input', 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); m[0:1] = b'x'")
    assert keeper.take(job).records == ()


def test_a_file_opened_after_the_preparation_is_found(job: Job, keeper: Keeper, tmp_path: Path):
    checkpoint = keeper.take(job, between=lambda: job.do("f = open('late', 'wb', 0); f.write(b'late')"))
    assert data_of(checkpoint, tmp_path / "late") == b"late"


def test_an_unlinked_file_is_left_to_criu(job: Job, keeper: Keeper):
    job.do("f = open('gone', 'wb', 0); f.write(b'x'); os.unlink('gone')")
    checkpoint = keeper.take(job)
    assert checkpoint.records == ()
    assert not checkpoint.capture.inexact


def test_a_file_whose_open_name_is_gone_is_reported(job: Job, keeper: Keeper):
    job.do("f = open('one', 'wb', 0); f.write(b'x'); os.link('one', 'two'); os.unlink('one')")
    assert [Path(name).name for name in keeper.take(job).capture.inexact] == ["one"]


def test_a_file_of_two_names_and_descriptors_is_captured_once(job: Job, keeper: Keeper):
    job.do("f = open('one', 'wb', 0); f.write(b'x'); os.link('one', 'two'); g = open('two', 'ab')")
    assert len(keeper.take(job).records) == 1


def test_a_file_named_like_a_deleted_one_is_captured(job: Job, keeper: Keeper, tmp_path: Path):
    name = "odd\nname\\012 (deleted)"
    job.do(f"f = open({name!r}, 'w+b', 0); f.write(bytes(4096)); m = mmap.mmap(f.fileno(), 0); f.close()")
    assert keeper.take(job).record(tmp_path / name).size == 4096


@pytest.mark.usefixtures("settled_soon")
def test_an_unchanged_file_is_neither_read_nor_stored_again(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('file', 'w+b', 0); f.write(b'x' * 100_000)")
    age(tmp_path / "file")
    first = keeper.take(job)
    assert first.capture.bytes_inside == 0
    assert first.record(tmp_path / "file").how is How.UNCHANGED
    keeper.put_bytes = 0
    second = keeper.take(job)
    assert keeper.put_bytes == 0
    assert second.capture.reused == set(second.contents) == set(first.contents)


def test_a_write_in_the_tick_of_the_capture_is_not_missed(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('file', 'w+b', 0); f.write(b'x' * 100)")
    keeper.take(job)
    status = (tmp_path / "file").stat()
    job.do(
        f"f.seek(0); f.write(b'y' * 100); os.utime('file', ns=({status.st_atime_ns}, {status.st_mtime_ns}))"
    )
    assert data_of(keeper.take(job), tmp_path / "file") == b"y" * 100


@pytest.mark.usefixtures("settled_soon")
def test_a_content_that_can_no_longer_be_read_back_is_read_from_its_file(
    job: Job, keeper: Keeper, tmp_path: Path
):
    job.do(
        "f = open('file', 'w+b', 0); f.write(b'x' * 100); g = open('log', 'ab', 0); g.write(b'l' * 9_000_000)"
    )
    age(tmp_path / "file")
    keeper.take(job)
    keeper.previous = {}
    second = keeper.take(job)
    assert not second.capture.reused
    assert data_of(second, tmp_path / "file") == b"x" * 100
    assert data_of(second, tmp_path / "log") == b"l" * 9_000_000


@pytest.mark.usefixtures("settled_soon")
def test_what_was_read_early_counts_only_if_it_stayed(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('file', 'w+b', 0); f.write(b'x' * 100)")
    age(tmp_path / "file")
    checkpoint = keeper.take(job, between=lambda: job.do("f.seek(0); f.write(b'y' * 100)"))
    assert data_of(checkpoint, tmp_path / "file") == b"y" * 100


def test_past_the_limit_the_smallest_files_are_exact_and_the_others_named(job: Job, tmp_path: Path):
    keeper = Keeper(tmp_path, Journal(1000))
    job.do("f = open('big', 'wb', 0); f.write(b'x' * 900); g = open('small', 'wb', 0); g.write(b'x' * 600)")
    checkpoint = keeper.take(job)
    assert data_of(checkpoint, tmp_path / "small") == b"x" * 600
    assert checkpoint.capture.inexact == (str(tmp_path / "big"),)
    assert "--journal-limit" in checkpoint.capture.problems[0]
    assert not checkpoint.record(tmp_path / "big").exact


def test_names_that_are_not_utf8_survive(job: Job, keeper: Keeper, tmp_path: Path):
    name = os.fsdecode(b"caf\xe9")
    job.do("f = open(b'caf\\xe9', 'wb', 0); f.write(b'x')")
    assert data_of(keeper.take(job), tmp_path / name) == b"x"


def test_holes_are_not_stored(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('sparse', 'wb', 0); f.truncate(1 << 30); f.seek(1 << 29); f.write(b'middle')")
    checkpoint = keeper.take(job)
    assert sum(source.size for source in checkpoint.contents.values()) < 100_000
    assert len(checkpoint.record(tmp_path / "sparse").holes) == 2


def test_ckptruns_own_paths_are_ignored(job: Job, tmp_path: Path):
    keeper = Keeper(tmp_path, Journal(1000, ignore=[str(tmp_path / "own")], preserve=[str(tmp_path)]))
    job.do("os.mkdir('own'); f = open('own/file', 'wb')")
    assert [record.kind for record in keeper.take(job).records] == ["directory", "skipped"]


def test_files_are_found_in_the_jobs_own_mount_namespace(keeper: Keeper, tmp_path: Path):
    (tmp_path / "place").mkdir()
    job = Job(tmp_path, ("unshare", "--mount", "--"))
    try:
        job.do("import subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'inside', 'place'], check=True)")
        job.do("f = open('place/file', 'wb', 0); f.write(b'inside')")
        checkpoint = keeper.take(job)
    finally:
        job.kill()
    assert not (tmp_path / "place" / "file").exists()
    assert data_of(checkpoint, tmp_path / "place" / "file") == b"inside"


def test_a_large_file_is_cloned_where_the_filesystem_can(job: Job, keeper: Keeper, cloning_disk: Path):
    path = cloning_disk / "file"
    job.do(f"f = open({str(path)!r}, 'w+b', 0); f.write(b'x' * 5_000_000)")
    checkpoint = keeper.take(job)
    job.do("f.seek(0); f.write(b'y' * 5_000_000)")
    assert checkpoint.record(path).how is How.REFLINK
    assert (checkpoint.capture.bytes_inside, keeper.put_bytes) == (0, 0)
    assert data_of(checkpoint, path) == b"x" * 5_000_000
    assert [name.name for name in cloning_disk.iterdir()] == ["file"]


def test_what_put_raises_goes_through(job: Job, keeper: Keeper):
    def put(_pieces: object) -> BytesSource:
        raise MemoryError

    job.do("f = open('file', 'wb', 0); f.write(b'x')")
    prepared = keeper.journal.prepare(job.pids, keeper.put, {})
    with pytest.raises(MemoryError):
        keeper.journal.capture(prepared, job.pids, put)


def test_a_process_that_has_ended_is_passed_over(job: Job, keeper: Keeper, tmp_path: Path):
    job.do("f = open('file', 'wb', 0); f.write(b'x')")
    other = Job(tmp_path)
    other.kill()
    job.pids = [*other.pids, *job.pids]
    assert data_of(keeper.take(job), tmp_path / "file") == b"x"


def test_after_a_restore_a_long_log_is_not_read_again(job: Job, keeper: Keeper, tmp_path: Path, aside: Path):
    job.do("f = open('log', 'ab', 0); f.write(os.urandom(17 << 20))")
    first = keeper.take(job)
    job.kill()
    first.rollback(aside)
    keeper.journal = Journal(1 << 30)
    keeper.journal.resume(first.records)
    again = Job(tmp_path)
    try:
        again.do("f = open('log', 'ab', 0); f.write(b'x' * 1000)")
        second = keeper.take(again)
    finally:
        again.kill()
    assert second.capture.bytes_early == 1000
    assert data_of(second, tmp_path / "log") == (tmp_path / "log").read_bytes()


@pytest.mark.usefixtures("settled_soon")
def test_after_a_restore_times_prove_only_what_they_proved_before(
    job: Job, keeper: Keeper, memory_disk: Path, aside: Path
):
    path = memory_disk / "map"
    job.do(f"f = open({str(path)!r}, 'w+b', 0); f.truncate(4096); m = mmap.mmap(f.fileno(), 0)")
    first = keeper.take(job)
    job.kill()
    first.rollback(aside)
    age(path)
    keeper.journal.resume(first.records)
    again = Job(memory_disk)
    try:
        again.do("f = open('map', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[:]; m[0:5] = b'other'; m.close()")
        second = keeper.take(again)
    finally:
        again.kill()
    assert data_of(second, path)[:5] == b"other"
