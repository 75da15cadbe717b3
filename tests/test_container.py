"""The container: its files are linted, its steps are executed in a clean environment, its command is told what to do.

No container engine is needed: the Dockerfile is read, and what it says is done in a folder that stands for the image's
root.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import socket
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from tasks.tables.csv_view import CSV_COLUMNS
from tests.support.command import SHORT
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

# a lent GPU machine may lack it
dockerfile_parse = pytest.importorskip("dockerfile_parse")

BIN = Path(sys.executable).parent
SCRIPTS = ("build_and_run.sh", "container.sh")
PLACES = ("/opt/burnish", "/home/burnish", "/results")
"""Folders of the image that the Dockerfile names."""


def steps(device: str) -> list[tuple[str, str]]:
    """(instruction, value) of the image for a device and of what it is built on, flags of the builder left out."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    parser = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO((ROOT / "Dockerfile").read_bytes()))
    for one in parser.structure:
        instruction, value = one["instruction"], re.sub(r"^(--\S+\s+)+", "", one["value"])
        if instruction == "FROM":
            image, _, name = value.replace("${DEVICE}", device).partition(" AS ")
            stages[name] = [*stages.get(image, [(instruction, image)])]
        elif instruction not in ("COMMENT", "ARG"):
            stages[name].append((instruction, value))
    return stages[name]


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()


def context() -> list[str]:
    """Tracked files that .dockerignore lets through."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "everything is left out but what is named"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    return [path for path in tracked() if path.partition("/")[0] in named]


# ------------------------------------------------------------------------------------------------------------------
# lint


@pytest.mark.parametrize("file", ["Dockerfile", "flows/commands/deployed/Dockerfile"])
def test_hadolint_has_nothing_to_say(file: str) -> None:
    if not (BIN / "hadolint").exists():
        pytest.skip("hadolint has no wheel for this machine")
    done = subprocess.run([BIN / "hadolint", file], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", SCRIPTS)
def test_shellcheck_has_nothing_to_say(file: str) -> None:
    done = subprocess.run([BIN / "shellcheck", file], cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(ROOT / file, os.X_OK)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_image_has_a_named_version_a_plain_user_and_tensorboards_port(device: str) -> None:
    told = steps(device)
    kinds = [instruction for instruction, _ in told]
    assert "ADD" not in kinds
    values = dict(told)
    image, _, version = values["FROM"].partition(":")
    assert image == "python", "an ordinary short name: no registry's address"
    assert re.fullmatch(r"\d+\.\d+-slim", version)
    assert values["USER"] == "1000"
    assert kinds.index("USER") > max(i for i, kind in enumerate(kinds) if kind in ("RUN", "COPY"))
    assert values["EXPOSE"] == "6006"
    assert not re.search(r"https?:|://", (ROOT / "Dockerfile").read_text())


def test_everything_that_is_copied_is_in_git_and_reaches_the_builder() -> None:
    files = context()
    told = steps("cpu") + steps("cuda")
    sources = [source for kind, value in told if kind == "COPY" for source in value.split()[:-1]]
    for source in sources:
        assert any(file == source or file.startswith(f"{source}/") for file in files), source
    named = {source.partition("/")[0] for source in sources}
    assert {file.partition("/")[0] for file in files} == named, ".dockerignore lets through what nothing copies"


def test_the_image_installs_as_the_makefile_does() -> None:
    uv = re.compile(r"uv==[\d.]+")
    assert uv.findall((ROOT / "Dockerfile").read_text()) == uv.findall((ROOT / "Makefile").read_text())
    for device, pinned in (("cpu", "requirements.txt"), ("cuda", "requirements-gpu.txt")):
        installs = [value for kind, value in steps(device) if kind == "RUN" and "-r requirements" in value]
        assert [value.split("-r ")[1] for value in installs] == [pinned]
        assert "--no-deps" in installs[0], "the list is whole; what it leaves out is not brought back"


# -----------------------------------------------------------------------------------------------------------------
# steps


class Image:
    """What a Dockerfile's steps leave, in a folder that stands for the image's root.

    Replaced are the two steps that change the system itself, `apt-get` (this machine's compiler is used) and `useradd`
    (the user's home is made; where the tests run as root, the entry point runs as user 1000, who need not exist).
    """

    def __init__(self, root: Path, device: str) -> None:
        self.root, self.cwd = root, root
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
        # The cache that the builder mounts at /root/.cache is this user's; so are the settings of the package index.
        ours = {
            key: value
            for key, value in os.environ.items()
            if re.match(r"PIP_|UV_|SSL_CERT|HOME$|https?_proxy", key, re.I)
        }
        self.environment = ours | {"PATH": f"{root / 'bin'}:/usr/local/bin:/usr/bin:/bin"}
        self.entrypoint: list[str] = []
        self.user: int | None = None
        self.files = root / "context"
        for name in context():
            (self.files / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.files / name)
        for place in PLACES[:2]:
            Path(self.placed(place)).mkdir(parents=True)
        (root / "tmp").mkdir()
        (root / "tmp").chmod(0o1777)
        self.environment["TMPDIR"] = str(root / "tmp")
        for instruction, value in steps(device):
            getattr(self, f"_{instruction.lower()}", lambda value: None)(value)

    def placed(self, text: str) -> str:
        """The image's folders as folders below the root."""
        return re.sub(
            "|".join(rf"(?<![\w/]){place}\b" for place in PLACES), lambda found: f"{self.root}{found[0]}", text
        )

    def _workdir(self, value: str) -> None:
        self.cwd = Path(self.placed(value))

    def _env(self, value: str) -> None:
        for pair in shlex.split(value):
            key, _, text = pair.partition("=")
            self.environment[key] = self.placed(string.Template(text).substitute(self.environment))

    def _user(self, value: str) -> None:
        if os.geteuid() == 0:
            self.user = int(value)
            try:
                self.execute([str(self.root / "bin" / "python"), "-c", ""])
            except PermissionError:
                # a Python in root's home
                self.user = None

    def _entrypoint(self, value: str) -> None:
        self.entrypoint = [self.placed(word) for word in json.loads(value)]

    def _copy(self, value: str) -> None:
        *sources, target = value.split()
        for source in sources:
            if (self.files / source).is_dir():
                shutil.copytree(self.files / source, self.cwd / target, dirs_exist_ok=True)
            else:
                shutil.copy(self.files / source, self.cwd / target)

    def _run(self, value: str) -> None:
        ours = [step for step in value.split("&&") if step.split()[0] not in ("apt-get", "useradd", "rm")]
        if "-r requirements.txt" in value and not os.environ.get("BURNISH_WHOLE_IMAGE"):
            uv = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--dry-run", "--python", sys.executable]
            done = self.execute([*uv, "-r", "requirements.txt"])
            if "Would make no changes" not in done.stdout:
                pytest.skip("these tests do not run in the environment that requirements.txt describes")
            site = next((self.cwd / ".venv" / "lib").glob("python3*")) / "site-packages"
            # First, as an installation would replace what venv put there (setuptools).
            (site / "ours.pth").write_text(f"import sys; sys.path.insert(0, {sysconfig.get_path('purelib')!r})\n")
        elif ours:
            done = self.execute(["/bin/sh", "-ec", self.placed("&&".join(ours))])
            assert done.returncode == 0, f"{value}\n{done.stdout}"

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **self.surroundings()
        )

    def surroundings(self) -> dict[str, Any]:
        """Working folder, environment and user, for subprocess."""
        who = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        return {"cwd": self.cwd, "env": self.environment, "stdin": subprocess.DEVNULL, **who}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="burnish-image-") as folder:
        # for user 1000
        Path(folder).chmod(0o755)
        yield Image(Path(folder), "cpu")


