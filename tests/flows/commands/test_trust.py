"""Model files from strangers: programs are refused unless they are trusted, made-up metadata in one line."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from torch import nn

import models
from flows.cli import main
from tasks import tables
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.forms.modelfile import inspect
from tasks.records import Artifact, Data
from tasks.tables import frames
from tests.support.digits import digits, warmed_model
from tests.support.servers import RUN, FinishedRun

if TYPE_CHECKING:
    from pathlib import Path

SHAPE: dict[str, Any] = {"name": "lenet5", "num_classes": 10, "in_channels": 1, "image_size": 8}


class Writes(nn.Module):
    """A classifier that writes a file when it is run, as TorchScript can without any Python."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # aten::save
        torch.save(self.weight, self.path)
        return images.flatten(1) * self.weight


@pytest.fixture
def program(tmp_path: Path) -> tuple[Path, Path]:
    """(TorchScript file, the file that it writes when it runs)."""
    written = tmp_path / "written"
    torch.jit.save(torch.jit.script(Writes(str(written))), tmp_path / "model.pt")
    return tmp_path / "model.pt", written


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said: one line, exit code 2."""
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("burnish: ")
    assert told.count("\n") == 1
    assert "Traceback" not in told
    return told


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_a_program_does_not_run_unless_it_is_trusted(
    command: str, program: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, written = program
    out = ["--input-shape", "1,8,8", "--out", str(tmp_path / "out")]
    told = refused([command, str(file), *out], capsys)
    assert f"{file}: a TorchScript file is a program" in told
    assert "--trust" in told
    assert not written.exists()
    assert not (tmp_path / "out").exists()


def test_a_trusted_program_runs(program: tuple[Path, Path], tmp_path: Path) -> None:
    file, written = program
    asked = ["--input-shape", "1,8,8", "--trust", "--queries", "1", "--out", str(tmp_path / "out")]
    assert main(["profile", str(file), *asked]) == 0
    # it is a program: the test's own file would tell if the first test proved nothing
    assert written.exists()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of one's own."""
    out = tmp_path_factory.mktemp("own")
    work = Work.at(out, "deploy")
    made = FinishedRun(out, work, digits(work, 60), Data(source="digits"))
    made.write_table("datasets", [])
    return made


def test_the_torchscript_of_ones_own_run_is_deployed_and_profiled_without_trust(
    own: FinishedRun, tmp_path: Path
) -> None:
    folder = own.deploy(tmp_path / "served", "--variant", "lenet5/train/torchscript")
    assert json.loads((folder / "model.json").read_text())["runtime"] == "torchscript"
    # Of this made-up run no report can be written: that is what its exit code is about.
    main(["profile", "lenet5/train/torchscript", "--queries", "2", "--input-shape", "1,8,8", "--out", str(own.out)])
    assert (own.out / "runs" / RUN / "profiles" / "lenet5_train_torchscript-torchscript" / "profile.json").exists()


