"""The frozen records that cross task boundaries.

Two kinds: *settings* (`Study` and its parts: what a preset, a TOML file, the command line and the Prefect UI write) and
*results* (`Prepared`, `Trained`, `Variant`, ...: what a stage returns). Results name files by `Artifact`; they never
hold rows, arrays or live models. Every record carries `kind`, so that two different steps with equal fields do not hash
alike.
"""

from __future__ import annotations

from tasks.records._base import (
    AUTO,
    MOST_IMAGES_PER_BATCH,
    MOST_MINUTES,
    MOST_SECONDS,
    MOST_THREADS,
    PATTERNS,
    Record,
    StageName,
    formats,
    plugins,
    skippable,
)
from tasks.records._data import Data, Model
from tasks.records._forms import QAT_SETTINGS, QUANTIZE_SETTINGS, Benchmark, Build, Export, Qat, Quantize, Select, Serve
from tasks.records._results import (
    Artifact,
    Context,
    Forms,
    Inspected,
    Measured,
    Output,
    Preparation,
    Prepared,
    Result,
    Trained,
    Variant,
)
from tasks.records._search import OF_MODEL, Ablate, Augment, Choice, Prune, Range, Tune
from tasks.records._study import Study
from tasks.records._train import POLICIES, Train, device_name

__all__ = [
    "AUTO",
    "MOST_IMAGES_PER_BATCH",
    "MOST_MINUTES",
    "MOST_SECONDS",
    "MOST_THREADS",
    "OF_MODEL",
    "PATTERNS",
    "POLICIES",
    "QAT_SETTINGS",
    "QUANTIZE_SETTINGS",
    "Ablate",
    "Artifact",
    "Augment",
    "Benchmark",
    "Build",
    "Choice",
    "Context",
    "Data",
    "Export",
    "Forms",
    "Inspected",
    "Measured",
    "Model",
    "Output",
    "Preparation",
    "Prepared",
    "Prune",
    "Qat",
    "Quantize",
    "Range",
    "Record",
    "Result",
    "Select",
    "Serve",
    "StageName",
    "Study",
    "Train",
    "Trained",
    "Tune",
    "Variant",
    "device_name",
    "formats",
    "plugins",
    "skippable",
]
