"""Every table once: columns, types, units (in the names) and what is expected of them. tasks/tables/__init__.py acts on
it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

STATUS = ("ok", "failed", "skipped")


@dataclass(frozen=True)
class Column:
    """A column: its type, whether it may be null, and the range or set of its values."""

    dtype: Any
    about: str
    nullable: bool = False
    low: float | None = None
    """Smallest value; of a list: smallest entry."""
    high: float | None = None
    values: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Table:
    """A table: its columns and the relations between them."""

    about: str
    columns: dict[str, Column]
    unique: tuple[str, ...] = ()
    """Columns that together are unique."""
    ordered: tuple[tuple[str, ...], ...] = ()
    """Chains (a, b, ...) with a <= b, b <= ... wherever both are given."""
    given_when_ok: tuple[str, ...] = ()
    """Columns that are given exactly where `status` is ok."""
    lengths: tuple[tuple[str, str], ...] = ()
    """Pairs (list, count): the list has as many entries as the count says, wherever both are given."""
    checked_by_batches: bool = False
    """Of so many rows that it is validated in batches."""


def text(about: str, *values: str, null: bool = False) -> Column:
    return Column(pl.String, about, null, values=values or None)


def count(about: str, null: bool = False, low: int = 0) -> Column:
    return Column(pl.Int64, about, null, low=low)


def number(about: str, low: float | None = 0, high: float | None = None, null: bool = False) -> Column:
    return Column(pl.Float64, about, null, low=low, high=high)


def share(about: str, null: bool = False) -> Column:
    return number(about, 0, 1, null)


WHICH = {
    "variant": text("name of the variant"),
    "runtime": text("how it was executed"),
    "device": text("cpu or cuda:N"),
}
BATCH = {"batch_size": count("images a query", low=1)}
OUTCOME = {
    "status": text("ok, failed or skipped", *STATUS),
    "error": text("why not, exactly where status is not ok", null=True),
}
QUALITY = {
    "top1": share("share of images whose first class is right", null=True),
    "top1_low": share("95 % interval (Wilson)", null=True),
    "top1_high": share("95 % interval (Wilson)", null=True),
    "top5": share("share of images whose first five classes hold the right one", null=True),
    "macro_f1": share("F1 averaged over classes", null=True),
    "macro_f1_low": share("95 % interval (bootstrap over images)", null=True),
    "macro_f1_high": share("95 % interval (bootstrap over images)", null=True),
}
INTERVALS = {
    "mean": "batch means",
    "median": "order statistics",
    "p90": "order statistics",
    "p95": "order statistics",
    "p99": "order statistics",
}
SPREAD = {
    "mean_ms": number("mean of all samples", null=True),
    "std_ms": number("standard deviation of all samples", null=True),
    "min_ms": number("smallest sample", null=True),
    "median_ms": number("median sample", null=True),
    "p90_ms": number("90th percentile, null below 64 samples", null=True),
    "p95_ms": number("95th percentile, null below 130 samples", null=True),
    "p99_ms": number("99th percentile, null below 662 samples", null=True),
    "max_ms": number("largest sample", null=True),
}
SPREAD_ORDER = (("min_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"), ("min_ms", "mean_ms", "max_ms"))
LATENCY = {f"latency_{key}": column for key, column in SPREAD.items()} | {
    f"latency_{of}_{end}_ms": number(f"99 % interval of the {of} ({how})", null=True)
    for of, how in INTERVALS.items()
    for end in ("low", "high")
}
LATENCY_ORDER = (
    *(tuple(f"latency_{of}" for of in chain) for chain in SPREAD_ORDER),
    *((f"latency_{of}_low_ms", f"latency_{of}_ms", f"latency_{of}_high_ms") for of in INTERVALS),
)
VERDICT_OF_EPOCHS = (
    "against none: faster or slower where each of these epochs is shorter or longer than each of none's; null: "
    "it is none, "
    "or there are fewer than four"
)
EXPERIMENT = {"experiment": text("what was measured", "latency", "throughput")}

TABLES: dict[str, Table] = {
    "datasets": Table(
        "What was prepared, a row a split.",
        {
            "source": text("file name in tasks/datasets"),
            "path": text("where the images came from", null=True),
            "label": text("what figures on it are to be called"),
            "split": text("part of the data", "train", "validation", "test"),
            "rows": count("images", low=1),
            "classes": count("classes of the data set", low=2),
            "image_size": count("height and width, pixels", low=1),
            "channels": count("1 or 3", low=1),
            "class_rows_min": count("images of the rarest class"),
            "class_rows_max": count("images of the commonest class"),
            "class_rows": Column(pl.List(pl.Int64), "images of each class, in class order", low=0),
            "class_names": Column(pl.List(pl.String), "what the source calls them, in class order"),
            "images_path": text("all splits' images in the store: npy, uint8, (rows, height, width, channels)"),
            "images_sha256": text("of that file"),
            "images_size_bytes": count("of that file", low=1),
            "duplicates_within": count(
                "images with the pixels of an earlier one of their split, of none of an earlier split"
            ),
            "duplicates_across": count("images with the pixels of one of an earlier split (train, validation, test)"),
            "dropped": count("rows dropped from the source's part because they were bad"),
            "dropped_rows": Column(pl.List(pl.Int64), "their row numbers in the source's part", low=0),
            "dropped_reasons": Column(pl.List(pl.String), "why, in the same order"),
            "layout": text("how it was read: which folders, files and columns are classes, splits, images and labels"),
            "left_out": Column(pl.List(pl.String), "what of the source is not used, and why"),
        },
        unique=("split",),
        ordered=(
            ("class_rows_min", "class_rows_max", "rows"),
            ("duplicates_within", "rows"),
            ("duplicates_across", "rows"),
        ),
        lengths=(
            ("class_rows", "classes"),
            ("class_names", "classes"),
            ("dropped_rows", "dropped"),
            ("dropped_reasons", "dropped"),
        ),
    ),
    "epochs": Table(
        "Training curves, a row an epoch and split.",
        {
            "model": text("label of the model"),
            "variant": text("what was being trained, e.g. lenet5/tune/trial-3"),
            "stage": text("stage that trained", "train", "tune", "augment", "prune", "ablate", "qat"),
            "seed": count("random seed"),
            "epoch": count("from 1", low=1),
            "split": text("images the row is about", "train", "validation"),
            "loss": number("mean cross-entropy"),
            "top1": share("accuracy"),
            "top5": share("top-5 accuracy"),
            "macro_f1": share("F1 averaged over classes"),
            "learning_rate": number("at the end of the epoch"),
            "images_per_second": number("images of this split a second"),
            "seconds": number("for this split, without compile_seconds"),
            "compile_seconds": number(
                (
                    "of the step before the epoch in which PyTorch compiled and cuDNN chose algorithms; null: there "
                    "was none"
                ),
                null=True,
            ),
            "data_wait": share("share of the seconds spent waiting for images, not for augmenting them", null=True),
            "batch_size": count("images of a batch, over all processes", low=1),
            "memory_peak_bytes": count(
                "peak since the epoch began: resident memory of the process, or the GPU allocator's"
            ),
            "precision": text("arithmetic that was used", "fp32", "bf16", "fp16"),
            "device": text("cpu or cuda:N"),
        },
        unique=("variant", "seed", "epoch", "split"),
        ordered=(("top1", "top5"),),
    ),
    "seeds": Table(
        "How much the outcome depends on the seed, a row a training.",
        {
            "model": text("label of the model"),
            "variant": text("what was trained"),
            "stage": text("stage that trained", "train", "tune", "augment"),
            "seeds": Column(pl.List(pl.Int64), "random seeds, a training each", low=0),
            "chosen": count("the seed best on validation, whose weights went on"),
            **{
                f"{split}_macro_f1{end}": column
                for split in ("validation", "test")
                for end, column in {
                    "": Column(pl.List(pl.Float64), f"of each seed, on {split} images", low=0, high=1),
                    "_mean": share("mean over the seeds"),
                    "_std": number("standard deviation over the seeds, null for one", high=1, null=True),
                }.items()
            },
        },
        unique=("variant",),
    ),
    "ablations": Table(
        "Training with each technique alone, with all and with none, a row a model and technique.",
        {
            "model": text("label of the model"),
            "technique": text("none, all, or one of the study's techniques"),
            "sets": text("fields of train, or of the model, that it sets, as JSON"),
            "seeds": count("trainings, a seed each", null=True),
            "epochs": count("of each training", null=True),
            "epoch_seconds": number("median training epoch but the first, all seeds; null for one epoch", null=True),
            "epoch_seconds_low": number("the shortest of them", null=True),
            "epoch_seconds_high": number("the longest of them", null=True),
            "verdict": text(VERDICT_OF_EPOCHS, "faster", "slower", "indistinguishable", null=True),
            "first_epoch_seconds": number(
                "first training epoch, in which PyTorch compiles: mean of the seeds", null=True
            ),
            "images_per_second": number("median of the same epochs", null=True),
            "data_wait": share("median share of the seconds spent waiting for images", null=True),
            "memory_peak_bytes": count(
                "peak: resident memory of the process, or the GPU allocator's; the seeds' highest", null=True
            ),
            "precision": text("arithmetic that was used", "fp32", "bf16", "fp16", null=True),
            "device": text("cpu or cuda:N", null=True),
            "batch_size": count("images of a batch", null=True),
            **{key: column for key, column in QUALITY.items() if key != "top5"},
            "macro_f1_std": number("standard deviation over the seeds, null for one", high=1, null=True),
            "note": text("techniques that all is without, as they are not available here; null: none", null=True),
            **OUTCOME,
        },
        unique=("model", "technique"),
        ordered=(
            ("epoch_seconds_low", "epoch_seconds", "epoch_seconds_high"),
            ("top1_low", "top1", "top1_high"),
            ("macro_f1_low", "macro_f1_high"),
        ),
        given_when_ok=("images_per_second",),
    ),
    "trials": Table(
        "Tuning, a row an adjustment.",
        {
            "model": text("label of the model"),
            "trial": count("from 0; 0 is the study's own settings"),
            "adjusted": text("what was set, as JSON"),
            "score": share("validation macro F1 at its best epoch", null=True),
            "best_so_far": share("best score up to here", null=True),
            "epochs": count("epochs it was given before it ended"),
            "seconds": number("training time"),
            "stopped_early": Column(pl.Boolean, "whether it was pruned as unpromising"),
            **OUTCOME,
        },
        unique=("model", "trial"),
        ordered=(("score", "best_so_far"),),
    ),
    "variants": Table(
        "Lineage: every form of every model.",
        {
            "name": text("unique name"),
            "model": text("label of the model"),
            "stage": text("made by", "train", "tune", "augment", "prune", "export", "quantize", "qat", "build"),
            "parent": text("name of the variant it was made from", null=True),
            "format": text("file format", "safetensors", "torchscript", "onnx", "engine"),
            "precision": text("of weights and arithmetic", "fp32", "fp16", "bf16", "int8"),
            "setting": text("what distinguishes it from its siblings", null=True),
            "parameters": count("number of weights", null=True),
            "macs": count("multiply-accumulates of one image", null=True),
            "size_bytes": count("of the file, external data included", null=True, low=1),
            "sha256": text("of the file", null=True),
            "path": text("in the store", null=True),
            "validation_top1": share("top-1 on validation images, where the stage measured it", null=True),
            "validation_macro_f1": share("macro F1 on validation images, where the stage measured it", null=True),
            "search_latency_ms": number("median at batch 1 in the stage's own search, not the benchmark's", null=True),
            "parity": number("largest logit difference from the parent, relative to its largest logit", null=True),
            "tolerance": number("accepted parity", null=True),
            "benchmark": Column(pl.Boolean, "whether it went on to the benchmark"),
            "note": text("what training found out about these weights and a person should know", null=True),
            **OUTCOME,
        },
        unique=("name",),
        ordered=(("parity", "tolerance"),),
        given_when_ok=("path", "sha256", "size_bytes"),
    ),
    "evaluations": Table(
        "Prediction quality on the held-out images, through the runtime named.",
        {
            **WHICH,
            "parent": text("variant whose predictions are compared", null=True),
            "images": count("held-out images", low=1),
            **QUALITY,
            "agreement": share("share of images with the parent's prediction", null=True),
        },
        unique=("variant", "runtime", "device"),
        ordered=(("top1", "top5"), ("top1_low", "top1", "top1_high"), ("macro_f1_low", "macro_f1_high")),
    ),
    "predictions": Table(
        "What each artifact said of each held-out image.",
        {
            **WHICH,
            "image": count("row in the prepared images"),
            "file": text("image file, relative to the data set's path; null: the source has no files", null=True),
            "label": count("right class"),
            "prediction": count("first class"),
            "confidence": share("softmax probability of the first class"),
        },
        unique=("variant", "runtime", "device", "image"),
        checked_by_batches=True,
    ),
    "completions": Table(
        "Every query of the throughput experiment.",
        {
            **WHICH,
            **BATCH,
            "round": count("from 1", low=1),
            "query": count("from 0, within the round, in the order of completion"),
            "completed_ms": number("since all slots were started"),
        },
        unique=("variant", "runtime", "device", "batch_size", "round", "query"),
        checked_by_batches=True,
    ),
    "latencies": Table(
        "Every sample.",
        {
            **WHICH,
            **BATCH,
            "round": count("from 1", low=1),
            "query": count("from 0, within the round"),
            "latency_ms": number("of one query"),
        },
        unique=("variant", "runtime", "device", "batch_size", "round", "query"),
        checked_by_batches=True,
    ),
    "benchmarks": Table(
        "Latency with one query in flight, a row a variant × runtime × device × batch size.",
        {
            **WHICH,
            **BATCH,
            "rounds": count("visits"),
            "queries": count("samples in all rounds"),
            **LATENCY,
            "images_per_second": number("batch size over mean latency, one query in flight", null=True),
            "round_turns": Column(pl.List(pl.Int64), "turns of each round", True, low=1),
            "turn_medians_ms": Column(
                pl.List(pl.Float64), "median of each turn, round after round, for paired comparison", True, low=0
            ),
            "processes": count("fresh processes that the rounds were spread over", null=True),
            "process_mean_ms": number("mean over the processes' mean latencies", null=True),
            "process_std_ms": number("standard deviation of the processes' mean latencies, null for one", null=True),
            "open_seconds": number("reading and preparing the model, the longest of the processes", null=True),
            "first_query_seconds": number(
                "first query of this batch size (where PyTorch compiles), the longest", null=True
            ),
            "warmup_seconds": number("spent before measuring, all rounds", null=True),
            "energy_per_image_mj": number(
                "millijoules, null where no meter can be read (certificates say why)", null=True
            ),
            "provider": text("execution provider or backend that really ran", null=True),
            "threads": count("intra-op threads", null=True),
            "conditions": text("what was bad about the measurement; null: nothing", null=True),
            **OUTCOME,
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=LATENCY_ORDER,
        given_when_ok=("latency_mean_ms",),
        lengths=(("round_turns", "rounds"), ("turn_medians_ms", "round_turns")),
    ),
    "throughputs": Table(
        "Queries back to back, several in flight, a row a variant × runtime × device × batch size.",
        {
            **WHICH,
            **BATCH,
            "slots": count("queries in flight", low=1),
            "rounds": count("visits"),
            "queries": count("completed in all rounds"),
            "images_per_second": number("mean over the rounds", null=True),
            "images_per_second_std": number("standard deviation over the rounds, null for one", null=True),
            "images_per_second_low": number(
                "99 % interval (Student's t over the rounds), null for one round", null=True
            ),
            "images_per_second_high": number(
                "99 % interval (Student's t over the rounds), null for one round", null=True
            ),
            "round_images_per_second": Column(pl.List(pl.Float64), "of each round", True, low=0),
            "warmup_seconds": number("spent before measuring, all rounds", null=True),
            "energy_per_image_mj": number(
                "millijoules, null where no meter can be read (certificates say why)", null=True
            ),
            "provider": text("execution provider or backend that really ran", null=True),
            "threads": count("threads over all queries in flight", null=True),
            "conditions": text("what was bad about the measurement; null: nothing", null=True),
            **OUTCOME,
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=(("images_per_second_low", "images_per_second", "images_per_second_high"),),
        given_when_ok=("images_per_second",),
        lengths=(("round_images_per_second", "rounds"),),
    ),
    "comparisons": Table(
        "Two candidates compared by paired rounds (`burnish bench`).",
        {
            "reference": text("model and runtime"),
            "candidate": text("model and runtime"),
            **BATCH,
            **EXPERIMENT,
            "ratio": number("how many times as fast the candidate is"),
            "low": number("99 % interval"),
            "high": number("99 % interval, null after one round", null=True),
            "verdict": text("on the candidate", "faster", "slower", "indistinguishable"),
            "conditions": text("what was bad about either; null: nothing", null=True),
        },
        ordered=(("low", "ratio", "high"),),
    ),
    "gpu_times": Table(
        "Where a query on a GPU spends its time (CUDA events), as trtexec reports it: a row a candidate and part.",
        {
            **WHICH,
            **BATCH,
            "part": text(
                "latency: H2D + compute + D2H; enqueue: on the host", "latency", "enqueue", "h2d", "compute", "d2h"
            ),
            "queries": count("samples in all rounds", low=1),
            **SPREAD,
            "total_ms": number("sum of all samples"),
            "host_seconds": number("walltime of all of them on the host"),
        },
        unique=("variant", "runtime", "device", "batch_size", "part"),
        ordered=SPREAD_ORDER,
    ),
    "scenarios": Table(
        "The winner in the scenarios of MLPerf's LoadGen: one row per scenario, or per rate in the server scenario.",
        {
            **WHICH,
            **BATCH,
            "scenario": text("LoadGen's name", "single_stream", "offline", "server"),
            "slots": count("queries in flight at most", low=1),
            "target_rate": number("arrivals a second asked for (server)", null=True),
            "achieved_rate": number(
                "queries completed a second; null: none was tried, as one alone is too slow", null=True
            ),
            "images_per_second": number("achieved_rate times the batch size", null=True),
            "queries": count("samples"),
            "seconds": number("from the first query to the last completion"),
            "latency_median_ms": number("from arrival to completion", null=True),
            "latency_p90_ms": number("null below 64 samples", null=True),
            "latency_p99_ms": number("null below 662 samples", null=True),
            "limit_ms": number("that p99 must keep (server)", null=True),
            "kept": Column(pl.Boolean, "whether it did, at 99 % confidence (server)", True),
            "note": text("what else is to be said", null=True),
        },
    ),
    "certificates": Table(
        "Under which conditions each visit was measured, a row a visit.",
        {
            **WHICH,
            **BATCH,
            **EXPERIMENT,
            "round": count("from 1", low=1),
            "process": count("number of the fresh process, from 1", low=1),
            "provider": text("execution provider or backend that really ran"),
            "threads": count("threads over all queries in flight", null=True),
            "cpu_model": text("as the kernel names it"),
            "cpu_governor": text("frequency governor", null=True),
            "cpu_mhz": number("mean over the usable cores, at both ends", null=True),
            "affinity": text("logical processors that the process may use"),
            "load_average": number("1-minute load of the machine"),
            "foreign_cpu": share("share of the usable cores that other processes used"),
            "gpu_sm_mhz": number("clock of the multiprocessors", null=True),
            "gpu_memory_mhz": number("clock of the memory", null=True),
            "gpu_temperature_c": number("degrees Celsius", null=True, low=None),
            "gpu_trouble": text("slowed down (why), foreign processes; null: nothing, or no GPU", null=True),
            "gpu_driver": text("version", null=True),
            "energy_j": number("of the package or the GPU during the visit", null=True),
            "power_w": number("energy over time", null=True),
            "energy_source": text("meter", null=True),
            "energy_note": text("why there is no energy", null=True),
            "libraries": text("versions, as JSON"),
            "trouble": text("what was bad about this visit; null: nothing", null=True),
        },
        unique=("variant", "runtime", "device", "batch_size", "experiment", "round"),
    ),
    "memory": Table(
        "Memory of the fresh process, a row a variant × runtime × device × batch size.",
        {
            **WHICH,
            **BATCH,
            "rss_baseline_bytes": count("resident with the runtime's library imported, before the model was opened"),
            "rss_peak_bytes": count("most resident until the end of this batch size (sizes run in ascending order)"),
            "ram_usage_bytes": count("peak above the baseline"),
            "vram_peak_bytes": count("the process's GPU memory through NVML, CUDA context included", null=True),
            "vram_context_bytes": count("of it, the CUDA context's, before the model was opened", null=True),
            "vram_source": text("how NVML was asked: of the process, or of a device that nothing else used", null=True),
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=(("rss_baseline_bytes", "rss_peak_bytes"), ("vram_context_bytes", "vram_peak_bytes")),
    ),
    "environments": Table(
        "Where the benchmark ran.",
        {
            "cpu_model": text("as the kernel names it"),
            "cpu_cores": count("usable by the process", low=1),
            "cpu_features": text("vector and matrix instructions", null=True),
            "cpu_governor": text("frequency governor", null=True),
            "memory_bytes": count("of the machine", low=1),
            "load_average": number("1-minute load before the benchmark"),
            "os": text("operating system"),
            "python": text("version"),
            "gpu": text("name of the first GPU", null=True),
            "gpu_driver": text("driver version", null=True),
            "gpu_memory_bytes": count("of the first GPU", null=True),
            "libraries": text("versions, as JSON"),
        },
    ),
    "summary": Table(
        "The end of the study: a row a variant × runtime × device × batch size, failed and skipped ones included.",
        {
            "role": text("part it plays", "winner", "runner-up", "reference", "provisional", null=True),
            "model": text("label of the model"),
            **WHICH,
            **BATCH,
            "stage": text("made by"),
            "format": text("file format"),
            "precision": text("of weights and arithmetic", "fp32", "fp16", "bf16", "int8"),
            "setting": text("what distinguishes it from its siblings", null=True),
            "size_bytes": count("of the file", null=True),
            "parameters": count("number of weights", null=True),
            "macs": count("multiply-accumulates of one image", null=True),
            "latency_mean_ms": number("mean of all samples", null=True),
            "latency_median_ms": number("median of all samples", null=True),
            "latency_p90_ms": number("90th percentile, null where unsupported", null=True),
            "latency_p99_ms": number("99th percentile, null where unsupported", null=True),
            "images_per_second": number("batch size over mean latency", null=True),
            "throughput": number("images a second with several queries in flight", null=True),
            "ram_usage_bytes": count("peak above the baseline", null=True),
            "vram_peak_bytes": count("through NVML", null=True),
            **QUALITY,
            "agreement": share("share of images with the parent's prediction", null=True),
            "drop": number("reference's accuracy less this one's, in the study's metric", low=-1, high=1, null=True),
            "speedup": number("reference's latency over this one's, same batch size", null=True),
            "speedup_low": number("99 % interval over paired rounds", null=True),
            "speedup_high": number("99 % interval over paired rounds", null=True),
            "verdict": text("against the reference", "faster", "slower", "indistinguishable", null=True),
            "pareto": Column(pl.Boolean, "no row of the same batch size is both faster and more accurate"),
            "eligible": Column(pl.Boolean, "ok, good conditions, drop within the study's rule"),
            "conditions": text("what was bad about the measurement", null=True),
            "throughput_conditions": text("what was bad about the measurement of throughput", null=True),
            **OUTCOME,
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=(
            ("top1", "top5"),
            ("latency_median_ms", "latency_p90_ms", "latency_p99_ms"),
            ("speedup_low", "speedup_high"),
        ),
    ),
}

OF_A_STUDY = tuple(name for name in TABLES if name != "comparisons")
"""Tables that a run of a study leaves; the others are `burnish bench`'s alone."""


def declared(name: str) -> Table:
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; tables: {', '.join(TABLES)}")
    return TABLES[name]
