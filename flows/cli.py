"""The `burnish` command. Nothing heavy is imported before a run needs it: --help and presets answer at once."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flows.arguments import parser
from flows.damage import Damaged, check, check_profiles
from flows.folders import refuse_unusable
from flows.server import Lost
from flows.settings import Mistake, load, one_line, repeated, to_toml
from flows.standard import too_many_files
from flows.supervisor import farewell
from tasks.machine.space import DiskFull, watched

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType

    from tasks.records import Study


def _bench(arguments: argparse.Namespace) -> None:
    from flows.bench import bench

    bench(arguments)


def _profile(arguments: argparse.Namespace) -> None:
    from flows.profiling import run_profile

    run_profile(arguments, _newest)


def _deploy(arguments: argparse.Namespace) -> None:
    from flows.deploy import run_deploy

    run_deploy(arguments, _newest)


def _ui(arguments: argparse.Namespace) -> None:
    from flows.ui import ui

    ui(arguments.port, Path(arguments.out))


def _presets(arguments: argparse.Namespace) -> None:
    from flows.presets import listed, presets

    print(listed(presets(), shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


def _show(arguments: argparse.Namespace) -> None:
    print(to_toml(_asked(arguments, ())), end="")


def _asked(arguments: argparse.Namespace, skip: Sequence[str]) -> Study:
    """The study that the command line asks for."""
    study = load(arguments.study, arguments.settings, arguments.scale, skip)
    for told in repeated(arguments.settings):
        print(f"burnish: {told}", file=sys.stderr)
    return study


def _newest(out: Path, run: str | None, file: str) -> str:
    """The run asked for, or the newest, that has left `file`."""
    from flows.unfinished import unfinished

    able, begun = _runs(out, file), _runs(out, "study.toml")
    if not able and not begun:
        raise Mistake(f"no runs in {out / 'runs'}; start one with: burnish run quickstart")
    wanted = run or (able or begun)[-1]
    if wanted in able:
        return wanted
    if wanted in begun:
        raise Mistake(unfinished(out, wanted))
    raise Mistake(f"no run {run!r} in {out / 'runs'}; there is {', '.join((able or begun)[-5:])}")


def _runs(out: Path, file: str) -> list[str]:
    """Runs that have left a file, the newest last."""
    names = {path.parent.name for path in (out / "runs").glob(f"*/{file}")}
    return sorted(names, key=lambda name: name.rpartition("-")[0].rpartition("-")[2] + name.rpartition("-")[2])


def _report(arguments: argparse.Namespace) -> None:
    from flows import report
    from flows.unfinished import unfinished

    out = Path(arguments.out)
    run = _newest(out, arguments.run, "study.toml")
    if told := unfinished(out, run):
        print(f"burnish: {one_line(told)}", file=sys.stderr)
    check(out, run)
    check_profiles(out, run)
    print(report.render(out, run))


def _why(arguments: argparse.Namespace) -> None:
    from flows.so_far import stages

    out = Path(arguments.out)
    run = _newest(out, arguments.run, "study.toml")
    told = stages(out, run)
    print(f"run {run}")
    for task in told:
        print(f"{task['outcome']:<9} {task['task']}")
        for reason in task["differs"]:
            print(f"{'':9}   {reason}")


def _run(arguments: argparse.Namespace) -> None:
    from flows.devices_here import refuse_missing
    from flows.plan import planned

    study = _asked(arguments, arguments.skip)
    _reachable(study)
    # What `auto` stands for here goes together with the other settings, or that is said at once; so of devices.
    refuse_missing(planned(study).study)
    from flows.console import shown
    from flows.server import connected, outcome

    with shown(), connected(Path(arguments.out)) as server:
        from flows import charts
        from flows import study as flow

        # while the server starts
        charts.warm_up()
        run = outcome(server, flow.FINISHED, lambda: flow.run_study(study, arguments.out, tuple(arguments.again)))
    from flows import published, report
    from flows.conclusion import conclusion, held_out
    from tasks import tables
    from tasks.published import images_here

    out = Path(arguments.out)
    if study.published:
        print(published.text(published.compare(study.published, report.tables_of(out, run)), report.terminal_width()))
    summary, datasets = (tables.read(out, name, run).collect() for name in ("summary", "datasets"))
    compared = study.select.batch_size or min(study.benchmark.batch_sizes)
    report.print_table(
        summary.filter(summary["batch_size"] == compared),
        compared,
        held_out(datasets, images_here({"datasets": datasets})),
    )
    width = report.terminal_width() if sys.stdout.isatty() else None
    print(f"\n{conclusion(out / 'runs' / run, width, colour=sys.stdout.isatty())}")


def _reachable(study: Study) -> None:
    """Images that are named by a path are looked for before anything is started."""
    from tasks.datasets import open_source
    from tasks.datasets._find import resolve
    from tasks.datasets._told import refuse_lost

    if study.data.path:
        try:
            data = resolve(study.data)
            source = open_source(data)
            # which would be downloaded
            if not data.source.startswith("cifar"):
                refuse_lost(source.images, data)
        except ValueError as error:
            where = "" if str(error).startswith("data.") else "data.path: "
            raise Mistake(f"{where}{error}") from None


def _completion(arguments: argparse.Namespace) -> None:
    from flows.completion import completion

    print(completion(parser(DO), arguments.shell))


DO = {
    "run": _run,
    "presets": _presets,
    "show": _show,
    "ui": _ui,
    "bench": _bench,
    "profile": _profile,
    "deploy": _deploy,
    "report": _report,
    "why": _why,
    "completion": _completion,
}
"""Name of a command -> what carries it out."""


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 failed, 2 the user's mistake, 128 + a signal's number ended by
    it."""
    arguments = parser(DO).parse_args(argv)
    # before Prefect is imported: its client shows a notice otherwise
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # By an exception, so that what was started ends too. Prefect takes the signal first, and sends it again when it is
    # done.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        refuse_unusable(arguments)
        with watched(getattr(arguments, "out", ".")):
            arguments.do(arguments)
    except ValueError as error:
        # a Mistake, or what a stage says of the user's data
        print(f"burnish: {one_line(error)}", file=sys.stderr)
        return 2
    except (Damaged, DiskFull, Lost) as error:
        print(f"burnish: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(farewell(), file=sys.stderr)
        return 130
    except SystemExit:
        print(farewell(), file=sys.stderr)
        raise
    except Exception as error:
        if os.environ.get("BURNISH_TRACEBACK"):
            raise
        told = too_many_files(error) or f"{type(error).__name__}: {error}\n(BURNISH_TRACEBACK=1 shows where)"
        print(f"burnish: failed: {told}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from flows.__main__ import main as supervised

    sys.exit(supervised())
