"""Tables of the search for forms: which layers gain from floating point, what was tried, and how it was opened."""

from __future__ import annotations

import polars as pl

from tasks.tables.schema.column import Column, Table, count, number, share, text

TABLES: dict[str, Table] = {
    "layers": Table(
        "What a model's fastest int8 form gains when a block of its layers stays in floating point: one row per form, "
        "runtime and block.",
        {
            "form": text("name of the int8 form"),
            "runtime": text("runtime in which it was measured"),
            "rank": count("place of the block: 1 gains most per millisecond that it costs", low=1),
            "block": text("name of the block, as the model's graph has it"),
            "nodes": count("operators in the block", low=1),
            "images": count("validation images that were classified", low=1),
            "divergence": number(
                "Kullback-Leibler divergence from fp32's class probabilities with this block in floating point, in nats"
            ),
            "saved": number("how much smaller that is than the int8 form's own; below 0 by chance", low=None),
            "latency": number(
                "latency with this block in floating point, as a multiple of the int8 form's; null where the block "
                "saves too little to be measured",
                null=True,
            ),
        },
        unique=("form", "runtime", "block"),
    ),
    "search": Table(
        "The search for faster int8 forms: one row per trial.",
        {
            "form": text("name of the form that was tried"),
            "parent": text("name of the fp32 form that it was made of"),
            "trial": count("number of the trial of this parent, from 1", low=1),
            "setting": text("int8 setting"),
            "runtime": text("runtime by whose ranking (table layers) blocks stay in floating point"),
            "kept": count("blocks that stay in floating point"),
            "look": number(
                "Kullback-Leibler divergence from fp32's class probabilities on the images of the first look, in nats",
                null=True,
            ),
            "divergence": number("the same on all validation images; null where it was left before", null=True),
            "drop": share(
                "how much validation top-1 it is taken to lose, as validation_drop of the table variants", null=True
            ),
            "latency_ms": number("median latency of one image in its runtime", null=True),
            "latencies": text("the same in each runtime in which it was measured, as JSON: runtime -> milliseconds"),
            "seconds": number("time that the trial took"),
            "ended": text(
                "done: scored on all validation images. worse: another form was more faithful and faster on the first "
                "look. slower: it is slower than fp32 in its runtime. failed: see error",
                "done",
                "worse",
                "slower",
                "failed",
            ),
            "error": text("why it failed", null=True),
        },
        unique=("parent", "trial"),
    ),
    "configurations": Table(
        "Ways to open the fastest form in a runtime: one row per form, runtime and configuration.",
        {
            "form": text("name of the form"),
            "runtime": text("runtime in which it was measured"),
            "configuration": text(
                "number of threads and options of the runtime, as far as they are not the usual ones"
            ),
            "threads": count("number of threads", low=1),
            "against": text("the configuration that it was measured by turns with: the fastest before it"),
            "ratio": number("its latency as a multiple of that one's", null=True),
            "rounds_faster": count("in how many rounds of the measurement it was the faster one"),
            "taken": Column(pl.Boolean, "whether it is clearly faster: in every round, and by 3 % or more"),
            "seconds": number("time that the comparison took"),
            "error": text("why it failed", null=True),
        },
        unique=("form", "runtime", "configuration"),
    ),
}
