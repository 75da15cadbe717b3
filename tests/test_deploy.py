"""What `burnish deploy` writes answers as the pipeline does, on the same real images, and runs without burnish."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from conftest import shared
from digits import digits, stored
from PIL import Image

from flows.cli import main
from flows.settings import to_toml
from tasks import runtimes, tables
from tasks.datasets import load_arrays, open_source
from tasks.export import export
from tasks.pixels import normalise
from tasks.prepare import prepare
from tasks.records import Data, Export, Model, Prepared, Study, Variant
from tasks.store import write_text
from tasks.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

RUN = "small-20260101-000000"
IMAGES = 12


class Made:
    """An artifacts folder with a run whose winner is a real file, and what the pipeline says of its test images."""

    def __init__(self, out: Path, work: Work, data: Prepared, settings: Data) -> None:
        self.out, self.data, self.settings = out, data, settings
        shape = {"num_classes": len(data.classes), "in_channels": data.channels, "image_size": data.image_size}
        parent = stored(work, "lenet5", name="lenet5", **shape)
        forms = export(work, data, parent, Export(images=8)).variants
        onnx_form = next(form for form in forms if form.format == "onnx")
        self.variants = (parent, *forms, self._bare(work, onnx_form))
        self.pixels = load_arrays(work.store, data)[0][-IMAGES:]
        self.inputs = normalise(self.pixels, data.mean, data.std)
        rows = [
            one.model_dump(include={"name", "model", "stage", "parent", "format", "precision", "status"})
            | one.artifact.model_dump(include={"path", "sha256", "size_bytes"})
            for one in self.variants
        ]  # fmt: skip
        self._put("variants", rows)
        self.summarise({("lenet5/train", "eager"): 3.0, ("lenet5/train/onnx", "onnxruntime"): 1.0,
                        ("lenet5/train/onnx", "openvino"): 2.0, ("lenet5/train/torchscript", "torchscript"): 4.0,
                        ("lenet5/train/onnx/int8", "onnxruntime"): 5.0})  # fmt: skip
        folder = out / "runs" / RUN
        study = Study(
            name="small", models=(Model(name="lenet5"),), data=settings.model_copy(update={"test_fraction": 0.5})
        )
        write_text(folder / "study.toml", to_toml(study))
        write_text(folder / "result.json", "{}")

    @staticmethod
    def _bare(work: Work, form: Variant) -> Variant:
        """As ONNX Runtime's quantizer leaves a file: without what the export had written into it."""
        assert form.artifact
        model = onnx.load(str(work.store.get(form.artifact)))
        del model.metadata_props[:]
        with work.store.temporary() as folder:
            onnx.save(model, folder / "bare.onnx")
            artifact = work.store.put(folder / "bare.onnx", "onnx", "int8")
        return Variant(name=f"{form.name}/int8", model=form.model, stage="quantize", parent=form.name, format="onnx",
                       precision="int8", artifact=artifact)  # fmt: skip

    def _put(self, table: str, rows: list[dict[str, Any]]) -> None:
        (self.out / "tables" / table).mkdir(parents=True, exist_ok=True)
        tables.frame(table, rows).write_parquet(self.out / "tables" / table / f"{RUN}.parquet")

    def summarise(self, latencies: dict[tuple[str, str], float], device: str = "cpu") -> None:
        """The first is the winner."""
        self._put("summary", [
            {"variant": variant, "runtime": runtime, "device": device, "batch_size": 1, "status": "ok", "top1": 0.5,
             "eligible": True, "latency_median_ms": ms, "role": None if number else "winner"}
            for number, ((variant, runtime), ms) in enumerate(sorted(latencies.items(), key=lambda item: item[1]))
        ])  # fmt: skip

    def logits(self, runtime: str, variant: str) -> np.ndarray:
        """What the pipeline's own runtime answers for the test images."""
        found = next(one for one in self.variants if one.name == variant)
        assert found.artifact
        session = runtimes.load(runtime).open(self.out / "store" / found.artifact.path, "cpu", 1, 1)
        try:
            return np.concatenate([session.run(self.inputs[i : i + 1]) for i in range(IMAGES)])
        finally:
            session.close()

    def deploy(self, to: Path, *arguments: str, code: int = 0) -> Path:
        assert main(["deploy", "--out", str(self.out), "--to", str(to), *arguments]) == code
        return to


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """scikit-learn's digits: greyscale, normalised by the training images."""
    out = tmp_path_factory.mktemp("grey")
    work = Work.at(out, "deploy")
    return Made(out, work, digits(work, 60), Data(source="digits"))


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """JPEG photographs of ImageNet: resized, cropped."""
    out = tmp_path_factory.mktemp("colour")
    work = Work.at(out, "deploy")
    with pq.ParquetFile(next((shared() / "data" / "imagenet-1k-sample").glob("*.parquet"))) as sample:
        pq.write_table(sample.read_row_group(0).slice(0, IMAGES), out / "few.parquet")
    settings = Data(source="parquet", path=str(out / "few.parquet"), image_size=48, resize=56, mean=(0.48, 0.45, 0.4),
                    std=(0.2, 0.25, 0.3), test_fraction=1)  # fmt: skip
    return Made(out, work, prepare(work, settings), settings)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def environment(**more: str) -> dict[str, str]:
    """Of a process that knows nothing of this project's folder."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | more


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """app.py in a process of its own, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment(PORT=str(port)), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                assert json.load(urllib.request.urlopen(f"{url}/healthz", timeout=5)) == {"status": "ok"}
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "the server did not answer within 60 s"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode in (0, -15)


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, body), timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, json.loads(answer.read())


