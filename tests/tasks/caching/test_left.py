"""A stage that goes on from what an interruption left says so, whatever the same study asked for in between."""

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
    """A stage that is never computed to its end here."""
    raise KeyboardInterrupt


STAGE = Stage(train, lambda inputs: "train/x", (), None, None)


def attempt(out: Path, epochs: int, leave=lambda scratch: None) -> list[str]:
    """Begin the stage, leave something in its scratch folder, be interrupted; why it was computed."""
    context = Context(out=str(out), run="study-20260101-000000")
    with open_request(STAGE, context, {"epochs": epochs}) as mine:
        assert mine.stored is None
        leave(mine.work(LOG).scratch)
    told = json.loads((out / "runs" / context.run / "why" / "train-x.json").read_text())
    assert told["outcome"] == BEGUN
    return told["differs"]


def checkpoints(*epochs: int):
    def leave(scratch: Path) -> None:
        for epoch in epochs:
            Checkpoints(scratch, "x/train", 0).save(epoch, {"epoch": epoch})

    return leave


def test_the_checkpoint_is_the_reason_not_what_ran_last(tmp_path, monkeypatch):
    assert attempt(tmp_path, 14, checkpoints(6, 7)) == ["never run before in this folder"]
    assert "epochs" in attempt(tmp_path, 3)[0], "another study of this name in between"
    said = []
    # Not caplog: once Prefect has been imported, the logger hands nothing to the root.
    monkeypatch.setattr("tasks.caching.why.LOG.info", lambda text, *parts, **_: said.append(text % parts))
    assert attempt(tmp_path, 14) == ["continues from epoch 7's checkpoint"]
    assert said == ["train/x: computing (continues from epoch 7's checkpoint)"]
    (newest,) = (tmp_path / "scratch").glob("*/*.7.*.pt")
    newest.write_bytes(b"torn")
    assert attempt(tmp_path, 14) == ["continues from epoch 6's checkpoint"]


@pytest.mark.parametrize(
    ("leave", "said"),
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
def test_rounds_and_trials_are_said_too(tmp_path, leave, said):
    attempt(tmp_path, 14, leave)
    assert attempt(tmp_path, 14) == [said]


def test_why_has_words_in_place_of_hashes() -> None:
    from tasks.caching.why import _differences

    before = {"code": "a" * 64, "data.images": "b" * 64, "settings.epochs": 3}
    now = {"code": "c" * 64, "settings.epochs": 4}
    assert _differences(before, now, False) == [
        "code has another content",
        "data.images: present -> absent",
        "settings.epochs: 3 -> 4",
    ]
