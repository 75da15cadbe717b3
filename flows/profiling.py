"""`burnish profile`: where the time of a query goes, for a variant of a run or a model file, and why it is not less."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import profiling_charts
from flows.damage import anew, check
from flows.grids import count, grid
from flows.profiling_text import TOP, certificate, doubt, headline, text
from flows.settings import Mistake
from flows.trust import refuse_programs
from flows.unfinished import unfinished
from models._near import meant
from tasks import machine, runtimes, tables
from tasks.caching.store import Store
from tasks.forms import modelfile
from tasks.machine.files import replace, write_text
from tasks.machine.space import watched
from tasks.profilers import LEAST_QUERIES
from tasks.profiling.profile import Profile, profile, read
from tasks.records import Artifact, formats, plugins
from tasks.tables.figures import sig
from tasks.tables.summary import TRAINING

if TYPE_CHECKING:
    import argparse

    from flows.grids import Spec
    from tasks.forms.modelfile import ModelFile

FIRST = {
    "safetensors": "eager",
    "torchscript": "torchscript",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "engine": "tensorrt",
}
"""Runtime that a format is profiled in, unless another is asked for."""
NETRON = ("onnx", "torchscript", "openvino")
OPERATORS: list[Spec] = [
    ("Operator", "", "name", str),
    ("Module", "", "path", str),
    ("Type", "", "type", str),
    ("Kind", "", "kind", str),
    ("Precision", "", "precision", str),
    ("Calls", "", "calls", count),
    ("Time", "ms a query", "mean_ms", sig),
    ("Share", "%", "share", lambda share: f"{share * 100:.1f}"),
    ("Implementation", "", "provider", str),
]


def run_profile(asked: argparse.Namespace, newest: Any) -> None:
    """Profile, write the folder, print the table and the findings; for a run, write its report anew.

    `newest(out, run, file)` names the run that is meant.
    """
    # PyTorch's profiler tells on stderr of the GPU that is not there
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    out, run = Path(asked.out), None
    if not re.fullmatch(r"auto|cpu|cuda:\d+", asked.device):
        raise Mistake(f"--device: unknown device {asked.device!r}; accepted: cpu, cuda:N, auto")
    # auto: the GPU if there is one
    asked.device = machine.devices((asked.device,))[-1]
    if asked.target is not None and asked.run is None and Path(asked.target).exists():
        file, shape, name = modelfile.inspect(Path(asked.target)), None, Path(asked.target).name
        # a run's own TorchScript was made here, and the store knows its hash
        refuse_programs([file], asked.trust)
    else:
        if asked.target is not None and asked.run is None and Path(asked.target).suffix.lower() in modelfile.SUFFIXES:
            raise Mistake(f"{asked.target}: no such file")
        run = newest(out, asked.run, "study.toml" if asked.target else "result.json")
        if not (out / "tables" / "variants" / f"{run}.parquet").is_file() and (told := unfinished(out, run)):
            raise Mistake(told)
        check(out, run, ("summary", "variants", "datasets"))
        with anew(out, run):
            file, shape, name = _variant(out, run, asked.target or _reference(out, run))
    runtime = _runtime(asked, file, name)
    batch = asked.batch or file.batch or 1
    file.check_batches((batch,))
    inputs = file.inputs(batch, asked.input_shape or shape)
    label = name.replace("/", "_") if run else file.path.stem
    folder = (out / "runs" / run if run else out) / "profiles" / f"{label}-{runtime}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as scratch, watched(out):
        made, path = Path(scratch) / "profile", file.executable(Path(scratch) / "file")
        result = profile(
            path,
            file.format,
            runtime,
            asked.device,
            asked.threads or machine.cores(),
            inputs,
            made,
            name=name,
            queries=asked.queries,
        )
        _draw(result, made)
        folder = _kept(result, made, folder)
    print(text(result), end="")
    for note in file.notes:
        print(f"note: {name}: {note}")
    print(f"\nprofile: {folder}")
    if (folder / "tensorboard").is_dir():
        print(f"in TensorBoard: tensorboard --logdir {folder / 'tensorboard'}")
    if run:
        from flows import report

        why = "" if result.trusted else f" (without this profile: {doubt(result)})"
        print(f"report: {report.render(out, run)}{why}")
    if asked.netron:
        _show(file)


def _runtime(asked: argparse.Namespace, file: ModelFile, name: str) -> str:
    """The runtime asked for, or the plainest for the format; a Mistake where it cannot execute the file here."""
    runtime = asked.runtime or FIRST.get(file.format, file.format)
    if runtime not in plugins("runtimes"):
        raise Mistake(
            f"--runtime: unknown runtime {runtime!r}; {meant(runtime, plugins('runtimes'))}accepted: "
            f"{', '.join(plugins('runtimes'))}"
        )
    if file.format not in formats(runtime):
        able = [one for one in plugins("runtimes") if file.format in formats(one)]
        raise Mistake(f"{name} is {file.format}, which {runtime} does not execute; accepted: {', '.join(able)}")
    if (reason := runtimes.load(runtime).unavailable(asked.device)) is not None:
        raise Mistake(f"--runtime {runtime}: {reason}")
    if asked.netron and file.format not in NETRON:
        raise Mistake(f"--netron shows {', '.join(NETRON)} files, {name} is {file.format}")
    return runtime


def _draw(result: Profile, folder: Path) -> None:
    """Charts as SVG files and on TensorBoard's pages; of too few queries there are none."""
    charts = {"flame": profiling_charts.flame, "operators": profiling_charts.by_type} if result.enough else {}
    drawn = {name: figure.svg for name, draw in charts.items() if (figure := draw(result))}
    for chart, svg in drawn.items():
        write_text(folder / f"{chart}.svg", svg)
    if (folder / "tensorboard").is_dir():
        _to_tensorboard(result, drawn, folder / "tensorboard")


