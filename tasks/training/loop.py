"""The training loop, resumable at every epoch: on a CPU to the same weights (cuDNN chooses its algorithms anew).

Every epoch draws its order and its augmentation from generators seeded with (seed, epoch), so that a run that was cut
off continues as if it had not been. Test images are never read here.
"""

from __future__ import annotations

import copy
import logging
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.datasets._arrays import load_arrays
from tasks.machine import compilation
from tasks.machine.devices import choose_device, choose_precision, peak_bytes, reset_peak
from tasks.measure import metrics
from tasks.training import batchsize, policies
from tasks.training.batches import Plan, blank, source, subset
from tasks.training.checkpointing import checkpoint_blocks
from tasks.training.evaluation import Scores, evaluate
from tasks.training.group import Group
from tasks.training.optimizers import Average, Optimizer, schedule
from tasks.training.state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn

    from tasks.records import Train
    from tasks.training.batches import Batch
    from tasks.training.state import Training

WINDOW = 50
"""Losses are looked at after this many steps: one synchronisation with the device for many steps."""
SAVE_SECONDS = 10.0
"""Seconds after a checkpoint in which none is written, but for the last epoch: saving may take longer than an epoch."""
MOST_WAITING = 0.03
"""Share of an epoch that training may wait for its images before that is worth a warning."""


class Diverged(Exception):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Numerics:
    """Where a training computes, and in what arithmetic."""

    device: str
    kind: str
    """cpu or cuda."""
    precision: str
    """fp32, bf16 or fp16."""
    low: torch.dtype | None
    """The type that autocast computes in; None: fp32 throughout."""

    @classmethod
    def chosen(cls, settings: Train) -> Numerics:
        """Return what the settings ask for, `auto` resolved for this machine."""
        import torch

        device = choose_device(settings.device)
        precision = choose_precision(settings.precision, device)
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        return cls(device, device.partition(":")[0], precision, low)


