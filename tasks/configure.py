"""Configure: with how many threads and which options of a runtime its fastest form is still faster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks import runtimes
from tasks.caching.stage import stage
from tasks.datasets._arrays import load_arrays
from tasks.forms.configurations import Compared, Configuration, compared, times_of
from tasks.forms.int8 import Rows, sample
from tasks.machine import cores, fingerprint
from tasks.machine.locks import locked
from tasks.records import Forms, Prepared, Quantized, Scored, Tried, Variant
from tasks.runtimes._onnx import model_file
from tasks.tables.variants import variant_row

if TYPE_CHECKING:
    from tasks.caching.work import Work


def configure(
    work: Work,
    data: Prepared,
    parent: Variant,
    quantized: Quantized,
    tried: tuple[Tried, ...],
    chosen: Forms,
    runtime: str,
    others: tuple[str, ...],
    threads: int | None,
    max_drop: float,
) -> Forms:
    """Open the fastest form in a runtime in several ways, and return it as a variant with the fastest of them.

    Where no configuration is clearly faster than the usual one, there is no such variant.

    Parameters
    ----------
    parent, quantized, tried, chosen
        The fp32 ONNX form, its int8 forms, the trials of the search, and those of their forms that go on.
    others
        The other runtimes of the study, in which the configuration means nothing.
    threads
        The most threads that a model may have; None: one per core.
    max_drop
        The drop on validation images up to which a form is allowed.
    """
    form = fastest(parent, quantized, tried, chosen, runtime, max_drop)
    assert form.artifact is not None
    path = model_file(work.store.get(form.artifact))
    arrays = load_arrays(work.store, data)
    image = Rows(data, arrays.images, sample(arrays, "validation", 1)).read(0, 1)
    usual = Configuration(threads or cores())
    best, rows = usual, []
    with locked({"cpu"}, work.log):
        for trial in compared(
            usual,
            tuple(runtimes.options_of(runtime)),
            lambda one, other: times_of(runtime, path, image, (one, other)),
        ):
            rows.append(_row(form, runtime, usual, trial))
            work.log.info("%s", in_words(rows[-1]))
            if trial.taken:
                best = trial.configuration
    written = {"configurations": work.rows("configurations", rows)}
    if best == usual:
        work.log.info("%s in %s: nothing is clearly faster than the usual configuration", form.name, runtime)
        return Forms(variants=(), tables=written)
    words = best.difference(usual)
    variant = form.model_copy(
        update={
            # The same form may have the same configuration in another runtime.
            "name": f"{form.name}@{'+'.join((runtime, *words))}",
            "stage": "configure",
            "parent": form.name,
            "setting": ", ".join(words),
            "benchmark": True,
            "left_out_of": others,
            "threads": best.threads,
            "options": best.options,
        }
    )
    return Forms(
        variants=(variant,),
        tables=written | {"variants": work.rows("variants", [variant_row(variant, chosen_in=runtime)])},
    )


def fastest(
    parent: Variant,
    quantized: Quantized,
    tried: tuple[Tried, ...],
    chosen: Forms,
    runtime: str,
    max_drop: float,
) -> Variant:
    """Return the fastest form in a runtime among those that the benchmark measures and whose drop is allowed.

    Where no int8 form is faster, it is the fp32 form.
    """
    of_settings = {each.setting: each for each in quantized.scored}
    of_trials = {trial.variant.name: trial.scored for trial in tried if trial.variant is not None}
    forms: list[tuple[Variant, Scored | None]] = [
        *((variant, of_settings.get(variant.setting)) for variant in quantized.variants),
        *((variant, of_trials[variant.name]) for variant in chosen.variants),
    ]
    best, latency = parent, quantized.fp32_latencies[runtime]
    for variant, scored in forms:
        if not variant.benchmark or runtime in variant.left_out_of or scored is None or scored.drop is None:
            continue
        if scored.drop <= max_drop + 1e-9 and scored.latencies.get(runtime, latency) < latency:
            best, latency = variant, scored.latencies[runtime]
    return best


def _row(form: Variant, runtime: str, usual: Configuration, trial: Compared) -> dict[str, Any]:
    """Return the row of the table `configurations` for a configuration."""

    def words(configuration: Configuration) -> str:
        return ", ".join(configuration.difference(usual)) or "usual"

    return {
        "form": form.name,
        "runtime": runtime,
        "configuration": words(trial.configuration),
        "threads": trial.configuration.threads,
        "against": words(trial.against),
        "ratio": trial.ratio,
        "rounds_faster": trial.rounds_faster,
        "taken": trial.taken,
        "seconds": trial.seconds,
        "error": trial.error,
    }


def in_words(row: dict[str, Any]) -> str:
    """Return what came of a configuration, for a log line."""
    what = f"{row['form']} in {row['runtime']}, {row['configuration']}"
    if row["error"]:
        return f"{what}: failed: {row['error']}"
    return f"{what}: {row['ratio']:.3f} times the latency of {row['against']}{', taken' if row['taken'] else ''}"


configure_task = stage(
    lambda inputs: f"configure/{inputs['parent'].name}/{inputs['runtime']}",
    libraries=("onnxruntime", "openvino", "numpy"),
    modules=lambda inputs: (f"tasks.runtimes.{inputs['runtime']}",),
    # The machine decides the latencies.
    extra=lambda inputs: {"machine": fingerprint()},
    devices=lambda inputs: ("cpu",),
)(configure)
