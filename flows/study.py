"""The flow, wiring only: prepare, ablate, train, tune, augment, prune, export, quantize, qat, build, benchmark, serve,
aggregate."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from flows import liveness, logs
from flows.conclusion import in_one_line
from flows.devices_here import refuse_missing
from flows.folders import refuse_out
from flows.plan import Plan, planned
from flows.presets import quickstart
from flows.progress import Progress, builds_aware, forms
from flows.settings import to_toml
from flows.started import as_started, is_deployed, of_deployment
from flows.unfinished import Unfinished, failure, under_way
from models import check_gelu, check_weights
from tasks import machine, tables
from tasks.ablate import ablate_task
from tasks.aggregate import aggregate_task
from tasks.augment import augment_task
from tasks.benchmark import benchmark_task
from tasks.build import build_task
from tasks.caching.limits import without_server
from tasks.caching.stage import call
from tasks.caching.store import Store
from tasks.caching.sweep import sweep
from tasks.caching.work import Work
from tasks.export import export_task
from tasks.machine.causes import cause
from tasks.machine.devices import Unavailable
from tasks.machine.durable import sync
from tasks.machine.files import beside, copy, made, replace, write_text
from tasks.machine.space import DiskFull
from tasks.prepare import prepare_task
from tasks.prune import prune_task
from tasks.qat import qat_task
from tasks.quantize import quantize_task
from tasks.records import Artifact, Context, Model, Output, Prepared, Result, StageName, Study, Trained, Variant
from tasks.serve import serve_task
from tasks.tables.summary import PARTS
from tasks.tables.variants import variant_row
from tasks.train import train_task
from tasks.tune import tune_task

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefect import Task

LOG = logging.getLogger("burnish")
logs.tidy_errors()
DEFAULT = quickstart()
"""What the form in the Prefect UI starts from."""
FINISHED: list[str] = []
"""Runs of this process whose results are all on disk, also where Prefect's server could not be told."""


class Run:
    """One run of a study: calls stages, collects their rows, turns a failed stage into a failed variant."""

    def __init__(self, study: Study, out: str, again: tuple[StageName, ...] = ()) -> None:
        self.study = study
        self.context = Context(out=str(Path(out).absolute()), run=_new_run(Path(out), study.name), again=again)
        self.folder = Path(self.context.out) / "runs" / self.context.run
        self.fragments: dict[str, list[Artifact]] = {}
        self.variants: list[Variant] = []
        self.progress = Progress(study, Path(self.context.out))
        self.ended = ""
        """How many of all stages had ended when the last one did, in words."""
        # the first that a stage was survived with
        self.error: Exception | None = None

    def do(self, made: Task[..., Any], **inputs: Any) -> Any:
        """Run a stage; an exception ends the study."""
        about, started = made.about, time.monotonic()  # type: ignore[attr-defined]
        before, label = about.computed, about.label_of(inputs)
        self.progress.begin(made.name, _model_of(inputs), label)
        try:
            result = call(made, self.context, **inputs)
        except Exception:
            self.ended = self.progress.end(computed=False)
            raise
        computed = about.computed > before
        self.ended = self.progress.end(computed)
        seconds = f"done in {time.monotonic() - started:.1f} s" if computed else "cached"
        LOG.info("%s: %s %s", self.ended, label, seconds)
        self.collect(result)
        return result

    def attempt(self, made: Task[..., Any], failed: Variant | dict[str, str], **inputs: Any) -> Any:
        """Run a stage; an exception becomes the row of `failed`, a variant or keys of `ablations`, and the study goes
        on.

        What this machine has not the means for is skipped, anything else has failed.
        """
        try:
            return self.do(made, **inputs)
        except DiskFull:
            # nothing that follows could be written, and the same command goes on here
            raise
        except Exception as error:
            # recorded, reported and shown: the one place where a study survives a stage
            self.error = self.error or error
            skipped = isinstance(error, Unavailable)
            # ValueError: of the user's settings or data
            plain = isinstance(error, (Unavailable, ValueError))
            told = str(error).splitlines()[0] if plain else f"{type(error).__name__}: {cause(error)}"
            outcome: Any = {"status": "skipped" if skipped else "failed", "error": told}
            LOG.log(
                logging.WARNING if skipped else logging.ERROR,
                "%s: %s %s: %s",
                self.ended,
                made.about.label_of(inputs),  # type: ignore[attr-defined]
                outcome["status"],
                told,
            )
            table: str = "ablations"
            row: dict[str, Any]
            if isinstance(failed, Variant):
                failed = failed.model_copy(update=outcome)
                self.variants.append(failed)
                table, row = "variants", variant_row(failed)
            else:
                row = failed | outcome
            work = Work(Store(Path(self.context.out) / "store"), self.folder)
            self.collect(Output(tables={table: work.rows(table, [row])}))
            return None

    def collect(self, result: Output) -> None:
        for table, artifact in result.tables.items():
            self.fragments.setdefault(table, []).append(artifact)


