"""Bring the ONNX file of a given classifier into the form that burnish's other forms are made from.

The form has one input, `input`: float32, (batch, channels, height, width), RGB or grey, with any batch size, normalised
by the mean and standard deviation of the prepared images. It has one output, `logits`: float32, (batch, classes), in
the order of the prepared images' classes. A file that is like this is kept byte for byte; otherwise the graph gets the
smallest change, and each change has a note.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tasks.forms import modelfile, onnxfile, opset
from tasks.forms.freebatch import NAME, fold_shapes, free_batch
from tasks.forms.given import EXPORT, layouts, model_file, score_output
from tasks.forms.graphends import INPUT, change_end, change_start
from tasks.forms.original import Original, Source, one_line, open_quietly
from tasks.measure.seeds import generator

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from tasks.forms.given import Graph
    from tasks.records import Preparation, Prepared

SAME = 1e-3
"""Results of two batch sizes may differ by this share of the largest logit: float32 sums in another order."""
BATCHES = (1, 2, 5)
"""The batch sizes that a form is executed with before it is accepted."""
ONE_FILE_BYTES = 1 << 30
"""Weights of more bytes are in a file of their own. A protobuf message cannot have 2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Canonical:
    """A given classifier in burnish's form."""

    path: Path
    """The file, or the folder that holds it and its weights."""
    notes: tuple[str, ...]
    """What was changed, in words. Empty: the file is as it was given."""
    output: str
    """The output of the given file whose scores were taken."""
    activation: str
    """Function of `logits` that gives the scores of the given file: Softmax, Sigmoid, or empty where they are equal."""


def canonical(file: Path, graph: Graph, preparation: Preparation, data: Prepared, folder: Path) -> Canonical:
    """Write the canonical form of a given file into a folder, where it may be on its own or with a file of weights.

    Raises
    ------
    ValueError
        If the file and the prepared images do not fit each other, if ONNX Runtime does not run the file, or if its
        batch size cannot be made free. The message is one line, and does not name the file.
    """
    columns = preparation.outputs_of_classes
    output, choice = score_output(graph, preparation.output, len(data.classes) if columns is None else 1 + max(columns))
    _refuse_other_images(graph, preparation, data)
    images = _images(data)
    original = Original(file, graph, preparation, output.name, folder / "source")
    source = Source(
        file=file,
        graph=graph,
        preparation=preparation,
        data=data,
        output=output.name,
        raw_scores=original.raw_scores(images),
    )
    _refuse_other_classes(source)
    original.close()
    written = _written(source, images, folder)
    if choice:
        written = replace(written, notes=(choice, *written.notes))
    return written


def _refuse_other_images(graph: Graph, preparation: Preparation, data: Prepared) -> None:
    """Refuse a preparation that the input does not allow, and images of another size."""
    channels = 1 if preparation.order == "grey" else 3
    allowed = [size for layout, count, size in layouts(graph) if (layout, count) == (preparation.layout, channels)]
    sizes = "x".join(str(size or "?") for size in graph.sizes or ())
    if not allowed:
        raise ValueError(
            f"its input {graph.input} has {sizes} per image, which is no {preparation.layout} of {channels} channels; "
            "set `layout` and `order`"
        )
    if allowed[0] not in (None, data.image_size):
        raise ValueError(
            f"its input {graph.input} has {sizes} per image, and the images are prepared with {data.image_size} "
            "pixels; leave data.image_size out"
        )


def _refuse_other_classes(source: Source) -> None:
    scores = int(np.prod(source.raw_scores.shape[1:]))
    classes = len(source.data.classes)
    if not np.isfinite(source.raw_scores).all():
        raise ValueError(f"its output {source.output} is not finite for some images of noise; check the file")
    columns = source.preparation.outputs_of_classes
    if columns is None and scores != classes:
        raise ValueError(
            f"its output {source.output} has {scores} scores per image, and the images have {classes} classes; name a "
            "text file with a class per line, in the order of the scores, with `labels`"
        )
    if columns is not None and (len(columns) != classes or not all(0 <= column < scores for column in columns)):
        raise ValueError(
            f"its output {source.output} has {scores} scores per image, of which {len(columns)} were assigned to the "
            f"{classes} classes of the images, up to number {max(columns)}; check `labels`"
        )


def _images(data: Prepared) -> np.ndarray:
    """Return images that a form is executed with: uint8, half of them noise and half of them large squares."""
    rng = generator(0)
    size = data.image_size
    noise = rng.integers(0, 256, (BATCHES[-1], size, size, data.channels), np.uint8)
    squares = rng.integers(0, 256, (BATCHES[-1], 4, 4, data.channels), np.uint8)
    places = np.arange(size) * 4 // size
    return np.concatenate([noise, squares[:, places][:, :, places]])


def _written(source: Source, images: np.ndarray, folder: Path, *, attempt: int = 0) -> Canonical:
    """Write the form and execute it in several batch sizes; where that fails, free the batch size further.

    A file may say that its batch size is free although constants in its graph hold that of its export. Where shapes are
    computed in the graph, the second attempt begins with what they are for the fixed batch size.
    """
    is_fixed = source.graph.batch is not None
    freed = is_fixed or attempt > 0
    model, notes, activation = _changed(source, images, folder, freed=freed, folded=is_fixed and attempt > 0)
    path = _save(model, source, folder / "canonical") if notes else _copy(source.file, folder / "canonical")
    problem = _batch_problem(path, source, images)
    if problem and attempt == 0:
        shutil.rmtree(folder / "canonical")
        return _written(source, images, folder, attempt=1)
    if problem:
        fixed = f"is fixed at {source.graph.batch}" if is_fixed else "is free in its input's shape alone"
        raise ValueError(f"its batch size {fixed}, and its graph does not follow another one ({problem}); {EXPORT}")
    return Canonical(path=path, notes=tuple(notes), output=source.output, activation=activation)


