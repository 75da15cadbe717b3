"""`burnish bench`: one's own model files in one or more runtimes, measured as the benchmark measures, and compared."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from flows.commands.trust import refuse_programs
from flows.settings import Mistake
from flows.terminal import bench_table
from flows.terminal.bench_table import label
from models._near import meant
from tasks import machine, runtimes
from tasks.caching.keys import digest
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.candidates import rows
from tasks.candidates.candidate import BATCHES, fresh_processes, make_candidates
from tasks.candidates.rounds import run
from tasks.forms import modelfile
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
    """Measure, print the table (or JSON) and leave the tables in <out>/bench/<time>."""
    files = [
        modelfile.inspect(path) for path in _ordered([Path(name) for name in arguments.files], arguments.reference)
    ]
    refuse_programs(files, arguments.trust)
    settings = _settings(arguments, files)
    # auto: the GPU if there is one
    device = machine.resolve_devices(settings.devices)[-1]
    pairs = [(file, runtime) for file in files for runtime in _runtimes(file, tuple(arguments.runtime), device)]
    for file in files:
        file.check_batches(settings.batch_sizes)
    notes = list(dict.fromkeys(f"{file.path}: {note}" for file in files for note in file.notes))
    inputs = {file.path: file.inputs(BATCHES * max(settings.batch_sizes), arguments.input_shape) for file in files}

    from flows.terminal.console import shown

    out = Path(arguments.out)
    artifacts = {file.path: file.artifact() for file in files}
    parts = {
        "settings": settings,
        "pairs": [(artifacts[file.path], runtime) for file, runtime in pairs],
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
            variant = Variant(name=name, model=name, stage="file", format=file.format, artifact=artifacts[file.path])
            candidates += make_candidates(
                variant, runtime, device, path=opened[file.path], settings=settings, pool=pool
            )
        environment = machine.environment()
        run(work, candidates, settings, work.scratch)
        made = rows.tables(work, candidates, settings, [])
        made["environments"] = work.rows("environments", [environment])
        measured = {name: _read(work, made[name]) for name in ("benchmarks", "throughputs")}
        reference = f"{candidates[0].variant.name} · {candidates[0].runtime}"
        compared = comparisons(measured, reference, fresh_processes(settings))
        made["comparisons"] = work.rows("comparisons", compared)
        folder = _kept(work, made, out / "bench")
    if arguments.json:
        print(json.dumps(_told(measured, compared, folder) | {"notes": notes}, indent=1))
    else:
        width = bench_table.width_here()
        print(bench_table.text(measured, compared, reference, width), end="")
        print("".join(bench_table.wrapped(f"note: {note}", width) + "\n" for note in notes) + f"\ntables: {folder}")
    failed = measured["benchmarks"].filter(measured["benchmarks"]["status"] == "failed")
    if len(failed) == len(measured["benchmarks"]):
        raise RuntimeError(f"nothing could be measured: {failed['error'][0]}")


@contextmanager
def _scratch(out: Path, key: str) -> Iterator[Path]:
    """A folder for what is measured; that of a bench which was interrupted or killed holds its finished rounds."""
    folder = out / f".bench-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with watched(folder):
            yield folder
    except (KeyboardInterrupt, DiskFull):
        # the same command goes on
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _runtimes(file: ModelFile, arguments: tuple[str, ...], device: str) -> tuple[str, ...]:
    """Runtimes for a file: those arguments for that take its format, or the first (by name) that takes it here."""
    able = [name for name in plugins("runtimes") if file.format in formats(name)]
    reasons = {name: runtimes.load(name).unavailable(device) for name in able}
    if not arguments:
        usable = [name for name in able if reasons[name] is None]
        if not usable:
            raise Mistake(f"{file.path} ({file.format}): {'; '.join(dict.fromkeys(filter(None, reasons.values())))}")
        return (usable[0],)
    fitting = tuple(name for name in arguments if name in able)
    if not fitting:
        raise Mistake(
            f"{file.path}: none of {', '.join(arguments)} executes {file.format}; accepted: {', '.join(able)}"
        )
    for name in fitting:
        if reasons[name] is not None:
            raise Mistake(f"--runtime {name}: {reasons[name]}")
    return fitting


def _settings(arguments: argparse.Namespace, files: list[ModelFile]) -> Benchmark:
    fixed = [file.batch for file in files if file.batch is not None]
    unknown = [name for name in arguments.runtime if name not in plugins("runtimes")]
    # a study's `auto` is no runtime here
    if unknown:
        raise Mistake(
            f"--runtime: unknown runtime {unknown[0]!r}; {meant(unknown[0], plugins('runtimes'))}accepted: "
            f"{', '.join(plugins('runtimes'))}"
        )
    try:
        return Benchmark(
            runtimes=tuple(arguments.runtime) or plugins("runtimes"),
            devices=(arguments.device,),
            batch_sizes=tuple(arguments.batch) or tuple(fixed[:1]) or (1,),
            throughput=arguments.throughput,
            rounds=arguments.rounds,
            min_seconds=arguments.seconds / arguments.rounds,
            # together enough for p90
            min_queries=-(-64 // arguments.rounds),
            minutes=arguments.minutes,
            threads=arguments.threads,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = {"runtimes": "runtime", "devices": "device", "batch_sizes": "batch", "min_seconds": "seconds"}.get(
            str(first["loc"][0]), first["loc"][0]
        )
        raise Mistake(f"--{option}: {first['msg'].removeprefix('Value error, ').removeprefix('Input ')}") from None


def _ordered(paths: list[Path], reference: str | None) -> list[Path]:
    """The files, the reference first; one that is not among them is measured too."""
    if reference is None:
        return paths
    same = [path for path in paths if path.resolve() == Path(reference).resolve()][:1]
    rest = list(paths)
    for path in same:
        rest.remove(path)
    return [*(same or [Path(reference)]), *rest]


def _names(pairs: list[tuple[ModelFile, str]]) -> list[str]:
    """Files' names, with as many folders as tell them apart; a number where a file is measured again in a runtime."""
    parts = {file.path: file.path.absolute().parts for file, _ in pairs}
    shown = {}
    for path, own in parts.items():
        others = [other for other in parts.values() if other != own]
        lengths = (n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        shown[path] = "/".join(own[-next(lengths, len(own)) :])
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


def _kept(work: Work, made: dict[str, Any], target: Path) -> Path:
    """The tables in a folder named by the time, there as a whole or not at all."""
    folder = work.scratch / "tables"
    # of a bench that was killed here
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, artifact in made.items():
        shutil.copyfile(work.store.get(artifact), folder / f"{name}.parquet")
    target.mkdir(parents=True, exist_ok=True)
    kept = target / time.strftime("%Y%m%d-%H%M%S")
    replace(folder, kept)
    return kept


def comparisons(measured: dict[str, pl.DataFrame], reference: str, processes: int) -> list[Row]:
    """Every candidate against the reference, a row per batch size and experiment, by paired rounds.

    Where the reference failed at a batch size, nothing is compared there: another one would be taken for it.
    """
    found: list[Row] = []
    for experiment, table in (("latency", "benchmarks"), ("throughput", "throughputs")):
        fit = [row for row in measured[table].iter_rows(named=True) if row["status"] == "ok"]
        first = {row["batch_size"]: row for row in fit if label(row) == reference}
        for row in sorted(fit, key=lambda row: row["batch_size"]):
            base = first.get(row["batch_size"])
            if base is None or label(row) == reference:
                continue
            compared = compare_rounds(rounds_of(base, processes), rounds_of(row, processes))
            if compared is None:
                continue
            ratio, low, high, verdict = compared
            trouble = [r["conditions"] for r in (base, row) if r["conditions"]]
            found.append(
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
    return found


def _told(measured: dict[str, pl.DataFrame], compared: list[Row], folder: Path) -> Row:
    """What --json prints."""
    return {name: table.to_dicts() for name, table in measured.items()} | {
        "comparisons": compared,
        "tables": str(folder),
    }
