"""Images of requests that arrive at the same time are answered in one query, each with its own answer."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.flows.commands.deployed.test_deployed_pages import metrics
from tests.support.paths import ROOT
from tests.support.servers import environment, png, post, running

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEC = importlib.util.spec_from_file_location("batches", ROOT / "flows" / "commands" / "deployed" / "batches.py")
assert SPEC
assert SPEC.loader
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)


class SlowModel:
    """A model that answers with an image's own first pixel, takes a while, and raises an error for negative ones."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(1)
        self.sizes: list[int] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._turns:
            yield

    def query(self, inputs: np.ndarray) -> np.ndarray:
        self.sizes.append(len(inputs))
        time.sleep(0.05)
        if inputs.min() < 0:
            raise RuntimeError("negative")
        return inputs[:, 0, 0, :1]


def image(value: float) -> np.ndarray:
    return np.full((1, 1, 2, 2), value, np.float32)


def batches_of(model: Any, most: int, expected: int = 40) -> tuple[Any, list[int]]:
    """Return batches of a model, and the list of sizes that they report."""
    observed: list[int] = []
    return MODULE.Batches(model, most, expected=lambda: expected, observe=observed.append), observed


@pytest.mark.parametrize("most", [1, 4, 32])
def test_every_caller_gets_the_answer_to_its_own_image(most: int) -> None:
    model = SlowModel()
    batches, observed = batches_of(model, most)
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda value: batches.logits(image(value)), range(40)))
    assert [answer.item() for answer in answers] == list(range(40))
    assert all(answer.shape == (1, 1) for answer in answers)
    assert observed == model.sizes
    assert sum(model.sizes) == 40
    assert max(model.sizes) <= most
    # While the model answers one query, the images of the next arrive.
    assert len(model.sizes) <= {1: 40, 4: 20, 32: 20}[most]


def test_an_error_reaches_all_callers_of_its_batch_and_no_others() -> None:
    batches, _ = batches_of(SlowModel(), 4)

    def ask(value: float) -> object:
        try:
            return batches.logits(image(value)).item()
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, [*range(1, 39), -1.0, 39]))
    assert answers[38] == "negative"
    assert 1 <= answers.count("negative") <= 4
    assert all(answer in ("negative", value) for answer, value in zip(answers, [*range(1, 39), 0, 39], strict=True))
    assert batches.logits(image(7)).item() == 7


def test_a_lonely_request_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "WAIT_SECONDS", 30.0)
    started = time.monotonic()
    assert batches_of(SlowModel(), 8, expected=1)[0].logits(image(3)).item() == 3
    assert time.monotonic() - started < 10


def test_the_server_answers_several_images_in_one_query_where_it_is_told_to(folder: Path) -> None:
    pictures = [png(np.random.default_rng(n).integers(0, 256, (8, 8, 1), np.uint8)) for n in range(60)]

    def answers(url: str) -> list[Any]:
        with ThreadPoolExecutor(20) as pool:
            return list(pool.map(lambda picture: post(f"{url}/predict?top=10", picture), pictures))

    with running(folder) as server:
        single = answers(server.url)
        assert metrics(server)["burnish_batch_images_bucket:1"] == 60
    with running(folder, BATCH="16") as server:
        together = answers(server.url)
        counted = metrics(server)
    assert "up to 1 per query" not in server.output and "up to 16 per query" in server.output
    assert counted["burnish_batch_images_sum"] == 60
    assert counted["burnish_batch_images_count"] < 60
    for (status, one), (other_status, other) in zip(single, together, strict=True):
        assert status == other_status == 200
        for a, b in zip(one["predictions"], other["predictions"], strict=True):
            assert a["index"] == b["index"]
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-5)


@pytest.mark.parametrize(("batch", "any_batch", "most"), [("0", True, 32), ("33", True, 32), ("2", False, 1)])
def test_a_number_of_images_that_the_model_does_not_take_is_refused(
    folder: Path, tmp_path: Path, batch: str, any_batch: bool, most: int
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    about = json.loads((copy / "model.json").read_text())
    assert about["any_batch"] is True
    (copy / "model.json").write_text(json.dumps(about | {"any_batch": any_batch}))
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=copy, env=environment(BATCH=batch), text=True, capture_output=True, check=False
    )
    accepted = f"is no number of images per query of this model; accepted is a whole number from 1 to {most}"
    assert (done.returncode, done.stderr) == (2, f"BATCH={batch!r} {accepted}\n")
