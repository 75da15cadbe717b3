"""`burnish deploy`: write a run's winner as a folder that serves it without burnish, over HTTP or as a function."""

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
from tasks.forms import description
from tasks.machine.files import file_sha256, replace
from tasks.machine.space import watched
from tasks.records import Artifact
from tasks.tables.figures import exact_points, sig, words
from tasks.tables.goals import BEST, cost, over_limit, written
from tasks.tables.rule import EPS, accurate

if TYPE_CHECKING:
    import argparse

    from tasks.records import Study

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVED = {"onnxruntime": "onnxruntime", "openvino": "openvino", "openvino_bf16": "openvino", "torchscript": "torch"}
"""Runtimes that can execute a file without burnish, each with the name of its package for CPUs."""
LIBRARIES = ("numpy", "pillow", "starlette", "uvicorn")
COPIED = {
    **{
        HERE / "deployed" / name: name for name in ("app.py", "connections.py", "decoders.py", "model.py", "Dockerfile")
    },
    ROOT / "tasks" / "datasets" / "_decode.py": "decode.py",
    ROOT / "tasks" / "datasets" / "_pixels.py": "pixels.py",
    ROOT / "tasks" / "machine" / "quota.py": "quota.py",
}
"""Files of burnish that are copied into the folder, each with its name there."""
Row = dict[str, Any]


def main(arguments: argparse.Namespace) -> None:
    """Write the folder `arguments.to`, as a whole or not at all, and print what it serves and how it is started."""
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
    """Choose the row of the summary to deploy: the named variant, the winner, or the fastest that can be served.

    The server answers one image per query, so the row is the one for batch size 1 where that was measured.

    Returns
    -------
    tuple
        The row, and notes for the user.

    Raises
    ------
    Mistake
        If the run has no winner and no variant is named, or the chosen variant cannot be served without burnish.
    """
    rows = tables.read(out, "summary", run).collect().to_dicts()
    select = _study(out, run).select
    winner = next((row for row in rows if row["role"] == "winner"), None)
    batch = winner["batch_size"] if winner else min(row["batch_size"] for row in rows)
    servable = sorted(
        (row for row in rows if _is_servable(row) and row["batch_size"] == batch),
        key=lambda row: (cost(row, select.by), row["latency_median_ms"]),
    )
    accepted = ", ".join(dict.fromkeys(row["variant"] for row in servable)) or "none of this run"
    rule = f"only files measured on cpu in {', '.join(SERVED)} can be served alone; accepted: {accepted}"
    if variant is not None:
        named = next((row for row in servable if row["variant"] == variant), None)
        if named is None:
            raise Mistake(f"--variant {variant}: {_why_not_servable(out, run, rows, variant)}; {rule}")
        row, notes = _at_batch_size_1(rows, named)
        return row, [*_doubts(row, winner, _study(out, run)), *notes]
    if winner is None:
        raise Mistake(
            f"run {run} has no winner, so there is nothing to deploy by itself; its report says why, and "
            f"--variant NAME deploys a form of your choice; {rule}"
        )
    if winner in servable:
        return _at_batch_size_1(rows, winner)
    refused = f"the winner, {words(winner)}, cannot be served alone"
    eligible = [row for row in servable if row["eligible"]]
    if not eligible:
        raise Mistake(f"{refused}, nor any form that is accurate enough; {rule} (--variant NAME)")
    row, notes = _at_batch_size_1(rows, eligible[0])
    return row, [f"{refused}; deployed instead, the {BEST[select.by]} that can: {words(eligible[0])}", *notes]


def _is_servable(row: Row) -> bool:
    """Return whether a row was measured as the server runs it: on a CPU, in a runtime that needs no burnish."""
    return row["status"] == "ok" and row["runtime"] in SERVED and row["device"] == "cpu"


def _why_not_servable(out: Path, run: str, rows: list[Row], variant: str) -> str:
    """Return why the variant that the user named cannot be deployed."""
    if any(row["variant"] == variant for row in rows):
        return "cannot be served"
    variants = set(tables.read(out, "variants", run).select("name").collect()["name"])
    return "was made, but not measured" if variant in variants else f"is no variant of {run}"


def _study(out: Path, run: str) -> Study:
    """Return the study that a run executed."""
    return load(str(out / "runs" / run / "study.toml"), [])


