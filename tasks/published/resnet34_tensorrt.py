"""S1: a CIFAR-10 classifier's F1 after each training stage, and ResNet-34's latency in TensorRT as trtexec prints
it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.published import ABSENT, Comparison, Line, fastest, figure, rows, same, score, starred, timed
from tasks.tables.figures import words
from tasks.tables.variants import LONGER, TRY

if TYPE_CHECKING:
    from tasks.published import Row, Tables

HARDWARE = "a GPU that the study does not name"
F1 = {"initial training": "0.8928", "tuned hyper-parameters": "0.9160", "tuned + augmented data": "0.9126"}
STATISTICS = ("min", "max", "mean", "median", "p90", "p95", "p99")
PARTS = {
    "latency": ("1.75537", "10.467", "1.80254", "1.77828", "1.81641", "1.82147", "3.02986"),
    "enqueue": ("0.183838", "11.081", "0.268116", "0.266113", "0.312866", "0.32373", "0.353638"),
    "h2d": ("0.00610352", "0.0982666", "0.0308493", "0.0134277", "0.0585938", "0.0627441", "0.0737305"),
    "compute": ("1.7431", "10.4111", "1.76714", "1.74902", "1.75336", "1.76129", "3.01443"),
    "d2h": ("0.00341797", "0.0135498", "0.00455719", "0.00415039", "0.00595093", "0.00634766", "0.00708008"),
}
NAMES = {
    "latency": "latency ms",
    "enqueue": "enqueue ms",
    "h2d": "H2D ms",
    "compute": "GPU compute ms",
    "d2h": "D2H ms",
}


def compare(tables: Tables) -> list[Comparison]:
    """F1 by stage, trtexec's table and its totals, latency before and after with the accuracy of what was timed."""
    return [_scores(tables), *_latency(tables), _before_and_after(tables)]


def _scores(tables: Tables) -> Comparison:
    lines = []
    trained = [row for row in rows(tables, "variants") if row["format"] == "safetensors" and row["status"] == "ok"]
    for model in dict.fromkeys(row["model"] for row in trained):
        ours = [row for row in trained if row["model"] == model]
        first, tuned = (next((row for row in ours if row["stage"] == stage), None) for stage in ("train", "tune"))
        augmented = [row for row in ours if row["stage"] == "augment"]
        kept = next((row for row in augmented if row["benchmark"]), None)
        shown, how = _augmented(augmented)
        as_given = " (the first settings stayed best)" if tuned and tuned["setting"] == "as given" else ""
        stages = (
            ("initial training", "", first),
            ("tuned hyper-parameters", as_given, tuned),
            ("tuned + augmented data", how, shown),
        )
        lines += [
            Line((model, stage + more), (F1[stage], ABSENT, ABSENT), _score(tables, row)) for stage, more, row in stages
        ]
        longer = next((row for row in augmented if row["name"].endswith(LONGER)), None)
        if longer is not None:
            goes_on = " (kept)" if longer["benchmark"] else ""
            lines.append(Line((model, f"tuned, as long as with augmented data{goes_on}"), None, _score(tables, longer)))
        if kept is not None and kept["setting"] == "none":
            lines.append(Line((model, "kept: no augmentation"), None, _score(tables, kept)))
    return Comparison(
        "F1 after each stage",
        ("model", "stage"),
        ("macro F1 (95 % interval)", "over the seeds", "training s"),
        tuple(lines),
        (
            "Augmented data: the policy that goes on, or the best by validation images where none does; the "
            "report's section "
            "Augmentation then says why.",
            "Training s: all epochs of the seed whose weights are shown, from scratch; not in it are the search "
            "before, "
            "validation, checkpoints, and what + tells: PyTorch's compilation and cuDNN's choice of algorithms.",
        ),
    )


def _augmented(rows: list[Row]) -> tuple[Row | None, str]:
    """The policy that stands for augmented data, and what is to be said of it: trained in full before tried in
    short."""
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
    """Seconds of training of the weights of a row of `variants`, and after + of the warm-up in which PyTorch
    compiles."""
    names = same(tables, variant)
    chosen = {row["variant"]: row["chosen"] for row in rows(tables, "seeds", lambda row: row["variant"] in names)}
    epochs = rows(tables, "epochs", lambda row: row["split"] == "train" and chosen.get(row["variant"]) == row["seed"])
    if not epochs:
        return ABSENT
    compiled = [row["compile_seconds"] for row in epochs if row["compile_seconds"] is not None]
    return figure(sum(row["seconds"] for row in epochs)) + (f" + {figure(sum(compiled))}" if compiled else "")


