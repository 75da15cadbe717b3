"""Files that were exported with a fixed batch size give every image of any batch the logits that it has alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import timm
import torch
import torchvision
from onnx import helper

from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.forms.canonical import canonical
from tasks.forms.given import read_graph
from tasks.records import Preparation, Prepared
from tests.support.given import classifier, executed, node, saved
from tests.support.photos import MEAN, STD, photos

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("freebatch"), "freebatch")


def freed(file: Path, data: Prepared, folder: Path) -> tuple[Path, tuple[str, ...]]:
    preparation = Preparation(image_size=data.image_size, mean=MEAN, std=STD)
    form = canonical(file, read_graph(file), preparation, data, folder)
    return form.path, form.notes


def inputs_of(work: Work, data: Prepared) -> np.ndarray:
    return normalise(np.array(load_arrays(work.store, data).images), data.mean, data.std)


def compare(file: Path, form: Path, inputs: np.ndarray, fixed: int, output: str | None = None) -> None:
    """Compare a form in batches of 1, 2, 5 and 12 with the given file in batches of its own size."""
    chunks = [inputs[start : start + fixed] for start in range(0, 12, fixed)]
    expected = np.concatenate([executed(file, chunk, output) for chunk in chunks]).reshape(12, -1)
    for batch in (1, 2, 5, 12):
        logits = executed(form, inputs[:batch])
        np.testing.assert_allclose(logits, expected[:batch], atol=1e-4 * abs(expected).max())
    assert abs(expected[0] - expected[1]).max() > 0.01 * abs(expected).max(), "images must have different logits"


def vit() -> torch.nn.Module:
    # torchvision's attention holds the batch in the second axis, and joins it with the heads.
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10)
    torch.nn.init.normal_(model.heads.head.weight)
    return model


def swin() -> torch.nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=10)


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "vit": vit,
    "swin": swin,
    "deit": lambda: timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10),
}


def exported(model: torch.nn.Module, folder: Path, batch: int, **how: Any) -> Path:
    """Export a model as most tutorials do: with the shape of the example, and nothing free."""
    example = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(model.eval(), (example,), str(folder / "given.onnx"), verbose=False, **how)
    return folder / "given.onnx"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("name", "batch"), [("vit", 1), ("vit", 3), ("deit", 1), pytest.param("swin", 3, marks=pytest.mark.slow)]
)
def test_an_export_of_pytorchs_older_exporter_gets_a_free_batch_size(
    name: str, batch: int, work: Work, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    file = exported(MODELS[name](), tmp_path, batch, dynamo=False)
    assert read_graph(file).batch == batch
    data = photos(work)
    path, notes = freed(file, data, tmp_path)
    assert notes[0] == f"its batch size, which was fixed at {batch}, is free"
    compare(file, path, inputs_of(work, data), batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "convnext"])
def test_an_export_of_pytorchs_newer_exporter_gets_a_free_batch_size(name: str, work: Work, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Its pooling over one pixel becomes a Gather of all elements in their order.
    model = timm.create_model("convnext_atto", num_classes=10) if name == "convnext" else MODELS[name]()
    file = exported(model, tmp_path, 1, dynamo=True)
    data = photos(work)
    compare(file, freed(file, data, tmp_path)[0], inputs_of(work, data), 1)


def fixed(batch: int, after: list[onnx.NodeProto], constants: dict[str, Any], free: bool = False) -> onnx.ModelProto:
    model = classifier(after=after, shape=(batch, 3, 8, 8), constants=constants)
    if free:
        # So says the input, whatever the graph needs.
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def shape_of(*sizes: int) -> np.ndarray:
    return np.array(sizes, np.int64)


TOKEN = np.linspace(-1, 1, 2, dtype=np.float32)
GRAPHS: dict[str, tuple[list[onnx.NodeProto], Callable[[int], dict[str, Any]]]] = {
    "a Reshape that says the batch": ([node("Reshape", "y s", "scores")], lambda n: {"s": shape_of(n, 5)}),
    "a Reshape that leaves the classes open": ([node("Reshape", "y s", "scores")], lambda n: {"s": shape_of(n, -1)}),
    "an Expand to the batch": (
        [
            node("Unsqueeze", "y axis", "u"),
            node("Expand", "u s", "e"),
            node("ReduceMean", "e", "scores", axes=[1], keepdims=0),
        ],
        lambda n: {"axis": shape_of(1), "s": shape_of(n, 3, 5)},
    ),
    "a Resize to sizes": (
        [
            node("Reshape", "y s", "u"),
            helper.make_node("Resize", ["u", "", "", "t"], ["v"], mode="nearest"),
            node("ReduceMean", "v", "scores", axes=[2, 3], keepdims=0),
        ],
        lambda n: {"s": shape_of(n, 5, 1, 1), "t": shape_of(n, 5, 2, 2)},
    ),
    "a token for each image": (
        [node("Concat", "y token", "j", axis=1), node("MatMul", "j k", "scores")],
        lambda n: {"token": np.tile(TOKEN, (n, 1)), "k": np.random.default_rng(0).normal(size=(7, 5)).astype("f")},
    ),
}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("what", GRAPHS)
def test_constants_that_hold_the_batch_size_follow_the_images(
    what: str, batch: int, work: Work, tmp_path: Path
) -> None:
    after, constants = GRAPHS[what]
    file = saved(fixed(batch, after, constants(batch)), tmp_path / "given")
    data = photos(work, size=8, classes=5)
    path, notes = freed(file, data, tmp_path)
    assert f"its batch size, which was fixed at {batch}, is free" in notes
    compare(file, path, inputs_of(work, data), batch)


def test_a_shape_in_a_constant_node_follows_the_images(work: Work, tmp_path: Path) -> None:
    shape = helper.make_node("Constant", [], ["s"], value_ints=[2, 5])
    file = saved(fixed(2, [shape, node("Reshape", "y s", "scores")], {}), tmp_path / "given")
    data = photos(work, size=8, classes=5)
    compare(file, freed(file, data, tmp_path)[0], inputs_of(work, data), 2)


def test_a_batch_size_that_is_free_in_the_inputs_shape_alone_is_found_by_executing_the_graph(
    work: Work, tmp_path: Path
) -> None:
    file = saved(fixed(1, [node("Reshape", "y s", "scores")], {"s": shape_of(1, 5)}, free=True), tmp_path / "given")
    data = photos(work, size=8, classes=5)
    path, notes = freed(file, data, tmp_path)
    assert notes[0] == "its batch size, which constants of its graph held, is free"
    compare(file, path, inputs_of(work, data), 1)


MIXED = [
    # The mean over the batch: an image's scores depend on the others.
    node("ReduceMean", "y", "mean", axes=[0], keepdims=1),
    node("Add", "y mean", "scores"),
]


@pytest.mark.parametrize("free", [True, False])
def test_a_graph_in_which_images_of_a_batch_are_mixed_is_refused_with_how_to_export_it(
    free: bool, work: Work, tmp_path: Path
) -> None:
    file = saved(fixed(1, MIXED, {}, free), tmp_path / "given")
    says = "is free in its input's shape alone" if free else "is fixed at 1"
    message = f"its batch size {says}, and its graph does not follow another one (in a batch of 2, images have other"
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        freed(file, photos(work, size=8, classes=5), tmp_path)
    assert "dynamic_shapes=({0: 'batch'},)" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_graph_that_drops_the_batch_axis_is_refused_in_one_line(work: Work, tmp_path: Path) -> None:
    squeezed = [node("Squeeze", "y", "flat"), node("Unsqueeze", "flat axis", "scores")]
    model = fixed(1, squeezed, {"axis": shape_of(0)})
    with pytest.raises(
        ValueError, match="its batch size is fixed at 1, and its graph does not follow another"
    ) as raised:
        freed(saved(model, tmp_path / "given"), photos(work, size=8, classes=5), tmp_path)
    assert "\n" not in str(raised.value)
