"""`burnish rebench`: measure a bundle's model on this machine, and show its figures beside the original's."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from flows.bundle.lineage import machine_name
from flows.bundle.read import Bundle, read
from flows.bundle.write import SERVED
from flows.commands import bench
from flows.settings import Mistake
from flows.terminal import bench_table
from tasks import machine
from tasks.datasets._pixels import normalise
from tasks.tables.figures import sig

Row = dict[str, Any]
FIGURES = ("latency_median_ms", "latency_median_low_ms", "latency_median_high_ms", "images_per_second", "threads")


def main(arguments: argparse.Namespace) -> None:
    """Measure the model, and print the comparison (or JSON)."""
    bundle = read(Path(arguments.bundle))
    original = _original(bundle)
    options = tuple(bundle.about["options"])
    measurement = bench.measured(_command_line(bundle, original, arguments), _images(bundle), options)
    (here,) = measurement.tables["benchmarks"].to_dicts()
    if here["status"] != "ok":
        raise RuntimeError(f"the model could not be measured: {here['error']}")
    environment = machine.environment()
    machines = {"original": machine_name(bundle.lineage.get("machine") or {}), "here": machine_name(environment)}
    ratio = ratio_of(original, here)
    notes = [*_notes(bundle, original, here), *measurement.notes]
    if arguments.json:
        content = {
            "original": original | {"machine": machines["original"]},
            "here": {key: here[key] for key in (*FIGURES, "conditions")} | {"machine": machines["here"]},
            "ratio": dict(zip(("ratio", "low", "high"), ratio, strict=True)),
            "notes": notes,
            "tables": str(measurement.folder),
        }
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return
    print(f"{bundle.about['variant']} in {bundle.about['runtime']}, batch {original['batch_size']}\n")
    print(_table({"original": original, "here": here}, machines))
    print(f"\n{_sentence(ratio)}")
    for note in notes:
        print(bench_table.wrapped(f"note: {note}", bench_table.width_here()))
    print(f"\ntables: {measurement.folder}")


def _original(bundle: Bundle) -> Row:
    """Return the figures with which the bundle's model was deployed."""
    measured = bundle.lineage.get("measured")
    latency = measured.get("latency_median_ms") if isinstance(measured, dict) else None
    if not isinstance(measured, dict) or not isinstance(latency, float) or not latency > 0:
        raise Mistake(f"{bundle.folder / 'lineage.json'} does not say how fast the model was; deploy the run again")
    batch = measured.get("batch_size")
    if not isinstance(batch, int) or batch < 1:
        raise Mistake(f"{bundle.folder / 'lineage.json'} does not say at which batch size it was measured")
    return measured


def _command_line(bundle: Bundle, original: Row, arguments: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of `burnish bench` that measure the model as the run did."""
    return argparse.Namespace(
        files=[str(bundle.files[0].path)],
        reference=None,
        runtime=[bundle.about["runtime"]],
        batch=[original["batch_size"]],
        seconds=arguments.seconds,
        rounds=arguments.rounds,
        minutes=arguments.minutes,
        threads=min(bundle.about["threads"], machine.cores()),
        throughput=False,
        device="cpu",
        input_shape=tuple(bundle.about["image_shape"]),
        trust=arguments.trust,
        out=arguments.out,
    )


def _images(bundle: Bundle) -> np.ndarray | None:
    """Return the golden images as the model takes them; None where the bundle has none."""
    path = bundle.folder / "golden" / "inputs.npy"
    if not path.exists():
        return None
    pixels = np.load(path, allow_pickle=False)
    return normalise(pixels, bundle.preparation["mean"], bundle.preparation["std"])


def ratio_of(original: Row, here: Row) -> tuple[float, float | None, float | None]:
    """Return how many times as long a query takes here, and the ends of an interval.

    The two were measured at different times, so that no rounds are paired: the interval is from the shortest here over
    the longest there to the longest here over the shortest there, which is wider than it need be.
    """
    ratio = here["latency_median_ms"] / original["latency_median_ms"]
    low = _quotient(here.get("latency_median_low_ms"), original.get("latency_median_high_ms"))
    high = _quotient(here.get("latency_median_high_ms"), original.get("latency_median_low_ms"))
    return ratio, low, high


def _quotient(here: float | None, there: float | None) -> float | None:
    return here / there if here and there else None


def _sentence(ratio: tuple[float, float | None, float | None]) -> str:
    times, low, high = ratio
    interval = f" (99 % intervals: {sig(low)} to {sig(high)})" if low and high else ""
    return f"A query takes {sig(times)} times as long here as on the original's machine{interval}."


def _table(rows: dict[str, Row], machines: dict[str, str]) -> str:
    """Return the figures of both machines as a table."""
    lines = [("", "median ms", "99 % interval", "images/s", "threads", "machine")]
    for name, row in rows.items():
        low, high = row.get("latency_median_low_ms"), row.get("latency_median_high_ms")
        rate = row.get("images_per_second")
        lines.append(
            (
                name,
                sig(row["latency_median_ms"]),
                f"{sig(low)} – {sig(high)}" if low and high else "–",
                sig(rate) if rate else "–",
                str(row.get("threads") or "–"),
                machines[name],
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = []
    for line in lines:
        figures = [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
        texts.append("  ".join([line[0].ljust(widths[0]), *figures, line[-1]]))
    return "\n".join(texts)


def _notes(bundle: Bundle, original: Row, here: Row) -> list[str]:
    """Return in words what else than the machine differs, and what was bad while either was measured."""
    notes = []
    versions = machine.versions()
    libraries = bundle.lineage.get("libraries") or {}
    package = SERVED[bundle.about["runtime"]]
    there, version = (_version_of(package, installed) for installed in (libraries, versions))
    if there != version:
        notes.append(f"{package} was {there} there and is {version} here")
    if original.get("threads") not in (None, here["threads"]):
        notes.append(f"it was measured with {original['threads']} threads there, and with {here['threads']} here")
    for name, row in (("there", original), ("here", here)):
        if row.get("conditions"):
            notes.append(f"measured under bad conditions {name}: {row['conditions']}")
    return notes


def _version_of(package: str, installed: Row) -> str:
    """Return the version of a runtime's package among those that are installed; its build for GPUs counts, too."""
    return str(installed.get(package) or installed.get(f"{package}-gpu") or "unknown")
