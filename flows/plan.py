"""What a study is on this machine: `auto` replaced by what it stands for here, stages that are skipped left out."""

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
ENGINES = "tensorrt"
BF16 = ("torch_compile", "openvino_bf16")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Plan:
    """A study as it runs on this machine."""

    study: Study
    """Without `auto` and without `skip`."""
    chosen: dict[str, str]
    """Setting that was `auto` -> in words, what it stands for here and why."""


def planned(study: Study) -> Plan:
    """Decide what `auto` stands for on this machine, and leave out what is skipped.

    Raises
    ------
    ValueError
        If what `auto` stands for does not go together with the other settings.
    """
    kept, chosen = study.without_skipped(), dict[str, str]()
    names = kept.benchmark.runtimes
    precisions: tuple[str, ...] = kept.build.precisions
    if AUTO in names:
        found, why = _runtimes(kept)
        names = _in_place(names, found)
        chosen["benchmark.runtimes"] = f"{', '.join(names)} ({'; '.join(why)})"
    if AUTO in precisions:
        asked = [name for name in names if "engine" in formats(name)]
        precisions = PRECISIONS if asked and "onnx" in kept.export.formats else ()
        why = [f"benchmark.runtimes has {asked[0]}" if asked else "no runtime of the study executes engines"]
        chosen["build.precisions"] = f"{', '.join(precisions) or 'none'} ({why[0]})"
    parts = {
        "benchmark": kept.benchmark.model_copy(update={"runtimes": names}),
        "build": kept.build.model_copy(update={"precisions": precisions}),
    }
    try:
        return Plan(Study(**{**dict(kept), **parts}), chosen)
    except ValidationError as error:
        told = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise ValueError(f"{told} (on this machine, auto is {chosen})") from None


def _runtimes(study: Study) -> tuple[tuple[str, ...], list[str]]:
    """The runtimes that suit this machine and what the study makes, and reasons in words."""
    devices = machine.resolve_devices(study.benchmark.devices)
    found, why = [*EVERYWHERE], []
    if set(study.build.precisions) - {AUTO}:
        found.append(ENGINES)
        why.append("build.precisions asks for engines")
    elif not study.build.precisions:
        why.append("engines are left out")
    elif gpu.gpus() and any(device != "cpu" for device in devices):
        found.append(ENGINES)
        why.append("there is a GPU")
    else:
        why.append("no GPU to execute engines")
    if "cpu" in devices:
        missing = runtimes.load("openvino_bf16").unavailable("cpu")
        if missing is None:
            able, reasons = _available(BF16)
            found += able
            why += ["the CPU has bf16 instructions", *reasons]
        else:
            why.append(missing)
    made = {"safetensors", "engine", *study.export.formats}
    return tuple(name for name in found if made & set(formats(name))), why


def _available(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those that can run on the CPU here, and why the others cannot."""
    reasons = {name: runtimes.load(name).unavailable("cpu") for name in names}
    return (
        [name for name, reason in reasons.items() if reason is None],
        [f"without {name}: {reason}" for name, reason in reasons.items() if reason is not None],
    )


def _in_place(names: tuple[str, ...], found: tuple[str, ...]) -> tuple[str, ...]:
    """`names` with `found` in the place of `auto`, each name once."""
    return tuple(dict.fromkeys(name for given in names for name in (found if given == AUTO else (given,))))
