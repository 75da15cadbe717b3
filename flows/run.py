"""One run of a study: it calls the steps, collects the rows that they write, and makes a row of a step that failed."""

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
from flows.searching import TIME_IS_OVER, best_so_far, needless, without_trials
from flows.step import FailedVariant, Fragments, ResultOf, ResultsOf, Variants
from flows.steps import steps
from flows.terminal.supervisor import note
from tasks import tables
from tasks.caching.keys import digest
from tasks.caching.limits import without_server
from tasks.caching.results import Results
from tasks.caching.stage import call
from tasks.caching.store import Store
from tasks.caching.work import Work
from tasks.machine.causes import cause
from tasks.machine.devices import Unavailable
from tasks.machine.durable import sync
from tasks.machine.files import beside, copy, make_folder, replace, write_text
from tasks.machine.space import DiskFull
from tasks.records import Artifact, Context, Forms, Output, Result, StageName, Study, Variant
from tasks.tables.variants import variant_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prefect import Task

    from flows.step import Step

LOG = logging.getLogger("burnish")
FIRST = " (first answer)"
"""How the labels of the steps end that measure for the first answer."""


class Run:
    """One run of a study. Making it creates the run's folder."""

    def __init__(self, study: Study, out: str, again: tuple[StageName, ...] = ()) -> None:
        self.study = study
        self.context = Context(out=str(Path(out).absolute()), run=new_run(Path(out), study.name), again=again)
        self.folder = Path(self.context.out) / "runs" / self.context.run
        self.fragments: dict[str, list[Artifact]] = {}
        """Name of a table -> its fragments, in the order in which the steps wrote them."""
        self.first_fragments: dict[str, list[Artifact]] = {}
        """The same of the steps of the first answer, which the last answer replaces."""
        self.variants: list[Variant] = []
        """Variants that go on to the benchmark, failed ones included."""
        self.progress = Progress(study, steps(study), Path(self.context.out))
        self.searches_ended: dict[str, str] = {}
        """Label of a model -> why its search ended before its last trial, in words."""
        self.ended = ""
        """How many of all steps have ended, in words."""
        self.error: Exception | None = None
        """The first failure of a step after which the study went on."""

    def walk(self, tasks: Mapping[str, Task[..., Any]], answered: Callable[[Result], None]) -> Any:
        """Call every step whose inputs are there, and return the result of the last one.

        Parameters
        ----------
        tasks
            Name of a stage -> its Prefect task.
        answered
            Called with the first answer, where the study goes on to search for a better one.
        """
        result = None
        while self.progress.waiting:
            step = self.progress.waiting[0]
            reason = needless(step, self.study, self.progress)
            inputs = {name: self._input(value, step) for name, value in step.inputs.items()}
            if reason and not (reason == TIME_IS_OVER and self._is_stored(tasks[step.stage], inputs)):
                self._leave_out(step, reason)
                continue
            if step.measures:
                self.variants.append(inputs[step.measures])
            result = self._attempt(step, tasks[step.stage], inputs)
            if step.first and isinstance(result, Result):
                answered(result)
            if step.stage in ("search", "rank"):
                note(best_so_far(self.study, self.progress.results, self.folder / "report.html"))
        return result

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is to be said of this run beside its result."""
        said = without_trials(self.progress.plan, self.progress.results, self.searches_ended)
        return (said,) if said else ()

    def _is_stored(self, task: Task[..., Any], inputs: dict[str, Any]) -> bool:
        """Return whether an earlier run has computed a step, so that it takes no time."""
        about = task.about  # type: ignore[attr-defined]
        if task.name in self.context.again:
            return False
        return Results(self.context.out).version(digest(about.parts(inputs))) is not None

    def _leave_out(self, step: Step, reason: str) -> None:
        """Leave out a step of the search. It is said once for the trials of one model."""
        self.progress.leave_out(step)
        if step.stage != "search":
            LOG.debug("%s: left out: %s", step.name, reason)
        elif step.model not in self.searches_ended:
            self.searches_ended[step.model] = reason
            LOG.info("%s: the search ends: %s", step.model, reason)

    def _input(self, value: Any, step: Step) -> Any:
        """Return the input that the plan means: the value itself, or what it says where to take from."""
        if isinstance(value, (ResultOf, ResultsOf)):
            return value.taken_from(self.progress.results)
        if isinstance(value, Fragments):
            written = self.fragments | (self.first_fragments if step.first else {})
            names = written if value.tables is None else value.tables
            return {name: tuple(written[name]) for name in names}
        return self._measurable() if isinstance(value, Variants) else value

    def _measurable(self) -> tuple[Variant, ...]:
        """Return the variants that go on to the benchmark, failed ones included.

        Raises
        ------
        ValueError, Unfinished
            If none of them can be measured. It is a ValueError where the first failure was one, about the settings.
        """
        if not any(variant.status == "ok" and variant.benchmark for variant in self.variants):
            first = self.variants[0]
            reason = f"no variant to measure: {first.name}: {first.error}"
            kind = ValueError if isinstance(self.error, ValueError) else Unfinished
            raise kind(reason) from self.error
        return tuple(self.variants)

    def _attempt(self, step: Step, task: Task[..., Any], inputs: dict[str, Any]) -> Any:
        """Call a step and return its result.

        Where it fails and the study can go on without it, write a row for what it would have made, and return None.
        """
        try:
            return self._call(step, task, inputs)
        except DiskFull:
            # No later result could be written. The same command continues here when there is room.
            raise
        except Exception as error:
            # This is the only place where a study goes on after an error: it is logged, and becomes a row.
            if step.failed is None:
                raise
            self.error = self.error or error
            self._note_failure(step, task, inputs, error)
            return None

    def _call(self, step: Step, task: Task[..., Any], inputs: dict[str, Any]) -> Any:
        """Call a step, log how long it took, and collect the fragments and variants that it returns."""
        about = task.about  # type: ignore[attr-defined]
        label = about.label_of(inputs) + (FIRST if step.first else "")
        computed_before = about.computed
        started = time.monotonic()
        self.progress.begin(step, label)
        try:
            result = call(task, self.context, FIRST if step.first else "", **inputs)
        except Exception:
            self.ended = self.progress.end(None, computed=False)
            raise
        computed = about.computed > computed_before
        self.ended = self.progress.end(result, computed=computed)
        seconds = f"done in {time.monotonic() - started:.1f} s" if computed else "cached"
        LOG.info("%s: %s %s", self.ended, label, seconds)
        self._collect(result, first=step.first)
        return result

    def _collect(self, result: Output, *, first: bool = False) -> None:
        fragments = self.first_fragments if first else self.fragments
        for table, artifact in result.tables.items():
            fragments.setdefault(table, []).append(artifact)
        if isinstance(result, Forms):
            self.variants.extend(result.variants)

    def _note_failure(self, step: Step, task: Task[..., Any], inputs: dict[str, Any], error: Exception) -> None:
        """Log a failure, and write the row for what the step would have made.

        The step is `skipped` where this machine cannot run it, else `failed`.
        """
        status = "skipped" if isinstance(error, Unavailable) else "failed"
        # The message of a ValueError is complete: it is about the user's settings or data.
        complete = isinstance(error, (Unavailable, ValueError))
        reason = str(error).splitlines()[0] if complete else f"{type(error).__name__}: {cause(error)}"
        level = logging.WARNING if status == "skipped" else logging.ERROR
        LOG.log(level, "%s: %s %s: %s", self.ended, task.about.label_of(inputs), status, reason)  # type: ignore[attr-defined]
        if isinstance(step.failed, FailedVariant):
            variant = step.failed.of(inputs, status, reason)
            self.variants.append(variant)
            table, row = "variants", variant_row(variant)
        elif not step.failed:
            return
        else:
            table, row = "ablations", {**(step.failed or {}), "status": status, "error": reason}
        work = Work(Store(Path(self.context.out) / "store"), self.folder)
        self._collect(Output(tables={table: work.rows(table, [row])}))


def new_run(out: Path, name: str) -> str:
    """Make the folder of a run in `<out>/runs`, and return the run's name: <study>-<date>-<time>."""
    while True:
        run = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            (make_folder(out / "runs") / run).mkdir()
        except FileExistsError:
            time.sleep(0.5)
        else:
            sync(out / "runs")
            return run


def _keep_models(variants: Iterable[Variant], store: Store, folder: Path) -> None:
    """Put the file of each variant that was benchmarked into a folder under its name, as a hard link to the store."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            # The target is a link to a stored file, and copying would write into that file.
            raise
        except OSError:
            # The file system has no hard links.
            shutil.copyfile(source, target)

    with beside(folder) as scratch:
        models = scratch / folder.name
        models.mkdir()
        for variant in variants:
            if not variant.benchmark or variant.artifact is None:
                continue
            source = store.get(variant.artifact)
            target = models / (variant.name.replace("/", "-") + source.suffix)
            # ONNX with external data is a folder.
            if source.is_dir():
                shutil.copytree(source, target, copy_function=link)
            else:
                link(str(source), str(target))
        replace(models, folder)


def publish(run: Run, result: Result) -> None:
    """Put the run's tables, files, models and report where a person looks for them, and show them in Prefect.

    Raises
    ------
    Unfinished
        If tables do not meet their expectations. The others are published.
    """
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
