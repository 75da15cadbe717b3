"""The stage that opens the fastest form of each runtime in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars
import pytest

import tasks.configure
from tasks.caching.work import Work
from tasks.configure import configure, fastest
from tasks.forms.configurations import ROUNDS, Configuration, Times
from tasks.records import Artifact, Forms, Prepared, Quantized, Scored, Tried, Variant
from tests.support.digits import digits

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

LATENCIES = {"onnxruntime": 4.0, "openvino": 3.0}
NOTHING = Forms(variants=())


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("configure"), "configure")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work)


@pytest.fixture(scope="module")
def artifact(work: Work) -> Artifact:
    with work.store.temporary() as folder:
        (folder / "model.onnx").write_bytes(b"a model")
        return work.store.put(folder / "model.onnx", "onnx", "fp32")


def variant(artifact: Artifact, name: str, setting: str = "", left_out_of: tuple[str, ...] = ()) -> Variant:
    return Variant(
        name=name,
        model="m",
        stage="quantize",
        format="onnx",
        setting=setting,
        artifact=artifact,
        benchmark=True,
        left_out_of=left_out_of,
    )


def scored(setting: str, latency: float, drop: float = 0.0) -> Scored:
    return Scored(setting=setting, look=0.1, divergence=0.1, drop=drop, latencies=dict.fromkeys(LATENCIES, latency))


@pytest.fixture
def parent(artifact: Artifact) -> Variant:
    return variant(artifact, "m/given")


@pytest.fixture
def quantized(artifact: Artifact) -> Quantized:
    forms = (variant(artifact, "m/u8s8", "u8s8", ("openvino",)), variant(artifact, "m/s8s8", "s8s8"))
    return Quantized(variants=forms, scored=(scored("u8s8", 1.0), scored("s8s8", 2.0)), fp32_latencies=LATENCIES)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[Configuration, float]:
    """Return the latency of each configuration, which a test may change; 1 where there is none."""
    latencies: dict[Configuration, float] = {}

    def pretend(
        runtime: str, path: Path, image: np.ndarray, configurations: tuple[Configuration, Configuration]
    ) -> Times:
        one, other = (latencies.get(each, 1.0) for each in configurations)
        return [one] * ROUNDS, [other] * ROUNDS

    monkeypatch.setattr(tasks.configure, "times_of", pretend)
    return latencies


def configured(work: Work, data: Prepared, parent: Variant, quantized: Quantized) -> Forms:
    return configure(
        work, data, parent, quantized, (), NOTHING, "onnxruntime", ("openvino", "eager"), threads=4, max_drop=0.005
    )


def test_the_fastest_configuration_is_a_variant_of_its_own_for_its_runtime_alone(
    work: Work, data: Prepared, parent: Variant, quantized: Quantized, times: dict[Configuration, float]
) -> None:
    times[Configuration(2)] = 0.8
    times[Configuration(2, ("no-arena",))] = 0.7
    forms = configured(work, data, parent, quantized)
    (form,) = forms.variants
    assert (form.name, form.parent, form.stage) == ("m/u8s8@onnxruntime+2-threads+no-arena", "m/u8s8", "configure")
    assert (form.threads, form.options, form.left_out_of) == (2, ("no-arena",), ("openvino", "eager"))
    assert form.benchmark and form.artifact == quantized.variants[0].artifact
    written = polars.read_parquet(work.store.get(forms.tables["variants"])).row(0, named=True)
    assert (written["threads"], written["options"], written["chosen_in"]) == (2, "no-arena", "onnxruntime")
    rows = polars.read_parquet(work.store.get(forms.tables["configurations"]))
    assert rows.filter("taken")["configuration"].to_list() == ["2-threads", "2-threads, no-arena"]


def test_where_nothing_is_clearly_faster_there_is_no_variant(
    work: Work, data: Prepared, parent: Variant, quantized: Quantized, times: dict[Configuration, float]
) -> None:
    times[Configuration(2)] = 0.98
    forms = configured(work, data, parent, quantized)
    assert forms.variants == () and "variants" not in forms.tables
    rows = polars.read_parquet(work.store.get(forms.tables["configurations"]))
    assert set(rows["against"]) == {"usual"} and not rows["taken"].any()


def test_the_fastest_form_is_the_one_that_goes_on_in_the_runtime_and_whose_drop_is_allowed(
    artifact: Artifact, parent: Variant, quantized: Quantized
) -> None:
    def name(runtime: str, *trials: Tried) -> str:
        chosen = Forms(variants=tuple(trial.variant for trial in trials if trial.variant is not None))
        return fastest(parent, quantized, trials, chosen, runtime, 0.005).name

    def trial(latency: float, drop: float) -> Tried:
        form = variant(artifact, "m/mixed", "u8s8+1 blocks in float")
        return Tried(number=1, setting="u8s8", ended="done", scored=scored("u8s8", latency, drop), variant=form)

    assert name("onnxruntime") == "m/u8s8"
    assert name("openvino") == "m/s8s8"
    assert name("openvino", trial(1.5, 0.001)) == "m/mixed"
    assert name("openvino", trial(1.5, 0.02)) == "m/s8s8"


def test_where_no_int8_form_is_faster_it_is_fp32(parent: Variant, quantized: Quantized) -> None:
    slow = quantized.model_copy(update={"fp32_latencies": {"onnxruntime": 0.5}})
    assert fastest(parent, slow, (), NOTHING, "onnxruntime", 0.005) is parent
