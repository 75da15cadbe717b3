"""Executes a model in the OpenVINO runtime for some seconds, and prints its median latency as benchmark_app does.

Arguments: the ONNX file, and the seconds. It prints "ready" before the first query that counts.
"""

import sys
import time
from pathlib import Path

import numpy as np

from tasks import runtimes

session = runtimes.load("openvino").open(Path(sys.argv[1]), "cpu", 1, 1)
inputs = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)
session.run(inputs)
latencies_ms = []
print("ready")
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    begin = time.perf_counter_ns()
    session.run(inputs)
    latencies_ms.append((time.perf_counter_ns() - begin) / 1e6)
print("Median:", np.median(latencies_ms), "ms")