def _score(tables: Tables, variant: Row | None) -> tuple[str, str, str] | None:
    found = score(tables, variant) if variant else None
    if variant is None or found is None:
        return None
    ends = [figure(found[f"macro_f1_{end}"], "{:.4f}".format) for end in ("low", "high")]
    seeds = rows(
        tables, "seeds", lambda row: row["variant"] in same(tables, variant) and row["test_macro_f1_std"] is not None
    )
    spread = [
        f"{row['test_macro_f1_mean']:.4f} ± {row['test_macro_f1_std']:.4f} ({len(row['seeds'])} seeds)" for row in seeds
    ]
    return f"{found['macro_f1']:.4f} ({ends[0]} to {ends[1]})", (*spread, "one seed")[0], _training(tables, variant)


def _single(tables: Tables) -> tuple[Row | None, str]:
    """The fastest engine at batch 1, or the fastest form of all where no engine was executed; and what that is."""
    one = rows(tables, "summary", lambda row: row["batch_size"] == 1)
    engine = _best([row for row in one if row["format"] == "engine"])
    if engine:
        return engine, f"Here: {words(engine)}, the fastest engine{_rule(engine)}."
    why = next((row["error"] for row in one if row["format"] == "engine" and row["error"]), "no engine was built")
    other = _best(one)
    told = f"Here: {words(other)}, the fastest form{_rule(other)}; no engine was executed: {why}." if other else why
    return other, told


def _best(found: list[Row]) -> Row | None:
    """The fastest of those that may win; the fastest of all where none may (the machine was busy, say)."""
    return fastest([row for row in found if row["eligible"]]) or fastest(found)


def _rule(row: Row) -> str:
    return " that is accurate enough" if row["eligible"] else ""


def _latency(tables: Tables) -> list[Comparison]:
    row, note = _single(tables)
    timed: dict[str, Row] = {}
    several: list[Row] = []
    if row is not None:
        place = ("variant", "runtime", "device", "batch_size")
        here = lambda found: all(found[key] == row[key] for key in place)  # noqa: E731
        timed = {part["part"]: part for part in rows(tables, "gpu_times", here)}
        if not timed:
            timed = {
                "latency": {
                    k.removeprefix("latency_"): v
                    for found in rows(tables, "benchmarks", here)
                    for k, v in found.items()
                }
            }
        several = rows(tables, "throughputs", lambda found: here(found) and found["status"] == "ok")
    bad = bool(row and row["conditions"])
    lines = [
        Line(
            (NAMES[part],),
            published,
            tuple(starred(timed[part][f"{name}_ms"], bad) for name in STATISTICS) if part in timed else None,
        )
        for part, published in PARTS.items()
    ]
    whole, compute = timed.get("latency", {}), timed.get("compute", {})
    rate, how = _rate(several, whole.get("mean_ms"), bad)
    totals = (
        rate,
        starred(whole.get("host_seconds"), bad),
        starred(compute["total_ms"] / 1000 if compute else None, bad),
    )
    total = Line(("total",), ("564.01", "3.00704", "2.99707"), totals if whole else None)
    columns = ("throughput qps", "host walltime s", "GPU compute s")
    return [
        Comparison("ResNet-34, one image, as trtexec prints it", ("metric",), STATISTICS, tuple(lines), (note,)),
        Comparison("Its totals", ("",), columns, (total,), (how,)),
    ]


def _rate(several: list[Row], mean_ms: float | None, bad: bool) -> tuple[str, str]:
    """Queries a second, and what that rate is: trtexec enqueues ahead, so that of several in flight where it was
    measured."""
    said = "trtexec enqueues ahead; the rate here is"
    for found in several:
        rate = starred(found["images_per_second"] / found["batch_size"], bool(found["conditions"]))
        return rate, f"{said} that of {found['slots']} queries in flight (table throughputs)."
    rate = starred(1000 / mean_ms if mean_ms else None, bad)
    return rate, f"{said} that of one query in flight: several were not measured (benchmark.throughput)."


def _before_and_after(tables: Tables) -> Comparison:
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