def probabilities(answer: dict[str, Any], classes: int) -> np.ndarray:
    found = np.full(classes, np.nan)
    for one in answer["predictions"]:
        found[one["index"]] = one["probability"]
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.fixture
def alone() -> Iterator[None]:
    """Modules of a served folder are not kept for the next."""
    yield
    for name in ("app", "decode", "pixels"):
        sys.modules.pop(name, None)


def load_app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("app", folder / "app.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_server_answers_as_the_pipeline_does(grey: Made, tmp_path: Path) -> None:
    folder = grey.deploy(tmp_path / "served")
    want = grey.logits("onnxruntime", "lenet5/train/onnx")
    with served(folder) as url:
        for pixels, logits in zip(grey.pixels, want, strict=True):
            status, answer = post(f"{url}/predict?top=10", png(pixels))
            assert status == 200
            assert answer["predictions"][0]["index"] == logits.argmax()
            assert answer["predictions"][0]["class"] == grey.data.classes[logits.argmax()]
            np.testing.assert_allclose(probabilities(answer, 10), softmax(logits), atol=1e-5)
        assert len(post(f"{url}/predict", png(grey.pixels[0]))[1]["predictions"]) == 5
        for body, query, words in (
            (b"not an image", "", "undecodable image"), (b"", "", "empty image"),
            (png(grey.pixels[0])[:60], "", "undecodable image"), (png(grey.pixels[0]), "?top=0", "top: a whole number"),
        ):  # fmt: skip
            status, answer = post(f"{url}/predict{query}", body)
            assert status == 400
            assert words in answer["error"]
            assert "\n" not in answer["error"]
        assert post(f"{url}/predict", bytes((32 << 20) + 1))[0] == 413
        assert json.load(urllib.request.urlopen(f"{url}/healthz"))["status"] == "ok"


@pytest.mark.parametrize(
    ("runtime", "variant"),
    [
        ("onnxruntime", "lenet5/train/onnx/int8"),
        ("openvino", "lenet5/train/onnx"),
        ("torchscript", "lenet5/train/torchscript"),
    ],
)
def test_photographs_are_prepared_as_the_pipeline_prepares_them_in_every_runtime(
    colour: Made, tmp_path: Path, runtime: str, variant: str, monkeypatch: pytest.MonkeyPatch, alone: None
) -> None:
    colour.summarise({(variant, runtime): 1.0})
    app = load_app(colour.deploy(tmp_path / "served", "--variant", variant), monkeypatch)
    images = [image for part in open_source(colour.settings).parts.values() for image, _, _ in part]
    for image, inputs, logits in zip(images, colour.inputs, colour.logits(runtime, variant), strict=True):
        np.testing.assert_array_equal(app.prepare(image)[0], inputs)
        status, answer = app.predict(image, "1000")
        assert status == 200
        np.testing.assert_allclose(probabilities(answer, len(logits)), softmax(logits), rtol=1e-4)


def test_a_function_answers_as_the_server_does(
    grey: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None
) -> None:
    app = load_app(grey.deploy(tmp_path / "served"), monkeypatch)
    body = base64.b64encode(png(grey.pixels[3])).decode()
    event = {"rawPath": "/predict", "body": body, "isBase64Encoded": True, "queryStringParameters": {"top": "2"}}
    answer = app.handler(event, None)
    assert answer["statusCode"] == 200
    found = json.loads(answer["body"])["predictions"]
    assert len(found) == 2
    assert found[0]["index"] == grey.logits("onnxruntime", "lenet5/train/onnx")[3].argmax()
    assert app.handler({"rawPath": "/healthz"}, None)["statusCode"] == 200
    for wrong, words in (("%%%", "not base64"), ("", "empty image")):
        answer = app.handler({"body": wrong, "isBase64Encoded": True}, None)
        assert answer["statusCode"] == 400
        assert words in json.loads(answer["body"])["error"]


def test_the_folder_says_what_it_serves_and_pins_what_it_needs(grey: Made, tmp_path: Path) -> None:
    folder = grey.deploy(tmp_path / "served")
    about = json.loads((folder / "model.json").read_text())
    row = next(one for one in grey.variants if one.name == "lenet5/train/onnx")
    assert row.artifact
    assert about["sha256"] == row.artifact.sha256
    assert (folder / about["file"]).stat().st_size == row.artifact.size_bytes
    assert about["classes"] == list(grey.data.classes)
    assert (about["top1"], about["run"], about["variant"], about["precision"]) == (0.5, RUN, row.name, "fp32")
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines] == ["numpy", "onnxruntime", "pillow", "starlette", "uvicorn"]
    assert all(line.partition("==")[2] for line in lines)
    copied = {path.name for path in folder.iterdir()}
    assert copied == {"Dockerfile", "app.py", "decode.py", "model.json", "model.onnx", "pixels.py", "requirements.txt"}
    grey.deploy(folder)  # again: the folder is its own


