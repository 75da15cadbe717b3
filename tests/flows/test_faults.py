"""In a small study a write, fsync, rename or mkdir fails, or the power does; then the same command is run again.

The second run computes no finished stage again, leaves no temporary files, and publishes what an undisturbed study
publishes. Usually only every n-th operation fails. With BURNISH_FAULTS=all every operation fails in every way, and so
do some operations of the real command.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import programs
from tests.support.command import SHORT
from tests.support.faults import Fault, Shim, build
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = os.environ.get("BURNISH_FAULTS") == "all"
STEPS = {"once-EIO": 1, "lasting-ENOSPC": 6, "once-ENOSPC": 12, "lasting-EIO": 12, "power": 6}
"""For each way of failing, n: every n-th operation fails. Each failure of power costs three studies."""
TOLERATED = {"mkdir", "link", "copy"}
"""Operations that may fail once without ending the study: making a folder that exists already, and a hard link or a
copy within the kernel, because the bytes are then copied another way."""
PARTS = 2 if ALL else 1
"""Number of processes that share the faults which do not end a process. To start one takes five seconds."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


def start_driver(shim: Path, folder: Path, *specs: str) -> subprocess.Popen[str]:
    folder.mkdir()
    environment = Shim(folder / "state").environment(shim) | {
        "PYTHONPATH": str(ROOT),
        "POLARS_MAX_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    driver = programs.command("fault_driver", folder / "study", *specs)
    return subprocess.Popen(driver, env=environment, text=True, stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on a file system in memory where there is one: half of a study's time there is waiting for the disk.

    What reaches a disk is not left to the file system: the driver itself notes what was synced.
    """
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cases(shim: Path, memory: Path) -> list[dict[str, Any]]:
    """One record per fault: the operation that failed, and what was wrong after the same command."""
    steps = dict.fromkeys(STEPS, 1) if ALL else STEPS
    power = steps["power"]
    errors = {mode: step for mode, step in steps.items() if mode != "power"}
    drivers = [start_driver(shim, memory / "power", f"power:1:{power}")] + [
        start_driver(
            shim, memory / str(part), *(f"{mode}:{1 + part * step}:{PARTS * step}" for mode, step in errors.items())
        )
        for part in range(PARTS)
    ]
    outputs = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * len(drivers)
    return [json.loads(line) for text in outputs for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(7200 if ALL else 900)
@pytest.mark.parametrize("mode", STEPS)
def test_after_a_failed_operation_the_same_command_succeeds_and_repeats_no_finished_stage(cases, mode):
    cases = sorted((case for case in cases if case["mode"] == mode), key=lambda case: case["nth"])
    step, total = 1 if ALL else STEPS[mode], cases[0]["total"]
    assert [case["nth"] for case in cases if case["nth"] <= total] == list(range(1, total + 1, step))
    print(f"{mode}: {len(cases)} of {total} operations failed in turn")
    assert [(case["nth"], case["what"], wrong) for case in cases for wrong in case["wrong"]] == []
    # The power also fails once after the last operation, where nothing fires.
    assert all(case["fired"] for case in cases if case["nth"] <= total)
    if step == 1:
        operations = {case["what"].split(" ")[0] for case in cases}
        assert operations >= {"create", "write", "fwrite", "copy", "allocate", "fsync", "rename", "mkdir", "link"}
    # A fault that ends the study is told in one sentence (DiskFull). The few in TOLERATED need not end it.
    if mode != "power":
        silent = {case["what"].split(" ")[0] for case in cases if not case["said"]}
        assert silent <= (set() if mode.startswith("lasting") else TOLERATED)


SAMPLES = 6


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not ALL, reason="takes a quarter of an hour: BURNISH_FAULTS=all")
def test_after_a_failed_operation_of_the_real_command_the_same_command_succeeds(shim, tmp_path):
    state = Shim(tmp_path / "state")
    draw = random.Random(0)
    out = tmp_path / "whole"
    code, _ = run_command(shim, state, out, Fault())
    assert code == 0
    total = state.counts()[0]
    for sample in range(SAMPLES):
        out = tmp_path / str(sample)
        error, lasting = draw.choice([errno.EIO, errno.ENOSPC]), draw.random() < 0.5
        fault = Fault(draw.randint(1, total), error, lasting)
        code, errors = run_command(shim, state, out, fault)
        _, fired, operation = state.counts()
        print(f"{fault} of {total}, {operation}: exit {code}, {errors.splitlines()[-1][:200]}", flush=True)
        # The number of operations differs a little between runs, so a late fault may find no operation.
        assert fired or fault.nth > 0.9 * total
        assert code in (0, 1)
        assert "Traceback" not in errors
        finished = {path.name for path in (out / "store" / "results").glob("[!.]*")}
        code, errors = run_command(shim, state, out, Fault())
        assert code == 0, errors
        newest = max((out / "runs").iterdir())
        stages = [json.loads(path.read_text()) for path in (newest / "why").iterdir()]
        assert {stage["key"] for stage in stages if stage["outcome"] != "hit"}.isdisjoint(finished)


def run_command(shim: Path, state: Shim, out: Path, fault: Fault) -> tuple[int, str]:
    """Run the real command with a fault, and return its exit code and its standard error."""
    state.arm(out, fault)
    settings = [f"--set={setting}" for setting in SHORT]
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", "quickstart", "--out", str(out), *settings],
        cwd=ROOT,
        text=True,
        env=state.environment(shim),
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stderr
