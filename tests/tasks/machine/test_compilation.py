"""What torch.compile keeps on disk belongs to the CPU that wrote it."""

import subprocess

import pytest
import torch

from tests.support.programs import command, environment


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this CPU has one width of vectors")
def test_a_cache_of_another_cpu_is_not_used(tmp_path):
    def hits(**capability):
        run = subprocess.run(
            command("compile_gather"),
            text=True,
            capture_output=True,
            check=False,
            env=environment(TORCHINDUCTOR_CACHE_DIR=str(tmp_path), **capability),
        )
        assert run.returncode == 0, run.stderr
        return sum(map(int, run.stdout.split()))

    assert hits(ATEN_CPU_CAPABILITY="avx2") == 0
    assert hits() == 0, "compiled for AVX2, which writes past its memory with AVX-512"
    assert hits() > 0, "its own is used again"
