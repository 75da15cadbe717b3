"""`burnish bench`: one's own model files in one or more runtimes, measured as the benchmark measures, and compared."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from flows.settings import Mistake
from flows.trust import refuse_programs
from tasks import machine, modelfile, rows, runtimes
from tasks.benchmark import BATCHES, candidates
from tasks.intervals import Turns, compare, turns
from tasks.keys import digest
from tasks.locks import locked
from tasks.records import Benchmark, Variant, formats, plugins
from tasks.rounds import fresh_processes, run
from tasks.store import Store, replace
from tasks.summary import interval, sig
from tasks.work import Work

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    import polars as pl

    from tasks.modelfile import ModelFile
    from tasks.rounds import Job

Row = dict[str, Any]
LOG = logging.getLogger("burnish")


def bench(asked: argparse.Namespace) -> None:
    """Measure, print the table (or JSON) and leave the tables in <out>/bench/<time>."""
    files = [modelfile.inspect(Path(name)) for name in asked.files]
    refuse_programs(files, asked.trust)
    settings = _settings(asked, files)
    device = machine.devices(settings.devices)[-1]  # auto: the GPU if there is one
    pairs = [(file, runtime) for file in files for runtime in _runtimes(file, asked.runtime, device)]
    for file in files:
        file.check_batches(settings.batch_sizes)
    inputs = {file.path: file.inputs(BATCHES * max(settings.batch_sizes), asked.input_shape) for file in files}

    from flows.console import shown

    out = Path(asked.out)
    artifacts = {file.path: file.artifact() for file in files}
    parts = {"settings": settings, "pairs": [(artifacts[file.path], runtime) for file, runtime in pairs],
             "shape": asked.input_shape, "machine": machine.fingerprint()}  # fmt: skip
    with shown(), locked({"cpu", device}, LOG), _scratch(out, digest(parts)) as scratch:
        work = Work(Store(scratch / "store"), scratch, LOG)
        jobs: list[Job] = []
        for number, ((file, runtime), name) in enumerate(zip(pairs, _names(pairs), strict=True)):
            pool = work.scratch / f"pool-{number}.npy"
            np.save(pool, inputs[file.path])
            variant = Variant(name=name, model=name, stage="file", format=file.format, artifact=artifacts[file.path])
            jobs += candidates(variant, runtime, device, file.path.absolute(), settings, pool)
        environment = machine.environment()
        run(work, jobs, settings, work.scratch)
        made = rows.tables(work, jobs, settings, [])
        made["environments"] = work.rows("environments", [environment])
        measured = {name: _read(work, made[name]) for name in ("benchmarks", "throughputs")}
        compared = comparisons(measured, fresh_processes(settings))
        made["comparisons"] = work.rows("comparisons", compared)
        folder = _kept(work, made, out / "bench")
    if asked.json:
        print(json.dumps(_told(measured, compared, folder), indent=1))
    else:
        _print(measured, compared)
        print(f"\ntables: {folder}")
    failed = measured["benchmarks"].filter(measured["benchmarks"]["status"] == "failed")
    if len(failed) == len(measured["benchmarks"]):
        raise RuntimeError(f"nothing could be measured: {failed['error'][0]}")


@contextmanager
def _scratch(out: Path, key: str) -> Iterator[Path]:
    """A folder for what is measured; that of a bench which was interrupted or killed holds its finished rounds."""
    folder = out / f".bench-{key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except KeyboardInterrupt:
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _runtimes(file: ModelFile, asked: tuple[str, ...], device: str) -> tuple[str, ...]:
    """Runtimes for a file: those asked for that take its format, or the first (by name) that takes it here."""
    able = [name for name in plugins("runtimes") if file.format in formats(name)]
    reasons = {name: runtimes.load(name).unavailable(device) for name in able}
    if not asked:
        usable = [name for name in able if reasons[name] is None]
        if not usable:
            raise Mistake(f"{file.path} ({file.format}): {'; '.join(filter(None, reasons.values()))}")
        return (usable[0],)
    fitting = tuple(name for name in asked if name in able)
    if not fitting:
        raise Mistake(f"{file.path}: none of {', '.join(asked)} executes {file.format}; accepted: {', '.join(able)}")
    for name in fitting:
        if reasons[name] is not None:
            raise Mistake(f"--runtime {name}: {reasons[name]}")
    return fitting


def _settings(asked: argparse.Namespace, files: list[ModelFile]) -> Benchmark:
    fixed = [file.batch for file in files if file.batch is not None]
    try:
        return Benchmark(
            runtimes=tuple(asked.runtime) or plugins("runtimes"),
            devices=(asked.device,),
            batch_sizes=asked.batch or tuple(fixed[:1]) or (1,),
            throughput=asked.throughput,
            rounds=asked.rounds,
            min_seconds=asked.seconds / asked.rounds,
            min_queries=-(-64 // asked.rounds),  # together enough for p90
            minutes=asked.minutes,
            threads=asked.threads,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = {"runtimes": "runtime", "devices": "device", "batch_sizes": "batch", "min_seconds": "seconds"}.get(
            str(first["loc"][0]), first["loc"][0]
        )
        raise Mistake(f"--{option}: {first['msg'].removeprefix('Value error, ').removeprefix('Input ')}") from None


def _names(pairs: list[tuple[ModelFile, str]]) -> list[str]:
    """Files' names; a number where the same name stands again in the same runtime."""
    seen: dict[tuple[str, str], int] = {}
    names = []
    for file, runtime in pairs:
        count = seen[file.path.name, runtime] = seen.get((file.path.name, runtime), 0) + 1
        names.append(file.path.name if count == 1 else f"{file.path.name} #{count}")
    return names


