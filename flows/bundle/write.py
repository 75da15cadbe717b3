"""Write a bundle: a model file with all that is needed to use, check, trace and serve it without burnish."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.bundle import golden
from flows.bundle.folded import fold, image_batch
from flows.bundle.lineage import lineage
from flows.bundle.preparation import preparation_of
from flows.bundle.readme import readme
from flows.settings import Mistake
from tasks import runtimes
from tasks.machine.files import file_sha256
from tasks.tables.figures import words
from tasks.tables.variants import options_in

if TYPE_CHECKING:
    from flows.bundle.source import Source

SERVED = {"onnxruntime": "onnxruntime", "openvino": "openvino", "openvino_bf16": "openvino", "torchscript": "torch"}
"""Runtimes that can execute a file without burnish, each with the name of its package for CPUs."""
LIBRARIES = ("numpy", "pillow", "starlette", "uvicorn")
ROOT = Path(__file__).parents[2]
DEPLOYED = ROOT / "flows" / "commands" / "deployed"
TASKS = ROOT / "tasks"
VERIFYING = {
    **{DEPLOYED / name: name for name in ("verify.py", "model.py", "preparation.py")},
    TASKS / "datasets" / "_decode.py": "decode.py",
    TASKS / "datasets" / "_pixels.py": "pixels.py",
    TASKS / "machine" / "quota.py": "quota.py",
}
"""Files of burnish by which a bundle is used and verified, each with its name in the bundle."""
SERVING = {
    DEPLOYED / name: name
    for name in (
        "app.py",
        "batches.py",
        "bodies.py",
        "connections.py",
        "decoders.py",
        "metrics.py",
        "page.html",
        "Dockerfile",
    )
}
"""Files of burnish by which a bundle is served."""
FOLDED = "folded.onnx"
SUMS = "SHA256SUMS"
BATCHED = ("onnxruntime", "torchscript")
"""Runtimes in which a model takes any number of images per query. OpenVINO compiles it for one number; with a free
one, a query took 1.17 times as long (tasks/runtimes/_openvino.py)."""
PAYS = 1.2
"""The server answers several images in one query where the run measured so many times the images per second of single
ones, at least."""
MOST_BATCH = 32
"""Greatest number of images in a query of the server, as in deployed/batches.py."""
Row = dict[str, Any]


def write(source: Source, folder: Path, *, folded: bool = False) -> list[str]:
    """Write a bundle into an empty folder, and return notes for the user.

    `folded` says whether to write the model with its preparation in the graph, too.
    """
    file_format = source.variant["format"]
    if folded and file_format != "onnx":
        raise Mistake(f"--folded: {words(source.row)} is {file_format}; a preparation is folded into ONNX alone")
    name = _copy_model(source.stored(source.variant), file_format, folder)
    preparation = preparation_of(source)
    about = _about(source, folder / name, preparation)
    notes = _write_golden(source, folder, about, preparation)
    if folded:
        about["folded"] = FOLDED
        fold(folder / name, folder / FOLDED, preparation)
        _compare_folded(folder, about)
    history = lineage(source, _version("burnish"))
    _write_json(folder / "preparation.json", preparation)
    _write_json(folder / "lineage.json", history)
    labels = [" ".join(label.split()) for label in preparation["classes"]]
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    about["sums"]["preparation.json"] = file_sha256(folder / "preparation.json")
    _write_json(folder / "model.json", about)
    # Up to here everything is data, which must stay as it is; what follows may be changed by whoever uses the bundle.
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines))
    text = readme(about, preparation, history, SERVED[about["runtime"]])
    (folder / "README.md").write_text(text, encoding="utf-8")
    copy_code(folder, VERIFYING | SERVING)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements(about["runtime"])))
    return notes


def copy_code(folder: Path, files: dict[Path, str]) -> None:
    """Copy files of burnish into a folder, each to its name there."""
    for path, name in files.items():
        shutil.copyfile(path, folder / name)


def _write_json(path: Path, content: Row) -> None:
    """Write JSON in ASCII, which whoever uses the bundle reads alike in every encoding."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def _about(source: Source, file: Path, preparation: Row) -> Row:
    """Return what model.json holds: what the server and verify.py need to run the model `file`, and what it is."""
    row = source.row
    variant = source.variant
    threads = _threads(source)
    options = list(options_in(variant))
    any_batch = row["runtime"] in BATCHED and (variant["format"] != "onnx" or _takes_any_batch(file))
    return {
        "file": file.name,
        "folded": None,
        "sums": {path.name: file_sha256(path) for path in sorted(file.parent.iterdir())},
        "runtime": row["runtime"],
        "format": variant["format"],
        "precision": variant["precision"],
        "image_shape": [preparation["channels"], preparation["image_size"], preparation["image_size"]],
        "top1": row["top1"],
        "sha256": variant["sha256"],
        "size_bytes": variant["size_bytes"],
        "run": source.run,
        "variant": variant["name"],
        "batch_size": row["batch_size"],
        "latency_median_ms": row["latency_median_ms"],
        "any_batch": any_batch,
        "batch": _paying_batch(source.rows_of_candidate("benchmarks")) if any_batch else 1,
        "burnish": _version("burnish"),
        "threads": threads,
        "options": options,
        "settings": runtimes.settings_of(row["runtime"], threads, options),
    }


