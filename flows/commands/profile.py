"""`burnish profile`: show where the time of a query goes, and why it is not less, for a variant or a model file."""

from __future__ import annotations

import difflib
import json
import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.options import NAMED
from flows.commands.trust import refuse_programs
from flows.devices_here import device_of_option
from flows.report import profiling_charts
from flows.runs.choice import chosen_run
from flows.runs.damage import anew, check
from flows.runs.unfinished import unfinished
from flows.settings import Mistake
from flows.terminal.profile_text import TOP, doubt, headline, text
from models._suggestion import suggestion
from tasks import machine, runtimes, tables
from tasks.caching.store import Store
from tasks.forms import modelfile
from tasks.machine.files import replace, write_text
from tasks.machine.space import watched
from tasks.profilers import LEAST_QUERIES
from tasks.profiling.profile import Profile, profile
from tasks.records import Artifact, formats, plugins
from tasks.tables.figures import sig
from tasks.tables.rule import as_trained

if TYPE_CHECKING:
    import argparse

    from tasks.forms.modelfile import ModelFile

NETRON = ("onnx", "torchscript", "openvino")
"""Formats that netron can show."""


@dataclass(frozen=True)
class Target:
    """The model file that is profiled."""

    file: ModelFile
    shape: tuple[int, int, int] | None
    """Channels, height and width of an image of its run; None for a file that belongs to no run."""
    name: str
    """Name of the variant, or of the file."""
    run: str | None = None
    """The run to which the variant belongs; None for a file that belongs to no run."""


def main(arguments: argparse.Namespace) -> None:
    """Profile a model, store the profile, print its table and findings; for a run, write its report anew."""
    # Otherwise PyTorch's profiler warns on standard error where there is no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    out = Path(arguments.out)
    device = device_of_option(arguments.device)
    target = _target(arguments, out)
    runtime = _runtime(arguments, device, target)
    folder, result = _profile(arguments, device, target, runtime)
    print(text(result), end="")
    for note in target.file.notes:
        print(f"note: {target.name}: {note}")
    print(f"\nprofile: {folder}")
    if (folder / "tensorboard").is_dir():
        print(f"in TensorBoard: tensorboard --logdir {folder / 'tensorboard'}")
    if target.run:
        from flows.report import page as report

        note = "" if result.trusted else f" (without this profile: {doubt(result)})"
        print(f"report: {report.render(out, target.run)}{note}")
    if arguments.netron:
        _show(target.file)


def _target(arguments: argparse.Namespace, out: Path) -> Target:
    """Find the file that the command line names, or the variant of a run."""
    path = None if arguments.target is None or arguments.run is not None else Path(arguments.target)
    if path is not None and path.exists():
        file = modelfile.inspect(path)
        # A run's own TorchScript needs no such check: burnish made it, and the store knows its hash.
        refuse_programs([file], arguments.trust)
        return Target(file, None, path.name)
    if path is not None and path.suffix.lower() in modelfile.SUFFIXES:
        raise Mistake(f"{arguments.target}: no such file")
    try:
        run = _run_with_variants(out, arguments)
    except Mistake as mistake:
        if path is not None and not any((out / "runs").glob("*/study.toml")):
            raise Mistake(f"{arguments.target} is no file in {Path.cwd()}, and {mistake}") from None
        # The name of a variant is a path, so this is none, whatever runs there are.
        if path is not None and "/" not in arguments.target:
            raise Mistake(
                f"{arguments.target} is no file in {Path.cwd()}, and no variant, whose names are such as lenet5/train"
            ) from None
        raise
    check(out, run, ("summary", "variants", "datasets"))
    with anew(out, run):
        return _variant(out, run, arguments.target or _reference(out, run))


def _run_with_variants(out: Path, arguments: argparse.Namespace) -> str:
    """Return the name of the run that the command line means. Raise `Mistake` where it has no variants yet."""
    run = chosen_run(out, arguments.run, "study.toml" if arguments.target else "result.json")
    if not (out / "tables" / "variants" / f"{run}.parquet").is_file():
        reason = unfinished(out, run)
        if reason:
            raise Mistake(reason)
    return run


def _profile(arguments: argparse.Namespace, device: str, target: Target, runtime: str) -> tuple[Path, Profile]:
    """Profile the file, and return the folder in which the profile is stored, and the profile."""
    out, file = Path(arguments.out), target.file
    batch = arguments.batch or file.batch or 1
    file.check_batches((batch,))
    inputs = file.inputs(batch, arguments.input_shape or target.shape)
    label = target.name.replace("/", "_") if target.run else file.path.stem
    folder = (out / "runs" / target.run if target.run else out) / "profiles" / f"{label}-{runtime}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp-") as scratch, watched(out):
        written = Path(scratch) / "profile"
        result = profile(
            file.executable(Path(scratch) / "file"),
            file.format,
            runtime,
            device,
            arguments.threads or machine.cores(),
            inputs,
            written,
            name=target.name,
            queries=arguments.queries,
        )
        _draw(result, written)
        return _keep(result, written, folder), result


