"""Check that this bundle's model gives its golden outputs on this machine.

    python verify.py [BUNDLE]      # without BUNDLE: the folder that this file is in

It needs NumPy, Pillow and the bundle's runtime, but not burnish. The golden images are decoded and prepared anew, and
must give exactly the stored pixels; the model's outputs for them may differ from the stored ones by the tolerance in
golden/golden.json. The exit code is 0 where all is as golden, 1 where an output differs, and 2 where the bundle is
damaged, or cannot run here. Messages are one line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy

HERE = Path(__file__).resolve().parent
SUMS = "SHA256SUMS"
LABELS = "labels.txt"
NEEDED = ("model.json", "preparation.json", LABELS)
OWN = ("decode", "model", "pixels", "preparation", "quota")
"""Modules that are files of the bundle."""
GOLDEN = "golden/golden.json"
PACKAGES = {"torchscript": "torch", "openvino_bf16": "openvino"}
"""The Python package of a runtime, where it has another name than the runtime."""


class Unusable(Exception):
    """The bundle is damaged, or cannot run here. The message is one line."""


class Differs(Exception):
    """The bundle gives other outputs than the golden ones. The message is one line that says which, and how far."""


class Golden(NamedTuple):
    """Golden inputs and outputs, one row per image."""

    names: list[str]
    """Files of the images, in the folder golden."""
    answers: list[str]
    """Class that the model gives each image."""
    pixels: numpy.ndarray
    """uint8, (images, height, width, channels): the images after decoding, resizing and cropping."""
    logits: numpy.ndarray
    """float32, (images, classes)."""
    tolerance: float
    """Greatest accepted difference of a logit, as a share of the largest golden logit."""


def main(arguments: list[str]) -> int:
    """Verify a bundle, print the result, and return the exit code."""
    folder = Path(arguments[0]) if arguments else HERE
    try:
        for line in verify(folder):
            print(line)
    except (Unusable, Differs) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, Differs) else 2
    return 0


def verify(folder: Path) -> list[str]:
    """Verify a bundle, and return what is to be said of it, a line per golden image and one at the end.

    Raises
    ------
    Unusable
        If the bundle is damaged, or cannot run here.
    Differs
        If an image is prepared otherwise than the golden one, or an output differs by more than the tolerance.
    """
    check_files(folder)
    about = _json(folder / "model.json")
    preparation = _json(folder / "preparation.json")
    try:
        golden = read_golden(folder)
        _check_classes(folder, golden, preparation)
        _check_preparation(folder, golden, preparation)
        outputs = _outputs(folder, about, golden, preparation)
    except ImportError as error:
        if error.name in OWN:
            raise Unusable(f"{folder / error.name}.py is missing; burnish deploy writes it anew") from None
        package = PACKAGES.get(str(about.get("runtime")), str(about.get("runtime")))
        raise Unusable(
            f"{error}; a bundle is verified with NumPy, Pillow and its runtime: pip install numpy pillow {package}"
        ) from None
    differences = _differences(golden, outputs["logits"])
    lines = [
        f"golden/{name}: {answer}, as golden; largest difference {difference:.2g}"
        for name, answer, difference in zip(golden.names, golden.answers, differences, strict=True)
    ]
    if "probabilities" in outputs:
        lines.append(_compare_folded(about, outputs, golden.tolerance))
    count = len(golden.names)
    largest = f"largest difference {max(differences):.2g} of the largest logit (accepted: {golden.tolerance:g})"
    return [*lines, f"verified: {count} of {count} outputs as golden, {largest}"]


def check_files(folder: Path) -> None:
    """Raise `Unusable` where a file that SHA256SUMS lists is gone or changed, or one that is needed is not listed."""
    if not folder.is_dir():
        raise Unusable(f"{folder} is no folder; give a bundle that burnish deploy wrote")
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise Unusable(f"{folder} is no whole bundle: its {SUMS} cannot be read; burnish deploy writes one") from None
    listed = set()
    for line in lines:
        expected, _, name = line.partition("  ")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Unusable(f"{folder / SUMS} lists {name!r}, which is outside of the bundle")
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            raise Unusable(f"{folder / name} is missing, or cannot be read; burnish deploy writes it anew") from None
        if actual != expected:
            raise Unusable(f"{folder / name} is damaged: its SHA-256 is not that in {SUMS}")
        listed.add(name)
    for name in NEEDED:
        if name not in listed:
            raise Unusable(f"{folder / SUMS} does not list {name}; it is damaged: burnish deploy writes it anew")
    if GOLDEN not in listed:
        raise Unusable(f"{folder} has no golden outputs, so it cannot be verified; burnish deploy said why")


def _json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of the bundle holds."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise Unusable(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise Unusable(f"{path} is damaged: it holds no JSON object")
    return content


def read_golden(folder: Path) -> Golden:
    """Read the golden inputs and outputs."""
    import numpy

    path = folder / GOLDEN
    about = _json(path)
    try:
        pixels, logits = (
            numpy.load(folder / "golden" / f"{name}.npy", allow_pickle=False) for name in ("inputs", "logits")
        )
        names = [str(image["file"]) for image in about["images"]]
        answers = [str(image["answer"]) for image in about["images"]]
        tolerance = float(about["tolerance"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Unusable(f"{path.parent} is damaged: {error!r}") from None
    whole = pixels.dtype == "uint8" and pixels.ndim == 4 and logits.dtype == "float32" and logits.ndim == 2
    if not (whole and names and len(names) == len(pixels) == len(logits) and 0 < numpy.abs(logits).max() < numpy.inf):
        raise Unusable(f"{path.parent} is damaged: images, inputs and outputs do not belong together")
    if any(Path(name).name != name for name in names):
        raise Unusable(f"{path} names an image outside of its folder")
    return Golden(names, answers, pixels, logits, tolerance)


def _check_classes(folder: Path, golden: Golden, preparation: dict[str, Any]) -> None:
    """Refuse a bundle whose files do not name the same classes in the same order."""
    classes = preparation.get("classes")
    if not isinstance(classes, list) or len(classes) != golden.logits.shape[1]:
        raise Unusable(
            f"{folder / 'preparation.json'} is damaged: it does not name the {golden.logits.shape[1]} classes of the "
            "golden outputs"
        )
    try:
        labels = (folder / LABELS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable(f"{folder / LABELS} is damaged: {error}") from None
    if labels != [" ".join(str(name).split()) for name in classes]:
        raise Unusable(f"{folder / LABELS} and preparation.json do not name the same classes in the same order")
    for name, answer, number in zip(golden.names, golden.answers, golden.logits.argmax(axis=1), strict=True):
        if classes[number] != answer:
            raise Unusable(
                f"preparation.json calls class {number} {classes[number]!r}, and golden.json calls it {answer!r}, as "
                f"the answer to {name}"
            )


def _check_preparation(folder: Path, golden: Golden, preparation: dict[str, Any]) -> None:
    """Decode, resize and crop the golden images anew, and raise `Differs` where a pixel is another one."""
    import numpy
    import PIL
    from decode import Bad
    from preparation import decoded

    for name, expected in zip(golden.names, golden.pixels, strict=True):
        try:
            pixels = decoded((folder / "golden" / name).read_bytes(), preparation)[0]
        except (OSError, Bad, LookupError, TypeError) as error:
            raise Unusable(f"{folder / 'golden' / name} or preparation.json is damaged: {error!r}") from None
        if pixels.shape != expected.shape:
            raise Unusable(
                f"{folder}/preparation.json makes {pixels.shape} of golden/{name}, stored is {expected.shape}"
            )
        distance = numpy.abs(pixels.astype("int16") - expected)
        if distance.any():
            raise Differs(
                f"golden/{name}: Pillow {PIL.__version__} prepares it otherwise than when the bundle was made: "
                f"{(distance > 0).sum()} of {distance.size} values differ, by up to {distance.max()} of 255"
            )


def _outputs(
    folder: Path, about: dict[str, Any], golden: Golden, preparation: dict[str, Any]
) -> dict[str, numpy.ndarray]:
    """Return the logits for all golden images, and the probabilities of the folded model where there is one."""
    from pixels import normalise

    outputs = {}
    try:
        inputs = normalise(golden.pixels, preparation["mean"], preparation["std"])
        outputs["logits"] = _run(folder / str(about["file"]), about, inputs)
        if about.get("folded"):
            outputs["probabilities"] = _run(folder / str(about["folded"]), about, golden.pixels)
    except ImportError:
        raise
    except (Exception, SystemExit) as error:
        # A runtime raises errors of its own. model.py ends the process where this CPU lacks the precision.
        raise Unusable(f"{folder}: the model does not run here: {str(error) or repr(error)}") from None
    if outputs["logits"].shape != golden.logits.shape:
        raise Unusable(f"{folder}: the model gives {outputs['logits'].shape}, golden is {golden.logits.shape}")
    return outputs


def _run(file: Path, about: dict[str, Any], inputs: numpy.ndarray) -> numpy.ndarray:
    """Return a model file's outputs for some inputs, one query per image."""
    import numpy
    import quota
    from model import OPEN

    threads = min(int(about["threads"]), quota.usable_processors())
    query = OPEN[about["runtime"]](file, about["settings"], threads, (1, *inputs.shape[1:]))
    return numpy.concatenate([query(inputs[i : i + 1]) for i in range(len(inputs))])


