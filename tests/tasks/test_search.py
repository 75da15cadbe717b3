"""The stages of the search for forms: ranking layers, one trial after the other, and choosing the survivors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
import polars
import pytest

import tasks.search
from tasks.caching.work import Work
from tasks.choose import choose
from tasks.export import export
from tasks.forms.blocks import blocks
from tasks.forms.choice import Timed
from tasks.quantize import quantize
from tasks.rank import rank
from tasks.records import (
    Export,
    Prepared,
    Quantize,
    Quantized,
    Ranked,
    RankedBlock,
    Scored,
    Search,
    Tried,
    Variant,
)
from tasks.runtimes import load
from tasks.search import search, search_task
from tests.support.digits import digits, stored_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

SETTINGS = Search(trials=5)
STRICT = Quantize(settings=("u8s8",), dynamic=False, calibration_images=32, max_drop=0)
"""A budget that no int8 form of an untrained network keeps."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("search"), "search")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work)


@pytest.fixture(scope="module")
def parent(work: Work, data: Prepared) -> Variant:
    weights = stored_model(work, "l", name="lenet5", num_classes=10, in_channels=1, image_size=8)
    return export(work, data, weights, Export(formats=("onnx",))).variants[0]


@pytest.fixture(scope="module")
def quantized(work: Work, data: Prepared, parent: Variant) -> Quantized:
    """Return real int8 forms, with latencies as if int8 were twice as fast."""
    forms = quantize(work, data, parent, STRICT, ("onnxruntime", "openvino"))
    fp32 = dict.fromkeys(("onnxruntime", "openvino"), 2.0)
    scored = tuple(
        each.model_copy(update={"latencies": dict.fromkeys(fp32, 1.0), "drop": 0.02}) for each in forms.scored
    )
    return forms.model_copy(update={"fp32_latencies": fp32, "scored": scored})


@pytest.fixture(scope="module")
def ranked(work: Work, parent: Variant) -> tuple[Ranked, ...]:
    assert parent.artifact is not None
    graph = onnx.load(work.store.get(parent.artifact))
    ranking = tuple(RankedBlock(name=block.name, nodes=block.nodes) for block in blocks(graph))
    return (Ranked(runtime="onnxruntime", blocks=ranking),)


