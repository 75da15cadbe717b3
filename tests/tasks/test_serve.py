"""The winner in LoadGen's scenarios: which row is served, in which processes, and what is left in the table."""

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
    """Tables of a study in which FAST wins, in the null runtime."""
    made = factory.tables()
    for name in PARTS:
        if "runtime" in made[name].columns:
            runtime = pl.when(pl.col("variant") == FAST).then(pl.lit("null")).otherwise(pl.col("runtime"))
            made[name] = made[name].with_columns(runtime=runtime)
    if changes:
        made["benchmarks"] = made["benchmarks"].with_columns(**changes)
    return {name: (work.rows(name, made[name].to_dicts()),) for name in PARTS}


def winner(work: Work, milliseconds: float) -> Variant:
    with work.store.temporary() as folder:
        (folder / "model").write_text(json.dumps({"milliseconds": [milliseconds], "classes": 10}))
        artifact = work.store.put(folder / "model", "null")
    return Variant(name=FAST, model="resnet34-w16", stage="quantize", format="null", artifact=artifact)


def test_the_winner_is_served_single_stream_offline_and_at_several_rates(work: Work) -> None:
    # a limit that pauses of a busy machine do not reach
    settings = Serve(seconds=0.2, trials=3, limit_ms=500)
    study = factory.study()
    study = study.model_copy(update={"benchmark": study.benchmark.model_copy(update={"threads": 2})})
    made = serve(work, digits(work, 100), (winner(work, 0.5),), study, settings, fragments(work))
    rows = pl.read_parquet(work.store.get(made.tables["scenarios"]))
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


def test_without_a_limit_the_server_is_given_ten_medians_of_the_single_stream(work: Work) -> None:
    made = serve(
        work, digits(work, 100), (winner(work, 0.5),), factory.study(), Serve(seconds=0.2, trials=1), fragments(work)
    )
    single, _, server = pl.read_parquet(work.store.get(made.tables["scenarios"])).to_dicts()
    assert server["limit_ms"] == pytest.approx(10 * single["latency_median_ms"])


def test_without_a_winner_there_is_nothing_to_serve(work: Work) -> None:
    nothing = fragments(work, conditions=pl.lit("disturbed"))
    made = serve(work, digits(work, 100), (winner(work, 0.5),), factory.study(), Serve(), nothing)
    assert len(pl.read_parquet(work.store.get(made.tables["scenarios"]))) == 0


def test_inputs_are_real_images_normalised(work: Work, tmp_path: Path) -> None:
    from tasks.candidates.candidate import save_pool

    data = digits(work, 100)
    save_pool(work, data, 3, tmp_path / "pool.npy")
    pool = np.load(tmp_path / "pool.npy")
    assert pool.shape[1:] == (1, 8, 8)
    assert len(pool) >= 3
    assert pool.dtype == np.float32
