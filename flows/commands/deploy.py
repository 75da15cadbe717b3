"""`burnish deploy`: the winner of a run as a folder that serves it, without burnish, over HTTP or as a function."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.runs.choice import chosen_run
from flows.runs.damage import anew, check
from flows.settings import Mistake, load
from tasks import runtimes, tables
from tasks.caching.store import Store
from tasks.forms import told
from tasks.machine.files import file_sha256, replace
from tasks.machine.space import watched
from tasks.records import Artifact
from tasks.tables.figures import sig, words
from tasks.tables.rule import EPS

if TYPE_CHECKING:
    import argparse

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVED = {"onnxruntime": "onnxruntime", "openvino": "openvino", "openvino_bf16": "openvino", "torchscript": "torch"}
"""Runtimes that execute a file without burnish -> their library on the package index, for a CPU."""
LIBRARIES = ("numpy", "pillow", "starlette", "uvicorn")
COPIED = {
    **{
        HERE / "deployed" / name: name for name in ("app.py", "connections.py", "decoders.py", "model.py", "Dockerfile")
    },
    ROOT / "tasks" / "datasets" / "_decode.py": "decode.py",
    ROOT / "tasks" / "datasets" / "_pixels.py": "pixels.py",
    ROOT / "tasks" / "machine" / "quota.py": "quota.py",
}
Row = dict[str, Any]


def main(arguments: argparse.Namespace) -> None:
    """Write the folder `arguments.to`, whole or not at all; say what was chosen and how to start it."""
    out, target = Path(arguments.out), Path(arguments.to)
    run = chosen_run(out, arguments.run, "result.json")
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "model.json").is_file())):
        raise Mistake(f"--to {target}: exists, and is no folder that `burnish deploy` wrote; name a new one")
    check(out, run, ("summary", "variants", "benchmarks"))
    row, notes = choose(out, run, arguments.variant)
    for note in notes:
        print(note)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".deploy-") as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        with watched(target, option="--to"), anew(out, run):
            write(out, run, row, folder)
            folder.chmod(0o755)
            replace(folder, target.absolute())
    print(
        f"{words(row)} of {run}: {target}\n"
        f"start it with: cd {target} && pip install -r requirements.txt && python app.py; as an image: docker "
        f"build {target}; see {target}/app.py"
    )


def choose(out: Path, run: str, variant: str | None) -> tuple[Row, list[str]]:
    """The row of the summary to deploy, and what the user should know: the winner, or the fastest that can be served.

    The server answers one image a query, so the row is that of batch size 1 where it was measured.

    Raises
    ------
    Mistake
        If the run has no winner and no variant is named, or what is arguments for cannot be served alone.
    """
    rows = tables.read(out, "summary", run).collect().to_dicts()
    winner = next((row for row in rows if row["role"] == "winner"), None)
    batch = winner["batch_size"] if winner else min(row["batch_size"] for row in rows)
    able = sorted(
        (
            row
            for row in rows
            if row["status"] == "ok"
            and row["runtime"] in SERVED
            and row["device"] == "cpu"
            and row["batch_size"] == batch
        ),
        key=lambda row: row["latency_median_ms"],
    )
    accepted = ", ".join(dict.fromkeys(row["variant"] for row in able)) or "none of this run"
    kinds = f"only files measured on cpu in {', '.join(SERVED)} can be served alone; accepted: {accepted}"
    if variant is not None:
        found = [row for row in able if row["variant"] == variant]
        if not found:
            made = set(tables.read(out, "variants", run).select("name").collect()["name"])
            known = "was made, but not measured" if variant in made else f"is no variant of {run}"
            known = "cannot be served" if any(row["variant"] == variant for row in rows) else known
            raise Mistake(f"--variant {variant}: {known}; {kinds}")
        row, notes = _single(rows, found[0])
        return row, [*_doubts(row, winner, _allowed_drop(out, run)), *notes]
    if winner is None:
        raise Mistake(
            f"run {run} has no winner, so there is nothing to deploy by itself; its report says why, and "
            f"--variant NAME deploys a form of your choice; {kinds}"
        )
    if winner in able:
        return _single(rows, winner)
    what, fit = f"the winner, {words(winner)},", [row for row in able if row["eligible"]]
    if not fit:
        raise Mistake(f"{what} cannot be served alone, nor any form that is accurate enough; {kinds} (--variant NAME)")
    row, notes = _single(rows, fit[0])
    return row, [f"{what} cannot be served alone; deployed instead, the fastest that can: {words(fit[0])}", *notes]


def _allowed_drop(out: Path, run: str) -> float:
    """Accuracy that a winner of the run may lose."""
    return load(str(out / "runs" / run / "study.toml"), []).select.max_drop


def _doubts(row: Row, winner: Row | None, allowed: float) -> list[str]:
    """Why a row that was arguments for by name is not the winner, in one line; nothing of the winner itself."""
    if row["role"] == "winner":
        return []
    why = []
    if row["conditions"]:
        why.append(f"it was measured under bad conditions ({row['conditions']}), so that its figures may be wrong")
    if row["drop"] is None:
        why.append("how much accuracy it loses is not known")
    elif row["drop"] > allowed + EPS:
        why.append(f"it loses {row['drop']:.3f} of the reference's accuracy, where the study allows {allowed:g}")
    told = "there is none"
    if winner is not None:
        told = f"that is {words(winner)}, at {sig(winner['latency_median_ms'])} ms"
        if not why:
            why.append(f"it takes {sig(row['latency_median_ms'])} ms")
    return ["; ".join([f"note: {words(row)}, is not the run's winner ({told})", *why])]


def _single(rows: list[Row], row: Row) -> tuple[Row, list[str]]:
    """The same form at batch size 1, and what to say where that is not how it was chosen."""
    if row["batch_size"] == 1:
        return row, []
    same = ("variant", "runtime", "device")
    found = [
        one for one in rows if one["batch_size"] == 1 and one["status"] == "ok" and all(one[k] == row[k] for k in same)
    ]
    told = f"it was chosen at batch size {row['batch_size']}, the server answers one image a query"
    if not found:
        return row, [f"{told}, which this run did not measure"]
    return found[0], [f"{told}: {sig(found[0]['latency_median_ms'])} ms, measured"]


def write(out: Path, run: str, row: Row, folder: Path) -> None:
    """Model, model.json, server, requirements and Dockerfile."""
    variants = {one["name"]: one for one in tables.read(out, "variants", run).collect().to_dicts()}
    variant = variants[row["variant"]]
    source = _stored(out, variant)
    # a folder: ONNX and its external data
    files = [source] if source.is_file() else sorted(source.iterdir())
    model = next(path for path in files if source.is_file() or path.suffix == ".onnx")
    for path in files:
        shutil.copyfile(path, folder / path.name)
    suffix = {"onnx": ".onnx", "torchscript": ".pt"}[variant["format"]]
    name = f"model{suffix}"
    (folder / model.name).rename(folder / name)
    data = load(str(out / "runs" / run / "study.toml"), []).data
    threads = _threads(out, run, row)
    about = {
        "file": name,
        "sums": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        "runtime": row["runtime"],
        "format": variant["format"],
        "precision": variant["precision"],
        **_told(out, variants, variant),
        "resize": data.resize,
        "top1": row["top1"],
        "sha256": variant["sha256"],
        "size_bytes": variant["size_bytes"],
        "run": run,
        "variant": variant["name"],
        "batch_size": row["batch_size"],
        "latency_median_ms": row["latency_median_ms"],
        "burnish": _version("burnish"),
        "threads": threads,
        "settings": runtimes.load(row["runtime"]).settings(threads),  # type: ignore[attr-defined]  # those SERVED have it
    }
    (folder / "model.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    for path, copy in COPIED.items():
        shutil.copyfile(path, folder / copy)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements(row["runtime"])))


def _threads(out: Path, run: str, row: Row) -> int:
    """Threads that a row was measured with."""
    keys = ("variant", "runtime", "device", "batch_size")
    measured = tables.read(out, "benchmarks", run).collect().to_dicts()
    found = [one["threads"] for one in measured if all(one[key] == row[key] for key in keys)]
    if not found or found[0] is None:
        raise Mistake(
            f"table benchmarks of {run} does not say how many threads {words(row)} was measured with; run the "
            "study again"
        )
    return int(found[0])


def _stored(out: Path, variant: Row) -> Path:
    keys = {key: variant[key] for key in ("path", "sha256", "size_bytes", "format")}
    return Store(out / "store").get(Artifact(**keys))


def _told(out: Path, variants: dict[str, Row], variant: Row) -> Row:
    """Classes, mean, std and shape of an image, as the export wrote them into the file; int8 files are arguments their
    parent."""
    while variant["format"] in ("onnx", "torchscript"):
        path = _stored(out, variant)
        said = told.export((_script if variant["format"] == "torchscript" else _onnx)(path), path)
        if said is not None:
            return said.model_dump(mode="json", exclude={"kind"})
        variant = variants[variant["parent"]]
    raise Mistake(f"{variant['name']}: its export does not say its classes and normalisation; run the study again")


def _onnx(path: Path) -> dict[str, str]:
    import onnx

    file = path if path.is_file() else next(path.glob("*.onnx"))
    found = onnx.load(str(file), load_external_data=False).metadata_props
    return {entry.key: entry.value for entry in found}


def _script(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return told.extras(archive, path)


def _requirements(runtime: str) -> list[str]:
    """Pinned as in this environment, in which the model was measured; ONNX Runtime's build for CPUs has the same
    version."""
    library = SERVED[runtime]
    here = "onnxruntime-gpu" if library == "onnxruntime" and _version("onnxruntime-gpu") else library
    versions = {name: _version(name) for name in LIBRARIES} | {library: _version(here)}
    return [f"{name}=={(version or '').partition('+')[0]}" for name, version in sorted(versions.items())]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
