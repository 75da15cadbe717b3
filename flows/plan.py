"""Adapt a study to this machine: replace `auto` by what it stands for here, and leave out skipped stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tasks import machine, runtimes
from tasks.machine import gpu
from tasks.records import AUTO, Study, formats

if TYPE_CHECKING:
    from collections.abc import Iterable

EVERYWHERE = ("eager", "torchscript", "onnxruntime", "openvino")
"""Runtimes that every machine has."""
ENGINES = "tensorrt"
"""The runtime that executes engines."""
BF16 = ("torch_compile", "openvino_bf16")
"""Runtimes that are added where the CPU has bf16 instructions."""
PRECISIONS = ("fp32", "fp16", "int8")
"""Precisions of the engines that are built where a runtime of the study executes engines."""


@dataclass(frozen=True)
class Plan:
    """A study as it runs on this machine."""

    study: Study
    """The study without `auto` among runtimes and precisions, and without `skip`."""
    chosen: dict[str, str]
    """For each setting that was `auto`, by its key: in words, what it stands for here and why."""


def planned(study: Study) -> Plan:
    """Decide what `auto` stands for on this machine, and leave out skipped stages.

    Raises
    ------
    ValueError
        If what `auto` stands for does not fit the other settings.
    """
    study = study.without_skipped()
    chosen: dict[str, str] = {}
    names = study.benchmark.runtimes
    precisions: tuple[str, ...] = study.build.precisions
    if AUTO in names:
        suitable, reasons = _suitable_runtimes(study)
        names = _replace_auto(names, suitable)
        chosen["benchmark.runtimes"] = f"{', '.join(names)} ({'; '.join(reasons)})"
    if AUTO in precisions:
        engine_runtimes = [name for name in names if "engine" in formats(name)]
        precisions = PRECISIONS if engine_runtimes and "onnx" in study.formats() else ()
        reason = "no runtime of the study executes engines"
        if engine_runtimes:
            reason = f"benchmark.runtimes has {engine_runtimes[0]}"
        chosen["build.precisions"] = f"{', '.join(precisions) or 'none'} ({reason})"
    parts = {
        "benchmark": study.benchmark.model_copy(update={"runtimes": names}),
        "build": study.build.model_copy(update={"precisions": precisions}),
    }
    try:
        return Plan(Study(**{**dict(study), **parts}), chosen)
    except ValidationError as error:
        problems = "; ".join(entry["msg"].removeprefix("Value error, ") for entry in error.errors())
        raise ValueError(f"{problems} (on this machine, auto is {chosen})") from None


def _suitable_runtimes(study: Study) -> tuple[tuple[str, ...], list[str]]:
    """Return the runtimes that suit this machine and the formats that the study makes, and the reasons in words."""
    devices = machine.resolve_devices(study.benchmark.devices)
    names = [*EVERYWHERE]
    reasons = []
    if set(study.build.precisions) - {AUTO}:
        names.append(ENGINES)
        reasons.append("build.precisions asks for engines")
    elif not study.build.precisions:
        reasons.append("engines are left out")
    elif gpu.gpus() and any(device != "cpu" for device in devices):
        names.append(ENGINES)
        reasons.append("there is a GPU")
    else:
        reasons.append("no GPU to execute engines")
    if "cpu" in devices:
        missing = runtimes.load("openvino_bf16").unavailable("cpu")
        if missing is None:
            available, missing_runtimes = _available(BF16)
            names += available
            reasons += ["the CPU has bf16 instructions", *missing_runtimes]
        else:
            reasons.append(missing)
    made_formats = {"engine", *study.formats()}
    return tuple(name for name in names if made_formats & set(formats(name))), reasons


def _available(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return those of the runtimes that this machine can run on its CPU, and why it cannot run the others."""
    reasons = {name: runtimes.load(name).unavailable("cpu") for name in names}
    return (
        [name for name, reason in reasons.items() if reason is None],
        [f"without {name}: {reason}" for name, reason in reasons.items() if reason is not None],
    )


def _replace_auto(names: tuple[str, ...], suitable: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names` with the suitable ones in the place of `auto`, each name once."""
    replaced: list[str] = []
    for name in names:
        replaced += suitable if name == AUTO else (name,)
    return tuple(dict.fromkeys(replaced))