def _write_golden(source: Source, folder: Path, about: Row, preparation: Row) -> list[str]:
    """Write the golden images and outputs, or return a note that says why there are none."""
    try:
        golden.write(source, folder, about, preparation)
    except golden.NoGolden as reason:
        return [f"note: no golden outputs, so that the bundle cannot be verified: {reason}"]
    return []


def _compare_folded(folder: Path, about: Row) -> None:
    """Raise RuntimeError where the folded model's probabilities are not those of the model's golden logits."""
    if not (folder / golden.FOLDER / "inputs.npy").exists():
        raise Mistake("--folded: without golden outputs the folded model cannot be checked, so it is not written")
    pixels, logits = (np.load(folder / golden.FOLDER / f"{name}.npy") for name in ("inputs", "logits"))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True)
    difference = float(np.abs(golden.outputs(folder / FOLDED, about, pixels) - expected).max())
    tolerance = golden.TOLERANCES[golden.precision_of(about["runtime"], about["precision"])]
    if not difference <= tolerance:
        raise RuntimeError(
            f"--folded: the folded model differs from {about['file']} by {difference:.2g} in a probability, accepted "
            f"is {tolerance:g}; nothing was written"
        )


def _takes_any_batch(file: Path) -> bool:
    """Return whether an ONNX file gives an image the same outputs in a batch of any size.

    Dynamic quantization takes one scale for the whole batch, so that an image's outputs depend on the others.
    """
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    constants = {constant.name for constant in model.graph.initializer}
    source = next(value for value in model.graph.input if value.name not in constants)
    dynamic = any(node.op_type.startswith("DynamicQuantize") for node in model.graph.node)
    return isinstance(image_batch(source), str) and not dynamic


def _paying_batch(benchmarks: list[Row]) -> int:
    """Return how many images a query of the server should have at most: 1, unless the run measured that more pay.

    `benchmarks` are the candidate's rows of that table, one per batch size.
    """
    rates = {
        measured["batch_size"]: measured["images_per_second"]
        for measured in benchmarks
        if measured["status"] == "ok"
        and not measured["conditions"]
        and measured["batch_size"] <= MOST_BATCH
        and measured["images_per_second"]
    }
    best = max(rates, key=lambda size: rates[size], default=1)
    return best if 1 in rates and rates[best] >= PAYS * rates[1] else 1


def _copy_model(source: Path, file_format: str, folder: Path) -> str:
    """Copy a variant's file, or its folder with an ONNX or OpenVINO model, and return the name of the model file."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    model = next(path for path in files if source.is_file() or path.suffix in (".onnx", ".xml"))
    for path in files:
        shutil.copyfile(path, folder / path.name)
    name = {"onnx": "model.onnx", "openvino": "model.xml", "torchscript": "model.pt"}[file_format]
    (folder / model.name).rename(folder / name)
    return name


def _threads(source: Source) -> int:
    """Return the number of threads with which the deployed row was measured."""
    threads = source.measured().get("threads")
    if threads is None:
        raise Mistake(
            f"table benchmarks of {source.run} does not say how many threads {words(source.row)} was measured with; "
            "run the study again"
        )
    return int(threads)


def _requirements(runtime: str) -> list[str]:
    """Return the lines of requirements.txt, pinned to the versions with which the model was measured.

    Where ONNX Runtime's build for GPUs is installed, its build for CPUs of the same version is taken.
    """
    library = SERVED[runtime]
    installed = "onnxruntime-gpu" if library == "onnxruntime" and _version("onnxruntime-gpu") else library
    versions = {name: _version(name) for name in LIBRARIES} | {library: _version(installed)}
    return [f"{name}=={(version or '').partition('+')[0]}" for name, version in sorted(versions.items())]


def _version(name: str) -> str | None:
    """Return the version of an installed package, or None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
