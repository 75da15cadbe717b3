"""S1: the F1 of a CIFAR-10 classifier after each stage of training, and ResNet-34's latency in TensorRT.

Latencies are in the form in which trtexec, TensorRT's own program for measuring, prints them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, fastest, figure, names_of_weights, rows, score, starred, timed
from tasks.tables.figures import words
from tasks.tables.variants import LONGER, TRY

if TYPE_CHECKING:
    from tasks.published import Row, Tables

HARDWARE = "a GPU that the study does not name"
F1 = {"initial training": "0.8928", "tuned hyper-parameters": "0.9160", "tuned + augmented data": "0.9126"}
"""Stage -> macro F1, as published."""
STATISTICS = ("min", "max", "mean", "median", "p90", "p95", "p99")
PARTS = {
    "latency": ("1.75537", "10.467", "1.80254", "1.77828", "1.81641", "1.82147", "3.02986"),
    "enqueue": ("0.183838", "11.081", "0.268116", "0.266113", "0.312866", "0.32373", "0.353638"),
    "h2d": ("0.00610352", "0.0982666", "0.0308493", "0.0134277", "0.0585938", "0.0627441", "0.0737305"),
    "compute": ("1.7431", "10.4111", "1.76714", "1.74902", "1.75336", "1.76129", "3.01443"),
    "d2h": ("0.00341797", "0.0135498", "0.00455719", "0.00415039", "0.00595093", "0.00634766", "0.00708008"),
}
"""Part of a query -> `STATISTICS` in milliseconds, as published."""
NAMES = {
    "latency": "latency ms",
    "enqueue": "enqueue ms",
    "h2d": "H2D ms",
    "compute": "GPU compute ms",
    "d2h": "D2H ms",
}


def compare(tables: Tables) -> list[Comparison]:
    """Return F1 by stage, trtexec's table and its totals, and latency with accuracy before and after."""
    return [_scores(tables), *_latency(tables), _before_and_after(tables)]


def _scores(tables: Tables) -> Comparison:
    trained = [row for row in rows(tables, "variants") if row["format"] == "safetensors" and row["status"] == "ok"]
    lines: list[Line] = []
    for model in dict.fromkeys(row["model"] for row in trained):
        lines += _scores_of(tables, model, [row for row in trained if row["model"] == model])
    return Comparison(
        "F1 after each stage",
        ("model", "stage"),
        ("macro F1 (95 % interval)", "over the seeds", "training s"),
        tuple(lines),
        (
            "Augmented data: the policy that later stages use, or the best on validation images where they use none; "
            "the report's section Augmentation then says why.",
            "Training s: all epochs of the seed whose weights are shown, from scratch. The search before it, "
            "validation and checkpoints are not included. What follows + is PyTorch's compilation and cuDNN's choice "
            "of algorithms.",
        ),
    )


def _scores_of(tables: Tables, model: str, weights: list[Row]) -> list[Line]:
    """Return the lines of one model, from the rows of `variants` of its weights."""
    trained = next((row for row in weights if row["stage"] == "train"), None)
    tuned = next((row for row in weights if row["stage"] == "tune"), None)
    augmented = [row for row in weights if row["stage"] == "augment"]
    kept = next((row for row in augmented if row["benchmark"]), None)
    policy, about_policy = _augmented(augmented)
    about_tuned = " (the first settings stayed best)" if tuned and tuned["setting"] == "as given" else ""
    stages = (
        ("initial training", "", trained),
        ("tuned hyper-parameters", about_tuned, tuned),
        ("tuned + augmented data", about_policy, policy),
    )
    lines = [
        Line((model, stage + about), (F1[stage], ABSENT, ABSENT), _score(tables, row)) for stage, about, row in stages
    ]
    longer = next((row for row in augmented if row["name"].endswith(LONGER)), None)
    if longer is not None:
        about_longer = " (kept)" if longer["benchmark"] else ""
        key = (model, f"tuned, as long as with augmented data{about_longer}")
        lines.append(Line(key, None, _score(tables, longer)))
    if kept is not None and kept["setting"] == "none":
        lines.append(Line((model, "kept: no augmentation"), None, _score(tables, kept)))
    return lines


def _augmented(rows: list[Row]) -> tuple[Row | None, str]:
    """Return the variant that stands for training with augmented data, and its policy in words.

    It is the one that later stages use, else the best of those trained in full, else the best of those tried in short.
    """
    policies = [row for row in rows if row["setting"] != "none" and not row["name"].endswith(LONGER)]
    best = max(
        policies,
        key=lambda row: (row["benchmark"], not row["name"].endswith(TRY), row["validation_macro_f1"] or 0),
        default=None,
    )
    if best is None:
        return None, ""
    return best, f" ({best['setting']}{', tried in short' if best['name'].endswith(TRY) else ''})"


def _training(tables: Tables, variant: Row) -> str:
    """Return how many seconds training took, and after + the seconds of the warm-up in which PyTorch compiles."""
    names = names_of_weights(tables, variant)
    chosen = {row["variant"]: row["chosen"] for row in rows(tables, "seeds", lambda row: row["variant"] in names)}
    epochs = rows(tables, "epochs", lambda row: row["split"] == "train" and chosen.get(row["variant"]) == row["seed"])
    if not epochs:
        return ABSENT
    compiled = [row["compile_seconds"] for row in epochs if row["compile_seconds"] is not None]
    return figure(sum(row["seconds"] for row in epochs)) + (f" + {figure(sum(compiled))}" if compiled else "")


