"""Ctrl-C and SIGTERM end a command at every stage, with one line and the right exit code, and leave no process."""

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
from tests.support.command import SHORT, TINY, Burnish, environment_without_server, last_values
from tests.support.models import onnx_file
from tests.support.paths import ROOT
from tests.support.shared import copy_results
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT_SECONDS = 3.0
# So long a stage is at work before it is interrupted.
WAIT_SECONDS = 0.1
COMMAND = (sys.executable, "-m", "flows")
ABSENT = ("ablate", "inspect", "label", "adopt", "rank", "search", "choose", "configure")
"""Stages of given models, of ablation and of the search, which the interrupted study has not."""
STAGES = tuple(stage for stage in get_args(StageName) if stage not in ABSENT)
# The exit code of each kind of interruption, and the function that sends it.
INTERRUPTIONS: dict[str, tuple[int, Callable[[Terminal], None]]] = {
    "Ctrl-C": (130, lambda terminal: terminal.ctrl_c()),
    "SIGTERM to the process": (143, lambda terminal: terminal.signal(signal.SIGTERM)),
    "SIGTERM to the group": (143, lambda terminal: terminal.signal_group(signal.SIGTERM)),
    "SIGINT to the process": (130, lambda terminal: terminal.signal(signal.SIGINT)),
}
# Every stage takes long enough to be interrupted: of two stages one after another, the second must not have ended
# WAIT_SECONDS after the first has begun. No other form of a model than these is made, since all are measured twice.
AFTER = {"serve": ("aggregate",), "build": ("benchmark",)}
"""Stages that may not be at work at all -> those that then are. Where the machine is too noisy for a winner, there is
nothing to serve; and the run that is interrupted in qat may have built all engines before."""
STUDY = last_values(
    *TINY,
    "export.formats=['onnx']",
    "quantize.settings=['u8s8-reduced']",
    "quantize.dynamic=false",
    "qat.epochs=1",
    "benchmark.runtimes=['eager', 'onnxruntime']",
    "benchmark.batch_sizes=[1]",
    "benchmark.throughput=false",
    "benchmark.min_seconds=0.1",
    "serve.seconds=1",
    "build.precisions=['fp32']",
)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Terminals that are closed after the test, whatever happens."""
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def plain(text: str) -> list[str]:
    """Return the lines that a person sees, without colours and movements of the cursor."""
    return [
        line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\^C", "", text).replace("\r", "\n").split("\n") if line.strip()
    ]


def interrupt_and_check(terminal: Terminal, interruption: str) -> None:
    """Interrupt the command, and check that it ends soon with one line and its exit code, and leaves no process."""
    code, interrupt = INTERRUPTIONS[interruption]
    terminal.processes()
    length_before = len(terminal.text)
    started = time.monotonic()
    interrupt(terminal)
    assert terminal.end() == code, terminal.text[-2000:]
    seconds = time.monotonic() - started
    assert terminal.alive_after() == [], "no process is left"
    assert plain(terminal.text)[-1] == INTERRUPTED
    assert INTERRUPTED not in terminal.text[:length_before]
    assert "Traceback" not in terminal.text
    assert seconds < LIMIT_SECONDS, f"the command ended after {seconds:.1f} s"


def runs(out: Path) -> set[Path]:
    return set((out / "runs").glob("*"))


def at_work(out: Path, stage: str, earlier: set[Path]) -> bool:
    """Return whether a run that is not among the earlier ones has begun the stage, and not ended it."""
    logs = [log for run in runs(out) - earlier for log in (run / "logs").glob(f"{stage}*.log")]
    return any("done in" not in log.read_text() and "cached" not in log.read_text() for log in logs)


def any_at_work(out: Path, stages: tuple[str, ...], earlier: set[Path]) -> bool:
    """Return whether a run that is not among the earlier ones is at work in one of the stages."""
    return any(at_work(out, stage, earlier) for stage in stages)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.pair
def test_an_interruption_ends_every_stage_at_once_and_the_next_run_reuses_its_results(
    server: str, tmp_path: Path, terminals: list[Terminal]
) -> None:
    out = tmp_path / "artifacts"
    command = [*COMMAND, "run", "quickstart", "--out", str(out), *(f"--set={setting}" for setting in STUDY)]
    for index, stage in enumerate(STAGES):
        earlier = runs(out)
        terminals.append(terminal := Terminal(command, ROOT, os.environ | {"PREFECT_API_URL": server}))
        terminal.wait_for(partial(any_at_work, out, (stage, *AFTER.get(stage, ())), earlier))
        # Wait until candidates have processes, which must end too.
        if stage == "benchmark":
            terminal.wait_for(lambda: len(terminal.processes()) >= 3)
        time.sleep(WAIT_SECONDS)
        interrupt_and_check(terminal, list(INTERRUPTIONS)[index % len(INTERRUPTIONS)])
        if stage == "train":
            assert Burnish(out, server).why()["train/lenet5"] == "stopped"
        if stage == "benchmark":
            Burnish(out, server)("report", "--out", str(out))
            (page,) = [(run / "report.html").read_text() for run in runs(out) - earlier]
            assert 'id="training"' in page, "the report shows the results of finished stages"
            assert "lenet5/prune-0.5" in page
            assert "visited in turn" not in page, "the report does not claim visits that were not made"
    burnish = Burnish(out, server)
    burnish.run(*STUDY)
    outcomes = burnish.why()
    assert outcomes.pop("aggregate") == "computed"
    assert set(outcomes.values()) == {"hit"}, "stages that had finished before an interruption are not computed again"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.pair
@pytest.mark.parametrize("interruption", list(INTERRUPTIONS))
def test_an_interruption_while_prefect_starts_ends_the_command(
    tmp_path: Path, interruption: str, terminals: list[Terminal]
) -> None:
    command = [*COMMAND, "run", "quickstart", "--out", str(tmp_path / "artifacts")]
    terminal = Terminal(command, ROOT, environment_without_server(tmp_path))
    terminals.append(terminal)
    terminal.wait_for(lambda: any("uvicorn" in process.cmdline() for process in terminal.processes()))
    interrupt_and_check(terminal, interruption)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.pair
def test_ctrl_c_ends_all_processes_that_train_together(server: str, tmp_path: Path, terminals: list[Terminal]) -> None:
    out = tmp_path / "artifacts"
    settings = (*SHORT, "train.processes=2", "train.epochs=500", "train.patience=500")
    command = [*COMMAND, "run", "quickstart", "--out", str(out), *(f"--set={setting}" for setting in settings)]
    terminal = Terminal(command, ROOT, os.environ | {"PREFECT_API_URL": server})
    terminals.append(terminal)
    # Wait for the checkpoint of the first epoch.
    terminal.wait_for(lambda: list((out / "scratch").glob("*/*.pt")))
    assert sum("tasks.training.ddp" in process.cmdline() for process in terminal.processes()) >= 3, (
        "torchrun and two ranks"
    )
    interrupt_and_check(terminal, "Ctrl-C")


@pytest.mark.alone
@pytest.mark.pair
def test_an_interruption_ends_bench_and_profile_with_all_their_processes(
    tmp_path: Path, terminals: list[Terminal]
) -> None:
    file = onnx_file(tmp_path / "model.onnx")
    out = ("--out", str(tmp_path / "artifacts"))
    bench = Terminal([*COMMAND, "bench", str(file), *out, "--seconds", "200"], ROOT, os.environ)
    terminals.append(bench)
    bench.wait_for(lambda: len(bench.processes()) >= 3)
    interrupt_and_check(bench, "Ctrl-C")
    command = [*COMMAND, "profile", str(file), *out, "--queries", "1000000"]
    profile = Terminal(command, ROOT, os.environ)
    terminals.append(profile)
    profile.wait_for(lambda: any("onnxruntime" in mapped.path for mapped in profile.processes()[-1].memory_maps()))
    interrupt_and_check(profile, "SIGTERM to the group")


# Work that a signal alone does not end: a call into C in which Python sees no signal, code that swallows the exception,
# and a child in a session of its own, which the terminal sends no signal.
BUSY_WORK = {
    "a long call into a library": "call_into_a_library",
    "an exception that is swallowed": "swallow_exceptions",
    "a child in a session of its own": "wait_for_a_child_in_its_own_session",
}


def start_supervised(*work: str) -> Terminal:
    """Start one kind of work of tests/programs/supervised.py in a terminal, supervised as a command of burnish is."""
    return Terminal(programs.command("supervised", *work), ROOT, programs.environment())


@pytest.mark.alone
@pytest.mark.pair
@pytest.mark.parametrize("busy", list(BUSY_WORK))
@pytest.mark.parametrize("interruption", ["Ctrl-C", "SIGTERM to the process"])
def test_an_interruption_ends_work_that_a_signal_alone_does_not_end(
    busy: str, interruption: str, terminals: list[Terminal]
) -> None:
    terminal = start_supervised(BUSY_WORK[busy])
    terminals.append(terminal)
    terminal.wait_for(lambda: "at work" in terminal.text)
    time.sleep(0.3)
    interrupt_and_check(terminal, interruption)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
def test_work_that_a_signal_killed_is_reported_in_one_line(number: signal.Signals, terminals: list[Terminal]) -> None:
    terminal = start_supervised("kill_itself", str(int(number)))
    terminals.append(terminal)
    assert terminal.end() == 1
    (line,) = plain(terminal.text)[1:]
    assert line.startswith(f"burnish: failed: the process at work was ended by {number.name}")
    assert line.endswith("the same command goes on where it stopped")


def test_ctrl_z_stops_all_processes_of_a_command_and_fg_continues_them(terminals: list[Terminal]) -> None:
    terminal = start_supervised("sleep")
    terminals.append(terminal)
    terminal.wait_for(lambda: "at work" in terminal.text)
    processes = terminal.processes()
    assert len(processes) == 2
    terminal.signal(signal.SIGTSTP)
    terminal.wait_for(lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes), 10)
    terminal.signal(signal.SIGCONT)
    terminal.wait_for(lambda: not any(process.status() == psutil.STATUS_STOPPED for process in processes), 10)
    terminal.ctrl_c()
    assert terminal.end() == 130


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
def test_a_killed_run_leaves_no_process_and_the_next_run_marks_it_as_crashed(
    group: bool, tmp_path: Path, terminals: list[Terminal], short_study: Path
) -> None:
    out = tmp_path / "artifacts"
    environment = environment_without_server(tmp_path)
    settings = (*SHORT, "benchmark.min_seconds=60")
    if group:
        # The killed run gets to the benchmark, which is interrupted, without training. No run follows it.
        copy_results(short_study, out)
    command = [*COMMAND, "run", "quickstart", "--out", str(out), *(f"--set={setting}" for setting in settings)]
    terminal = Terminal(command, ROOT, environment)
    terminals.append(terminal)
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
    done = burnish.run(*SHORT)
    assert "1 earlier run ended without telling Prefect, because of a signal say: marked as crashed" in done.stderr
    assert burnish.why()["train/lenet5"] == "hit"
    states = states_of(tmp_path / "prefect" / "prefect.db")
    assert states == {"flow_run": ["COMPLETED", "CRASHED"], "task_run": {"COMPLETED", "CRASHED"}}
    assert tables.read(out, "summary", max(path.name for path in runs(out))).collect().height


def states_of(database: Path) -> dict[str, object]:
    """Return the states of all flow runs and task runs in the database of Prefect."""
    with closing(sqlite3.connect(database)) as connection:
        flow_runs = sorted(state for (state,) in connection.execute("SELECT state_type FROM flow_run"))
        task_runs = {state for (state,) in connection.execute("SELECT state_type FROM task_run")}
    return {"flow_run": flow_runs, "task_run": task_runs}
