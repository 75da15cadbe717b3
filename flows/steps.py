"""The steps of a study in order: a plan is made once, before anything runs.

The run walks it (flows/run.py), progress counts it (flows/progress.py).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flows.searching import searched
from flows.step import DATA, FailedVariant, Fragments, ResultOf, Step, Variants
from tasks.records import Forms, Inspected, Output, Preparation, Trained, Variant

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.records import Model, Study


def steps(study: Study) -> list[Step]:
    """Return every step of a study, in the order in which they are called.

    A step that fails takes those with it that need its result.
    """
    given = [model for model in study.models if model.file]
    named = [model for model in study.models if not model.file]
    # Where images have no labels, named models are inspected too: their weights say how many classes there are.
    plan = [_inspect(study, model) for model in (study.models if study.data.unlabelled else given)]
    preparation = ResultOf(tuple(step.name for step in plan), _preparation, optional=True) if plan else None
    prepare = Step(stage="prepare", name="prepare", inputs={"settings": study.data, "preparation": preparation})
    plan += _labelled(study, study.models[0], prepare) if study.data.unlabelled else [prepare]
    for model in given:
        plan += _given(study, model)
    for model in named:
        plan += _techniques(study, model)
    for model in named:
        best = _training(study, model)
        plan += best
        pruned = [_prune(study, model, ratio, best) for ratio in study.prune.ratios]
        plan += pruned
        plan += _forms(study, model, "best", _newest_first(best))
        for step, ratio in zip(pruned, study.prune.ratios, strict=True):
            plan += _forms(study, model, f"prune-{ratio:g}", (step.name,))
    if study.search.trials and (searches := searched(study, plan)):
        plan += [*_measuring(study, first=True), *searches]
    return plan + _measuring(study)


def _inspect(study: Study, model: Model) -> Step:
    """Find out how a given model wants its images, before they are prepared."""
    return Step(
        stage="inspect",
        name=f"inspect {model.label}",
        model=model.label,
        inputs={"model": model, "settings": study.data},
        failed=FailedVariant(model.label, "adopt", "given", format="onnx") if len(study.models) > 1 else None,
    )


def _labelled(study: Study, model: Model, prepare: Step) -> list[Step]:
    """Classify images without labels with the original, and prepare them with its predictions as labels."""
    label = Step(
        stage="label",
        name=f"label {model.label}",
        model=model.label,
        inputs={"model": model, "settings": study.data, "inspected": ResultOf((f"inspect {model.label}",))},
    )
    return [label, replace(prepare, inputs={**prepare.inputs, "labelled": ResultOf((label.name,))})]


def _preparation(inspected: Inspected) -> Preparation:
    return inspected.preparation


def _given(study: Study, model: Model) -> list[Step]:
    """Adopt a given model, and make forms of it."""
    adopt = Step(
        stage="adopt",
        name=f"adopt {model.label}",
        model=model.label,
        inputs={
            "model": model,
            "data": DATA,
            "preparation": ResultOf((f"inspect {model.label}",), _preparation),
        },
        failed=FailedVariant(model.label, "adopt", "given", format="onnx"),
    )
    return [adopt, *_forms_of_onnx(study, model, model.label, ResultOf((adopt.name,), _onnx))]


def _techniques(study: Study, model: Model) -> list[Step]:
    """A training without any technique, then one with each, which is compared with it."""
    first = f"ablate {model.label} none"
    return [
        Step(
            stage="ablate",
            name=f"ablate {model.label} {technique}",
            model=model.label,
            inputs={
                "model": model,
                "data": DATA,
                "train": study.train,
                "settings": study.ablate,
                "technique": technique,
                "plain": None if technique == "none" else ResultOf((first,), _ablations, optional=True),
            },
            failed={
                "model": model.label,
                "technique": technique,
                "sets": json.dumps(study.ablate.sets(technique)),
            },
        )
        for technique in study.ablate.names
    ]


def _ablations(result: Output) -> Any:
    """Return the fragment of `ablations`."""
    return result.tables["ablations"]


def _training(study: Study, model: Model) -> list[Step]:
    """Train, tune and augment, each from the best weights before it."""
    label, tunes, augments = model.label, study.tune.trials > 0, bool(study.augment.policies)
    common: dict[str, Any] = {"model": model, "data": DATA}
    plan = [
        Step(
            stage="train",
            name=f"train {label}",
            model=label,
            inputs={**common, "settings": study.train, "final": not tunes and not augments},
            failed=FailedVariant(label, "train", "train"),
        )
    ]
    if tunes:
        plan.append(
            Step(
                stage="tune",
                name=f"tune {label}",
                model=label,
                inputs={
                    **common,
                    "trained": ResultOf(_newest_first(plan)),
                    "settings": study.tune,
                    "final": not augments,
                },
                failed=FailedVariant(label, "tune", "tune", "trained"),
            )
        )
    if augments:
        plan.append(
            Step(
                stage="augment",
                name=f"augment {label}",
                model=label,
                inputs={**common, "tuned": ResultOf(_newest_first(plan)), "settings": study.augment},
                failed=FailedVariant(label, "augment", "augment", "tuned"),
            )
        )
    return plan


def _newest_first(plan: list[Step]) -> tuple[str, ...]:
    """Return the names of steps, the last first: later steps take the weights of the first that did not fail."""
    return tuple(step.name for step in reversed(plan))


def _prune(study: Study, model: Model, ratio: float, best: list[Step]) -> Step:
    return Step(
        stage="prune",
        name=f"prune {model.label} {ratio:g}",
        model=model.label,
        inputs={
            "model": model,
            "data": DATA,
            "trained": ResultOf(_newest_first(best)),
            "settings": study.prune,
            "ratio": ratio,
        },
        failed=FailedVariant(model.label, "prune", f"prune-{ratio:g}", "trained"),
    )


def _forms(study: Study, model: Model, weights: str, made_by: tuple[str, ...]) -> list[Step]:
    """Export, quantize and build one model's weights. `made_by` names the steps that the weights may come from."""
    label = model.label
    where = f"{label} {weights}"
    export = Step(
        stage="export",
        name=f"export {where}",
        model=label,
        inputs={"data": DATA, "parent": ResultOf(made_by, _variant), "settings": study.export},
        failed=FailedVariant(label, "export", "export", "parent", beside=True, format="onnx"),
        measures="parent",
    )
    onnx = ResultOf((export.name,), _onnx)
    aware = _aware(study, model, where, made_by, onnx) if study.qat.epochs else []
    return [export, *_forms_of_onnx(study, model, where, onnx), *aware]


