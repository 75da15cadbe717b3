"""`burnish bench`: measure model files of the user's in one or more runtimes, as a study's benchmark does."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from flows.commands.options import NAMED
from flows.commands.trust import refuse_programs
from flows.devices_here import device_of_option
from flows.settings import Mistake
from flows.terminal import bench_table
from flows.terminal.bench_table import label
from models._suggestion import suggestion
from tasks import machine, runtimes
from tasks.caching.keys import digest
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.candidates import rows
from tasks.candidates.candidate import BATCHES, FAILED, fresh_processes, make_candidates
from tasks.candidates.rounds import run
from tasks.forms import modelfile
from tasks.machine.causes import without_class
from tasks.machine.files import replace
from tasks.machine.locks import locked
from tasks.machine.space import DiskFull, watched
from tasks.measure.intervals import compare_rounds, rounds_of
from tasks.records import Benchmark, Variant, formats, plugins

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import polars as pl

    from tasks.candidates.candidate import Candidate
    from tasks.forms.modelfile import ModelFile

Row = dict[str, Any]
LOG = logging.getLogger("burnish")


def main(arguments: argparse.Namespace) -> None:
    """Measure the files, print the comparison (or JSON) and leave the tables in <out>/bench/<time>."""
    measurement = measured(arguments)
    if arguments.json:
        print(json.dumps(_json(measurement), indent=1))
    else:
        _print_text(measurement)


def measured(
    arguments: argparse.Namespace, images: np.ndarray | None = None, options: tuple[str, ...] = ()
) -> Measurement:
    """Measure the files that a command line names, and leave the tables in <out>/bench/<time>.

    `images` are inputs to measure with, as the files take them; without them, random ones are taken. `options` are
    those of the runtimes with which the files are opened.
    """
    device = device_of_option(arguments.device)
    paths = _reference_first([Path(name) for name in arguments.files], arguments.reference)
    files = [modelfile.inspect(path) for path in paths]
    refuse_programs(files, arguments.trust)
    settings = _settings(arguments, files, device)
    pairs = [(file, runtime) for file in files for runtime in _runtimes(file, tuple(arguments.runtime), device)]
    for file in files:
        file.check_batches(settings.batch_sizes)
    notes = list(dict.fromkeys(f"{file.path}: {note}" for file in files for note in file.notes))
    count = BATCHES * max(settings.batch_sizes)
    inputs = {file.path: _inputs(file, count, arguments.input_shape, images) for file in files}

    from flows.terminal.console import shown

    out = Path(arguments.out)
    artifacts = {file.path: file.artifact() for file in files}
    parts = {
        "settings": settings,
        "pairs": [(artifacts[file.path], runtime) for file, runtime in pairs],
        "options": options,
        "shape": arguments.input_shape,
        "machine": machine.fingerprint(),
    }
    with shown(), locked({"cpu", device}, LOG), _scratch(out, digest(parts)) as scratch:
        work = Work(Store(scratch / "store"), scratch, LOG)
        opened = {file.path: file.executable(scratch / f"file-{number}") for number, file in enumerate(files)}
        candidates: list[Candidate] = []
        for number, ((file, runtime), name) in enumerate(zip(pairs, _names(pairs), strict=True)):
            pool = work.scratch / f"pool-{number}.npy"
            np.save(pool, inputs[file.path])
            variant = Variant(
                name=name,
                model=name,
                stage="file",
                format=file.format,
                artifact=artifacts[file.path],
                options=options,
            )
            candidates += make_candidates(
                variant, runtime, device, path=opened[file.path], settings=settings, pool=pool
            )
        return _measure(work, candidates, settings, out / "bench", notes)


def _inputs(file: ModelFile, count: int, shape: tuple[int, ...] | None, images: np.ndarray | None) -> np.ndarray:
    """Return `count` inputs for a file: the images, again and again, or random ones."""
    if images is None:
        return file.inputs(count, shape)
    return np.resize(images, (count, *images.shape[1:]))


@dataclass(frozen=True)
class Measurement:
    """The result of measuring all files of the command line."""

    tables: dict[str, pl.DataFrame]
    """The tables `benchmarks` and `throughputs`, by name."""
    reference: str
    """Name of the candidate that all others are compared with."""
    compared: list[Row]
    """Rows of the table `comparisons`."""
    folder: Path
    """Folder in which all tables are stored."""
    notes: list[str]
    """Oddities of the files."""


def _measure(
    work: Work, candidates: list[Candidate], settings: Benchmark, target: Path, notes: list[str]
) -> Measurement:
    """Measure all candidates, compare them with the first, and store the tables in a folder below `target`."""
    environment = machine.environment()
    with _untold_failures():
        run(work, candidates, settings, work.scratch)
    _refuse_unmeasured(candidates)
    artifacts = rows.tables(work, candidates, settings, [])
    artifacts["environments"] = work.rows("environments", [environment])
    tables = {name: _read(work, artifacts[name]) for name in ("benchmarks", "throughputs")}
    reference = f"{candidates[0].variant.name} · {candidates[0].runtime}"
    compared = comparisons(tables, reference, fresh_processes(settings))
    artifacts["comparisons"] = work.rows("comparisons", compared)
    return Measurement(tables, reference, compared, _keep(work, artifacts, target), notes)


@contextmanager
def _untold_failures() -> Iterator[None]:
    """Keep the log from telling that candidates fail: the table below it, or the message in its place, says why."""

    def is_told(record: logging.LogRecord) -> bool:
        return record.msg != FAILED

    LOG.addFilter(is_told)
    try:
        yield
    finally:
        LOG.removeFilter(is_told)


def _refuse_unmeasured(candidates: list[Candidate]) -> None:
    """Check that some latency could be measured.

    Raises
    ------
    Mistake
        If the runtimes could not execute any of the files.
    RuntimeError
        If none was measured because processes were ended from outside.
    """
    reasons: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.experiment != "latency":
            continue
        if candidate.visits and not candidate.error:
            return
        reason = candidate.error or next(iter(candidate.errors.values()), "no time was left")
        reasons.setdefault(without_class(reason), []).append(f"{candidate.variant.name} in {candidate.runtime}")
    message = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    if any(candidate.killed for candidate in candidates):
        raise RuntimeError(f"nothing could be measured: {message}")
    raise Mistake(f"nothing could be measured: {message}")


def _print_text(measurement: Measurement) -> None:
    """Print the tables as text, then the notes on the files."""
    width = bench_table.width_here()
    print(bench_table.text(measurement.tables, measurement.compared, measurement.reference, width), end="")
    for note in measurement.notes:
        print(bench_table.wrapped(f"note: {note}", width))
    print(f"\ntables: {measurement.folder}")


@contextmanager
def _scratch(out: Path, key: str) -> Iterator[Path]:
    """Make a folder for the measurement, and remove it afterwards.

    If the measurement is interrupted or killed, the folder stays, with the rounds that have ended. The same command
    finds it by its key and goes on.
    """
    folder = out / f".bench-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with watched(folder):
            yield folder
    except (KeyboardInterrupt, DiskFull):
        # The folder stays, so that the same command can go on.
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _runtimes(file: ModelFile, names: tuple[str, ...], device: str) -> tuple[str, ...]:
    """Return the runtimes for a file: those of `names` that execute its format, or the usual one where there are none.

    Where the usual one cannot run on this machine, it is the first that can, by name.
    """
    executing = _executing(file.format)
    reasons = {name: runtimes.load(name).unavailable(device) for name in executing}
    usual = (runtimes.USUAL.get(file.format),)
    if not names:
        usable = sorted((name for name in executing if reasons[name] is None), key=lambda name: name not in usual)
        if not usable:
            raise Mistake(f"{file.path} ({file.format}): {'; '.join(dict.fromkeys(filter(None, reasons.values())))}")
        return (usable[0],)
    fitting = tuple(name for name in names if name in executing)
    if not fitting:
        raise Mistake(
            f"{file.path}: none of {', '.join(names)} executes {file.format}; accepted: {', '.join(executing)}"
        )
    for name in fitting:
        if reasons[name] is not None:
            raise Mistake(f"--runtime {name}: {reasons[name]}")
    return fitting


def _executing(file_format: str) -> list[str]:
    """Return the runtimes that execute a format; a file in tasks/runtimes that is none is left out, and said."""
    executing = []
    for name in plugins("runtimes"):
        try:
            if file_format in formats(name):
                executing.append(name)
        except ValueError as error:
            LOG.warning("left out: %s", error)
    return executing


def _settings(arguments: argparse.Namespace, files: list[ModelFile], device: str) -> Benchmark:
    """Return the settings of the benchmark that the command line asks for.

    Raises
    ------
    Mistake
        If an option's value is wrong.
    """
    fixed = [file.batch for file in files if file.batch is not None]
    unknown = [name for name in arguments.runtime if name not in plugins("runtimes")]
    # This also refuses `auto`, which is a runtime only in a study.
    if unknown:
        raise Mistake(
            f"--runtime: unknown runtime {unknown[0]!r}; {suggestion(unknown[0], NAMED)}accepted: {', '.join(NAMED)}"
        )
    try:
        return Benchmark(
            runtimes=tuple(arguments.runtime) or plugins("runtimes"),
            devices=(device,),
            batch_sizes=tuple(arguments.batch) or tuple(fixed[:1]) or (1,),
            throughput=arguments.throughput,
            rounds=arguments.rounds,
            min_seconds=arguments.seconds / arguments.rounds,
            # All rounds together have at least 64 queries, as many as the 90th percentile needs.
            min_queries=-(-64 // arguments.rounds),
            minutes=arguments.minutes,
            threads=arguments.threads,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = {"runtimes": "runtime", "batch_sizes": "batch", "min_seconds": "seconds"}.get(
            str(first["loc"][0]), first["loc"][0]
        )
        raise Mistake(f"--{option}: {first['msg'].removeprefix('Value error, ').removeprefix('Input ')}") from None


def _reference_first(paths: list[Path], reference: str | None) -> list[Path]:
    """Return the files with the reference first. A reference that is not among them is added."""
    if reference is None:
        return paths
    same = [path for path in paths if path.resolve() == Path(reference).resolve()][:1]
    rest = list(paths)
    for path in same:
        rest.remove(path)
    return [*(same or [Path(reference)]), *rest]


def _names(pairs: list[tuple[ModelFile, str]]) -> list[str]:
    """Return a name per pair of file and runtime, by which no two of them are mistaken for each other.

    A name has as many of the file's folders as are needed, and a number where a file is measured twice in one runtime.
    """
    parts = {file.path: file.path.absolute().parts for file, _ in pairs}
    shown = {}
    for path, own_parts in parts.items():
        others = [other for other in parts.values() if other != own_parts]
        for count in range(1, len(own_parts) + 1):
            if all(other[-count:] != own_parts[-count:] for other in others):
                break
        shown[path] = "/".join(own_parts[-count:])
    seen: Counter[tuple[str, str]] = Counter()
    names = []
    for file, runtime in pairs:
        name = shown[file.path]
        seen[name, runtime] += 1
        names.append(name if seen[name, runtime] == 1 else f"{name} #{seen[name, runtime]}")
    return names


def _read(work: Work, artifact: Any) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(work.store.get(artifact))


def _keep(work: Work, artifacts: dict[str, Any], target: Path) -> Path:
    """Store the tables in a folder of `target` that is named by the time. It appears as a whole or not at all."""
    folder = work.scratch / "tables"
    # An earlier measurement may have been killed at this point, and left the folder.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, artifact in artifacts.items():
        shutil.copyfile(work.store.get(artifact), folder / f"{name}.parquet")
    target.mkdir(parents=True, exist_ok=True)
    stored = target / time.strftime("%Y%m%d-%H%M%S")
    replace(folder, stored)
    return stored


def comparisons(measured: dict[str, pl.DataFrame], reference: str, processes: int) -> list[Row]:
    """Compare every candidate with the reference by paired rounds: one row per batch size and experiment.

    At a batch size at which the reference failed nothing is compared, because no other candidate may stand in for it.

    Parameters
    ----------
    measured
        The tables `benchmarks` and `throughputs`.
    reference
        The reference's name, as `label` makes it.
    processes
        Number of fresh processes in which each candidate was measured.
    """
    compared: list[Row] = []
    for experiment, table in (("latency", "benchmarks"), ("throughput", "throughputs")):
        rows_ok = [row for row in measured[table].iter_rows(named=True) if row["status"] == "ok"]
        reference_rows = {row["batch_size"]: row for row in rows_ok if label(row) == reference}
        for row in sorted(rows_ok, key=lambda row: row["batch_size"]):
            base = reference_rows.get(row["batch_size"])
            if base is None or label(row) == reference:
                continue
            paired = compare_rounds(rounds_of(base, processes), rounds_of(row, processes))
            if paired is None:
                continue
            ratio, low, high, verdict = paired
            trouble = [side["conditions"] for side in (base, row) if side["conditions"]]
            compared.append(
                {
                    "reference": reference,
                    "candidate": label(row),
                    "batch_size": row["batch_size"],
                    "experiment": experiment,
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "verdict": verdict,
                    "conditions": "; ".join(trouble) or None,
                }
            )
    return compared


def _json(measurement: Measurement) -> Row:
    """Return what --json prints."""
    return {name: table.to_dicts() for name, table in measurement.tables.items()} | {
        "comparisons": measurement.compared,
        "tables": str(measurement.folder),
        "notes": measurement.notes,
    }