def _read(work: Work, artifact: Any) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(work.store.get(artifact))


def _kept(work: Work, made: dict[str, Any], target: Path) -> Path:
    """The tables in a folder named by the time, there as a whole or not at all."""
    folder = work.scratch / "tables"
    folder.mkdir()
    for name, artifact in made.items():
        shutil.copyfile(work.store.get(artifact), folder / f"{name}.parquet")
    target.mkdir(parents=True, exist_ok=True)
    kept = target / time.strftime("%Y%m%d-%H%M%S")
    replace(folder, kept)
    return kept


def comparisons(measured: dict[str, pl.DataFrame], processes: int) -> list[Row]:
    """Every candidate against the first one, a row a batch size and experiment, by paired rounds."""
    found: list[Row] = []
    for experiment, table in (("latency", "benchmarks"), ("throughput", "throughputs")):
        fit = [row for row in measured[table].iter_rows(named=True) if row["status"] == "ok"]
        for size, group in groupby(sorted(fit, key=lambda row: row["batch_size"]), key=lambda row: row["batch_size"]):
            first, *others = group
            for row in others:
                theirs, own = _rounds(first), _rounds(row)
                if len(theirs) != len(own):
                    continue
                ratio, low, high, verdict = compare(theirs, own, fresh=processes == len(own))
                trouble = [r["conditions"] for r in (first, row) if r["conditions"]]
                found.append(
                    {
                        "reference": _label(first), "candidate": _label(row), "batch_size": size, "experiment": experiment,
                        "ratio": ratio, "low": low, "high": high if np.isfinite(high) else None, "verdict": verdict,
                        "conditions": "; ".join(trouble) or None,
                    }
                )  # fmt: skip
    return found


def _rounds(row: Row) -> Sequence[Turns]:
    """What is compared, the smaller the faster."""
    return turns(row) if "turn_medians_ms" in row else [1 / rate for rate in row["round_images_per_second"]]


def _label(row: Row) -> str:
    return f"{row['variant']} · {row['runtime']}"


def _told(measured: dict[str, pl.DataFrame], compared: list[Row], folder: Path) -> Row:
    """What --json prints."""
    return {name: table.to_dicts() for name, table in measured.items()} | {
        "comparisons": compared,
        "tables": str(folder),
    }


COLUMNS = {
    "batch": "batch_size", "median ms": "latency_median_ms", "99 % interval": "latency_median", "p90 ms": "latency_p90_ms",
    "p99 ms": "latency_p99_ms", "± processes": "process_std_ms", "first query s": "first_query_seconds",
    "images/s": "images_per_second", "throughput": "throughput", "mJ/image": "energy_per_image_mj",
}  # fmt: skip


def _print(measured: dict[str, pl.DataFrame], compared: list[Row]) -> None:
    """A row a candidate and batch size, then who is faster, by how much and how sure that is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    rates = {_place(row): row for row in measured["throughputs"].iter_rows(named=True)}
    rows, notes = [], []
    for row in measured["benchmarks"].iter_rows(named=True):
        rate = rates.get(_place(row), {})
        low, high = row["latency_median_low_ms"], row["latency_median_high_ms"]
        row["latency_median"] = None if low is None or high is None else f"{sig(low)} – {sig(high)}"
        row["throughput"] = rate.get("images_per_second")
        rows.append(row)
        trouble = {
            "latency": row["error"] or row["conditions"],
            "throughput": rate.get("error") or rate.get("conditions"),
        }
        notes += [f"{_label(row)}, batch {row['batch_size']}, {what}: {why}" for what, why in trouble.items() if why]
    shown = {name: key for name, key in COLUMNS.items() if any(row[key] is not None for row in rows)}
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("runtime", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for row in rows:
        figures = [str(row[key]) if isinstance(row[key], int | str) else _sig(row[key]) for key in shown.values()]
        table.add_row(row["variant"], row["runtime"], *figures, "marked" if row["conditions"] else row["status"])
    console.print(table)
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    if not compared:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title_justify="left",
                  title=f"Compared with {compared[0]['reference']}, by paired rounds")  # fmt: skip
    for name in ("", "experiment", "batch", "times as fast", "99 % interval", "so it is"):
        table.add_column(name, no_wrap=True, justify="right" if name in ("batch", "times as fast") else "left")
    for found in compared:
        doubt = " (bad conditions)" if found["conditions"] else ""
        table.add_row(found["candidate"], found["experiment"], str(found["batch_size"]), sig(found["ratio"]),
                      interval(found["low"], found["high"]), found["verdict"] + doubt)  # fmt: skip
    console.print(table)


def _place(row: Row) -> tuple[str, str, int]:
    return row["variant"], row["runtime"], row["batch_size"]


def _sig(value: float | None) -> str:
    return "–" if value is None else sig(value)