def _new_run(out: Path, name: str) -> str:
    """A run's name, its folder made: <study>-<date>-<time>."""
    while True:
        run = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            (made(out / "runs") / run).mkdir()
        except FileExistsError:
            time.sleep(0.5)
        else:
            sync(out / "runs")
            return run


def _model_of(inputs: dict[str, Any]) -> str:
    """Label of the model that a stage is run for; empty for a stage that is run once."""
    if "model" in inputs:
        return inputs["model"].label
    return inputs["parent"].model if "parent" in inputs else ""


def _failed(name: str, model: Model, stage: str, parent: str | None = None, format: str = "safetensors") -> Variant:
    return Variant(
        name=name, model=model.label, stage=stage, parent=parent, format=format, status="failed", error="unknown"
    )


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
        _failed(f"{model.label}/train", model, "train"),
        model=model,
        data=data,
        settings=study.train,
        final=not tunes and not augments,
    )
    if best is not None and tunes:
        best = (
            run.attempt(
                tune_task,
                _failed(f"{model.label}/tune", model, "tune", best.variant.name),
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
                _failed(f"{model.label}/augment", model, "augment", best.variant.name),
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
            _failed(f"{model.label}/prune-{ratio:g}", model, "prune", best.variant.name),
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
        _failed(f"{parent.name}/export", model, "export", parent.name, "onnx"),
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
            _failed(f"{onnx.name}/int8", model, "quantize", onnx.name, "onnx"),
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
            _failed(f"{onnx.name}/engine", model, "build", onnx.name, "engine"),
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
        _failed(f"{onnx.name}/int8-qat", model, "qat", onnx.name, "onnx"),
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
            _failed(f"{symmetric.name}/engine", model, "build", symmetric.name, "engine"),
            parent=symmetric,
            symmetric=symmetric,
            settings=study.build.model_copy(update={"precisions": ("int8",)}),
        )
        if built is not None:
            run.variants.extend(built.variants)


def _keep_models(variants: Iterable[Variant], store: Store, folder: Path) -> None:
    """Give the stored file of each variant that was benchmarked a name to be found by; hard links take no room."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            # to copy would write into the stored file that it is a link to
            raise
        except OSError:
            # a file system without hard links
            shutil.copyfile(source, target)

    with beside(folder) as scratch:
        models = scratch / folder.name
        models.mkdir()
        for variant in variants:
            if not variant.benchmark or variant.artifact is None:
                continue
            source = store.get(variant.artifact)
            target = models / (variant.name.replace("/", "-") + source.suffix)
            # ONNX with external data
            if source.is_dir():
                shutil.copytree(source, target, copy_function=link)
            else:
                link(str(source), str(target))
        replace(models, folder)


def _publish(run: Run, result: Result) -> None:
    """Put the run's tables, files and report where a person looks for them, and show them in Prefect."""
    from flows import artifacts, damage, report

    out, store = Path(run.context.out), Store(Path(run.context.out) / "store")
    tables.publish({name: store.get(a) for name, a in result.tables.items()}, out, run.context.run)
    for name, artifact in result.files.items():
        copy(store.get(artifact), run.folder / name)
    _keep_models(run.variants, store, run.folder / "models")
    if result.failures:
        raise Unfinished("not published: " + "; ".join(result.failures))
    write_text(
        run.folder / "result.json",
        json.dumps(result.model_dump(include={"winner", "reason", "cautions", "sentences"}), indent=1),
    )
    damage.record(out, run.context.run)
    page = report.render(out, run.context.run)
    with without_server(LOG, "the run's artifacts are not shown there"):
        artifacts.publish(run.study, run.context.run, result, page)


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
    _publish(run, result)
    LOG.info("report: %s", run.folder / "report.html")
    liveness.finish_current()
    FINISHED.append(run.context.run)
    return result
