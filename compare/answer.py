"""burnish's own entry in the comparison: what `burnish optimize` answers for the given file and images."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from compare.entries import ROOT, Entry, given_file
from tasks import tables
from tasks.caching.store import Store
from tasks.records import Artifact

if TYPE_CHECKING:
    from pathlib import Path

    from compare.models import Given
    from tasks.caching.work import Work

MAX_DROP = 0.005
"""How much less accurate than the given file burnish's answer may be: half a point, as by default."""


def burnish(work: Work, given: Given, options: tuple[str, ...], folder: Path) -> Entry:
    """Run `burnish optimize` with all defaults, on the images as the peers get them, and return its winner.

    Where every candidate was measured under bad conditions, it is the provisional best. `options` are further options
    of the command; `folder` gets its artifacts and what it printed.
    """
    log = folder.with_suffix(".log")
    command: list[str | Path] = [sys.executable, "-m", "flows", "optimize", given_file(work, given)]
    started = time.perf_counter()
    with log.open("wb") as output:
        code = subprocess.run(
            [*command, *_images(given), *options, "--out", folder], cwd=ROOT, stdout=output, stderr=output, check=False
        ).returncode
    seconds = time.perf_counter() - started
    if code:
        return Entry(
            name="burnish", settings="burnish optimize", error=f"exit code {code}; see {log.name}", seconds=seconds
        )
    (run,) = (path.name for path in (folder / "runs").iterdir())
    summary = tables.read(folder, "summary", run).collect().to_dicts()
    best = {row["role"]: row for row in summary if row["role"] in ("winner", "provisional")}
    row = best.get("winner") or best["provisional"]
    variants = tables.read(folder, "variants", run).collect().to_dicts()
    (variant,) = (variant for variant in variants if variant["name"] == row["variant"])
    artifact = Artifact(**{key: variant[key] for key in ("path", "sha256", "size_bytes", "format")})
    form = row["variant"].removeprefix(f"{row['model']}/").replace("/", "-")
    return Entry(
        name=f"burnish/{form}",
        settings=f"the {row['role']} of burnish optimize, all defaults",
        runtimes=(row["runtime"],),
        path=Store(folder / "store").get(artifact),
        seconds=seconds,
    )


def _images(given: Given) -> list[str]:
    """Return the options that make burnish split the images, and calibrate with them, as the comparison does."""
    settings = given.images.model_dump(mode="json", exclude_defaults=True, exclude={"kind", "path"})
    return [
        f"--data={given.images.path}",
        *(f"--set=data.{name}={json.dumps(value)}" for name, value in settings.items()),
        f"--set=quantize.calibration_images={given.calibration_images}",
    ]
