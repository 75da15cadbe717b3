"""The row of the `environments` table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks import machine
from tasks.machine import gpu

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_row_of_a_machine_that_reports_everything_has_no_null(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    governor_file = tmp_path / "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor"
    governor_file.parent.mkdir(parents=True)
    governor_file.write_text("powersave\n")
    monkeypatch.setattr(machine, "affinity", lambda: (3,))
    assert machine.governor(tmp_path) == "powersave"
    monkeypatch.setattr(machine.governor, "__defaults__", (tmp_path,))
    monkeypatch.setattr(machine, "cpu", lambda: ("a CPU", ("avx2", "fma")))
    monkeypatch.setattr(gpu, "gpus", lambda: ({"name": "a GPU", "driver": "999.1", "memory_bytes": 10**9},))
    row = machine.environment()
    assert [key for key, value in row.items() if value is None] == []
    columns = {
        key: row[key] for key in ("cpu_model", "cpu_features", "cpu_governor", "gpu", "gpu_driver", "gpu_memory_bytes")
    }
    assert list(columns.values()) == ["a CPU", "avx2 fma", "powersave", "a GPU", "999.1", 10**9]
    assert json.loads(str(row["libraries"]))["torch"]
