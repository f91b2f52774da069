"""An encrypted lineage shows nothing, and opens to its key only."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3
from storekit import RUNNING, Place, acquire, commit, contents, expected, image, key_file, sample, snapshot

from ckptrun.errors import ConfigurationError, CorruptError, WrongKeyError
from ckptrun.store import pack
from ckptrun.store.keys import make_format
from ckptrun.store.repository import KeySource, Lineage

if TYPE_CHECKING:
    from pathlib import Path

    from ckptrun.core.model import Snapshot

SECRET = b"the launch code is 0000 "


def secretive() -> Snapshot:
    return snapshot("c1", image("mm-1.img", SECRET * 1000), files=[("f-1", SECRET)], note=SECRET.decode())


def objects(place: Place) -> dict[str, bytes]:
    """Return every object of lineage ``train``."""
    backend = place.open()
    names = [
        name for folder in ("packs", "manifests", "keys") for name, _ in backend.names(f"train/{folder}")
    ]
    found = {name: backend.get(name) for name in [*names, "train/FORMAT"]}
    return found | {f"train/HEAD {n}": version.data for n, version in enumerate(backend.read("train/HEAD"))}


def test_nothing_of_the_content_or_the_command_can_be_read(place: Place, tmp_path: Path):
    writer = acquire(Lineage(place.open(), "train", key_file(tmp_path)))
    writer.set_run(RUNNING)
    commit(writer, secretive())
    for name, data in objects(place).items():
        for word in (SECRET[:12], b"train.py", b"mm-1.img", b"ann"):
            assert word not in data.replace(b"train/", b""), name


def test_ids_of_chunks_do_not_tell_their_content(directory: Place, tmp_path: Path):
    for name, key in (("plain", None), ("train", key_file(tmp_path))):
        commit(acquire(Lineage(directory.open(), name, key)), snapshot("c1", image("a.img", SECRET)))
    plain_id = blake3(SECRET).digest()
    backend = directory.open()
    ids = {}
    for name in ("plain", "train"):
        [(at, _)] = backend.names(f"{name}/packs")
        ids[name] = [record.chunk for record in pack.walk(backend.get(at))]
    assert ids["plain"] == [plain_id]
    assert ids["train"] != [plain_id]


def test_the_same_content_is_never_encrypted_the_same_way_twice(directory: Place, tmp_path: Path):
    backend = directory.open()
    stored = []
    key = key_file(tmp_path)
    lineage = Lineage(backend, "train", key)
    writer = acquire(lineage)
    for name in ("c1", "c2"):
        record = commit(writer, snapshot(name, image("a.img", SECRET)), keep=1)
        [(at, _)] = lineage.load(record).manifest.packs
        [one] = pack.walk(backend.get(f"train/packs/{at}"))
        stored.append((one.chunk, one.stored))
        writer.drop([name], "to store it anew")
    assert stored[0][0] == stored[1][0]
    assert stored[0][1] != stored[1][1]


@pytest.mark.parametrize("kind", ["no key", "other file", "passphrase"])
def test_another_key_does_not_open_it(place: Place, tmp_path: Path, kind: str):
    commit(acquire(Lineage(place.open(), "train", key_file(tmp_path))), sample("c1"))
    other = {
        "no key": None,
        "other file": key_file(tmp_path, 2),
        "passphrase": KeySource(passphrase="guess"),
    }[kind]
    lineage = Lineage(place.open(), "train", other)
    assert lineage.exists()
    for use in (lineage.head, lineage.checkpoints, lambda: acquire(lineage)):
        with pytest.raises(WrongKeyError, match="--key-file or CKPTRUN_PASSPHRASE"):
            use()


@pytest.mark.usefixtures("quick_passphrases")
def test_a_wrong_passphrase_does_not_open_it(directory: Place):
    acquire(Lineage(directory.open(), "train", KeySource(passphrase="correct horse"))).release()
    with pytest.raises(WrongKeyError, match="passphrase does not open lineage 'train'"):
        Lineage(directory.open(), "train", KeySource(passphrase="Correct horse")).head()


def test_a_key_for_a_plain_lineage_is_refused(place: Place, tmp_path: Path):
    acquire(Lineage(place.open(), "train", None)).release()
    with pytest.raises(ConfigurationError, match="not encrypted"):
        Lineage(place.open(), "train", key_file(tmp_path)).head()


def test_a_weak_or_absent_key_file_is_refused(directory: Place, tmp_path: Path):
    short = tmp_path / "short"
    short.write_bytes(b"x" * 31)
    for path, word in ((short, "31 bytes"), (tmp_path / "nope", "No such file")):
        with pytest.raises(ConfigurationError, match=word):
            acquire(Lineage(directory.open(), "train", KeySource(key_file=path)))
    with pytest.raises(ConfigurationError, match="either"):
        acquire(Lineage(directory.open(), "train", KeySource()))


def test_the_passphrase_shows_in_no_repr():
    assert "hunter2" not in repr(KeySource(passphrase="hunter2"))


def test_objects_of_another_lineage_do_not_open_even_with_the_same_key(directory: Place, tmp_path: Path):
    key = key_file(tmp_path)
    assert directory.folder is not None
    for name in ("train", "other"):
        commit(acquire(Lineage(directory.open(), name, key)), sample("c1"))
    shutil.rmtree(directory.folder / "train" / "manifests")
    shutil.copytree(directory.folder / "other" / "manifests", directory.folder / "train" / "manifests")
    lineage = Lineage(directory.open(), "train", key)
    with pytest.raises(CorruptError, match="manifests/00000001-c1"):
        lineage.load(lineage.checkpoints()[0])


def test_manifests_and_chunks_do_not_open_in_each_others_place(directory: Place, key: KeySource | None):
    lineage = Lineage(directory.open(), "train", key)
    writer = acquire(lineage)
    records = [commit(writer, snapshot(name, image("a.img", name.encode() * 99))) for name in ("c1", "c2")]
    assert directory.folder is not None
    for kind in ("manifests", "packs"):
        first, second = sorted((directory.folder / "train" / kind).iterdir())
        good = first.read_bytes(), second.read_bytes()
        first.write_bytes(good[1])
        second.write_bytes(good[0])
        again = Lineage(directory.open(), "train", key)
        for record in records:
            with pytest.raises(CorruptError):
                contents(again.load(record))
        first.write_bytes(good[0])
        second.write_bytes(good[1])
    assert all(lineage.verify(record, quick=False).bad == () for record in records)


def test_a_lineage_renamed_in_the_store_does_not_open(directory: Place, tmp_path: Path):
    key = key_file(tmp_path)
    commit(acquire(Lineage(directory.open(), "train", key)), sample("c1"))
    assert directory.folder is not None
    (directory.folder / "train").rename(directory.folder / "other")
    with pytest.raises(WrongKeyError):
        Lineage(directory.open(), "other", key).head()


def test_a_lineage_begun_by_a_killed_process_can_be_begun_again(place: Place, tmp_path: Path):
    make_format(place.open(), "train", encrypted=True)
    lineage = Lineage(place.open(), "train", key_file(tmp_path))
    record = commit(acquire(lineage), sample("c1"))
    assert contents(lineage.load(record)) == expected(sample("c1"))
