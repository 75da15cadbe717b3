"""`burnish run`: run a study on this machine, from its images to its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.arguments import study_of
from flows.settings import Mistake

if TYPE_CHECKING:
    import argparse

    from tasks.records import StageName, Study


def main(arguments: argparse.Namespace) -> None:
    """Run the study that the command line names, then print its table and its winner."""
    execute(study_of(arguments), arguments.out, tuple(arguments.again))


def execute(study: Study, folder: str, again: tuple[StageName, ...] = ()) -> None:
    """Run a study, then print its table and its winner.

    Parameters
    ----------
    folder
        The artifacts folder.
    again
        Stages that are computed although their results are stored.
    """
    from flows.devices_here import refuse_missing
    from flows.given_files import refuse_unreadable
    from flows.plan import planned
    from flows.runs.folders import refuse_within_images

    refuse_unreadable(study)
    refuse_missing_images(study)
    refuse_within_images("--out", folder, study.data.path)
    # A missing device, or an `auto` that does not fit the other settings here, is refused before anything starts.
    refuse_missing(planned(study).study)
    from flows.orchestration.server import connected, outcome
    from flows.terminal.console import shown

    out = Path(folder)
    with shown(), connected(out) as server:
        from flows import study as flow
        from flows.report import drawing

        # This takes seconds, in which the server starts.
        drawing.warm_up()
        run = outcome(server, flow.FINISHED, lambda: flow.run_study(study, folder, again))
    _print_results(study, out, run)


def refuse_missing_images(study: Study) -> None:
    """Check that the images which the study names by a path exist, before anything is started.

    Raises
    ------
    Mistake
        If there are no images at the path, or none that can be read.
    """
    from tasks.datasets import open_source
    from tasks.datasets._find import resolve
    from tasks.datasets._notes import refuse_lost

    if not study.data.path:
        return
    try:
        data = resolve(study.data)
        source = open_source(data)
        # CIFAR as torchvision has it is left out: looking at its images would download them.
        if not data.source.startswith("cifar"):
            refuse_lost(source.images, data)
    except ValueError as error:
        where = "" if str(error).startswith("data.") else "data.path: "
        raise Mistake(f"{where}{error}") from None


def _print_results(study: Study, out: Path, run: str) -> None:
    """Print the comparison with the published study, if there is one, then the summary and its last lines."""
    from flows.report import published, terminal
    from flows.report.page import tables_of
    from flows.terminal.conclusion import conclusion, held_out
    from tasks import tables
    from tasks.published import images_here

    if study.published:
        print(published.text(published.compare(study.published, tables_of(out, run)), terminal.terminal_width()))
    summary, datasets = (tables.read(out, name, run).collect() for name in ("summary", "datasets"))
    compared = study.select.batch_size or min(study.benchmark.batch_sizes)
    terminal.print_table(
        summary.filter(summary["batch_size"] == compared),
        compared,
        held_out(datasets, images_here({"datasets": datasets})),
        study.select,
        unlabelled=study.data.unlabelled,
    )
    width = terminal.terminal_width() if sys.stdout.isatty() else None
    print(f"\n{conclusion(out / 'runs' / run, width, colour=sys.stdout.isatty())}")
