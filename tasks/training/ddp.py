"""Data-parallel training on this machine: torchrun starts several processes (ranks), which train one model together.

Rank 0 alone evaluates and writes checkpoints. It reports to the process that called `launch` by messages on standard
output, one per line, and so does a rank that fails.
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
"""Beginning of a line of standard output that is a message. Other lines are the libraries' own output."""
ERRORS = {error.__name__: error for error in (Diverged, DiskBroken, DiskFull, ValueError)}
"""Errors that the user can mend. `launch` raises them as they were raised in a rank."""


def launch(training: Training, model: nn.Module, on_epoch: Callable[[int, float], None] | None) -> None:
    """Train in `settings.processes` processes. The result is in the training's newest checkpoint.

    Raises
    ------
    ValueError, Diverged
        As training in one process does.
    RuntimeError
        If a process ended before its time. The checkpoints up to then are kept.
    """
    _check_gpus(training)
    folder = training.work.scratch
    _write_order(training, model, folder)
    # Rank 0 trains on the GPU that this process may have trained on.
    release()
    log = folder / "ddp.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            _command(training, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(training),
            start_new_session=True,
        ) as process,
    ):
        try:
            failed = _listen(training, process, on_epoch)
        finally:
            # on_epoch may have raised to end the training. torchrun, when terminated, ends its processes.
            if process.poll() is None:
                process.terminate()
    if process.returncode:
        raise _error(training, failed, log.read_text())


def _check_gpus(training: Training) -> None:
    """Refuse a training that needs more GPUs than there are."""
    import torch

    count = training.settings.processes
    if choose_device(training.settings.device) != "cpu" and count > torch.cuda.device_count():
        raise ValueError(
            f"train.processes: {count} need a GPU each, this machine has {torch.cuda.device_count()} CUDA devices"
        )


def _write_order(training: Training, model: nn.Module, folder: Path) -> None:
    """Write what the ranks read when they start: the training, in ddp.json, and the weights that it starts from."""
    import models

    models.save(model, folder / "ddp.safetensors", training.architecture)
    order = {
        "architecture": training.architecture,
        "data": training.data.model_dump(mode="json"),
        "settings": training.settings.model_dump(mode="json"),
        "model_label": training.model_label,
        "variant": training.variant,
        "stage": training.stage,
        "store": str(training.work.store.root),
    }
    (folder / "ddp.json").write_text(json.dumps(order))


def _command(training: Training, folder: Path) -> list[str]:
    return parent.command(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={training.settings.processes}",
        "-m",
        "tasks.training.ddp",
        str(folder),
    )


def _environment(training: Training) -> dict[str, str]:
    """Return the ranks' environment, in which they share the cores among them."""
    environment = children.environment()
    environment.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // training.settings.processes)))
    return environment


def _listen(
    training: Training, process: subprocess.Popen[str], on_epoch: Callable[[int, float], None] | None
) -> dict[str, Any] | None:
    """Pass on the ranks' messages until all ranks have ended; return the first message that is of an error."""
    failed: dict[str, Any] | None = None
    assert process.stdout
    for line in process.stdout:
        if not line.startswith(MARK):
            training.work.log.debug("%s", line.rstrip())
            continue
        message = json.loads(line.removeprefix(MARK))
        if "error" in message:
            failed = failed or message
        elif "score" in message:
            if on_epoch:
                on_epoch(message["epoch"], message["score"])
        elif message["progress"]:
            done, total = message["progress"]
            training.work.progress(done, total, message["text"])
        else:
            training.work.log.log(message["level"], "%s", message["text"])
    process.wait()
    return failed


