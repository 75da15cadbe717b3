"""The training loop, resumable at every epoch: on a CPU to the same weights (cuDNN chooses its algorithms anew).

Every epoch draws its order and its augmentation from generators seeded with (seed, epoch), so that a run that was cut
off continues as if it had not been. Test images are never read here.
"""

from __future__ import annotations

import copy
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.datasets._arrays import load_arrays
from tasks.machine import compilation
from tasks.machine.devices import choose_device, choose_precision, peak_bytes, reset_peak
from tasks.measure import metrics
from tasks.training import batchsize, policies
from tasks.training.batches import Plan, blank, source, subset
from tasks.training.checkpointing import checkpoint_blocks
from tasks.training.checkpoints import Checkpoints, load
from tasks.training.evaluation import Scores, evaluate
from tasks.training.group import Group
from tasks.training.optimizers import Average, Optimizer, schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from tasks.caching.work import Work
    from tasks.records import Prepared, Train
    from tasks.training.batches import Batch

# steps after which losses are looked at: one synchronisation for many steps
WINDOW = 50
# an epoch that ends sooner after the last checkpoint is none: it may take longer than the epoch
SAVE_SECONDS = 10.0
# share of the time for training that is worth a warning
MOST_WAITING = 0.03


class Diverged(Exception):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Job:
    """What a training run is about."""

    work: Work
    architecture: dict[str, Any]
    """Arguments of `models.build`; stored with the weights."""
    data: Prepared
    settings: Train
    model_label: str
    variant: str
    stage: str

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.work.scratch, self.variant, self.settings.seeds[0])


