from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from journalkit import Checkpoint, Job, Keeper

from ckptrun.journal import Journal, Kind, listed, populate, rollback
from ckptrun.journal.trees import resolve


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def preserving(tmp_path: Path, *paths: Path, ignore: tuple[Path, ...] = ()) -> Keeper:
    return Keeper(tmp_path, Journal(1 << 30, preserve=list(map(str, paths)), ignore=list(map(str, ignore))))


def names(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


def test_a_private_tree_is_the_same_in_a_new_capsule(job: Job, tmp_path: Path, tree: Path):
    keeper = Keeper(tmp_path, Journal(0, private=[str(tree)]))
    job.do(
        "os.chdir('tree'); os.makedirs('pymp-1/deep', 0o700); open('pymp-1/deep/file', 'w').write('content')",
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('pymp-1/listener'); s.listen()",
        "os.mkfifo('fifo', 0o640); os.symlink('pymp-1/deep', 'symlink'); open('sem.mp-1', 'wb').write(bytes(32))",
        "os.link('sem.mp-1', 'link_remap.1'); os.chown('fifo', 1234, 5678); os.chmod('sem.mp-1', 0o600)",
        "f = open(b'caf\\xe9', 'wb', 0); f.truncate(1 << 25); f.seek(1 << 24); f.write(b'x')",
        "os.setxattr('pymp-1', 'user.kind', b'pool'); os.utime('pymp-1', ns=(5, 5))",
        "g = open('mapped', 'w+b'); g.truncate(4096); m = mmap.mmap(g.fileno(), 0); m[0:1] = b'm'",
    )
    checkpoint = keeper.take(job)
    job.do("m[0:1] = b'n'")
    root = tmp_path / "capsule"
    (root / str(tree)[1:]).mkdir(parents=True)
    for _ in range(2):  # the call can be repeated
        assert populate(checkpoint.records, checkpoint.contents.__getitem__, root) == ()
    made = root / str(tree)[1:]
    for name in names(tree) | {"."}:
        old, new = (tree / name).lstat(), (made / name).lstat()
        facts = ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_nlink")
        assert [getattr(old, fact) for fact in facts] == [getattr(new, fact) for fact in facts], name
    assert names(made) == names(tree)
    assert (made / "symlink").readlink() == Path("pymp-1/deep")
    assert (made / "pymp-1/deep/file").read_text() == "content"
    assert (made / "sem.mp-1").samefile(made / "link_remap.1")
    assert os.getxattr(made / "pymp-1", "user.kind") == b"pool"
    assert stat.S_ISSOCK((made / "pymp-1/listener").stat().st_mode)
    sparse = made / os.fsdecode(b"caf\xe9")
    assert sparse.stat().st_blocks * 512 < 1 << 20
    assert sparse.read_bytes() == (tree / sparse.name).read_bytes()
    assert (made / "mapped").read_bytes() == b"m" + bytes(4095)


def test_a_rollback_on_the_host_never_touches_a_private_tree(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    keeper = Keeper(tmp_path, Journal(0, private=[str(tree)]))
    job.do("f = open('tree/file', 'w'); f.write('x'); f.flush()")
    checkpoint = keeper.take(job)
    (tree / "file").write_text("the host's")
    (tree / "more").write_text("the host's")
    report = checkpoint.rollback(aside)
    assert not report.restored
    assert names(tree) == {"file", "more"}
    assert (tree / "file").read_text() == "the host's"


def test_a_private_tree_inside_a_preserved_one_stays_private(
    job: Job, tmp_path: Path, tree: Path, aside: Path
):
    (tree / "shm").mkdir()
    keeper = Keeper(tmp_path, Journal(1000, preserve=[str(tree)], private=[str(tree / "shm")]))
    checkpoint = keeper.take(job)
    (tree / "shm" / "host").write_text("the host's")
    checkpoint.rollback(aside)
    assert names(tree) == {"shm", "shm/host"}


def test_a_preserved_path_inside_a_private_tree_is_private(job: Job, tmp_path: Path, tree: Path, aside: Path):
    (tree / "file").write_text("x")
    keeper = Keeper(tmp_path, Journal(1000, preserve=[str(tree / "file")], private=[str(tree)]))
    checkpoint = keeper.take(job)
    assert {record.path: record.private for record in checkpoint.records} == {
        str(tree): True,
        str(tree / "file"): True,
    }
    (tree / "file").write_text("the host's")
    checkpoint.rollback(aside)
    assert (tree / "file").read_text() == "the host's"


def test_a_preserved_subtree_comes_back_as_a_whole(job: Job, tmp_path: Path, tree: Path, aside: Path):
    keeper = preserving(tmp_path, tree)
    (tree / "kept").mkdir()
    (tree / "kept/rewritten").write_text("recorded")
    (tree / "kept/deleted").write_text("recorded")
    before = (tree / "kept").stat().st_mtime_ns
    checkpoint = keeper.take(job)
    (tree / "kept/rewritten").write_text("modified")
    (tree / "kept/deleted").unlink()
    (tree / "new/inner").mkdir(parents=True)
    (tree / "new/inner/file").write_text("created")
    checkpoint.rollback(aside)
    assert names(tree) == {"kept", "kept/rewritten", "kept/deleted"}
    assert (tree / "kept/rewritten").read_text() == "recorded"
    assert (tree / "kept").stat().st_mtime_ns == before
    saved = {entry.path: (entry.reason, (aside / entry.id).read_text()) for entry in listed(aside)}
    assert saved == {
        str(tree / "kept/rewritten"): ("replaced", "modified"),
        str(tree / "new/inner/file"): ("not in the checkpoint", "created"),
    }


@pytest.mark.usefixtures("settled_soon")
def test_settled_files_of_a_preserved_tree_cost_nothing_inside_the_freeze(
    job: Job, tmp_path: Path, tree: Path
):
    (tree / "file").write_bytes(b"x" * 100_000)
    keeper = preserving(tmp_path, tree)
    while (checkpoint := keeper.take(job)).capture.bytes_inside:
        pass
    assert b"".join(
        checkpoint.contents[part.key].pieces().__next__() for part in checkpoint.record(tree / "file").parts
    )
    assert keeper.take(job).capture.bytes_early == 0


def test_a_preserved_path_not_made_yet_goes_away_again(job: Job, tmp_path: Path, aside: Path):
    checkpoint = preserving(tmp_path, tmp_path / "late").take(job)
    assert [record.kind for record in checkpoint.records] == [Kind.ABSENT]
    (tmp_path / "late").mkdir()
    (tmp_path / "late/file").write_text("created")
    checkpoint.rollback(aside)
    assert not (tmp_path / "late").exists()
    assert [entry.path for entry in listed(aside)] == [str(tmp_path / "late/file")]


def test_a_single_preserved_file_is_a_tree_of_one(job: Job, tmp_path: Path, aside: Path):
    (tmp_path / "file").write_text("recorded")
    checkpoint = preserving(tmp_path, tmp_path / "file").take(job)
    (tmp_path / "file").write_text("modified")
    checkpoint.rollback(aside)
    assert (tmp_path / "file").read_text() == "recorded"


def test_a_preserved_symlink_stands_for_what_it_points_to(job: Job, tmp_path: Path, tree: Path, aside: Path):
    (tree / "file").write_text("recorded")
    (tmp_path / "name").symlink_to("tree")
    checkpoint = preserving(tmp_path, tmp_path / "name").take(job)
    (tree / "file").write_text("modified")
    checkpoint.rollback(aside)
    assert (tree / "file").read_text() == "recorded"
    assert (tmp_path / "name").is_symlink()


def test_a_symlink_loop_is_reported_and_nothing_else_suffers(job: Job, tmp_path: Path, tree: Path):
    (tmp_path / "loop").symlink_to("loop")
    checkpoint = preserving(tmp_path, tmp_path / "loop", tree).take(job)
    assert checkpoint.capture.inexact == (str(tmp_path / "loop"),)
    assert [record.path for record in checkpoint.records] == [str(tree)]


def test_symlinks_are_resolved_inside_the_root(tmp_path: Path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/absolute").symlink_to("/a/b")
    (tmp_path / "a/up").symlink_to("../../../a/./absolute/missing")
    assert resolve(str(tmp_path), "/a/absolute/x") == "/a/b/x"
    assert resolve(str(tmp_path), "/a/up/y") == "/a/b/missing/y"


def test_what_the_tree_could_not_record_is_not_moved_aside(job: Job, tmp_path: Path, tree: Path):
    (tree / "own").mkdir()
    os.mknod(tree / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    checkpoint = preserving(tmp_path, tree, ignore=(tree / "own",)).take(job)
    (tree / "own/state").write_text("ckptrun's")
    checkpoint.rollback(tree / "aside")
    assert {"own", "own/state", "device", "aside"} <= names(tree)
    assert checkpoint.capture.inexact == (str(tree / "device"),)


def test_a_mount_inside_a_preserved_tree_belongs_to_it(
    job: Job, tmp_path: Path, small_disk: Path, aside: Path
):
    (small_disk / "file").write_text("recorded")
    checkpoint = preserving(tmp_path, tmp_path).take(job)
    (small_disk / "file").write_text("modified")
    (small_disk / "new").write_text("created")
    report = rollback(checkpoint.records, checkpoint.contents.__getitem__, aside=aside)
    assert not report.problems
    assert (small_disk / "file").read_text() == "recorded"
    assert names(small_disk) == {"file"}


def test_a_socket_that_is_gone_comes_back(job: Job, tmp_path: Path, tree: Path, aside: Path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tree / "listener"))
    checkpoint = preserving(tmp_path, tree).take(job)
    listener.close()
    (tree / "listener").unlink()
    checkpoint.rollback(aside)
    assert stat.S_ISSOCK((tree / "listener").stat().st_mode)


def test_append_only_files_in_a_tree_are_split_like_others(job: Job, tmp_path: Path, tree: Path):
    job.do("f = open('tree/log', 'ab', 0); f.write(b'x' * 500_000)")
    checkpoint: Checkpoint = preserving(tmp_path, tree).take(job, between=lambda: job.do("f.write(b'tail')"))
    assert checkpoint.capture.bytes_inside == 4
