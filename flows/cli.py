"""The `burnish` command. Nothing heavy is imported before a run needs it: --help and presets answer at once."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, get_args

from flows.settings import Mistake, load, to_toml
from tasks.records import StageName
from tasks.space import DiskFull, check_database, watched

if TYPE_CHECKING:
    from types import FrameType

    from tasks.records import Study

# Before Prefect is imported: its own limit for a first start is too short, and what it tells is told by us.
PREFECT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "burnish",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DO_NOT_TRACK": "1",
}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="burnish",
        description="From images and a classifier to its fastest deployable form that is still accurate enough.",
    )
    parser.add_argument("--version", action="version", version=f"burnish {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a study on this machine")
    run.add_argument("study", metavar="PRESET|FILE.toml", help="a preset (see `burnish presets`) or a study as TOML")
    run.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
                     help="change a setting by its dotted key, e.g. train.epochs=3; may be repeated")  # fmt: skip
    _scale_argument(run)
    run.add_argument("--again", action="append", default=[], metavar="STAGE", choices=get_args(StageName),
                     help="compute a stage although its result is stored, e.g. benchmark; may be repeated")  # fmt: skip
    run.add_argument("--out", default="artifacts", metavar="DIR", help="where artifacts go (default: %(default)s)")
    run.set_defaults(do=_run)

    commands.add_parser("presets", help="list the presets").set_defaults(do=_presets)

    show = commands.add_parser("show", help="print a preset as TOML, ready to edit and run")
    show.add_argument("study", metavar="PRESET|FILE.toml")
    show.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as for run")
    _scale_argument(show)
    show.set_defaults(do=_show)

    _bench_arguments(commands.add_parser("bench", help="measure and compare model files of your own"))

    _profile_arguments(
        commands.add_parser("profile", help="show where the time of a model goes, and why it is not faster")
    )

    deploy = commands.add_parser("deploy", help="write the winner of a run as a folder that serves it over HTTP")
    deploy.add_argument("run", nargs="?", metavar="RUN", help="name of a run (default: the newest)")
    deploy.add_argument("--to", required=True, metavar="DIR", help="folder to write")
    deploy.add_argument("--variant", metavar="NAME", help="another variant of the run than its winner")
    deploy.add_argument("--out", default="artifacts", metavar="DIR", help="where artifacts are (default: %(default)s)")
    deploy.set_defaults(do=_deploy)

    report = commands.add_parser("report", help="write a run's report anew from its tables, and print its path")
    why = commands.add_parser("why", help="say for each task of a run: hit or computed, and what differed")
    for command, do in ((report, _report), (why, _why)):
        command.add_argument("run", nargs="?", metavar="RUN", help="name of a run (default: the newest)")
        command.add_argument(
            "--out", default="artifacts", metavar="DIR", help="where artifacts are (default: %(default)s)"
        )
        command.set_defaults(do=do)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("burnish")
    except importlib.metadata.PackageNotFoundError:  # python -m flows.cli in a checkout
        return "(not installed)"


def _scale_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--scale", choices=("smoke", "cpu", "full"),
                         help="of a published study: minutes on digits (default), an evening on a CPU, one GPU")  # fmt: skip


def _numbers(text: str) -> tuple[int, ...]:
    """Positive integers, e.g. 1,8 or 3x224x224."""
    numbers = tuple(int(part) for part in text.replace("x", ",").split(","))
    if min(numbers) < 1:
        raise ValueError
    return numbers


def _positive(text: str) -> float:
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


# What argparse calls them when they are refused.
_numbers.__name__, _positive.__name__ = "list of positive whole numbers", "positive number"
_count.__name__ = "positive whole number"


def _bench_arguments(bench: argparse.ArgumentParser) -> None:
    bench.add_argument(
        "files", nargs="+", metavar="FILE", help="ONNX, TorchScript, TensorRT engine, burnish's safetensors"
    )
    bench.add_argument("--runtime", default=(), type=lambda text: tuple(text.split(",")), metavar="NAME,...",
                       help="runtimes (default: the first by name that takes the file; files of tasks/runtimes)")  # fmt: skip
    bench.add_argument("--device", default="cpu", help="cpu, cuda:N or auto (default: %(default)s)")
    bench.add_argument("--batch", type=_numbers, metavar="N,...", help="batch sizes (default: the file's, or 1)")
    bench.add_argument("--input-shape", type=_numbers, metavar="N,...",
                       help="shape of one image where the file leaves it open, e.g. 3,224,224")  # fmt: skip
    bench.add_argument("--seconds", type=_positive, default=10.0,
                       help="least time that each is measured, over all rounds (default: %(default)g)")  # fmt: skip
    bench.add_argument("--rounds", type=int, choices=range(1, 101), default=10, metavar="N",
                       help="visits, each in a fresh process (default: %(default)d)")  # fmt: skip
    bench.add_argument("--minutes", type=_positive, help="time that everything together may take: fewer queries then")
    bench.add_argument("--threads", type=int, default=0, metavar="N", help="threads on a CPU (default: one a core)")
    bench.add_argument("--throughput", action="store_true", help="also measure throughput: several queries in flight")
    bench.add_argument("--json", action="store_true", help="print JSON instead of the table")
    bench.add_argument("--out", default="artifacts", metavar="DIR", help="where tables go (default: %(default)s)")
    bench.set_defaults(do=_bench)


def _bench(arguments: argparse.Namespace) -> None:
    from flows.bench import bench

    bench(arguments)


def _profile_arguments(show: argparse.ArgumentParser) -> None:
    show.add_argument(
        "target", nargs="?", metavar="VARIANT|FILE",
        help="a variant of a run (its report names them; default: its unpruned model in PyTorch), or a model file",
    )  # fmt: skip
    show.add_argument("--run", metavar="RUN", help="run that the variant is of (default: the newest)")
    show.add_argument("--runtime", metavar="NAME", help="runtime (default: the plainest that takes the file)")
    show.add_argument("--device", default="cpu", help="cpu, cuda:N or auto (default: %(default)s)")
    show.add_argument("--batch", type=_count, metavar="N", help="images a query (default: the file's, or 1)")
    show.add_argument("--threads", type=_count, metavar="N", help="threads on a CPU (default: one a core)")
    show.add_argument("--input-shape", type=_numbers, metavar="N,...",
                      help="shape of one image where the file leaves it open, e.g. 3,224,224")  # fmt: skip
    show.add_argument(
        "--queries", type=_count, default=20, metavar="N", help="queries to record (default: %(default)d)"
    )
    show.add_argument("--netron", action="store_true", help="then show the graph in netron, until Ctrl-C")
    show.add_argument("--out", default="artifacts", metavar="DIR", help="where artifacts are (default: %(default)s)")
    show.set_defaults(do=_profile)


def _profile(arguments: argparse.Namespace) -> None:
    from flows.profiling import run_profile

    run_profile(arguments, _newest)


def _deploy(arguments: argparse.Namespace) -> None:
    from flows.deploy import run_deploy

    run_deploy(arguments, _newest)


def _presets(arguments: argparse.Namespace) -> None:
    from flows.presets import presets

    known = presets()
    for name, function in known.items():
        print(f"{name:<{max(map(len, known))}}  {(function.__doc__ or '').strip().splitlines()[0]}")


def _show(arguments: argparse.Namespace) -> None:
    print(to_toml(load(arguments.study, arguments.settings, arguments.scale)), end="")


def _newest(out: Path, run: str | None, file: str) -> str:
    """The run asked for, or the newest, that has left `file`."""
    runs = sorted((p.parent.parent if p.is_dir() else p.parent for p in (out / "runs").glob(f"*/{file}")),
                  key=lambda p: p.stat().st_ctime)  # fmt: skip
    names = [p.name for p in runs]
    names = sorted(set(names), key=lambda name: name.rpartition("-")[0].rpartition("-")[2] + name.rpartition("-")[2])
    if not names:
        raise Mistake(f"no runs in {out / 'runs'}; start one with: burnish run quickstart")
    if run is not None and run not in names:
        raise Mistake(f"no run {run!r} in {out / 'runs'}; there is {', '.join(names[-5:])}")
    return run or names[-1]


def _report(arguments: argparse.Namespace) -> None:
    from flows import report

    out = Path(arguments.out)
    print(report.render(out, _newest(out, arguments.run, "study.toml")))


def _why(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    folder = out / "runs" / _newest(out, arguments.run, "study.toml") / "why"
    told = sorted((json.loads(p.read_text()) for p in folder.glob("*.json")), key=lambda t: t["at"])
    print(f"run {folder.parent.name}")
    for task in told:
        print(f"{task['outcome']:<9} {task['task']}")
        for reason in task["differs"]:
            print(f"{'':9}   {reason}")


def _run(arguments: argparse.Namespace) -> None:
    study = load(arguments.study, arguments.settings, arguments.scale)
    _reachable(study)
    check_database()
    for name, value in PREFECT.items():
        os.environ.setdefault(name, value)
    from flows.console import shown

    with shown():
        from flows.study import run_study

        run = run_study(study, arguments.out, tuple(arguments.again))
    from flows import published, report
    from tasks import tables
    from tasks.published import images_here

    out = Path(arguments.out)
    if study.published:
        print(published.text(published.compare(study.published, report.tables_of(out, run)), report.terminal_width()))
    summary, datasets = (tables.read(out, name, run).collect() for name in ("summary", "datasets"))
    compared = study.select.batch_size or min(study.benchmark.batch_sizes)
    report.print_table(summary.filter(summary["batch_size"] == compared), compared, images_here({"datasets": datasets}))
    folder = Path(arguments.out) / "runs" / run
    told = json.loads((folder / "result.json").read_text())
    print(f"\n{'winner: ' if told['winner'] else ''}{told['reason']}\nreport: {folder / 'report.html'}")


def _reachable(study: Study) -> None:
    """Images that are named by a path are looked for before anything is started."""
    from tasks.datasets import open_source

    if study.data.path and study.data.source in ("parquet", "folder", "tiny_imagenet"):
        try:
            _ = open_source(study.data).classes
        except ValueError as error:
            raise Mistake(f"data.path: {str(error).removeprefix('data.path: ')}") from None


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 failed, 2 the user's mistake, 130 interrupted, 143 terminated."""
    arguments = _arguments().parse_args(argv)
    # By an exception, so that what was started ends too. Prefect takes the signal first, and sends it again when it is done.
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with watched(getattr(arguments, "out", ".")):
            arguments.do(arguments)
    except DiskFull as error:
        print(f"burnish: {error}", file=sys.stderr)
        return 1
    except (Mistake, ValueError) as error:  # ValueError: what a stage says of the user's data
        print(f"burnish: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("burnish: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except SystemExit:
        print("burnish: terminated; the same command goes on where it stopped", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        if os.environ.get("BURNISH_TRACEBACK"):
            raise
        print(f"burnish: failed: {type(error).__name__}: {error}\n(BURNISH_TRACEBACK=1 shows where)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