@pytest.fixture(scope="module")
def results(image: Image) -> Path:
    """What the entry point leaves of a tiny study."""
    settings = [f"--set={setting}" for setting in SHORT]
    done = image.execute([*image.entrypoint, "study", "quickstart", *settings])
    assert done.returncode == 0, done.stdout[-5000:]
    return image.root / "results"


@pytest.mark.slow
def test_the_steps_of_the_image_leave_s2s_table_a_report_and_the_profile(image: Image, results: Path) -> None:
    assert (results / "benchmark_results.csv").read_text().splitlines()[0] == ",".join(CSV_COLUMNS)
    table = pl.read_csv(results / "benchmark_results.csv")
    assert set(table["device"]) == {"cpu"}
    summary = pl.read_parquet(results / "tables" / "summary.parquet")
    assert len(summary) == len(table)
    # on a busy machine: their times are in a second file
    marked = summary["conditions"].is_not_null()
    assert table["latency_ms_per_batch"].is_null().to_list() == marked.to_list()
    assert (results / "benchmark_results_marked.csv").is_file() == bool(marked.any())
    assert "lenet5" in (results / "report.html").read_text()
    assert list(results.glob("profiles/lenet5_train-eager/tensorboard/*.pt.trace.json"))
    code = "import tasks; print(tasks.__file__)"
    told = image.execute([f"{image.cwd}/.venv/bin/python", "-c", code]).stdout.strip()
    assert told == f"{image.cwd}/tasks/__init__.py", "the code that ran is the image's"


