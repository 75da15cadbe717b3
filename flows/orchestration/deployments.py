"""Writes prefect.yaml: each preset at each scale, and a nightly one (off by default). `make deployments` runs this."""

from __future__ import annotations

from typing import Any

import yaml

from flows.presets import presets, scaled
from flows.settings import plain
from flows.studies import SCALES, Scale

HEAD = (
    "# Written by `make deployments` from flows/presets.py: each preset at each scale; a nightly one, off by default.\n"
)


def deployment(name: str, preset: str, schedules: list[dict[str, Any]], *scale: Scale) -> dict[str, Any]:
    """One deployment: the preset's whole study as the form's values."""
    function = presets()[preset]
    return {
        "name": name,
        "description": (function.__doc__ or "").strip(),
        "entrypoint": "flows/study.py:run_study",
        "tags": ["burnish"],
        "parameters": {"study": plain(function(*scale)), "out": "artifacts"},
        "work_pool": {"name": "burnish"},
        "schedules": schedules,
    }


def made() -> list[dict[str, Any]]:
    """All deployments."""
    nightly = {"cron": "0 3 * * *", "timezone": "UTC", "active": False}
    found = []
    for name in presets():
        if scaled(name):
            found += [deployment(f"{name}-{scale}", name, [], scale) for scale in SCALES]
        else:
            found.append(deployment(name, name, []))
    return [*found, deployment("quickstart-nightly", "quickstart", [nightly])]


def render() -> str:
    """The text of prefect.yaml."""
    # The worker runs the flow from the folder in which it was started.
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $PWD }}"}}]
    return HEAD + yaml.safe_dump({"name": "burnish", "pull": pull, "deployments": made()}, sort_keys=False, width=120)


if __name__ == "__main__":
    print(render(), end="")
