"""build_and_run.sh calls a container engine with the right arguments. A fake engine records its calls."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT


class Engine:
    """Runs `build_and_run.sh` with fake programs, such as docker or podman, that record how they are called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "calls"
        (folder / "bin").mkdir()
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        self.add("nvidia-smi", "exit 9")

    def add(self, name: str, code: str = "") -> None:
        """Install a fake program that runs `code`, a Bash script, and then records its call."""
        file = self.folder / "bin" / name
        file.write_text(f"#!/bin/bash\n{code}\nprintf '%q ' \"$0\" \"$@\" >> '{self.log}'; echo >> '{self.log}'\n")
        file.chmod(0o755)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the script and check its exit code."""
        self.log.write_text("")
        completed = subprocess.run(
            [ROOT / "build_and_run.sh", *arguments],
            cwd=self.folder,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert completed.returncode == code, completed.stderr
        return completed

    def calls(self) -> list[list[str]]:
        """Return the words of each recorded call except `docker info` and its like, the program's name first."""
        calls = [shlex.split(line) for line in self.log.read_text().splitlines()]
        return [[Path(words[0]).name, *words[1:]] for words in calls if words[1:2] != ["info"]]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(tmp_path, monkeypatch)


def mounts(words: list[str]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == "--mount"]


def test_the_script_builds_the_image_and_runs_the_study(engine: Engine) -> None:
    engine.add("docker")
    output = engine.run("--output-dir", "./test_results").stdout
    build, run = engine.calls()
    assert build == ["docker", "build", "--build-arg", "DEVICE=cpu", "--tag", "burnish:cpu", str(ROOT)]
    assert run[:2] == ["docker", "run"] and "--init" in run and "--pid" not in run
    assert run[-3:] == ["burnish:cpu", "study", "densenet121-imagenet"]
    assert mounts(run) == [f"type=bind,source={engine.folder}/test_results,target=/results"]
    assert f"{engine.folder}/test_results/benchmark_results.csv" in output


def test_all_options_reach_the_study_unchanged(engine: Engine) -> None:
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
    build, run, tensorboard = engine.calls()
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
    assert f"type=bind,source={engine.folder}/my images,target=/data,readonly" in mounts(run)
    assert tensorboard[tensorboard.index("--publish") + 1] == "127.0.0.1:6006:6006"
    assert tensorboard[-1] == "tensorboard"


@pytest.mark.parametrize(("device", "scale"), [("cpu", "cpu"), ("cuda", "full")])
def test_the_users_images_are_refused_at_scale_smoke(engine: Engine, device: str, scale: str) -> None:
    engine.add("docker")
    (engine.folder / "images").mkdir()
    engine.run("--data", "images", "--device", device)
    assert engine.calls()[1][-5:] == ["densenet121-imagenet", "--scale", scale, "--set", "data.path=/data"]
    error = engine.run("--data", "images", "--scale", "smoke", code=2).stderr
    assert "--scale smoke has its own images" in error


def test_podman_is_used_where_docker_does_not_answer_and_gets_the_gpu(engine: Engine) -> None:
    # Docker is installed, but its daemon does not run.
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


def test_the_script_fails_when_the_study_fails(engine: Engine) -> None:
    engine.add("docker", "[[ $1 != run ]] || exit 1")
    assert "results:" not in engine.run("--tensorboard", code=1).stdout


def test_wrong_options_and_a_missing_engine_give_one_line_and_exit_code_2(engine: Engine) -> None:
    for arguments, words in (
        ((), "no container engine: neither docker nor podman answers"),
        (("--device", "tpu"), "--device tpu: accepted are cpu, cuda, auto"),
        (("--scale", "huge"), "--scale huge: accepted are smoke, cpu, full"),
        (("--data", "absent"), "--data absent: no such folder"),
        (("--output-dir",), "--output-dir needs a value"),
        (("--out",), "unknown option --out"),
    ):
        error = engine.run(*arguments, code=2).stderr
        assert words in error
        assert error.count("\n") == 1
    assert not (engine.folder / "test_results").exists()