def test_a_winner_that_cannot_be_served_alone_is_replaced_by_the_fastest_that_can(
    grey: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tables.read(grey.out, "summary", RUN).collect()
    try:
        grey.summarise({("lenet5/train", "torch_compile"): 0.5, ("lenet5/train/onnx", "openvino"): 1.0})
        folder = grey.deploy(tmp_path / "served")
        told = capsys.readouterr().out
        assert (
            "the winner, lenet5/train on torch_compile, cpu, batch 1, cannot be served alone; deployed instead" in told
        )
        assert json.loads((folder / "model.json").read_text())["runtime"] == "openvino"
        grey.summarise({("lenet5/train/onnx", "onnxruntime"): 1.0}, device="cuda:0")
        grey.deploy(tmp_path / "none", code=2)
        assert "cannot be served alone, nor any form that is accurate enough" in capsys.readouterr().err
    finally:
        before.write_parquet(grey.out / "tables" / "summary" / f"{RUN}.parquet")
    assert not (tmp_path / "none").exists()


def test_mistakes_are_one_line_and_exit_code_2(grey: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    for to, arguments, words in (
        (other, (), "is no folder that `burnish deploy` wrote"),
        (tmp_path / "a", ("--variant", "lenet5/train"), "cannot be served; only files measured on cpu in onnxruntime"),
        (tmp_path / "a", ("--variant", "lenet6"), "is no variant of"),
        (tmp_path / "a", ("no-such-run",), "no run 'no-such-run'"),
    ):
        grey.deploy(to, *arguments, code=2)
        told = capsys.readouterr().err
        assert words in told
        assert told.count("\n") == 1
    assert (other / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_its_own_requirements_are_enough(grey: Made, tmp_path: Path) -> None:
    """In an environment of its own, which has nothing of this project's."""
    folder = grey.deploy(tmp_path / "served")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, "-r", "requirements.txt"], cwd=folder, check=True
    )
    code = "import app, sys; print(app.predict(open(sys.argv[1], 'rb').read(), '1')); app.application()"
    (tmp_path / "digit.png").write_bytes(png(grey.pixels[0]))
    done = subprocess.run([python, "-c", code, tmp_path / "digit.png"], cwd=folder, env=environment(), text=True,
                          capture_output=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"'index': {grey.logits('onnxruntime', 'lenet5/train/onnx')[0].argmax()}" in done.stdout
