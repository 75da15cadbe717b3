"""A study that cannot work is refused before anything is computed: missing devices, and files that hold no weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from flows import study as flow
from flows.cli import main
from flows.devices_here import refuse_missing
from flows.plan import planned
from flows.settings import Mistake, load
from tasks.machine import gpu

if TYPE_CHECKING:
    from pathlib import Path

CARD = {"name": "NVIDIA H100", "driver": "1", "memory_bytes": 1 << 36}


def refusal(*settings: str) -> str:
    """Return the message with which a study with these settings is refused."""
    with pytest.raises(ValueError, match=r".") as error_info:
        refuse_missing(planned(load("quickstart", list(settings))).study)
    assert "\n" not in str(error_info.value)
    return str(error_info.value)


@pytest.mark.parametrize("cards", [0, 2])
def test_every_setting_that_names_a_missing_device_is_refused(cards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: (CARD,) * cards)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus_of_this_machine = "only 2 NVIDIA GPUs" if cards else "no NVIDIA GPU"
    accepted = "auto, cpu, cuda:0, cuda:1" if cards else "auto, cpu"
    for setting, key in (
        ("train.device=cuda:99", "train.device"),
        ("benchmark.devices=['cpu', 'cuda:99']", "benchmark.devices"),
        ("ablate.techniques={far={device='cuda:99'}}", "ablate (technique far), train.device"),
    ):
        assert refusal(setting) == f"{key}: cuda:99: this machine has {gpus_of_this_machine}; accepted here: {accepted}"
    refuse_missing(planned(load("quickstart", ["train.device=auto", "benchmark.devices=['auto']"])).study)
    if cards:
        refuse_missing(planned(load("quickstart", ["train.device=cuda:1", "train.processes=1"])).study)
        assert "train.processes: 3 need a GPU each, this machine has 2" in refusal("train.processes=3")
    else:
        refuse_missing(planned(load("quickstart", ["train.processes=3"])).study)


def test_a_run_with_a_missing_device_is_refused_before_its_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    out = tmp_path / "out"
    assert main(["run", "quickstart", "--out", str(out), "--set", "train.device=cuda:0"]) == 2
    printed = capsys.readouterr()
    assert printed.err == "burnish: train.device: cuda:0: this machine has no NVIDIA GPU; accepted here: auto, cpu\n"
    assert not out.exists()


def save_without_weights(path: Path) -> None:
    import torch

    torch.save({"x": torch.zeros(3)}, path)


FILES: dict[str, tuple[Any, str]] = {
    "garbage.pt": (lambda path: path.write_text("garbage"), "is a text"),
    "garbage.safetensors": (lambda path: path.write_text("garbage"), "is a text"),
    "other.pt": (save_without_weights, "holds no state dict"),
}


def test_an_empty_text_or_a_file_is_refused_as_the_folder_for_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in ("", " "):
        with pytest.raises(Mistake, match=r"^out: an empty text is no folder; name one$"):
            flow._finished(load("quickstart", []), out, ())
    (tmp_path / "file").touch()
    with pytest.raises(Mistake, match=r"^out file: no folder can be there, as .*/file is a file; name another folder$"):
        flow._finished(load("quickstart", []), "file", ())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", FILES)
def test_a_pretrained_file_without_weights_is_refused_before_any_stage(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write, reason = FILES[name]
    write(tmp_path / name)
    study = load("quickstart", [f"models=[{{name='lenet5', pretrained='{tmp_path / name}'}}]"])
    caplog.set_level(logging.INFO)
    with pytest.raises(ValueError, match=rf"^pretrained: \S+{name} {reason}"):
        flow._finished(study, str(tmp_path / "out"), ())
    assert not (tmp_path / "out").exists()
    assert not caplog.records, "no stage has begun"
