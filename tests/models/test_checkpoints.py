"""One LeNet-5 saved as training scripts save it: found, unwrapped, what was left out said; nothing in a file is run."""

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

SMALL = {"num_classes": 10, "in_channels": 1, "image_size": 8}
State = dict[str, torch.Tensor]


def lenet() -> nn.Module:
    torch.manual_seed(1)
    return models.build("lenet5", **SMALL)


def prefixed(prefix: str, state: State) -> State:
    return OrderedDict((prefix + key, value) for key, value in state.items())


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def loaded(path: Path, content: Any, **how: Any) -> tuple[State, list[str]]:
    """(Weights of a model after loading a file with that content, notes)."""
    torch.save(content, path, **how)
    model = models.build("lenet5", **SMALL)
    notes = models.pretrained(model, "lenet5", str(path), 8).notes
    return model.state_dict(), notes


def same(one: State, other: State) -> bool:
    return all(torch.equal(value, other[key]) for key, value in one.items())


WRAPPED: dict[str, tuple[Callable[[State], Any], tuple[str, ...]]] = {
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
        lambda state: {"net": prefixed("module.", state), "acc": 91.2},
        ("'net'", "the prefix 'module.' is removed from the names of its entries"),
    ),
    "Lightning": (
        lambda state: {"state_dict": prefixed("model.", state), "hyper_parameters": {"lr": 0.1}},
        ("'state_dict'", "the prefix 'model.'"),
    ),
    "compiled in parallel": (lambda state: prefixed("module._orig_mod.", state), ("'module._orig_mod.'",)),
    "deeper": (lambda state: {"trainer": {"weights": {"student": state}}, "epoch": 1}, ("'trainer.weights.student'",)),
    "mixed": (lambda state: {**state, "epoch": 3}, ("entries that are not weights are left out: epoch",)),
    "averaged": (
        lambda state: {"state_dict": zeros(state), "state_dict_ema": state},
        ("the averaged weights (EMA) of 'state_dict_ema' are used instead of those of 'state_dict'",),
    ),
    "averaged by PyTorch": (
        lambda state: {
            "model": zeros(state),
            "model_ema": {"n_averaged": torch.tensor(9), **prefixed("module.", state)},
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
                **prefixed("model.", zeros(state)),
                **prefixed("ema_model.", state),
                "criterion.weight": torch.ones(2),
            }
        },
        (
            "the averaged weights (EMA) of 'state_dict.ema_model' are used instead of those of 'state_dict.model', "
            "'state_dict.criterion'",
        ),
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


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_is_found_whatever_it_is_wrapped_in_and_the_choice_is_said(name: str, tmp_path: Path) -> None:
    want = lenet().state_dict()
    wrap, words = WRAPPED[name]
    state, notes = loaded(tmp_path / "weights.pth", wrap(want))
    assert same(state, want)
    for word in words:
        assert any(word in note for note in notes), notes
    assert len(notes) == 1 + len(words)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt", ".tar"])
def test_a_prefix_is_left_out_in_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    want, path = lenet().state_dict(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(prefixed("model.", want), path)
    else:
        torch.save(prefixed("model.", want), path)
    model = models.build("lenet5", **SMALL)
    notes = models.pretrained(model, "lenet5", str(path), 8).notes
    assert "the prefix 'model.' is removed from the names of its entries" in notes
    assert same(model.state_dict(), want)


def test_files_of_before_pytorch_1_6_are_read_and_outlined(tmp_path: Path) -> None:
    want, path = lenet().state_dict(), tmp_path / "legacy.pth"
    state, _ = loaded(path, {"model_state_dict": want}, _use_new_zipfile_serialization=False)
    assert same(state, want)
    assert list(_pickles.outline(path)[0]) == ["model_state_dict"]


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match="pretrained: ") as raised:
        models.pretrained(lenet(), "lenet5", str(path), 8)
    told = str(raised.value)
    assert "\n" not in told
    assert "\x1b" not in told
    assert "weights_only" not in told, "the advice to switch the safety off"
    assert str(path) in told
    return told


