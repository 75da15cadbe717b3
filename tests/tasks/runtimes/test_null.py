"""The null runtime, whose queries last as long as its program says."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tasks import runtimes

# This quantile of the durations is of queries that no other process delayed, even where others use every core.
QUIET = 0.1


def _program(folder: Path, **content: object) -> Path:
    path = folder / "program.null"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def fixed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sessions of the null runtime begin with the first entry of their program, not with a random one."""
    monkeypatch.setattr("random.randrange", lambda _: 0)


@pytest.mark.alone
@pytest.mark.parametrize("per_image", [0.0, 0.25])
def test_a_query_of_the_null_runtime_lasts_as_long_as_its_program_says(
    fixed_start: None, tmp_path: Path, per_image: float
) -> None:
    program = [0.5, 1.0, 3.0]
    path = _program(tmp_path, milliseconds=program, classes=4, per_image_milliseconds=per_image)
    session = runtimes.load("null").open(path, "cpu", 8, 1)
    inputs = np.zeros((8, 3), np.int64)
    durations_by_entry: list[list[float]] = [[], [], []]
    for query in range(150):
        begin = time.perf_counter_ns()
        answer = session.run(inputs)
        durations_by_entry[query % 3].append((time.perf_counter_ns() - begin) / 1e6)
        assert answer.dtype == np.float32
        assert np.array_equal(answer, np.eye(1, 4).repeat(8, axis=0))
    for ms, durations_ms in zip(program, durations_by_entry, strict=True):
        assert min(durations_ms) >= ms + 8 * per_image
        assert np.quantile(durations_ms, QUIET) == pytest.approx(ms + 8 * per_image, rel=0.01)


@pytest.mark.alone
def test_slots_of_the_null_runtime_keep_their_own_positions_and_run_at_the_same_time(
    fixed_start: None, tmp_path: Path
) -> None:
    path = _program(tmp_path, milliseconds=[2.0, 4.0], classes=2)
    session = runtimes.load("null").open(path, "cpu", 1, 2, slots=2)
    inputs = np.zeros((1, 1))
    durations_by_slot = [[], []]
    # The session's next query then lasts 4 ms, and the fork's first query 2 ms.
    session.run(inputs)
    slots = (session, session.fork())

    def run_queries(slot: int) -> None:
        for _ in range(60):
            begin = time.perf_counter_ns()
            slots[slot].run(inputs)
            durations_by_slot[slot].append((time.perf_counter_ns() - begin) / 1e6)

    threads = [threading.Thread(target=run_queries, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for slot, first_ms in ((0, 4.0), (1, 2.0)):
        assert np.quantile(durations_by_slot[slot][::2], QUIET) == pytest.approx(first_ms, rel=0.01)
        assert np.quantile(durations_by_slot[slot][1::2], QUIET) == pytest.approx(6 - first_ms, rel=0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\x00", "is not JSON"),
        (b"[1", "is not JSON"),
        (b"[1]", "the file: "),
        (b'{"milliseconds": [], "classes": 2}', "milliseconds: "),
        (b'{"milliseconds": [1, -1], "classes": 2}', r"milliseconds\.1: "),
        (b'{"milliseconds": [1, NaN], "classes": 2}', r"milliseconds\.1: "),
        (b'{"milliseconds": [1], "classes": 0}', "classes: "),
        (b'{"milliseconds": [1]}', "classes: "),
        (b'{"milliseconds": [1], "classes": 2, "seconds": 1}', "seconds: "),
    ],
)
def test_a_malformed_null_program_is_an_error_of_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.null").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        runtimes.load("null").open(tmp_path / "a.null", "cpu", 1, 1)
    assert str(caught.value).startswith("a.null") and "\n" not in str(caught.value)
