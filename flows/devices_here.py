"""Check that this machine has the devices that a study or an option names, before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks import machine
from tasks.machine import gpu
from tasks.records import device_name

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
    for key, device in _named(study):
        _refuse_missing_device(key, device)
    processes = study.train.processes
    available = len(gpu.gpus())
    if study.train.device == "auto" and 0 < available < processes:
        raise ValueError(
            f"train.processes: {processes} need a GPU each, this machine has {available}; set it to at most "
            f"{available}, or train.device to cpu"
        )


def device_of_option(name: str) -> str:
    """Return the device that a value of `--device` means on this machine.

    Raises
    ------
    ValueError
        If it is no name of a device, or this machine lacks the device.
    """
    try:
        device_name(name, auto=True)
    except ValueError as error:
        raise ValueError(f"--device: {error}; here: {_devices_here()}") from None
    _refuse_missing_device("--device", name)
    # With `auto`, the last device is the GPU, if there is one.
    return machine.resolve_devices((name,))[-1]


def _refuse_missing_device(where: str, device: str) -> None:
    """Check that this machine has a device; `where` is the setting or the option that names it."""
    reason = None if device == "auto" else gpu.missing_gpu(device)
    if reason is not None:
        raise ValueError(f"{where}: {reason}; accepted here: {_devices_here()}")


def _devices_here() -> str:
    return ", ".join(["auto", "cpu", *(f"cuda:{number}" for number in range(len(gpu.gpus())))])


def _named(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of every setting that names a device."""
    yield "train.device", study.train.device
    for technique in study.ablate.names:
        yield f"ablate (technique {technique}), train.device", study.ablate.train(study.train, technique).device
    for device in study.benchmark.devices:
        yield "benchmark.devices", device
