"""The state dict in a file, however a training script wrapped it: found, unwrapped, and what was left out said.

Nothing in a file is run: `torch.load` refuses whatever is no weight and no plain container (`weights_only`), and of
such a file the class and the line of Python that makes a state dict of it are named.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from models import _filekinds, _pickles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    State = dict[str, torch.Tensor]

DEPTH = 4
"""State dicts are looked for in dicts within dicts, so many deep."""
PICKLE = b"\x80"
"""First byte of what torch.save wrote before PyTorch 1.6."""
SHOWN = 12
"""Keys of a file that a message names."""
AVERAGED = re.compile(r"(^|[_.])(ema|averaged|swa)([_.]|$)", re.IGNORECASE)
"""Keys of exponentially or otherwise averaged weights: state_dict_ema, model_ema, ema_state_dict, ..."""
COUNTERS = ("n_averaged",)
"""Entries that `torch.optim.swa_utils.AveragedModel` adds beside the model's own."""
CONTAINERS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.defaultdict",
    "collections.deque",
    "datetime.datetime",
    "datetime.date",
    "pathlib.PosixPath",
    "pathlib.Path",
)
"""What the standard library has of harmless data that training scripts put into checkpoints."""
REBUILDERS = ("scalar", "_reconstruct", "dtype", "ndarray")
"""What NumPy's arrays and numbers name in a pickle, in lower case; other names in lower case are functions."""
SAVE_ALONE = "; save the state dict alone where its classes are: torch.save(model.state_dict(), ...)"


class _Candidate(NamedTuple):
    """A state dict in a file."""

    keys: tuple[str, ...]
    """Where it is: keys from the outermost inwards; empty for the file itself."""
    state: State
    left_out: tuple[str, ...]
    """Entries beside the weights that are none."""

    @property
    def where(self) -> str:
        """The keys, as messages name them."""
        return ".".join(self.keys)

    @property
    def averaged(self) -> bool:
        """Whether it holds averaged weights, by its key."""
        return bool(AVERAGED.search(self.where))


def brief(error: Exception) -> str:
    """A message in one line of at most 200 characters."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 200 else f"{words[:197]}..."


def read(path: Path, want: Mapping[str, torch.Tensor], notes: list[str]) -> State:
    """The state dict in a file that fits a model best; `want` is the model's own, and `notes` get what was chosen.

    Averaged weights (EMA) are preferred where a file has both. A prefix that all entries share is left out.

    Raises
    ------
    ValueError
        If the file is damaged, holds objects that would have to be run, or no state dict: one line.
    """
    content = _content(path)
    candidates = [_unprefixed(part, want) for one in _candidates(content, ()) for part in _networks(one, want)]
    if not candidates:
        raise ValueError(
            f"pretrained: {path} holds no state dict (names of entries with their tensors); {_held(content)}"
        )

    def rank(index: int) -> tuple[int, bool, int]:
        state = candidates[index][0].state
        fitting = sum(key in want and want[key].shape == value.shape for key, value in state.items())
        return fitting, candidates[index][0].averaged, -index

    best, prefix = candidates[max(range(len(candidates)), key=rank)]
    if best.keys:
        notes.append(_chosen(best, [one for one, _ in candidates if one is not best], _other_averages(content)))
    if prefix:
        notes.append(f"the prefix {prefix!r} of its entries is left out")
    if best.left_out:
        notes.append(f"entries that are no weights are left out: {_listed(best.left_out)}")
    return best.state


def _networks(candidate: _Candidate, want: Mapping[str, torch.Tensor]) -> list[_Candidate]:
    """A state dict of several networks (model, ema_model, criterion) as one per network, if one of them is the
    model."""
    parts: dict[str, State] = {}
    for key, value in candidate.state.items():
        if key not in COUNTERS:
            first, _, rest = key.partition(".")
            parts.setdefault(first, {})[rest] = value
    if len(parts) < 2 or not any(want.keys() <= state.keys() for state in parts.values()):
        return [candidate]
    return [_Candidate((*candidate.keys, first), state, ()) for first, state in parts.items()]


def _other_averages(content: Any, keys: tuple[str, ...] = ()) -> list[str]:
    """Where a file holds averaged weights in a form that is no state dict, e.g. a list of tensors (torch_ema)."""
    if not isinstance(content, dict):
        listed = isinstance(content, (list, tuple)) and bool(content)
        return [".".join(keys)] if listed and AVERAGED.search(".".join(keys)) else []
    if len(keys) > DEPTH:
        return []
    return [
        found
        for key, value in content.items()
        if isinstance(key, str)
        for found in _other_averages(value, (*keys, key))
    ]


def _chosen(best: _Candidate, others: list[_Candidate], lists: list[str]) -> str:
    """Which state dict of a file is used, and whether it has averaged weights, of which `lists` are no state dicts."""
    beside = ", ".join(repr(one.where) for one in others)
    if best.averaged:
        return f"the averaged weights (EMA) of {best.where!r} are used" + (f", not those of {beside}" if others else "")
    if any(one.averaged for one in others):
        return f"the weights are those of {best.where!r}; of {beside}, fewer entries fit this model"
    if lists:
        where = _listed(tuple(lists))
        return (
            f"the weights are those of {best.where!r}; the averaged ones (EMA) of {where} have no names and "
            "are not used"
        )
    return f"the weights are those of {best.where!r}; the file holds no averaged ones (EMA)"


def _listed(names: tuple[str, ...]) -> str:
    """Names of a file for a message: not all of many, and nothing in them that would steer a terminal."""
    words = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _candidates(content: Any, keys: tuple[str, ...]) -> Iterator[_Candidate]:
    """Dicts of names and tensors, the outer ones first. An optimizer's state has numbers for names."""
    import torch

    if not isinstance(content, dict):
        return
    weights = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if any("." in key or value.ndim > 1 for key, value in weights.items()):
        yield _Candidate(keys, weights, tuple(str(key) for key in content if key not in weights))
    elif len(keys) < DEPTH:
        for key, value in content.items():
            if isinstance(key, str):
                yield from _candidates(value, (*keys, key))


