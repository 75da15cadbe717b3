"""Prints, as JSON, what the key of each stage of the quickstart counts of the code: stage -> module -> hash."""

import json
from typing import get_args

from tasks.caching.keys import HANDED, sources
from tasks.candidates.candidate import modules
from tasks.records import Benchmark, StageName, Variant

measured = modules(
    Benchmark(runtimes=("eager", "onnxruntime")),
    (Variant(name="lenet5/train", model="lenet5", stage="train", format="onnx", status="failed", error="made up"),),
)
by_name = {"train": ("models.lenet",), "benchmark": measured, "serve": measured}
print(json.dumps({stage: sources(f"tasks.{stage}", HANDED, *by_name.get(stage, ())) for stage in get_args(StageName)}))