def safetensors(path: Path, said: str) -> Path:
    """A safetensors file of one number with `said` under burnish's key."""
    head = json.dumps({"__metadata__": {"burnish": said}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", len(head)) + head.encode() + bytes(4))
    return path


WRONG = [
    ("", "burnish is not JSON"),
    ("[]", "burnish is no JSON object"),
    ("null", "burnish is no JSON object"),
    ("{}", "name: Field required"),
    ("[" * 100_000, "burnish is not JSON (nested too deeply)"),
    (json.dumps(SHAPE | {"num_classes": "ten"}), "num_classes: should be a valid integer"),
    (json.dumps(SHAPE | {"num_classes": 10**23}), "num_classes: should be less than or equal to"),
    (json.dumps(SHAPE | {"image_size": 10**9}), "image_size: should be less than or equal to 16384"),
    (json.dumps(SHAPE | {"image_size": float("inf")}), "image_size: should be"),
    (json.dumps(SHAPE | {"image_size": -8}), "image_size: should be greater than or equal to 1"),
    (json.dumps(SHAPE | {"in_channels": 2}), "in_channels: should be 1 or 3"),
    (json.dumps(SHAPE | {"name": "os.system"}), "name: unknown model 'os.system'"),
    (json.dumps(SHAPE | {"name": ["lenet5"]}), "name: should be a valid string"),
    (json.dumps(SHAPE | {"name": "timm:hf-hub:somebody/model"}), "name: timm has no classifier"),
    (json.dumps(SHAPE | {"hook": "x"}), "hook: Extra inputs are not permitted"),
]


@pytest.mark.parametrize(("said", "words"), WRONG, ids=[words for _, words in WRONG])
def test_made_up_metadata_of_safetensors_is_one_line(
    tmp_path: Path, said: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = safetensors(tmp_path / "model.safetensors", said)
    for command in ("bench", "profile"):
        told = refused([command, str(file), "--out", str(tmp_path / "out")], capsys)
        assert f"{file}: what burnish wrote into it is damaged or made up: {words}" in told


def test_what_burnish_writes_is_read(tmp_path: Path) -> None:
    for more in ({}, {"upsample": 32}):
        models.save(warmed_model(**SHAPE | more), tmp_path / "model.safetensors", SHAPE | more)
        assert inspect(tmp_path / "model.safetensors").shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("classes", "5", "classes: should be a valid array"),
        ("classes", '"0123"', "classes: should be a valid array"),
        ("classes", "[]", "classes: Tuple should have at least 1 item"),
        ("mean", '["a"]', "mean.0: should be a valid number"),
        ("std", "[0]", "std.0: should be greater than or equal to"),
        ("std", "[NaN]", "std.0: should be a finite number"),
        ("image_shape", "[1, 8]", "image_shape"),
        ("image_shape", "[1, 8, 100000000]", "image_shape.2: should be less than or equal to 16384"),
        ("image_shape", "{", "image_shape is not JSON"),
        ("mean", "[" * 100_000, "mean is not JSON (nested too deeply)"),
    ],
)
def test_made_up_metadata_of_onnx_and_torchscript_is_one_line(
    own: FinishedRun, tmp_path: Path, key: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made"
    shutil.copytree(own.out, out)
    work = Work.at(out, "deploy")
    rows = tables.read(out, "variants", RUN).collect().to_dicts()
    forms = [row for row in rows if row["name"] in ("lenet5/train/onnx", "lenet5/train/torchscript")]
    for form in forms:
        form.update(forged(work, form, key, value).model_dump(include={"path", "sha256", "size_bytes"}))
    frames.frame("variants", rows).write_parquet(out / "tables" / "variants" / f"{RUN}.parquet")
    for variant in ("lenet5/train/onnx", "lenet5/train/torchscript"):
        told = refused(["deploy", "--out", str(out), "--to", str(tmp_path / "to"), "--variant", variant], capsys)
        assert f"what burnish wrote into it is damaged or made up: {words}" in told
        assert not (tmp_path / "to").exists()
    script = next(row for row in rows if row["name"] == "lenet5/train/torchscript")
    told = refused(["bench", str(out / "store" / script["path"]), "--out", str(tmp_path / "out")], capsys)
    assert words in told


def forged(work: Work, row: dict[str, Any], key: str, value: str) -> Artifact:
    """A model of the store with another value under a key of burnish's."""
    keys = {name: row[name] for name in ("path", "sha256", "size_bytes", "format")}
    source = Store(work.store.root).get(Artifact(**keys))
    with work.store.temporary() as folder:
        target = folder / f"forged{source.suffix}"
        if row["format"] == "onnx":
            model = onnx.load(str(source))
            next(entry for entry in model.metadata_props if entry.key == key).value = value
            onnx.save(model, target)
        else:
            with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
                for entry in old.infolist():
                    mine = entry.filename.endswith(f"/extra/{key}")
                    new.writestr(entry.filename, value if mine else old.read(entry))
        return work.store.put(target, row["format"])


def test_a_torchscript_archive_that_unpacks_to_gigabytes_is_not_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/code/__torch__.py", "")
        with archive.open("m/extra/image_shape", "w") as entry:
            for _ in range(64):
                entry.write(bytes(1 << 20))
    told = refused(["bench", str(tmp_path / "model.pt"), "--trust"], capsys)
    assert "extra/image_shape has 67108864 bytes" in told


@pytest.mark.parametrize("content", ["5", "[]", '"milliseconds"', '{"a": 1}', '{"a": ' * 50_000])
def test_json_that_is_no_list_of_latencies_is_one_line(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").write_text(content)
    refused(["bench", str(tmp_path / "model.json")], capsys)


def test_truncated_files_of_every_format_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Flatten()), whole)
    models.save(warmed_model(**SHAPE), tmp_path / "w.safetensors", SHAPE)
    for name, content in (("a.pt", whole.getvalue()), ("b.safetensors", (tmp_path / "w.safetensors").read_bytes())):
        for length in (1, 9, 100, len(content) // 2):
            (tmp_path / name).write_bytes(content[:length])
            refused(["bench", str(tmp_path / name), "--trust"], capsys)
