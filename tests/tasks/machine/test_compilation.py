"""What torch.compile keeps on disk is used only by a CPU with the instructions for which it was compiled."""

import subprocess

import pytest
import torch

from tests.support.programs import command, environment


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this CPU has one width of vectors")
def test_code_that_torch_compiled_for_another_cpu_is_not_used(tmp_path):
    def hits(**capability):
        """Compile in a new process, and return how often it found something in the caches."""
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
    assert hits() == 0, "code compiled for AVX2 would write past its memory with AVX-512"
    assert hits() > 0, "code compiled for this CPU is used again"
