"""What a checkpoint depends on: which build of each mapped file, and what of it this machine lacks."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.builds import another_build, library_of, without_build_id

from ckptrun.core.cpu import LEVELS
from ckptrun.errors import ConfigurationError, CorruptError, UnfitError
from ckptrun.supervisor import machine
from ckptrun.supervisor.binaries import Binaries, Build, Mapped, build_id
from ckptrun.supervisor.compat import Compat, check, gather
from ckptrun.supervisor.machine import Area, Cpu, read_cpu, read_gpu

V3, V4 = (tuple(sorted(LEVELS[name])) for name in ("x86-64-v3", "x86-64-v4"))
NARROW, WIDE = Area(0b111, 832, 832), Area(0b11100111, 2688, 2688)


@dataclass
class Fake:
    """A machine of choice."""

    architecture: str = "x86_64"
    kernel: str = "6.12.3-generic"
    criu: str = "4.2.1"
    cpu: Cpu = Cpu("GenuineIntel", "Old Xeon", (*V3, "xsavec"))  # noqa: RUF009 - frozen
    area: Area | None = NARROW
    gpu: str = ""


BIG = Fake(cpu=Cpu("AuthenticAMD", "New EPYC", (*V4, "xsavec")), area=WIDE)


def made_on(machine: Fake, **changes: object) -> Compat:
    """Return the facts of a checkpoint that was made there."""
    mapped = Mapped({}, gpu=bool(machine.gpu))
    found = gather(machine, mapped, apart=(), registers=0, portable="")  # type: ignore[arg-type]
    return replace(found, **changes)  # type: ignore[arg-type]


def refusal(compat: Compat, machine: Fake) -> str:
    with pytest.raises(UnfitError) as caught:
        check(compat, machine, Binaries())  # type: ignore[arg-type]
    return str(caught.value)


def notes(compat: Compat, machine: Fake) -> list[str]:
    return check(compat, machine, Binaries())  # type: ignore[arg-type]


# --- builds


def test_the_build_id_is_what_the_linker_wrote(tmp_path: Path):
    library = library_of(tmp_path)
    with library.open("rb") as file:
        first = build_id(file.fileno())
    assert len(first) == 40
    another_build(library)
    with library.open("rb") as file:
        assert build_id(file.fileno()) not in {"", first}


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF\x02\x01" + b"\xff" * 58])
def test_what_is_no_whole_elf_file_has_no_build_id(tmp_path: Path, content: bytes):
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert build_id(file.fileno()) == ""


def test_a_library_without_a_build_id_is_known_by_its_content(tmp_path: Path):
    library = library_of(tmp_path)
    without_build_id(library)
    first = Binaries().look(str(library), program=True)
    data = bytearray(library.read_bytes())
    data[-1] ^= 1
    library.write_bytes(data)
    second = Binaries().look(str(library), program=True)
    assert first is not None
    assert second is not None
    assert first.identity.startswith("blake3:")
    assert (first.size, first.identity) != (second.size, second.identity)
    assert first.size == second.size


def test_what_this_process_has_mapped_is_found_with_the_c_library(tmp_path: Path):
    library = library_of(tmp_path)
    ctypes.CDLL(str(library))
    data = tmp_path / "table\nof data.bin"
    data.write_bytes(b"x" * 5000)
    with data.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
        shared = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        found = Binaries().mapped([os.getpid()])
        shared.close()
        view.close()
    assert found.files[str(library)].identity.startswith("build-id:")
    assert found.files[str(data)].size == 5000
    assert str(Path(sys.executable).resolve()) in found.files
    assert not any(path.startswith(("/dev/", "[")) for path in found.files)
    libc = [build.libc for build in found.files.values() if build.libc]
    assert libc
    assert libc[0].split()[0] in {"glibc", "musl"}


def test_data_that_is_shared_with_a_writer_is_not_looked_at(tmp_path: Path):
    data = tmp_path / "shared.bin"
    data.write_bytes(b"x" * 5000)
    with data.open("rb") as file:
        shared = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        found = Binaries().mapped([os.getpid()])
        shared.close()
    assert str(data) not in found.files


def test_a_deleted_file_and_a_process_that_is_gone_are_passed_over(tmp_path: Path):
    library = library_of(tmp_path)
    ctypes.CDLL(str(library))
    library.unlink()
    found = Binaries().mapped([os.getpid(), 2**22 - 1])
    assert not any(str(tmp_path) in path for path in found.files)


def test_a_file_is_read_once_and_again_when_it_was_replaced(tmp_path: Path):
    library = library_of(tmp_path)
    binaries = Binaries()
    first = binaries.look(str(library), program=True)
    assert binaries.look(str(library), program=True) is first
    copy = tmp_path / "copy"
    shutil.copy2(library, copy)
    another_build(copy)
    copy.replace(library)
    second = binaries.look(str(library), program=True)
    assert second is not None
    assert first is not None
    assert second.identity != first.identity


# --- comparing


def test_the_machine_it_was_made_on_fits():
    assert notes(made_on(BIG), BIG) == []


def test_facts_survive_the_manifest(tmp_path: Path):
    files = {str(tmp_path / "a\udcff"): Build(3, "blake3:00"), "/lib/b": Build(4, "")}
    compat = made_on(BIG, files=files, registers=7, portable="x86-64-v2", libc="glibc 2.36")
    assert Compat.from_json(compat.to_json()) == compat
    assert Compat.from_json(None) == Compat()
    assert Compat.from_json({"kernel": "6.1"}).kernel == "6.1"
    with pytest.raises(CorruptError):
        Compat.from_json({"files": [["/x"]]})


def test_facts_that_are_not_known_refuse_nothing():
    assert notes(Compat(), Fake()) == []


def test_another_architecture_is_refused():
    assert "made on aarch64, this machine is x86_64" in refusal(made_on(Fake(architecture="aarch64")), Fake())


def test_missing_cpu_features_are_named_with_both_cpus_and_the_way_out():
    said = refusal(made_on(BIG), Fake())
    for word in ("avx512bw", "avx512vl", "Old Xeon", "New EPYC", "--portable-cpu x86-64-v3"):
        assert word in said
    assert "avx2" not in said


def test_a_portable_job_moves_to_the_narrower_cpu_and_back():
    assert notes(made_on(BIG, portable="x86-64-v3"), Fake()) == []
    assert notes(made_on(Fake(), portable="x86-64-v3"), BIG) == []


def test_a_portable_job_that_uses_wide_registers_all_the_same_is_refused():
    said = refusal(made_on(BIG, portable="x86-64-v3", registers=0b11100111), Fake())
    assert "avx512f registers" in said
    assert "--portable-cpu x86-64-v3 did not reach it" in said


def test_a_wider_cpu_is_said_or_refused_by_how_the_c_library_saves_registers():
    (note,) = notes(made_on(Fake()), BIG)
    assert "avx512f" in note
    old = Fake(cpu=Cpu("GenuineIntel", "Haswell", V3))
    assert "than the job's C library made room for" in refusal(made_on(old), BIG)


@pytest.mark.parametrize(
    ("there", "here", "fits"),
    [("4.2.1", "4.3", True), ("4.2.1", "4.2", True), ("4.3", "4.2.1", False), ("5.0", "4.9", False)],
)
def test_an_older_criu_is_refused(there: str, here: str, fits: bool):
    compat = made_on(Fake(criu=there))
    if fits:
        assert notes(compat, Fake(criu=here)) == []
    else:
        assert f"CRIU {here} may not know all they say; get a newer CRIU" in refusal(compat, Fake(criu=here))


def test_an_older_kernel_is_said_and_a_newer_one_is_not():
    compat = made_on(Fake(kernel="6.12.3-generic"))
    (note,) = notes(compat, Fake(kernel="6.9.0"))
    assert "older than the checkpoint's (6.12.3-generic)" in note
    assert notes(compat, Fake(kernel="6.12.1")) == notes(compat, Fake(kernel="7.0.0-rc1")) == []


def test_a_gpu_that_is_missing_is_refused_and_another_driver_said():
    compat = made_on(Fake(gpu="570.1"))
    assert "the job uses a GPU (driver 570.1)" in refusal(compat, Fake())
    assert "580.2" in notes(compat, Fake(gpu="580.2"))[0]


def test_files_that_differ_are_named_up_to_a_bound(tmp_path: Path):
    library = library_of(tmp_path)
    build = Binaries().look(str(library), program=True)
    assert build is not None
    gone = {str(tmp_path / f"gone{n}.so"): Build(1, "build-id:00") for n in range(7)}
    compat = made_on(BIG, files={str(library): build, **gone})
    said = refusal(compat, BIG)
    assert "7 of the 8 programs, libraries and data files" in said
    assert f"{tmp_path}/gone4.so is not here; and 2 more" in said
    assert str(library) not in said
    another_build(library)
    said = refusal(made_on(BIG, files={str(library): build}), BIG)
    assert f"{library} is another one (build-id {build.identity[9:21]} there" in said
    assert "put the same versions there" in said


def test_the_same_build_of_another_size_is_refused(tmp_path: Path):
    library = library_of(tmp_path)
    build = Binaries().look(str(library), program=True)
    assert build is not None
    with library.open("ab") as file:
        file.write(b"x")
    assert f"has {build.size + 1} bytes instead of {build.size}" in refusal(
        made_on(BIG, files={str(library): build}), BIG
    )


def test_files_that_travel_with_the_checkpoint_are_not_compared():
    mapped = Mapped({"/a": Build(1, ""), "/b": Build(2, "", "glibc 2.36")}, gpu=False)
    found = gather(BIG, mapped, apart={"/b"}, registers=3, portable="")  # type: ignore[arg-type]
    assert set(found.files) == {"/a"}
    assert found.summary() == {
        "cpu": "x86-64-v4",
        "cpu_model": "New EPYC",
        "portable_cpu": None,
        "architecture": "x86_64",
        "kernel": "6.12.3-generic",
        "criu": "4.2.1",
        "libc": "glibc 2.36",
        "gpu": None,
        "files": 1,
    }


# --- this machine


def test_cpuinfo_is_read_as_the_kernel_writes_it():
    text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
    text += "flags\t\t: sse2 avx2 smep\n\n"
    assert read_cpu(text + text.replace("avx2", "avx"), "x86_64") == Cpu(
        "AuthenticAMD", "AMD EPYC", ("avx2", "sse2")
    )
    arm = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n\n"
    assert read_cpu(arm, "aarch64") == Cpu("", "0x41", ("asimd", "fp", "sve"))


@pytest.mark.parametrize(
    ("flags", "level", "said"),
    [
        (
            " ".join(V3),
            "x86-64-v4",
            "above this CPU, a Xeon: it lacks avx512bw, avx512cd, .*choose x86-64-v3 or lower",
        ),
        ("mmx", "x86-64", "leave it out"),
        (" ".join(V3), "x86-64-v3", ""),
    ],
)
def test_a_level_above_this_cpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, level: str, said: str
):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: Xeon\nflags\t\t: {flags}\n\n")
    monkeypatch.setattr(machine, "CPUINFO", cpuinfo)
    monkeypatch.setattr(machine, "this_architecture", lambda: "x86_64")
    if said:
        with pytest.raises(ConfigurationError, match=said):
            machine.check_level(level)
    else:
        machine.check_level(level)


def test_a_level_says_nothing_about_another_architecture(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "this_architecture", lambda: "aarch64")
    with pytest.raises(ConfigurationError, match="which is aarch64"):
        machine.check_level("x86-64-v2")


def test_a_gpu_counts_only_with_its_driver_and_a_device(tmp_path: Path):
    assert read_gpu(tmp_path) == ""
    line = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build\nGCC version:\n"
    )
    (tmp_path / "version").write_text(line)
    (tmp_path / "gpus").mkdir()
    assert read_gpu(tmp_path) == ""
    (tmp_path / "gpus" / "0000:01:00.0").mkdir()
    assert read_gpu(tmp_path) == "570.124.06"
