"""What a model file is: its format, told from its content, and the shape and type of its input.

Files have one input whose first axis is the batch.
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

# first bytes of TensorRT's and of TensorRT for RTX's engines
ENGINES = (b"ftrt", b"vtrt")
ACCEPTED = "accepted: ONNX, TorchScript, OpenVINO (.xml), TensorRT engines, safetensors written by burnish"
EXPORT = {
    "HDF5": ": export it as ONNX (tf2onnx, or model.export)",
    "TensorFlow Lite": ": give the ONNX file that it was made of",
}
"""Beginning of what a file is -> what to do about it where a model was asked for."""
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
"""Suffix of a model's name -> what the content of such a file should be."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model file. `batch` and entries of `shape` (one image, without the batch) are None where they are dynamic."""

    path: Path
    format: str
    batch: int | None = None
    shape: tuple[int | None, ...] | None = None
    """None: the file does not say."""
    dtype: str = "float32"
    """Of the input, as NumPy names it."""
    data: tuple[tuple[str, Path], ...] = ()
    """Further files that hold its weights: (place relative to the file, the real file)."""
    notes: tuple[str, ...] = ()
    """What is strange about the file, which is measured all the same."""

    def inputs(self, rows: int, asked: tuple[int, ...] | None, seed: int = 0) -> np.ndarray:
        """Random inputs, (rows, ...): normal floats, bytes 0 to 255, other integers 0 or 1.

        Raises
        ------
        ValueError
            If the shape of an image is not known from file and `asked` together, or the two contradict each other.
        """
        import numpy as np

        from tasks import machine
        from tasks.measure.seeds import generator

        shape, rng = self._fitted(asked), generator(seed)
        size, free = rows * math.prod(shape) * np.dtype(self.dtype).itemsize, machine.memory_available()
        # twice: this process holds them, and the one that is measured
        if 2 * size > free:
            raise ValueError(
                f"{self.path}: {rows} inputs of shape {'x'.join(map(str, shape))} take {size / 1e9:.3g} GB "
                f"twice, {free / 1e9:.3g} GB of memory are free; ask for smaller batches or images"
            )
        if self.dtype.startswith("float"):
            return rng.standard_normal((rows, *shape), np.float32).astype(self.dtype)
        high = 256 if self.dtype == "uint8" else 2
        return rng.integers(0, high, (rows, *shape)).astype(self.dtype)

    def _fitted(self, asked: tuple[int, ...] | None) -> tuple[int, ...]:
        known = self.shape if self.shape is not None else None if asked is None else (None,) * len(asked)
        words = "an unknown shape" if self.shape is None else "x".join(str(n or "?") for n in self.shape)
        example = f"--input-shape {','.join(map(str, _example(self.shape)))} (one image, without the batch)"
        if known is None or (asked is None and None in known):
            raise ValueError(f"{self.path}: its input has {words}; say it with {example}")
        fits = asked is None or (
            len(asked) == len(known) and all(k in (None, a) for k, a in zip(known, asked, strict=False))
        )
        if not fits:
            given = "x".join(map(str, asked or ()))
            raise ValueError(f"{self.path}: an image of shape {given} does not fit its input, {words}; {example}")
        return tuple(asked) if asked is not None else tuple(n for n in known if n is not None)

    def check_batches(self, sizes: tuple[int, ...]) -> None:
        """Refuse batch sizes that the file was not made for, with a ValueError."""
        wrong = [size for size in sizes if self.batch not in (None, size)]
        if wrong:
            raise ValueError(
                f"{self.path}: its batch size is fixed at {self.batch}, asked for {', '.join(map(str, wrong))}"
            )

    def artifact(self) -> Artifact:
        """The file as an artifact, at its absolute path; its hash and size are those of all its files together."""
        from tasks.machine.files import content, file_sha256
        from tasks.records import Artifact

        sha256, size = content(self.path)
        if self.data and not self.path.is_dir():
            lines = [sha256, *(f"{place}\0{file_sha256(real)}" for place, real in self.data)]
            sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            size += sum(real.stat().st_size for _, real in self.data)
        return Artifact(path=str(self.path.absolute()), sha256=sha256, size_bytes=size, format=self.format)

    def executable(self, folder: Path) -> Path:
        """The absolute path that runtimes open: the file itself, or a copy in `folder` where they would refuse it."""
        if self.format != "onnx":
            return self.path.absolute()
        file = _single(self.path) if self.path.is_dir() else self.path
        made = onnxfile.executable(file, self.data, folder)
        return self.path.absolute() if made == file else made.absolute()


