"""What a model file is: its format, told from its content, and the shape and type of its input.

Files have one input whose first axis is the batch.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from tasks.records import Artifact

ENGINES = (b"ftrt", b"vtrt")  # first bytes of TensorRT's and of TensorRT for RTX's engines
ACCEPTED = "accepted: ONNX, TorchScript, TensorRT engines, safetensors written by burnish"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model file. `batch` and entries of `shape` (one image, without the batch) are None where they are dynamic."""

    path: Path
    format: str
    batch: int | None = None
    shape: tuple[int | None, ...] | None = None
    """None: the file does not say."""
    dtype: str = "float32"

    def inputs(self, rows: int, asked: tuple[int, ...] | None, seed: int = 0) -> np.ndarray:
        """Random inputs, (rows, ...): normal floats, bytes 0 to 255, other integers 0 or 1.

        Raises
        ------
        ValueError
            If the shape of an image is not known from file and `asked` together, or the two contradict each other.
        """
        import numpy as np

        from tasks import machine

        shape, rng = self._fitted(asked), np.random.default_rng(seed)
        size, free = rows * math.prod(shape) * np.dtype(self.dtype).itemsize, machine.memory_available()
        if 2 * size > free:  # twice: this process holds them, and the one that is measured
            raise ValueError(f"{self.path}: {rows} inputs of shape {'x'.join(map(str, shape))} take {size / 1e9:.3g} GB "
                             f"twice, {free / 1e9:.3g} GB of memory are free; ask for smaller batches or images")  # fmt: skip
        if self.dtype.startswith("float"):
            return rng.standard_normal((rows, *shape), np.float32).astype(self.dtype)
        high = 256 if self.dtype == "uint8" else 2
        return rng.integers(0, high, (rows, *shape)).astype(self.dtype)

    def _fitted(self, asked: tuple[int, ...] | None) -> tuple[int, ...]:
        known = self.shape if self.shape is not None else None if asked is None else (None,) * len(asked)
        words = "an unknown shape" if self.shape is None else "x".join(str(n or "?") for n in self.shape)
        example = "--input-shape 3,224,224 (one image, without the batch)"
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
        """The file as an artifact, at its absolute path."""
        from tasks.records import Artifact
        from tasks.store import content

        sha256, size = content(self.path)
        return Artifact(path=str(self.path.absolute()), sha256=sha256, size_bytes=size, format=self.format)


def inspect(path: Path) -> ModelFile:
    """Look at a model file, or at a folder with one .onnx file and its external data.

    Raises
    ------
    ValueError
        If there is no such file, it is no model, it has several inputs, or it is cut off: one line.
    """
    if path.is_dir():
        if len(list(path.glob("*.onnx"))) != 1:
            raise ValueError(f"{path}: a folder must hold one .onnx file")
        return _onnx(path, next(path.glob("*.onnx")))
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] in ENGINES:
        return ModelFile(path=path, format="engine", **_profile(path))
    if head[:4] == b"PK\x03\x04":
        return _torchscript(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _safetensors(path)
    if head.lstrip()[:1] == b"{":
        return _null(path)
    return _onnx(path, path)


def _onnx(path: Path, file: Path) -> ModelFile:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(
            str(file), format="protobuf", load_external_data=False
        )  # not by the name: .json is tried as JSON
        onnx.checker.check_model(str(file))  # by its path: it looks for external data beside it
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise ValueError(f"{path} is not a model ({what}); {ACCEPTED}") from None
    if not model.graph.node:
        raise ValueError(f"{path} is not a model (no operators); {ACCEPTED}")
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ValueError(
            f"{path} has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); models of one are measured"
        )
    tensor = inputs[0].type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    if not sizes:
        raise ValueError(f"{path}: its input {inputs[0].name} has no batch axis")
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return ModelFile(path=path, format="onnx", batch=sizes[0], shape=tuple(sizes[1:]), dtype=dtype)


def _torchscript(path: Path) -> ModelFile:
    from tasks import told

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            said = told.export(told.extras(archive, path), path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted
        raise ValueError(f"{path} is not a model ({error}: cut off?); {ACCEPTED}") from None
    if not any("/code/" in name for name in names):
        raise ValueError(f"{path} is a zip file without TorchScript code (a state dict?); {ACCEPTED}")
    return ModelFile(path=path, format="torchscript", shape=said.image_shape if said else None)


def _safetensors(path: Path) -> ModelFile:
    from safetensors import SafetensorError, safe_open

    from tasks import told

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    if "burnish" not in metadata:
        raise ValueError(f"{path} holds weights without an architecture; {ACCEPTED}")
    built = told.architecture(metadata["burnish"], path)
    return ModelFile(path=path, format="safetensors", shape=(built.in_channels, built.image_size, built.image_size))


def _null(path: Path) -> ModelFile:
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a model ({error}); {ACCEPTED}") from None
    if not isinstance(found, dict) or "milliseconds" not in found:
        raise ValueError(f"{path} is not a model (JSON without milliseconds); {ACCEPTED}")
    return ModelFile(path=path, format="null", shape=(1,))


def _profile(path: Path) -> dict[str, Any]:
    """Input shape and type of an engine, as TensorRT tells them; nothing where no GPU can open it."""
    from tasks import runtimes

    adapter: Any = runtimes.load("tensorrt")
    return {} if adapter.unavailable("cuda:0") else adapter.describe(path, "cuda:0")