@pytest.fixture
def ratios(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Return the latency of every form that is measured, as a multiple of fp32's, by runtime. A test may change it."""
    latencies = {"onnxruntime": 0.6, "openvino": 0.7}

    def pretend(name: str, fp32: Path, forms: dict[str, Path], image: np.ndarray, rounds: int = 5) -> Timed:
        return Timed(2.0, dict.fromkeys(forms, latencies[name]), {})

    monkeypatch.setattr(tasks.search, "time_in", pretend)
    return latencies


@pytest.fixture
def tried(
    work: Work, data: Prepared, parent: Variant, quantized: Quantized, ranked: tuple[Ranked, ...]
) -> Callable[..., Tried]:
    """Return a function that does the trial after some earlier ones."""

    def trial(*earlier: Tried, ranking: tuple[Ranked, ...] = ranked) -> Tried:
        return search(work, data, parent, quantized, ranking, earlier, STRICT, SETTINGS, len(earlier) + 1)

    return trial


def row(work: Work, trial: Tried) -> dict[str, Any]:
    return polars.read_parquet(work.store.get(trial.tables["search"])).row(0, named=True)


def test_a_trial_puts_the_first_blocks_into_floating_point_and_scores_the_form(
    work: Work, parent: Variant, quantized: Quantized, tried: Callable[..., Tried], ratios: dict[str, float]
) -> None:
    trial = tried()
    assert (trial.setting, trial.runtime, trial.kept, trial.ended) == ("u8s8", "onnxruntime", 2, "done")
    assert trial.scored is not None and trial.variant is not None and trial.variant.artifact is not None
    assert trial.scored.latencies == {"onnxruntime": pytest.approx(1.2), "openvino": pytest.approx(1.4)}
    assert trial.scored.divergence is not None and trial.scored.divergence < quantized.scored[0].divergence  # type: ignore[operator]
    assert trial.variant.name == "l/onnx/int8-u8s8-float2-onnxruntime" or trial.variant.name.endswith(
        "-float2-onnxruntime"
    )
    form = onnx.load(work.store.get(trial.variant.artifact))
    assert parent.artifact is not None
    plain = quantized.variants[0]
    assert plain.artifact is not None
    before = [node.op_type for node in onnx.load(work.store.get(plain.artifact)).graph.node]
    after = [node.op_type for node in form.graph.node]
    assert 0 < after.count("QuantizeLinear") < before.count("QuantizeLinear")
    written = row(work, trial)
    assert (written["trial"], written["kept"], written["ended"]) == (1, 2, "done")
    assert json.loads(written["latencies"]) == trial.scored.latencies


def test_a_form_that_is_slower_than_fp32_is_left_after_the_first_look(
    work: Work, tried: Callable[..., Tried], ratios: dict[str, float]
) -> None:
    ratios["onnxruntime"] = 1.1
    trial = tried()
    assert (trial.ended, trial.variant) == ("slower", None)
    assert trial.scored is not None and (trial.scored.drop, trial.scored.divergence) == (None, None)
    assert row(work, trial)["drop"] is None


def test_a_form_is_left_after_the_first_look_where_another_is_more_faithful_and_faster(
    tried: Callable[..., Tried], ratios: dict[str, float]
) -> None:
    better = Scored(setting="u8s8", look=0.0, divergence=0.0, drop=0.01, latencies={"onnxruntime": 1.1})
    before = Tried(number=1, setting="u8s8", runtime="onnxruntime", kept=1, ended="done", scored=better)
    trial = tried(before)
    assert (trial.ended, trial.variant) == ("worse", None)


def test_a_trial_that_fails_is_a_row_with_the_reason_and_is_not_repeated(
    work: Work, tried: Callable[..., Tried], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Timed:
        return Timed(None, {}, {"u8s8": "no such operator"})

    monkeypatch.setattr(tasks.search, "time_in", refuse)
    trial = tried()
    assert (trial.ended, trial.scored) == ("failed", None)
    assert "onnxruntime does not execute it: no such operator" in row(work, trial)["error"]
    assert tried(trial).kept != trial.kept


def test_where_no_layer_is_ranked_nothing_is_left_to_try(tried: Callable[..., Tried]) -> None:
    trial = tried(ranking=(Ranked(runtime="onnxruntime", blocks=()),))
    assert (trial.ended, trial.tables) == ("nothing left", {})


def test_more_trials_and_other_limits_do_not_change_a_trials_key(
    data: Prepared, parent: Variant, quantized: Quantized, ranked: tuple[Ranked, ...]
) -> None:
    def parts(**changed: Any) -> dict[str, Any]:
        inputs = {
            "data": data,
            "parent": parent,
            "quantized": quantized,
            "ranked": ranked,
            "earlier": (),
            "quantize": STRICT,
            "settings": SETTINGS.model_copy(update=changed),
            "number": 1,
        }
        return search_task.about.parts(inputs)  # type: ignore[attr-defined, no-any-return]

    assert parts(trials=50, minutes=3, patience=2, survivors=4) == parts()
    assert parts(seed=1) != parts() != parts(settings=("s8s8",))
    assert "code of tasks.runtimes.openvino" in parts()


def test_blocks_are_ranked_by_what_the_fastest_form_gains_in_a_runtime(
    work: Work, data: Prepared, parent: Variant, quantized: Quantized
) -> None:
    ranking = rank(work, data, parent, quantized, "onnxruntime", 0.0)
    table = polars.read_parquet(work.store.get(ranking.tables["layers"]))
    assert table["rank"].to_list() == list(range(1, len(table) + 1)) and len(table) > 2
    timed = table.filter((polars.col("saved") > 0) & polars.col("latency").is_not_null())
    assert [block.name for block in ranking.blocks] == timed["block"].to_list()
    assert set(table["form"]) == {quantized.variants[0].name}


@pytest.mark.parametrize(("fp32", "max_drop"), [(0.9, 0.0), (2.0, 0.05)])
def test_nothing_is_ranked_where_int8_is_not_faster_or_loses_little_enough(
    work: Work, data: Prepared, parent: Variant, quantized: Quantized, fp32: float, max_drop: float
) -> None:
    forms = quantized.model_copy(update={"fp32_latencies": {"onnxruntime": fp32}})
    assert rank(work, data, parent, forms, "onnxruntime", max_drop).blocks == ()


def survivor(number: int, drop: float, **latencies: float) -> Tried:
    scored = Scored(setting="u8s8", look=0.1, divergence=0.1, drop=drop, latencies=latencies)
    return Tried(number=number, setting="u8s8", runtime="openvino", kept=number, ended="done", scored=scored)


def test_the_fastest_allowed_forms_go_on_each_in_the_runtimes_in_which_it_is_faster(
    work: Work, parent: Variant, quantized: Quantized, tried: Callable[..., Tried], ratios: dict[str, float]
) -> None:
    form = tried().variant
    assert form is not None
    trials = tuple(
        trial.model_copy(update={"variant": form.model_copy(update={"name": f"form-{trial.number}"})})
        for trial in (
            survivor(1, 0.0, onnxruntime=1.5, openvino=1.7),
            survivor(2, 0.0, onnxruntime=1.6, openvino=2.5),
            survivor(3, 0.3, onnxruntime=0.5, openvino=0.5),
            survivor(4, 0.0, onnxruntime=1.7, openvino=2.1),
        )
    )
    chosen = choose(work, parent, quantized, trials, STRICT, SETTINGS)
    assert [(variant.name, variant.left_out_of) for variant in chosen.variants] == [
        ("form-1", ()),
        ("form-2", ("openvino",)),
    ]
    assert all(variant.benchmark for variant in chosen.variants)
    written = polars.read_parquet(work.store.get(chosen.tables["variants"]))
    assert written["chosen_in"].to_list() == ["onnxruntime, openvino", "onnxruntime"]


def test_a_form_goes_on_only_if_it_is_faster_than_the_allowed_ones_of_the_stage_quantize(
    work: Work, data: Prepared, parent: Variant, quantized: Quantized
) -> None:
    accurate = quantized.scored[0].model_copy(update={"drop": 0.0})
    forms = quantized.model_copy(update={"scored": (accurate,)})
    trial = survivor(1, 0.0, onnxruntime=1.5, openvino=1.5)
    assert choose(work, parent, forms, (trial,), STRICT, SETTINGS).variants == ()


def test_a_runtime_of_the_search_is_one_that_executes_onnx() -> None:
    assert all("onnx" in load(name).FORMATS for name in ("onnxruntime", "openvino", "openvino_bf16"))
