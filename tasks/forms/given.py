"""Read what the ONNX file of a classifier that was given by a user takes and returns, and refuse what is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.forms import modelfile, onnxfile
from tasks.forms.onnxgraph import final_activation

if TYPE_CHECKING:
    import onnx

    from tasks.records._data import Layout

EXPORT = (
    "export it again with torch.onnx.export(model, (images,), 'model.onnx', dynamo=True, "
    "dynamic_shapes=({0: 'batch'},)), where images are a batch of two"
)
"""What a user of PyTorch does about a file that is not accepted."""


@dataclass(frozen=True, kw_only=True)
class ScoreOutput:
    """An output that has a score per class for each image."""

    name: str
    classes: int | None
    """How many scores it has. None: the file does not say."""
    probabilities: bool
    """Whether a Softmax or Sigmoid makes them."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What an ONNX file says of its input and its outputs."""

    input: str
    """Name of the input."""
    dtype: str
    """Type of the input, as NumPy names it."""
    batch: int | None
    """Images per batch. None means any number."""
    sizes: tuple[int | None, ...] | None
    """Sizes of the axes after the batch, None for one that is open. None altogether where the file does not say."""
    outputs: tuple[ScoreOutput, ...]
    """The outputs that may be those of a classifier, at least one."""
    metadata: dict[str, str]
    opset: int
    """Version of ONNX's operator set."""


def read_graph(file: Path) -> Graph:
    """Read what the ONNX file of a classifier says of its input and outputs; nothing is executed.

    Raises
    ------
    ValueError
        If it is no ONNX file, has not one input of images, or no output with a score per class. The message is one
        line, and does not name the file.
    """
    try:
        described = modelfile.inspect(file)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{file}: ").removeprefix(f"{file} ")) from None
    if described.format != "onnx":
        raise ValueError(f"it is a model in the format {described.format}, and an ONNX file is needed: {EXPORT}")
    model = onnxfile.load(model_file(file))
    graph = Graph(
        input=onnxfile.image_input(model).name,
        dtype=described.dtype,
        batch=described.batch,
        sizes=described.shape,
        outputs=_score_outputs(model),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        opset=next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1),
    )
    if not layouts(graph):
        sizes = "x".join(["batch", *(str(size or "?") for size in graph.sizes or ())])
        raise ValueError(
            f"its input {graph.input} has {sizes}, and burnish optimizes classifiers of square images, whose input "
            "has batch x channels x height x width or batch x height x width x channels, with 1 or 3 channels"
        )
    if graph.dtype == "bool":
        raise ValueError(f"its input {graph.input} takes true or false, of which burnish makes no images")
    return graph


def model_file(path: Path) -> Path:
    """Return the .onnx file that a path means: itself, or the only one in the folder."""
    from tasks.runtimes import onnxruntime

    return onnxruntime.model_file(path)


def content_of_file(inputs: dict[str, Any]) -> dict[str, str]:
    """Return a part of the key of a stage that takes a given model: the content of its file and external data."""
    artifact = modelfile.inspect(Path(inputs["model"].file).expanduser()).artifact()
    return {"content of models.file": artifact.sha256}


def layouts(graph: Graph) -> tuple[tuple[Layout, int, int | None], ...]:
    """Return each (layout, channels, height and width) that the sizes of the input allow, the most usual first.

    A height and width of None may be any. It is empty where the input cannot be one of square images.
    """
    if graph.sizes is not None and len(graph.sizes) != 3:
        return ()
    sizes = graph.sizes or (None, None, None)
    allowed: list[tuple[Layout, int, int | None]] = []
    for channels in (3, 1):
        axes: dict[Layout, tuple[int | None, tuple[int | None, ...]]] = {
            "nchw": (sizes[0], sizes[1:]),
            "nhwc": (sizes[2], sizes[:2]),
        }
        for layout, (size_of_channels, (height, width)) in axes.items():
            is_square = height is None or width is None or height == width
            if size_of_channels in (None, channels) and is_square:
                allowed.append((layout, channels, height or width))
    # An axis that says its number of channels decides the layout, though the others are open.
    stated = [one for one in allowed if (sizes[0] if one[0] == "nchw" else sizes[2]) is not None]
    return tuple(stated or allowed)


def _score_outputs(model: onnx.ModelProto) -> tuple[ScoreOutput, ...]:
    """Return the outputs of floats that have two axes, or further ones of size 1."""
    shapes = {value.name: value for value in _inferred(model).graph.output}
    found = []
    for value in model.graph.output:
        tensor = shapes.get(value.name, value).type.tensor_type
        sizes = onnxfile.sizes_of(tensor)
        if not _is_float(tensor.elem_type) or not is_scores(sizes):
            continue
        classes = None if sizes is None else next((size for size in sizes[1:] if size != 1), 1)
        activation = final_activation(model.graph, value.name)
        found.append(ScoreOutput(name=value.name, classes=classes, probabilities=activation is not None))
    if not found:
        raise ValueError(
            f"none of its outputs has a score per class, that is batch x classes of floats: "
            f"{', '.join(_words(shapes.get(value.name, value)) for value in model.graph.output)}; "
            "burnish optimizes classifiers"
        )
    return tuple(found)


def is_scores(sizes: list[int | None] | None) -> bool:
    """Return whether an output of these sizes can have a score per class: unknown ones can."""
    if sizes is None:
        return True
    # One of the axes after the batch has the classes, all others have one element.
    return len(sizes) >= 2 and sum(size != 1 for size in sizes[1:]) == 1


def _is_float(element_type: int) -> bool:
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    # An output without a type is one that was not inferred.
    return element_type in (TensorProto.UNDEFINED, *floats)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shapes that follow from its operators, or as it is where they cannot be inferred."""
    import onnx

    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        return model
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:
        # The library raises what it likes. A runtime tells the shapes later.
        return model


def _words(value: onnx.ValueInfoProto) -> str:
    """Return an output's name, sizes and type."""
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.elem_type:
        return f"{value.name} (no tensor)"
    sizes = onnxfile.sizes_of(tensor)
    shape = "unknown shape" if sizes is None else "x".join(str(size or "?") for size in sizes) or "one value"
    return f"{value.name} ({shape}, {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()})"


def score_output(graph: Graph, name: str, classes: int) -> tuple[ScoreOutput, str]:
    """Return the output whose scores are taken, and a note about it where the file leaves a choice.

    Parameters
    ----------
    name
        Name of the output that the user or the preparation names. Empty: it is the only one that can be meant.
    classes
        How many scores per image are wanted.

    Raises
    ------
    ValueError
        If there is no such output, or several can be meant. The message lists the outputs.
    """
    listed = ", ".join(f"{one.name} ({one.classes or '?'} scores)" for one in graph.outputs)
    if name:
        named = [one for one in graph.outputs if one.name == name]
        if not named:
            raise ValueError(f"it has no output {name!r} with a score per class; it has {listed}")
        return named[0], ""
    if len(graph.outputs) == 1:
        return graph.outputs[0], ""
    fitting = [one for one in graph.outputs if one.classes == classes]
    if len(fitting) != 1:
        raise ValueError(f"several of its outputs have a score per class: {listed}; name one with `output`")
    return fitting[0], f"of its outputs ({listed}) the one with {classes} scores is taken"
