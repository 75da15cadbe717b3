"""One training run: resumable at every epoch, to the same weights; and the evaluation of a PyTorch model.

Every epoch draws its order and its augmentation from generators seeded with (seed, epoch), so that a run that was cut off
continues as if it had not been. Test images are never read here.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy

from tasks import metrics
from tasks.datasets import load_arrays

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from tasks.records import Artifact, Prepared, Train
    from tasks.store import Store
    from tasks.work import Work

SPLITS = {"train": 0, "validation": 1, "test": 2}


class Diverged(Exception):
    """The loss became NaN or infinite."""


@dataclass(frozen=True)
class Scores:
    """Prediction quality of a model on one split."""

    loss: float
    top1: float
    top5: float
    macro_f1: float
    labels: numpy.ndarray
    logits: numpy.ndarray


@dataclass(frozen=True)
class Fitted:
    """The best weights of a training run."""

    artifact: Artifact
    validation_macro_f1: float
    validation_top1: float
    epochs: list[dict[str, object]] = field(repr=False)
    """Rows of the `epochs` table."""


def choose_device(name: str) -> str:
    """The device that `auto` stands for; a GPU that was asked for and is not there is an error, not a fallback."""
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ValueError(
            f"train.device: {name} was asked for, this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return name


def choose_precision(name: str, device: str) -> str:
    """The arithmetic that `auto` stands for: bf16 where the device has instructions for it, else fp32."""
    import torch

    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def subset(rows: numpy.ndarray, labels: numpy.ndarray, limit: int | None, seed: int) -> numpy.ndarray:
    """At most `limit` of `rows`, stratified by label, in ascending order."""
    if limit is None or limit >= len(rows):
        return rows
    from sklearn.model_selection import train_test_split

    kept, _ = train_test_split(rows, train_size=limit, stratify=labels[rows], random_state=seed)
    return numpy.sort(kept)


class Images:
    """Batches of (uint8 channels-last images, labels), gathered at once; per-image augmentation is done by the loader."""

    def __init__(
        self, images: numpy.ndarray, labels: numpy.ndarray, rows: numpy.ndarray, transform: Any = None
    ) -> None:
        self.images, self.labels, self.rows, self.transform = images, labels, rows, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:  # the loader fetches whole batches
        import torch

        rows = self.rows[numpy.asarray(indices)]
        order = numpy.argsort(rows)  # ascending reads of the memory-mapped file
        batch = numpy.empty((len(rows), *self.images.shape[1:]), numpy.uint8)
        batch[order] = self.images[rows[order]]
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
        if self.transform is not None:
            pixels = torch.stack([self.transform(image) for image in pixels])
        return pixels, torch.from_numpy(self.labels[rows])


class Normaliser:
    """uint8 pixels on the CPU -> normalised float32 on the device, in the memory format of the model."""

    def __init__(self, data: Prepared, device: str, channels_last: bool) -> None:
        import torch

        shape = (1, data.channels, 1, 1)
        self.scale = (1 / (255 * torch.tensor(data.std))).reshape(shape).to(device)
        self.shift = (torch.tensor(data.mean) / torch.tensor(data.std)).reshape(shape).to(device)
        self.device = device
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        pixels = pixels.to(self.device, non_blocking=True)
        return (pixels * self.scale - self.shift).contiguous(memory_format=self.format)


def evaluate(model: nn.Module, data: Prepared, store: Store, split: str, batch_size: int = 256) -> Scores:
    """Loss, top-1, top-5 and macro F1 of a model on one split, in fp32 on the device that it is on."""
    import torch

    images, labels, splits = load_arrays(store, data)
    rows = numpy.flatnonzero(splits == SPLITS[split])
    device = next(model.parameters()).device
    ready = Normaliser(data, str(device), channels_last=False)
    training = model.training
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            chunk = torch.from_numpy(images[rows[start : start + batch_size]]).permute(0, 3, 1, 2)
            parts.append(model(ready(chunk)).float().cpu())
    model.train(training)
    logits, right = torch.cat(parts), labels[rows]
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(right)).item()
    return _scores(loss, logits.numpy(), right)


def _scores(loss: float, logits: numpy.ndarray, labels: numpy.ndarray) -> Scores:
    f1 = metrics.macro_f1(labels, metrics.predictions(logits))
    return Scores(loss, metrics.top1(logits, labels), metrics.top5(logits, labels), f1, labels, logits)


def _schedule(settings: Train) -> Callable[[float], float]:
    """Share of the peak learning rate at a share of all steps."""
    import math

    def one_cycle(
        done: float,
    ) -> float:  # up for a quarter, then down to nothing (Smith & Topin 2018, Super-convergence)
        return done / 0.25 if done < 0.25 else max(0.0, (1 - done) / 0.75)

    def cosine(done: float) -> float:
        return done / 0.05 if done < 0.05 else 0.5 * (1 + math.cos(math.pi * (done - 0.05) / 0.95))

    return {"one_cycle": one_cycle, "cosine": cosine, "constant": lambda _: 1.0}[settings.schedule]


def _optimizer(model: nn.Module, settings: Train) -> torch.optim.Optimizer:
    import torch

    # Biases and normalization parameters are not decayed (Goyal et al. 2017; He et al. 2018, Bag of tricks).
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)


def _memory_peak_bytes(device: str) -> int:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def fit(
    work: Work,
    model: nn.Module,
    architecture: dict[str, Any],
    data: Prepared,
    settings: Train,
    *,
    model_label: str,
    variant: str,
    stage: str,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Train by cross-entropy until validation macro F1 has not risen for `patience` epochs, and keep the best epoch.

    Parameters
    ----------
    model
        Freshly built from `architecture` (or pruned); trained in place, with the first of `settings.seeds`.
    architecture
        Arguments of `models.build`; stored with the weights.
    on_epoch
        Called after each epoch with (epoch from 1, validation macro F1); may raise to end the training.

    Raises
    ------
    Diverged
        If the loss is NaN or infinite; the message has the epoch and the step.
    """
    return _Run(work, model, architecture, data, settings, model_label, variant, stage).go(on_epoch)


