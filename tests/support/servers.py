"""Makes a run whose winner is a real file, deploys it with `burnish deploy`, and starts the deployed server."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow.parquet as pq
from PIL import Image

from flows.cli import main
from flows.settings import to_toml
from tasks import runtimes, tables
from tasks.caching.work import Work
from tasks.datasets._arrays import load_arrays
from tasks.datasets._pixels import normalise
from tasks.export import export
from tasks.machine.files import write_text
from tasks.prepare import prepare
from tasks.records import Data, Export, Model, Prepared, Study, Variant
from tasks.runtimes._openvino import library
from tasks.tables import frames
from tests.support.command import shared_data
from tests.support.digits import digits, stored_model
from tests.support.paths import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import pytest

RUN = "small-20260101-000000"
IMAGES = 12
"""Number of test images that are sent to the server."""
LOADED: list[ModuleType] = []
"""Every app.py that this process has imported. None is taken apart, because OpenVINO's Core must outlive all later ones
(`tasks.runtimes._openvino.core`)."""


class FinishedRun:
    """An artifacts folder with a run whose winner is a real file, and that run's test images.

    `pixels` are the last `IMAGES` images as stored, `inputs` the same images normalised.
    """

    def __init__(self, out: Path, work: Work, data: Prepared, settings: Data) -> None:
        self.out = out
        self.data = data
        self.settings = settings
        shape = {"num_classes": len(data.classes), "in_channels": data.channels, "image_size": data.image_size}
        parent = stored_model(work, "lenet5", name="lenet5", **shape)
        forms = export(work, data, parent, Export(images=8)).variants
        onnx_form = next(form for form in forms if form.format == "onnx")
        self.variants = (parent, *forms, self._without_metadata(work, onnx_form), self._openvino(work, onnx_form))
        arrays = load_arrays(work.store, data)
        self.pixels = arrays.images[-IMAGES:]
        rows_of_images = range(len(arrays.images) - IMAGES, len(arrays.images))
        self._tested = [{"image": n, "label": int(arrays.labels[n])} for n in rows_of_images]
        stored_images = {f"images_{key}": getattr(data.images, key) for key in ("path", "sha256", "size_bytes")}
        self.write_table("datasets", [stored_images | {"split": "test", "label": "a few images"}])
        self.write_table(
            "environments", [{"cpu_model": "a processor", "cpu_cores": 2, "libraries": '{"numpy": "2.0"}'}]
        )
        self.inputs = normalise(self.pixels, data.mean, data.std)
        rows = [
            variant.model_dump(include={"name", "model", "stage", "parent", "format", "precision", "status"})
            | variant.artifact.model_dump(include={"path", "sha256", "size_bytes"})
            for variant in self.variants
        ]
        self.write_table("variants", rows)
        self.summarise(
            {
                ("lenet5/train", "eager"): 3.0,
                ("lenet5/train/onnx", "onnxruntime"): 1.0,
                ("lenet5/train/onnx", "openvino"): 2.0,
                ("lenet5/train/torchscript", "torchscript"): 4.0,
                ("lenet5/train/onnx/int8", "onnxruntime"): 5.0,
            }
        )
        folder = out / "runs" / RUN
        study = Study(
            name="small", models=(Model(name="lenet5"),), data=settings.model_copy(update={"test_fraction": 0.5})
        )
        write_text(folder / "study.toml", to_toml(study))
        write_text(folder / "result.json", "{}")

    @staticmethod
    def _without_metadata(work: Work, form: Variant) -> Variant:
        """Store the form without the export's metadata, which ONNX Runtime's quantizer drops too."""
        assert form.artifact
        model = onnx.load(str(work.store.get(form.artifact)))
        del model.metadata_props[:]
        with work.store.temporary() as folder:
            onnx.save(model, folder / "bare.onnx")
            artifact = work.store.put(folder / "bare.onnx", "onnx", "int8")
        return Variant(
            name=f"{form.name}/int8",
            model=form.model,
            stage="quantize",
            parent=form.name,
            format="onnx",
            precision="int8",
            artifact=artifact,
        )

    @staticmethod
    def _openvino(work: Work, form: Variant) -> Variant:
        """The model as OpenVINO writes it: a folder with an .xml file and its .bin file, which say no classes."""
        openvino = library()
        assert form.artifact
        with work.store.temporary() as folder:
            (folder / "ir").mkdir()
            model = openvino.Core().read_model(work.store.get(form.artifact))
            openvino.save_model(model, folder / "ir" / "model.xml", compress_to_fp16=False)
            artifact = work.store.put(folder / "ir", "openvino", "int8")
        return Variant(
            name=f"{form.name}/ir",
            model=form.model,
            stage="quantize",
            parent=form.name,
            format="openvino",
            precision="int8",
            artifact=artifact,
        )

    def write_table(self, table: str, rows: list[dict[str, Any]]) -> None:
        (self.out / "tables" / table).mkdir(parents=True, exist_ok=True)
        frames.frame(table, rows).write_parquet(self.out / "tables" / table / f"{RUN}.parquet")

    def summarise(
        self,
        latencies: dict[tuple[str, str], float],
        device: str = "cpu",
        *,
        threads: int = 1,
        batch: int = 1,
        winner: bool = True,
    ) -> None:
        """Write the summary and the benchmarks: (variant, runtime) -> latency in ms. The fastest one is the winner."""
        rows: list[dict[str, Any]] = [
            {
                "variant": variant,
                "runtime": runtime,
                "device": device,
                "batch_size": batch,
                "status": "ok",
                "top1": 0.5,
                "eligible": True,
                "latency_median_ms": ms,
                "role": None if number or not winner else "winner",
            }
            for number, ((variant, runtime), ms) in enumerate(sorted(latencies.items(), key=lambda item: item[1]))
        ]
        self.write_table("summary", rows)
        keys = ("variant", "runtime", "device", "batch_size", "status", "latency_median_ms")
        self.write_table("benchmarks", [{key: row[key] for key in keys} | {"threads": threads} for row in rows])
        predictions = [
            {key: row[key] for key in keys[:3]} | image | {"prediction": image["label"]}
            for row in rows
            for image in self._tested
        ]
        self.write_table("predictions", predictions)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore afterwards the tables that `summarise` changes in the meantime."""
        before = {name: tables.read(self.out, name, RUN).collect() for name in ("summary", "benchmarks", "predictions")}
        try:
            yield
        finally:
            for name, rows in before.items():
                rows.write_parquet(self.out / "tables" / name / f"{RUN}.parquet")

    def logits(self, runtime: str, variant: str) -> np.ndarray:
        """Return the logits that a variant has for the test images in the pipeline's own runtime."""
        artifact = next(form.artifact for form in self.variants if form.name == variant)
        assert artifact
        session = runtimes.load(runtime).open(self.out / "store" / artifact.path, "cpu", 1, 1)
        try:
            return np.concatenate([session.run(self.inputs[i : i + 1]) for i in range(IMAGES)])
        finally:
            session.close()

    def deploy(self, to: Path, *arguments: str, code: int = 0) -> Path:
        """Deploy the run into the folder `to` and return that folder."""
        assert main(["deploy", "--out", str(self.out), "--to", str(to), *arguments]) == code
        return to


