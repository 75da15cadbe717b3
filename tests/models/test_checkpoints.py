"""Checkpoints as training scripts save them: the weights are found, choices are reported, and no code is run."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from models import _pickles

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHITECTURE = {"num_classes": 10, "in_channels": 1, "image_size": 8}
State = dict[str, torch.Tensor]


def lenet() -> nn.Module:
    torch.manual_seed(1)
    return models.build("lenet5", **ARCHITECTURE)


def with_prefix(prefix: str, state: State) -> State:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def load_content(path: Path, content: Any, **options: Any) -> tuple[State, list[str]]:
    """Save the content, load the file as pretrained weights, and return the model's weights and the notes."""
    torch.save(content, path, **options)
    model = models.build("lenet5", **ARCHITECTURE)
    notes = models.pretrained(model, "lenet5", str(path), 8).notes
    return model.state_dict(), notes


def equal(first: State, second: State) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


WRAPPERS: dict[str, tuple[Callable[[State], Any], tuple[str, ...]]] = {
    "plain": (lambda state: state, ()),
    "PyTorch's tutorial": (
        lambda state: {
            "epoch": 3,
            "model_state_dict": state,
            "optimizer_state_dict": {"state": {0: torch.zeros(2, 2)}},
        },
        ("the weights of 'model_state_dict' are used; the file holds no averaged weights (EMA)",),
    ),
    "module": (lambda state: {"arch": "lenet5", "module": state}, ("'module'",)),
    "net of DataParallel": (
        lambda state: {"net": with_prefix("module.", state), "acc": 91.2},
        ("'net'", "the prefix 'module.' is removed from the names of its entries"),
    ),
    "Lightning": (
        lambda state: {"state_dict": with_prefix("model.", state), "hyper_parameters": {"lr": 0.1}},
        ("'state_dict'", "the prefix 'model.'"),
    ),
    "compiled in parallel": (lambda state: with_prefix("module._orig_mod.", state), ("'module._orig_mod.'",)),
    "deeper": (lambda state: {"trainer": {"weights": {"student": state}}, "epoch": 1}, ("'trainer.weights.student'",)),
    "mixed": (lambda state: {**state, "epoch": 3}, ("entries that are not weights are left out: epoch",)),
    "averaged": (
        lambda state: {"state_dict": zeros(state), "state_dict_ema": state},
        ("the averaged weights (EMA) of 'state_dict_ema' are used instead of those of 'state_dict'",),
    ),
    "averaged by PyTorch": (
        lambda state: {
            "model": zeros(state),
            "model_ema": {"n_averaged": torch.tensor(9), **with_prefix("module.", state)},
        },
        ("the averaged weights (EMA) of 'model_ema' are used instead of those of 'model'", "the prefix 'module.'"),
    ),
    "another model's average": (
        lambda state: {"model": state, "ema": {"a.weight": torch.zeros(3, 3)}},
        ("the weights of 'model' are used, because fewer entries of 'ema' fit this model",),
    ),
    "average beside the model": (
        lambda state: {
            "state_dict": {
                **with_prefix("model.", zeros(state)),
                **with_prefix("ema_model.", state),
                "criterion.weight": torch.ones(2),
            }
        },
        (
            "the averaged weights (EMA) of 'state_dict.ema_model' are used instead of those of 'state_dict.model', "
            "'state_dict.criterion'",
        ),
    ),
    "parts of one network beside a loss": (
        lambda state: {
            "state_dict": {
                **with_prefix("backbone.", {key: value for key, value in state.items() if not key.startswith("fc3")}),
                **with_prefix("head.", {key: value for key, value in state.items() if key.startswith("fc3")}),
                "criterion.scale": torch.ones(2),
            }
        },
        ("the weights of 'state_dict.backbone + head' are used; the file holds no averaged weights (EMA)",),
    ),
    "average without names": (
        lambda state: {"model": state, "ema": {"decay": 0.9, "shadow_params": [torch.ones(2)]}},
        (
            (
                "the weights of 'model' are used; the averaged weights (EMA) of ema.shadow_params have no names and "
                "cannot be used"
            ),
        ),
    ),
    "two networks": (lambda state: {"teacher": {"big.weight": torch.zeros(9, 9)}, "student": state}, ("'student'",)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_state_dict_is_found_in_each_wrapping_and_a_note_reports_the_choice(name: str, tmp_path: Path) -> None:
    expected = lenet().state_dict()
    wrap, words = WRAPPERS[name]
    state, notes = load_content(tmp_path / "weights.pth", wrap(expected))
    assert equal(state, expected)
    for word in words:
        assert any(word in note for note in notes), notes
    assert len(notes) == 1 + len(words)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt", ".tar"])
def test_a_prefix_of_all_names_is_removed_in_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    expected, path = lenet().state_dict(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(with_prefix("model.", expected), path)
    else:
        torch.save(with_prefix("model.", expected), path)
    model = models.build("lenet5", **ARCHITECTURE)
    notes = models.pretrained(model, "lenet5", str(path), 8).notes
    assert "the prefix 'model.' is removed from the names of its entries" in notes
    assert equal(model.state_dict(), expected)


def test_files_in_the_format_before_pytorch_1_6_are_loaded_and_outlined(tmp_path: Path) -> None:
    expected, path = lenet().state_dict(), tmp_path / "legacy.pth"
    state, _ = load_content(path, {"model_state_dict": expected}, _use_new_zipfile_serialization=False)
    assert equal(state, expected)
    assert list(_pickles.outline(path)[0]) == ["model_state_dict"]


def refusal_message(path: Path) -> str:
    """Return the one-line message with which a file is refused as pretrained weights of LeNet-5."""
    with pytest.raises(ValueError, match="pretrained: ") as raised:
        models.pretrained(lenet(), "lenet5", str(path), 8)
    message = str(raised.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert "weights_only" not in message, "the message must not advise to switch weights_only off"
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("name", "refused", "averaged"),
    [
        ("namespace", "argparse.Namespace", True),
        ("number", "numpy._core.multiarray.scalar", False),
        ("module", "LeNet5", False),
    ],
)
def test_a_refused_class_is_named_and_the_suggested_command_makes_a_state_dict(
    name: str, refused: str, averaged: bool, tmp_path: Path
) -> None:
    """The command is split as a shell would split it, and run."""
    import shlex

    model, path = torch.nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 2)), tmp_path / "it's.pth"
    refused = "torch.nn.modules.container.Sequential" if name == "module" else refused
    expected = model.state_dict()
    content = {
        "namespace": {"state_dict": zeros(expected), "state_dict_ema": expected, "args": argparse.Namespace(lr=0.1)},
        "number": {"best": np.float64(0.9), "model": {"state_dict": expected}},
        "module": model,
    }[name]
    torch.save(content, path)
    message = refusal_message(path)
    assert f"it holds {refused}, which is not loaded" in message
    command = shlex.split(message[message.index("python -c ") :])
    assert len(command) == 3
    assert "add_safe_globals" in command[2]
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path)
    assert equal(torch.load(tmp_path / "it's-weights.pth", weights_only=True), expected)
    assert ("state_dict_ema" in command[2]) == averaged


