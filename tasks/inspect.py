"""The stage inspect: find out how a given model wants its images, before they are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.datasets import open_source
from tasks.datasets._find import resolve
from tasks.forms import given
from tasks.forms._statements import read_beside
from tasks.forms._trial_images import trial_images
from tasks.forms.preparation import find, stated
from tasks.machine.files import file_sha256
from tasks.records import Data, Inspected, Model

if TYPE_CHECKING:
    from tasks.caching.work import Work


def inspect(work: Work, model: Model, settings: Data) -> Inspected:
    """Find out how the model in `model.file` wants its images.

    What the settings say is taken. What the file states, or a description beside it, is believed unless labelled images
    contradict it clearly. Else the usual ways are tried on up to 200 training and validation images.

    Raises
    ------
    ValueError
        If the file is no classifier in ONNX, if the images do not show clearly which preparation is right, or if the
        model is near chance with any. The message is one line that names the file.
    """
    file = given.model_file(Path(model.file).expanduser())
    try:
        graph = given.read_graph(file)
        images = trial_images(settings, work.log)
        classes = images.classes if images else open_source(settings).classes
        told = stated(file, graph, model)
        found = find(file, graph, model, settings, told=told, images=images, classes=classes, log=work.log)
    except ValueError as error:
        raise ValueError(f"{model.file}: {error}") from error
    return Inspected(preparation=found.preparation, tables={"preparations": work.rows("preparations", found.rows)})


def _content(inputs: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the key that are contents of files: the model, what describes it, and the images."""
    model: Model = inputs["model"]
    file = given.model_file(Path(model.file).expanduser())
    read = [*read_beside(file), *([Path(model.labels).expanduser()] if model.labels else [])]
    return {
        **given.content_of_file(inputs),
        **{f"content of {path.name}": file_sha256(path) for path in read if path.is_file()},
        "content of the source": open_source(inputs["settings"]).fingerprint(),
    }


inspect_task = stage(
    lambda inputs: f"inspect/{inputs['model'].label}",
    libraries=("onnx", "onnxruntime", "numpy", "pillow", "pyarrow", "scikit-learn", "torchvision", "timm"),
    modules=lambda inputs: (f"tasks.datasets.{resolve(inputs['settings']).source}",),
    extra=_content,
)(inspect)