class _Run:
    def __init__(
        self,
        work: Work,
        model: nn.Module,
        architecture: dict[str, Any],
        data: Prepared,
        settings: Train,
        model_label: str,
        variant: str,
        stage: str,
    ) -> None:
        import torch

        from tasks import policies

        self.work, self.data, self.settings, self.architecture = work, data, settings, architecture
        self.seed = settings.seeds[0]
        self.device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        self.row = {"model": model_label, "variant": variant, "stage": stage, "seed": self.seed,
                    "precision": self.precision, "device": self.device}  # fmt: skip
        self.checkpoint = work.scratch / f"{variant.replace('/', '-')}-{self.seed}.pt"
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.stepped = torch.compile(self.model) if settings.compile else self.model
        self.optimizer = _optimizer(self.model, settings)
        self.scaler = torch.amp.GradScaler(self.device.partition(":")[0], enabled=self.precision == "fp16")  # type: ignore[attr-defined]
        self.ready = Normaliser(data, self.device, settings.channels_last)
        images, labels, splits = load_arrays(work.store, data)
        rows = subset(numpy.flatnonzero(splits == 0), labels, settings.train_limit, self.seed)
        policy = policies.policy(settings.augment, data.image_size, len(data.classes))
        self.mix = policy.mix
        self.order = torch.Generator()
        self.loader: Any = torch.utils.data.DataLoader(
            Images(images, labels, rows, policy.each),  # type: ignore[arg-type]
            settings.batch_size,
            shuffle=True,
            generator=self.order,
            num_workers=settings.workers,
            pin_memory=settings.pin_memory and self.device != "cpu",
            collate_fn=lambda batch: batch,
            drop_last=len(rows) > settings.batch_size,  # BatchNorm cannot train on a last batch of one image
        )
        self.steps = settings.epochs * -(-len(self.loader) // settings.accumulate)
        self.share = _schedule(settings)
        self.step, self.stale, self.best = 0, 0, (-1.0, 0.0)
        self.best_top1 = 0.0
        self.best_state: dict[str, torch.Tensor] = {}
        self.epochs: list[dict[str, object]] = []

    def go(self, on_epoch: Callable[[int, float], None] | None) -> Fitted:
        import models

        settings, first = self.settings, self._resume()
        for epoch in range(first, settings.epochs + 1):
            if self.stale >= settings.patience:
                self.work.log.info("%s: stopped, no better for %d epochs", self.row["variant"], self.stale)
                break
            trained = self._train(epoch)
            started = time.perf_counter()
            scores = evaluate(self.model, self.data, self.work.store, "validation")
            self._record(epoch, "validation", scores, self.data.validation_rows, time.perf_counter() - started)
            self.stale = 0 if scores.macro_f1 > self.best[0] else self.stale + 1
            if (scores.macro_f1, -scores.loss) > self.best:
                self.best, self.best_top1 = (scores.macro_f1, -scores.loss), scores.top1
                self.best_state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            self._save(epoch)
            self.work.progress(
                epoch, settings.epochs,
                f"{self.row['variant']} epoch {epoch}/{settings.epochs}: loss {trained.loss:.3f}, train F1 "
                f"{trained.macro_f1:.4f}, validation F1 {scores.macro_f1:.4f} (best {self.best[0]:.4f})",
            )  # fmt: skip
            if on_epoch:
                on_epoch(epoch, scores.macro_f1)
        self.model.load_state_dict(self.best_state)
        self.model.eval()
        with self.work.store.temporary() as folder:
            models.save(self.model, folder / "weights.safetensors", self.architecture)
            artifact = self.work.store.put(folder / "weights.safetensors", "safetensors", "fp32")
        return Fitted(artifact, self.best[0], self.best_top1, self.epochs)

    def _train(self, epoch: int) -> Scores:
        import torch

        torch.manual_seed(self.seed * 100_003 + epoch)
        self.order.manual_seed(self.seed * 100_003 + epoch)
        low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        kind = self.device.partition(":")[0]
        started, losses, logits, labels = time.perf_counter(), [], [], []
        self.model.train()
        for index, (pixels, right) in enumerate(self.loader, 1):
            x, y = self.ready(pixels), right.to(self.device, non_blocking=True)
            target = y
            if self.mix is not None:
                x, target = self.mix(x, y)
            with torch.autocast(kind, dtype=low, enabled=low is not None):
                out = self.stepped(x)
            # In fp32: a bf16 loss has three digits.
            loss = torch.nn.functional.cross_entropy(out.float(), target, label_smoothing=self.settings.label_smoothing)
            last = index == len(self.loader)
            group = self._group(index)
            self.scaler.scale(loss / group).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            logits.append(out.detach())
            labels.append(y)
            if index % self.settings.accumulate == 0 or last:
                self._step()
            if index % 50 == 0 or last:  # one synchronisation for many steps
                self._finite(epoch, losses, index)
        values = torch.cat(logits).float().cpu().numpy()
        rights = torch.cat(labels).cpu().numpy()
        scores = _scores(torch.stack(losses).mean().item(), values, rights)
        self._record(epoch, "train", scores, len(rights), time.perf_counter() - started)
        return scores

    def _group(self, index: int) -> int:
        """Batches in the accumulation group of the batch `index` (the last group may be short)."""
        size, start = self.settings.accumulate, (index - 1) // self.settings.accumulate * self.settings.accumulate
        return min(size, len(self.loader) - start)

    def _step(self) -> None:
        self.step += 1
        rate = self.settings.learning_rate * self.share(self.step / (self.steps + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _finite(self, epoch: int, losses: list[torch.Tensor], index: int) -> None:
        import torch

        values = torch.stack(losses[(index - 1) // 50 * 50 :])
        if not bool(torch.isfinite(values).all()):
            step = (index - 1) // 50 * 50 + int(torch.nonzero(~torch.isfinite(values))[0]) + 1
            raise Diverged(
                f"{self.row['variant']}: the loss is {losses[step - 1].item()} at epoch {epoch}, step {step}; "
                f"try a lower learning rate than {self.settings.learning_rate:g}"
            )

    def _record(self, epoch: int, split: str, scores: Scores, images: int, seconds: float) -> None:
        self.epochs.append({
            **self.row, "epoch": epoch, "split": split, "loss": scores.loss, "top1": scores.top1, "top5": scores.top5,
            "macro_f1": scores.macro_f1, "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images / seconds, "seconds": seconds,
            "memory_peak_bytes": _memory_peak_bytes(self.device),
        })  # fmt: skip

    def _save(self, epoch: int) -> None:
        import torch

        whole = {"epoch": epoch, "step": self.step, "stale": self.stale, "best": list(self.best), "epochs": self.epochs,
                 "best_top1": self.best_top1, "best_state": self.best_state, "model": self.model.state_dict(),
                 "optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}  # fmt: skip
        written = self.checkpoint.with_suffix(".writing")
        torch.save(whole, written)
        written.replace(self.checkpoint)

    def _resume(self) -> int:
        """Take up the last checkpoint, if there is one; returns the epoch to train next."""
        import torch

        if not self.checkpoint.exists():
            return 1
        whole = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
        self.model.load_state_dict(whole["model"])
        self.optimizer.load_state_dict(whole["optimizer"])
        self.scaler.load_state_dict(whole["scaler"])
        self.step, self.stale, self.best_state = whole["step"], whole["stale"], whole["best_state"]
        self.best, self.best_top1, self.epochs = tuple(whole["best"]), whole["best_top1"], whole["epochs"]
        self.work.log.info("%s: resumed after epoch %d", self.row["variant"], whole["epoch"])
        return whole["epoch"] + 1
