"""Runs a study that writes all its files with burnish's own code and computes next to nothing, for tests of faults.

Its stages are called as `tasks.caching.stage.call` calls them, but without Prefect's task runs.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.run import _keep_models
from tasks import tables, tune
from tasks.caching import stage
from tasks.caching.keys import Stage
from tasks.caching.results import open_request
from tasks.caching.store import Store
from tasks.caching.sweep import sweep
from tasks.candidates import resume
from tasks.candidates.candidate import Candidate, Visit
from tasks.candidates.process import Spec
from tasks.candidates.rows import frame, store_frames
from tasks.machine.files import copy, write_text
from tasks.machine.space import reserve, watched
from tasks.records import Artifact, Benchmark, Context, Output, Result, Train, Trained, Tune, Variant
from tasks.training.checkpoints import Checkpoints, load
from tasks.training.state import Training

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.caching.work import Work

LOG = logging.getLogger("burnish")
EPOCHS = 3
TRIALS = 2
ROUNDS = 2


class Run:
    """A run of the small study. Calling it runs the study.

    Parameters
    ----------
    out
        The artifacts folder.
    on_computed
        Called with the name of each stage that was computed, after its result was stored.
    """

    def __init__(self, out: Path, on_computed: Callable[[str], object]) -> None:
        self.out = out
        self.on_computed = on_computed
        self.number = len(list((out / "runs").glob("*"))) + 1
        self.context = Context(out=str(out), run=f"small-20260101-{self.number:06}")
        self.computed: list[str] = []

    def call(self, function: Callable[..., Any], **inputs: Any) -> Any:
        """Return a stage's stored result, or compute and store it."""
        description = Stage(function, lambda inputs: function.__name__, (), None, None)
        with watched(self.out), open_request(description, self.context, inputs) as request:
            if request.stored is not None:
                return request.stored
            self.computed.append(function.__name__)
            result = stage.compute(request, function, inputs)
            self.on_computed(function.__name__)
            return result

    def __call__(self) -> Result:
        with watched(self.out):
            return self._study()

    def _study(self) -> Result:
        sweep(self.out, LOG)
        folder = self.out / "runs" / self.context.run
        write_text(folder / "study.toml", "name = 'small'\n")
        images = self.call(prepare_images)
        trained: Trained = self.call(train_model, images=images.tables["images"])
        tuned = self.call(tune_model, trained=trained)
        exported = self.call(export_model, trained=trained)
        measured = self.call(measure_model, variant=exported)
        result: Result = self.call(aggregate_tables, fragments=tuned.tables | measured.tables)
        store = Store(self.out / "store")
        files = {name: store.get(artifact) for name, artifact in result.tables.items()}
        tables.publish(files, self.out, self.context.run)
        for name, artifact in result.files.items():
            copy(store.get(artifact), folder / name)
        _keep_models([exported], store, folder / "models")
        write_text(folder / "result.json", json.dumps({"winner": result.winner, "reason": result.reason}))
        return result


def prepare_images(work: Work) -> Output:
    """Store an array whose space is reserved before it is written, as for images, and one written by `numpy.save`."""
    pixels = np.arange(64 * 1024, dtype=np.uint8)
    with work.store.temporary() as folder:
        path = folder / "images.npy"
        with path.open("wb") as file:
            reserve(file, path, pixels.nbytes, "images")
            file.write(pixels.tobytes())
        np.save(folder / "labels.npy", np.arange(100))
        images = work.store.put(path, "npy")
        return Output(tables={"images": images, "labels": work.store.put(folder / "labels.npy", "npy")})


def train_model(work: Work, images: Artifact) -> Trained:
    """Save a checkpoint per epoch, as a training does, and store the weights."""
    checkpoints = Checkpoints(work.scratch, "small/train", 0)
    newest = checkpoints.newest(work.log)
    weights = load(newest, "cpu") if newest else {"epoch": 0, "weights": [0.0]}
    for epoch in range(int(weights["epoch"]) + 1, EPOCHS + 1):
        weights = {"epoch": epoch, "weights": [*weights["weights"], epoch / 7]}
        checkpoints.save(epoch, weights)
        work.log.info("epoch %d", epoch)
    with work.store.temporary() as folder:
        (folder / "weights.safetensors").write_text(json.dumps(weights["weights"]))
        artifact = work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
    variant = Variant(name="small/train", model="small", stage="train", format="safetensors", artifact=artifact)
    return Trained(variant=variant, train=Train(), validation_macro_f1=0.5)