def _example(shape: tuple[int | None, ...] | None) -> tuple[int, ...]:
    """The shape of an image with what a file leaves open as in ImageNet: 3 channels, which may come last, and 224
    pixels."""
    if shape is None:
        return 3, 224, 224
    # channels
    last = len(shape) == 3 and shape[0] is None and shape[2] in (1, 3)
    usual = (224, 224, 3) if last else (3, 224, 224) if len(shape) == 3 else (224,) * len(shape)
    return tuple(size if size is not None else open_ for size, open_ in zip(shape, usual, strict=True))


def inspect(path: Path) -> ModelFile:
    """Look at a model file, or at a folder with one .onnx file and its external data, or with one OpenVINO .xml file.

    Raises
    ------
    ValueError
        If there is no such file, it is no model, it has several inputs, or it is cut off: one line.
    """
    try:
        return _inspected(path)
    except _Unlike as error:
        raise ValueError(f"{path} is not a model that is executed here ({error}); {ACCEPTED}") from None


class _Unlike(Exception):
    """A file is none of what is accepted; what it is instead."""


def _single(folder: Path) -> Path:
    """The one model of a folder."""
    found = sorted(folder.glob("*.onnx")) or sorted(folder.glob("*.xml"))
    if len(found) != 1:
        several = f", it has {', '.join(file.name for file in found)}: name one of them" if found else ""
        raise ValueError(f"{folder}: a folder must hold one .onnx file or one OpenVINO .xml file{several}")
    return found[0]


def _inspected(path: Path) -> ModelFile:
    file = _single(path) if path.is_dir() else path
    if what := _filekinds.irregular(file):
        raise ValueError(f"{file} is {what}, not a regular file; {ACCEPTED}")
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    head = _filekinds.head_of(file)
    if head[:4] in ENGINES:
        return ModelFile(path=path, format="engine", **_profile(path))
    if head.startswith(_filekinds.ZIPS):
        return _torchscript(path)
    if _filekinds.is_safetensors(head):
        return _safetensors(path)
    if head.lstrip()[:1] == b"{":
        return _null(path)
    if head.lstrip().startswith(openvinofile.HEADS):
        return _openvino(path, file)
    if what := _other(file, head):
        raise _Unlike(what)
    return _onnx(path, file)


def _other(file: Path, head: bytes) -> str | None:
    """What a file is that is no model, by its first bytes; None: it may be ONNX, which has none of its own."""
    if head[:1] == torchfile.PICKLE:
        return torchfile.pickled(file)
    if file.suffix == ".bin" and file.with_suffix(".xml").is_file():
        return f"the weights of {file.with_suffix('.xml').name}: give that"
    found = _filekinds.kind(file)
    export = next((how for start, how in EXPORT.items() if found and found.startswith(start)), "")
    return f"{found}{export}" if found else None


def _onnx(path: Path, file: Path) -> ModelFile:
    try:
        found = onnxfile.describe(file)
    except onnxfile.NotOnnx as error:
        named = file.suffix.lower()
        if named in SUFFIXES:
            raise _Unlike(
                f"its name ends in {named}, but its content is not {SUFFIXES[named]}; it is damaged, or another file"
            ) from None
        raise _Unlike(f"its first bytes are those of no known kind, and as ONNX it has {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return ModelFile(path=path, format="onnx", **found._asdict())


def _openvino(path: Path, file: Path) -> ModelFile:
    try:
        batch, shape, dtype, data = openvinofile.describe(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return ModelFile(path=file, format="openvino", batch=batch, shape=shape, dtype=dtype, data=data)


def _torchscript(path: Path) -> ModelFile:
    from tasks.forms import told

    try:
        dtype = torchfile.input_type(path)
    except ValueError as error:
        raise _Unlike(str(error)) from None
    with zipfile.ZipFile(path) as archive:
        said = told.export(told.extras(archive, path), path)
    return ModelFile(path=path, format="torchscript", shape=said.image_shape if said else None, dtype=dtype)


def _safetensors(path: Path) -> ModelFile:
    from safetensors import SafetensorError, safe_open

    from tasks.forms import told

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is a safetensors file that is cut off or damaged ({error}): {_filekinds.AGAIN}"
        ) from None
    if "burnish" not in metadata:
        raise ValueError(f"{path} is a safetensors file of weights without an architecture; {ACCEPTED}")
    built = told.architecture(metadata["burnish"], path)
    return ModelFile(path=path, format="safetensors", shape=(built.in_channels, built.image_size, built.image_size))


def _null(path: Path) -> ModelFile:
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise _Unlike(str(error)) from None
    if not isinstance(found, dict) or "milliseconds" not in found:
        raise _Unlike("JSON without milliseconds")
    return ModelFile(path=path, format="null", shape=(1,))


def _profile(path: Path) -> dict[str, Any]:
    """Input shape and type of an engine, as TensorRT tells them; nothing where no GPU can open it."""
    from tasks import runtimes

    adapter: Any = runtimes.load("tensorrt")
    return {} if adapter.unavailable("cuda:0") else adapter.describe(path, "cuda:0")
