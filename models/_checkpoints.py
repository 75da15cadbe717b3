"""Find the state dict in a file of weights, however a training script wrapped it.

Nothing in a file is executed: with `weights_only`, `torch.load` refuses everything but tensors and plain containers.
For a refused file, the error names the class that was refused and the line of Python that writes its state dict alone.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from models import _filekinds, _pickles
from models._messages import brief, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    State = dict[str, torch.Tensor]

DEPTH = 4
"""A state dict is looked for in nested dicts down to this depth."""
PICKLE = b"\x80"
"""First byte of a file that torch.save wrote before PyTorch 1.6."""

AVERAGED = re.compile(r"(^|[_.])(ema|averaged|swa)([_.]|$)", re.IGNORECASE)
"""Matches keys under which averaged weights are stored, exponentially (EMA) or otherwise, e.g. state_dict_ema."""
COUNTERS = ("n_averaged",)
"""Entries that `torch.optim.swa_utils.AveragedModel` adds to those of the model."""
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
"""Harmless classes of data of the standard library that training scripts put into checkpoints."""
REBUILDERS = ("scalar", "_reconstruct", "dtype", "ndarray")
"""The lower-case names by which NumPy's arrays and numbers stand in a pickle. Others in lower case are functions."""
SAVE_ALONE = "; save the state dict alone where its classes are: torch.save(model.state_dict(), ...)"


class _Candidate(NamedTuple):
    """A state dict in a file that may be the one to load."""

    keys: tuple[str, ...]
    """The keys of the nested dicts that lead to it, outermost first. Empty if the file itself is the state dict."""
    state: State
    left_out: tuple[str, ...]
    """Keys of the entries beside the weights that are not weights."""

    @property
    def path(self) -> str:
        """The keys joined by dots, as messages name them."""
        return ".".join(self.keys)

    @property
    def is_averaged(self) -> bool:
        """Whether its keys say that it holds averaged weights."""
        return bool(AVERAGED.search(self.path))


def read(path: Path, wanted: Mapping[str, torch.Tensor], notes: list[str]) -> State:
    """Return the state dict in a file that fits a model best.

    If several fit alike, averaged weights (EMA) are preferred. A prefix that all names share is removed.

    Parameters
    ----------
    wanted
        The model's own state dict. It may be empty: then only the file is checked.
    notes
        What was chosen and left out is appended here, one sentence each.

    Raises
    ------
    ValueError
        If the file is damaged, holds objects that would have to be executed, or holds no state dict: one line.
    """
    content = _content(path)
    unprefixed = [
        _without_prefix(network, wanted)
        for candidate in _candidates(content, ())
        for network in _networks(candidate, wanted)
    ]
    if not unprefixed:
        raise ValueError(
            f"pretrained: {path} holds no state dict (names of entries with their tensors); {_description(content)}"
        )

    def fit(pair: tuple[_Candidate, str]) -> tuple[int, bool]:
        """Return how many entries fit the model, and whether the weights are averaged."""
        candidate, _ = pair
        fitting = sum(key in wanted and wanted[key].shape == value.shape for key, value in candidate.state.items())
        return fitting, candidate.is_averaged

    best, prefix = max(unprefixed, key=fit)
    if best.keys:
        others = [candidate for candidate, _ in unprefixed if candidate is not best]
        notes.append(_choice(best, others, _unnamed_averages(content)))
    if prefix:
        notes.append(f"the prefix {prefix!r} is removed from the names of its entries")
    if best.left_out:
        notes.append(f"entries that are not weights are left out: {listed(best.left_out)}")
    return best.state


def _networks(candidate: _Candidate, wanted: Mapping[str, torch.Tensor]) -> list[_Candidate]:
    """Split a state dict of several networks (model, ema_model, criterion) into one per network.

    Where the parts of one network stand apart (backbone, head), they are put together. It stays whole if the model's
    entries are in none of the networks, and not in their parts either.
    """
    networks: dict[str, State] = {}
    for key, value in candidate.state.items():
        if key not in COUNTERS:
            network, _, name = key.partition(".")
            networks.setdefault(network, {})[name] = value
    if len(networks) < 2:
        return [candidate]
    if not any(wanted.keys() <= state.keys() for state in networks.values()):
        return [_in_parts(candidate, networks, wanted) or candidate]
    return [_Candidate((*candidate.keys, network), state, ()) for network, state in networks.items()]


