"""Write a bundle's README.md, with the lines of code that run its model in its runtime."""

from __future__ import annotations

from typing import Any

from flows.bundle.lineage import machine_name
from tasks.tables.figures import sig

Row = dict[str, Any]
OPENED = {
    "onnxruntime": ("import onnxruntime", 'model = onnxruntime.InferenceSession("{file}")'),
    "openvino": (
        "import openvino",
        'model = openvino.compile_model("{file}", "CPU", json.load(open("model.json"))["settings"])',
    ),
    "torch": ("import torch", 'model = torch.jit.load("{file}").eval()'),
}
"""Package of a runtime -> the lines that import it and open a model file."""
ASKED = {
    "onnxruntime": ["outputs = model.run(None, {model.get_inputs()[0].name: inputs})[0]"],
    "openvino": ["outputs = model(inputs)[0]"],
    "torch": ["with torch.inference_mode():", "    outputs = model(torch.from_numpy(inputs)).numpy()"],
}
"""Package of a runtime -> the lines that get the outputs for some inputs."""


def code(package: str, file: str, *, folded: bool = False) -> str:
    """Return lines of Python that classify the first golden image with a model file of the bundle.

    Parameters
    ----------
    package
        The Python package of the runtime.
    file
        The model file's name.
    folded
        Whether the file takes decoded images, and gives probabilities.
    """
    function = "decoded" if folded else "prepare"
    imported, opened = OPENED[package]
    lines = [
        "import json",
        imported,
        f"from preparation import {function}",
        "",
        'about = json.load(open("preparation.json"))',
        opened.format(file=file),
        f'inputs = {function}(open("golden/0.png", "rb").read(), about)',
        *ASKED[package],
        "for number in outputs[0].argsort()[::-1][:3]:",
        '    print(about["classes"][number], outputs[0][number])',
    ]
    return "\n".join(lines)


def readme(about: Row, preparation: Row, lineage: Row, package: str) -> str:
    """Return the text of README.md.

    Parameters
    ----------
    about, preparation, lineage
        What model.json, preparation.json and lineage.json hold.
    package
        The Python package of the runtime.
    """
    measured = lineage["measured"]
    top1 = f", top-1 {measured['top1']:.3f}" if measured["top1"] is not None else ""
    parts = [
        f"# {about['variant']}",
        f"An image classifier of {len(preparation['classes'])} classes in {about['runtime']}, {about['precision']}, "
        f"which `burnish deploy` wrote. It took {sig(about['latency_median_ms'])} ms per query of "
        f"{measured['batch_size']} on {machine_name(lineage['machine'])}{top1}.{_conditions(measured)}",
        f"## Use it\n\nIn this folder, with Python 3.11 or newer, after `pip install numpy pillow {package}`:",
        f"```python\n{code(package, about['file'])}\n```",
        f"The model takes {_input(preparation)}. {_preparation(preparation)} `preparation.json` has the figures, and "
        "`preparation.py` the code. It gives logits: their softmax are probabilities, in the order of `labels.txt`.",
    ]
    if about["folded"]:
        parts += [
            f"## With the preparation in the graph\n\n`{about['folded']}` takes decoded images (uint8, batch × "
            f"{preparation['image_size']} × {preparation['image_size']} × {preparation['channels']}), and gives "
            "probabilities:",
            f"```python\n{code(package, about['folded'], folded=True)}\n```",
        ]
    parts += [
        "## Check it\n\n`python verify.py` prepares the golden images, runs the model, and compares its outputs with "
        "the golden ones. `burnish verify` does the same, and `burnish rebench` measures the model on your machine.",
        "## Serve it\n\n`pip install -r requirements.txt && python app.py`, or `docker build .`; then open "
        "http://localhost:8080 and drop a photo there. `app.py` says more.",
        "## Files\n\n" + "\n".join(f"- {line}" for line in _files(about)),
        f"## Licence\n\nThe weights: {lineage['licence']['weights']}. The code in this folder: Apache-2.0.",
    ]
    return "\n\n".join(parts) + "\n"


def _conditions(measured: Row) -> str:
    """Return a sentence on what was bad while the latency was measured; empty where nothing was."""
    conditions = measured.get("conditions")
    return f" That was measured under bad conditions ({conditions}), so it may be wrong." if conditions else ""


def _input(preparation: Row) -> str:
    """Return the model's input in words."""
    side = preparation["image_size"]
    return f"float32, batch × {preparation['channels']} × {side} × {side}"


def _preparation(preparation: Row) -> str:
    """Return in a sentence how an image is prepared."""
    colours = "greyscale" if preparation["order"] == "grey" else "RGB"
    side, resize = preparation["image_size"], preparation["resize"]
    return (
        f"An image is decoded as {colours}, its shorter side is resized to {resize} pixels (bicubic, antialiased), and "
        f"the {side} × {side} pixels at its centre are taken; then (pixel / 255 - mean) / std, with mean "
        f"{_numbers(preparation['mean'])} and std {_numbers(preparation['std'])}."
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _files(about: Row) -> list[str]:
    """Return what the files of the bundle are, a line each."""
    return [
        f"`{about['file']}`: the model (its SHA-256 and settings: `model.json`)",
        "`preparation.json`, `labels.txt`: how an image becomes an input, and the classes",
        "`golden/`: test images, cut to size; `inputs.npy`, what their preparation gives (uint8); `logits.npy`, what "
        "the model gives for them; `golden.json`, by how much another machine's may differ",
        "`lineage.json`: the run, the files that this one was made from, the figures, the machine, the licence",
        "`SHA256SUMS`: for `sha256sum -c`",
    ]
