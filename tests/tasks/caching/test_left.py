"""A stage that continues an interrupted one gives that as the reason for computing, whatever ran in between."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from tasks.caching.keys import Stage
from tasks.caching.results import open_request
from tasks.caching.why import BEGUN
from tasks.machine.durable import Series
from tasks.records import Context, Output
from tasks.training.checkpoints import Checkpoints
from tasks.training.journal import Journal

LOG = logging.getLogger("burnish")


def train(work, epochs: int) -> Output:
    """A stage that is interrupted, whenever it is computed."""
    raise KeyboardInterrupt


STAGE = Stage(train, lambda inputs: "train/x", (), None, None)


def interrupted_attempt(out: Path, epochs: int, write_leftovers=lambda scratch: None) -> list[str]:
    """Begin the stage, write files to its scratch folder, and interrupt it. Return the reasons why it was computed."""
    context = Context(out=str(out), run="study-20260101-000000")
    with open_request(STAGE, context, {"epochs": epochs}) as request:
        assert request.stored is None
        write_leftovers(request.work(LOG).scratch)
    reasons_file = json.loads((out / "runs" / context.run / "why" / "train-x.json").read_text())
    assert reasons_file["outcome"] == BEGUN
    return reasons_file["differs"]


def checkpoint_writer(*epochs: int):
    """Return a function that writes a checkpoint of each epoch to a scratch folder."""

    def write_leftovers(scratch: Path) -> None:
        for epoch in epochs:
            Checkpoints(scratch, "x/train", 0).save(epoch, {"epoch": epoch})

    return write_leftovers


def test_the_reason_is_the_checkpoint_and_not_a_difference_from_the_last_run(tmp_path, monkeypatch):
    assert interrupted_attempt(tmp_path, 14, checkpoint_writer(6, 7)) == ["never run before in this folder"]
    assert "epochs" in interrupted_attempt(tmp_path, 3)[0], (
        "a study of this name with another number of epochs runs in between"
    )
    log_lines = []
    # caplog would stay empty: once Prefect has been imported, the logger passes nothing on to the root logger.
    monkeypatch.setattr("tasks.caching.why.LOG.info", lambda text, *parts, **_: log_lines.append(text % parts))
    assert interrupted_attempt(tmp_path, 14) == ["continues from epoch 7's checkpoint"]
    assert log_lines == ["train/x: computing (continues from epoch 7's checkpoint)"]
    (newest,) = (tmp_path / "scratch").glob("*/*.7.*.pt")
    newest.write_bytes(b"torn")
    assert interrupted_attempt(tmp_path, 14) == ["continues from epoch 6's checkpoint"]


@pytest.mark.parametrize(
    ("write_leftovers", "reason"),
    [
        (
            lambda scratch: Series(scratch, "round", ".npz").write(1, lambda file: file.write(b"samples")),
            "continues from the benchmark's round 2",
        ),
        (
            lambda scratch: Journal(scratch / "trials.log", LOG).append_logs([{"op_code": 0}]),
            "continues the search that was interrupted",
        ),
        (lambda scratch: None, "the last attempt left no result to keep"),
    ],
)
def test_the_reason_names_the_round_or_the_search_that_a_stage_continues(tmp_path, write_leftovers, reason):
    interrupted_attempt(tmp_path, 14, write_leftovers)
    assert interrupted_attempt(tmp_path, 14) == [reason]


def test_why_has_words_in_place_of_hashes() -> None:
    from tasks.caching.why import _differences

    before = {"code": "a" * 64, "data.images": "b" * 64, "settings.epochs": 3}
    now = {"code": "c" * 64, "settings.epochs": 4}
    assert _differences(before, now, False) == [
        "code has another content",
        "data.images: present -> absent",
        "settings.epochs: 3 -> 4",
    ]
