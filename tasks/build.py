"""Build: TensorRT engines of an ONNX file, by `tensorrt` or, where that cannot be had, by TensorRT for RTX.

TensorRT 11 knows strongly typed networks only: an engine computes in the types that its ONNX file names. So fp16 comes
from a converted file (inputs and outputs stay float32) and int8 from a Q/DQ file in the symmetric form. TensorRT for
RTX builds without a GPU, for compute capability 8.0 and up; the GPU that opens the engine finishes the kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.machine import fingerprint
from tasks.machine.devices import Unavailable
from tasks.machine.gpu import gpus
from tasks.records import AUTO, Artifact, Build, Forms, Variant
from tasks.runtimes._onnx import model_file
from tasks.runtimes._tensorrt import PRODUCTS, RTX, TENSORRT, backend, recorder
from tasks.tables.variants import failure, variant_row

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from tasks.caching.work import Work

OLDEST = (
    # compute capability 8.0: for 7.5 TensorRT for RTX refuses fp32 matrix products, and the whole engine with them
    80
)


def _builder() -> tuple[ModuleType, str]:
    """The library that builds here, and its name with version; TensorRT itself needs a GPU for that."""
    try:
        return backend(PRODUCTS if gpus() else (RTX,))
    except RuntimeError as error:
        raise Unavailable(
            str(error) if gpus() else f"no NVIDIA GPU to build with {PRODUCTS[TENSORRT]}; {error}"
        ) from error


def _source(parent: Variant, symmetric: Variant | None, precision: str) -> Artifact:
    """The ONNX file that has the precision's types, or is converted to them."""
    if precision != "int8":
        assert parent.artifact is not None, parent.name
        return parent.artifact
    if symmetric is None or symmetric.artifact is None:
        raise Unavailable("int8 is built from the symmetric Q/DQ form (quantize.settings: s8s8), which was not made")
    return symmetric.artifact


def _half(path: Path, target: Path) -> Path:
    """Convert an fp32 ONNX file to fp16, except its inputs and outputs."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), target)
    return target


def _profile(batch_sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """Least, optimal and largest images a query."""
    sizes = sorted(set(batch_sizes))
    return 1, sizes[len(sizes) // 2], sizes[-1]


def _serialize(work: Work, library: Any, path: Path, settings: Build) -> Any:
    """ONNX file -> serialized engine, a buffer.

    Raises
    ------
    ValueError
        If TensorRT does not parse or build it, with its first reason; the rest is in the log.
    """
    log = recorder(library, work.log)
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        first = parser.get_error(0)
        node = f" (node {first.node_name()}, {first.node_operator()})" if first.node_name() else ""
        raise ValueError(f"the ONNX file was not parsed: {first.desc().splitlines()[0]}{node}")
    config = builder.create_builder_config()
    if settings.workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
    # fp32 means fp32
    config.clear_flag(library.BuilderFlag.TF32)
    # or `burnish profile` sees names of layers alone
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    profile, given = builder.create_optimization_profile(), network.get_input(0)
    profile.set_shape(given.name, *((size, *tuple(given.shape)[1:]) for size in _profile(settings.batch_sizes)))
    config.add_optimization_profile(profile)
    if library.__name__ == RTX:
        members = library.ComputeCapability.__members__
        wanted = [value for name, value in members.items() if name.startswith("SM") and int(name[2:]) >= OLDEST]
        config.num_compute_capabilities = len(wanted)
        for index, capability in enumerate(wanted):
            config.set_compute_capability(capability, index)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f"no engine was built: {log.errors[0].splitlines()[0] if log.errors else 'no reason given'}")
    return engine


def build(work: Work, parent: Variant, symmetric: Variant | None, settings: Build) -> Forms:
    """Build an engine a precision; one that fails, or cannot be built here, is a row, and the others go on.

    Parameters
    ----------
    parent : the fp32 ONNX form
    symmetric : its int8 form by the quantize setting s8s8, if it was made; TensorRT parses no other of them
    """
    assert AUTO not in settings.precisions, "flows/plan.py decides what it stands for"
    variants = []
    for done, precision in enumerate(settings.precisions, 1):
        made: dict[str, Any] = {
            "name": f"{parent.name}/engine-{precision}",
            "model": parent.model,
            "stage": "build",
            "parent": parent.name,
            "format": "engine",
            "precision": precision,
            "parameters": parent.parameters,
            "macs": parent.macs,
        }
        try:
            library, made["setting"] = _builder()
            path = model_file(work.store.get(_source(parent, symmetric, precision)))
            with work.store.temporary() as folder:
                if precision == "fp16":
                    path = _half(path, folder / "fp16.onnx")
                file = folder / "model.engine"
                file.write_bytes(_serialize(work, library, path, settings))
                made |= {"artifact": work.store.put(file, "engine", precision), "benchmark": True}
        except Unavailable as reason:
            made |= {"status": "skipped", "error": str(reason)}
        except Exception as error:
            # whatever a converter or TensorRT raises: one engine less, and its row says why
            made |= {"status": "failed", "error": failure(error)}
        variant = Variant(**made)
        variants.append(variant)
        if variant.error is not None:
            work.log.warning("%s: %s: %s", variant.name, variant.status, variant.error)
        work.progress(done, len(settings.precisions), f"{variant.name}: {variant.status}")
    return Forms(variants=tuple(variants), tables={"variants": work.rows("variants", map(variant_row, variants))})


build_task = stage(
    lambda inputs: f"build/{inputs['parent'].name}",
    libraries=("tensorrt", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "onnx", "onnxruntime"),
    # a GPU decides which library builds, and for what
    extra=lambda inputs: {"machine": fingerprint()},
)(build)