def _in_parts(
    candidate: _Candidate, networks: Mapping[str, State], wanted: Mapping[str, torch.Tensor]
) -> _Candidate | None:
    """Return the model whose entries are spread over parts, each entry in one of them; None where it is not so."""
    state: State = {}
    parts: list[str] = []
    for name, entries in networks.items():
        found = {key: value for key, value in entries.items() if key in wanted}
        if found.keys() & state.keys():
            return None
        state |= found
        parts += [name] if found else []
    return _Candidate((*candidate.keys, " + ".join(parts)), state, ()) if wanted.keys() <= state.keys() else None


def _unnamed_averages(content: Any, keys: tuple[str, ...] = ()) -> list[str]:
    """Return the paths at which a file holds averaged weights without names, e.g. as a list of tensors (torch_ema)."""
    if not isinstance(content, dict):
        path = ".".join(keys)
        is_filled_list = isinstance(content, (list, tuple)) and bool(content)
        return [path] if is_filled_list and AVERAGED.search(path) else []
    if len(keys) > DEPTH:
        return []
    paths = []
    for key, value in content.items():
        if isinstance(key, str):
            paths += _unnamed_averages(value, (*keys, key))
    return paths


def _choice(best: _Candidate, others: list[_Candidate], unnamed_averages: list[str]) -> str:
    """Return a sentence that says which state dict of a file is used, and what became of averaged weights."""
    other_paths = ", ".join(repr(other.path) for other in others)
    if best.is_averaged:
        instead = f" instead of those of {other_paths}" if others else ""
        return f"the averaged weights (EMA) of {best.path!r} are used{instead}"
    used = f"the weights of {best.path!r} are used"
    if any(other.is_averaged for other in others):
        return f"{used}, because fewer entries of {other_paths} fit this model"
    if unnamed_averages:
        return f"{used}; the averaged weights (EMA) of {listed(unnamed_averages)} have no names and cannot be used"
    return f"{used}; the file holds no averaged weights (EMA)"


def _candidates(content: Any, keys: tuple[str, ...]) -> Iterator[_Candidate]:
    """Yield each dict of names and tensors, outer ones first. An optimizer's state is none: its keys are numbers."""
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


def _without_prefix(candidate: _Candidate, wanted: Mapping[str, torch.Tensor]) -> tuple[_Candidate, str]:
    """Return the candidate without the prefix that all its names share and the model's do not, and that prefix."""
    state = {key: value for key, value in candidate.state.items() if key not in COUNTERS or key in wanted}
    candidate = candidate._replace(state=state)
    prefix = ""
    while not any(key in wanted for key in state):
        first_steps = {key.partition(".")[0] for key in state}
        if len(first_steps) != 1 or not all("." in key for key in state):
            # No entry is one of the model's, whatever is removed: so nothing removed was a prefix.
            return candidate, ""
        prefix += f"{first_steps.pop()}."
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return candidate._replace(state=state), prefix


