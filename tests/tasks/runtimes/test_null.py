"""The null runtime, whose queries last as long as its program says."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tasks import runtimes

# quantile of queries that other processes left alone, also where they use every core
QUIET = 0.1


def _program(folder: Path, **content: object) -> Path:
    path = folder / "program.null"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Null's sessions start with the first entry."""
    monkeypatch.setattr("random.randrange", lambda _: 0)


@pytest.mark.alone
@pytest.mark.parametrize("per_image", [0.0, 0.25])
def test_null_lasts_as_programmed(from_the_start: None, tmp_path: Path, per_image: float) -> None:
    program = [0.5, 1.0, 3.0]
    path = _program(tmp_path, milliseconds=program, classes=4, per_image_milliseconds=per_image)
    session = runtimes.load("null").open(path, "cpu", 8, 1)
    inputs = np.zeros((8, 3), np.int64)
    spent: list[list[float]] = [[], [], []]
    for query in range(150):
        begin = time.perf_counter_ns()
        answer = session.run(inputs)
        spent[query % 3].append((time.perf_counter_ns() - begin) / 1e6)
        assert answer.dtype == np.float32
        assert np.array_equal(answer, np.eye(1, 4).repeat(8, axis=0))
    for ms, found in zip(program, spent, strict=True):
        assert min(found) >= ms + 8 * per_image
        assert np.quantile(found, QUIET) == pytest.approx(ms + 8 * per_image, rel=0.01)


@pytest.mark.alone
def test_nulls_slots_have_their_own_positions_and_do_not_hold_each_other_up(
    from_the_start: None, tmp_path: Path
) -> None:
    path = _program(tmp_path, milliseconds=[2.0, 4.0], classes=2)
    session = runtimes.load("null").open(path, "cpu", 1, 2, slots=2)
    inputs, spent = np.zeros((1, 1)), [[], []]
    # its next one lasts 4 ms, the fork's first 2 ms
    session.run(inputs)
    slots = (session, session.fork())

    def ask(slot: int) -> None:
        for _ in range(60):
            begin = time.perf_counter_ns()
            slots[slot].run(inputs)
            spent[slot].append((time.perf_counter_ns() - begin) / 1e6)

    threads = [threading.Thread(target=ask, args=(slot,)) for slot in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for slot, first in ((0, 4.0), (1, 2.0)):
        assert np.quantile(spent[slot][::2], QUIET) == pytest.approx(first, rel=0.01)
        assert np.quantile(spent[slot][1::2], QUIET) == pytest.approx(6 - first, rel=0.01)


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_a_malformed_null_program_is_one_clear_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.null").write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        runtimes.load("null").open(tmp_path / "a.null", "cpu", 1, 1)
    assert str(caught.value).startswith("a.null") and "\n" not in str(caught.value)
