"""The command line of `burnish`: its commands, their options, and their help, which has an example per command."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from typing import TYPE_CHECKING

from flows.commands import options
from flows.commands.options import NAMED
from flows.commands.trust import trust_argument
from flows.settings import load, repeated

if TYPE_CHECKING:
    from tasks.records import Study

RUNTIMES = ", ".join(NAMED)
SHELLS = ("bash", "zsh", "tcsh")
COMMANDS = {
    "run": "run a study on this machine",
    "optimize": "find the fastest form of a model that you have, within an accuracy budget",
    "presets": "list the presets",
    "show": "print a preset as TOML, ready to edit and run",
    "ui": "start Prefect's pages with all presets, ready to be run, until Ctrl-C",
    "bench": "measure and compare model files of your own",
    "profile": "show where the time of a model goes, and why it is not faster",
    "deploy": "write the winner of a run as a bundle, to use, verify and serve without burnish",
    "verify": "check that a bundle's model gives its golden outputs on this machine",
    "rebench": "measure a bundle's model on this machine, beside the original's figures",
    "report": "write a run's report anew from its tables, and print its path",
    "why": "say of each stage of a run whether it was computed or a hit, and why",
    "completion": "print a script that completes burnish's commands and options in a shell",
}
EXAMPLES = {
    "run": "burnish run quickstart --set data.path=photos/ --skip tune",
    "optimize": "burnish optimize model.onnx --data photos/ --max-drop 0.5",
    "presets": "burnish presets",
    "show": "burnish show quickstart > my-study.toml && burnish run my-study.toml",
    "ui": "burnish ui --port 4201",
    "bench": "burnish bench a.onnx a-int8.onnx --runtime onnxruntime,openvino --batch 1,8",
    "profile": "burnish profile model.onnx --runtime openvino --netron",
    "deploy": "burnish deploy --to served/ && cd served && python app.py",
    "verify": "burnish verify served/",
    "rebench": "burnish rebench served/ --seconds 30",
    "report": "burnish report --out /data/burnish",
    "why": "burnish why",
    "completion": "burnish completion bash > ~/.local/share/bash-completion/completions/burnish",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. What it returns has the command's name as `command`."""
    top = options.Parser(
        prog="burnish",
        description="From images and a classifier to its fastest deployable form that is still\naccurate enough.",
        epilog="for example:\n  burnish run quickstart\nburnish COMMAND --help has an example of its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"burnish {_version()}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands: dict[str, argparse.ArgumentParser] = {}
    for name, text in COMMANDS.items():
        commands[name] = subparsers.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"for example:\n  {EXAMPLES[name]}",
            # People copy the example, so it must stay on one line.
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    _run(commands["run"])
    _optimize(commands["optimize"])
    _study(commands["show"])
    _ui(commands["ui"])
    _bench(commands["bench"])
    _profile(commands["profile"])
    _deploy(commands["deploy"])
    _bundle(commands["verify"])
    _rebench(commands["rebench"])
    for name in ("report", "why"):
        _run_name(commands[name])
        _out(commands[name], "folder in which the run is")
    commands["completion"].add_argument("shell", choices=SHELLS)
    return top


def study_of(arguments: argparse.Namespace) -> Study:
    """Return the study that a command line names, with `--set` and `--skip` applied.

    A warning on standard error names each setting that is given several times.
    """
    study = load(arguments.study, arguments.settings, arguments.scale, getattr(arguments, "skip", ()))
    for note in repeated(arguments.settings):
        print(f"burnish: {note}", file=sys.stderr)
    return study


def _version() -> str:
    try:
        return importlib.metadata.version("burnish")
    except importlib.metadata.PackageNotFoundError:
        # The command was started as `python -m flows` in a checkout.
        return "(not installed)"


def _out(command: argparse.ArgumentParser, text: str) -> None:
    """Add `--out`; `text` says in the help what the folder is for."""
    command.add_argument("--out", default="artifacts", metavar="DIR", help=f"{text} (default: %(default)s)")


def _run_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", nargs="?", metavar="RUN", help="name of a run (default: the newest)")


def _study(command: argparse.ArgumentParser) -> None:
    """Add the study, and the options that change it."""
    command.add_argument(
        "study", metavar="PRESET|FILE.toml", help="a preset (see `burnish presets`) or a study as TOML"
    )
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting by its dotted key, e.g. train.epochs=3; may be repeated",
    )
    command.add_argument(
        "--scale",
        choices=("smoke", "cpu", "full"),
        help="size of a published study: minutes on digits (default), an evening on a CPU, a GPU",
    )