@dataclass
class Seen:
    """What the steps of one epoch have given, kept on the device until the epoch ends."""

    losses: list[torch.Tensor] = field(default_factory=list)
    """Mean loss of each batch."""
    labels: list[torch.Tensor] = field(default_factory=list)
    predicted: list[torch.Tensor] = field(default_factory=list)
    in_first_five: list[torch.Tensor] = field(default_factory=list)
    """Whether the true class is among the five with the largest logits."""

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Take in the results of one step."""
        logits = logits.detach()
        of_true_class = logits.gather(1, labels[:, None])
        self.losses.append(loss.detach())
        self.predicted.append(logits.argmax(1))
        self.in_first_five.append((logits > of_true_class).sum(1) < 5)
        self.labels.append(labels)


class TrainingLoop:
    """A training in one process, which may be one of a group that trains one model together."""

    def __init__(self, training: Training, model: nn.Module, group: Group | None = None) -> None:
        """Move `model` to the device and make everything ready for the first epoch, or for the one after a checkpoint.

        The weights of `model` are trained in place.
        """
        settings = training.settings
        self.training = training
        self.settings = settings
        self.log = training.work.log
        self.group = group or Group()
        self.numerics = Numerics.chosen(settings)
        self._ready_torch()
        self.model = self._placed(model)
        self.average = Average(self.model, settings.ema) if settings.ema else None
        if settings.checkpointing:
            checkpoint_blocks(self.model, training.model_label)
        rows = self._open_images()
        saved = self._saved()
        # Before the model is one of a group: ranks need not find the same size at the same time.
        self.state = State(batch_size=self.group.lowest(saved.batch_size if saved else self._batch_size(rows)))
        self.plan = Plan(rows, self.state.batch_size, self.group.rank, self.group.size)
        self.batches = len(self.plan.parts)
        """Batches per epoch."""
        self.steps = settings.epochs * -(-self.batches // settings.accumulate)
        """Steps of the optimizer in the whole training."""
        self.parallel = self.group.wrap(self.model, self.numerics.device)
        self.stepped = compilation.compiled(self.parallel) if settings.compile else self.parallel
        """The model as the steps call it: of a group, and compiled where that is asked for."""
        self.optimizer = self._optimizer(self.model)
        self.rate = schedule(settings)
        """Share of all steps that is done -> share of the peak learning rate."""
        self.compile_seconds: float | None = None
        """Seconds of warming up, until the next row of the table `epochs` has them."""
        self.saved_at = -SAVE_SECONDS
        """Time of the last checkpoint, by the monotonic clock."""
        self.has_warned = False
        """Whether it was said that training waits for its images."""
        if saved:
            self._resume(saved)

    def _ready_torch(self) -> None:
        import torch

        if self.settings.compile:
            # It warns of a missing GPU where something looks like a CUDA toolkit.
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            # Otherwise the ninth model that this process compiles would not be compiled any more.
            torch.compiler.reset()
        if self.numerics.kind == "cuda":
            # Triton launches its kernels on the current device.
            torch.cuda.set_device(self.numerics.device)

    def _placed(self, model: nn.Module) -> nn.Module:
        """Return the model on its device, in the memory layout and with the kernels that the settings ask for."""
        import torch

        import models

        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        placed: nn.Module = model.to(self.numerics.device, memory_format=layout)  # type: ignore[call-overload]
        if self.settings.fused_pointwise:
            models.fuse(placed, self.training.model_label)
        return placed

    def _open_images(self) -> int:
        """Open the training images and set up their augmentation; return how many there are."""
        settings, data, device = self.settings, self.training.data, self.numerics.device
        arrays = load_arrays(self.training.work.store, data)
        rows = subset(arrays.rows_of("train"), arrays.labels, settings.train_limit, self.training.seed)
        policy = policies.policy(settings.augment, len(data.classes))
        self.source = source(arrays.images, arrays.labels, rows, device, settings, policy.each, self.log)
        normaliser = policies.Normaliser(data, device, settings.channels_last)
        self.augment = policies.Augmentation(policy, normaliser, settings.compile)
        return len(rows)

    def _optimizer(self, model: nn.Module) -> Optimizer:
        import torch

        scaler = torch.amp.GradScaler(self.numerics.kind, enabled=self.numerics.precision == "fp16")  # type: ignore[attr-defined]
        return Optimizer(model, self.settings, scaler)

    def _saved(self) -> State | None:
        """Return the state that a training that was cut off has left, None where there is none.

        Rank 0 says which checkpoint it is, so that all ranks go on alike.
        """
        newest = self.training.checkpoints.newest(self.log) if self.group.rank == 0 else None
        newest = self.group.first(newest)
        return None if newest is None else State.load(newest, self.numerics.device)

    def _resume(self, saved: State) -> None:
        self.model.load_state_dict(saved.model)
        self.optimizer.load_state_dict(saved.optimizer)
        if self.average and saved.average:
            self.average.steps, weights = saved.average
            self.average.module.load_state_dict(weights)
        # Ranks have settled on one batch size.
        saved.batch_size = self.state.batch_size
        self.state = saved
        self.log.info("%s: resumed after epoch %d", self.training.variant, self.state.epoch)

    def go(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        """Train; what was reached is in the checkpoint.

        `on_epoch` is called with (epoch from 1, validation macro F1), on rank 0 alone, first for the epochs before an
        interruption.
        """
        on_epoch = on_epoch if self.group.rank == 0 else None
        if on_epoch:
            for row in [row for row in self.state.epochs if row["split"] == "validation"]:
                on_epoch(int(str(row["epoch"])), float(str(row["macro_f1"])))
        with _tuned_cudnn():
            if self.state.epoch < self.settings.epochs and (self.numerics.kind == "cuda" or self.settings.compile):
                self._warm_up()
            while self.state.epoch < self.settings.epochs:
                if self.state.stale >= self.settings.patience:
                    self.log.info("%s: stopped, no better for %d epochs", self.training.variant, self.state.stale)
                    break
                self.state.epoch += 1
                macro_f1 = self._validate(self._train())
                if on_epoch:
                    on_epoch(self.state.epoch, macro_f1)

    def _warm_up(self) -> None:
        """Do a forward and backward pass, in which PyTorch compiles and cuDNN chooses algorithms.

        It leaves weights and BatchNorm's statistics as they were; random numbers are drawn anew in every epoch.
        """
        import torch

        started = time.perf_counter()
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        self.model.train()
        part = self.plan.parts[0]
        batch = blank(part.stop - part.start, self.training.data, self.numerics.device)
        loss, _ = self._loss(self.stepped, batch)
        self.optimizer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            # Observers of fake quantization start empty.
            buffer.resize_(value.shape).copy_(value)
        if self.numerics.kind == "cuda":
            torch.cuda.synchronize(self.numerics.device)
        self.compile_seconds = time.perf_counter() - started
        self.log.info("%s: compiled and warmed up in %.1f s", self.training.variant, self.compile_seconds)

    def _train(self) -> Scores:
        """Train one epoch, record it, and return its scores on the augmented training images."""
        import torch

        torch.manual_seed((self.training.seed * 100_003 + self.state.epoch) * 1_009 + self.group.rank)
        # Validation works in larger batches, which are no part of this peak.
        reset_peak(self.numerics.device)
        started, waited = time.perf_counter(), 0.0
        seen = Seen()
        self.model.train()
        batches = self.source.epoch(self.plan, self.training.seed, self.state.epoch)
        for index in range(1, self.batches + 1):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            # This is no wait for images: from memory that is not pinned it waits for the GPU's steps.
            self._step(batch.to(self.numerics.device), index, seen)
            if index % WINDOW == 0 or index == self.batches:
                self._refuse_infinite(seen.losses, index)
        scores, images = self._scores(seen)
        seconds = time.perf_counter() - started
        self._record("train", scores, images, seconds, waited / seconds)
        return scores

    def _step(self, batch: Batch, index: int, seen: Seen) -> None:
        """Take the gradients of one batch, and step the optimizer where the batch is the last of its accumulation."""
        last = index % self.settings.accumulate == 0 or index == self.batches
        with nullcontext() if last or self.group.size == 1 else self.parallel.no_sync():  # type: ignore[operator]
            loss, logits = self._loss(self.stepped, batch)
            share = loss * batch.weight / self._accumulated(index)
            self.optimizer.scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        if last:
            self.state.step += 1
            self.optimizer.step(self.settings.learning_rate * self.rate(self.state.step / (self.steps + 1)))
            if self.average:
                self.average.update()
        seen.add(loss, logits, batch.labels)

    def _loss(self, model: Callable[..., Any], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss of a batch, and its logits in fp32: a loss in bf16 would have three digits."""
        import torch

        pixels, target = self.augment(batch.pixels, batch.draws, batch.labels)
        low = self.numerics.low
        with torch.autocast(self.numerics.kind, dtype=low, enabled=low is not None):
            logits = model(pixels).float()
        loss = torch.nn.functional.cross_entropy(logits, target, label_smoothing=self.settings.label_smoothing)
        return loss, logits

    def _accumulated(self, index: int) -> int:
        """Return how many batches make the step of the optimizer that the batch `index` is part of."""
        size = self.settings.accumulate
        return min(size, self.batches - (index - 1) // size * size)

    def _scores(self, seen: Seen) -> tuple[Scores, int]:
        """Return the scores of an epoch's steps, of all ranks together, and the number of images."""
        import torch

        loss_sum = self.group.sum(torch.stack(seen.losses).mean()).item()
        labels, predicted, in_first_five = (
            self.group.gather(torch.cat(parts).cpu().numpy())
            for parts in (seen.labels, seen.predicted, seen.in_first_five)
        )
        macro_f1, top1 = metrics.macro_f1(labels, predicted), float((labels == predicted).mean())
        return Scores(loss_sum / self.group.size, top1, float(in_first_five.mean()), macro_f1), len(labels)

    def _refuse_infinite(self, losses: list[torch.Tensor], index: int) -> None:
        """End the training where a loss of the window that ends with the batch `index` is NaN or infinite."""
        import torch

        first = (index - 1) // WINDOW * WINDOW
        values = self.group.sum(torch.stack(losses[first:]))
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            step = int(torch.nonzero(~finite)[0])
            raise Diverged(
                f"{self.training.variant}: the loss is {values[step].item()} at epoch {self.state.epoch}, step "
                f"{first + step + 1}; try a lower learning rate than {self.settings.learning_rate:g}"
            )

    def _validate(self, trained: Scores) -> float:
        """Score the epoch's weights on validation, keep them if they are the best, save; return their macro F1."""
        data, state = self.training.data, self.state
        judged = self.average.module if self.average else self.model
        scored = [0.0, 0.0, 0.0]
        if self.group.rank == 0:
            started = time.perf_counter()
            scores = evaluate(judged, data, self.training.work.store, "validation")
            self._record("validation", scores, data.validation_rows, time.perf_counter() - started, None)
            scored = [scores.macro_f1, scores.loss, scores.top1]
        macro_f1, loss, top1 = self.group.first(scored)
        state.stale = 0 if macro_f1 > state.best_macro_f1 else state.stale + 1
        if state.is_best(macro_f1, loss):
            state.best_macro_f1, state.best_loss, state.best_top1 = macro_f1, loss, top1
            state.best_weights = {name: value.detach().cpu().clone() for name, value in judged.state_dict().items()}
        due = time.monotonic() >= self.saved_at + SAVE_SECONDS
        if self.group.rank == 0 and (due or state.ends(self.settings)):
            self._save()
        self.training.work.progress(
            state.epoch,
            self.settings.epochs,
            f"{self.training.variant} epoch {state.epoch}/{self.settings.epochs}: loss {trained.loss:.3f}, train F1 "
            f"{trained.macro_f1:.4f}, validation F1 {macro_f1:.4f} (best {state.best_macro_f1:.4f}; "
            f"{data.validation_rows} images)",
        )
        return macro_f1

    def _record(self, split: str, scores: Scores, images: int, seconds: float, waited: float | None) -> None:
        """Add a row to the table `epochs`; `waited` is the share of the seconds that training waited for images."""
        self.state.epochs.append(
            {
                "model": self.training.model_label,
                "variant": self.training.variant,
                "stage": self.training.stage,
                "seed": self.training.seed,
                "precision": self.numerics.precision,
                "device": self.numerics.device,
                "batch_size": self.state.batch_size,
                "epoch": self.state.epoch,
                "split": split,
                "loss": scores.loss,
                "top1": scores.top1,
                "top5": scores.top5,
                "macro_f1": scores.macro_f1,
                "learning_rate": self.optimizer.rate,
                "images_per_second": images / seconds,
                "seconds": seconds,
                "data_wait": waited,
                "memory_peak_bytes": peak_bytes(self.numerics.device),
                "compile_seconds": self.compile_seconds if split == "train" else None,
            }
        )
        self.compile_seconds = None
        if waited and waited > MOST_WAITING and waited * seconds > 1 and not self.has_warned:
            self.has_warned = True
            self.log.warning(
                "%s: training waited for its images %.1f %% of epoch %d; %s would shorten it",
                self.training.variant,
                100 * waited,
                self.state.epoch,
                self.source.REMEDY,
            )

    def _batch_size(self, images: int) -> int:
        """Return the batch size of the settings, or the largest that pays where they say auto."""
        if self.settings.batch_size != "auto":
            return self.settings.batch_size
        model = copy.deepcopy(self.model).train()
        optimizer = self._optimizer(model)

        def step(size: int) -> None:
            loss, _ = self._loss(model, blank(size, self.training.data, self.numerics.device))
            optimizer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step(0.0)
            loss.item()

        largest = batchsize.largest(step, self.numerics.device, images // self.group.size) * self.group.size
        self.log.info("%s: batches of %d images", self.training.variant, largest)
        return largest

    def _save(self) -> None:
        self.state.model = self.model.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        self.state.average = (self.average.steps, self.average.module.state_dict()) if self.average else None
        self.state.save(self.training.checkpoints)
        self.saved_at = time.monotonic()


@contextmanager
def _tuned_cudnn() -> Iterator[None]:
    """Let cuDNN choose its algorithms by measuring: batches are of one size.

    TF32 in convolutions is PyTorch's default, which runtimes opened in this process may have changed.
    """
    import torch

    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark = True
    cudnn.allow_tf32 = True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before