def _content(path: Path) -> Any:
    """Load what a file holds, without executing anything in it."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    # The first bytes decide and not the suffix, because people rename files.
    kind = _filekinds.kind(path)
    try:
        if kind == _filekinds.SAFETENSORS:
            return load_file(str(path))
        # torch.load is given an open file, because it judges a path by its suffix.
        with warnings.catch_warnings(), path.open("rb") as file:
            # It warns about TorchScript, which is refused below anyway.
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(
            f"pretrained: {path} is a safetensors file that is cut off or damaged ({brief(error)}): {_filekinds.AGAIN}"
        ) from error
    except Exception as error:
        # On damaged bytes the unpickler raises nearly any kind of exception.
        if kind is None and not _filekinds.head_of(path).startswith(PICKLE):
            kind = "of no known kind"
        if kind not in (None, _filekinds.ZIP):
            accepted = "accepted is a file of weights, as safetensors or torch.save writes it"
            raise ValueError(f"pretrained: {path} is {kind}; {accepted}") from error
        raise ValueError(f"pretrained: {path} cannot be read as a state dict: {_cause(error, path)}") from error


def _cause(error: Exception, path: Path) -> str:
    """Return why `torch.load` refused a file, without PyTorch's advice to unpickle it all the same."""
    text = str(error)
    if "TorchScript archive" in text:
        return "it is a TorchScript program; give the weights as torch.save(model.state_dict(), ...) writes them"
    refusal = re.search(r"GLOBAL (.+?) (?:was not an allowed|whose module)", text)
    if refusal is not None:
        name = refusal[1]
        advice = _call_warning((name,)) if "is blocked" in text else _remedy(path)
        return f"it holds {listed((name,))}, which is not loaded because that could run code from the file{advice}"
    reason = text.rpartition("WeightsUnpickler error:")[2].partition("Please use")[0].strip()
    first_line = reason.splitlines()[0] if reason else ""
    first_sentence = re.split(r"(?<=\.)\s", first_line)[0]
    return brief(ValueError(first_sentence or type(error).__name__))


def _remedy(path: Path) -> str:
    """Return the line of Python that writes the state dict of a refused file alone, or a warning not to use the file.

    That line lets PyTorch load only the classes that the file names, and only if all are classes of data.
    """
    try:
        content, names = _pickles.outline(path)
    except ValueError:
        # The file is damaged, or names something that no file of weights needs.
        return "; leave it, or have its state dict saved alone where it was made: torch.save(model.state_dict(), ...)"
    functions = tuple(sorted(name for name in names if not _is_data(name)))
    if functions:
        return _call_warning(functions)
    accessor = _state_dict_accessor(content)
    if accessor is None or any(name.startswith("__main__.") for name in names):
        return SAVE_ALONE
    allowed = sorted(names)
    # NumPy looks its types of numbers up by name, so that they do not show among the names.
    if "numpy.dtype" in names:
        allowed.append("*map(numpy.dtypes.__dict__.get, numpy.dtypes.__all__)")
    modules = ", ".join(dict.fromkeys(["torch", *sorted(name.rpartition(".")[0] for name in names)]))
    source = json.dumps(str(path))
    target = json.dumps(str(path.with_name(f"{path.stem}-weights.pth")))
    code = (
        f"import {modules}; torch.serialization.add_safe_globals([{', '.join(allowed)}]); "
        f'torch.save(torch.load({source}, map_location="cpu"){accessor}, {target})'
    )
    return f"; this makes a file of its weights alone, with nothing else let in: python -c {shlex.quote(code)}"


def _call_warning(functions: tuple[str, ...]) -> str:
    """Return a warning that a file calls these functions when it is unpickled."""
    return f"; it calls {listed(functions)}, which no weights need: do not open it, and ask where it comes from"


def _is_data(name: str) -> bool:
    """Return whether a dotted name is that of a class of data, as far as can be told without loading it."""
    top_package = name.partition(".")[0]
    last = name.rpartition(".")[2]
    # The name goes into a line of Python, so nothing but a dotted name is let in.
    if not re.fullmatch(r"\w+(\.\w+)+", name):
        return False
    if top_package == "numpy":
        return last in REBUILDERS
    return name in CONTAINERS or (last[:1].isupper() and top_package not in (*sys.stdlib_module_names, "__builtin__"))


def _state_dict_accessor(content: Any) -> str | None:
    """Return the Python text that takes the state dict out of `torch.load(...)`, e.g. `["model"]`, or None."""
    if isinstance(content, _pickles.Inert):
        return ".state_dict()"
    candidates = sorted(_candidates(content, ()), key=lambda candidate: not candidate.is_averaged)
    if not candidates:
        return None
    return "".join(f"[{json.dumps(key)}]" for key in candidates[0].keys)


def _description(content: Any) -> str:
    """Return a clause that says what a file without a state dict holds instead."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}"
    return f"its keys are {listed(tuple(map(str, content)))}" if content else "it is empty"