def _changed(
    source: Source, images: np.ndarray, folder: Path, *, freed: bool, folded: bool
) -> tuple[onnx.ModelProto, list[str], str]:
    """Return the changed graph, a note per change, and the activation that was taken off its end."""
    from onnx import inliner

    given = modelfile.inspect(source.file)
    if folded:
        model = onnxfile.load(fold_shapes(given.executable(folder / "source"), folder))
    else:
        model = onnxfile.load_whole(model_file(source.file), given.data)
    if model.functions:
        model = inliner.inline_local_functions(model)
    notes = [_take_weights_from_inputs(model)]
    model, note = opset.modern(model, source.graph, lambda other: _is_same(other, source, images, folder))
    notes += [note, _set_sizes(model, source)]
    if freed:
        free_batch(model, source.graph.batch or 1)
        fixed = f"was fixed at {source.graph.batch}" if source.graph.batch else "constants of its graph held"
        notes.append(f"its batch size, which {fixed}, is free")
    activation, end_notes = change_end(model, source)
    notes += [*end_notes, *change_start(model, source)]
    return model, [note for note in notes if note], activation


def _take_weights_from_inputs(model: onnx.ModelProto) -> str:
    """Make weights that are listed as inputs, as they were before IR version 4, constants."""
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    listed = len(model.graph.input) - len(inputs)
    if not listed:
        return ""
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    least = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = max(model.ir_version, least, 4)
    return f"{listed} weights that were listed as inputs are constants"


def _is_same(other: onnx.ModelProto, source: Source, images: np.ndarray, folder: Path) -> bool:
    """Return whether another graph has the given file's scores."""
    import onnx

    path = folder / "converted.onnx"
    onnx.save(other, path)
    session = Original(path, source.graph, source.preparation, source.output, folder)
    scores = session.raw_scores(images)
    session.close()
    path.unlink()
    return difference(scores, source.raw_scores) <= SAME / 10


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, over the largest expected value; NaN where a value is not finite."""
    if actual.shape != expected.shape:
        return float("nan")
    scale = abs(expected).max()
    return float(abs(actual.astype(np.float64) - expected).max() / (scale or 1.0))


def _set_sizes(model: onnx.ModelProto, source: Source) -> str:
    """Set the height and width of the input, where they are open, and a batch size that is no size."""
    shape = onnxfile.image_input(model).type.tensor_type
    sizes = onnxfile.sizes_of(shape)
    size = source.data.image_size
    channels = 1 if source.preparation.order == "grey" else 3
    image = (channels, size, size) if source.preparation.layout == "nchw" else (size, size, channels)
    is_odd = sizes is not None and sizes[0] is None and shape.shape.dim[0].HasField("dim_value")
    if sizes is not None and sizes[1:] == list(image) and not is_odd:
        return ""
    while len(shape.shape.dim) < 4:
        shape.shape.dim.add()
    for axis, value in zip(shape.shape.dim[1:], image, strict=True):
        axis.dim_value = value
    if sizes is None or sizes[0] is None:
        shape.shape.dim[0].dim_param = NAME
    # Shapes that the exporter listed may say otherwise.
    del model.graph.value_info[:]
    return f"its input has {'x'.join(map(str, image))} per image, which was open"


def _save(model: onnx.ModelProto, source: Source, folder: Path) -> Path:
    """Save a changed graph, with its weights in a file of their own where the given file has that, or they are many."""
    import onnx

    folder.mkdir()
    path = folder / "model.onnx"
    apart = bool(modelfile.inspect(source.file).data) or model.ByteSize() > ONE_FILE_BYTES
    onnx.save_model(model, str(path), save_as_external_data=apart, location="weights.bin" if apart else None)
    return folder if (folder / "weights.bin").exists() else path


def _copy(file: Path, folder: Path) -> Path:
    """Copy the given file, and its external data to the same places beside it."""
    folder.mkdir()
    path = folder / "model.onnx"
    shutil.copyfile(model_file(file), path)
    data = modelfile.inspect(file).data
    for place, real in data:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real, folder / place)
    return folder if data else path


def _batch_problem(path: Path, source: Source, images: np.ndarray) -> str | None:
    """Return why a form does not give each image the same logits in every batch size, or None where it does."""
    from tasks.datasets._pixels import normalise

    inputs = normalise(images, source.data.mean, source.data.std)
    expected = (len(inputs), len(source.data.classes))
    try:
        session = open_quietly(path)

        def run(batch: np.ndarray) -> np.ndarray:
            return np.asarray(session.run(None, {INPUT: batch})[0])

        singly = np.concatenate([run(inputs[i : i + 1]) for i in range(len(inputs))])
        if singly.shape != expected:
            return f"one image has {singly.size // len(inputs)} logits"
        for batch in BATCHES:
            # The batches are taken from the middle, so that they have images of both kinds.
            start = (len(inputs) - batch) // 2
            logits = run(inputs[start : start + batch])
            if not difference(logits, singly[start : start + batch]) <= SAME:
                return f"in a batch of {batch}, images have other logits than one by one"
    except Exception as error:
        # ONNX Runtime has an exception type per kind of fault.
        return one_line(error)
    return None
