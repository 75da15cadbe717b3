"""Prints, as JSON, which code the key of each stage of the quickstart study depends on: stage -> module -> hash."""

import json
from typing import get_args

from tasks.caching.keys import HANDED, sources
from tasks.candidates.candidate import modules
from tasks.records import Benchmark, StageName, Variant

candidate_modules = modules(
    Benchmark(runtimes=("eager", "onnxruntime")),
    (Variant(name="lenet5/train", model="lenet5", stage="train", format="onnx", status="failed", error="made up"),),
)
loaded_by_name = {"train": ("models.lenet",), "benchmark": candidate_modules, "serve": candidate_modules}
stages = get_args(StageName)
print(json.dumps({stage: sources(f"tasks.{stage}", HANDED, *loaded_by_name.get(stage, ())) for stage in stages}))
