"""Ctrl-C and SIGTERM, as a terminal and a supervisor send them, at every stage: one line, its exit code, no process
left."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import psutil
import pytest

from flows.terminal.supervisor import INTERRUPTED
from tasks import tables
from tasks.records import StageName
from tests.support import programs
from tests.support.command import SHORT, TINY, Burnish, environment_without_server
from tests.support.models import onnx_file
from tests.support.paths import ROOT
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_SECONDS = 3.0
COMMAND = (sys.executable, "-m", "flows")
# Every stage but ablate, which STUDY leaves out.
STAGES = tuple(stage for stage in get_args(StageName) if stage != "ablate")
HOW: dict[str, tuple[int, Callable[[Terminal], None]]] = {
    "Ctrl-C": (130, lambda terminal: terminal.ctrl_c()),
    "SIGTERM to the process": (143, lambda terminal: terminal.signal(signal.SIGTERM)),
    "SIGTERM to the group": (143, lambda terminal: terminal.signal_group(signal.SIGTERM)),
    "SIGINT to the process": (130, lambda terminal: terminal.signal(signal.SIGINT)),
}
# Long enough to be interrupted everywhere.
STUDY = (
    *TINY,
    "qat.epochs=1",
    "benchmark.runtimes=['eager', 'onnxruntime']",
    "benchmark.batch_sizes=[1]",
    "benchmark.throughput=false",
    "benchmark.min_seconds=0.5",
    "serve.seconds=1",
    "build.precisions=['fp32']",
)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals that are closed whatever happens."""
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal.close()


def plain(text: str) -> list[str]:
    """Lines that a person sees, without colours and movements of the cursor."""
    return [
        line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\^C", "", text).replace("\r", "\n").split("\n") if line.strip()
    ]


def interrupted(terminal: Terminal, how: str) -> None:
    """Interrupt the command and see that it ends as it should."""
    code, interrupt = HOW[how]
    terminal.processes()
    before, started = len(terminal.text), time.monotonic()
    interrupt(terminal)
    assert terminal.end() == code, terminal.text[-2000:]
    seconds = time.monotonic() - started
    assert terminal.alive_after() == [], "no process is left"
    assert plain(terminal.text)[-1] == INTERRUPTED
    assert INTERRUPTED not in terminal.text[:before]
    assert "Traceback" not in terminal.text
    assert seconds < LIMIT_SECONDS, f"{seconds:.1f} s"


def runs(out: Path) -> set[Path]:
    return set((out / "runs").glob("*"))


def at_work(out: Path, stage: str, before: set[Path]) -> bool:
    """Whether a new run has begun the stage, and not ended it."""
    logs = [log for run in runs(out) - before for log in (run / "logs").glob(f"{stage}*.log")]
    return any("done in" not in log.read_text() and "cached" not in log.read_text() for log in logs)


def any_at_work(out: Path, stages: tuple[str, ...], before: set[Path]) -> bool:
    """Whether a new run is at work in one of the stages."""
    return any(at_work(out, stage, before) for stage in stages)


@pytest.mark.slow
@pytest.mark.alone
def test_every_stage_ends_at_once_and_the_same_command_goes_on(
    server: str, tmp_path: Path, terminals: list[Terminal]
) -> None:
    out = tmp_path / "artifacts"
    command = [*COMMAND, "run", "quickstart", "--out", str(out), *(f"--set={setting}" for setting in STUDY)]
    for number, stage in enumerate(STAGES):
        before = runs(out)
        terminals.append(terminal := Terminal(command, ROOT, os.environ | {"PREFECT_API_URL": server}))
        # Where the machine is too noisy for a winner, there is nothing to serve, and the next stage begins at once.
        at = (stage, "aggregate") if stage == "serve" else (stage,)
        terminal.wait_for(partial(any_at_work, out, at, before))
        # with its candidates' processes
        if stage == "benchmark":
            terminal.wait_for(lambda: len(terminal.processes()) >= 3)
        time.sleep(0.3)
        interrupted(terminal, list(HOW)[number % len(HOW)])
        if stage == "train":
            assert Burnish(out, server).why()["train/lenet5"] == "stopped"
        if stage == "benchmark":
            Burnish(out, server)("report", "--out", str(out))
            (page,) = [(run / "report.html").read_text() for run in runs(out) - before]
            assert 'id="training"' in page, "the finished stages' results are shown"
            assert "lenet5/prune-0.5" in page
            assert "visited in turn" not in page, "nothing is told as done that was not"
    burnish = Burnish(out, server)
    burnish.run(*STUDY)
    told = burnish.why()
    assert told.pop("aggregate") == "computed"
    assert set(told.values()) == {"hit"}, "what was finished before an interruption is not done twice"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("how", list(HOW))
def test_while_prefect_starts(tmp_path: Path, how: str, terminals: list[Terminal]) -> None:
    command = [*COMMAND, "run", "quickstart", "--out", str(tmp_path / "artifacts")]
    terminals.append(terminal := Terminal(command, ROOT, environment_without_server(tmp_path)))
    terminal.wait_for(lambda: any("uvicorn" in process.cmdline() for process in terminal.processes()))
    interrupted(terminal, how)


