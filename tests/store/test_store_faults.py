"""Stores that lose answers, ignore conditions, refuse, are full, or do not answer."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from storekit import (
    RUNNING,
    Place,
    Wrapped,
    acquire,
    commit,
    contents,
    expected,
    image,
    noise,
    owner,
    sample,
    snapshot,
)

from ckptrun.errors import (
    FencedError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnreachableError,
)
from ckptrun.store import s3
from ckptrun.store.backend import Backend, Versioned
from ckptrun.store.repository import Keep, Lineage, open_backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Flaky:
    """Loses the answers to writes of objects whose name contains ``fault``; they happened all the same."""

    def __init__(self, inner: Backend, error: type[StoreError] | None = None) -> None:
        self.fault = ""
        self.lost = 0
        self._error = error
        self._wrapped = Wrapped(inner, self._hook)
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if self._error is not None or name not in ("put_if_absent", "replace"):
            return found

        def twice(*args: Any) -> Any:  # what a client that tries again by itself does
            if self.fault and self.fault in args[0]:
                self.fault = ""
                self.lost += 1
                found(*args)
            return found(*args)

        return twice

    def _hook(self, operation: str, name: str, when: str) -> None:
        if self._error and when == "after" and self.fault and self.fault in name:
            self.fault = ""
            self.lost += 1
            raise self._error(f"no answer to {operation} {name}")


@pytest.mark.parametrize("fault", ["packs/", "manifests/", "HEAD"])
def test_a_write_repeated_by_the_client_is_known_as_ones_own(place: Place, fault: str):
    backend = Flaky(place.open())
    lineage = Lineage(backend, "train", None)  # type: ignore[arg-type]
    writer = acquire(lineage)
    prepared = writer.put(sample("c0", 5), frozen_seconds=0) if fault == "HEAD" else None
    backend.fault = fault
    record = writer.commit(prepared, keep=Keep()) if prepared else commit(writer, sample("c0", 5))
    assert backend.lost == 1
    writer.renew()
    assert lineage.checkpoints() == (record,)
    assert contents(lineage.load(record)) == expected(sample("c0", 5))


def test_a_first_head_repeated_by_the_client_is_known_as_ones_own(place: Place):
    backend = Flaky(place.open())
    backend.fault = "train/HEAD"
    writer = acquire(Lineage(backend, "train", None))  # type: ignore[arg-type]
    assert backend.lost == 1
    writer.renew()


class Repeating:
    """Does every write twice, as a client does by itself whose answers are lost."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("put_if_absent", "replace"):
            return found

        def twice(*args: Any) -> Any:
            found(*args)
            return found(*args)

        return twice


def test_a_lineage_is_made_and_taken_through_a_client_that_repeats_every_write(place: Place):
    lineage = Lineage(Repeating(place.open()), "train", None)  # type: ignore[arg-type]
    record = commit(acquire(lineage), sample("c1"))
    acquire(Lineage(Repeating(place.open()), "train", None), take_over=True)  # type: ignore[arg-type]
    assert lineage.checkpoints() == (record,)


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_change(place: Place):
    backend = Flaky(place.open(), StoreUnreachableError)
    lineage = Lineage(backend, "train", None)  # type: ignore[arg-type]
    writer = acquire(lineage)
    prepared = writer.put(sample("c1"), frozen_seconds=0)
    backend.fault = "HEAD"
    with pytest.raises(StoreUnreachableError):
        writer.commit(prepared, keep=Keep())
    writer.renew()
    assert [record.id for record in lineage.checkpoints()] == ["c1"]
    again = commit(writer, sample("c1"))  # the caller cannot know, and tries again
    assert lineage.checkpoints() == (again,)
    assert contents(lineage.load(again)) == expected(sample("c1"))


def test_a_lost_answer_does_not_hide_a_take_over(place: Place):
    backend = Flaky(place.open(), StoreUnreachableError)
    writer = acquire(Lineage(backend, "train", None))  # type: ignore[arg-type]
    backend.fault = "HEAD"
    with pytest.raises(StoreUnreachableError):
        writer.renew()
    acquire(Lineage(place.open(), "train", None), take_over=True)
    with pytest.raises(FencedError):
        writer.renew()


class Careless:
    """A store that ignores a condition."""

    def __init__(self, inner: Backend, condition: str) -> None:
        self._inner = inner
        self._condition = condition

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_if_absent(self, name: str, data: bytes) -> None:
        if self._condition == "If-None-Match":
            self._inner.delete(name)
        self._inner.put_if_absent(name, data)

    def replace(self, name: str, data: bytes, expected: str | None) -> str:
        if expected is not None and self._condition == "If-Match":
            expected = next(self._inner.read(name)).version
        if expected is None and self._condition == "If-None-Match on HEAD":
            expected = next((found.version for found in self._inner.read(name)), None)
        return self._inner.replace(name, data, expected)


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match", "If-None-Match on HEAD"])
def test_a_store_that_ignores_a_condition_is_refused(place: Place, condition: str):
    backend = Careless(place.open(), condition)
    with pytest.raises(
        StoreRefusedError, match=rf"{condition.split(' on ', maxsplit=1)[0]}.*two writers.*use a store with"
    ):
        acquire(Lineage(backend, "train", None))  # type: ignore[arg-type]
    assert not Lineage(place.open(), "train", None).exists()