def _differences(golden: Golden, logits: numpy.ndarray) -> list[float]:
    """Return the largest difference per image, as a share of the largest golden logit.

    Raises
    ------
    Differs
        If one is above the tolerance.
    """
    import numpy

    differences = numpy.abs(logits - golden.logits).max(axis=1) / numpy.abs(golden.logits).max()
    differences[numpy.isnan(differences)] = numpy.inf
    wrong = differences > golden.tolerance
    if wrong.any():
        worst = int(differences.argmax())
        raise Differs(
            f"not verified: {wrong.sum()} of {len(differences)} outputs differ from the golden ones; the worst is "
            f"golden/{golden.names[worst]} ({golden.answers[worst]}), by {differences[worst]:.2g} of the largest logit "
            f"(accepted: {golden.tolerance:g})"
        )
    return [float(difference) for difference in differences]


def _compare_folded(about: dict[str, Any], outputs: dict[str, numpy.ndarray], tolerance: float) -> str:
    """Compare the folded model's probabilities with those of the model itself, and return a line on it."""
    import numpy
    from model import probabilities

    expected = numpy.stack([probabilities(logits.astype("float64")) for logits in outputs["logits"]])
    actual = outputs["probabilities"]
    if actual.shape != expected.shape:
        raise Unusable(f"{about['folded']} gives {actual.shape}, {about['file']} gives {expected.shape}")
    difference = float(numpy.abs(actual - expected).max())
    if not difference <= tolerance:
        raise Differs(
            f"{about['folded']} differs from {about['file']} by {difference:.2g} in a probability "
            f"(accepted: {tolerance:g})"
        )
    return f"{about['folded']}: as {about['file']}, largest difference of a probability {difference:.2g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
