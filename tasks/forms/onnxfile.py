"""An ONNX file as it lies on a disk: its input, its external data, and a copy of it where a runtime could not open it
there.

Whether a file is good is for the runtime to say that executes it: what onnx's checker complains of is a note. What is
refused is what no runtime could execute, and external data outside of the model's own folder and of the cache into
which the model itself is a link.
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
"""Names of the folders by which content-addressed caches (DVC, git-annex) spread their files."""


class NotOnnx(ValueError):
    """A file is no ONNX model at all."""


class Described(NamedTuple):
    """What an ONNX file says of its input, and where the rest of it is."""

    batch: int | None
    """None: any size."""
    shape: tuple[int | None, ...] | None
    """Of one image, None where a size is open; None: the file does not say."""
    dtype: str
    """As NumPy names it."""
    data: tuple[tuple[str, Path], ...]
    """External data: (place relative to the file, the real file)."""
    notes: tuple[str, ...]


def describe(file: Path) -> Described:
    """Read a file's graph, without its weights.

    Raises
    ------
    NotOnnx
        If it is no ONNX, or has no operators.
    ValueError
        If it has not one input, no batch axis, or its external data is missing, cut off or
        elsewhere; without the file's name.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        # not by the name
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except DecodeError:
        # the library's words name a type of its own, and no cause
        raise NotOnnx("no graph that can be read") from None
    if not model.graph.node:
        raise NotOnnx("no operators")
    tensor = _input(model).type.tensor_type
    sizes = _sizes(tensor) if tensor.HasField("shape") else None
    if sizes == []:
        raise ValueError(f"its input {_input(model).name} has no batch axis")
    data = tuple(_external(model, file))
    notes = [complaint] if (complaint := _complaint(model, file)) else []
    if below := sorted({d.dim_value for d in tensor.shape.dim if d.HasField("dim_value") and d.dim_value < 1}):
        notes.append(
            f"its input has a size of {' and of '.join(map(str, below))}, which is no size and is taken as any size"
            + ("; a copy of the file that says so is executed" if _odd(model) else "")
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.kind not in "fiub":
        name = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ValueError(f"its input {_input(model).name} is of type {name}, of which burnish makes no images")
    return Described(
        batch=sizes[0] if sizes else None,
        shape=tuple(sizes[1:]) if sizes else None,
        dtype=str(dtype),
        data=data,
        notes=tuple(notes),
    )


def _input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input that is no weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ValueError(f"it has {len(inputs)} inputs ({names}); models of one are measured")
    return inputs[0]


def _sizes(tensor: Any) -> list[int | None]:
    """Sizes of a shape; None where one is open: without a value, named, or below 1 (Paddle writes -1, others 0)."""
    return [d.dim_value if d.HasField("dim_value") and d.dim_value >= 1 else None for d in tensor.shape.dim]


def _odd(model: onnx.ModelProto) -> list[Any]:
    """Sizes below 1, -1 apart, that the graph's input and outputs have, where the input has one.

    Every runtime takes -1 as open, ONNX Runtime takes 0 as nothing but 0, and OpenVINO -5 as 0.
    """
    values = (_input(model), *model.graph.output, *model.graph.value_info)
    found = [
        [d for d in v.type.tensor_type.shape.dim if d.HasField("dim_value") and d.dim_value < 1 and d.dim_value != -1]
        for v in values
    ]
    return [size for sizes in found for size in sizes] if found[0] else []


def _external(model: onnx.ModelProto, file: Path) -> Iterator[tuple[str, Path]]:
    """Each file of external data, once.

    Raises
    ------
    ValueError
        If one is missing, shorter than the graph says, or in a folder that does not belong to the model.
    """
    places: dict[str, int] = {}
    for tensor in _stored_apart(model):
        said = {entry.key: entry.value for entry in tensor.external_data}
        place = said.get("location", "")
        places[place] = max(places.get(place, 0), int(said.get("offset", 0)) + int(said.get("length", 0)))
    allowed = _folders(file)
    for place, size in places.items():
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


def _stored_apart(model: onnx.ModelProto) -> list[Any]:
    """Tensors, also those within attributes, whose values are not in the file."""
    from onnx import external_data_helper as helper

    return [tensor for tensor in helper._get_all_tensors(model) if helper.uses_external_data(tensor)]


def _folders(file: Path) -> list[Path]:
    """Where a model's external data may be: its folder, and the cache that the file is a link into.

    Caches: the hub's `blobs`, DVC's `files/md5/ab/…`, git-annex's `objects/Xy/Zz/KEY/KEY`.
    """
    own, real = Path(os.path.realpath(file.parent)), Path(os.path.realpath(file))
    if real.is_relative_to(own):
        return [own]
    cache = real.parent.parent if real.parent.name == real.name else real.parent
    while FAN_OUT.fullmatch(cache.name):
        cache = cache.parent
    return [own, cache]


def _complaint(model: onnx.ModelProto, file: Path) -> str | None:
    """What onnx's checker says of the graph, in one sentence; external data is not its matter (it refuses every
    link)."""
    import onnx

    # the checker looks no further then
    if model.ir_version > onnx.IR_VERSION:
        return (
            f"it is of ONNX IR version {model.ir_version}, newer than the {onnx.IR_VERSION} that the installed onnx "
            "library knows, and so it is measured unchecked, with each runtime that loads it"
        )
    try:
        if not _stored_apart(model):
            # from its path: the checker takes no more than 2 GB from memory
            onnx.checker.check_model(str(file))
            return None
        bare = onnx.ModelProto()
        bare.CopyFrom(model)
        for tensor in _stored_apart(bare):
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.dims[:] = [0]
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError) as error:
        words = " ".join(str(error).partition("==> Context")[0].split())
        words = words if len(words) <= 200 else f"{words[:197]}..."
        return f"onnx's checker refuses it ({words.rstrip('.')}), but it is measured with each runtime that loads it"
    return None


def executable(file: Path, data: tuple[tuple[str, Path], ...], folder: Path) -> Path:
    """The file itself, or where runtimes would refuse it as it lies there, a copy in `folder` (made if need be).

    ONNX Runtime and OpenVINO do not follow links to external data out of the model's folder, and a size of 0 in the
    input would take nothing but 0 images.
    """
    import onnx

    own = os.path.realpath(file.parent)
    away = any(not real.is_relative_to(own) for _, real in data)
    model = onnx.load(str(file), format="protobuf", load_external_data=False)
    odd = _odd(model)
    if not away and not odd:
        return file
    for size in odd:
        size.ClearField("dim_value")
    folder.mkdir(parents=True, exist_ok=True)
    names = {place: f"weights-{number}" for number, (place, _) in enumerate(data)}
    for tensor in _stored_apart(model):
        for entry in tensor.external_data:
            entry.value = names[entry.value] if entry.key == "location" else entry.value
    for place, real in data:
        _same_file(real, folder / names[place])
    target = folder / "model.onnx"
    target.write_bytes(model.SerializeToString())
    return target


def _same_file(real: Path, target: Path) -> None:
    """Give a file a second place, without using the disk twice where the file system can do so."""
    target.unlink(missing_ok=True)
    try:
        os.link(real, target)
    except OSError:
        # another file system, or one without hard links
        shutil.copyfile(real, target)