def tune_model(work: Work, trained: Trained) -> Output:
    """Run the real search, with trials that take no time."""
    model: Any = SimpleNamespace(label="small")
    # The search itself reads nothing else of the data.
    data: Any = SimpleNamespace(validation_rows=60)
    trials, _ = tune.search(work, model, data, trained.train, Tune(trials=TRIALS))
    return Output(tables={"trials": work.rows("trials", trials)})


def _run_trial(training: Training, network: Any, trial: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    score = round(training.settings.learning_rate % 1, 6)
    row = {"status": "ok", "error": None, "stopped_early": False, "score": score, "epochs": 1, "seconds": 0.0}
    trial.report(score, 1)
    return {"row": row, "epochs": []}, {"values": score}


tune._run_trial = _run_trial
tune.fresh = lambda model, data, seed: (None, {})
# Progress goes to Prefect's server and writes no file, so it has no part in these tests.
stage.ProgressArtifact = logging.NullHandler  # type: ignore[assignment,misc]


def export_model(work: Work, trained: Trained) -> Variant:
    """Store a folder of two files, such as an ONNX model with external data."""
    work.store.get(trained.variant.artifact)  # type: ignore[arg-type]
    with work.store.temporary() as folder:
        (folder / "onnx" / "inner").mkdir(parents=True)
        (folder / "onnx" / "model.onnx").write_bytes(b"graph")
        (folder / "onnx" / "inner" / "model.onnx.data").write_bytes(bytes(1000))
        artifact = work.store.put(folder / "onnx", "onnx", "fp32")
    return Variant(
        name="small/train/onnx",
        model="small",
        stage="export",
        parent="small/train",
        format="onnx",
        artifact=artifact,
        benchmark=True,
    )


def measure_model(work: Work, variant: Variant) -> Output:
    """Save rounds so that an interrupted benchmark can go on, and store the table of latencies."""
    settings = Benchmark(rounds=ROUNDS, batch_sizes=(1,))
    spec = Spec(
        runtime="onnxruntime", path=str(variant.name), device="cpu", threads=1, batch_sizes=(1,), pool="pool.npy"
    )
    candidate = Candidate(variant, "onnxruntime", "cpu", spec)
    folder = work.scratch / "candidates"
    folder.mkdir(exist_ok=True)
    np.save(folder / "pool.npy", np.zeros(10))
    for number in range(resume.load(folder, [candidate], settings, work.log), ROUNDS):
        samples = np.arange(10, dtype=np.int64) + 1000 * (number + 1)
        visit = Visit(samples=samples, turns=np.array([10]), gpu=None, process=1, answer={"level": 1.0})
        candidate.visits.setdefault(1, []).append(visit)
        resume.save(folder, number, [candidate], settings)
    constant = candidate.columns | {"batch_size": 1}
    frames = [
        frame("latencies", constant | {"round": number}, {"query": np.arange(10), "latency_ms": visit.samples / 1e6})
        for number, visit in enumerate(candidate.visits[1], 1)
    ]
    return Output(tables={"latencies": store_frames(work, "latencies", frames)})


def aggregate_tables(work: Work, fragments: dict[str, Artifact]) -> Result:
    """Merge the tables, and store them and a page."""
    with work.store.temporary() as folder:
        merged_tables = {}
        for name in ("trials", "latencies"):
            tables.merge(name, [work.store.get(fragments[name])], folder / f"{name}.parquet")
            merged_tables[name] = work.store.put(folder / f"{name}.parquet", "parquet")
        (folder / "site").mkdir()
        (folder / "site" / "index.html").write_text("<h1>tables</h1>")
        files = {"data-docs": work.store.put(folder / "site", "folder")}
    return Result(tables=merged_tables, files=files, winner="small/train/onnx", reason="the only one")