def _error(training: Training, failed: dict[str, Any] | None, log: str) -> Exception:
    """Return the exception for a training whose processes failed.

    Parameters
    ----------
    failed
        The first message of a rank about an error, if there was one.
    log
        What torchrun wrote, which lists how each rank ended.
    """
    if failed and failed["error"] in ERRORS:
        return ERRORS[failed["error"]](failed["text"])
    count = training.settings.processes
    ended = [(int(rank), int(code)) for rank, code in re.findall(r"rank\s+: (\d+).*\n\s*exitcode\s+: (-?\d+)", log)]
    killed = [(rank, signal.Signals(-code).name) for rank, code in ended if code < 0]
    # SIGTERM comes last: it is how torchrun ends the ranks that had not failed.
    killed.sort(key=lambda rank_name: rank_name[1] == "SIGTERM")
    # A rank that was killed comes before what others say, which is that they lost the connection to it.
    if killed:
        reason = f"rank {killed[0][0]} of {count} was ended by {killed[0][1]}"
    elif failed:
        reason = f"rank {failed['rank']} of {count} failed: {failed['error']}: {failed['text']}"
    else:
        last_line = (log.strip().splitlines() or ["it wrote nothing"])[-1]
        reason = f"torchrun failed: {last_line}"
    return RuntimeError(f"{training.variant}: {reason}; the epochs before are kept: the next start goes on after them")


class _Relay(logging.Handler):
    """Sends log lines of rank 0 to the process that called `launch`."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(level=record.levelno, text=record.getMessage(), progress=getattr(record, "progress", None))


def _say(**message: Any) -> None:
    """Send a message in a single write.

    `print` makes two writes where output is unbuffered, and another rank's message may come between them.
    """
    os.write(1, f"{MARK}{json.dumps(message)}\n".encode())


def main(folder: Path) -> None:
    """Be one rank: train as ddp.json in the folder says, from the weights beside it."""
    import torch.distributed as dist

    import models

    order = json.loads((folder / "ddp.json").read_text())
    settings = Train.model_validate(order["settings"])
    device = _join_group(choose_device(settings.device))
    group = Processes()
    training = Training(
        work=Work(Store(Path(order["store"])), folder, _log(group.rank)),
        data=Prepared.model_validate(order["data"]),
        settings=settings.model_copy(update={"device": device}),
        architecture=order["architecture"],
        model_label=order["model_label"],
        variant=order["variant"],
        stage=order["stage"],
    )
    try:
        with watched(folder):
            loop = TrainingLoop(training, models.load(folder / "ddp.safetensors"), group)
            loop.go(lambda epoch, score: _say(epoch=epoch, score=score))
    except Exception as error:
        # The message goes to the process that called `launch`; torchrun learns of the failure by the exit code. A pipe
        # takes up to 4,096 bytes whole (PIPE_BUF), and JSON writes a character in six bytes at most.
        _say(error=type(error).__name__, text=str(error)[:600], rank=group.rank)
        # The traceback goes to a file, for which the disk may have no room.
        with suppress(OSError):
            traceback.print_exc()
        # Other ranks wait for this one, until torchrun ends them.
        _end(1)
    dist.barrier()
    dist.destroy_process_group()
    _end(0)


def _join_group(kind: str) -> str:
    """Join torch.distributed's default group; return the device of this rank, which is a GPU of its own or the CPU."""
    import torch
    import torch.distributed as dist

    if kind == "cpu":
        dist.init_process_group("gloo")
        return "cpu"
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=torch.device(device))
    return device


def _log(rank: int) -> logging.Logger:
    """Return the logger of a rank. What other ranks than 0 log would be the same again, so they log nothing."""
    log = logging.getLogger("burnish.ddp")
    log.propagate = False
    if rank == 0:
        log.setLevel(logging.INFO)
        log.addHandler(_Relay())
    else:
        log.addHandler(logging.NullHandler())
    return log


def _end(code: int) -> NoReturn:
    """End this process without Python's own shutdown, in which a gloo thread that frees a tensor sometimes aborts.

    See PyTorch's pull request 179291.
    """
    # These are the DataLoader's, which would find out only every 5 s that their parent is gone.
    for worker in multiprocessing.active_children():
        worker.terminate()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    # The parent is torchrun, which ends when the process that called `launch` ends.
    parent.end_with_parent(os.getppid())
    main(Path(sys.argv[1]))