def grey_run(out: Path) -> FinishedRun:
    """Make a run on scikit-learn's digits: greyscale, normalised with statistics of the training images."""
    work = Work.at(out, "deploy")
    return FinishedRun(out, work, digits(work, 60), Data(source="digits"))


def colour_run(out: Path) -> FinishedRun:
    """Make a run on JPEG photographs of ImageNet, which are resized and cropped."""
    work = Work.at(out, "deploy")
    with pq.ParquetFile(next((shared_data() / "imagenet-1k-sample").glob("*.parquet"))) as sample:
        pq.write_table(sample.read_row_group(0).slice(0, IMAGES), out / "few.parquet")
    settings = Data(
        source="parquet",
        path=str(out / "few.parquet"),
        image_size=48,
        resize=56,
        mean=(0.48, 0.45, 0.4),
        std=(0.2, 0.25, 0.3),
        test_fraction=1,
    )
    return FinishedRun(out, work, prepare(work, settings), settings)


def png(pixels: np.ndarray) -> bytes:
    """Return an image, uint8 (height, width, channels), as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without PYTHONPATH, so that a program does not find this project."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | more


class Server:
    """A deployed server that was started: its process, its address and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log
        self.url = f"http://127.0.0.1:{port}"

    @property
    def output(self) -> str:
        return self._log.read_text()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@contextmanager
def running(
    folder: Path,
    arguments: tuple[str, ...] = ("app.py",),
    prefix: tuple[str, ...] = (),
    **variables: str,
) -> Iterator[Server]:
    """Run app.py in a process of its own, on a free port. `prefix` is a command that becomes the one after it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder.parent / f"{folder.name}-{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, *arguments],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(PORT=str(port), **variables),
        )
    server = Server(process, port, log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert json.load(urllib.request.urlopen(f"{server.url}/healthz", timeout=5)) == {"status": "ok"}
                break
            except OSError:
                assert process.poll() is None, server.output
                assert time.monotonic() < deadline, "the server did not answer within 60 s"
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)
    assert process.returncode in (0, -15)


def running_with_limits(folder: Path, *limits: str) -> AbstractContextManager[Server]:
    """Run app.py with other limits, each written as in `connections.HEADER_SECONDS=1`."""
    program = str(PROGRAMS / "deployed_server.py")
    return running(folder, ("-P", program, *limits), PYTHONPATH=str(folder))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run app.py in a process of its own and yield its address."""
    with running(folder) as server:
        yield server.url


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    """Post `body` and return the HTTP status and the answer, decoded from JSON."""
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, body), timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, json.loads(answer.read())


def load_app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import app.py of the deployed folder into this process. After the test, its modules are forgotten."""
    monkeypatch.syspath_prepend(str(folder))
    for program in folder.glob("*.py"):
        # A module of this name that was imported before is of another deployed folder.
        monkeypatch.setitem(sys.modules, program.stem, ModuleType(program.stem))
        del sys.modules[program.stem]
    spec = importlib.util.spec_from_file_location("app", folder / "app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    LOADED.append(module)
    return module
