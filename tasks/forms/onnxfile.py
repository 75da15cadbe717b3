"""Read what an ONNX file says of its input and its external data, and copy it where a runtime could not open it.

The runtime decides whether it can execute a file, so that complaints of onnx's checker are only notes. What is refused:
files that no runtime could execute, and external data outside of the model's own folder and of the cache into which the
model itself is a link.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

FAN_OUT = re.compile(r"[0-9A-Za-z]{1,3}")
"""Names of the folders over which content-addressed caches (DVC, git-annex) spread their files."""


class NotOnnx(ValueError):
    """A file is no ONNX model. The message says what it lacks, as the end of "as ONNX it has ..."."""


class Described(NamedTuple):
    """What an ONNX file says of its input, and where its weights are."""

    batch: int | None
    """Images per batch. None means any number."""
    shape: tuple[int | None, ...] | None
    """Shape of one image, with None for a size that is open. None altogether where the file does not say."""
    dtype: str
    """Type of the input, as NumPy names it."""
    data: tuple[tuple[str, Path], ...]
    """Files of external data: (path relative to the ONNX file, real path)."""
    notes: tuple[str, ...]
    """Oddities of the file, which is measured all the same."""


def describe(file: Path) -> Described:
    """Read a file's graph, without its weights.

    Raises
    ------
    NotOnnx
        If it is no ONNX, or has no operators.
    ValueError
        If it has no outputs, more or fewer inputs than one, no batch axis, an input type that is no number, or external
        data that is missing, cut off or elsewhere. The message does not name the file.
    """
    import onnx

    model = load(file)
    tensor = image_input(model).type.tensor_type
    sizes = sizes_of(tensor)
    if sizes == []:
        raise ValueError(f"its input {image_input(model).name} has no batch axis")
    data = tuple(_external(model, file))
    notes = [note for note in (_complaint(model, file), _odd_sizes_note(model)) if note is not None]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind not in "fiub":
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ValueError(f"its input {image_input(model).name} is of type {name}, of which burnish makes no images")
    return Described(
        batch=sizes[0] if sizes else None,
        shape=tuple(sizes[1:]) if sizes else None,
        dtype=str(dtype),
        data=data,
        notes=tuple(notes),
    )


def load(file: Path) -> onnx.ModelProto:
    """Read a file's graph, without weights that are in other files.

    Raises
    ------
    NotOnnx
        If it is no ONNX, or has no operators.
    ValueError
        If it has no outputs.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        # With a format, onnx does not guess one from the file's name.
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except DecodeError:
        # The library's message names one of its own types, and no cause.
        raise NotOnnx("no graph that can be read") from None
    if not model.graph.node:
        raise NotOnnx("no operators")
    if not model.graph.output:
        raise ValueError("its graph has no outputs, so it answers nothing; export it again")
    return model


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the only input that is no weight.

    Raises
    ------
    ValueError
        If there are more or fewer, or it is no tensor.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ValueError(f"it has {len(inputs)} inputs ({names}); models of one are measured")
    if not inputs[0].type.HasField("tensor_type"):
        kind = (inputs[0].type.WhichOneof("value") or "nothing").removesuffix("_type")
        raise ValueError(f"its input {inputs[0].name} is of type {kind}; models of one tensor are measured")
    return inputs[0]


def sizes_of(tensor: Any) -> list[int | None] | None:
    """Return the sizes of a tensor type's shape, None for one that is open. None altogether where it has no shape.

    Open is a size without a value, with a name, or below 1 (Paddle writes -1, others 0).
    """
    if not tensor.HasField("shape"):
        return None
    return [size.dim_value if size.HasField("dim_value") and size.dim_value >= 1 else None for size in tensor.shape.dim]


def _odd_sizes_note(model: onnx.ModelProto) -> str | None:
    """Return a note on sizes below 1 in the input's shape, or None where there are none."""
    sizes = image_input(model).type.tensor_type.shape.dim
    below = sorted({size.dim_value for size in sizes if size.HasField("dim_value") and size.dim_value < 1})
    if not below:
        return None
    note = f"its input has a size of {' and of '.join(map(str, below))}, which is no size and is taken as any size"
    return f"{note}; a copy of the file that says so is executed" if _misread_sizes(model) else note


def _misread_sizes(model: onnx.ModelProto) -> list[Any]:
    """Return the sizes of input and outputs that a runtime would misread: those below 1, except -1.

    Every runtime takes -1 as open, but ONNX Runtime takes 0 as nothing but 0, and OpenVINO takes -5 as 0. Where the
    input has no such size, the list is empty.
    """
    misread_input = _misread(image_input(model))
    if not misread_input:
        return []
    for value in (*model.graph.output, *model.graph.value_info):
        misread_input += _misread(value)
    return misread_input


def _misread(value: onnx.ValueInfoProto) -> list[Any]:
    sizes = value.type.tensor_type.shape.dim
    return [size for size in sizes if size.HasField("dim_value") and size.dim_value < 1 and size.dim_value != -1]


