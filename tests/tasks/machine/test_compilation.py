"""What torch.compile keeps on disk belongs to the CPU that wrote it."""

import os
import subprocess
import sys

import pytest
import torch

GATHER = """
import torch
from tasks.machine import compilation
def rows(pixels, places):
    return pixels.to(torch.float32)[torch.clamp((places * 5).to(torch.int64) - 2, 0, 7)].sqrt()
pixels, places = torch.arange(8 * 19, dtype=torch.uint8).reshape(8, 19), torch.linspace(0, 1, 40)
assert torch.allclose(compilation.compiled(rows)(pixels, places), rows(pixels, places))
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"], counters["aot_autograd"]["autograd_cache_hit"])
"""


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this CPU has one width of vectors")
def test_a_cache_of_another_cpu_is_not_used(tmp_path):
    def hits(**capability):
        run = subprocess.run(
            [sys.executable, "-c", GATHER],
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), **capability},
        )
        assert run.returncode == 0, run.stderr
        return sum(map(int, run.stdout.split()))

    assert hits(ATEN_CPU_CAPABILITY="avx2") == 0
    assert hits() == 0, "compiled for AVX2, which writes past its memory with AVX-512"
    assert hits() > 0, "its own is used again"