class Run:
    """A training run in one process, which may be one of a group."""

    def __init__(self, job: Job, model: nn.Module, group: Group | None = None) -> None:
        import torch

        import models

        settings, data = job.settings, job.data
        self.job, self.settings, self.log, self.group = job, settings, job.work.log, group or Group()
        self.seed = settings.seeds[0]
        self.device = choose_device(settings.device)
        if settings.compile:
            # It warns of a missing GPU where something looks like a CUDA toolkit.
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            # or the ninth model that this process compiles would not be compiled any more
            torch.compiler.reset()
        self.kind = self.device.partition(":")[0]
        if self.kind == "cuda":
            # Triton launches its kernels on the current one
            torch.cuda.set_device(self.device)
        self.precision = choose_precision(settings.precision, self.device)
        self.low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        if settings.fused_pointwise:
            models.fuse(self.model, job.model_label)
        self.average = Average(self.model, settings.ema) if settings.ema else None
        if settings.checkpointing:
            checkpoint_blocks(self.model, job.model_label)
        arrays = load_arrays(job.work.store, data)
        rows = subset(arrays.rows_of("train"), arrays.labels, settings.train_limit, self.seed)
        policy = policies.policy(settings.augment, len(data.classes))
        self.source = source(arrays.images, arrays.labels, rows, self.device, settings, policy.each, self.log)
        ready = policies.Normaliser(data, self.device, settings.channels_last)
        self.augment = policies.Augmentation(policy, ready, settings.compile)
        kept = self._kept()
        # Before the model is one of a group: ranks need not find the same size at the same time.
        found = kept["batch_size"] if kept else self._batch_size(len(rows))
        self.batch_size = self.group.lowest(found)
        self.parallel = self.group.wrap(self.model, self.device)
        self.stepped = compilation.compiled(self.parallel) if settings.compile else self.parallel
        self.plan = Plan(len(rows), self.batch_size, self.group.rank, self.group.size)
        self.batches = len(self.plan.parts)
        self.steps = settings.epochs * -(-self.batches // settings.accumulate)
        self.optimizer = self._optimizer(self.model)
        self.share = schedule(settings)

        self.row = {
            "model": job.model_label,
            "variant": job.variant,
            "stage": job.stage,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
            "batch_size": self.batch_size,
        }
        self.epoch, self.step, self.stale, self.warned, self.saved = 0, 0, 0, False, -SAVE_SECONDS
        self.best, self.best_top1 = (-1.0, 0.0), 0.0
        self.best_state: dict[str, torch.Tensor] = {}
        self.epochs: list[dict[str, object]] = []
        self.compile_seconds: float | None = None
        if kept:
            self._resume(kept)

    def _optimizer(self, model: nn.Module) -> Optimizer:
        import torch

        return Optimizer(model, self.settings, torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16"))  # type: ignore[attr-defined]

    def _kept(self) -> dict[str, Any] | None:
        """What a training that was cut off has left. Rank 0 says which checkpoint it is, so that all ranks go on
        alike."""
        newest = self.job.checkpoints.newest(self.log) if self.group.rank == 0 else None
        newest = self.group.first(newest)
        return None if newest is None else load(newest, self.device)

    def go(self, on_epoch: Callable[[int, float], None] | None = None) -> None:
        """Train; what was reached is in the checkpoint. `on_epoch` is told of epochs before an interruption too."""
        import torch

        if on_epoch and self.group.rank == 0:
            for row in [row for row in self.epochs if row["split"] == "validation"]:
                on_epoch(int(str(row["epoch"])), float(str(row["macro_f1"])))
        cudnn = torch.backends.cudnn
        tuned = cudnn.benchmark, cudnn.allow_tf32
        # Batches are of one size. TF32 in convolutions is PyTorch's default, which runtimes opened here may have
        # changed.
        cudnn.benchmark = cudnn.allow_tf32 = True
        try:
            if self.epoch < self.settings.epochs and (self.kind == "cuda" or self.settings.compile):
                self._warm_up()
            while self.epoch < self.settings.epochs:
                if self.stale >= self.settings.patience:
                    self.log.info("%s: stopped, no better for %d epochs", self.job.variant, self.stale)
                    break
                self.epoch += 1
                trained = self._train()
                f1 = self._validate(trained)
                if on_epoch and self.group.rank == 0:
                    on_epoch(self.epoch, f1)
        finally:
            cudnn.benchmark, cudnn.allow_tf32 = tuned

    def _warm_up(self) -> None:
        """A forward and backward pass ahead of the first epoch, in which PyTorch compiles and cuDNN chooses algorithms.

        It leaves weights and BatchNorm's statistics as they were; random numbers are drawn anew in every epoch.
        """
        import torch

        started = time.perf_counter()
        kept = [buffer.clone() for buffer in self.model.buffers()]
        self.model.train()
        part = self.plan.parts[0]
        loss, _ = self._loss(self.stepped, blank(part.stop - part.start, self.job.data, self.device))
        self.optimizer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad(set_to_none=True)
        for buffer, value in zip(self.model.buffers(), kept, strict=True):
            # observers of fake quantization start empty
            buffer.resize_(value.shape).copy_(value)
        if self.kind == "cuda":
            torch.cuda.synchronize(self.device)
        self.compile_seconds = time.perf_counter() - started
        self.log.info("%s: compiled and warmed up in %.1f s", self.job.variant, self.compile_seconds)

    def _train(self) -> Scores:
        import torch

        torch.manual_seed((self.seed * 100_003 + self.epoch) * 1_009 + self.group.rank)
        # validation, in larger batches, is not in it
        reset_peak(self.device)
        started, waited = time.perf_counter(), 0.0
        losses, predicted, early, labels = [], [], [], []
        self.model.train()
        source = self.source.epoch(self.plan, self.seed, self.epoch)
        for index in range(1, self.batches + 1):
            before = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - before
            # not a wait for images: from memory not pinned it waits for the GPU's steps
            batch = batch.to(self.device)
            last = index % self.settings.accumulate == 0 or index == self.batches
            with nullcontext() if last or self.group.size == 1 else self.parallel.no_sync():  # type: ignore[operator]
                loss, out = self._loss(self.stepped, batch)
                self.optimizer.scaler.scale(loss * batch.weight / self._together(index)).backward()  # type: ignore[no-untyped-call]
            if last:
                self._step()
            losses.append(loss.detach())
            out = out.detach()
            own = out.gather(1, batch.labels[:, None])
            predicted.append(out.argmax(1))
            early.append((out > own).sum(1) < 5)
            labels.append(batch.labels)
            if index % WINDOW == 0 or index == self.batches:
                self._finite(losses, index)
        loss_sum = self.group.sum(torch.stack(losses).mean()).item()
        right, first, five = (self.group.gather(torch.cat(t).cpu().numpy()) for t in (labels, predicted, early))
        f1, top1 = metrics.macro_f1(right, first), float((right == first).mean())
        scores = Scores(loss_sum / self.group.size, top1, float(five.mean()), f1)
        seconds = time.perf_counter() - started
        self._record("train", scores, len(right), seconds, waited / seconds)
        return scores

    def _loss(self, model: Callable[..., Any], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(Mean loss of a batch, its logits in fp32: a bf16 loss has three digits)."""
        import torch

        x, target = self.augment(batch.pixels, batch.draws, batch.labels)
        with torch.autocast(self.kind, dtype=self.low, enabled=self.low is not None):
            out = model(x).float()
        loss = torch.nn.functional.cross_entropy(out, target, label_smoothing=self.settings.label_smoothing)
        return loss, out

    def _together(self, index: int) -> int:
        """Batches in the accumulation group of the batch `index` (the last group may be short)."""
        size = self.settings.accumulate
        return min(size, self.batches - (index - 1) // size * size)

    def _step(self) -> None:
        self.step += 1
        self.optimizer.step(self.settings.learning_rate * self.share(self.step / (self.steps + 1)))
        if self.average:
            self.average.update()

    def _finite(self, losses: list[torch.Tensor], index: int) -> None:
        import torch

        first = (index - 1) // WINDOW * WINDOW
        values = self.group.sum(torch.stack(losses[first:]))
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            step = int(torch.nonzero(~finite)[0])
            raise Diverged(
                f"{self.job.variant}: the loss is {values[step].item()} at epoch {self.epoch}, step "
                f"{first + step + 1}; "
                f"try a lower learning rate than {self.settings.learning_rate:g}"
            )

    def _validate(self, trained: Scores) -> float:
        """Evaluate the epoch, keep its weights if they are the best, save the checkpoint."""
        told = [0.0, 0.0, 0.0]
        judged = self.average.module if self.average else self.model
        if self.group.rank == 0:
            started = time.perf_counter()
            scores = evaluate(judged, self.job.data, self.job.work.store, "validation")
            seconds = time.perf_counter() - started
            self._record("validation", scores, self.job.data.validation_rows, seconds, None)
            told = [scores.macro_f1, scores.loss, scores.top1]
        f1, loss, top1 = self.group.first(told)
        self.stale = 0 if f1 > self.best[0] else self.stale + 1
        if (f1, -loss) > self.best:
            self.best, self.best_top1 = (f1, -loss), top1
            self.best_state = {k: v.detach().cpu().clone() for k, v in judged.state_dict().items()}
        ends = self.epoch == self.settings.epochs or self.stale >= self.settings.patience
        if self.group.rank == 0 and (ends or time.monotonic() >= self.saved + SAVE_SECONDS):
            self._save()
            self.saved = time.monotonic()
        self.job.work.progress(
            self.epoch,
            self.settings.epochs,
            f"{self.job.variant} epoch {self.epoch}/{self.settings.epochs}: loss {trained.loss:.3f}, train F1 "
            f"{trained.macro_f1:.4f}, validation F1 {f1:.4f} (best {self.best[0]:.4f}; "
            f"{self.job.data.validation_rows} images)",
        )
        return f1

    def _record(self, split: str, scores: Scores, images: int, seconds: float, waited: float | None) -> None:
        self.epochs.append(
            {
                **self.row,
                "epoch": self.epoch,
                "split": split,
                "loss": scores.loss,
                "top1": scores.top1,
                "top5": scores.top5,
                "macro_f1": scores.macro_f1,
                "learning_rate": self.optimizer.rate,
                "images_per_second": images / seconds,
                "seconds": seconds,
                "data_wait": waited,
                "memory_peak_bytes": peak_bytes(self.device),
                "compile_seconds": self.compile_seconds if split == "train" else None,
            }
        )
        self.compile_seconds = None
        if waited and waited > MOST_WAITING and waited * seconds > 1 and not self.warned:
            self.warned = True
            self.log.warning(
                "%s: training waited for its images %.1f %% of epoch %d; %s would shorten it",
                self.job.variant,
                100 * waited,
                self.epoch,
                self.source.REMEDY,
            )

    def _batch_size(self, images: int) -> int:
        if self.settings.batch_size != "auto":
            return self.settings.batch_size
        model = copy.deepcopy(self.model).train()
        optimizer = self._optimizer(model)

        def step(size: int) -> None:
            loss, _ = self._loss(model, blank(size, self.job.data, self.device))
            optimizer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            optimizer.step(0.0)
            loss.item()

        found = batchsize.largest(step, self.device, images // self.group.size) * self.group.size
        self.log.info("%s: batches of %d images", self.job.variant, found)
        return found

    def _save(self) -> None:
        whole = {
            "epoch": self.epoch,
            "step": self.step,
            "stale": self.stale,
            "best": list(self.best),
            "epochs": self.epochs,
            "best_top1": self.best_top1,
            "best_state": self.best_state,
            "batch_size": self.batch_size,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": [self.average.steps, self.average.module.state_dict()] if self.average else None,
        }
        self.job.checkpoints.save(self.epoch, whole)

    def _resume(self, whole: dict[str, Any]) -> None:
        self.model.load_state_dict(whole["model"])
        self.optimizer.load_state_dict(whole["optimizer"])
        if self.average:
            self.average.steps = whole["average"][0]
            self.average.module.load_state_dict(whole["average"][1])
        self.epoch, self.step, self.stale = whole["epoch"], whole["step"], whole["stale"]
        self.best, self.best_top1, self.best_state = tuple(whole["best"]), whole["best_top1"], whole["best_state"]
        self.epochs = whole["epochs"]
        self.log.info("%s: resumed after epoch %d", self.job.variant, self.epoch)
