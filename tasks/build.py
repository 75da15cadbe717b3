"""Build: TensorRT engines are built from an ONNX file, by TensorRT or, where it is not installed, by TensorRT for RTX.

TensorRT 11 knows only strongly typed networks: an engine computes in the types that its ONNX file names. So an fp16
engine is built from a converted file (its inputs and outputs stay float32), and an int8 engine from a file with
quantize-dequantize (Q/DQ) nodes in the symmetric form. TensorRT for RTX builds without a GPU, for compute capability
8.0 and up. The GPU that opens the engine finishes its kernels.
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

# The oldest compute capability that engines are built for, times ten. For 7.5 TensorRT for RTX refuses fp32 matrix
# products, and with them the whole engine.
OLDEST = 80


def _builder() -> tuple[ModuleType, str]:
    """Return the library that builds engines on this machine, and its name with its version.

    TensorRT itself needs a GPU to build.

    Raises
    ------
    Unavailable
        If no such library is installed.
    """
    has_gpu = bool(gpus())
    try:
        return backend(PRODUCTS if has_gpu else (RTX,))
    except RuntimeError as error:
        reason = str(error) if has_gpu else f"no NVIDIA GPU to build with {PRODUCTS[TENSORRT]}; {error}"
        raise Unavailable(reason) from error


def _source(parent: Variant, symmetric: Variant | None, precision: str) -> Artifact:
    """Return the ONNX file that an engine of this precision is built from.

    Raises
    ------
    Unavailable
        If the precision is int8 and there is no form that TensorRT can parse.
    """
    if precision != "int8":
        assert parent.artifact is not None, parent.name
        return parent.artifact
    if symmetric is None or symmetric.artifact is None:
        raise Unavailable("int8 is built from the symmetric Q/DQ form (quantize.settings: s8s8), which was not made")
    return symmetric.artifact


def _half(path: Path, target: Path) -> Path:
    """Convert an fp32 ONNX file to fp16, except its inputs and outputs, and return the path of the new file."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), target)
    return target


def _profile(batch_sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """Return how many images per query an engine takes at least, is optimised for, and takes at most."""
    sizes = sorted(set(batch_sizes))
    return 1, sizes[len(sizes) // 2], sizes[-1]


def _serialize(work: Work, library: Any, path: Path, settings: Build) -> Any:
    """Build an engine from an ONNX file, and return it serialized, as a buffer.

    Raises
    ------
    ValueError
        If TensorRT cannot parse the file or build it. The message has its first reason, the log has all of them.
    """
    log = recorder(library, work.log)
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        first = parser.get_error(0)
        node = f" (node {first.node_name()}, {first.node_operator()})" if first.node_name() else ""
        raise ValueError(f"the ONNX file was not parsed: {first.desc().splitlines()[0]}{node}")
    engine = builder.build_serialized_network(network, _configuration(library, builder, network, settings))
    if engine is None:
        reason = log.errors[0].splitlines()[0] if log.errors else "no reason given"
        raise ValueError(f"no engine was built: {reason}")
    return engine


def _configuration(library: Any, builder: Any, network: Any, settings: Build) -> Any:
    """Return the builder's configuration for a network."""
    config = builder.create_builder_config()
    if settings.workspace_mb is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, settings.workspace_mb << 20)
    # TensorRT would compute fp32 in TF32, which has fewer digits.
    config.clear_flag(library.BuilderFlag.TF32)
    # Without this, `burnish profile` sees nothing of a layer but its name.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    tensor = network.get_input(0)
    image_shape = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, *((size, *image_shape) for size in _profile(settings.batch_sizes)))
    config.add_optimization_profile(profile)
    if library.__name__ == RTX:
        members = library.ComputeCapability.__members__
        wanted = [value for name, value in members.items() if name.startswith("SM") and int(name[2:]) >= OLDEST]
        config.num_compute_capabilities = len(wanted)
        for index, capability in enumerate(wanted):
            config.set_compute_capability(capability, index)
    return config


def build(work: Work, parent: Variant, symmetric: Variant | None, settings: Build) -> Forms:
    """Build one engine per precision. One that fails, or that this machine cannot build, is a row with the reason.

    Parameters
    ----------
    parent : the fp32 ONNX form
    symmetric : its int8 form by the quantize setting s8s8, if there is one; TensorRT can parse no other int8 form
    """
    assert AUTO not in settings.precisions, "flows/plan.py decides what it stands for"
    variants = []
    for done, precision in enumerate(settings.precisions, 1):
        variant = _build_one(work, parent, symmetric, settings, precision=precision)
        variants.append(variant)
        if variant.error is not None:
            work.log.warning("%s: %s: %s", variant.name, variant.status, variant.error)
        work.progress(done, len(settings.precisions), f"{variant.name}: {variant.status}")
    return Forms(variants=tuple(variants), tables={"variants": work.rows("variants", map(variant_row, variants))})


def _build_one(work: Work, parent: Variant, symmetric: Variant | None, settings: Build, *, precision: str) -> Variant:
    """Build the engine of one precision. Where that fails, the variant has the reason instead of an artifact."""
    fields: dict[str, Any] = {
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
        library, fields["setting"] = _builder()
        path = model_file(work.store.get(_source(parent, symmetric, precision)))
        with work.store.temporary() as folder:
            if precision == "fp16":
                path = _half(path, folder / "fp16.onnx")
            file = folder / "model.engine"
            file.write_bytes(_serialize(work, library, path, settings))
            fields["artifact"] = work.store.put(file, "engine", precision)
            fields["benchmark"] = True
    except Unavailable as reason:
        fields |= {"status": "skipped", "error": str(reason)}
    except Exception as error:
        # Whatever a converter or TensorRT raises costs one engine, and the engine's row has the reason.
        fields |= {"status": "failed", "error": failure(error)}
    return Variant(**fields)


build_task = stage(
    lambda inputs: f"build/{inputs['parent'].name}",
    libraries=("tensorrt", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "onnx", "onnxruntime"),
    # The machine's GPU decides which library builds, and for which GPUs.
    extra=lambda inputs: {"machine": fingerprint()},
)(build)