class CallsWhenLoaded:
    """An object whose pickle calls a function with arguments when it is loaded."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_no_call_in_a_file_is_run_and_its_refusal_suggests_no_command(tmp_path: Path) -> None:
    for number, (call, name) in enumerate([(open, "io.open"), (eval, "eval"), (torch.hub.load, "torch.hub.load")]):
        path, written_file = tmp_path / f"{number}.pth", tmp_path / f"run-{number}"
        argument = f"open({str(written_file)!r}, 'w')" if call is eval else str(written_file)
        torch.save(
            {
                "state_dict": lenet().state_dict(),
                "x": CallsWhenLoaded(call, argument, *(["w"] if call is open else [])),
            },
            path,
        )
        message = refusal_message(path)
        assert name in message
        assert "python -c" not in message
        assert "ask where it comes from" in message
        content, refused = _pickles.outline(path)
        assert content["state_dict"]
        assert any(name in refused_name for refused_name in refused)
        assert not written_file.exists()


def test_a_class_name_that_is_python_code_does_not_get_into_the_suggested_command(tmp_path: Path) -> None:
    """A pickle may hold any text as the name of a class."""
    path, unaltered_file = tmp_path / "w.pth", io.BytesIO()
    torch.save({"state_dict": lenet().state_dict(), "x": argparse.Namespace()}, unaltered_file)
    with zipfile.ZipFile(unaltered_file) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"argparse\nNamespace\n", b"a;import os\nNamespace\n"))
    assert _pickles.outline(path)[0]["x"].name == "a;import os.Namespace"
    message = refusal_message(path)
    assert "python -c" not in message
    assert "it calls a;import os.Namespace, which no weights need" in message


def test_a_file_without_a_state_dict_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1, "optimizer": {"state": {0: torch.zeros(2, 2)}}}, tmp_path / "a.pth")
    assert "holds no state dict" in (message := refusal_message(tmp_path / "a.pth"))
    assert "its keys are epoch, lr, optimizer" in message
    torch.save([1], tmp_path / "b.pth")
    assert "it holds a list" in refusal_message(tmp_path / "b.pth")
    torch.jit.save(torch.jit.trace(lenet().eval(), torch.zeros(1, 1, 8, 8)), str(tmp_path / "c.pth"))
    assert "it is a TorchScript program" in refusal_message(tmp_path / "c.pth")
    torch.save(lenet().state_dict(), tmp_path / "d.pth")
    (tmp_path / "d.pth").write_bytes((tmp_path / "d.pth").read_bytes()[:9000])
    assert "is a zip file that is cut off or damaged" in refusal_message(tmp_path / "d.pth")


def test_outlining_a_pickle_calls_no_function_that_it_names(tmp_path: Path) -> None:
    written_file = tmp_path / "run"
    torch.save({"x": CallsWhenLoaded(open, str(written_file), "w"), "n": 1}, tmp_path / "a.pth")
    content, _ = _pickles.outline(tmp_path / "a.pth")
    assert (content["n"], content["x"].name, content["x"].arguments) == (1, "io.open", (str(written_file), "w"))
    (tmp_path / "b.pth").write_bytes(pickle.dumps([CallsWhenLoaded(exec, "1/0")]))
    with pytest.raises(ValueError, match=r"b\.pth is not a whole file of torch\.save") as raised:
        _pickles.outline(tmp_path / "b.pth")
    assert not re.search("ZeroDivision", str(raised.value))
    assert not written_file.exists()