def _forms_of_onnx(study: Study, model: Model, where: str, onnx: ResultOf) -> list[Step]:
    """Quantize an ONNX form, and build engines of it. `where` ends the steps' names."""
    label = model.label
    plan = []
    symmetric: ResultOf | None = None
    if study.quantize.settings or study.quantize.dynamic:
        quantize = Step(
            stage="quantize",
            name=f"quantize {where}",
            model=label,
            inputs={
                "data": DATA,
                "parent": onnx,
                "settings": study.quantize,
                "runtimes": study.benchmark.runtimes,
            },
            failed=FailedVariant(label, "quantize", "int8", "parent", beside=True, format="onnx"),
        )
        plan.append(quantize)
        symmetric = ResultOf((quantize.name,), _with_setting("s8s8"), optional=True)
    if study.build.precisions:
        plan.append(
            Step(
                stage="build",
                name=f"build {where}",
                model=label,
                inputs={"parent": onnx, "symmetric": symmetric, "settings": study.build},
                failed=FailedVariant(label, "build", "engine", "parent", beside=True, format="engine"),
            )
        )
    return plan


def _aware(study: Study, model: Model, where: str, made_by: tuple[str, ...], onnx: ResultOf) -> list[Step]:
    """Quantization-aware training of one model's weights, and the engine of its symmetric form."""
    train = Step(
        stage="qat",
        name=f"qat {where}",
        model=model.label,
        inputs={
            "model": model,
            "data": DATA,
            "trained": ResultOf(made_by),
            "fp32": onnx,
            "export": study.export,
            "settings": study.qat,
        },
        failed=FailedVariant(model.label, "qat", "int8-qat", "fp32", beside=True, format="onnx"),
    )
    if "s8s8" not in study.qat.settings or "int8" not in study.build.precisions:
        return [train]
    symmetric = ResultOf((train.name,), _with_setting("qat-s8s8"))
    build = Step(
        stage="build",
        name=f"build qat {where}",
        model=model.label,
        inputs={
            "parent": symmetric,
            "symmetric": symmetric,
            "settings": study.build.model_copy(update={"precisions": ("int8",)}),
        },
        failed=FailedVariant(model.label, "build", "engine", "parent", beside=True, format="engine"),
    )
    return [train, build]


def _variant(trained: Trained) -> Variant:
    return trained.variant


def _onnx(exported: Forms) -> Variant | None:
    return next((form for form in exported.variants if form.format == "onnx" and form.status == "ok"), None)


def _with_setting(setting: str) -> Callable[[Forms], Variant | None]:
    """Return a function that finds the form of an int8 setting among those that a step made."""

    def part(forms: Forms) -> Variant | None:
        return next((form for form in forms.variants if form.setting == setting and form.status == "ok"), None)

    return part


def _measuring(study: Study, *, first: bool = False) -> list[Step]:
    """Measure all variants, serve the winner where that was asked for, and join the tables.

    `first` is the measuring of the first answer, before the search. It does not serve.
    """
    # This imports Polars, for which a terminal that shows progress need not wait.
    from tasks.tables.summary import PARTS

    ending = " first" if first else ""
    plan = [
        Step(
            stage="benchmark",
            name=f"benchmark{ending}",
            first=first,
            inputs={"data": DATA, "variants": Variants(), "settings": study.benchmark},
        )
    ]
    if study.serve.seconds and not first:
        plan.append(
            Step(
                stage="serve",
                name="serve",
                inputs={
                    "data": DATA,
                    "variants": Variants(),
                    "study": study,
                    "settings": study.serve,
                    "fragments": Fragments(PARTS),
                },
            )
        )
    return [
        *plan,
        Step(
            stage="aggregate",
            name=f"aggregate{ending}",
            first=first,
            inputs={"study": study, "fragments": Fragments()},
        ),
    ]
