"""A full disk while `profile` and `deploy` write: one line with the folder that was named, exit code 1, nothing is
left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flows.cli import main
from tasks.caching.work import Work
from tasks.machine import space
from tasks.records import Data
from tests.support.digits import digits
from tests.support.models import onnx_file
from tests.support.servers import FinishedRun

if TYPE_CHECKING:
    from pathlib import Path


def told(command: list[str], folder: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    # as it was when there was no room, not when what was written is removed
    full = "is full: only 0 bytes of"
    assert line.startswith(f"burnish: the disk of {folder} {full} ")
    assert f"; make room there or choose another folder with {option}, and the same command goes on" in line


@pytest.mark.parametrize("size", ["16k", "100k"])
def test_profile(disk: Any, size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx_file(tmp_path / "model.onnx")
    folder = disk(size)
    told(
        ["profile", str(model), "--queries", "100", "--out", str(folder / "out")],
        folder / "out" / "profiles",
        "--out",
        capsys,
    )
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_deploy(disk: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    work = Work.at(out, "deploy")
    FinishedRun(out, work, digits(work, 60), Data(source="digits"))
    folder = disk("64k")
    told(["deploy", "--to", str(folder / "served"), "--out", str(out)], folder / "served", "--to", capsys)
    assert not list(folder.iterdir())


def test_what_a_library_said_is_whole_words_without_its_class(disk: Any) -> None:
    folder = disk("64k")
    (folder / "filling").write_bytes(bytes(65536))
    with pytest.raises(space.DiskFull) as caught, space.watched(folder / ".tmp-1234" / "inner"):
        raise RuntimeError("word " * 100)
    line = str(caught.value)
    assert line.startswith(f"the disk of {folder} is full: only 0 bytes of 65.5 kB are free;")
    assert line.endswith("; the error was: " + "word " * 31 + "…")
