"""The error about a full disk names the folder that is full, and the bytes that are missing where they are known."""

from __future__ import annotations

import errno
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import main
from tasks.caching.store import Store
from tasks.machine import space
from tasks.machine.durable import Series
from tests.support.disks import fill

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def temp_folder(disk: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A disk of 1 MiB as the folder for temporary files."""
    folder: Path = disk("1m")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_no_room_for_temporary_files_is_an_error_before_a_server_is_started(
    temp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(temp_folder, 8192)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for command in (["run", "quickstart", "--out", str(tmp_path / "out")], ["ui", "--out", str(tmp_path / "out")]):
        assert main(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert (
            f"the disk of {temp_folder} is full: only 8.19 kB of 1.05 MB are free and temporary files take at least"
            in line
        )
        assert (
            "1.05 MB, so 1.04 MB are missing; make room there or choose another folder for temporary files with" in line
        )
    assert not (tmp_path / "out").exists() and not (tmp_path / "prefect").exists()


def test_a_mistake_in_a_setting_is_not_blamed_on_a_full_disk(
    temp_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(temp_folder, 0)
    assert main(["show", "quickstart", "--set", "train.epochs=0"]) == 2
    assert capsys.readouterr().err.startswith("burnish: --set: train.epochs: 0 is for pretrained models")


def test_a_librarys_full_temporary_folder_is_not_blamed_on_the_artifacts_folder(
    temp_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(space.DiskFull) as raised, Store(tmp_path / "store").temporary():
        # As a library raises it. Its temporary files, which filled the disk, are removed by now.
        raise RuntimeError("No space left on device")
    assert f"the disk of {temp_folder} is full: only 1.05 MB" in str(raised.value)


def test_a_full_disk_in_the_stores_temporary_folder_names_the_artifacts_folder(disk: Any) -> None:
    out = disk("1m")
    with pytest.raises(space.DiskFull) as raised, space.watched(out / "store" / "tmp" / "0123456789abcdef"):
        fill(out, 0)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(raised.value).startswith(f"the disk of {out} is full: only 0 bytes of")


def test_a_copy_that_does_not_fit_says_how_many_bytes_are_missing(disk: Any, tmp_path: Path) -> None:
    folder, source = disk("1m"), tmp_path / "model.onnx"
    source.write_bytes(bytes(3_000_000))
    fill(folder, 500_000 // 4096 * 4096)
    with pytest.raises(space.DiskFull) as raised, space.watched(folder):
        shutil.copyfile(source, folder / "model.onnx")
    assert " and the file takes 3 MB, so 3 MB are missing; make room there" in str(raised.value)


def test_a_checkpoint_that_does_not_fit_says_how_many_bytes_are_missing(disk: Any) -> None:
    import torch

    folder = disk("1m")
    with pytest.raises(space.DiskFull) as raised:
        Series(folder, "training", ".pt").write(1, lambda file: torch.save(torch.zeros(1_000_000), file))
    assert " and the file takes 4 MB, so " in str(raised.value) and " MB are missing; make room" in str(raised.value)