class Forgetful(Careless):
    """A store that returns old bytes."""

    def read(self, name: str) -> Iterator[Versioned]:
        for found in self._inner.read(name):
            yield Versioned(b"1", found.version)


def test_a_store_that_returns_old_bytes_is_refused(directory: Place):
    with pytest.raises(StoreRefusedError, match="written last"):
        acquire(Lineage(Forgetful(directory.open(), ""), "train", None))  # type: ignore[arg-type]


def test_the_probe_leaves_nothing_behind(place: Place):
    acquire(Lineage(place.open(), "train", None)).release()
    assert list(place.open().names(".ckptrun-probe")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=False).returncode
    ):
        pytest.skip("cannot mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_named_and_room_made_cures_it(small_disk: Path):
    backend = open_backend(f"file://{small_disk}/store")
    lineage = Lineage(backend, "train", None)
    writer = acquire(lineage)
    commit(writer, snapshot("c1", image("a.img", noise(100_000, 1))))
    big = snapshot("c2", image("a.img", noise(3_000_000, 2)))
    with pytest.raises(
        StoreFullError, match=rf"cannot write {small_disk}/store/train/packs/.*No space left.*--keep"
    ):
        commit(writer, big)
    writer.renew()
    assert [record.id for record in lineage.checkpoints()] == ["c1"]
    assert not list(small_disk.rglob(".tmp*"))
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    record = commit(writer, big)
    assert contents(lineage.load(record)) == expected(big)


def test_a_disk_full_at_every_moment_of_a_commit_loses_nothing(
    directory: Place, monkeypatch: pytest.MonkeyPatch
):
    lineage = Lineage(directory.open(), "train", None)
    writer = acquire(lineage)
    commit(writer, sample("c0"))
    real = os.write
    for moment in range(40):
        left = moment

        def write(fd: int, data: bytes) -> int:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, data)

        monkeypatch.setattr("ckptrun.store.localfs.os.write", write)
        try:
            commit(writer, sample(f"c{moment + 1}", moment), keep=2)
        except StoreFullError:
            failed = True
        else:
            failed = False
        monkeypatch.setattr("ckptrun.store.localfs.os.write", real)
        for record in lineage.checkpoints():
            assert lineage.verify(record, quick=False).bad == ()
        if not failed:
            break
    assert moment >= 3
    assert not failed


def test_a_read_only_directory_is_refused_for_writing_and_can_be_read(small_disk: Path):
    backend = open_backend(f"file://{small_disk}/store")
    lineage = Lineage(backend, "train", None)
    writer = acquire(lineage)
    record = commit(writer, snapshot("c1", image("a.img", noise(100_000))))
    writer.close(RUNNING)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreRefusedError, match=r"Read-only file system.*another --store"):
        acquire(lineage)
    assert lineage.checkpoints() == (record,)
    assert lineage.verify(record, quick=False).bad == ()


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="store"):
        acquire(Lineage(open_backend(f"file://{tmp_path}/store"), "train", None))


def test_credentials_that_may_only_read_are_refused_for_writing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    server = request.getfixturevalue("s3_server")
    for name, value in (
        server.env | {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}
    ).items():
        monkeypatch.setenv(name, value)
    backend = open_backend(f"{server.url}/read-only", s3_endpoint_url=server.endpoint)
    with pytest.raises(StoreRefusedError, match=r"s3://checkpoints/read-only/.*AccessDenied.*credentials"):
        acquire(Lineage(backend, "train", None))
    assert not Lineage(backend, "train", None).exists()


def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with socket.socket() as taken:  # bound and not listening: refuses
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        backend = open_backend("s3://bucket/x", s3_endpoint_url=endpoint)
        with pytest.raises(StoreUnreachableError, match=rf"s3://bucket/x/.*{endpoint}.*check the endpoint"):
            acquire(Lineage(backend, "train", None))


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    backend = open_backend("s3://bucket/x", s3_endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StoreRefusedError, match="AWS_ACCESS_KEY_ID"):
        acquire(Lineage(backend, "train", None))


def test_an_unknown_profile_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody-has-this")
    with pytest.raises(StoreRefusedError, match=r"nobody-has-this.*AWS_PROFILE"):
        open_backend("s3://bucket/x", s3_endpoint_url="http://127.0.0.1:1")


def test_a_failed_upload_leaves_no_chunk_that_counts_as_known(place: Place):
    def fail(_: str, name: str, when: str) -> None:
        if broken and "/packs/" in name and when == "before":
            raise StoreUnreachableError("gone")

    broken = True
    lineage = Lineage(Wrapped(place.open(), fail), "train", None)  # type: ignore[arg-type]
    writer = acquire(lineage, owner())
    with pytest.raises(StoreUnreachableError):
        writer.put(sample("c1"), frozen_seconds=0)
    broken = False
    record = commit(writer, sample("c1"))
    assert contents(lineage.load(record)) == expected(sample("c1"))
    assert record.new_bytes > 0
