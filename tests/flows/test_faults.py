"""Every write, fsync, rename and mkdir of a small study fails in turn, or the power does; then the same command ends
well.

After the same command, no stage that was finished has been computed again, nothing is left behind, and what is
published is what an undisturbed study publishes. BURNISH_FAULTS=all lets every operation fail in every way, and some of
a real command's.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import programs
from tests.support.command import SHORT
from tests.support.faults import Fault, Shim, build
from tests.support.paths import ROOT

ALL = os.environ.get("BURNISH_FAULTS") == "all"
STEPS = {"once-EIO": 1, "lasting-ENOSPC": 6, "once-ENOSPC": 12, "lasting-EIO": 12, "power": 6}
"""Every how many operations one fails where not all do: each case of power is three studies."""
TOLERATED = {"mkdir", "link", "copy"}
"""What may fail once without ending the study: to make a folder that is there; a hard link or a copy within the kernel,
in whose place bytes are copied."""
HALVES = 2
"""Processes that share the faults that do not end one."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


def start(shim: Path, folder: Path, *specs: str) -> subprocess.Popen[str]:
    folder.mkdir()
    environment = Shim(folder / "state").environment(shim) | {
        "PYTHONPATH": str(ROOT),
        "POLARS_MAX_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    driver = programs.command("fault_driver", folder / "study", *specs)
    return subprocess.Popen(driver, env=environment, text=True, stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def cases(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of every fault."""
    steps = dict.fromkeys(STEPS, 1) if ALL else STEPS
    power, errors = steps["power"], {mode: step for mode, step in steps.items() if mode != "power"}
    folder = tmp_path_factory.mktemp("faults")
    drivers = [start(shim, folder / "power", f"power:1:{power}")] + [
        start(shim, folder / str(half), *(f"{mode}:{1 + half * step}:{HALVES * step}" for mode, step in errors.items()))
        for half in range(HALVES)
    ]
    told = [driver.communicate()[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0] * len(drivers)
    return [json.loads(line) for text in told for line in text.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(7200 if ALL else 900)
@pytest.mark.parametrize("mode", STEPS)
def test_after_any_operation_has_failed_the_same_command_ends_well_and_repeats_no_finished_stage(cases, mode):
    cases = sorted((case for case in cases if case["mode"] == mode), key=lambda case: case["nth"])
    step, total = 1 if ALL else STEPS[mode], cases[0]["total"]
    assert [case["nth"] for case in cases if case["nth"] <= total] == list(range(1, total + 1, step))
    print(f"{mode}: {len(cases)} of {total} operations failed in turn")
    assert [(case["nth"], case["what"], wrong) for case in cases for wrong in case["wrong"]] == []
    # power fails once after the end, too
    assert all(case["fired"] for case in cases if case["nth"] <= total)
    if step == 1:
        operations = {case["what"].split(" ")[0] for case in cases}
        assert operations >= {"create", "write", "fwrite", "copy", "allocate", "fsync", "rename", "mkdir", "link"}
    # what ends a study is one sentence (DiskFull), and hardly anything does not end it
    if mode != "power":
        silent = {case["what"].split(" ")[0] for case in cases if not case["said"]}
        assert silent <= (set() if mode.startswith("lasting") else TOLERATED)


SAMPLES = 6


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not ALL, reason="takes a quarter of an hour: BURNISH_FAULTS=all")
def test_after_operations_of_a_real_command_have_failed_it_ends_well(shim, tmp_path):
    state = Shim(tmp_path / "state")
    draw = random.Random(0)
    out = tmp_path / "whole"
    code, _ = command(shim, state, out, Fault())
    assert code == 0
    total = state.counts()[0]
    for sample in range(SAMPLES):
        out = tmp_path / str(sample)
        error, lasting = draw.choice([errno.EIO, errno.ENOSPC]), draw.random() < 0.5
        fault = Fault(draw.randint(1, total), error, lasting)
        code, told = command(shim, state, out, fault)
        _, fired, what = state.counts()
        print(f"{fault} of {total}, {what}: exit {code}, {told.splitlines()[-1][:200]}", flush=True)
        # rounds of a benchmark differ a little
        assert fired or fault.nth > 0.9 * total
        assert code in (0, 1)
        assert "Traceback" not in told
        finished = {path.name for path in (out / "store" / "results").glob("[!.]*")}
        code, told = command(shim, state, out, Fault())
        assert code == 0, told
        newest = max((out / "runs").iterdir())
        why = [json.loads(path.read_text()) for path in (newest / "why").iterdir()]
        assert {one["key"] for one in why if one["outcome"] != "hit"}.isdisjoint(finished)


def command(shim: Path, state: Shim, out: Path, fault: Fault) -> tuple[int, str]:
    """The real command with a fault; its exit code and what it says."""
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
