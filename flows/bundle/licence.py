"""Say under which licence the weights of a model are, where whoever published them states it."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from models import _library

if TYPE_CHECKING:
    from tasks.records import Model

UNKNOWN = "not known: ask whoever gave you the model"
OWN = "the run trained them from random weights: they are under no licence of others, but for what the images' may ask"


def licence_of(model: Model | None) -> str:
    """Return the licence of a model's weights in words; None stands for a model that the study does not name."""
    if model is None or model.file:
        return UNKNOWN
    if model.pretrained is None:
        return OWN
    if model.pretrained == "hub":
        return _of_hub(model.name) or UNKNOWN
    kind, _, package = model.pretrained.partition(":")
    return (_of_package(package) if kind == "package" else None) or UNKNOWN


def _of_package(name: str) -> str | None:
    """Return the licence that a Python package states for itself."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    named = [text for key in ("License-Expression", "License") for text in metadata.get_all(key) or ()]
    classifiers = metadata.get_all("Classifier") or ()
    named += [text.removeprefix("License :: ") for text in classifiers if text.startswith("License :: ")]
    for text in named:
        if text and text.upper() != "UNKNOWN":
            return f"{' '.join(text.split())[:200]} (what the package {name} {metadata['Version']} states)"
    return None


def _of_hub(name: str) -> str | None:
    """Return the licence that timm or torchvision states for the weights of a model."""
    library, _, library_name = name.rpartition(":")
    if not library:
        holders = [known for known in ("torchvision", "timm") if library_name in _library.names(known)]
        library = holders[0] if holders else ""
    if library == "timm":
        import timm

        config = timm.models.get_pretrained_cfg(library_name)
        licence = config.license if config else None
    elif library == "torchvision":
        from torchvision.models import get_model_weights

        licence = get_model_weights(library_name).DEFAULT.meta.get("license")  # type: ignore[attr-defined]
    else:
        return None
    return f"{licence} (what {library} states)" if licence else None
