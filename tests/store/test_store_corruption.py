"""Whatever is altered, cut off or missing is found, named, and costs no other checkpoint."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from storekit import Place, acquire, commit, contents, expected, image, key_file, noise, sample, snapshot

from ckptrun.errors import CkptrunError, CorruptError, StoreRefusedError, WrongKeyError
from ckptrun.store.repository import Lineage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptrun.store.backend import Backend
    from ckptrun.store.repository import KeySource


def flip(position: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(position * (len(data) - 1))] ^= 0x10
        path.write_bytes(data)

    damage.__name__ = f"flip-{position}"
    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


DAMAGES = [flip(0.0), flip(0.001), flip(0.5), flip(1.0), truncate, empty, remove]
each_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)


def only(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


@each_damage
def test_a_damaged_pack_is_found(directory: Place, key: KeySource | None, damage: Callable[[Path], None]):
    lineage = Lineage(directory.open(), "train", key)
    record = commit(
        acquire(lineage), snapshot("c1", image("a.img", noise(500_000)), image("b.img", noise(999)))
    )
    assert directory.folder is not None
    path = only(directory.folder / "train" / "packs")
    damage(path)
    again = Lineage(directory.open(), "train", key)
    if damage.__name__ != "flip-0.0":  # the pack's own magic number protects nothing
        with pytest.raises(CorruptError, match=str(path)):
            contents(again.load(record))
        report = again.verify(record, quick=False)
        assert any(str(path) in text for text in report.bad)
    if damage in (truncate, empty, remove):
        assert any(str(path) in text for text in again.verify(record, quick=True).bad)


@each_damage
def test_a_damaged_manifest_is_found(directory: Place, key: KeySource | None, damage: Callable[[Path], None]):
    lineage = Lineage(directory.open(), "train", key)
    record = commit(acquire(lineage), sample("c1"))
    assert directory.folder is not None
    path = only(directory.folder / "train" / "manifests")
    damage(path)
    again = Lineage(directory.open(), "train", key)
    with pytest.raises(CorruptError, match=str(path)):
        again.load(record)
    assert str(path) in again.verify(record, quick=True).bad[0]


def test_every_byte_of_a_small_manifest_is_protected(directory: Place, key: KeySource | None):
    lineage = Lineage(directory.open(), "train", key)
    record = commit(acquire(lineage), snapshot("c1", image("a.img", b"x")))
    assert directory.folder is not None
    path = only(directory.folder / "train" / "manifests")
    good = path.read_bytes()
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        with pytest.raises(CorruptError):
            lineage.load(record)
    path.write_bytes(good)
    lineage.load(record)


def newest_head(place: Place) -> Path:
    assert place.folder is not None
    return max((place.folder / "train").glob("HEAD.*"), key=lambda path: int(path.suffix[1:]))


@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda d: d.__name__)  # a removed one is an older HEAD
def test_a_damaged_newest_head_costs_no_earlier_checkpoint(
    directory: Place, tmp_path: Path, key: KeySource | None, damage: Callable[[Path], None]
):
    seen = tmp_path / "seen"
    lineage = Lineage(directory.open(), "train", key, seen)
    writer = acquire(lineage)
    for i in range(3):
        commit(writer, sample(f"c{i}", i))
    path = newest_head(directory)
    damage(path)

    again = Lineage(directory.open(), "train", key, seen)
    head = again.head()
    assert head is not None
    assert "cannot be read; using the one before" in head.warnings[0]
    assert str(path.with_suffix("")) in head.warnings[0]
    assert [record.id for record in head.checkpoints] == ["c1", "c0"]
    assert contents(again.load(head.checkpoints[0])) == expected(sample("c1", 1))

    new = acquire(again, take_over=True)
    assert new.epoch > 1
    record = commit(new, sample("c9", 9))
    assert [r.id for r in again.checkpoints()] == ["c9", "c1", "c0"]
    assert again.head().warnings == ()  # type: ignore[union-attr]
    assert contents(again.load(record)) == expected(sample("c9", 9))


def test_no_valid_head_is_said_and_nothing_is_overwritten(directory: Place, key: KeySource | None):
    lineage = Lineage(directory.open(), "train", key)
    commit(acquire(lineage), sample("c1"))
    assert directory.folder is not None
    for path in (directory.folder / "train").glob("HEAD.*"):
        truncate(path)
    for use in (lineage.head, lambda: acquire(lineage)):
        with pytest.raises(CorruptError, match="train/HEAD cannot be read"):
            use()
    assert len(list((directory.folder / "train" / "packs").iterdir())) == 1


def test_a_damaged_head_in_a_bucket_is_found(place: Place, tmp_path: Path):
    key = key_file(tmp_path)
    lineage = Lineage(place.open(), "train", key)
    commit(acquire(lineage), sample("c1"))
    backend = place.open()
    for _ in range(9):  # more than a directory keeps
        newest = next(backend.read("train/HEAD"))
        backend.replace("train/HEAD", newest.data[:-1] + b"?", newest.version)
    with pytest.raises(CorruptError, match="train/HEAD cannot be read"):
        lineage.head()


def test_an_older_head_in_its_place_is_noticed(place: Place, tmp_path: Path, key: KeySource | None):
    lineage = Lineage(place.open(), "train", key, tmp_path / "seen")
    writer = acquire(lineage)
    commit(writer, sample("c1"))
    backend = place.open()
    old = next(backend.read("train/HEAD"))
    commit(writer, sample("c2"))
    newest = next(backend.read("train/HEAD"))
    backend.replace("train/HEAD", old.data, newest.version)

    again = Lineage(place.open(), "train", key, tmp_path / "seen")
    for use in (again.head, lambda: acquire(again)):
        with pytest.raises(
            CorruptError, match=r"older \(epoch 1, checkpoint 1\).*checkpoint 2.*remove .*seen"
        ):
            use()
    elsewhere = Lineage(place.open(), "train", key, tmp_path / "not-seen-here")
    assert [record.id for record in elsewhere.checkpoints()] == ["c1"]


def test_a_head_that_is_gone_is_noticed(place: Place, tmp_path: Path):
    lineage = Lineage(place.open(), "train", None, tmp_path / "seen")
    commit(acquire(lineage), sample("c1"))
    place.open().discard("train/HEAD")
    with pytest.raises(CorruptError, match="is gone"):
        acquire(Lineage(place.open(), "train", None, tmp_path / "seen"))


def test_a_lineage_removed_and_begun_anew_is_another_one(directory: Place, tmp_path: Path):
    lineage = Lineage(directory.open(), "train", None, tmp_path / "seen")
    commit(acquire(lineage), sample("c1"))
    assert directory.folder is not None
    shutil.rmtree(directory.folder)
    again = Lineage(directory.open(), "train", None, tmp_path / "seen")
    assert again.head() is None
    assert commit(acquire(again), sample("c1")).seq == 1


def test_a_format_of_a_later_version_is_refused(place: Place):
    value = {"format": "ckptrun", "version": 2, "uid": "x", "encryption": "none", "cell_size": 65536}
    place.open().prepare()
    place.open().put_if_absent("train/FORMAT", json.dumps(value).encode())
    lineage = Lineage(place.open(), "train", None)
    for use in (lineage.head, lambda: acquire(lineage)):
        with pytest.raises(StoreRefusedError, match="version 2, this ckptrun knows 1; upgrade ckptrun"):
            use()


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"version": 1, "cell_size": 4096}'])
def test_a_format_that_makes_no_sense_is_found(directory: Place, text: bytes):
    directory.open().prepare()
    directory.open().put_if_absent("train/FORMAT", text)
    with pytest.raises(CorruptError, match="FORMAT"):
        Lineage(directory.open(), "train", None).head()


@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda d: d.__name__)
def test_a_damaged_format_is_found(directory: Place, key: KeySource | None, damage: Callable[[Path], None]):
    commit(acquire(Lineage(directory.open(), "train", key)), sample("c1"))
    assert directory.folder is not None
    path = directory.folder / "train" / "FORMAT"
    damage(path)
    with pytest.raises(CorruptError, match=str(path)):
        Lineage(directory.open(), "train", key).head()


def test_a_lineage_with_checkpoints_and_no_head_is_not_begun_anew(place: Place):
    commit(acquire(Lineage(place.open(), "train", None)), sample("c1"))
    place.open().discard("train/HEAD")
    with pytest.raises(CorruptError, match="HEAD is gone"):
        acquire(Lineage(place.open(), "train", None))


def test_a_commit_while_another_thread_reads_is_no_older_head(directory: Place, tmp_path: Path):
    lineage = Lineage(directory.open(), "train", None, tmp_path / "seen")
    writer = acquire(lineage)
    problems: list[Exception] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                lineage.checkpoints()
            except CorruptError as error:
                problems.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for i in range(30):
        commit(writer, snapshot(f"c{i}", image("a.img", b"x")))
    stop.set()
    thread.join()
    assert problems == []


@each_damage
def test_a_damaged_key_slot_is_no_wrong_key(directory: Place, tmp_path: Path, damage: Callable[[Path], None]):
    key = key_file(tmp_path)
    acquire(Lineage(directory.open(), "train", key)).release()
    assert directory.folder is not None
    damage(directory.folder / "train" / "keys" / "0")
    with pytest.raises(CkptrunError, match="key slot") as caught:
        Lineage(directory.open(), "train", key).head()
    assert not isinstance(caught.value, WrongKeyError)


@pytest.mark.parametrize("damage", [truncate, remove], ids=["truncate", "remove"])
def test_a_new_writer_does_not_build_on_a_pack_that_is_damaged(
    directory: Place, key: KeySource | None, damage: Callable[[Path], None]
):
    writer = acquire(Lineage(directory.open(), "train", key))
    commit(writer, sample("c1"))
    writer.release()
    assert directory.folder is not None
    damage(only(directory.folder / "train" / "packs"))
    lineage = Lineage(directory.open(), "train", key)
    record = commit(acquire(lineage), sample("c2"))
    assert contents(lineage.load(record)) == expected(sample("c2"))


def test_an_unreadable_manifest_stops_the_burial_of_packs(directory: Place):
    writer = acquire(Lineage(directory.open(), "train", None))
    commit(writer, snapshot("c1", image("a.img", noise(9999, 1))))
    commit(writer, snapshot("c2", image("a.img", noise(9999, 2))))
    writer.release()
    assert directory.folder is not None
    (directory.folder / "train" / "manifests" / "00000002-c2").write_bytes(b"")
    lineage = Lineage(directory.open(), "train", None)
    commit(acquire(lineage), snapshot("c3", image("a.img", noise(9999, 3))), keep=2)
    head = lineage.head()
    assert head is not None
    assert [record.id for record in head.checkpoints] == ["c3", "c2"]
    assert head.tombstones == ()


class Tearing:
    """Damages what is read of objects whose name contains ``fault``, so many times."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.fault = ""
        self.times = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, name: str) -> bytes:
        return self._torn(name, self._inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._torn(name, self._inner.get_range(name, offset, length))

    def _torn(self, name: str, data: bytes) -> bytes:
        if not self.fault or self.fault not in name or not self.times:
            return data
        self.times -= 1
        return bytes(byte ^ 0x55 for byte in data)


@pytest.mark.parametrize("fault", ["packs/", "manifests/"])
def test_what_is_damaged_on_the_way_is_read_once_more(directory: Place, key: KeySource | None, fault: str):
    backend = Tearing(directory.open())
    record = commit(acquire(Lineage(backend, "train", key)), sample("c1"))  # type: ignore[arg-type]
    lineage = Lineage(backend, "train", key)  # type: ignore[arg-type]
    lineage.checkpoints()
    backend.fault, backend.times = fault, 1
    assert contents(lineage.load(record)) == expected(sample("c1"))
    assert not backend.times
    backend.times = 1000
    with pytest.raises(CorruptError, match="is damaged"):
        contents(Lineage(backend, "train", key).load(record))  # type: ignore[arg-type]