def _score(tables: Tables, variant: Row | None) -> tuple[str, str, str] | None:
    """Return macro F1 with its interval, its spread over the seeds, and the training time; None without a score."""
    evaluation = score(tables, variant) if variant else None
    if variant is None or evaluation is None:
        return None
    low, high = (figure(evaluation[f"macro_f1_{end}"], "{:.4f}".format) for end in ("low", "high"))
    names = names_of_weights(tables, variant)
    spread = "one seed"
    for row in rows(tables, "seeds", lambda row: row["variant"] in names and row["test_macro_f1_std"] is not None)[:1]:
        spread = f"{row['test_macro_f1_mean']:.4f} ± {row['test_macro_f1_std']:.4f} ({len(row['seeds'])} seeds)"
    return f"{evaluation['macro_f1']:.4f} ({low} to {high})", spread, _training(tables, variant)


def _single(tables: Tables) -> tuple[Row | None, str]:
    """Return the fastest engine at batch 1, or the fastest form where no engine was executed, and a note on it."""
    single = rows(tables, "summary", lambda row: row["batch_size"] == 1)
    engine = _best([row for row in single if row["format"] == "engine"])
    if engine:
        return engine, f"Here: {words(engine)}, the fastest engine{_rule(engine)}."
    why = next((row["error"] for row in single if row["format"] == "engine" and row["error"]), "no engine was built")
    other = _best(single)
    if other is None:
        return None, why
    return other, f"Here: {words(other)}, the fastest form{_rule(other)}; no engine was executed: {why}."


def _best(candidates: list[Row]) -> Row | None:
    """Return the fastest of those that may win, or of all where none may, because the machine was busy, say."""
    return fastest([row for row in candidates if row["eligible"]]) or fastest(candidates)


def _rule(row: Row) -> str:
    return " that is accurate enough" if row["eligible"] else ""


def _latency(tables: Tables) -> list[Comparison]:
    """Return trtexec's table and its totals, of the candidate that `_single` returns."""
    row, note = _single(tables)
    marked = bool(row and row["conditions"])
    parts = _parts(tables, row) if row is not None else {}
    lines = []
    for part, published in PARTS.items():
        measured = None
        if part in parts:
            measured = tuple(starred(parts[part][f"{name}_ms"], marked) for name in STATISTICS)
        lines.append(Line((NAMES[part],), published, measured))
    whole, compute = parts.get("latency", {}), parts.get("compute", {})
    several = _in_place(tables, "throughputs", row) if row is not None else []
    rate, how = _rate([row for row in several if row["status"] == "ok"], whole.get("mean_ms"), marked)
    compute_seconds = compute["total_ms"] / 1000 if compute else None
    totals = (rate, starred(whole.get("host_seconds"), marked), starred(compute_seconds, marked))
    total = Line(("total",), ("564.01", "3.00704", "2.99707"), totals if whole else None)
    columns = ("throughput qps", "host walltime s", "GPU compute s")
    return [
        Comparison("ResNet-34, one image, as trtexec prints it", ("metric",), STATISTICS, tuple(lines), (note,)),
        Comparison("Its totals", ("",), columns, (total,), (how,)),
    ]


def _parts(tables: Tables, row: Row) -> dict[str, Row]:
    """Return part of a query -> its statistics. Where no GPU was measured, there is the latency alone."""
    parts = {part["part"]: part for part in _in_place(tables, "gpu_times", row)}
    if parts:
        return parts
    latency: Row = {}
    for benchmark in _in_place(tables, "benchmarks", row):
        latency |= {name.removeprefix("latency_"): value for name, value in benchmark.items()}
    return {"latency": latency}


def _in_place(tables: Tables, table: str, row: Row) -> list[Row]:
    """Return the rows of a table that were measured where a row of `summary` was."""
    place = ("variant", "runtime", "device", "batch_size")
    return rows(tables, table, lambda other: all(other[key] == row[key] for key in place))


def _rate(several: list[Row], mean_ms: float | None, marked: bool) -> tuple[str, str]:
    """Return queries per second, and which rate that is.

    trtexec enqueues ahead, so it is the rate with several queries in flight where that was measured.
    """
    if several:
        row = several[0]
        rate = starred(row["images_per_second"] / row["batch_size"], bool(row["conditions"]))
        which = f"that of {row['slots']} queries in flight (table throughputs)"
    else:
        rate = starred(1000 / mean_ms if mean_ms else None, marked)
        which = "that of one query in flight: several were not measured (benchmark.throughput)"
    return rate, f"trtexec enqueues ahead; the rate here is {which}."


def _before_and_after(tables: Tables) -> Comparison:
    """Return latency and accuracy of the reference and of the candidate that `_single` returns."""
    before = rows(tables, "summary", lambda row: row["role"] == "reference")
    after, _ = _single(tables)
    lines = [
        Line(
            (name, words(row)),
            None,
            (timed(row), figure(row["macro_f1"], "{:.4f}".format), figure(row["agreement"], "{:.4f}".format)),
        )
        for name, row in [*(("before", row) for row in before), ("after", after)]
        if row is not None
    ]
    return Comparison(
        "Single-sample latency before and after, and the accuracy of what was timed",
        ("", "form"),
        ("median ms", "macro F1", "agreement with its parent"),
        tuple(lines),
        ("The study never checked the accuracy of its engine.",),
    )
