"""ONNX files that a runtime executes are accepted, though weights are links, sizes odd, or onnx's checker complains."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tasks import runtimes
from tasks.forms.modelfile import inspect
from tests.support.models import network

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.forms.modelfile import ModelFile


def write_external(folder: Path, data: str = "model.onnx_data") -> Path:
    """Write a model with its weights in a file beside it, and return the path of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(network(), str(folder / "model.onnx"), save_as_external_data=True, location=data, size_threshold=0)
    return folder / "model.onnx"


def output_of(file: ModelFile, folder: Path, runtime: str) -> np.ndarray:
    """Return the output for three images of a model that is opened as a benchmark's worker opens it."""
    adapter = runtimes.load(runtime)
    adapter.load_library("cpu")
    session = adapter.open(file.executable(folder), "cpu", 3, 1)
    return session.run(file.inputs(3, (3, 8, 8)))


RUNTIMES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "cache", ["hub", "annex", "DVC", "hard links", "nothing but the data is a link, in its folder"]
)
def test_external_weights_are_read_where_a_cache_keeps_them(cache: str, runtime: str, tmp_path: Path) -> None:
    plain = write_external(tmp_path / "plain")
    expected = output_of(inspect(plain), tmp_path / "none", runtime)
    assert not (tmp_path / "none").exists(), "a file that runtimes can open where it lies is not copied"
    snapshot = tmp_path / "own" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, name in enumerate(("model.onnx", "model.onnx_data")):
        target = (
            tmp_path
            / "own"
            / {
                "hub": f"blobs/{number * 64:064}",
                "annex": f"objects/{number}X/9q/SHA-{name}/SHA-{name}",
                "DVC": f"cache/files/md5/{number}f/0123456789",
            }.get(cache, f"snapshots/abc/store/{name}")
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(plain.with_name(name).read_bytes())
        if cache == "hard links":
            os.link(target, snapshot / name)
        elif cache.startswith("nothing") and name == "model.onnx":
            target.rename(snapshot / name)
        else:
            (snapshot / name).symlink_to(os.path.relpath(target, snapshot))
    file = inspect(snapshot / "model.onnx")
    assert file.notes == ()
    assert file.artifact().size_bytes == inspect(plain).artifact().size_bytes > plain.stat().st_size
    np.testing.assert_allclose(output_of(file, tmp_path / "copy", runtime), expected, rtol=1e-5)


def test_the_hash_of_a_model_changes_with_its_external_weights(tmp_path: Path) -> None:
    file = write_external(tmp_path)
    before = inspect(file).artifact().sha256
    data = bytearray((tmp_path / "model.onnx_data").read_bytes())
    data[0] ^= 1
    (tmp_path / "model.onnx_data").write_bytes(data)
    assert inspect(file).artifact().sha256 != before


def write_external_naming(folder: Path, location: str) -> Path:
    """Write a model that names this location for its weights."""
    file = write_external(folder)
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = location
    file.write_bytes(model.SerializeToString())
    return file


def test_external_weights_elsewhere_missing_or_cut_off_are_refused_in_one_line(tmp_path: Path) -> None:
    secret = write_external(tmp_path / "elsewhere").with_name("model.onnx_data")
    link = write_external(tmp_path / "link")
    link.with_name("model.onnx_data").unlink()
    link.with_name("model.onnx_data").symlink_to(secret)
    cut = write_external(tmp_path / "cut")
    cut.with_name("model.onnx_data").write_bytes(b"short")
    missing = write_external(tmp_path / "alone")
    missing.with_name("model.onnx_data").unlink()
    # This folder's name is as short as those in a cache, which does not make it a cache.
    short = tmp_path / "m1"
    for file, words in (
        (link, f"would be read from {secret}, outside of its folder"),
        (write_external_naming(tmp_path / "up", f"../{secret.parent.name}/{secret.name}"), "outside of its folder"),
        (write_external_naming(short, f"../{secret.parent.name}/{secret.name}"), "outside of its folder"),
        (write_external_naming(tmp_path / "absolute", "/etc/passwd"), "would be read from /etc/passwd"),
        (cut, "'model.onnx_data', which has 5: cut off?"),
        (missing, "its weights are in 'model.onnx_data', which is not beside it: put the two into one folder"),
    ):
        with pytest.raises(ValueError, match="its weights") as raised:
            inspect(file)
        assert words in str(raised.value)
        assert str(file) in str(raised.value)
        assert "\n" not in str(raised.value)


def reverse_nodes(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def use_operator_without_import(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Gelu", "com.microsoft"


def test_an_ir_version_newer_than_the_library_is_noted_in_one_sentence(tmp_path: Path) -> None:
    model = network()
    model.ir_version = 99
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert inspect(tmp_path / "model.onnx").notes == (
        f"it is of ONNX IR version 99, newer than the {onnx.IR_VERSION} that the installed onnx library knows, "
        "and so it is "
        "measured unchecked, with each runtime that loads it",
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (reverse_nodes, "topologically sorted"),
        (lambda model: model.graph.ClearField("name"), "'name' of 'graph'"),
        (use_operator_without_import, "No opset import for domain 'com.microsoft'"),
    ],
)
def test_a_model_that_only_onnxs_checker_rejects_is_executed_with_a_note(
    change: Callable[[onnx.ModelProto], None], complaint: str, runtime: str, tmp_path: Path
) -> None:
    model = network()
    change(model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    file = inspect(tmp_path / "model.onnx")
    assert len(file.notes) == 1
    assert complaint in file.notes[0] and file.notes[0].endswith("it is measured with each runtime that loads it")
    assert "\n" not in file.notes[0]
    assert output_of(file, tmp_path / "copy", runtime).shape == (3, 5)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("shape", "batch", "image"),
    [
        ((-1, 3, 8, 8), None, (3, 8, 8)),
        ((0, 3, 8, 8), None, (3, 8, 8)),
        ((-5, 3, -5, -5), None, (3, None, None)),
        ((0, 3, 0, 0), None, (3, None, None)),
        ((None, 3, 8, 8), None, (3, 8, 8)),
        ((3, 3, 8, 8), 3, (3, 8, 8)),
    ],
)
def test_input_sizes_below_one_stand_for_any_size(
    shape: Any, batch: int | None, image: tuple[int | None, ...], runtime: str, tmp_path: Path
) -> None:
    onnx.save(network(shape), tmp_path / "model.onnx")
    file = inspect(tmp_path / "model.onnx")
    assert (file.batch, file.shape) == (batch, image)
    below = next((size for size in shape if size is not None and size < 1), None)
    assert [note.partition(";")[0] for note in file.notes] == (
        [] if below is None else [f"its input has a size of {below}, which is no size and is taken as any size"]
    )
    assert any("a copy of the file that says so is executed" in note for note in file.notes) == (below in (0, -5))
    assert output_of(file, tmp_path / "copy", runtime).shape == (3, 5)


def test_an_input_of_unknown_rank_needs_a_shape_and_is_executed(tmp_path: Path) -> None:
    model = network()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    file = inspect(tmp_path / "model.onnx")
    assert (file.batch, file.shape) == (None, None)
    with pytest.raises(ValueError, match="its input has an unknown shape; say it with --input-shape"):
        file.inputs(1, None)
    assert output_of(file, tmp_path / "copy", "onnxruntime").shape == (3, 5)


def test_a_model_in_a_cache_with_a_size_of_zero_is_copied_with_its_weights(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots"
    (blobs / "data").mkdir(parents=True)
    snapshot.mkdir()
    model = network((0, 3, 8, 8))
    onnx.save_model(model, str(blobs / "model.onnx"), save_as_external_data=True, location="data/w", size_threshold=0)
    for name in ("model.onnx", "data"):
        (snapshot / name).symlink_to(blobs / name)
    assert output_of(inspect(snapshot / "model.onnx"), tmp_path / "copy", "onnxruntime").shape == (3, 5)


def test_an_input_type_for_which_burnish_makes_no_images_is_refused(tmp_path: Path) -> None:
    onnx.save(network(dtype=TensorProto.BFLOAT16), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="its input x is of type BFLOAT16, of which burnish makes no images"):
        inspect(tmp_path / "model.onnx")
