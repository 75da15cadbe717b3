"""Devices that a study names, looked for before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.machine import gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.records import Study


def refuse_missing(study: Study) -> None:
    """Look for every device that the study names; `auto` is always there.

    Raises
    ------
    ValueError
        If this machine has not got one, or has fewer GPUs than training is to take.
    """
    accepted = ", ".join(["auto", "cpu", *(f"cuda:{number}" for number in range(len(gpu.gpus())))])
    for key, device in _named(study):
        if device != "auto" and (why := gpu.missing_gpu(device)) is not None:
            raise ValueError(f"{key}: {why}; accepted here: {accepted}")
    count, there = study.train.processes, len(gpu.gpus())
    if study.train.device == "auto" and 0 < there < count:
        raise ValueError(
            f"train.processes: {count} need a GPU each, this machine has {there}; set it to at most {there}, or "
            "train.device to cpu"
        )


def _named(study: Study) -> Iterator[tuple[str, str]]:
    """(Key, device) of every setting that names one."""
    yield "train.device", study.train.device
    for technique in study.ablate.names:
        yield f"ablate (technique {technique}), train.device", study.ablate.train(study.train, technique).device
    for device in study.benchmark.devices:
        yield "benchmark.devices", device
