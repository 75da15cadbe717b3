"""The container's command, build_and_run.sh: what it asks of a container engine, which is replaced here."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT


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
