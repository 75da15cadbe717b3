"""The flow, wiring only: prepare, ablate, train, tune, augment, prune, export, quantize, qat, build, benchmark, serve,
aggregate."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from flows import logs
from flows.devices_here import refuse_missing
from flows.orchestration import liveness
from flows.orchestration.started import as_started, is_deployed, of_deployment
from flows.plan import Plan, planned
from flows.presets import quickstart
from flows.progress import builds_aware, forms
from flows.run import LOG, Run, failed_variant, publish
from flows.runs.folders import refuse_out
from flows.runs.unfinished import Unfinished, failure, under_way
from flows.settings import to_toml
from flows.terminal.conclusion import in_one_line
from models import check_gelu, check_weights
from tasks import machine
from tasks.ablate import ablate_task
from tasks.aggregate import aggregate_task
from tasks.augment import augment_task
from tasks.benchmark import benchmark_task
from tasks.build import build_task
from tasks.caching.sweep import sweep
from tasks.export import export_task
from tasks.machine.files import write_text
from tasks.prepare import prepare_task
from tasks.prune import prune_task
from tasks.qat import qat_task
from tasks.quantize import quantize_task
from tasks.records import Model, Output, Prepared, Result, StageName, Study, Trained, Variant
from tasks.serve import serve_task
from tasks.tables.summary import PARTS
from tasks.train import train_task
from tasks.tune import tune_task

logs.tidy_errors()
DEFAULT = quickstart()
"""What the form in the Prefect UI starts from."""
FINISHED: list[str] = []
"""Runs of this process whose results are all on disk, also where Prefect's server could not be told."""


def _techniques(run: Run, model: Model, data: Prepared) -> None:
    """Train a model without any technique, then with each, which is compared with it."""
    study, plain = run.study, None
    for technique in study.ablate.names:
        keys = {"model": model.label, "technique": technique, "sets": json.dumps(study.ablate.sets(technique))}
        made: Output | None = run.attempt(
            ablate_task,
            keys,
            model=model,
            data=data,
            train=study.train,
            settings=study.ablate,
            technique=technique,
            plain=plain,
        )
        if technique == "none" and made is not None:
            plain = made.tables["ablations"]


def _weights(run: Run, model: Model, data: Prepared) -> list[Trained]:
    """The weights of a model that go on: the best of train, tune and augment, and one pruned form a ratio."""
    study = run.study
    tunes, augments = study.tune.trials > 0, bool(study.augment.policies)
    best: Trained | None = run.attempt(
        train_task,
        failed_variant(f"{model.label}/train", model, "train"),
        model=model,
        data=data,
        settings=study.train,
        final=not tunes and not augments,
    )
    if best is not None and tunes:
        best = (
            run.attempt(
                tune_task,
                failed_variant(f"{model.label}/tune", model, "tune", best.variant.name),
                model=model,
                data=data,
                trained=best,
                settings=study.tune,
                final=not augments,
            )
            or best
        )
    if best is not None and augments:
        best = (
            run.attempt(
                augment_task,
                failed_variant(f"{model.label}/augment", model, "augment", best.variant.name),
                model=model,
                data=data,
                tuned=best,
                settings=study.augment,
            )
            or best
        )
    if best is None:
        return []
    pruned = [
        run.attempt(
            prune_task,
            failed_variant(f"{model.label}/prune-{ratio:g}", model, "prune", best.variant.name),
            model=model,
            data=data,
            trained=best,
            settings=study.prune,
            ratio=ratio,
        )
        for ratio in study.prune.ratios
    ]
    return [best, *(p for p in pruned if p is not None)]


def _forms(run: Run, model: Model, data: Prepared, trained: Trained) -> None:
    """Export, quantize and build one model's weights."""
    study, parent = run.study, trained.variant
    run.variants.append(parent)
    exported = run.attempt(
        export_task,
        failed_variant(f"{parent.name}/export", model, "export", parent.name, "onnx"),
        data=data,
        parent=parent,
        settings=study.export,
    )
    if exported is None:
        return
    run.variants.extend(exported.variants)
    onnx = next((v for v in exported.variants if v.format == "onnx" and v.status == "ok"), None)
    if onnx is None:
        return
    symmetric = None
    if study.quantize.settings or study.quantize.dynamic:
        quantized = run.attempt(
            quantize_task,
            failed_variant(f"{onnx.name}/int8", model, "quantize", onnx.name, "onnx"),
            data=data,
            parent=onnx,
            settings=study.quantize,
        )
        if quantized is not None:
            run.variants.extend(quantized.variants)
            symmetric = next((v for v in quantized.variants if v.setting == "s8s8" and v.status == "ok"), None)
    if study.build.precisions:
        built = run.attempt(
            build_task,
            failed_variant(f"{onnx.name}/engine", model, "build", onnx.name, "engine"),
            parent=onnx,
            symmetric=symmetric,
            settings=study.build,
        )
        if built is not None:
            run.variants.extend(built.variants)
    if study.qat.epochs:
        _aware(run, model, data, trained, onnx)


