"""Read a bundle that may come from anybody, without running what is in it, and verify it with burnish's own code."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.bundle.outcome import Differs
from flows.bundle.write import SERVED, SUMS, VERIFYING, copy_code
from flows.settings import Mistake
from flows.validation import one_line
from tasks import runtimes
from tasks.forms import modelfile
from tasks.machine.files import file_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.forms.modelfile import ModelFile

Row = dict[str, Any]
SECONDS = 600
"""The longest time that a bundle's model may take for its golden images."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose data are as `burnish deploy` wrote them."""

    folder: Path
    about: Row
    """What model.json holds."""
    preparation: Row
    """What preparation.json holds."""
    lineage: Row
    """What lineage.json holds."""
    files: tuple[ModelFile, ...]
    """Its model files: the model, and the one with the preparation in the graph, where there is one."""


def read(folder: Path) -> Bundle:
    """Read a bundle, whose model files may be programs.

    Raises
    ------
    Mistake
        If it is no bundle, a file is missing or damaged, or its runtime or settings are none that burnish knows.
    ValueError
        If its model file is none that burnish executes.
    """
    if not folder.is_dir():
        raise Mistake(f"{folder}: no such folder; give a bundle that burnish deploy wrote")
    listed = _check_sums(folder)
    about, preparation, lineage = (
        _json(folder, f"{name}.json", listed) for name in ("model", "preparation", "lineage")
    )
    names = [about.get("file"), *([about["folded"]] if about.get("folded") else [])]
    for file in names:
        if file not in listed:
            raise Mistake(f"{folder / 'model.json'} names a model file that {SUMS} does not list: {file!r}")
    _check_settings(folder, about)
    files = tuple(modelfile.inspect(folder / str(name)) for name in names)
    return Bundle(folder, about, preparation, lineage, files)


def _check_sums(folder: Path) -> set[str]:
    """Check all files that SHA256SUMS lists, and return their names."""
    listed = set()
    for expected, name in _lines(folder):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Mistake(f"{folder / SUMS} lists {name!r}, which is outside of the bundle")
        if not path.is_file():
            raise Mistake(f"{path} is missing; burnish deploy writes the bundle anew")
        if file_sha256(path) != expected:
            raise Mistake(f"{path} is damaged: its SHA-256 is not that in {SUMS}; burnish deploy writes it anew")
        listed.add(name)
    return listed


def _lines(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield sum and name of each file that SHA256SUMS lists."""
    try:
        text = (folder / SUMS).read_text()
    except FileNotFoundError:
        raise Mistake(f"{folder} is no bundle: it has no {SUMS}; burnish deploy writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"{folder / SUMS} cannot be read: {error}") from None
    for line in text.splitlines():
        expected, _, name = line.partition("  ")
        yield expected, name


def _json(folder: Path, name: str, listed: set[str]) -> Row:
    """Return what a JSON file of the bundle holds."""
    if name not in listed:
        raise Mistake(f"{folder / SUMS} does not list {name}; burnish deploy writes the bundle anew")
    try:
        content = json.loads((folder / name).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Mistake(f"{folder / name} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise Mistake(f"{folder / name} is damaged: it holds no JSON object")
    return content


def _check_settings(folder: Path, about: Row) -> None:
    """Refuse a runtime or settings of it that burnish does not know: some make a runtime write files."""
    runtime, threads = about.get("runtime"), about.get("threads")
    if runtime not in SERVED or not isinstance(threads, int) or threads < 1:
        raise Mistake(f"{folder / 'model.json'}: runtime {runtime!r} with {threads!r} threads is not known here")
    # A bundle of an older burnish names no options.
    options = about.setdefault("options", [])
    accepted = runtimes.options_of(runtime)
    if not isinstance(options, list) or not all(isinstance(name, str) and name in accepted for name in options):
        raise Mistake(
            f"{folder / 'model.json'}: options {options!r} are not known here for {runtime}; accepted: "
            f"{', '.join(accepted) or 'none'}"
        )
    known = runtimes.settings_of(runtime, threads, options)
    settings = about.get("settings")
    if not isinstance(settings, dict) or _keys(settings) != _keys(known):
        raise Mistake(f"{folder / 'model.json'}: settings {settings!r} are not those that burnish knows for {runtime}")


def _keys(settings: Row) -> set[str]:
    """Return the keys of settings, also of those within."""
    inner = settings.get("entries")
    return {*settings, *(f"entries.{key}" for key in inner or {})}


def verify(bundle: Bundle) -> str:
    """Run the bundle's model on its golden inputs in a process of its own, and return what is to be said of it.

    The code that does it is burnish's own, not the copy in the bundle.

    Raises
    ------
    Differs
        If an output differs from the golden one by more than the tolerance.
    Mistake
        If the bundle has no golden outputs, or its model does not run here.
    """
    with tempfile.TemporaryDirectory(prefix="burnish-verify-") as folder:
        copy_code(Path(folder), VERIFYING)
        command = [sys.executable, str(Path(folder) / "verify.py"), str(bundle.folder.absolute())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise Mistake(f"{bundle.folder}: the model did not answer within {SECONDS} s") from None
    reason = one_line((done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1])
    if done.returncode == 1 and "Traceback" not in done.stderr:
        raise Differs(reason)
    if done.returncode:
        raise Mistake(reason)
    return done.stdout
