"""The benchmark with a runtime of a few lines, whose faults are chosen, and with the real ones on real digits."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import psutil
import pytest
from sklearn.metrics import f1_score

import tasks.runtimes
from tasks import machine
from tasks.benchmark import benchmark, benchmark_task
from tasks.caching.work import Work
from tasks.candidates import process
from tasks.candidates.candidate import Candidate, Visit, conditions
from tasks.candidates.rounds import GPU_BYTES, PROCESS_BYTES, _groups
from tasks.machine.locks import locked
from tasks.measure.intervals import compare, queries_needed, turns
from tasks.records import Benchmark, Export, Measured, Prepared, Variant
from tasks.tables import frames
from tests.support.digits import digits, stored
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = Benchmark(
    runtimes=("eager", "torchscript", "onnxruntime", "openvino", "tensorrt"),
    rounds=2,
    processes=1,
    batch_sizes=(1, 4),
    throughput=False,
    warmup_seconds=0.1,
    min_seconds=0.01,
    min_queries=64,
    threads=1,
)


# A runtime without a library. Its model is JSON: how long a query takes, and what goes wrong from which batch size on.
FAKE = """
import fcntl, io, json, os, signal, time
import numpy as np
FORMATS = ("fake",)
def unavailable(device): return None if device == "cpu" else f"{device}: not here"
def load_library(device): pass
class Session:
    provider, split = "FakeProvider", None
    def __init__(self, path, slots):
        self.path, self.slots = path, slots
        self.spec = json.loads(path.read_text())
        self.lock = io.open(self.spec["lock"], "a")
        self.ballast = np.ones(self.spec.get("megabytes", 0) << 17)
        if self.spec.get("fault") == "open": raise ValueError("cannot be opened\\nsecond line")
    def run(self, inputs):
        kind = fcntl.LOCK_EX if self.slots == 1 else fcntl.LOCK_SH
        fcntl.flock(self.lock, kind | fcntl.LOCK_NB)  # fails where another candidate's query is in flight
        fault = self.spec.get("fault") if len(inputs) >= self.spec.get("from_batch", 1) else None
        if fault == "segfault":
            os.write(2, b"about to crash\\n"); os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang": time.sleep(1000)
        time.sleep(self.spec.get("ms", 0.2) / 1000)
        fcntl.flock(self.lock, fcntl.LOCK_UN)
        if fault == "raise": raise RuntimeError("out of memory")
        logits = np.zeros((len(inputs), 10), np.float32)
        logits[np.arange(len(inputs)), abs(inputs.sum((1, 2, 3))).astype(int) % self.spec.get("classes", 10)] = 1
        return logits * np.nan if fault == "nan" else logits
    def fork(self): return Session(self.path, self.slots)
    def close(self): pass
