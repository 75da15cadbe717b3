"""For each line that it reads, prints as JSON which code the keys of the quickstart's stages depend on, at that moment.

The JSON is stage -> module -> hash. Each answer comes from a forked process, which imports the project as it is then.
The libraries, which do not change meanwhile and take longest, are imported once.
"""

import importlib
import json
import os
import sys
from typing import get_args


def print_sources() -> None:
    from tasks.caching.keys import HANDED, sources
    from tasks.candidates.candidate import modules
    from tasks.records import Benchmark, StageName, Variant

    variant = Variant(name="lenet5/train", model="lenet5", stage="train", format="onnx", status="failed", error="x")
    candidate_modules = modules(Benchmark(runtimes=("eager", "onnxruntime")), (variant,))
    loaded_by_name = {"train": ("models.lenet",), "benchmark": candidate_modules, "serve": candidate_modules}
    hashes = {stage: sources(f"tasks.{stage}", HANDED, *loaded_by_name.get(stage, ())) for stage in get_args(StageName)}
    print(json.dumps(hashes), flush=True)


if __name__ == "__main__":
    for library in ("numpy", "polars", "prefect", "pydantic"):
        importlib.import_module(library)
    assert not {"flows", "tasks", "models"} & sys.modules.keys(), "the project itself is imported by each fork"
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            print_sources()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the hashes could not be computed")