def _runtime(arguments: argparse.Namespace, device: str, target: Target) -> str:
    """Return the runtime that the command line names, or else the plainest for the format.

    Raises
    ------
    Mistake
        If the runtime does not execute the file, or not on this machine.
    """
    file, name = target.file, target.name
    runtime = arguments.runtime or runtimes.USUAL.get(file.format, file.format)
    if runtime not in plugins("runtimes"):
        raise Mistake(
            f"--runtime: unknown runtime {runtime!r}; {suggestion(runtime, NAMED)}accepted: {', '.join(NAMED)}"
        )
    if file.format not in formats(runtime):
        accepted = [plugin for plugin in plugins("runtimes") if file.format in formats(plugin)]
        raise Mistake(f"{name} is {file.format}, which {runtime} does not execute; accepted: {', '.join(accepted)}")
    reason = runtimes.load(runtime).unavailable(device)
    if reason is not None:
        raise Mistake(f"--runtime {runtime}: {reason}")
    if arguments.netron and file.format not in NETRON:
        raise Mistake(f"--netron shows {', '.join(NETRON)} files, {name} is {file.format}")
    return runtime


def _draw(result: Profile, folder: Path) -> None:
    """Write the charts as SVG files and for TensorBoard. A profile of too few queries has none."""
    figures = {}
    if result.enough:
        figures = {"flame": profiling_charts.flame(result), "operators": profiling_charts.by_type(result)}
    drawn = {name: figure.svg for name, figure in figures.items() if figure}
    for chart, svg in drawn.items():
        write_text(folder / f"{chart}.svg", svg)
    if (folder / "tensorboard").is_dir():
        _to_tensorboard(result, drawn, folder / "tensorboard")


def _keep(result: Profile, written: Path, folder: Path) -> Path:
    """Move a profile to `folder`, and return where it is.

    A disturbed profile does not replace an earlier one that can be trusted: it goes to a folder beside that.
    """
    disturbed = folder.with_name(f"{folder.name}-disturbed")
    try:
        earlier = json.loads((folder / "profile.json").read_text())
    except (FileNotFoundError, ValueError):
        # There is no earlier profile, or it is damaged and is replaced.
        earlier = {"queries": 0}
    earlier_trusted = earlier["queries"] >= LEAST_QUERIES and earlier.get("conditions") is None
    target = disturbed if earlier_trusted and not result.trusted else folder
    replace(written, target)
    if result.trusted and disturbed.is_dir():
        shutil.rmtree(disturbed)
    return target


def _reference(out: Path, run: str) -> str:
    """Return the variant to profile where the user names none: the run's most accurate model as trained or given."""
    rows = tables.read(out, "summary", run).collect().to_dicts()
    unpruned = [row for row in rows if as_trained(row) and row["status"] == "ok"]
    if not unpruned:
        raise Mistake(f"run {run} has no unpruned model that was measured; name a variant")
    return max(unpruned, key=lambda row: row["top1"] or 0.0)["variant"]


def _to_tensorboard(result: Profile, charts: dict[str, str], log: Path) -> None:
    """Write the operators, the findings and the charts (as SVG) for TensorBoard's own pages, beside PyTorch's trace.

    The plug-in that shows the trace (torch-tb-profiler, no longer maintained) loads Google Charts from the network.
    TensorBoard's own pages need no network.
    """
    import io

    import numpy as np
    import vl_convert
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    lines = [
        headline(result),
        "",
        "| operator | module | type | ms per query | share | by |",
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


def _variant(out: Path, run: str, name: str) -> Target:
    """Return a variant of a run as what is profiled.

    Raises
    ------
    Mistake
        If the run has no such variant, or the variant failed or was skipped.
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
    return Target(file, shape, name, run)


def _show(file: ModelFile) -> None:
    """Serve the graph in netron until Ctrl-C."""
    import netron

    path = next(file.path.glob("*.onnx")) if file.path.is_dir() else file.path
    screen = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    logging.getLogger("netron.server").setLevel(logging.WARNING)
    # netron recognises a format by the ending of the file's name, and does not know .ts.
    if file.format == "torchscript":
        host, port = netron.serve(f"{path.stem}.torchscript", bytearray(path.read_bytes()), browse=screen)
    else:
        host, port = netron.start(str(path), browse=screen)
    print(f"netron: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    # On Ctrl-C, netron stops its server and returns.
    netron.wait()
