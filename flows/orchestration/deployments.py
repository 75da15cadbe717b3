"""Write prefect.yaml: one deployment per preset and scale, and a nightly one that is off. `make deployments` runs this.

A deployment stores only the settings that differ from the defaults of the records. Prefect's form shows all fields: it
takes those that are not stored from the schema of the flow's parameters.
"""

from __future__ import annotations

from typing import Any

import yaml

from flows.presets import presets, scaled
from flows.settings import changed_settings
from flows.studies import SCALES, Scale

HEAD = """\
# Written by `make deployments`: one deployment per preset (flows/presets.py, flows/studies.py) and scale.
# Of each study only what differs from the defaults in tasks/records/ is written; Prefect's form shows all fields.
"""
COMMON = {
    "entrypoint": "flows/study.py:run_study",
    "tags": ["burnish"],
    "work_pool": {"name": "burnish"},
    "schedules": [],
}
"""What all deployments have in common. The nightly one has a schedule of its own."""
NIGHTLY = {"cron": "0 3 * * *", "timezone": "UTC", "active": False}


def all_deployments() -> list[dict[str, Any]]:
    """Return all deployments, each as one entry of prefect.yaml."""
    entries = []
    for name in presets():
        if scaled(name):
            entries += [_deployment(f"{name}-{scale}", name, scale) for scale in SCALES]
        else:
            entries.append(_deployment(name, name))
    nightly = _deployment("quickstart-nightly", "quickstart") | {"schedules": [NIGHTLY]}
    return [*entries, nightly]


def _deployment(name: str, preset: str, *scale: Scale) -> dict[str, Any]:
    """Return the deployment of a preset, at a scale if the preset has several."""
    function = presets()[preset]
    description = " ".join((function.__doc__ or "").split())
    parameters = {"study": changed_settings(function(*scale))}
    return {"name": name, "description": description, "parameters": parameters, **COMMON}


class _Merge(str):
    """The key `<<`, by which YAML copies the entries of another mapping."""


class _Braced(dict[str, Any]):
    """A mapping that is written in braces, with all that it holds, on as few lines as the width allows."""


class _Dumper(yaml.SafeDumper):
    """Write `<<` as YAML's merge key, and the mapping that stands in several places once, under the name "common"."""

    def generate_anchor(self, node: yaml.Node) -> str:
        return "common"


_Dumper.add_representer(_Merge, lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:merge", "<<"))
_Dumper.add_representer(
    _Braced, lambda dumper, mapping: dumper.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=True)
)


def render() -> str:
    """Return the text of prefect.yaml."""
    common = _Braced(COMMON)
    entries = []
    for deployment in all_deployments():
        differing = {key: value for key, value in deployment.items() if value != COMMON.get(key)}
        parameters = {"study": _Braced(deployment["parameters"]["study"])}
        entries.append({_Merge("<<"): common} | differing | {"parameters": parameters})
    # The worker runs the flow from the folder in which it was started.
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": "{{ $PWD }}"}}]
    content = {"name": "burnish", "pull": pull, "definitions": {"common": common}, "deployments": entries}
    return HEAD + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=112)


if __name__ == "__main__":
    print(render(), end="")
