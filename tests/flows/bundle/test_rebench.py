"""`burnish rebench` measures a bundle's model as its run did, and shows both figures with both machines."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from flows.bundle.lineage import machine_name
from flows.cli import main
from flows.commands.rebench import ratio_of
from tasks import machine
from tests.support.bundles import sum_anew


def measured(bundle: Path, out: Path, *more: str) -> int:
    return main(["rebench", str(bundle), "--out", str(out), "--seconds", "0.2", "--rounds", "2", *more])


def with_lineage(bundle: Path, copy: Path, **changed: object) -> Path:
    """Copy a bundle, with other figures in lineage.json."""
    shutil.copytree(bundle, copy)
    lineage = json.loads((copy / "lineage.json").read_text())
    lineage["measured"] |= changed
    lineage["libraries"] = {"onnxruntime": "1.2.3"}
    (copy / "lineage.json").write_text(json.dumps(lineage))
    sum_anew(copy)
    return copy


def test_rebench_shows_the_figures_of_both_machines(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = with_lineage(
        bundles["onnxruntime"],
        tmp_path / "copy",
        latency_median_ms=1000.0,
        latency_median_low_ms=900.0,
        latency_median_high_ms=1100.0,
        conditions="the fan was loud",
    )
    assert measured(copy, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    title, _, head, original, here, *_ = printed.splitlines()
    assert title == "lenet5/train/onnx in onnxruntime, batch 1"
    assert head.split() == ["median", "ms", "99", "%", "interval", "images/s", "threads", "machine"]
    assert original.startswith("original")
    assert re.search("1\u202f000 +900 – 1\u202f100 ", original)
    assert original.endswith("a processor, 2 cores")
    assert here.endswith(machine_name(machine.environment()))
    # Here, LeNet-5 takes less than half a second.
    times = re.search(r"A query takes (\S+) times as long here as on the original", printed)
    assert times
    assert float(times[1]) < 0.5
    assert "note: onnxruntime was 1.2.3 there and is 1." in printed
    assert "note: measured under bad conditions there: the fan was loud" in printed
    assert list((tmp_path / "out" / "bench").glob("*/benchmarks.parquet"))


def test_the_ratio_has_an_interval_where_both_have_one() -> None:
    there = {"latency_median_ms": 2.0, "latency_median_low_ms": 1.0, "latency_median_high_ms": 4.0}
    here = {"latency_median_ms": 3.0, "latency_median_low_ms": 2.0, "latency_median_high_ms": 5.0}
    assert ratio_of(there, here) == (1.5, 0.5, 5.0)
    assert ratio_of({"latency_median_ms": 2.0, "latency_median_low_ms": None}, here) == (1.5, None, None)


def test_a_bundle_that_does_not_say_its_figures_is_refused(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = with_lineage(bundles["onnxruntime"], tmp_path / "copy", latency_median_ms=None)
    assert measured(copy, tmp_path / "out") == 2
    assert "does not say how fast the model was" in capsys.readouterr().err
    assert measured(bundles["torchscript"], tmp_path / "out") == 2
    assert "a TorchScript file is a program" in capsys.readouterr().err
    assert measured(tmp_path / "none", tmp_path / "out") == 2
    assert "no such folder" in capsys.readouterr().err
