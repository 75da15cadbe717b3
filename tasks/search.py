"""Search: one trial of the search for faster int8 forms: a setting, with some blocks of layers in floating point."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import quantizers
from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.choice import ROUNDS, Form, scored, time_in
from tasks.forms.int8 import VALIDATION_IMAGES, Rows, logits_of, looked_at, sample, score
from tasks.forms.mixed import in_float
from tasks.forms.proposals import Proposal, Space, attempts, propose
from tasks.machine import fingerprint
from tasks.machine.locks import locked
from tasks.machine.space import watched
from tasks.measure import fidelity
from tasks.records import Prepared, Quantize, Quantized, Ranked, Scored, Search, Tried, Variant
from tasks.runtimes._onnx import model_file
from tasks.tables.variants import failure

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.caching.work import Work

LOOK_ROUNDS = 2
"""Times that a form is measured in the first look."""
MARGIN = 1.02
"""A form is clearly slower than another where its latency is more than this multiple of the other's."""


def search(
    work: Work,
    data: Prepared,
    parent: Variant,
    quantized: Quantized,
    ranked: tuple[Ranked, ...],
    earlier: tuple[Tried, ...],
    quantize: Quantize,
    settings: Search,
    number: int,
) -> Tried:
    """Try what the results of the stage quantize and of earlier trials suggest.

    A form is looked at with few images and measurements first. Only if no other form is both more faithful and faster,
    it is scored on all validation images and measured in every runtime (successive halving: Jamieson and Talwalkar
    2016). A trial that fails is a row with the reason.
    """
    space = space_of(quantized, ranked, quantize, settings)
    past = attempts(space, quantized.scored, earlier)
    proposal = propose(space, past, settings.seed * 1009 + number) if space.blocks else None
    if proposal is None:
        return _tried(work, parent, number, None, Outcome("nothing left"), 0.0)
    started = time.monotonic()
    with work.store.temporary() as folder:
        trial = _Trial(
            work=work,
            data=data,
            parent=parent,
            quantized=quantized,
            ranked=ranked,
            quantize=quantize,
            rivals=tuple(attempt.scored for attempt in past if attempt.scored is not None),
            folder=folder,
        )
        try:
            with watched(folder):
                outcome = trial.run(proposal)
        except (quantizers.NothingToDoError, Refused) as error:
            outcome = Outcome("failed", error=str(error))
        except Exception as error:
            # The quantizer and the runtime raise whatever they like. The search goes on.
            outcome = Outcome("failed", error=failure(error))
    return _tried(work, parent, number, proposal, outcome, time.monotonic() - started)


def space_of(quantized: Quantized, ranked: tuple[Ranked, ...], quantize: Quantize, settings: Search) -> Space:
    """Return what can be tried: runtimes in which something is to gain, and settings whose forms can be mixed."""
    made = [variant.setting for variant in quantized.variants if variant.status == "ok"]
    names = dict.fromkeys((*made, *settings.settings))
    usable = [
        name for name in names if quantizers.is_static(name) and quantizers.of_setting(name).unavailable() is None
    ]
    return Space(
        settings=tuple(usable),
        mixable=frozenset(name for name in usable if quantizers.is_mixable(name)),
        blocks={ranking.runtime: len(ranking.blocks) for ranking in ranked if ranking.blocks},
        max_drop=quantize.max_drop,
    )


