"""Model files from strangers: a program runs only where it is trusted, and made-up metadata is refused in one line."""

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


class FileWriter(nn.Module):
    """A classifier that writes a file when it runs, as TorchScript can without any Python."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # TorchScript compiles this into its operator aten::save.
        torch.save(self.weight, self.path)
        return images.flatten(1) * self.weight


@pytest.fixture
def program(tmp_path: Path) -> tuple[Path, Path]:
    """A TorchScript file, and the path of the file that it writes when it runs."""
    written = tmp_path / "written"
    torch.jit.save(torch.jit.script(FileWriter(str(written))), tmp_path / "model.pt")
    return tmp_path / "model.pt", written


def assert_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Check that burnish refuses these arguments in one line with exit code 2, and return the line."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("burnish: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("command", ["bench", "profile"])
def test_a_torchscript_file_does_not_run_without_trust(
    command: str, program: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, written = program
    out = ["--input-shape", "1,8,8", "--out", str(tmp_path / "out")]
    error = assert_refused([command, str(file), *out], capsys)
    assert f"{file}: a TorchScript file is a program" in error
    assert "--trust" in error
    assert not written.exists()
    assert not (tmp_path / "out").exists()


def test_a_torchscript_file_runs_with_trust(program: tuple[Path, Path], tmp_path: Path) -> None:
    file, written = program
    options = ["--input-shape", "1,8,8", "--trust", "--queries", "1", "--out", str(tmp_path / "out")]
    assert main(["profile", str(file), *options]) == 0
    # This proves that the program would have written the file in the test above, too, had it run there.
    assert written.exists()


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run that the user made."""
    out = tmp_path_factory.mktemp("own_run")
    work = Work.at(out, "deploy")
    run = FinishedRun(out, work, digits(work, 60), Data(source="digits"))
    run.write_table("datasets", [])
    return run


def test_torchscript_of_the_users_own_run_is_deployed_and_profiled_without_trust(
    own_run: FinishedRun, tmp_path: Path
) -> None:
    folder = own_run.deploy(tmp_path / "served", "--variant", "lenet5/train/torchscript")
    assert json.loads((folder / "model.json").read_text())["runtime"] == "torchscript"
    # The exit code is not checked: it says that no report can be written of this made-up run.
    main(["profile", "lenet5/train/torchscript", "--queries", "2", "--input-shape", "1,8,8", "--out", str(own_run.out)])
    assert (own_run.out / "runs" / RUN / "profiles" / "lenet5_train_torchscript-torchscript" / "profile.json").exists()


def write_safetensors(path: Path, metadata: str) -> Path:
    """Write a safetensors file that holds one number, with `metadata` under the key of burnish."""
    header = json.dumps(
        {"__metadata__": {"burnish": metadata}, "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
    return path


WRONG_METADATA = [
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


@pytest.mark.parametrize(("metadata", "reason"), WRONG_METADATA, ids=[reason for _, reason in WRONG_METADATA])
def test_made_up_metadata_of_safetensors_is_refused_in_one_line(
    tmp_path: Path, metadata: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_safetensors(tmp_path / "model.safetensors", metadata)
    for command in ("bench", "profile"):
        error = assert_refused([command, str(file), "--out", str(tmp_path / "out")], capsys)
        assert f"{file}: what burnish wrote into it is damaged or made up: {reason}" in error


def test_the_metadata_that_burnish_writes_into_safetensors_is_accepted(tmp_path: Path) -> None:
    for more_settings in ({}, {"upsample": 32}):
        models.save(warmed_model(**SHAPE | more_settings), tmp_path / "model.safetensors", SHAPE | more_settings)
        assert inspect(tmp_path / "model.safetensors").shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
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
def test_made_up_metadata_of_onnx_and_torchscript_is_refused_in_one_line(
    own_run: FinishedRun, tmp_path: Path, key: str, value: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "forged"
    shutil.copytree(own_run.out, out)
    work = Work.at(out, "deploy")
    rows = tables.read(out, "variants", RUN).collect().to_dicts()
    forms = [row for row in rows if row["name"] in ("lenet5/train/onnx", "lenet5/train/torchscript")]
    for form in forms:
        form.update(store_forged(work, form, key, value).model_dump(include={"path", "sha256", "size_bytes"}))
    frames.frame("variants", rows).write_parquet(out / "tables" / "variants" / f"{RUN}.parquet")
    for variant in ("lenet5/train/onnx", "lenet5/train/torchscript"):
        error = assert_refused(
            ["deploy", "--out", str(out), "--to", str(tmp_path / "to"), "--variant", variant], capsys
        )
        assert f"what burnish wrote into it is damaged or made up: {reason}" in error
        assert not (tmp_path / "to").exists()
    script = next(row for row in rows if row["name"] == "lenet5/train/torchscript")
    error = assert_refused(["bench", str(out / "store" / script["path"]), "--out", str(tmp_path / "out")], capsys)
    assert reason in error


def store_forged(work: Work, row: dict[str, Any], key: str, value: str) -> Artifact:
    """Store a copy of the row's model file in which one metadata key of burnish has another value."""
    fields = {name: row[name] for name in ("path", "sha256", "size_bytes", "format")}
    source = Store(work.store.root).get(Artifact(**fields))
    with work.store.temporary() as folder:
        target = folder / f"forged{source.suffix}"
        if row["format"] == "onnx":
            model = onnx.load(str(source))
            next(entry for entry in model.metadata_props if entry.key == key).value = value
            onnx.save(model, target)
        else:
            with zipfile.ZipFile(source) as original, zipfile.ZipFile(target, "w") as copy:
                for entry in original.infolist():
                    is_forged = entry.filename.endswith(f"/extra/{key}")
                    copy.writestr(entry.filename, value if is_forged else original.read(entry))
        return work.store.put(target, row["format"])


def test_a_torchscript_archive_with_an_entry_of_64_mib_is_not_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/code/__torch__.py", "")
        with archive.open("m/extra/image_shape", "w") as entry:
            for _ in range(64):
                entry.write(bytes(1 << 20))
    error = assert_refused(["bench", str(tmp_path / "model.pt"), "--trust"], capsys)
    assert "extra/image_shape has 67108864 bytes" in error


@pytest.mark.parametrize("content", ["5", "[]", '"milliseconds"', '{"a": 1}', '{"a": ' * 50_000])
def test_json_that_is_no_list_of_latencies_is_refused_in_one_line(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").write_text(content)
    assert_refused(["bench", str(tmp_path / "model.json")], capsys)


def test_truncated_torchscript_and_safetensors_files_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Flatten()), whole)
    models.save(warmed_model(**SHAPE), tmp_path / "w.safetensors", SHAPE)
    for name, content in (("a.pt", whole.getvalue()), ("b.safetensors", (tmp_path / "w.safetensors").read_bytes())):
        for length in (1, 9, 100, len(content) // 2):
            (tmp_path / name).write_bytes(content[:length])
            assert_refused(["bench", str(tmp_path / name), "--trust"], capsys)