@pytest.mark.slow
def test_tensorboard_shows_the_profile_at_port_6006(image: Image, results: Path) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 6006)) == 0:
            pytest.skip("port 6006 is taken")
    process = subprocess.Popen(
        [*image.entrypoint, "tensorboard"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **image.surroundings()
    )
    try:
        deadline, tags = time.monotonic() + 60, {}
        while not tags and time.monotonic() < deadline:
            time.sleep(1)
            assert process.poll() is None
            try:
                with urllib.request.urlopen("http://127.0.0.1:6006/data/plugin/images/tags", timeout=30) as answer:
                    tags = json.load(answer)
            except OSError:
                continue
        assert {name for found in tags.values() for name in found} == {"flame", "operators"}
    finally:
        process.terminate()
        process.wait(30)


# ---------------------------------------------------------------------------------------------------------------
# command


class Engine:
    """`build_and_run.sh` with a docker or podman that writes down what it is asked, and leaves results."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked = folder, folder / "asked"
        (folder / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        self.add("nvidia-smi", "exit 9")

    def add(self, name: str, code: str = "") -> None:
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/bash\n{code}\nprintf '%q ' \"$0\" \"$@\" >> '{self.asked}'; echo >> '{self.asked}'\n")
        file.chmod(0o755)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        self.asked.write_text("")
        done = subprocess.run(
            [ROOT / "build_and_run.sh", *arguments],
            cwd=self.folder,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def calls(self) -> list[list[str]]:
        """Words of each call, its program's name first; `info` left out."""
        calls = [shlex.split(line) for line in self.asked.read_text().splitlines()]
        return [[Path(words[0]).name, *words[1:]] for words in calls if words[1:2] != ["info"]]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(tmp_path, monkeypatch)


def mounted(words: list[str]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == "--mount"]


def test_one_command_builds_the_image_and_runs_the_study(engine: Engine) -> None:
    engine.add("docker")
    told = engine.run("--output-dir", "./test_results").stdout
    build, run = engine.calls()
    assert build == ["docker", "build", "--build-arg", "DEVICE=cpu", "--tag", "burnish:cpu", str(ROOT)]
    assert run[:2] == ["docker", "run"] and "--init" in run and "--pid" not in run
    assert run[-3:] == ["burnish:cpu", "study", "densenet121-imagenet"]
    assert mounted(run) == [f"type=bind,source={engine.folder}/test_results,target=/results"]
    assert f"{engine.folder}/test_results/benchmark_results.csv" in told


def test_options_reach_the_study_whole(engine: Engine) -> None:
    engine.add("docker")
    (engine.folder / "my images").mkdir()
    engine.run(
        "--preset",
        "runtime-formats",
        "--scale",
        "cpu",
        "--data",
        "my images",
        "--tensorboard",
        "--device",
        "cuda",
        "--",
        "--set",
        'models=[{name="lenet5"}]',
        "--set",
        "train.epochs=1",
    )
    build, run, board = engine.calls()
    assert build[3] == "DEVICE=cuda"
    assert run[run.index("--gpus") + 1] == "all"
    assert run[run.index("--pid") + 1] == "host" and "--init" not in run
    assert run[run.index("burnish:cuda") + 1 :] == [
        "study",
        "runtime-formats",
        "--scale",
        "cpu",
        "--set",
        "data.path=/data",
        "--set",
        'models=[{name="lenet5"}]',
        "--set",
        "train.epochs=1",
    ]
    assert f"type=bind,source={engine.folder}/my images,target=/data,readonly" in mounted(run)
    assert board[board.index("--publish") + 1] == "127.0.0.1:6006:6006"
    assert board[-1] == "tensorboard"


@pytest.mark.parametrize(("device", "scale"), [("cpu", "cpu"), ("cuda", "full")])
def test_ones_own_images_are_not_for_the_smallest_scale(engine: Engine, device: str, scale: str) -> None:
    engine.add("docker")
    (engine.folder / "images").mkdir()
    engine.run("--data", "images", "--device", device)
    assert engine.calls()[1][-5:] == ["densenet121-imagenet", "--scale", scale, "--set", "data.path=/data"]
    told = engine.run("--data", "images", "--scale", "smoke", code=2).stderr
    assert "--scale smoke has its own images" in told


def test_podman_will_do_and_a_gpu_is_found(engine: Engine) -> None:
    # installed, and its daemon does not run
    engine.add("docker", "exit 1")
    engine.add("podman")
    engine.add("nvidia-smi")
    engine.run()
    assert [words[:2] for words in engine.calls() if words[0] != "nvidia-smi"] == [
        ["podman", "build"],
        ["podman", "run"],
    ]
    assert "nvidia.com/gpu=all" in engine.calls()[-1]
    assert "burnish:cuda" in engine.calls()[-1]


def test_a_study_that_fails_fails_the_command(engine: Engine) -> None:
    engine.add("docker", "[[ $1 != run ]] || exit 1")
    assert "results:" not in engine.run("--tensorboard", code=1).stdout


def test_mistakes_and_a_missing_engine_are_one_line_and_exit_code_2(engine: Engine) -> None:
    for arguments, words in (
        ((), "no container engine: neither docker nor podman answers"),
        (("--device", "tpu"), "--device tpu: accepted are cpu, cuda, auto"),
        (("--scale", "huge"), "--scale huge: accepted are smoke, cpu, full"),
        (("--data", "absent"), "--data absent: no such folder"),
        (("--output-dir",), "--output-dir needs a value"),
        (("--out",), "unknown option --out"),
    ):
        told = engine.run(*arguments, code=2).stderr
        assert words in told
        assert told.count("\n") == 1
    assert not (engine.folder / "test_results").exists()
