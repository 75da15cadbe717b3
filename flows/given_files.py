"""Check the model files that a study names, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.records import Study


def refuse_unreadable(study: Study) -> None:
    """Check that each model that is given as a file is an ONNX file which a study can adopt.

    Raises
    ------
    ValueError
        If one is not. The message names the file.
    """
    for model in study.models:
        if not model.file:
            continue
        # This imports onnx, for which a study without given models need not wait.
        from tasks.forms.given import read_graph

        try:
            read_graph(Path(model.file).expanduser())
        except OSError as error:
            raise ValueError(f"models: {model.file}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"models: {model.file}: {error}") from None
