"""Which blocks of a network an int8 form harms most, and what each costs in floating point.

Each block alone is put into floating point (`mixed.in_float`), and what this changes is measured: how far the logits
are from those of the float graph, and the latency. No labels are needed.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from time import process_time
from typing import TYPE_CHECKING

import numpy as np

from tasks import runtimes
from tasks.forms.blocks import Block, blocks
from tasks.forms.choice import by_turns
from tasks.forms.int8 import BATCH, Rows, classify, open_form
from tasks.forms.mixed import in_float
from tasks.machine import cores
from tasks.measure.fidelity import divergences
from tasks.runtimes._onnx import model_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tasks.runtimes import Session

IMAGES = 256
"""Images at most on which divergences are measured."""
FEWEST = 64
"""Images at least, where there are so many, however slow the network is."""
SECONDS = 40.0
"""How long the classifying may take for all blocks together on an idle machine. A slow network classifies fewer images.
"""
SURE = 1.64
"""A mean is more than noise from this many standard errors on: of 20 blocks that change nothing, one seems to."""
FREE = 0.005
"""A cost of less than this share of the int8 form's latency counts as this much: less cannot be told from nothing."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What it brings and costs to put one block of an int8 form into floating point."""

    block: Block
    divergence: float
    """Kullback-Leibler divergence from the float graph's probabilities, in nats, with this block in floating point."""
    saved: float
    """By how much this divergence is smaller than the int8 form's. Noise makes it negative."""
    latency: float
    """Latency for one image as a multiple of the int8 form's, measured by turns. NaN: not measured, because the block
    saves no more than noise."""


@dataclass(frozen=True)
class _Saving:
    """What a block in floating point does to the divergence."""

    block: Block
    divergence: float
    saved: float
    is_sure: bool
    """Whether it saves more than noise."""


def rank(
    int8: Path,
    fp32: Path,
    runtime: str,
    images: Rows,
    folder: Path,
    progress: Callable[[int, int, str], None],
) -> tuple[Gain, ...]:
    """Return what each block brings in floating point, best first, measured in one runtime on the CPU.

    The best saves most per millisecond that it costs; a cost that cannot be told from nothing counts as half a percent
    of the latency, so that a block which is free and saves next to nothing does not come first. Last are those that
    save no more than noise, whose latency is not measured. A block that the runtime does not execute in floating point,
    or whose nodes cannot be found in the int8 form, is left out.

    Whether something is noise is decided by the standard error of a mean: over the images, of how much the square root
    of the divergence shrinks (it is about proportional to the error of the logits, and unlike the divergence itself not
    ruled by a few images), and over the turns, of how much longer a query takes.

    The caller sees to it that nothing else runs on the CPU. At most two models are open at a time.

    Parameters
    ----------
    images
        Images of which labels do not matter. At most 256 are used, evenly spread.
    folder
        An existing folder for the form that is being measured.
    progress
        Called after each block: how many are done, how many there are, the name of the block.
    """
    measured = _Measured(int8, fp32, runtime, images, folder)
    image = images.read(0, 1)
    costs: list[tuple[_Saving, float, bool]] = []
    with _opened(int8, runtime, 1) as parent:
        for number, block in enumerate(measured.blocks):
            saving = measured.saving(block)
            if saving is not None:
                costs.append((saving, *measured.cost(parent, saving, image)))
            progress(number + 1, len(measured.blocks), block.name)
    costs.sort(key=_order)
    return tuple(
        Gain(block=saving.block, divergence=saving.divergence, saved=saving.saved, latency=latency)
        for saving, latency, _ in costs
    )


def _order(cost: tuple[_Saving, float, bool]) -> tuple[int, float]:
    """Return by what a block is sorted."""
    saving, latency, is_slower = cost
    if not saving.is_sure or math.isnan(latency):
        return 2, -saving.saved
    price = latency - 1 if is_slower else 0.0
    return 1, -saving.saved / max(price, FREE)


class _Measured:
    """An int8 form whose divergence is known, and with it that of the form with one block in floating point."""

    def __init__(self, int8: Path, fp32: Path, runtime: str, images: Rows, folder: Path) -> None:
        import onnx

        self.int8 = onnx.load(model_file(int8))
        self.fp32 = onnx.load(model_file(fp32))
        self.blocks = blocks(self.fp32)
        self.runtime = runtime
        self.path = folder / "mixed.onnx"
        self.images = _spread(images, IMAGES)
        start = process_time()
        own = self._classify(int8)
        seconds = (process_time() - start) / cores() * len(self.blocks)
        if seconds > SECONDS:
            self.images = _spread(self.images, max(FEWEST, round(len(self.images) * SECONDS / seconds)))
            own = self._classify(int8)
        session = open_form(fp32, "onnx")
        try:
            self.original = classify(session, self.images)
        finally:
            session.close()
        self.divergences = divergences(self.original, own)
        """The int8 form's, per image."""
        self.divergence = max(0.0, float(self.divergences.mean()))

    def _classify(self, path: Path) -> np.ndarray:
        with _opened(path, self.runtime, BATCH) as session:
            return classify(session, self.images)

    def saving(self, block: Block) -> _Saving | None:
        """Write the form with a block in floating point, and return what it saves; None where it is not executed."""
        import onnx

        try:
            onnx.save(in_float(self.int8, self.fp32, block.nodes), self.path)
            logits = self._classify(self.path)
        except (ValueError, RuntimeError):
            return None
        own = divergences(self.original, logits)
        saved = float((self.divergences - own).mean())
        shrinking = _roots(self.divergences) - _roots(own)
        return _Saving(block, max(0.0, float(own.mean())), saved, saved > 0 and _is_sure(shrinking))

    def cost(self, parent: Session, saving: _Saving, image: np.ndarray) -> tuple[float, bool]:
        """Return the latency of the form that was written last as a multiple of the int8 form's, and whether it is
        measurably slower."""
        if not saving.is_sure:
            return math.nan, False
        with _opened(self.path, self.runtime, 1) as session:
            parent_times, times = by_turns((parent, session), image)
        ratios = np.divide(times, parent_times)
        latency = float(np.median(ratios))
        return latency, latency > 1 and _is_sure(ratios - 1)


def _roots(divergences: np.ndarray) -> np.ndarray:
    """Return square roots. Rounding makes tiny divergences negative."""
    return np.sqrt(np.maximum(divergences, 0))


def _is_sure(values: np.ndarray) -> bool:
    """Return whether the mean of some values is above zero by more than noise."""
    return len(values) > 1 and bool(values.mean() > SURE * values.std(ddof=1) / math.sqrt(len(values)))


def _spread(images: Rows, count: int) -> Rows:
    """Return at most so many of the images, evenly spread over them.

    They fill whole batches if there are enough: OpenVINO compiles a model anew for a last batch of another size.
    """
    count = min(count, len(images))
    count = count // BATCH * BATCH or count
    chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
    return Rows(images.data, images.images, images.rows[chosen])


@contextmanager
def _opened(path: Path, runtime: str, batch: int) -> Iterator[Session]:
    """Open a form on the CPU, and close it at the end of the block."""
    library = runtimes.load(runtime)
    library.load_library("cpu")
    session = library.open(path, "cpu", batch, cores())
    try:
        yield session
    finally:
        session.close()
