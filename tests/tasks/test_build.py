"""The build stage. TensorRT for RTX builds the engines, which needs no GPU; running them needs one."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import polars
import pytest

from tasks import build as stage
from tasks import runtimes
from tasks.build import build
from tasks.caching.work import Work
from tasks.export import export
from tasks.machine import gpu
from tasks.quantize import quantize
from tasks.records import Build, Export, Forms, Prepared, Quantize, Variant
from tasks.runtimes import _tensorrt as tensorrt
from tests.support.command import skip_without_engines
from tests.support.digits import digits, stored_model

if TYPE_CHECKING:
    from pathlib import Path

PRECISIONS = ("fp32", "fp16", "int8")
ALL_PRECISIONS = Build(precisions=PRECISIONS)
needs_builder = pytest.mark.skipif(
    tensorrt.importlib.util.find_spec(tensorrt.RTX) is None, reason="TensorRT for RTX is not installed"
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work.at(tmp_path_factory.mktemp("build"), "build")


@pytest.fixture(scope="module")
def data(work: Work) -> Prepared:
    return digits(work)


@pytest.fixture(scope="module")
def onnx_forms(work: Work, data: Prepared) -> tuple[Variant, Variant]:
    """The fp32 ONNX form of an eighth-width ResNet-34, and its symmetric int8 form."""
    weights = stored_model(work, "r", name="resnet34", num_classes=10, in_channels=1, image_size=8, width=8)
    parent = export(work, data, weights, Export(formats=("onnx",))).variants[0]
    symmetric = quantize(
        work, data, parent, Quantize(settings=("s8s8",), dynamic=False, calibration_images=32), ("onnxruntime",)
    ).variants[0]
    assert (parent.status, symmetric.status) == ("ok", "ok"), (parent.error, symmetric.error)
    return parent, symmetric


@pytest.fixture(scope="module")
def engines(work: Work, onnx_forms: tuple[Variant, Variant]) -> Forms:
    return build(work, *onnx_forms, ALL_PRECISIONS)


def rows(work: Work, forms: Forms) -> list[dict[str, Any]]:
    return polars.read_parquet(work.store.get(forms.tables["variants"])).to_dicts()


@pytest.fixture
def no_tensorrt_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tensorrt.PRODUCTS:
        monkeypatch.setitem(sys.modules, name, None)


@needs_builder
def test_an_engine_of_every_precision_is_built(engines: Forms, work: Work, onnx_forms: tuple[Variant, Variant]) -> None:
    parent = onnx_forms[0]
    assert parent.artifact is not None
    assert [v.name for v in engines.variants] == [f"{parent.name}/engine-{p}" for p in PRECISIONS]
    for variant, precision, row in zip(engines.variants, PRECISIONS, rows(work, engines), strict=True):
        assert (variant.status, variant.error, variant.benchmark) == ("ok", None, True)
        assert (variant.parent, variant.stage, variant.format) == (parent.name, "build", "engine")
        assert (variant.precision, variant.parameters) == (precision, parent.parameters)
        assert variant.artifact is not None and variant.artifact.path.endswith(".engine")
        assert (row["sha256"], row["setting"]) == (variant.artifact.sha256, variant.setting)
        assert any(variant.setting.startswith(product) for product in tensorrt.PRODUCTS.values())
    sizes = [v.artifact.size_bytes for v in engines.variants if v.artifact is not None]
    # The fp32 engine holds the weights.
    assert sizes[0] > 0.9 * parent.artifact.size_bytes
    # In fp16 the weights take half the space.
    assert 0.4 < sizes[1] / sizes[0] < 0.75
    assert len({v.artifact.sha256 for v in engines.variants if v.artifact is not None}) == 3


@needs_builder
def test_an_engine_is_valid_on_this_machine_or_tensorrt_names_the_reason(engines: Forms, work: Work) -> None:
    artifact = engines.variants[0].artifact
    assert artifact is not None
    plan = work.store.get(artifact).read_bytes()
    if not plan.startswith(tensorrt.RTX_MAGIC):
        pytest.skip("built by TensorRT, which has no such check")
    library, _ = tensorrt.backend((tensorrt.RTX,))
    log = tensorrt.recorder(library, work.log)
    runtime = library.Runtime(log)
    validity, diagnostics = runtime.get_engine_validity(plan)
    if gpu.gpus():
        assert validity != library.EngineValidity.INVALID or diagnostics
    else:
        assert validity == library.EngineValidity.INVALID and "GPU" in log.errors[0]
        assert not diagnostics & int(library.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    assert runtime.get_engine_validity(b"x" * 1000)[1] & int(library.EngineInvalidityDiagnostics.MALFORMED_ENGINE)


@pytest.mark.parametrize(
    ("sizes", "profile"),
    [((1,), (1, 1, 1)), ((1, 8, 100), (1, 8, 100)), ((32, 1, 8, 8, 100), (1, 32, 100)), ((4, 8), (1, 8, 8))],
)
def test_the_profile_covers_every_batch_size_and_is_optimised_for_the_middle_one(sizes: tuple, profile: tuple) -> None:
    assert stage._profile(sizes) == profile


def test_the_fp16_graph_computes_in_fp16_between_fp32_inputs_and_outputs(
    work: Work, onnx_forms: tuple[Variant, Variant], tmp_path: Path
) -> None:
    artifact = onnx_forms[0].artifact
    assert artifact is not None
    path = stage._half(work.store.get(artifact), tmp_path / "half.onnx")
    graph = onnx.load(path).graph
    assert {t.type.tensor_type.elem_type for t in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    weights = [t for t in graph.initializer if len(t.dims) == 4]
    assert len(weights) == 36 and {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}
    inputs = np.random.default_rng(0).standard_normal((4, 1, 8, 8), np.float32)
    fp32_logits, fp16_logits = (
        runtimes.load("onnxruntime").open(p, "cpu", 4, 1).run(inputs) for p in (work.store.get(artifact), path)
    )
    assert 0 < abs(fp32_logits - fp16_logits).max() < 0.02 * abs(fp32_logits).max()


@pytest.mark.usefixtures("no_tensorrt_installed")
def test_every_engine_is_skipped_with_the_reason_if_tensorrt_cannot_be_imported(
    work: Work, onnx_forms: tuple[Variant, Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    for cards in ((), ({"name": "a GPU"},)):
        monkeypatch.setattr(stage, "gpus", lambda cards=cards: cards)
        forms = build(work, *onnx_forms, ALL_PRECISIONS)
        assert [v.status for v in forms.variants] == ["skipped"] * 3
        for variant, row in zip(forms.variants, rows(work, forms), strict=True):
            assert variant.error is not None and row["error"] == variant.error and not row["benchmark"]
            assert "TensorRT for RTX cannot be imported" in variant.error
            assert ("no NVIDIA GPU to build with TensorRT;" in variant.error) == (not cards)
            assert ("TensorRT cannot be imported" in variant.error) == bool(cards)


def test_a_tensorrt_package_without_its_shared_libraries_counts_as_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original_import = tensorrt.importlib.import_module

    def fail_for_tensorrt(name: str) -> Any:
        if name in tensorrt.PRODUCTS:
            raise OSError(f"lib{name}.so: cannot open shared object file")
        return original_import(name)

    monkeypatch.setattr(
        tensorrt, "importlib", SimpleNamespace(import_module=fail_for_tensorrt, util=tensorrt.importlib.util)
    )
    with pytest.raises(RuntimeError, match=r"TensorRT cannot be imported: libtensorrt\.so.*; TensorRT for RTX cannot"):
        tensorrt.backend()


@needs_builder
def test_without_the_symmetric_form_int8_is_skipped_and_fp32_is_built(
    work: Work, onnx_forms: tuple[Variant, Variant]
) -> None:
    parent, symmetric = onnx_forms
    failed = symmetric.model_copy(update={"artifact": None, "status": "failed", "error": "no"})
    for missing in (None, failed):
        int8, fp32 = build(work, parent, missing, Build(precisions=("int8", "fp32"))).variants
        assert (int8.status, fp32.status) == ("skipped", "ok")
        assert int8.error is not None and "s8s8" in int8.error


@needs_builder
def test_a_model_that_tensorrt_cannot_parse_is_a_failed_variant_with_a_one_line_error(
    work: Work, onnx_forms: tuple[Variant, Variant]
) -> None:
    parent, symmetric = onnx_forms
    assert symmetric.artifact is not None
    with work.store.temporary() as folder:
        (folder / "a.onnx").write_bytes(b"not an ONNX file")
        broken = parent.model_copy(update={"artifact": work.store.put(folder / "a.onnx", "onnx")})
        model = onnx.load(work.store.get(symmetric.artifact))
        # Zero points other than 0 make the form asymmetric, as ONNX Runtime's forms are by default.
        for tensor in model.graph.initializer:
            if tensor.name == "input_zero_point":
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(7, np.int8), tensor.name))
        onnx.save(model, folder / "b.onnx")
        asymmetric = symmetric.model_copy(update={"artifact": work.store.put(folder / "b.onnx", "onnx")})
    forms = build(work, broken, asymmetric, ALL_PRECISIONS)
    assert [v.status for v in forms.variants] == ["failed"] * 3
    for variant in forms.variants:
        assert variant.error and "\n" not in variant.error and len(variant.error) <= 300 and not variant.benchmark
    errors = [str(v.error) for v in forms.variants]
    assert "Failed to parse the ONNX model" in errors[0]
    assert "zero point" in errors[2] and "QuantizeLinear" in errors[2]


def test_the_tensorrt_runtime_gives_the_reason_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensorrt.unavailable("cpu") == "TensorRT executes on CUDA devices only, asked for cpu"
    monkeypatch.setattr(gpu, "gpus", lambda: ())
    assert "no NVIDIA GPU" in str(tensorrt.unavailable("cuda:0"))
    util = SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(tensorrt, "importlib", SimpleNamespace(util=util))
    assert str(tensorrt.unavailable("cuda:0")).startswith("TensorRT is not installed")


@pytest.mark.gpu
@needs_builder
@pytest.mark.skipif(not gpu.gpus(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_gives_nearly_the_logits_of_its_parent(
    engines: Forms, work: Work, onnx_forms: tuple[Variant, Variant], precision: str
) -> None:
    skip_without_engines()
    source = onnx_forms[precision == "int8"].artifact
    variant = engines.variants[PRECISIONS.index(precision)]
    assert source is not None and variant.artifact is not None, variant.error
    engine = runtimes.load("tensorrt").open(work.store.get(variant.artifact), "cuda:0", 100, 1)
    parent = runtimes.load("onnxruntime").open(work.store.get(source), "cpu", 100, 1)
    assert variant.setting in engine.provider
    tolerance = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.1}[precision]
    for count in (1, 8, 100, 3):
        inputs = np.random.default_rng(count).standard_normal((count, 1, 8, 8), np.float32)
        expected, logits = parent.run(inputs), engine.run(inputs)
        assert logits.shape == expected.shape and logits.dtype == np.float32
        assert abs(expected - logits).max() < tolerance * abs(expected).max()
    with pytest.raises(ValueError, match="up to 100 images"):
        engine.run(np.zeros((101, 1, 8, 8), np.float32))
    engine.close()


@pytest.mark.gpu
@needs_builder
@pytest.mark.skipif(not gpu.gpus(), reason="no NVIDIA GPU")
def test_an_engine_that_cannot_be_opened_is_refused_with_the_reason(engines: Forms, work: Work, tmp_path: Path) -> None:
    skip_without_engines()
    artifact = engines.variants[0].artifact
    assert artifact is not None
    path = work.store.get(artifact)
    with pytest.raises(ValueError, match="built for up to 100 images"):
        runtimes.load("tensorrt").open(path, "cuda:0", 101, 1)
    (tmp_path / "cut.engine").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RuntimeError, match="cannot run this engine"):
        runtimes.load("tensorrt").open(tmp_path / "cut.engine", "cuda:0", 1, 1)