@pytest.mark.slow
@pytest.mark.alone
def test_processes_that_train_together(server: str, tmp_path: Path, terminals: list[Terminal]) -> None:
    out = tmp_path / "artifacts"
    settings = (*SHORT, "train.processes=2", "train.epochs=500", "train.patience=500")
    command = [*COMMAND, "run", "quickstart", "--out", str(out), *(f"--set={setting}" for setting in settings)]
    terminals.append(terminal := Terminal(command, ROOT, os.environ | {"PREFECT_API_URL": server}))
    # the first epoch's checkpoint
    terminal.wait_for(lambda: list((out / "scratch").glob("*/*.pt")))
    assert sum("tasks.training.ddp" in process.cmdline() for process in terminal.processes()) >= 3, (
        "torchrun and two ranks"
    )
    interrupted(terminal, "Ctrl-C")


@pytest.mark.alone
def test_bench_and_profile(tmp_path: Path, terminals: list[Terminal]) -> None:
    file = onnx_file(tmp_path / "model.onnx")
    out = ("--out", str(tmp_path / "artifacts"))
    terminals.append(bench := Terminal([*COMMAND, "bench", str(file), *out, "--seconds", "200"], ROOT, os.environ))
    bench.wait_for(lambda: len(bench.processes()) >= 3)
    interrupted(bench, "Ctrl-C")
    command = [*COMMAND, "profile", str(file), *out, "--queries", "1000000"]
    terminals.append(profile := Terminal(command, ROOT, os.environ))
    profile.wait_for(lambda: any("onnxruntime" in mapped.path for mapped in profile.processes()[-1].memory_maps()))
    interrupted(profile, "SIGTERM to the group")


# What Python sees no signal in: a call into C that holds the interpreter, and code that swallows the exception.
BUSY = {
    "a long call into a library": "call_into_a_library",
    "an exception that is swallowed": "swallow_exceptions",
    "a child in a session of its own": "wait_for_a_child_in_its_own_session",
}


def supervised(*work: str) -> Terminal:
    """A terminal in which this work goes on as a command of burnish."""
    return Terminal(programs.command("supervised", *work), ROOT, programs.environment())


@pytest.mark.alone
@pytest.mark.parametrize("busy", list(BUSY))
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM to the process"])
def test_whatever_the_work_is_busy_with(busy: str, how: str, terminals: list[Terminal]) -> None:
    terminals.append(terminal := supervised(BUSY[busy]))
    terminal.wait_for(lambda: "at work" in terminal.text)
    time.sleep(0.3)
    interrupted(terminal, how)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
def test_work_that_is_killed_is_one_line(number: signal.Signals, terminals: list[Terminal]) -> None:
    terminals.append(terminal := supervised("kill_itself", str(int(number))))
    assert terminal.end() == 1
    (line,) = plain(terminal.text)[1:]
    assert line.startswith(f"burnish: failed: the process at work was ended by {number.name}")
    assert line.endswith("the same command goes on where it stopped")


def test_ctrl_z_stops_the_work_and_fg_goes_on(terminals: list[Terminal]) -> None:
    terminals.append(terminal := supervised("sleep"))
    terminal.wait_for(lambda: "at work" in terminal.text)
    both = terminal.processes()
    assert len(both) == 2
    terminal.signal(signal.SIGTSTP)
    terminal.wait_for(lambda: all(process.status() == psutil.STATUS_STOPPED for process in both), 10)
    terminal.signal(signal.SIGCONT)
    terminal.wait_for(lambda: not any(process.status() == psutil.STATUS_STOPPED for process in both), 10)
    terminal.ctrl_c()
    assert terminal.end() == 130


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_killed_without_a_word_it_takes_all_its_processes_with_it_and_is_marked_as_crashed(
    group: bool, tmp_path: Path, terminals: list[Terminal]
) -> None:
    out = tmp_path / "artifacts"
    environment = environment_without_server(tmp_path)
    settings = (*SHORT, "train.epochs=1", "benchmark.min_seconds=60")
    command = [*COMMAND, "run", "quickstart", "--out", str(out), *(f"--set={setting}" for setting in settings)]
    terminals.append(terminal := Terminal(command, ROOT, environment))
    terminal.wait_for(
        lambda: sum("tasks.candidates.worker" in process.cmdline() for process in terminal.processes()) == 2
    )
    if group:
        terminal.signal_group(signal.SIGKILL)
    else:
        terminal.signal(signal.SIGKILL)
    terminal.end()
    assert terminal.alive_after(LIMIT_SECONDS) == []
    if group:
        return
    burnish = Burnish(out, None)
    burnish.environment = environment
    done = burnish.run(*SHORT, "train.epochs=1")
    assert "1 earlier run ended without a word: marked as crashed" in done.stderr
    assert burnish.why()["train/lenet5"] == "hit"
    states = states_of(tmp_path / "prefect" / "prefect.db")
    assert states == {"flow_run": ["COMPLETED", "CRASHED"], "task_run": {"COMPLETED", "CRASHED"}}
    assert tables.read(out, "summary", max(path.name for path in runs(out))).collect().height


def states_of(database: Path) -> dict[str, object]:
    with closing(sqlite3.connect(database)) as opened:
        flow_runs = sorted(state for (state,) in opened.execute("SELECT state_type FROM flow_run"))
        task_runs = {state for (state,) in opened.execute("SELECT state_type FROM task_run")}
    return {"flow_run": flow_runs, "task_run": task_runs}