class Refused(Exception):
    """A runtime does not execute a form."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    ended: str
    scored: Scored | None = None
    variant: Variant | None = None
    error: str | None = None


def label(parent: Variant, proposal: Proposal) -> str:
    """Return the name of the form of a trial."""
    kept = f"-float{proposal.kept}-{proposal.runtime}" if proposal.kept else ""
    return f"{parent.name}/int8-{proposal.setting}{kept}"


@dataclass(kw_only=True)
class _Trial:
    """One trial: it makes a form and scores it. One model is open at a time, or two to be compared."""

    work: Work
    data: Prepared
    parent: Variant
    quantized: Quantized
    ranked: tuple[Ranked, ...]
    quantize: Quantize
    rivals: tuple[Scored, ...]
    """All forms that were scored before, at least in a first look."""
    folder: Path

    def run(self, proposal: Proposal) -> Outcome:
        """Make the form, look at it, and score it where it is worth that."""
        assert self.parent.artifact is not None and self.quantized.fp32_logits is not None
        fp32 = model_file(self.work.store.get(self.parent.artifact))
        path = self._made(proposal, fp32)
        arrays = load_arrays(self.work.store, self.data)
        rows = sample(arrays, "validation", VALIDATION_IMAGES)
        images = Rows(self.data, arrays.images, rows)
        fp32_logits = np.load(self.work.store.get(self.quantized.fp32_logits))
        few = looked_at(len(rows))
        look = fidelity.divergence(fp32_logits[few], logits_of(path, "onnx", Rows(self.data, arrays.images, rows[few])))
        timed = _Timed(self.work, fp32, path, proposal.setting, images.read(0, 1), self.quantized.fp32_latencies)
        latency = timed.in_runtime(proposal.runtime, LOOK_ROUNDS)
        seen = Scored(setting=proposal.setting, look=look, latencies={proposal.runtime: latency})
        if latency >= self.quantized.fp32_latencies[proposal.runtime]:
            return Outcome("slower", seen)
        if self._is_dominated(look, latency, proposal.runtime):
            return Outcome("worse", seen)
        form = Form(
            setting=proposal.setting,
            format="onnx",
            dynamic=False,
            path=path,
            scores=score(fp32_logits, logits_of(path, "onnx", images), arrays.labels[rows]),
        )
        for runtime in self.quantized.fp32_latencies:
            try:
                form.latencies[runtime] = timed.in_runtime(runtime)
            except Refused as refused:
                if runtime == proposal.runtime:
                    raise
                self.work.log.info("%s: %s", label(self.parent, proposal), refused)
        return Outcome("done", scored(form), self._variant(proposal, path))

    def _made(self, proposal: Proposal, fp32: Path) -> Path:
        """Write the form of a proposal, and return its path."""
        import onnx

        plain = self._plain(proposal.setting, fp32)
        if not proposal.kept:
            return plain
        ranking = next(each for each in self.ranked if each.runtime == proposal.runtime)
        nodes = {node for block in ranking.blocks[: proposal.kept] for node in block.nodes}
        path = self.folder / "mixed.onnx"
        onnx.save(in_float(onnx.load(plain), onnx.load(fp32), nodes), path)
        return path

    def _plain(self, setting: str, fp32: Path) -> Path:
        """Return the form of a setting without layers in floating point: that of the stage quantize, or a new one."""
        for variant in self.quantized.variants:
            if variant.setting == setting and variant.artifact is not None:
                return model_file(self.work.store.get(variant.artifact))
        arrays = load_arrays(self.work.store, self.data)
        calibration = Rows(self.data, arrays.images, sample(arrays, "train", self.quantize.calibration_images))
        return quantizers.of_setting(setting).quantize(setting, fp32, self.folder, calibration)

    def _is_dominated(self, look: float, latency: float, runtime: str) -> bool:
        """Return whether another form is as faithful on the few images and clearly faster."""
        return any(
            rival.look <= look and rival.latencies[runtime] * MARGIN < latency
            for rival in self.rivals
            if runtime in rival.latencies
        )

    def _variant(self, proposal: Proposal, path: Path) -> Variant:
        kept = f"+{proposal.kept} blocks in float" if proposal.kept else ""
        return Variant(
            name=label(self.parent, proposal),
            model=self.parent.model,
            stage="search",
            parent=self.parent.name,
            format="onnx",
            precision="int8",
            setting=f"{proposal.setting}{kept}",
            parameters=self.parent.parameters,
            macs=self.parent.macs,
            artifact=self.work.store.put(path, "onnx", "int8"),
        )


@dataclass(frozen=True)
class _Timed:
    """Measures one form beside its fp32 parent."""

    work: Work
    fp32: Path
    path: Path
    setting: str
    image: np.ndarray
    fp32_latencies: dict[str, float]
    """Runtime -> the parent's latency that ratios are multiplied with, in milliseconds."""

    def in_runtime(self, runtime: str, rounds: int = ROUNDS) -> float:
        """Return the form's median latency in a runtime, in milliseconds.

        Raises
        ------
        Refused
            If the runtime does not execute the form.
        """
        with locked({"cpu"}, self.work.log):
            timed = time_in(runtime, self.fp32, {self.setting: self.path}, self.image, rounds)
        if timed.refused:
            raise Refused(f"{runtime} does not execute it: {timed.refused[self.setting]}")
        return timed.ratios[self.setting] * self.fp32_latencies[runtime]