def _kept(result: Profile, made: Path, folder: Path) -> Path:
    """Put a profile where it belongs: beside an earlier one that can be trusted where itself cannot, else in its
    place."""
    disturbed = folder.with_name(f"{folder.name}-disturbed")
    try:
        earlier = json.loads((folder / "profile.json").read_text())
    except (FileNotFoundError, ValueError):
        # none, or a torn one, in whose place this one goes
        earlier = {"queries": 0}
    good = earlier["queries"] >= LEAST_QUERIES and earlier.get("conditions") is None
    target = disturbed if good and not result.trusted else folder
    replace(made, target)
    if result.trusted and disturbed.is_dir():
        shutil.rmtree(disturbed)
    return target


def _reference(out: Path, run: str) -> str:
    """A run's most accurate unpruned model in PyTorch, which its other forms are measured against."""
    rows = tables.read(out, "summary", run).collect().to_dicts()
    plain = [row for row in rows if row["runtime"] == "eager" and row["stage"] in TRAINING and row["status"] == "ok"]
    if not plain:
        raise Mistake(f"run {run} has no unpruned model in PyTorch; name a variant")
    return max(plain, key=lambda row: row["top1"] or 0.0)["variant"]


def _to_tensorboard(result: Profile, charts: dict[str, str], log: Path) -> None:
    """The operators, the findings and the charts (SVG) beside PyTorch's trace, for TensorBoard's own pages.

    The page for the trace (torch-tb-profiler, no longer maintained) loads Google Charts from the network; these do not.
    """
    import io

    import numpy as np
    import vl_convert
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    lines = [
        headline(result),
        "",
        "| operator | module | type | ms a query | share | by |",
        "|---|---|---|---|---|---|",
    ]
    for row in result.operators[:TOP] if result.enough else ():
        cells = (row["name"], row["path"], row["type"], sig(row["mean_ms"]), f"{row['share']:.1%}", row["provider"])
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    for finding in result.findings:
        lines += ["", f"**{finding.severity}: {finding.what}**. {finding.evidence}. Remedy: {finding.remedy}"]
    with SummaryWriter(str(log)) as writer:
        writer.add_text("profile", "\n".join(lines))
        for name, svg in charts.items():
            picture = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=2))).convert("RGBA")
            white = Image.new("RGBA", picture.size, "white")
            writer.add_image(name, np.asarray(Image.alpha_composite(white, picture).convert("RGB")), dataformats="HWC")


def _variant(out: Path, run: str, name: str) -> tuple[ModelFile, tuple[int, ...] | None, str]:
    """A variant's file, the shape of the run's images, and its name.

    Raises
    ------
    Mistake
        If the run has no such variant, or it was not made.
    """
    rows = {row["name"]: row for row in tables.read(out, "variants", run).collect().to_dicts()}
    if name not in rows:
        near = difflib.get_close_matches(name, rows, 3, 0.4) or list(rows)[:5]
        raise Mistake(f"{name} is neither a file nor a variant of run {run}; variants like it: {', '.join(near)}")
    row = rows[name]
    if row["status"] != "ok":
        raise Mistake(f"{name} was not made: {row['status']}, {row['error']}")
    artifact = Artifact(path=row["path"], sha256=row["sha256"], size_bytes=row["size_bytes"], format=row["format"])
    file = modelfile.inspect(Store(out / "store").get(artifact))
    data = tables.read(out, "datasets", run).first().collect().to_dicts()
    shape = (data[0]["channels"], data[0]["image_size"], data[0]["image_size"]) if data else None
    return file, shape, name


def profiles(run_folder: Path) -> list[dict[str, Any]]:
    """What the report shows of a run's profiles."""
    shown: list[dict[str, Any]] = []
    for file in sorted((run_folder / "profiles").glob("*/profile.json")):
        result = read(file.parent)
        if not result.trusted:
            shown.append({"name": result.name, "runtime": result.runtime, "doubt": doubt(result)})
            continue
        flames = [profiling_charts.flame(result, width) for width in (1000, 440)]
        shown.append(
            {
                "id": file.parent.name,
                "name": result.name,
                "runtime": result.runtime,
                "headline": headline(result),
                "certificate": certificate(result),
                "findings": result.findings,
                "flames": flames if all(flames) else None,
                "types": profiling_charts.by_type(result),
                "operators": grid(
                    OPERATORS,
                    result.operators[:TOP],
                    f"The first of {len(result.operators)} operators by time; operators.parquet has all",
                ),
            }
        )
    return shown


def _show(file: ModelFile) -> None:
    """Serve the graph in netron until Ctrl-C."""
    import netron

    path = next(file.path.glob("*.onnx")) if file.path.is_dir() else file.path
    screen = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    logging.getLogger("netron.server").setLevel(logging.WARNING)
    # it goes by the name's ending, and does not know .ts
    if file.format == "torchscript":
        host, port = netron.serve(f"{path.stem}.torchscript", bytearray(path.read_bytes()), browse=screen)
    else:
        host, port = netron.start(str(path), browse=screen)
    print(f"netron: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    # stops its server on Ctrl-C, and returns
    netron.wait()
