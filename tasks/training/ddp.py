"""Data-parallel training on this machine: torchrun starts the processes of a group, rank 0 reports to who asked for it.

Rank 0 alone evaluates and writes checkpoints. It and failing ranks write to standard output, a message a line.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tasks import machine
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.machine import children, parent
from tasks.machine.devices import choose_device, release
from tasks.machine.space import DiskBroken, DiskFull, watched
from tasks.records import Prepared, Train
from tasks.training.group import Processes
from tasks.training.loop import Diverged, TrainingLoop
from tasks.training.state import Training

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

MARK = "burnish: "
"""What a line of standard output starts with that is a message."""
ERRORS = {error.__name__: error for error in (Diverged, DiskBroken, DiskFull, ValueError)}
"""Errors that are the user's to mend reach them as they are."""


def launch(training: Training, model: nn.Module, on_epoch: Callable[[int, float], None] | None) -> None:
    """Train in `settings.processes` processes; what was reached is in the checkpoint.

    Raises
    ------
    ValueError, Diverged
        As training in one process does.
    RuntimeError
        If a process ended before its time; the epochs up to then are kept.
    """
    import torch

    import models

    count = training.settings.processes
    device = choose_device(training.settings.device)
    if device != "cpu" and count > torch.cuda.device_count():
        raise ValueError(
            f"train.processes: {count} need a GPU each, this machine has {torch.cuda.device_count()} CUDA devices"
        )
    folder = training.work.scratch
    models.save(model, folder / "ddp.safetensors", training.architecture)
    (folder / "ddp.json").write_text(
        json.dumps(
            {
                "architecture": training.architecture,
                "data": training.data.model_dump(mode="json"),
                "settings": training.settings.model_dump(mode="json"),
                "model_label": training.model_label,
                "variant": training.variant,
                "stage": training.stage,
                "store": str(training.work.store.root),
            }
        )
    )
    environment = children.environment()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // count)))
    command = parent.command(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        "-m",
        "tasks.training.ddp",
        str(folder),
    )
    # rank 0 trains on the GPU that this process may have trained on
    release()
    log = folder / "ddp.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            start_new_session=True,
        ) as process,
    ):
        try:
            failed = _listen(training, process, on_epoch)
        finally:
            # on_epoch may have ended the training; torchrun then ends its processes
            if process.poll() is None:
                process.terminate()
    if process.returncode:
        raise _error(training, failed, log.read_text())


def _listen(
    training: Training, process: subprocess.Popen[str], on_epoch: Callable[[int, float], None] | None
) -> dict[str, Any] | None:
    """Pass on what rank 0 says until all have ended; returns the first error that a rank told of."""
    failed: dict[str, Any] | None = None
    assert process.stdout
    for line in process.stdout:
        # a library's own output
        if not line.startswith(MARK):
            training.work.log.debug("%s", line.rstrip())
            continue
        said = json.loads(line.removeprefix(MARK))
        if "error" in said:
            failed = failed or said
        elif "score" in said:
            if on_epoch:
                on_epoch(said["epoch"], said["score"])
        elif said["progress"]:
            done, total = said["progress"]
            training.work.progress(done, total, said["text"])
        else:
            training.work.log.log(said["level"], "%s", said["text"])
    process.wait()
    return failed


def _error(training: Training, failed: dict[str, Any] | None, log: str) -> Exception:
    """The exception for what torchrun's report, and the rank that told of an error, say."""
    kept = "the epochs before are kept: the next start goes on after them"
    count = training.settings.processes
    ended = [(int(rank), int(code)) for rank, code in re.findall(r"rank\s+: (\d+).*\n\s*exitcode\s+: (-?\d+)", log)]
    killed = [(rank, signal.Signals(-code).name) for rank, code in ended if code < 0]
    # by which torchrun ends the others
    killed.sort(key=lambda rank_name: rank_name[1] == "SIGTERM")
    if failed and failed["error"] in ERRORS:
        return ERRORS[failed["error"]](failed["text"])
    # before what others tell, which is that they lost it
    if killed:
        return RuntimeError(f"{training.variant}: rank {killed[0][0]} of {count} was ended by {killed[0][1]}; {kept}")
    if failed:
        told = f"{failed['error']}: {failed['text']}"
        return RuntimeError(f"{training.variant}: rank {failed['rank']} of {count} failed: {told}; {kept}")
    return RuntimeError(f"{training.variant}: torchrun failed: {(log.strip().splitlines() or ['no word'])[-1]}; {kept}")


class _Relay(logging.Handler):
    """Log lines of rank 0 to who asked for the training."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(level=record.levelno, text=record.getMessage(), progress=getattr(record, "progress", None))


def _say(**message: Any) -> None:
    """One write a message: `print` makes two where output is unbuffered, and another rank's may come between."""
    os.write(1, f"{MARK}{json.dumps(message)}\n".encode())


def main(folder: Path) -> None:
    """One rank: train as ddp.json says, from the weights beside it."""
    import torch
    import torch.distributed as dist

    import models

    said = json.loads((folder / "ddp.json").read_text())
    local, settings = int(os.environ["LOCAL_RANK"]), Train.model_validate(said["settings"])
    if choose_device(settings.device) == "cpu":
        device = "cpu"
        dist.init_process_group("gloo")
    else:
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
        dist.init_process_group("nccl", device_id=torch.device(device))
    group = Processes()
    log = logging.getLogger("burnish.ddp")
    log.propagate = False
    if group.rank == 0:
        log.setLevel(logging.INFO)
        log.addHandler(_Relay())
    else:
        log.addHandler(logging.NullHandler())
    work, data = Work(Store(Path(said["store"])), folder, log), Prepared.model_validate(said["data"])
    settings = settings.model_copy(update={"device": device})
    named = {name: said[name] for name in ("architecture", "model_label", "variant", "stage")}
    training = Training(work=work, data=data, settings=settings, **named)
    try:
        with watched(folder):
            loop = TrainingLoop(training, models.load(folder / "ddp.safetensors"), group)
            loop.go(lambda epoch, score: _say(epoch=epoch, score=score))
    except Exception as error:
        # told to who asked for the training, and to torchrun by the exit code
        # A pipe takes up to 4,096 bytes whole (PIPE_BUF); a character is six bytes at most.
        _say(error=type(error).__name__, text=str(error)[:600], rank=group.rank)
        # it goes to a file, for which there may be no room
        with suppress(OSError):
            traceback.print_exc()
        # other ranks wait for this one: torchrun ends them
        _end(1)
    dist.barrier()
    dist.destroy_process_group()
    _end(0)


def _end(code: int) -> NoReturn:
    """End this process without Python's own end, in which a gloo thread that frees a tensor aborts it now and then.

    See PyTorch's pull request 179291.
    """
    # a DataLoader's, which would look for its parent every 5 s
    for worker in multiprocessing.active_children():
        worker.terminate()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # torchrun, which ends with who asked for the training
    parent.end_with_parent(os.getppid())
    main(Path(sys.argv[1]))