def _external(model: onnx.ModelProto, file: Path) -> Iterator[tuple[str, Path]]:
    """Yield each file of external data once: (path relative to the ONNX file, real path).

    Raises
    ------
    ValueError
        If one is missing, shorter than the graph says, or in a folder that does not belong to the model.
    """
    ends: dict[str, int] = {}
    """File -> number of the last byte that the graph uses."""
    for tensor in stored_apart(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = entries.get("location", "")
        ends[place] = max(ends.get(place, 0), int(entries.get("offset", 0)) + int(entries.get("length", 0)))
    allowed = _folders(file)
    for place, size in ends.items():
        real = Path(os.path.realpath(file.parent / place))
        if not any(real.is_relative_to(folder) for folder in allowed):
            raise ValueError(
                f"its weights would be read from {real}, outside of its folder ({allowed[0]}); copy them there"
            )
        if not real.is_file():
            raise ValueError(f"its weights are in {place!r}, which is not beside it: put the two into one folder")
        if real.stat().st_size < size:
            raise ValueError(f"its weights end at byte {size} of {place!r}, which has {real.stat().st_size}: cut off?")
        yield place, real


def stored_apart(model: onnx.ModelProto) -> list[Any]:
    """Return the tensors whose values are in another file, those within attributes included."""
    from onnx import external_data_helper as helper

    return [tensor for tensor in helper._get_all_tensors(model) if helper.uses_external_data(tensor)]


def load_whole(file: Path, data: tuple[tuple[str, Path], ...]) -> onnx.ModelProto:
    """Read a file with all its weights, those in the files `data` (as `describe` found them) included.

    onnx's own function refuses links, which is how caches keep large files.
    """
    import onnx

    model = load(file)
    places = dict(data)
    for tensor in stored_apart(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        with places[entries["location"]].open("rb") as weights:
            weights.seek(int(entries.get("offset", 0)))
            tensor.raw_data = weights.read(int(entries["length"]) if "length" in entries else -1)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def _folders(file: Path) -> list[Path]:
    """Return where a model's external data may be: in its own folder, and in the cache that the file is a link into.

    Caches are the hub's `blobs`, DVC's `files/md5/ab/…`, and git-annex's `objects/Xy/Zz/KEY/KEY`.
    """
    folder = Path(os.path.realpath(file.parent))
    real = Path(os.path.realpath(file))
    if real.is_relative_to(folder):
        return [folder]
    cache = real.parent.parent if real.parent.name == real.name else real.parent
    while FAN_OUT.fullmatch(cache.name):
        cache = cache.parent
    return [folder, cache]


def _complaint(model: onnx.ModelProto, file: Path) -> str | None:
    """Return what onnx's checker says of the graph, in one sentence, or None where it accepts it.

    External data is kept from the checker, which refuses every link.
    """
    import onnx

    # The checker looks no further at a model of a newer version.
    if model.ir_version > onnx.IR_VERSION:
        return (
            f"it is of ONNX IR version {model.ir_version}, newer than the {onnx.IR_VERSION} that the installed onnx "
            "library knows, and so it is measured unchecked, with each runtime that loads it"
        )
    try:
        if not stored_apart(model):
            # It gets the path, because it takes no more than 2 GB from memory.
            onnx.checker.check_model(str(file))
            return None
        without_data = onnx.ModelProto()
        without_data.CopyFrom(model)
        for tensor in stored_apart(without_data):
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.dims[:] = [0]
        onnx.checker.check_model(without_data)
    except (onnx.checker.ValidationError, ValueError) as error:
        words = " ".join(str(error).partition("==> Context")[0].split())
        words = words if len(words) <= 200 else f"{words[:197]}..."
        return f"onnx's checker refuses it ({words.rstrip('.')}), but it is measured with each runtime that loads it"
    return None


def executable(file: Path, data: tuple[tuple[str, Path], ...], folder: Path) -> Path:
    """Return the file, or a copy of it in `folder` where runtimes would refuse it as it is; create `folder` for that.

    ONNX Runtime and OpenVINO do not follow links to external data out of the model's folder, and with a size of 0 in
    its input a model would take nothing but 0 images.
    """
    import onnx

    own_folder = os.path.realpath(file.parent)
    is_elsewhere = any(not real.is_relative_to(own_folder) for _, real in data)
    model = onnx.load(str(file), format="protobuf", load_external_data=False)
    misread = _misread_sizes(model)
    if not is_elsewhere and not misread:
        return file
    for size in misread:
        size.ClearField("dim_value")
    folder.mkdir(parents=True, exist_ok=True)
    names = {place: f"weights-{number}" for number, (place, _) in enumerate(data)}
    for tensor in stored_apart(model):
        for entry in tensor.external_data:
            entry.value = names[entry.value] if entry.key == "location" else entry.value
    for place, real in data:
        _same_file(real, folder / names[place])
    target = folder / "model.onnx"
    target.write_bytes(model.SerializeToString())
    return target


def _same_file(real: Path, target: Path) -> None:
    """Make `target` the same file as `real` by a hard link, or a copy of it where the file system has no such link."""
    target.unlink(missing_ok=True)
    try:
        os.link(real, target)
    except OSError:
        # The target is on another file system, or on one without hard links.
        shutil.copyfile(real, target)
