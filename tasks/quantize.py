"""Quantize: int8 forms of an ONNX file in several settings, whose accuracy and latency are measured.

Which setting is fast and accurate depends on the model, on the runtime and on the machine, so that it is searched for.
The settings are those of the files in tasks/quantizers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks import quantizers
from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.choice import Form, choose, scored, time_in, timed_runtimes
from tasks.forms.int8 import VALIDATION_IMAGES, Rows, logits_of, sample, score
from tasks.machine import fingerprint
from tasks.machine.locks import locked
from tasks.machine.space import watched
from tasks.measure import metrics
from tasks.records import Prepared, Quantize, Quantized, Variant, formats
from tasks.records import quantizers as names_of_quantizers
from tasks.runtimes._onnx import model_file
from tasks.tables.variants import failure, variant_row

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.caching.work import Work

DYNAMIC = "onnxruntime_dynamic"
"""The quantizer whose settings `quantize.dynamic` adds."""


def quantize(work: Work, data: Prepared, parent: Variant, settings: Quantize, runtimes: tuple[str, ...]) -> Quantized:
    """Make the int8 forms of an fp32 ONNX form, and choose those that are benchmarked.

    Forms are calibrated on training images and scored on validation images. In each runtime of the study that executes
    them on the CPU, the best static and the best dynamic form go on (see `choose`). A setting that fails becomes a
    failed variant, one whose library is not installed or that would change nothing in this graph a skipped one.
    """
    assert parent.artifact is not None, parent.name
    arrays = load_arrays(work.store, data)
    rows = sample(arrays, "validation", VALIDATION_IMAGES)
    with work.store.temporary() as folder:
        search = _Search(
            work=work,
            parent=parent,
            settings=settings,
            runtimes=timed_runtimes(runtimes),
            fp32=model_file(work.store.get(parent.artifact)),
            folder=folder,
            validation=Rows(data, arrays.images, rows),
            labels=arrays.labels[rows],
        )
        search.make(Rows(data, arrays.images, sample(arrays, "train", settings.calibration_images)))
        search.time()
        search.choose()
        described = [search.describe(setting) for setting in settings_of(settings)]
        np.save(folder / "logits.npy", search.logits)
        logits = work.store.put(folder / "logits.npy", "npy")
    return Quantized(
        variants=tuple(variant for variant, _ in described),
        tables={"variants": work.rows("variants", [row for _, row in described])},
        scored=tuple(scored(form) for form in search.forms.values()),
        fp32_latencies=search.fp32_latencies,
        fp32_logits=logits,
    )


def settings_of(settings: Quantize) -> tuple[str, ...]:
    """Return the settings that are tried, each once."""
    added = [name for name, quantizer in names_of_quantizers().items() if settings.dynamic and quantizer == DYNAMIC]
    return tuple(dict.fromkeys((*settings.settings, *added)))


@dataclass(kw_only=True)
class _Search:
    """The search for the settings whose forms are benchmarked. One model is open at a time, or two to be compared."""

    work: Work
    parent: Variant
    """The variant of the fp32 form."""
    settings: Quantize
    runtimes: tuple[str, ...]
    """The runtimes in which forms are timed."""
    fp32: Path
    """The file of the fp32 form."""
    folder: Path
    """The folder with the files of the forms."""
    validation: Rows
    labels: np.ndarray
    """int64, (validation images,)."""
    forms: dict[str, Form] = field(default_factory=dict)
    """The int8 forms by setting."""
    logits: np.ndarray = field(default_factory=lambda: np.empty(0))
    """The fp32 form's logits: float32, (validation images, classes)."""
    fp32_latencies: dict[str, float] = field(default_factory=dict)
    """Runtime -> median latency of the fp32 form for one image, in milliseconds."""
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Why a setting has no form, by setting: the status (failed or skipped) and the reason."""
    chosen: dict[str, list[str]] = field(default_factory=dict)
    """The runtimes in which the form of a setting is benchmarked, by setting."""

    def name(self, setting: str) -> str:
        """Return the name of a setting's variant."""
        return f"{self.parent.name}/int8-{setting}"

    def make(self, calibration: Rows) -> None:
        """Write and score a form in every setting."""
        self.logits = logits_of(self.fp32, "onnx", self.validation)
        self.work.log.info(
            "%s: %s %.4f of %d validation images",
            self.parent.name,
            self.validation.metric,
            metrics.top1(self.logits, self.labels),
            len(self.labels),
        )
        tried = settings_of(self.settings)
        for done, setting in enumerate(tried, 1):
            try:
                self._make(setting, calibration)
            except quantizers.NothingToDoError as error:
                self.errors[setting] = ("skipped", str(error))
            except Exception as error:
                # The quantizer and the runtime raise whatever they like. The other settings are still tried.
                self.errors[setting] = ("failed", failure(error))
            if setting in self.errors:
                self.work.log.warning("%s: %s", self.name(setting), self.errors[setting][1])
            self.work.progress(done, len(tried), self.name(setting))

    def _make(self, setting: str, calibration: Rows) -> None:
        """Write a form in one setting and score it beside the fp32 form."""
        quantizer = quantizers.of_setting(setting)
        reason = quantizer.unavailable()
        if reason is not None:
            self.errors[setting] = ("skipped", reason)
            return
        with watched(self.folder):
            path = quantizer.quantize(setting, self.fp32, self.folder, calibration)
        scores = score(self.logits, logits_of(path, quantizer.FORMAT, self.validation), self.labels)
        self.forms[setting] = Form(
            setting=setting, format=quantizer.FORMAT, dynamic=quantizer.DYNAMIC, path=path, scores=scores
        )

    def time(self) -> None:
        """Measure the latency of all forms in each runtime, while nothing else is measured on the CPU."""
        image = self.validation.read(0, 1)
        with locked({"cpu"}, self.work.log):
            for number, name in enumerate(self.runtimes):
                self.work.progress(number, len(self.runtimes), f"{self.parent.name}: timing its int8 forms in {name}")
                timed = time_in(name, self.fp32, {form.setting: form.path for form in self._executed(name)}, image)
                if timed.parent_ms is not None:
                    self.fp32_latencies[name] = timed.parent_ms
                for setting, ratio in timed.ratios.items():
                    form = self.forms[setting]
                    form.ratios[name], form.latencies[name] = ratio, ratio * self.fp32_latencies[name]
                for setting, reason in timed.refused.items():
                    self.work.log.warning("%s: %s does not execute it: %s", self.name(setting), name, reason)

    def _executed(self, runtime: str) -> list[Form]:
        """Return the forms whose format a runtime executes."""
        return [form for form in self.forms.values() if form.format in formats(runtime)]

    def choose(self) -> None:
        """Choose the best static and the best dynamic form in each runtime."""
        for runtime in self.runtimes:
            timed = [form for form in self.forms.values() if runtime in form.latencies]
            if self.settings.only_faster:
                self._say_slower(timed, runtime)
                timed = [form for form in timed if form.ratios[runtime] < 1]
            for dynamic in (False, True):
                forms = [form for form in timed if form.dynamic is dynamic]
                if not forms:
                    continue
                best, reason = choose(forms, runtime, self.settings.max_drop)
                self.chosen.setdefault(best.setting, []).append(runtime)
                self.work.log.info(
                    "%s: int8 setting %s chosen for %s (validation %s %.4f, agreement with fp32 %.4f, %.3f ms): %s",
                    self.parent.name,
                    best.setting,
                    runtime,
                    self.validation.metric,
                    best.scores.top1,
                    best.scores.agreement,
                    best.latencies[runtime],
                    reason,
                )

    def _say_slower(self, forms: list[Form], runtime: str) -> None:
        slower = [
            f"{form.setting} ({form.ratios[runtime]:.2f} times as long)" for form in forms if form.ratios[runtime] >= 1
        ]
        if slower:
            self.work.log.info(
                "%s: not faster than fp32 in %s, so not measured there: %s",
                self.parent.name,
                runtime,
                ", ".join(slower),
            )

    def describe(self, setting: str) -> tuple[Variant, dict[str, object]]:
        """Store the form of a setting; return its variant and its row of the table `variants`."""
        quantizer = names_of_quantizers()[setting]
        identity: dict[str, Any] = {
            "name": self.name(setting),
            "model": self.parent.model,
            "stage": "quantize",
            "format": quantizers.load(quantizer).FORMAT,
            "parent": self.parent.name,
            "precision": "int8",
            "setting": setting,
            "parameters": self.parent.parameters,
            "macs": self.parent.macs,
        }
        if setting in self.errors:
            status, error = self.errors[setting]
            variant = Variant(**identity, status=status, error=error)  # type: ignore[arg-type]
            return variant, variant_row(variant)
        form, chosen = self.forms[setting], self.chosen.get(setting, [])
        left_out_of = tuple(
            name for name in self.runtimes if chosen and form.format in formats(name) and name not in chosen
        )
        artifact = self.work.store.put(form.path, form.format, "int8")
        variant = Variant(**identity, artifact=artifact, benchmark=bool(chosen), left_out_of=left_out_of)
        return variant, variant_row(
            variant,
            validation_top1=form.scores.top1,
            validation_macro_f1=form.scores.macro_f1,
            validation_agreement=form.scores.agreement,
            validation_divergence=form.scores.divergence,
            validation_drop=form.scores.drop,
            search_latency_ms=min(form.latencies.values(), default=None),
            search_latencies=json.dumps(form.latencies),
            chosen_in=", ".join(chosen) or None,
            parity=form.scores.parity,
        )


def _modules(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the modules that the stage loads by name: quantizers and runtimes."""
    return (
        *(f"tasks.quantizers.{names_of_quantizers()[setting]}" for setting in settings_of(inputs["settings"])),
        *(f"tasks.runtimes.{name}" for name in ("onnxruntime", "openvino", *timed_runtimes(inputs["runtimes"]))),
    )


def _libraries(inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the distributions that make the forms and execute them."""
    loaded = [quantizers.load(names_of_quantizers()[setting]) for setting in settings_of(inputs["settings"])]
    return tuple(
        dict.fromkeys(("onnx", "onnxruntime", "openvino", "numpy", *(name for q in loaded for name in q.LIBRARIES)))
    )


quantize_task = stage(
    lambda inputs: f"quantize/{inputs['parent'].name}",
    libraries=_libraries,
    modules=_modules,
    # The machine decides the latencies, by which settings are chosen.
    extra=lambda inputs: {"machine": fingerprint()},
    # Runtimes that execute no int8 form on the CPU do not change the result.
    counted={"runtimes": timed_runtimes},
    devices=lambda inputs: ("cpu",),
)(quantize)
