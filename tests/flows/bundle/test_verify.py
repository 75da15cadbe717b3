"""A bundle is verified by burnish and by its own verify.py, with the same result; what is wrong with it is one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from tasks import runtimes
from tests.flows.bundle.conftest import VARIANTS
from tests.support.bundles import own_verify, sum_anew

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.servers import FinishedRun


@pytest.fixture
def copy(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the bundle of ONNX Runtime, to be changed."""
    return Path(shutil.copytree(bundles["onnxruntime"], tmp_path / "copy"))


def refusals(bundle: Path, code: int, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return the one line that `burnish verify` and the bundle's verify.py print, each with this exit code."""
    capsys.readouterr()
    assert main(["verify", str(bundle)]) == code
    ours = capsys.readouterr()
    own = own_verify(bundle)
    assert (own.returncode, own.stdout, own.stderr.count("\n")) == (code, "", 1), own
    assert (ours.out, ours.err.count("\n")) == ("", 1), ours
    return ours.err.removeprefix("burnish: "), own.stderr


@pytest.mark.parametrize("runtime", VARIANTS)
def test_a_bundle_is_verified_by_burnish_and_by_its_own_program(
    runtime: str, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--trust", str(bundles[runtime])]) == 0
    printed = capsys.readouterr().out
    own = own_verify(bundles[runtime])
    assert (own.returncode, own.stdout, own.stderr) == (0, printed, "")
    lines = printed.splitlines()
    images = json.loads((bundles[runtime] / "golden" / "golden.json").read_text())["images"]
    for line, image in zip(lines, images, strict=False):
        assert line.startswith(f"golden/{image['file']}: {image['answer']}, as golden; largest difference ")
    assert re.fullmatch(r"verified: 8 of 8 outputs as golden, largest difference \S+ of the largest .*", lines[-1])
    assert ("folded.onnx: as model.onnx" in printed) == (runtime != "torchscript")


def test_golden_outputs_are_those_of_the_pipeline(colour: FinishedRun, bundles: dict[str, Path]) -> None:
    """The golden images are prepared from test images, so that for a preparation without a resize they are these."""
    golden = bundles["onnxruntime"] / "golden"
    picture = np.asarray(Image.open(golden / "0.png"))
    assert any((picture == pixels).all() for pixels in colour.pixels)
    # This run resizes to 56 pixels and crops to 48, and so does the preparation of its golden images.
    resized = Image.open(golden / "0.png").resize((56, 56), Image.Resampling.BICUBIC).crop((4, 4, 52, 52))
    np.testing.assert_array_equal(np.load(golden / "inputs.npy")[0], np.asarray(resized))
    logits = {name: np.load(bundle / "golden" / "logits.npy") for name, bundle in bundles.items()}
    for name, others in logits.items():
        np.testing.assert_allclose(others, logits["onnxruntime"], atol=1e-4 * np.abs(others).max(), err_msg=name)


def test_an_output_that_differs_is_told_with_how_far(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits = np.load(copy / "golden" / "logits.npy")
    logits[3, 7] += 0.5 * np.abs(logits).max()
    logits[5, 1] += 0.2 * np.abs(logits).max()
    np.save(copy / "golden" / "logits.npy", logits)
    sum_anew(copy)
    answer = json.loads((copy / "golden" / "golden.json").read_text())["images"][3]["answer"]
    for line in refusals(copy, 1, capsys):
        assert line.startswith("not verified: 2 of 8 outputs differ from the golden ones; the worst is ")
        assert f"golden/3.png ({answer}), by " in line
        assert "(accepted: 0.0001)" in line


def test_a_model_with_other_weights_is_not_verified(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(copy / "model.onnx"))
    weights = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    array = numpy_helper.to_array(weights) * np.float32(1.001)
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    onnx.save(model, str(copy / "model.onnx"))
    sum_anew(copy)
    for line in refusals(copy, 1, capsys):
        assert re.match(r"not verified: \d of 8 outputs differ from the golden ones", line), line


def test_a_picture_that_is_prepared_otherwise_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preparation = json.loads((copy / "preparation.json").read_text())
    (copy / "preparation.json").write_text(json.dumps(preparation | {"resize": 48}))
    sum_anew(copy)
    for line in refusals(copy, 1, capsys):
        assert re.match(r"golden/0\.png: Pillow \S+ prepares it otherwise .* of 6912 values differ, by up to", line)


def test_a_bundle_whose_files_name_other_classes_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preparation = json.loads((copy / "preparation.json").read_text())
    labels = (copy / "labels.txt").read_text()
    classes = preparation["classes"]
    swapped = [classes[1], classes[0], *classes[2:]]
    (copy / "preparation.json").write_text(json.dumps(preparation | {"classes": swapped}))
    sum_anew(copy)
    for line in refusals(copy, 2, capsys):
        assert "labels.txt and preparation.json do not name the same classes in the same order" in line
    shifted = [classes[-1], *classes[:-1]]
    (copy / "preparation.json").write_text(json.dumps(preparation | {"classes": shifted}))
    (copy / "labels.txt").write_text("".join(f"{' '.join(name.split())}\n" for name in shifted))
    sum_anew(copy)
    answer = json.loads((copy / "golden" / "golden.json").read_text())["images"][0]["answer"]
    for line in refusals(copy, 2, capsys):
        assert f"and golden.json calls it {answer!r}, as the answer to 0.png" in line
    (copy / "preparation.json").write_text(json.dumps(preparation | {"classes": classes[:-1]}))
    (copy / "labels.txt").write_text(labels)
    sum_anew(copy)
    for line in refusals(copy, 2, capsys):
        assert "does not name the 1000 classes of the golden outputs" in line


def test_a_file_of_the_bundle_that_is_gone_is_told_from_a_package_that_is_not_installed(copy: Path) -> None:
    (copy / "decode.py").unlink()
    own = own_verify(copy)
    assert own.returncode == 2
    assert own.stderr.endswith("decode.py is missing; burnish deploy writes it anew\n")
    assert own.stderr.count("\n") == 1


def spoil_json(path: Path) -> None:
    path.write_text("{")


def drop_images(path: Path) -> None:
    np.save(path, np.load(path)[:5])


@pytest.mark.parametrize(
    ("name", "damage", "summed", "reason"),
    [
        ("model.onnx", Path.unlink, False, "model.onnx is missing"),
        ("golden/2.png", Path.unlink, False, "2.png is missing"),
        ("golden/logits.npy", lambda path: path.write_bytes(path.read_bytes()[:-9]), False, "logits.npy is damaged"),
        ("preparation.json", lambda path: path.write_text("{}"), False, "preparation.json is damaged"),
        ("model.json", spoil_json, True, "model.json is damaged"),
        ("golden/inputs.npy", drop_images, True, "do not belong together"),
        ("SHA256SUMS", Path.unlink, False, "SHA256SUMS"),
        ("SHA256SUMS", lambda path: path.write_text(f"{'0' * 64}  ../../a\n"), False, "outside of the bundle"),
        ("SHA256SUMS", lambda path: path.write_text(""), False, "does not list model.json"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line_with_exit_code_2(
    copy: Path,
    name: str,
    damage: Callable[[Path], Any],
    summed: bool,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(copy / name)
    if summed:
        sum_anew(copy)
    for line in refusals(copy, 2, capsys):
        assert reason in line


def test_a_bundle_from_a_stranger_runs_nothing_of_its_own(
    copy: Path, bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """`burnish verify` uses its own code, refuses programs, and passes no settings on that it does not know."""
    for program in copy.glob("*.py"):
        program.write_text(f"open({str(copy / 'was-run')!r}, 'w')")
    assert main(["verify", str(copy)]) == 0
    assert not (copy / "was-run").exists()
    about = json.loads((copy / "model.json").read_text())
    for changed, reason in (
        ({"settings": about["settings"] | {"CACHE_DIR": "/tmp"}}, "are not those that burnish knows for onnxruntime"),
        ({"runtime": "os"}, "runtime 'os' with"),
        ({"file": "../model.onnx"}, "does not list: '../model.onnx'"),
    ):
        (copy / "model.json").write_text(json.dumps(about | changed))
        sum_anew(copy)
        assert main(["verify", str(copy)]) == 2
        assert reason in capsys.readouterr().err
    assert main(["verify", str(bundles["torchscript"])]) == 2
    assert "a TorchScript file is a program" in capsys.readouterr().err


def with_options(bundle: Path, folder: Path, options: list[str] | None, settings: dict[str, Any]) -> Path:
    """Copy a bundle, with other options and settings of its runtime in model.json; None: without the key `options`."""
    shutil.copytree(bundle, folder)
    about = json.loads((folder / "model.json").read_text())
    about |= {"options": options, "settings": settings}
    if options is None:
        del about["options"]
    (folder / "model.json").write_text(json.dumps(about))
    sum_anew(folder)
    return folder


@pytest.mark.parametrize(
    ("runtime", "options"),
    [
        ("onnxruntime", ["no-spinning", "no-arena"]),
        ("openvino", ["no-pinning"]),
        # As an older burnish wrote it.
        ("onnxruntime", None),
    ],
)
def test_a_bundle_is_verified_with_the_options_that_its_model_was_measured_with(
    runtime: str, options: list[str] | None, bundles: dict[str, Path], tmp_path: Path
) -> None:
    settings = runtimes.settings_of(runtime, 1, options or ())
    copy = with_options(bundles[runtime], tmp_path / "copy", options, settings)
    assert main(["verify", str(copy)]) == 0
    assert own_verify(copy).returncode == 0


def test_an_option_that_burnish_does_not_know_is_refused(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = runtimes.settings_of("onnxruntime", 1) | {"optimized_model_filepath": "/tmp/written"}
    copy = with_options(bundles["onnxruntime"], tmp_path / "copy", ["write-a-file"], settings)
    assert main(["verify", str(copy)]) == 2
    assert "options ['write-a-file'] are not known here for onnxruntime; accepted: no-sp" in capsys.readouterr().err