def open(path, device, batch_size, threads, slots): return Session(path, slots)
"""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work.at(tmp_path)


@pytest.fixture
def data(work: Work) -> Prepared:
    return digits(work, 100)


@pytest.fixture
def fake(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Variant]:
    """Make the runtime known to this process and to the candidates'; a function that stores variants for it."""
    plugin = tmp_path / "plugin"
    plugin.mkdir()
    (plugin / "fake.py").write_text(FAKE)
    (plugin / "sitecustomize.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"import tasks.runtimes; tasks.runtimes.__path__.append({str(plugin)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    monkeypatch.setattr(tasks.runtimes, "__path__", [*tasks.runtimes.__path__, str(plugin)])
    monkeypatch.delitem(sys.modules, "tasks.runtimes.fake", raising=False)

    def variant(name: str, parent: str | None = None, benchmark: bool = True, **spec: Any) -> Variant:
        with work.store.temporary() as folder:
            (folder / "model.fake").write_text(json.dumps({"lock": str(tmp_path / "lock"), "name": name, **spec}))
            artifact = work.store.put(folder / "model.fake", "fake")
        return Variant(
            name=name,
            model="lenet5",
            stage="export",
            parent=parent,
            format="fake",
            artifact=artifact,
            benchmark=benchmark,
        )

    return variant


def settings(**changes: Any) -> Benchmark:
    """Quick settings with the fake runtime, which the record itself would refuse."""
    return QUICK.model_copy(update={"runtimes": ("fake",), "devices": ("cpu",)} | changes)


def read(work: Work, measured: Measured, table: str) -> pl.DataFrame:
    return pl.read_parquet(work.store.get(measured.tables[table]))


def living() -> set[int]:
    """Candidates' processes that run below this one."""
    return {
        p.pid for p in psutil.Process().children(recursive=True) if "tasks.candidates.worker" in " ".join(p.cmdline())
    }


def test_candidates_that_crash_hang_or_misbehave_are_failed_rows_and_the_others_go_on(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_SECONDS", 8)
    faults = {
        "open": "ValueError: cannot be opened",
        "segfault": "killed by SIGSEGV; the last line of its log: about to crash",
        "hang": "no answer within 8 s",
        "raise": "RuntimeError: out of memory",
        "nan": "evaluation: outputs for 20 of 20 images are NaN or infinite",
    }
    variants = (fake("good"), *(fake(fault, fault=fault) for fault in faults), fake("good too"))
    measured = benchmark(work, data, variants, settings())
    rows = read(work, measured, "benchmarks")
    assert len(rows) == 2 * len(variants)
    for row in rows.iter_rows(named=True):
        if row["variant"] in faults:
            assert row["status"] == "failed"
            assert faults[row["variant"]] in row["error"]
            assert row["latency_median_ms"] is None
        else:
            assert (row["status"], row["error"], row["provider"]) == ("ok", None, "FakeProvider")
            assert (row["rounds"], len(row["round_turns"]), row["threads"]) == (2, 2, 1)
    assert read(work, measured, "evaluations")["variant"].to_list() == ["good", "good too"]
    assert not living()


def test_an_error_at_one_batch_size_fails_that_one_alone(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    variant = fake("small", fault="raise", from_batch=4)
    rows = read(work, benchmark(work, data, (variant,), settings(evaluation_batch=3)), "benchmarks")
    assert dict(rows.select("batch_size", "status").iter_rows()) == {1: "ok", 4: "failed"}


def test_variants_and_places_that_cannot_run_are_rows_with_the_reason(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    made = {"model": "lenet5", "stage": "build", "format": "fake"}
    variants = (
        fake("good"),
        fake("not asked for", benchmark=False),
        Variant(name="broken", status="failed", error="exporter said no", **made),
        Variant(name="absent", status="skipped", error="no library", **made),
    )
    rows = read(work, benchmark(work, data, variants, settings(devices=("cpu", "cuda:7"), rounds=1)), "benchmarks")
    told = {(r["variant"], r["device"]): (r["status"], r["error"]) for r in rows.iter_rows(named=True)}
    assert told == {
        ("good", "cpu"): ("ok", None),
        ("good", "cuda:7"): ("skipped", "cuda:7: not here"),
        ("broken", "cpu"): ("failed", "exporter said no"),
        ("absent", "cpu"): ("skipped", "no library"),
    }
    assert len(rows) == 2 * len(told)


def test_every_sample_is_kept_and_the_rows_follow_from_them(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    measured = benchmark(work, data, (fake("a"), fake("b", ms=1)), settings())
    samples, rows = read(work, measured, "latencies"), read(work, measured, "benchmarks")
    place = ["variant", "runtime", "device", "batch_size"]
    assert samples.schema == frames.frame("latencies", []).schema
    assert not samples.select(*place, "round", "query").is_duplicated().any()
    assert samples.select(place).unique().height == len(rows) == 4
    for row in rows.iter_rows(named=True):
        own = samples.filter(pl.all_horizontal(pl.col(key) == row[key] for key in place))
        assert len(own) == row["queries"] >= 2 * 64
        assert own["latency_ms"].mean() == pytest.approx(row["latency_mean_ms"])
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["latency_mean_ms"])
        assert own.n_unique("round") == row["rounds"] == len(row["round_turns"])
        for (_, of_round), medians in zip(own.group_by("round", maintain_order=True), turns(row), strict=True):
            assert min(medians) <= of_round["latency_ms"].quantile(0.5, "lower") <= max(medians)
        assert (row["latency_p99_ms"] is None) == (len(own) < queries_needed(99))
        assert row["latency_median_ms"] in own["latency_ms"].to_list()


def test_candidates_are_visited_in_rounds_and_turns_in_a_rotating_order_one_at_a_time(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def noted(name: str) -> None:
        original = getattr(process.Worker, name)

        def call(self: process.Worker, *arguments: Any) -> Any:
            told.append(f"{name[0]}{self._log.name[0]}")
            return original(self, *arguments)

        monkeypatch.setattr(process.Worker, name, call)

    for name in ("warm_up", "turn", "finish"):
        noted(name)
    variants = tuple(fake(name) for name in "abc")
    asked = settings(rounds=3, batch_sizes=(4, 1), min_seconds=0.1, min_queries=1)
    measured = benchmark(work, data, variants, asked)
    first = "wa wb wc ta tb tc tb tc ta fa fb fc"
    second, third = (first.translate(str.maketrans("abc", order)) for order in ("bca", "cab"))
    assert " ".join(told) == " ".join([first, first, second, second, third, third])
    # the fake fails where queries overlap
    assert set(read(work, measured, "benchmarks")["status"]) == {"ok"}


@pytest.mark.alone
def test_the_same_program_twice_is_indistinguishable_and_a_slower_one_is_slower(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    variants = (fake("a", ms=2), fake("same as a", ms=2), fake("slow", ms=10))
    rows = read(work, benchmark(work, data, variants, settings(rounds=4, batch_sizes=(1,))), "benchmarks")
    a, same, slow = (turns(row) for row in rows.iter_rows(named=True))
    assert compare(a, same)[3] == "indistinguishable"
    assert compare(a, slow)[3] == "slower"
    assert compare(slow, a)[3] == "faster"


def test_memory_is_what_the_model_takes_above_the_librarys(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    measured = benchmark(work, data, (fake("small"), fake("large", megabytes=200)), settings(rounds=1))
    rows = read(work, measured, "memory")
    assert rows["vram_peak_bytes"].to_list() == [None] * 4
    for row in rows.iter_rows(named=True):
        assert row["ram_usage_bytes"] == row["rss_peak_bytes"] - row["rss_baseline_bytes"]
        expected = 200 * 2**20 if row["variant"] == "large" else 0
        assert expected <= row["ram_usage_bytes"] < expected + 30 * 2**20


def test_agreement_is_with_the_nearest_measured_ancestor(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    variants = (
        fake("weights"),
        fake("weights/onnx", parent="weights", benchmark=False),
        fake("weights/onnx/int8", parent="weights/onnx", classes=5),
    )
    (work.scratch / "names.json").write_text(
        json.dumps([f"{row}.png" for row in range(len(np.load(work.store.get(data.labels))))])
    )
    named = data.model_copy(update={"names": work.store.put(work.scratch / "names.json", "json")})
    assert benchmark_task.about.extra({"data": named}) != benchmark_task.about.extra({"data": data}), "the key has them"  # type: ignore[attr-defined]
    measured = benchmark(work, named, variants, settings(rounds=1))
    rows = {row["variant"]: row for row in read(work, measured, "evaluations").iter_rows(named=True)}
    said = read(work, measured, "predictions")
    assert said["file"].to_list() == [f"{row}.png" for row in said["image"]]
    one, other = (said.filter(pl.col("variant") == name).sort("image")["prediction"] for name in rows)
    assert rows["weights"]["parent"] is rows["weights"]["agreement"] is None
    assert rows["weights/onnx/int8"]["parent"] == "weights"
    assert rows["weights/onnx/int8"]["agreement"] == pytest.approx((one == other).mean())
    assert 0 < (one == other).mean() < 1


def test_when_memory_is_short_groups_are_started_anew_in_every_round(
    work: Work,
    data: Prepared,
    fake: Callable[..., Variant],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(machine, "memory_available", lambda: 1_000_000_000)
    most, progress = [], Work.progress
    monkeypatch.setattr(Work, "progress", lambda self, *told: (most.append(len(living())), progress(self, *told)))
    measured = benchmark(work, data, tuple(fake(name) for name in "abc"), settings())
    assert max(most) == 2
    assert "2 groups, started anew in every round" in caplog.text
    assert read(work, measured, "benchmarks")["rounds"].to_list() == [2] * 6
    assert len(read(work, measured, "evaluations")) == 3


def test_candidates_of_a_group_fit_into_the_memory_of_their_gpu_too(fake: Callable[..., Variant]) -> None:
    variant = fake("a")
    assert variant.artifact is not None
    weights = 3 * variant.artifact.size_bytes

    def groups(memory: dict[str, float]) -> list[str]:
        candidates = [
            Candidate(variant, "fake", device, None) for device in ("cuda:0", "cpu", "cuda:1", "cuda:0", "cuda:0")
        ]  # type: ignore[arg-type]
        return [" ".join(candidate.device for candidate in group) for group in _groups(candidates, memory)]

    enough = {"cpu": 5.0 * (PROCESS_BYTES + weights)}
    two, one = 2 * (GPU_BYTES + weights), GPU_BYTES + weights
    assert groups(enough) == ["cuda:0 cpu cuda:1 cuda:0 cuda:0"], "a GPU's memory is not known"
    assert groups(enough | {"cuda:0": two, "cuda:1": one}) == ["cuda:0 cpu cuda:1 cuda:0", "cuda:0"]
    assert groups(enough | {"cuda:0": one - 1}) == ["cuda:0 cpu cuda:1", "cuda:0", "cuda:0"]


def test_an_interruption_leaves_no_process(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()

    def interrupted(self: Work, done: float, total: float, text: str) -> None:
        if done == 2:
            seen.update(living())
            raise KeyboardInterrupt

    monkeypatch.setattr(Work, "progress", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark(work, data, (fake("a"), fake("b")), settings())
    assert len(seen) == 2
    assert not any(psutil.pid_exists(pid) for pid in seen)


def test_a_candidate_ends_when_its_parent_is_killed_in_the_middle_of_a_query(
    work: Work, data: Prepared, fake: Callable[..., Variant], tmp_path: Path
) -> None:
    np.save(tmp_path / "pool.npy", np.zeros((4, 1, 8, 8), np.float32))
    artifact = fake("stuck", fault="hang").artifact
    assert artifact is not None
    spec = process.Spec(
        runtime="fake",
        path=str(work.store.get(artifact)),
        device="cpu",
        threads=1,
        batch_sizes=(1,),
        pool=str(tmp_path / "pool.npy"),
    )
    effort = process.Effort(warmup_seconds=0.1, min_seconds=0.1, min_queries=1)
    parent = f"""
from pathlib import Path
from tasks.candidates.process import Worker, Effort, Spec
worker = Worker({spec!r}, Path({str(tmp_path / "log")!r}))
worker.receive()
print(worker.pid, flush=True)
worker.warm_up("latency", 1, {effort!r}, ())
"""
    killed = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, cwd=ROOT)
    assert killed.stdout is not None
    child = psutil.Process(int(killed.stdout.readline()))
    time.sleep(0.5)
    assert child.is_running()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    child.wait(10)


def test_a_second_benchmark_waits_for_the_device_and_says_so(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)
    order: list[str] = []

    def second() -> None:
        with locked({"cpu"}, logging.getLogger("second")):
            order.append("second")

    with locked({"cpu", "cuda:0"}, logging.getLogger("first")):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.7)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert "waiting: another benchmark runs on cpu" in caplog.text


def test_what_was_bad_about_a_measurement_is_told_and_calm_is_null() -> None:
    def told(medians: list[float], stable: bool = True, foreign: float = 0.02, gpu: str | None = None) -> str | None:
        answer = {"stable": stable, "certificate": {"foreign_cpu": foreign, "gpu_trouble": gpu}}
        return conditions([Visit(np.array([m]), np.array([1]), None, 1, answer) for m in medians], medians)

    assert told([100, 110, 105], foreign=0.2) is None
    assert told([100, 230, 105]) == "rounds differ by 130%"
    assert told([100, 100], foreign=0.5) == "other processes used 50% of the cores"
    assert told([100, 100, 100], stable=False) == "warm-up windows did not agree in 3 of 3 rounds"
    assert told([100], gpu="thermal slowdown") == "thermal slowdown"


@pytest.mark.alone
def test_other_processes_are_noticed(work: Work, data: Prepared, fake: Callable[..., Variant]) -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in machine.affinity()]
    try:
        rows = read(work, benchmark(work, data, (fake("a", ms=5),), settings(batch_sizes=(1,))), "benchmarks")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert "other processes used" in rows["conditions"][0]


@pytest.mark.alone
def test_throughput_is_an_experiment_of_its_own_with_a_query_in_flight_a_slot(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    asked = settings(throughput=True, threads=2, batch_sizes=(1, 4))
    measured = benchmark(work, data, (fake("a", ms=4), fake("broken", fault="raise")), asked)
    rows, samples = read(work, measured, "throughputs"), read(work, measured, "completions")
    assert dict(rows.select("variant", "status").iter_rows()) == {"a": "ok", "broken": "failed"}
    latency = read(work, measured, "benchmarks").filter(pl.col("variant") == "a")
    for row, single in zip(rows.head(2).iter_rows(named=True), latency.iter_rows(named=True), strict=True):
        assert row["slots"] == 2
        assert row["images_per_second"] == pytest.approx(2 * single["images_per_second"], rel=0.15)
        assert row["images_per_second"] == pytest.approx(np.mean(row["round_images_per_second"]))
        own = samples.filter((pl.col("variant") == "a") & (pl.col("batch_size") == row["batch_size"]))
        assert len(own) == row["queries"] >= 2 * 64


def test_rounds_are_spread_over_fresh_processes(work: Work, data: Prepared, fake: Callable[..., Variant]) -> None:
    for processes, expected in ((None, [1, 2, 3, 4]), (2, [1, 1, 2, 2]), (1, [1, 1, 1, 1])):
        asked = settings(rounds=4, processes=processes, batch_sizes=(1,))
        measured = benchmark(work, data, (fake("a"),), asked)
        assert read(work, measured, "certificates")["process"].to_list() == expected
        (row,) = read(work, measured, "benchmarks").to_dicts()
        assert row["processes"] == len(set(expected))
        assert (row["process_std_ms"] is None) == (processes == 1)
        assert len(read(work, measured, "evaluations")) == 1


def test_an_interrupted_benchmark_goes_on_after_its_last_whole_round(
    work: Work, data: Prepared, fake: Callable[..., Variant], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(self: Work, done: float, total: float, text: str) -> None:
        visits.append(text.partition(":")[0].partition(" of ")[0])
        if text.startswith("round 3") and not resumed:
            raise KeyboardInterrupt

    visits: list[str] = []
    resumed = False
    monkeypatch.setattr(Work, "progress", cut)
    asked, variants = (
        settings(rounds=4, processes=2, evaluation_batch=3),
        (fake("a"), fake("b", fault="raise", from_batch=4)),
    )
    with pytest.raises(KeyboardInterrupt):
        benchmark(work, data, variants, asked)
    resumed, visits = True, []
    measured = benchmark(work, data, variants, asked)
    assert visits[:3] == ["opening 2 candidates", "opened 1", "opened 2"]
    assert visits[-3:] == ["a · fake · cpu", "b · fake · cpu", "2 candidates measured"], "the held-out images come last"
    assert set(visits[3:-3]) == {"round 3", "round 4"}
    rows = read(work, measured, "benchmarks")
    told = rows.select("variant", "batch_size", "status", "rounds").rows()
    assert told == [("a", 1, "ok", 4), ("a", 4, "ok", 4), ("b", 1, "ok", 4), ("b", 4, "failed", 0)]
    process = read(work, measured, "certificates").filter(pl.col("variant") == "a")["process"].to_list()
    assert process == [1, 1, 2, 2] * 2
    assert len(read(work, measured, "latencies").filter(pl.col("variant") == "a")) == rows["queries"].head(2).sum()


@pytest.mark.alone
def test_a_budget_is_kept_by_fewer_queries_and_every_row_is_there(
    work: Work, data: Prepared, fake: Callable[..., Variant]
) -> None:
    asked = settings(batch_sizes=(1, 4), min_seconds=5, min_queries=500, minutes=12 / 60, throughput=True, threads=2)
    started = time.monotonic()
    measured = benchmark(work, data, (fake("a", ms=20), fake("b", ms=5)), asked)
    assert 0.8 * 12 < time.monotonic() - started < 1.1 * 12
    for table in ("benchmarks", "throughputs"):
        rows = read(work, measured, table)
        assert rows["status"].to_list() == ["ok"] * 4
        assert rows["rounds"].to_list() == [2] * 4
        assert (rows["queries"] < 2 * 500).all()


def test_every_visit_has_a_certificate(work: Work, data: Prepared, fake: Callable[..., Variant]) -> None:
    measured = benchmark(work, data, (fake("a"),), settings(throughput=True))
    rows = read(work, measured, "certificates")
    assert rows.select("batch_size", "experiment", "round").rows() == [
        (size, experiment, number) for experiment in ("latency", "throughput") for size in (1, 4) for number in (1, 2)
    ]
    for row in rows.iter_rows(named=True):
        assert row["provider"] == "FakeProvider"
        assert row["cpu_model"] and row["affinity"]
        assert json.loads(row["libraries"])["numpy"] == np.__version__
        assert (row["energy_j"] is None) == (row["energy_note"] is not None)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Work, Measured]:
    """LeNet-5 on real digits in the real runtimes, one of the ONNX files damaged."""
    from tasks.export import export

    work = Work.at(tmp_path_factory.mktemp("real"))
    data = digits(work)
    parent = stored(work, "lenet5", name="lenet5", num_classes=10, in_channels=1, image_size=8)
    parent = parent.model_copy(update={"benchmark": True})
    forms = export(work, data, parent, Export(images=16)).variants
    with work.store.temporary() as folder:
        (folder / "model.onnx").write_bytes(b"not a model")
        bad = Variant(
            name="damaged",
            model="lenet5",
            stage="quantize",
            format="onnx",
            precision="int8",
            artifact=work.store.put(folder / "model.onnx", "onnx"),
            benchmark=True,
        )
        (folder / "model.engine").write_bytes(b"not an engine")
        engine = Variant(
            name="engine",
            model="lenet5",
            stage="build",
            format="engine",
            benchmark=True,
            artifact=work.store.put(folder / "model.engine", "engine"),
        )
    chosen = QUICK.model_copy(update={"devices": ("cpu",)})
    return work, benchmark(work, data, (parent, *forms, bad, engine), chosen)


@pytest.mark.slow
def test_real_forms_are_measured_through_the_runtime_that_executes_them(real: tuple[Work, Measured]) -> None:
    rows = read(*real, "benchmarks").filter(pl.col("status") == "ok")
    assert set(rows.select("variant", "runtime", "provider").rows()) == {
        ("lenet5/train", "eager", "PyTorch eager (cpu)"),
        ("lenet5/train/onnx", "onnxruntime", "CPUExecutionProvider"),
        ("lenet5/train/onnx", "openvino", "OpenVINO CPU (f32, 1 stream, 1 thread)"),
        ("lenet5/train/torchscript", "torchscript", "TorchScript (cpu)"),
    }
    assert (rows["latency_min_ms"] > 0.001).all()


@pytest.mark.slow
def test_a_damaged_file_fails_and_an_engine_is_skipped_on_the_cpu(real: tuple[Work, Measured]) -> None:
    rows = read(*real, "benchmarks").filter(pl.col("status") != "ok")
    told = {(r["variant"], r["runtime"], r["status"]): r["error"] for r in rows.iter_rows(named=True)}
    expected = {
        ("damaged", "onnxruntime", "failed"): "Protobuf parsing failed",
        ("damaged", "openvino", "failed"): "OpenVINO does not read it",
        ("engine", "tensorrt", "skipped"): "CUDA",
    }
    assert told.keys() == expected.keys()
    assert all(words in told[place] for place, words in expected.items())


@pytest.mark.slow
def test_quality_is_that_of_the_predictions_and_forms_agree_with_their_parent(real: tuple[Work, Measured]) -> None:
    said = read(*real, "predictions")
    for row in read(*real, "evaluations").iter_rows(named=True):
        own = said.filter((pl.col("variant") == row["variant"]) & (pl.col("runtime") == row["runtime"]))
        assert row["images"] == len(own) == 60
        assert row["top1"] == pytest.approx((own["label"] == own["prediction"]).mean())
        assert row["macro_f1"] == pytest.approx(f1_score(own["label"], own["prediction"], average="macro"))
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]
        assert row["macro_f1_low"] <= row["macro_f1"] <= row["macro_f1_high"]
        if row["variant"] != "lenet5/train":
            assert (row["parent"], row["agreement"]) == ("lenet5/train", 1.0)


@pytest.mark.slow
def test_the_environment_names_the_machine_and_the_libraries(real: tuple[Work, Measured]) -> None:
    (row,) = read(*real, "environments").to_dicts()
    assert row["cpu_cores"] <= len(os.sched_getaffinity(0))
    assert row["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert {"torch", "numpy"} <= json.loads(row["libraries"]).keys()