def _run(run: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish run`."""
    _study(run)
    _again(run)
    run.add_argument(
        "--skip",
        action="extend",
        type=options.names,
        default=[],
        metavar="STAGE,...",
        help="leave stages out, e.g. build,tune; may be repeated",
    )
    _out(run, "folder for what runs leave")


def _again(command: argparse.ArgumentParser) -> None:
    """Add the option that computes stages anew."""
    command.add_argument(
        "--again",
        action="extend",
        type=options.stages,
        default=[],
        metavar="STAGE,...",
        help="compute stages anew although their results are stored; may be repeated",
    )


def _optimize(optimize: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish optimize`."""
    optimize.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="an ONNX file, an ONNX variant of a run, or timm:NAME or torchvision:NAME with its --weights; of several, "
        "the answer is chosen across all",
    )
    optimize.add_argument("--run", metavar="RUN", help="run that a variant is of (default: the newest)")
    optimize.add_argument(
        "--data", required=True, metavar="PATH", help="labelled images: a folder of classes, a Parquet file, a zip ..."
    )
    optimize.add_argument(
        "--unlabelled",
        action="store_true",
        help="the images have no labels: what counts is agreement with the model as it is given",
    )
    optimize.add_argument(
        "--max-drop",
        type=options.points,
        default=0.5,
        metavar="POINTS",
        help="percentage points of top-1 that may be lost (default: %(default)g)",
    )
    optimize.add_argument(
        "--minutes",
        type=options.minutes,
        metavar="M",
        help="minutes that the whole run may take; the search for faster forms ends in time (default: 15)",
    )
    _again(optimize)
    optimize.add_argument(
        "--for",
        dest="goal",
        choices=("latency", "throughput", "size", "memory"),
        default="latency",
        help="what the winner is best in (default: %(default)s)",
    )
    optimize.add_argument(
        "--latency-ms", type=options.milliseconds, metavar="MS", help="largest median latency that the winner may have"
    )
    optimize.add_argument(
        "--size-mb", type=options.megabytes, metavar="MB", help="largest file that the winner may have (MB: 10^6 bytes)"
    )
    optimize.add_argument(
        "--memory-mb", type=options.megabytes, metavar="MB", help="most memory that the winner may take while it runs"
    )
    optimize.add_argument(
        "--batch", type=options.batch, default=1, metavar="N", help="images per query (default: %(default)d)"
    )
    optimize.add_argument("--device", default="cpu", help="cpu, cuda:N or auto (default: %(default)s)")
    optimize.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="FILE",
        help="weights of a model that is given by its name; for several such models once per model, in their order "
        "(default: those of the hub)",
    )
    optimize.add_argument(
        "--image-size", type=options.count, metavar="N", help="height and width of the model's input, in pixels"
    )
    optimize.add_argument(
        "--resize", type=options.count, metavar="N", help="length of the shorter side before the centre crop, in pixels"
    )
    for name in ("mean", "std"):
        optimize.add_argument(
            f"--{name}",
            type=options.shares,
            metavar="X,...",
            help=f"{name} that the model was trained with, of pixels from 0 to 1; found out where it is not given",
        )
    optimize.add_argument("--order", choices=("rgb", "bgr", "grey"), help="order of the channels in the model's input")
    optimize.add_argument("--layout", choices=("nchw", "nhwc"), help="order of the axes of the model's input")
    optimize.add_argument(
        "--labels", metavar="FILE", help="text file with a class name per line, in the order of the model's outputs"
    )
    optimize.add_argument("--output", metavar="NAME", help="the model's output that has a score per class")
    optimize.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change any setting of the study by its dotted key; may be repeated",
    )
    _out(optimize, "folder for what runs leave")


def _ui(ui: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish ui`."""
    ui.add_argument(
        "--port", type=options.port, default=4200, metavar="N", help="port of the pages (default: %(default)d)"
    )
    _out(ui, "folder for what runs leave")


def _machine(command: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs a model file: threads, the device, the shape of an image, `--trust`."""
    command.add_argument(
        "--threads", type=options.threads, default=0, metavar="N", help="threads on a CPU (default: one per core)"
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda:N or auto (default: %(default)s)")
    command.add_argument(
        "--input-shape",
        type=options.numbers,
        metavar="N,...",
        help="shape of one image where the file leaves it open, e.g. 3,224,224",
    )
    trust_argument(command)


def _bench(bench: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish bench`."""
    bench.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="ONNX, TorchScript, OpenVINO (.xml), TensorRT engine, burnish's safetensors",
    )
    bench.add_argument(
        "--reference", metavar="FILE", help="file that the others are compared with (default: the first)"
    )
    bench.add_argument(
        "--runtime",
        action="extend",
        type=options.names,
        default=[],
        metavar="NAME,...",
        help=f"one or more of {RUNTIMES} (default: the first of these that takes the file); may be repeated",
    )
    bench.add_argument(
        "--batch",
        action="extend",
        type=options.batches,
        default=[],
        metavar="N,...",
        help="batch sizes (default: the file's, or 1); may be repeated",
    )
    _effort(bench)
    bench.add_argument(
        "--throughput", action="store_true", help="measure throughput too, with several queries in flight"
    )
    _machine(bench)
    bench.add_argument("--json", action="store_true", help="print JSON instead of the table")
    _out(bench, "folder for tables")


def _effort(command: argparse.ArgumentParser) -> None:
    """Add the options that say how long a file is measured."""
    command.add_argument(
        "--seconds",
        type=options.seconds,
        default=10.0,
        help="least time for which each file is measured, all rounds together (default: %(default)g)",
    )
    command.add_argument(
        "--rounds",
        type=options.rounds,
        default=10,
        metavar="N",
        help="rounds, each in fresh processes, from 1 to 100 (default: %(default)d)",
    )
    command.add_argument(
        "--minutes",
        type=options.minutes,
        help="minutes that everything together may take; fewer queries are measured then",
    )


def _profile(profile: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish profile`."""
    profile.add_argument(
        "target",
        nargs="?",
        metavar="VARIANT|FILE",
        help="a variant of a run (its report names them; default: its unpruned model in PyTorch), or a model file",
    )
    profile.add_argument("--run", metavar="RUN", help="run that the variant is of (default: the newest)")
    profile.add_argument(
        "--runtime", metavar="NAME", help=f"one of {RUNTIMES} (default: the plainest that takes the file)"
    )
    profile.add_argument(
        "--batch", type=options.batch, metavar="N", help="images per query (default: the file's, or 1)"
    )
    profile.add_argument(
        "--queries",
        type=options.count,
        default=20,
        metavar="N",
        help="queries to record, of which the calmest quarter counts where the runtime tells queries apart (default: "
        "%(default)d)",
    )
    _machine(profile)
    profile.add_argument("--netron", action="store_true", help="show the graph in netron afterwards, until Ctrl-C")
    _out(profile, "folder for profiles, and in which the run is")


def _deploy(deploy: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish deploy`."""
    _run_name(deploy)
    deploy.add_argument("--to", required=True, metavar="DIR", help="folder to write")
    deploy.add_argument("--variant", metavar="NAME", help="deploy this variant of the run in place of its winner")
    deploy.add_argument(
        "--folded",
        action="store_true",
        help="write folded.onnx too, which takes uint8 images and gives probabilities",
    )
    _out(deploy, "folder in which the run is")


def _bundle(command: argparse.ArgumentParser) -> None:
    """Add the bundle that a command is about, and `--trust`."""
    command.add_argument("bundle", metavar="BUNDLE", help="folder that `burnish deploy` wrote")
    trust_argument(command)


def _rebench(rebench: argparse.ArgumentParser) -> None:
    """Add the arguments of `burnish rebench`."""
    _bundle(rebench)
    _effort(rebench)
    rebench.add_argument("--json", action="store_true", help="print JSON instead of the table")
    _out(rebench, "folder for tables")
