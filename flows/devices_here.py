"""Check that this machine has the devices that a study names, before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.machine import gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.records import Study


def refuse_missing(study: Study) -> None:
    """Check that this machine has every device that the study names. `auto` needs none.

    Raises
    ------
    ValueError
        If a device is missing, or the machine has fewer GPUs than training is to use.
    """
    accepted = ", ".join(["auto", "cpu", *(f"cuda:{number}" for number in range(len(gpu.gpus())))])
    for key, device in _named(study):
        reason = None if device == "auto" else gpu.missing_gpu(device)
        if reason is not None:
            raise ValueError(f"{key}: {reason}; accepted here: {accepted}")
    processes = study.train.processes
    available = len(gpu.gpus())
    if study.train.device == "auto" and 0 < available < processes:
        raise ValueError(
            f"train.processes: {processes} need a GPU each, this machine has {available}; set it to at most "
            f"{available}, or train.device to cpu"
        )


def _named(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of every setting that names a device."""
    yield "train.device", study.train.device
    for technique in study.ablate.names:
        yield f"ablate (technique {technique}), train.device", study.ablate.train(study.train, technique).device
    for device in study.benchmark.devices:
        yield "benchmark.devices", device
