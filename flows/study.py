"""The flow: it checks a study, calls its stages through a run, and publishes what they return."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed

from flows import logs
from flows.devices_here import refuse_missing
from flows.given_files import refuse_unreadable
from flows.orchestration import liveness
from flows.orchestration.started import as_started, is_deployed, of_deployment
from flows.plan import Plan, planned
from flows.presets import quickstart
from flows.run import LOG, Run, publish
from flows.runs.folders import refuse_out, refuse_within_images
from flows.runs.unfinished import failure, under_way
from flows.settings import to_toml
from flows.terminal.conclusion import in_one_line
from flows.terminal.supervisor import note
from models import check_gelu, check_weights
from tasks import machine
from tasks.ablate import ablate_task
from tasks.adopt import adopt_task
from tasks.aggregate import aggregate_task
from tasks.augment import augment_task
from tasks.benchmark import benchmark_task
from tasks.build import build_task
from tasks.caching.sweep import sweep
from tasks.choose import choose_task
from tasks.configure import configure_task
from tasks.export import export_task
from tasks.inspect import inspect_task
from tasks.label import label_task
from tasks.machine.files import write_text
from tasks.prepare import prepare_task
from tasks.prune import prune_task
from tasks.qat import qat_task
from tasks.quantize import quantize_task
from tasks.rank import rank_task
from tasks.records import Result, StageName, Study
from tasks.search import search_task
from tasks.serve import serve_task
from tasks.train import train_task
from tasks.tune import tune_task

logs.tidy_errors()
DEFAULT = quickstart()
"""What the form in the Prefect UI starts from."""
TASKS = {
    task.name: task
    for task in (
        inspect_task,
        label_task,
        prepare_task,
        adopt_task,
        ablate_task,
        train_task,
        tune_task,
        augment_task,
        prune_task,
        export_task,
        quantize_task,
        qat_task,
        build_task,
        rank_task,
        search_task,
        choose_task,
        configure_task,
        benchmark_task,
        serve_task,
        aggregate_task,
    )
}
"""Name of a stage -> its Prefect task. flows/steps.py says in which order they are called, and with which inputs."""
FINISHED: list[str] = []
"""Names of this process's runs whose results are all on disk. Prefect's server may not know of it."""


def _run_name() -> str:
    """Return a flow run's name: that which a person gave to a run of the deployment, else the study's."""
    context = FlowRunContext.get()
    # Prefect calls this function inside the flow run.
    assert context is not None and context.flow_run is not None
    named_by_person = context.flow_run.deployment_id is not None and not context.flow_run.auto_scheduled
    return str(context.flow_run.name if named_by_person else (context.parameters or {})["study"].name)


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
        # It is not raised: Prefect would log it twice more, and the state says it in one line.
        return Failed(data=error, message=_message(error))  # type: ignore[return-value]
    return Completed(data=run, message=in_one_line(result))  # type: ignore[return-value]


def _message(error: Exception) -> str:
    """Return why a study failed, with the advice that fits how it was started."""
    return of_deployment(failure(error)) if is_deployed() else failure(error)


def _finished(study: Study, out: str, again: tuple[StageName, ...]) -> tuple[str, Result]:
    """Run a study to its end and return the run's name and its result."""
    # A study from a form or a deployment was not checked by the command line.
    refuse_out("out", out)
    refuse_within_images("out", out, study.data.path)
    machine.keep_to_quota()
    refuse_unreadable(study)
    for model in study.models:
        if model.pretrained is not None:
            # A file that cannot be read is an error before anything is computed.
            check_weights(model.pretrained)
        if model.gelu is not None:
            # So is a replacement of GELU that the model cannot have.
            check_gelu(model.name)
    plan = planned(study)
    refuse_missing(plan.study)
    run = Run(plan.study, out, again)
    with under_way(run.folder):
        return run.context.run, _results(run, study, plan)


def _results(run: Run, study: Study, plan: Plan) -> Result:
    """Run the planned study, publish its results and return them. `study` is the one that the user asked for."""
    sweep(Path(run.context.out), LOG)
    LOG.info("run %s, artifacts in %s", run.context.run, run.context.out)
    write_text(run.folder / "study.toml", to_toml(study))
    write_text(run.folder / "environment.json", json.dumps({**machine.environment(), "auto": plan.chosen}, indent=1))
    for setting, value in plan.chosen.items():
        LOG.info("%s: auto is %s", setting, value)

    def publish_first(result: Result) -> None:
        """Publish the first answer. It is what a person has who interrupts the search."""
        publish(run, as_started(result))
        page = run.folder / "report.html"
        LOG.info("first answer: %s", in_one_line(result))
        LOG.info("report: %s; the search for something faster goes on", page)
        note(f"the first answer stands in {page}: {in_one_line(result)}")

    result: Result = run.walk(TASKS, publish_first)
    result = as_started(result).model_copy(update={"sentences": (*result.sentences, *run.sentences)})
    publish(run, result)
    note("")
    LOG.info("report: %s", run.folder / "report.html")
    liveness.finish_current()
    FINISHED.append(run.context.run)
    return result
