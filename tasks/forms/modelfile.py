"""Find out what a model file is: its format, by its content, and the shape and type of its input.

Only models with one input, whose first axis is the batch, are accepted.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.datasets import _filekinds
from tasks.forms import onnxfile, openvinofile, torchfile

if TYPE_CHECKING:
    import numpy as np

    from tasks.records import Artifact

ENGINES = (b"ftrt", b"vtrt")
"""First bytes of engines of TensorRT and of TensorRT for RTX."""
ACCEPTED = "accepted: ONNX, TorchScript, OpenVINO (.xml), TensorRT engines, safetensors written by burnish"
ADVICE = {
    "HDF5": ": export it as ONNX (tf2onnx, or model.export)",
    "TensorFlow Lite": ": give the ONNX file that it was made of",
}
"""Kind of a file that may hold a model, as its description begins -> how to get a file that is accepted."""
SUFFIXES = {
    ".onnx": "ONNX",
    ".safetensors": "safetensors",
    ".pt": "PyTorch's",
    ".pth": "PyTorch's",
    ".ckpt": "PyTorch's",
    ".torchscript": "TorchScript",
    ".engine": "a TensorRT engine",
    ".plan": "a TensorRT engine",
    ".xml": "OpenVINO's",
}
"""Suffix of a model file's name -> whose format its content should have."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model file, as `inspect` found it."""

    path: Path
    """The file, or the folder that holds it."""
    format: str
    batch: int | None = None
    """Images per batch. None means any number."""
    shape: tuple[int | None, ...] | None = None
    """Shape of one image, with None for a size that is open. None altogether where the file does not say."""
    dtype: str = "float32"
    """Type of the input, as NumPy names it."""
    data: tuple[tuple[str, Path], ...] = ()
    """Further files that hold its weights: (path relative to the file, real path)."""
    notes: tuple[str, ...] = ()
    """Oddities of the file, which is measured all the same."""

    def inputs(self, rows: int, image_shape: tuple[int, ...] | None, seed: int = 0) -> np.ndarray:
        """Return random inputs, (rows, *shape of an image): normal floats, bytes 0 to 255, other integers 0 or 1.

        `image_shape` is what the user says of the shape, if anything.

        Raises
        ------
        ValueError
            If the file and `image_shape` together do not give the shape of an image, or contradict each other; or if
            the inputs do not fit the free memory.
        """
        import numpy as np

        from tasks import machine
        from tasks.measure.seeds import generator

        shape = self._image_shape(image_shape)
        rng = generator(seed)
        size = rows * math.prod(shape) * np.dtype(self.dtype).itemsize
        free = machine.memory_available()
        # The inputs are in memory twice: in this process, and in the one that is measured.
        if 2 * size > free:
            raise ValueError(
                f"{self.path}: {rows} inputs of shape {'x'.join(map(str, shape))} take {size / 1e9:.3g} GB "
                f"twice, {free / 1e9:.3g} GB of memory are free; ask for smaller batches or images"
            )
        if self.dtype.startswith("float"):
            return rng.standard_normal((rows, *shape), np.float32).astype(self.dtype)
        high = 256 if self.dtype == "uint8" else 2
        return rng.integers(0, high, (rows, *shape)).astype(self.dtype)

    def _image_shape(self, image_shape: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return the shape of an image, in which the user's `image_shape` fills what the file leaves open."""
        words = "an unknown shape" if self.shape is None else "x".join(str(size or "?") for size in self.shape)
        example = f"--input-shape {','.join(map(str, _example(self.shape)))} (one image, without the batch)"
        if image_shape is None:
            if self.shape is None or None in self.shape:
                raise ValueError(f"{self.path}: its input has {words}; say it with {example}")
            return tuple(size for size in self.shape if size is not None)
        if self.shape is not None:
            fits = len(image_shape) == len(self.shape) and all(
                size in (None, wanted) for size, wanted in zip(self.shape, image_shape, strict=True)
            )
            if not fits:
                wrong = "x".join(map(str, image_shape))
                raise ValueError(f"{self.path}: an image of shape {wrong} does not fit its input, {words}; {example}")
        return tuple(image_shape)

    def check_batches(self, sizes: tuple[int, ...]) -> None:
        """Raise a ValueError where the file was not made for one of these batch sizes."""
        wrong = [size for size in sizes if self.batch not in (None, size)]
        if wrong:
            raise ValueError(
                f"{self.path}: its batch size is fixed at {self.batch}, asked for {', '.join(map(str, wrong))}"
            )

    def artifact(self) -> Artifact:
        """Return the file as an artifact, at its absolute path, with the hash and size of all its files together."""
        from tasks.machine.files import content, file_sha256
        from tasks.records import Artifact

        sha256, size = content(self.path)
        if self.data and not self.path.is_dir():
            lines = [sha256, *(f"{place}\0{file_sha256(real)}" for place, real in self.data)]
            sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            size += sum(real.stat().st_size for _, real in self.data)
        return Artifact(path=str(self.path.absolute()), sha256=sha256, size_bytes=size, format=self.format)

    def executable(self, folder: Path) -> Path:
        """Return the absolute path that runtimes open: the file, or a copy in `folder` where they would refuse it."""
        if self.format != "onnx":
            return self.path.absolute()
        file = _single(self.path) if self.path.is_dir() else self.path
        executable = onnxfile.executable(file, self.data, folder)
        return self.path.absolute() if executable == file else executable.absolute()


def _example(shape: tuple[int | None, ...] | None) -> tuple[int, ...]:
    """Return a possible shape of an image. What the file leaves open is as in ImageNet: 3 channels and 224 pixels."""
    if shape is None:
        return 3, 224, 224
    if len(shape) != 3:
        usual: tuple[int, ...] = (224,) * len(shape)
    elif shape[0] is None and shape[2] in (1, 3):
        # The channels come last.
        usual = (224, 224, 3)
    else:
        usual = (3, 224, 224)
    return tuple(size if size is not None else example for size, example in zip(shape, usual, strict=True))


def inspect(path: Path) -> ModelFile:
    """Look at a model file, or at a folder with one .onnx file and its external data, or with one OpenVINO .xml file.

    Raises
    ------
    ValueError
        If there is no such file, it is no model, it has several inputs, or it is cut off. The message is one line.
    """
    try:
        return _inspected(path)
    except _NotAccepted as error:
        raise ValueError(f"{path} is not a model that is executed here ({error}); {ACCEPTED}") from None


class _NotAccepted(Exception):
    """A file has none of the accepted formats. The message says what it is instead."""


def _single(folder: Path) -> Path:
    """Return the only model of a folder."""
    files = sorted(folder.glob("*.onnx")) or sorted(folder.glob("*.xml"))
    if len(files) != 1:
        several = f", it has {', '.join(file.name for file in files)}: name one of them" if files else ""
        raise ValueError(f"{folder}: a folder must hold one .onnx file or one OpenVINO .xml file{several}")
    return files[0]


def _inspected(path: Path) -> ModelFile:
    file = _single(path) if path.is_dir() else path
    if kind := _filekinds.irregular(file):
        raise ValueError(f"{file} is {kind}, not a regular file; {ACCEPTED}")
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    head = _filekinds.head_of(file)
    if head[:4] in ENGINES:
        return ModelFile(path=path, format="engine", **_engine_input(path))
    if head.startswith(_filekinds.ZIPS):
        return _torchscript(path)
    if _filekinds.is_safetensors(head):
        return _safetensors(path)
    if head.lstrip()[:1] == b"{":
        return _null(path)
    if head.lstrip().startswith(openvinofile.HEADS):
        return _openvino(path, file)
    if kind := _other_kind(file, head):
        raise _NotAccepted(kind)
    return _onnx(path, file)


def _other_kind(file: Path, head: bytes) -> str | None:
    """Return what a file is that is no model, by its first bytes. None means that it may be ONNX, which has no mark."""
    if head[:1] == torchfile.PICKLE:
        return torchfile.pickled(file)
    if file.suffix == ".bin" and file.with_suffix(".xml").is_file():
        return f"the weights of {file.with_suffix('.xml').name}: give that"
    kind = _filekinds.kind(file)
    if not kind:
        return None
    return kind + next((advice for start, advice in ADVICE.items() if kind.startswith(start)), "")


def _onnx(path: Path, file: Path) -> ModelFile:
    try:
        described = onnxfile.describe(file)
    except onnxfile.NotOnnx as error:
        suffix = file.suffix.lower()
        if suffix in SUFFIXES:
            raise _NotAccepted(
                f"its name ends in {suffix}, but its content is not {SUFFIXES[suffix]}; it is damaged, or another file"
            ) from None
        raise _NotAccepted(f"its first bytes are those of no known kind, and as ONNX it has {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return ModelFile(path=path, format="onnx", **described._asdict())


def _openvino(path: Path, file: Path) -> ModelFile:
    try:
        batch, shape, dtype, data = openvinofile.describe(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return ModelFile(path=file, format="openvino", batch=batch, shape=shape, dtype=dtype, data=data)


def _torchscript(path: Path) -> ModelFile:
    from tasks.forms import description

    try:
        dtype = torchfile.input_type(path)
    except ValueError as error:
        raise _NotAccepted(str(error)) from None
    with zipfile.ZipFile(path) as archive:
        export = description.export(description.extras(archive, path), path)
    return ModelFile(path=path, format="torchscript", shape=export.image_shape if export else None, dtype=dtype)


def _safetensors(path: Path) -> ModelFile:
    from safetensors import SafetensorError, safe_open

    from tasks.forms import description

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is a safetensors file that is cut off or damaged ({error}): {_filekinds.AGAIN}"
        ) from None
    if "burnish" not in metadata:
        raise ValueError(f"{path} is a safetensors file of weights without an architecture; {ACCEPTED}")
    architecture = description.architecture(metadata["burnish"], path)
    shape = (architecture.in_channels, architecture.image_size, architecture.image_size)
    return ModelFile(path=path, format="safetensors", shape=shape)


def _null(path: Path) -> ModelFile:
    """Describe a file of the null runtime, whose queries last as many milliseconds as the file says."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise _NotAccepted(str(error)) from None
    if not isinstance(content, dict) or "milliseconds" not in content:
        raise _NotAccepted("JSON without milliseconds")
    return ModelFile(path=path, format="null", shape=(1,))


def _engine_input(path: Path) -> dict[str, Any]:
    """Return the fields of an engine's input, as TensorRT reads them; none where no GPU can open the engine."""
    from tasks import runtimes

    adapter: Any = runtimes.load("tensorrt")
    return {} if adapter.unavailable("cuda:0") else adapter.describe(path, "cuda:0")
