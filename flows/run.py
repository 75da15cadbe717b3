"""One run of a study: it calls stages, collects their rows and makes a failed stage a row."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.progress import Progress
from flows.runs.unfinished import Unfinished
from tasks import tables
from tasks.caching.limits import without_server
from tasks.caching.stage import call
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.machine.causes import cause
from tasks.machine.devices import Unavailable
from tasks.machine.durable import sync
from tasks.machine.files import beside, copy, make_folder, replace, write_text
from tasks.machine.space import DiskFull
from tasks.records import Artifact, Context, Model, Output, Result, StageName, Study, Variant
from tasks.tables.variants import variant_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prefect import Task


LOG = logging.getLogger("burnish")


class Run:
    """One run of a study: calls stages, collects their rows, turns a failed stage into a failed variant."""

    def __init__(self, study: Study, out: str, again: tuple[StageName, ...] = ()) -> None:
        self.study = study
        self.context = Context(out=str(Path(out).absolute()), run=new_run(Path(out), study.name), again=again)
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
        self.progress.begin(made.name, model_of(inputs), label)
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


def new_run(out: Path, name: str) -> str:
    """A run's name, its folder made: <study>-<date>-<time>."""
    while True:
        run = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            (make_folder(out / "runs") / run).mkdir()
        except FileExistsError:
            time.sleep(0.5)
        else:
            sync(out / "runs")
            return run


def model_of(inputs: dict[str, Any]) -> str:
    """Label of the model that a stage is run for; empty for a stage that is run once."""
    if "model" in inputs:
        return inputs["model"].label
    return inputs["parent"].model if "parent" in inputs else ""


def failed_variant(
    name: str, model: Model, stage: str, parent: str | None = None, format: str = "safetensors"
) -> Variant:
    return Variant(
        name=name, model=model.label, stage=stage, parent=parent, format=format, status="failed", error="unknown"
    )


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


def publish(run: Run, result: Result) -> None:
    """Put the run's tables, files and report where a person looks for them, and show them in Prefect."""
    from flows.orchestration import artifacts
    from flows.report import page as report
    from flows.runs import damage

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