@pytest.mark.parametrize(
    ("name", "refused", "averaged"),
    [
        ("namespace", "argparse.Namespace", True),
        ("number", "numpy._core.multiarray.scalar", False),
        ("module", "LeNet5", False),
    ],
)
def test_a_refused_class_is_named_and_the_line_given_makes_a_state_dict(
    name: str, refused: str, averaged: bool, tmp_path: Path
) -> None:
    """The line is run as it is told, by a shell."""
    import shlex

    model, path = torch.nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 2)), tmp_path / "it's.pth"
    refused = "torch.nn.modules.container.Sequential" if name == "module" else refused
    want = model.state_dict()
    content = {
        "namespace": {"state_dict": zeros(want), "state_dict_ema": want, "args": argparse.Namespace(lr=0.1)},
        "number": {"best": np.float64(0.9), "model": {"state_dict": want}},
        "module": model,
    }[name]
    torch.save(content, path)
    told = refusal(path)
    assert f"it holds {refused}, which is not loaded" in told
    line = shlex.split(told[told.index("python -c ") :])
    assert len(line) == 3
    assert "add_safe_globals" in line[2]
    subprocess.run([sys.executable, *line[1:]], check=True, cwd=tmp_path)
    assert same(torch.load(tmp_path / "it's-weights.pth", weights_only=True), want)
    assert ("state_dict_ema" in line[2]) == averaged


class Evil:
    """Would leave a file behind, were it loaded."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_file_is_run_and_a_call_is_named_without_a_way_to_let_it_in(tmp_path: Path) -> None:
    for number, (call, name) in enumerate([(open, "io.open"), (eval, "eval"), (torch.hub.load, "torch.hub.load")]):
        path, mark = tmp_path / f"{number}.pth", tmp_path / f"run-{number}"
        argument = f"open({str(mark)!r}, 'w')" if call is eval else str(mark)
        torch.save(
            {"state_dict": lenet().state_dict(), "x": Evil(call, argument, *(["w"] if call is open else []))}, path
        )
        told = refusal(path)
        assert name in told
        assert "python -c" not in told
        assert "ask where it comes from" in told
        content, refused = _pickles.outline(path)
        assert content["state_dict"]
        assert any(name in one for one in refused)
        assert not mark.exists()


def test_a_name_that_is_python_code_does_not_get_into_the_line(tmp_path: Path) -> None:
    """A pickle may hold any text as the name of a class."""
    path, honest = tmp_path / "w.pth", io.BytesIO()
    torch.save({"state_dict": lenet().state_dict(), "x": argparse.Namespace()}, honest)
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"argparse\nNamespace\n", b"a;import os\nNamespace\n"))
    assert _pickles.outline(path)[0]["x"].name == "a;import os.Namespace"
    told = refusal(path)
    assert "python -c" not in told
    assert "it calls a;import os.Namespace, which no weights need" in told


def test_keys_are_listed_where_no_state_dict_is_found(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1, "optimizer": {"state": {0: torch.zeros(2, 2)}}}, tmp_path / "a.pth")
    assert "holds no state dict" in (told := refusal(tmp_path / "a.pth"))
    assert "its keys are epoch, lr, optimizer" in told
    torch.save([1], tmp_path / "b.pth")
    assert "it holds a list" in refusal(tmp_path / "b.pth")
    torch.jit.save(torch.jit.trace(lenet().eval(), torch.zeros(1, 1, 8, 8)), str(tmp_path / "c.pth"))
    assert "it is a TorchScript program" in refusal(tmp_path / "c.pth")
    torch.save(lenet().state_dict(), tmp_path / "d.pth")
    (tmp_path / "d.pth").write_bytes((tmp_path / "d.pth").read_bytes()[:9000])
    assert "is a zip file that is cut off or damaged" in refusal(tmp_path / "d.pth")


def test_an_outline_of_any_pickle_calls_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "run"
    torch.save({"x": Evil(open, str(mark), "w"), "n": 1}, tmp_path / "a.pth")
    found, _ = _pickles.outline(tmp_path / "a.pth")
    assert (found["n"], found["x"].name, found["x"].arguments) == (1, "io.open", (str(mark), "w"))
    (tmp_path / "b.pth").write_bytes(pickle.dumps([Evil(exec, "1/0")]))
    with pytest.raises(ValueError, match=r"b\.pth is not a whole file of torch\.save") as raised:
        _pickles.outline(tmp_path / "b.pth")
    assert not re.search("ZeroDivision", str(raised.value))
    assert not mark.exists()