def _doubts(row: Row, winner: Row | None, study: Study) -> list[str]:
    """Return in one note why the row that the user named is not the winner; no note if it is the winner."""
    if row["role"] == "winner":
        return []
    reasons = []
    if row["conditions"]:
        reasons.append(f"it was measured under bad conditions ({row['conditions']}), so that its figures may be wrong")
    allowed = study.select.max_drop
    if row["drop"] is None:
        reasons.append("how much accuracy it loses is not known")
    elif row["drop"] > allowed + EPS:
        reasons.append(f"it loses {row['drop']:.3f} of the reference's accuracy, where the study allows {allowed:g}")
    elif not accurate(row, study):
        reasons.append(f"it is not {study.select.confidence} to lose at most {exact_points(allowed)}")
    reasons += [f"it is over a limit: {limit}" for limit in over_limit(row, study.select)]
    about_winner = "there is none"
    if winner is not None:
        about_winner = f"that is {words(winner)}, at {written(winner, study.select.by)}"
        if not reasons:
            reasons.append(f"it {'takes' if study.select.by == 'latency' else 'has'} {written(row, study.select.by)}")
    return ["; ".join([f"note: {words(row)}, is not the run's winner ({about_winner})", *reasons])]


def _at_batch_size_1(rows: list[Row], row: Row) -> tuple[Row, list[str]]:
    """Return the same candidate's row for batch size 1, and a note where the row was chosen at another batch size."""
    if row["batch_size"] == 1:
        return row, []
    note = f"it was chosen at batch size {row['batch_size']}, the server answers one image per query"
    for single in rows:
        same = all(single[key] == row[key] for key in ("variant", "runtime", "device"))
        if same and single["batch_size"] == 1 and single["status"] == "ok":
            return single, [f"{note}: {sig(single['latency_median_ms'])} ms, measured"]
    return row, [f"{note}, which this run did not measure"]


def write(out: Path, run: str, row: Row, folder: Path) -> None:
    """Write the model, model.json, the server, its requirements and its Dockerfile into a folder."""
    variants = {variant["name"]: variant for variant in tables.read(out, "variants", run).collect().to_dicts()}
    variant = variants[row["variant"]]
    name = _copy_model(_stored(out, variant), variant["format"], folder)
    data = load(str(out / "runs" / run / "study.toml"), []).data
    threads = _threads(out, run, row)
    about = {
        "file": name,
        "sums": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        "runtime": row["runtime"],
        "format": variant["format"],
        "precision": variant["precision"],
        **_described(out, variants, variant),
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


def _copy_model(source: Path, file_format: str, folder: Path) -> str:
    """Copy a variant's file, or its folder with an ONNX or OpenVINO model, and return the name of the model file."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    model = next(path for path in files if source.is_file() or path.suffix in (".onnx", ".xml"))
    for path in files:
        shutil.copyfile(path, folder / path.name)
    name = {"onnx": "model.onnx", "openvino": "model.xml", "torchscript": "model.pt"}[file_format]
    (folder / model.name).rename(folder / name)
    return name


def _threads(out: Path, run: str, row: Row) -> int:
    """Return the number of threads with which a row was measured."""
    keys = ("variant", "runtime", "device", "batch_size")
    benchmarks = tables.read(out, "benchmarks", run).collect().to_dicts()
    threads = [measured["threads"] for measured in benchmarks if all(measured[key] == row[key] for key in keys)]
    if not threads or threads[0] is None:
        raise Mistake(
            f"table benchmarks of {run} does not say how many threads {words(row)} was measured with; run the "
            "study again"
        )
    return int(threads[0])


def _stored(out: Path, variant: Row) -> Path:
    """Return the path of a variant's file in the store."""
    fields = {key: variant[key] for key in ("path", "sha256", "size_bytes", "format")}
    return Store(out / "store").get(Artifact(**fields))


def _described(out: Path, variants: dict[str, Row], variant: Row) -> Row:
    """Return classes, mean, standard deviation and shape of an image, as the export wrote them into the file.

    An int8 file may lack them, and an OpenVINO model has none; then they come from its parent.
    """
    while variant["format"] in ("onnx", "openvino", "torchscript"):
        if variant["format"] != "openvino":
            path = _stored(out, variant)
            metadata = _torchscript_metadata(path) if variant["format"] == "torchscript" else _onnx_metadata(path)
            exported = description.export(metadata, path)
            if exported is not None:
                return exported.model_dump(mode="json", exclude={"kind"})
        variant = variants[variant["parent"]]
    raise Mistake(f"{variant['name']}: its export does not say its classes and normalisation; run the study again")


def _onnx_metadata(path: Path) -> dict[str, str]:
    import onnx

    file = path if path.is_file() else next(path.glob("*.onnx"))
    entries = onnx.load(str(file), load_external_data=False).metadata_props
    return {entry.key: entry.value for entry in entries}


def _torchscript_metadata(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return description.extras(archive, path)


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
