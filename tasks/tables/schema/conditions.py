"""Tables of the conditions of measuring: certificates, memory and the machine."""

from __future__ import annotations

from tasks.tables.schema.column import Table, count, number, share, text
from tasks.tables.schema.shared import BATCH, EXPERIMENT, WHICH

TABLES: dict[str, Table] = {
    "certificates": Table(
        "The conditions under which each visit was measured: one row per visit.",
        {
            **WHICH,
            **BATCH,
            **EXPERIMENT,
            "round": count("number of the round, from 1", low=1),
            "process": count("number of the candidate's process, from 1", low=1),
            "provider": text("execution provider or backend that really ran"),
            "threads": count("threads over all queries in flight", null=True),
            "cpu_model": text("model of the CPU, as the kernel names it"),
            "cpu_governor": text("frequency governor", null=True),
            "cpu_mhz": number("clock of the usable cores: mean at the beginning and the end of the visit", null=True),
            "affinity": text("logical processors that the process may use"),
            "load_average": number("1-minute load of the machine"),
            "foreign_cpu": share("share of the usable cores that other processes used"),
            "gpu_sm_mhz": number("clock of the multiprocessors", null=True),
            "gpu_memory_mhz": number("clock of the memory", null=True),
            "gpu_temperature_c": number("temperature in degrees Celsius", null=True, low=None),
            "gpu_trouble": text(
                "why the GPU was slowed down, or which foreign processes used it; null where neither, or without a GPU",
                null=True,
            ),
            "gpu_driver": text("version of the driver", null=True),
            "energy_j": number("energy that the CPU package or the GPU used during the visit", null=True),
            "power_w": number("mean power: energy_j over the time of the visit", null=True),
            "energy_source": text("meter that was read", null=True),
            "energy_note": text("why energy_j is null", null=True),
            "libraries": text("versions of the libraries, as JSON"),
            "trouble": text("what was bad during this visit; null where nothing was", null=True),
        },
        unique=("variant", "runtime", "device", "batch_size", "experiment", "round"),
    ),
    "memory": Table(
        "Memory of a candidate's process: one row per variant, runtime, device and batch size.",
        {
            **WHICH,
            **BATCH,
            "rss_baseline_bytes": count(
                "resident memory with the runtime's library imported, before the model was opened"
            ),
            "rss_peak_bytes": count(
                "peak of resident memory until the end of this batch size (batch sizes run in ascending order)"
            ),
            "ram_usage_bytes": count("peak above the baseline"),
            "vram_peak_bytes": count(
                "peak of the process's GPU memory as NVML reports it, CUDA context included", null=True
            ),
            "vram_context_bytes": count(
                "the part of it that the CUDA context took, before the model was opened", null=True
            ),
            "vram_source": text(
                "what NVML reported on: the process, or the whole device while nothing else used it", null=True
            ),
        },
        unique=("variant", "runtime", "device", "batch_size"),
        ordered=(("rss_baseline_bytes", "rss_peak_bytes"), ("vram_context_bytes", "vram_peak_bytes")),
    ),
    "environments": Table(
        "The machine that the benchmark ran on: one row.",
        {
            "cpu_model": text("model of the CPU, as the kernel names it"),
            "cpu_cores": count("cores that the process may use", low=1),
            "cpu_features": text("vector and matrix instructions of the CPU", null=True),
            "cpu_governor": text("frequency governor", null=True),
            "memory_bytes": count("memory of the machine", low=1),
            "load_average": number("1-minute load before the benchmark"),
            "os": text("operating system"),
            "python": text("version of Python"),
            "gpu": text("name of the first GPU", null=True),
            "gpu_driver": text("driver version", null=True),
            "gpu_memory_bytes": count("memory of the first GPU", null=True),
            "libraries": text("versions of the libraries, as JSON"),
        },
    ),
}