def _tried(
    work: Work, parent: Variant, number: int, proposal: Proposal | None, outcome: Outcome, seconds: float
) -> Tried:
    """Return the result of a trial, with its row of the table `search`."""
    if proposal is None:
        work.log.info("%s: nothing is left to try", parent.name)
        return Tried(number=number, ended="nothing left")
    found = outcome.scored
    row: dict[str, Any] = {
        "form": label(parent, proposal),
        "parent": parent.name,
        "trial": number,
        "setting": proposal.setting,
        "runtime": proposal.runtime,
        "kept": proposal.kept,
        "look": found.look if found else None,
        "divergence": found.divergence if found else None,
        "drop": found.drop if found else None,
        "latency_ms": found.latencies[proposal.runtime] if found else None,
        "latencies": json.dumps(found.latencies if found else {}),
        "seconds": seconds,
        "ended": outcome.ended,
        "error": outcome.error,
    }
    work.log.info("%s", in_words(row))
    return Tried(
        number=number,
        setting=proposal.setting,
        runtime=proposal.runtime,
        kept=proposal.kept,
        ended=outcome.ended,  # type: ignore[arg-type]
        scored=outcome.scored,
        variant=outcome.variant,
        tables={"search": work.rows("search", [row])},
    )


def in_words(row: dict[str, Any]) -> str:
    """Return what a trial was and how it ended, for a log line."""
    figures = ""
    if row["latency_ms"] is not None:
        drop = "" if row["drop"] is None else f", drop {100 * row['drop']:.2f} points"
        figures = f": {row['latency_ms']:.3f} ms in {row['runtime']}, divergence {row['look']:.4f}{drop}"
    ends = {
        "done": "",
        "worse": "; another form is more faithful and faster",
        "slower": "; slower than fp32",
        "failed": f"; failed: {row['error']}",
    }
    return f"trial {row['trial']}, {row['form']}{figures}{ends[row['ended']]}"


def _modules(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the modules that a trial loads by name."""
    from tasks.records import quantizers as owners

    settings = (*inputs["quantize"].settings, *inputs["settings"].settings)
    names = (*inputs["quantized"].fp32_latencies, "onnxruntime", *(ranking.runtime for ranking in inputs["ranked"]))
    return (
        *dict.fromkeys(f"tasks.quantizers.{owners()[setting]}" for setting in settings),
        *dict.fromkeys(f"tasks.runtimes.{name}" for name in names),
    )


search_task = stage(
    lambda inputs: f"search/{inputs['parent'].name}/{inputs['number']}",
    libraries=("onnx", "onnxruntime", "openvino", "numpy", "optuna"),
    modules=_modules,
    # Only what the trial itself reads of the settings: how many trials there are is not part of any of them.
    counted={
        "settings": lambda settings: {"settings": settings.settings, "seed": settings.seed},
        "quantize": lambda settings: {
            "calibration_images": settings.calibration_images,
            "max_drop": settings.max_drop,
        },
    },
    # The machine decides the latencies.
    extra=lambda inputs: {"machine": fingerprint()},
    devices=lambda inputs: ("cpu",),
)(search)
