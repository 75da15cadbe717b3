"""`burnish run`: a study on this machine, from its images to its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.arguments import study_of
from flows.settings import Mistake

if TYPE_CHECKING:
    import argparse

    from tasks.records import Study


def main(arguments: argparse.Namespace) -> None:
    """Run the study that the command line names, then print its table and its winner."""
    from flows.devices_here import refuse_missing
    from flows.plan import planned

    study = study_of(arguments)
    refuse_missing_images(study)
    # What `auto` stands for here goes together with the other settings, or that is said at once; so of devices.
    refuse_missing(planned(study).study)
    from flows.orchestration.server import connected, outcome
    from flows.terminal.console import shown

    out = Path(arguments.out)
    with shown(), connected(out) as server:
        from flows import study as flow
        from flows.report import drawing

        # while the server starts
        drawing.warm_up()
        run = outcome(server, flow.FINISHED, lambda: flow.run_study(study, arguments.out, tuple(arguments.again)))
    _print_results(study, out, run)


def refuse_missing_images(study: Study) -> None:
    """Look for images that are named by a path, before anything is started.

    Raises
    ------
    Mistake
        If they are not there, or are none that can be read.
    """
    from tasks.datasets import open_source
    from tasks.datasets._find import resolve
    from tasks.datasets._told import refuse_lost

    if not study.data.path:
        return
    try:
        data = resolve(study.data)
        source = open_source(data)
        # A torchvision set would be downloaded.
        if not data.source.startswith("cifar"):
            refuse_lost(source.images, data)
    except ValueError as error:
        where = "" if str(error).startswith("data.") else "data.path: "
        raise Mistake(f"{where}{error}") from None


def _print_results(study: Study, out: Path, run: str) -> None:
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
    )
    width = terminal.terminal_width() if sys.stdout.isatty() else None
    print(f"\n{conclusion(out / 'runs' / run, width, colour=sys.stdout.isatty())}")