def _unprefixed(candidate: _Candidate, want: Mapping[str, torch.Tensor]) -> tuple[_Candidate, str]:
    """(The candidate without the prefix that all its entries share and the model's do not, that prefix)."""
    state = {key: value for key, value in candidate.state.items() if key not in COUNTERS or key in want}
    candidate, prefix = candidate._replace(state=state), ""
    while not any(key in want for key in state):
        first = {key.partition(".")[0] for key in state}
        if len(first) != 1 or not all("." in key for key in state):
            # without any entry of the model, a prefix is no prefix but a part of other names
            return candidate, ""
        prefix += f"{first.pop()}."
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return candidate._replace(state=state), prefix


def _content(path: Path) -> Any:
    """What the file holds, never by executing what it says."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # by content: people rename files
    what = _filekinds.kind(path)
    try:
        if what == _filekinds.SAFETENSORS:
            return load_file(str(path))
        # of a path torch.load goes by the suffix
        with warnings.catch_warnings(), path.open("rb") as file:
            # it warns of TorchScript, which is refused anyway
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(
            f"pretrained: {path} is a safetensors file that is cut off or damaged ({brief(error)}): {_filekinds.AGAIN}"
        ) from error
    except Exception as error:
        # on damaged bytes the unpickler raises nearly anything
        if what is None and not _filekinds.head_of(path).startswith(PICKLE):
            what = "of no known kind"
        if what not in (None, _filekinds.ZIP):
            accepted = "accepted is a file of weights, as safetensors or torch.save writes it"
            raise ValueError(f"pretrained: {path} is {what}; {accepted}") from error
        raise ValueError(f"pretrained: {path} cannot be read as a state dict: {_cause(error, path)}") from error


def _cause(error: Exception, path: Path) -> str:
    """Why `torch.load` refused a file, without its advice to have it unpickled all the same."""
    text = str(error)
    if "TorchScript archive" in text:
        return "it is a TorchScript program; give the weights as torch.save(model.state_dict(), ...) writes them"
    if found := re.search(r"GLOBAL (.+?) (?:was not an allowed|whose module)", text):
        blocked = (found[1],) if "is blocked" in text else ()
        return f"it holds {_listed((found[1],))}, which is not loaded, as that could run code of the file" + (
            _calls(blocked) if blocked else _remedy(path)
        )
    reason = text.rpartition("WeightsUnpickler error:")[2].partition("Please use")[0].strip()
    first = re.split(r"(?<=\.)\s", reason.splitlines()[0] if reason else "")[0]
    return brief(ValueError(first or type(error).__name__))


def _remedy(path: Path) -> str:
    """The line of Python that makes a state dict of a file, letting in just the classes that it names; else a
    warning."""
    try:
        content, names = _pickles.outline(path)
    except ValueError:
        # damaged, or it names what no file of weights has
        return "; leave it, or have its state dict saved alone where it was made: torch.save(model.state_dict(), ...)"
    if calls := tuple(sorted(name for name in names if not _is_data(name))):
        return _calls(calls)
    where = _weights_in(content)
    if where is None or any(name.startswith("__main__.") for name in names):
        return SAVE_ALONE
    allowed = sorted(names)
    # the types of numbers are looked up by name, so that they do not show
    if "numpy.dtype" in names:
        allowed.append("*map(numpy.dtypes.__dict__.get, numpy.dtypes.__all__)")
    modules = ", ".join(dict.fromkeys(["torch", *sorted(name.rpartition(".")[0] for name in names)]))
    source, target = json.dumps(str(path)), json.dumps(str(path.with_name(f"{path.stem}-weights.pth")))
    code = (
        f"import {modules}; torch.serialization.add_safe_globals([{', '.join(allowed)}]); "
        f'torch.save(torch.load({source}, map_location="cpu"){where}, {target})'
    )
    return f"; this makes a file of its weights alone, with nothing else let in: python -c {shlex.quote(code)}"


def _calls(names: tuple[str, ...]) -> str:
    """A warning of a file that names functions."""
    return f"; it calls {_listed(names)}, which no weights need: do not open it, and ask where it comes from"


def _is_data(name: str) -> bool:
    """Whether a name is that of a class of data, as far as can be told without loading it."""
    top, last = name.partition(".")[0], name.rpartition(".")[2]
    # it goes into a line of Python
    if not re.fullmatch(r"\w+(\.\w+)+", name):
        return False
    if top == "numpy":
        return last in REBUILDERS
    return name in CONTAINERS or (last[:1].isupper() and top not in (*sys.stdlib_module_names, "__builtin__"))


def _weights_in(content: Any) -> str | None:
    """Python after `torch.load(...)` that gives the state dict; None where there is none to be seen."""
    if isinstance(content, _pickles.Inert):
        return ".state_dict()"
    found = sorted(_candidates(content, ()), key=lambda one: not one.averaged)
    return "".join(f"[{json.dumps(key)}]" for key in found[0].keys) if found else None


def _held(content: Any) -> str:
    """What a file without a state dict holds instead, for a message."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    return f"its keys are {_listed(tuple(map(str, content)))}" if content else "it is empty"
