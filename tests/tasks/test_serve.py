"""The serve stage: which row is measured in LoadGen's scenarios, in how many slots, and the rows of the table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from tasks.caching.work import Work
from tasks.records import Serve, Variant
from tasks.serve import serve
from tasks.tables.summary import PARTS
from tests.support import factory
from tests.support.digits import digits

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.records import Artifact

pytestmark = pytest.mark.alone
FAST = "resnet34-w16/prune-0.25/onnx/int8-u8s8-reduced"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path)


def fragments(work: Work, **changes: Any) -> dict[str, tuple[Artifact, ...]]:
    """Return the tables of a study in which FAST wins in the null runtime, with `changes` of the benchmarks."""
    tables = factory.tables()
    for name in PARTS:
        if "runtime" in tables[name].columns:
            runtime = pl.when(pl.col("variant") == FAST).then(pl.lit("null")).otherwise(pl.col("runtime"))
            tables[name] = tables[name].with_columns(runtime=runtime)
    if changes:
        tables["benchmarks"] = tables["benchmarks"].with_columns(**changes)
    return {name: (work.rows(name, tables[name].to_dicts()),) for name in PARTS}


def stored_winner(work: Work, milliseconds: float) -> Variant:
    """Store a model of the null runtime, whose queries take so many milliseconds, as the variant FAST."""
    with work.store.temporary() as folder:
        (folder / "model").write_text(json.dumps({"milliseconds": [milliseconds], "classes": 10}))
        artifact = work.store.put(folder / "model", "null")
    return Variant(name=FAST, model="resnet34-w16", stage="quantize", format="null", artifact=artifact)


def test_the_winner_is_measured_in_single_stream_offline_and_server_at_several_rates(work: Work) -> None:
    # The limit is longer than the pauses of a busy machine.
    settings = Serve(seconds=0.2, trials=3, limit_ms=500)
    study = factory.study()
    study = study.model_copy(update={"benchmark": study.benchmark.model_copy(update={"threads": 2})})
    output = serve(work, digits(work, 100), (stored_winner(work, 0.5),), study, settings, fragments(work))
    rows = pl.read_parquet(work.store.get(output.tables["scenarios"]))
    assert rows["scenario"].to_list() == ["single_stream", "offline", "server", "server", "server"]
    assert set(rows.select("variant", "runtime", "device", "batch_size").rows()) == {(FAST, "null", "cpu", 1)}
    single, offline, *server = rows.to_dicts()
    assert single["slots"] == 1
    assert offline["slots"] == 2
    assert single["latency_p90_ms"] == pytest.approx(0.5, rel=0.2)
    assert single["queries"] >= 662
    assert offline["latency_median_ms"] is None
    for row in server:
        assert row["limit_ms"] == 500
        assert 0 < row["target_rate"] < offline["achieved_rate"]
        assert row["kept"] == (row["latency_p99_ms"] <= row["limit_ms"])


def test_without_a_limit_the_server_scenario_allows_ten_medians_of_single_stream(work: Work) -> None:
    output = serve(
        work,
        digits(work, 100),
        (stored_winner(work, 0.5),),
        factory.study(),
        Serve(seconds=0.2, trials=1),
        fragments(work),
    )
    single, _, server = pl.read_parquet(work.store.get(output.tables["scenarios"])).to_dicts()
    assert server["limit_ms"] == pytest.approx(10 * single["latency_median_ms"])


def test_without_a_winner_the_table_of_scenarios_is_empty(work: Work) -> None:
    tables_without_winner = fragments(work, conditions=pl.lit("disturbed"))
    output = serve(
        work, digits(work, 100), (stored_winner(work, 0.5),), factory.study(), Serve(), tables_without_winner
    )
    assert len(pl.read_parquet(work.store.get(output.tables["scenarios"]))) == 0


def test_the_pool_of_inputs_has_as_many_fp32_images_as_asked_for(work: Work, tmp_path: Path) -> None:
    from tasks.candidates.candidate import save_pool

    data = digits(work, 100)
    save_pool(work, data, 3, tmp_path / "pool.npy")
    pool = np.load(tmp_path / "pool.npy")
    assert pool.shape[1:] == (1, 8, 8)
    assert len(pool) >= 3
    assert pool.dtype == np.float32