def _aware(run: Run, model: Model, data: Prepared, trained: Trained, onnx: Variant) -> None:
    """Quantization-aware training of one model's weights, and the engine of its symmetric form."""
    study = run.study
    made = run.attempt(
        qat_task,
        failed_variant(f"{onnx.name}/int8-qat", model, "qat", onnx.name, "onnx"),
        model=model,
        data=data,
        trained=trained,
        fp32=onnx,
        export=study.export,
        settings=study.qat,
    )
    if made is None:
        return
    run.variants.extend(made.variants)
    symmetric = next((v for v in made.variants if v.setting == "qat-s8s8" and v.status == "ok"), None)
    if symmetric is not None and builds_aware(study):
        built = run.attempt(
            build_task,
            failed_variant(f"{symmetric.name}/engine", model, "build", symmetric.name, "engine"),
            parent=symmetric,
            symmetric=symmetric,
            settings=study.build.model_copy(update={"precisions": ("int8",)}),
        )
        if built is not None:
            run.variants.extend(built.variants)


def _run_name() -> str:
    """A flow run's name: as the person, or the form, gave it to a deployment's run; else the study's."""
    of_it = FlowRunContext.get()
    # Prefect asks within the run
    assert of_it is not None and of_it.flow_run is not None
    given = of_it.flow_run.deployment_id is not None and not of_it.flow_run.auto_scheduled
    return str(of_it.flow_run.name if given else (of_it.parameters or {})["study"].name)


@flow(name="burnish", flow_run_name=_run_name, log_prints=False)
def run_study(study: Study = DEFAULT, out: str = "artifacts", again: tuple[StageName, ...] = ()) -> str:
    """Run a study: from images and classifiers to the fastest form that is still accurate enough.

    Parameters
    ----------
    study
        What to do, stage by stage. Everything left as it is comes from the defaults.
    out
        Folder for tables/, store/ and runs/.
    again
        Stages to compute although their results are stored, e.g. the benchmark on a quieter machine.

    Returns
    -------
    str
        Name of the run; its files are in <out>/runs/<name>. Prefect makes it of the state that the function returns,
        whose message says the winner, that there is none, or what failed.
    """
    LOG.setLevel(logging.INFO)
    logs.tidy_progress()
    liveness.hold_current()
    try:
        run, result = _finished(study, out, again)
    except Exception as error:
        # not raised: Prefect would log it twice more, and the state is to say it in one line
        return Failed(data=error, message=_told(error))  # type: ignore[return-value]
    return Completed(data=run, message=in_one_line(result))  # type: ignore[return-value]


def _told(error: Exception) -> str:
    return of_deployment(failure(error)) if is_deployed() else failure(error)


def _finished(study: Study, out: str, again: tuple[StageName, ...]) -> tuple[str, Result]:
    """Run a study to its end and return the run's name and its result."""
    # a form and a deployment have not been through the command line
    refuse_out("out", out)
    machine.keep_to_quota()
    for model in study.models:
        if model.pretrained is not None:
            # a file that cannot be read is said before anything is computed, once
            check_weights(model.pretrained)
        if model.gelu is not None:
            # likewise
            check_gelu(model.name)
    plan = planned(study)
    refuse_missing(plan.study)
    run = Run(plan.study, out, again)
    with under_way(run.folder):
        return run.context.run, _results(run, study, plan)


def _results(run: Run, study: Study, plan: Plan) -> Result:
    """Carry out a study as it is on this machine, up to what is published. `study`: as it was asked for."""
    sweep(Path(run.context.out), LOG)
    LOG.info("run %s, artifacts in %s", run.context.run, run.context.out)
    write_text(run.folder / "study.toml", to_toml(study))
    write_text(run.folder / "environment.json", json.dumps({**machine.environment(), "auto": plan.chosen}, indent=1))
    for setting, told in plan.chosen.items():
        LOG.info("%s: auto is %s", setting, told)
    study = plan.study
    data: Prepared = run.do(prepare_task, settings=study.data)
    for model in study.models:
        _techniques(run, model, data)
        run.progress.close(model.label, "techniques")
    for model in study.models:
        made = _weights(run, model, data)
        run.progress.keep_forms(model.label, len(made))
        for number, weights in enumerate(made):
            _forms(run, model, data, weights)
            run.progress.close(model.label, forms(number))
    if not any(v.status == "ok" and v.benchmark for v in run.variants):
        why = f"no variant to measure: {run.variants[0].name}: {run.variants[0].error}"
        raise (ValueError if isinstance(run.error, ValueError) else Unfinished)(why) from run.error
    run.do(benchmark_task, data=data, variants=tuple(run.variants), settings=study.benchmark)
    if study.serve.seconds:
        run.do(
            serve_task,
            data=data,
            variants=tuple(run.variants),
            study=study,
            settings=study.serve,
            fragments={name: tuple(run.fragments[name]) for name in PARTS},
        )
    result: Result = run.do(aggregate_task, study=study, fragments={k: tuple(v) for k, v in run.fragments.items()})
    result = as_started(result)
    publish(run, result)
    LOG.info("report: %s", run.folder / "report.html")
    liveness.finish_current()
    FINISHED.append(run.context.run)
    return result
