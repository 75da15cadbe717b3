"""What is compared: the given file as it is, and each form that a peer made of it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compare.kept import ROOT, code, folder_of
from tasks import runtimes
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.forms.int8 import sample

if TYPE_CHECKING:
    from compare.models import Given
    from tasks.caching.work import Work

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
"""Python of the peers' environment, which `make compare-peers` makes."""
PEERS = ("onnxruntime", "nncf", "olive")
"""Files of compare/peers."""
CODE = ("compare/peers", "compare/quantize.py", "requirements-peers.txt")
"""What the peers' results depend on, beside the given file and the images."""
WITHOUT_TELEMETRY = {"CI": "true", "OLIVE_DISABLE_TELEMETRY": "1", "NNCF_CI": "1", "HF_HUB_OFFLINE": "1"}
"""Olive (0.13) sends its first message before it reads the variable that is meant to stop it, unless CI is set."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model file that is compared, or the reason why there is none."""

    name: str
    """Who made it and how, as in nncf/openvino-mixed."""
    settings: str
    """How it was made, in words."""
    runtimes: tuple[str, ...] = ()
    """The runtimes in which it is measured."""
    path: Path | None = None
    threads: int | None = None
    """Threads with which it is opened. None: every core."""
    options: tuple[str, ...] = ()
    """Options of the runtime with which it is opened, by the names in burnish's file of the runtime."""
    error: str | None = None
    """Why there is no file. None exactly where there is one."""
    seconds: float | None = None
    """How long it took to make. None: it was given."""


def as_given(work: Work, given: Given) -> Entry:
    """Return the given file."""
    path = given_file(work, given)
    return Entry(name="given", settings="the file as it is, fp32", runtimes=_runtimes("given", path), path=path)


def given_file(work: Work, given: Given) -> Path:
    """Return the path of the given file."""
    assert given.variant.artifact is not None
    return work.store.get(given.variant.artifact)


def of_peers(work: Work, given: Given, place: Path) -> tuple[list[Entry], dict[str, str]]:
    """Let every peer quantize the given file; return the entries, and the versions of the peers' libraries.

    All peers get the same calibration images, which are those that burnish's own quantizer takes. Forms that an earlier
    comparison has made of the same file and images, in a folder below `place`, are not made again.
    """
    model = given_file(work, given)
    folder = folder_of(place, code(*CODE), str(model), given.data.model_dump_json(), str(given.calibration_images))
    arrays = load_arrays(work.store, given.data)
    rows = sample(arrays, "train", given.calibration_images)
    images = folder / "calibration.npy"
    np.save(images, normalise(arrays.images[rows], given.data.mean, given.data.std))
    entries: list[Entry] = []
    versions: dict[str, str] = {}
    for peer in PEERS:
        work.log.info("%s quantizes, with %d calibration images", peer, len(rows))
        answer = _answer(peer, model, images, folder / peer)
        versions |= answer["versions"]
        for form in answer["forms"]:
            path = None if form["path"] is None else Path(form["path"])
            entries.append(
                Entry(
                    name=f"{peer}/{form['name']}",
                    settings=form["settings"],
                    runtimes=_runtimes(form["name"], path),
                    path=path,
                    error=form["error"],
                    seconds=form["seconds"],
                )
            )
    return entries, versions


def _answer(peer: str, model: Path, images: Path, folder: Path) -> dict:
    """Execute a peer in its environment; return what its forms.json says (see compare/quantize.py)."""
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    with log.open("wb") as output:
        code = subprocess.run(
            [PYTHON, "-m", "compare.quantize", peer, model, images, folder],
            cwd=ROOT,
            env=os.environ | WITHOUT_TELEMETRY,
            stdout=output,
            stderr=output,
            check=False,
        ).returncode
    if code:
        raise RuntimeError(f"{peer} ended with exit code {code}; its output is in {log}")
    answer: dict = json.loads((folder / "forms.json").read_text(encoding="utf-8"))
    return answer


def _runtimes(name: str, path: Path | None) -> tuple[str, ...]:
    """Return the runtimes in which a file is measured: those that execute its format on this machine's CPU.

    OpenVINO computes what is not int8 in bf16 too, where the machine can. Dynamically quantized ONNX files are left out
    in OpenVINO (2026.4), where they are many times as slow as fp32.
    """
    if path is None:
        return ()
    names = ["onnxruntime"] if path.suffix != ".xml" else []
    if not name.startswith("dynamic"):
        names += ["openvino", "openvino_bf16"]
    return tuple(name for name in names if runtimes.load(name).unavailable("cpu") is None)
