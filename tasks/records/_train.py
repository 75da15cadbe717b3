"""Settings of a study: how weights are trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from tasks.records._base import (
    Batch,
    Decay,
    Epochs,
    Fraction,
    Images,
    Rate,
    Record,
    Seed,
    SomeEpochs,
    Threads,
    Times,
    choices,
    known,
)

POLICIES = ("none", "crop_flip", "crop", "erasing", "randaugment", "trivialaugment", "mixup", "cutmix")


class Train(Record):
    """How weights are trained."""

    kind: Literal["train"] = "train"
    epochs: Epochs = 30
    """Most epochs. Training ends earlier when validation macro F1 has not risen for `patience` epochs. 0: nothing is
    trained, and later stages take the pretrained weights."""
    patience: SomeEpochs = 8
    """Training ends when validation macro F1 has not risen for this many epochs."""
    batch_size: Batch | Literal["auto"] = 128
    """Images per batch, over all processes together. auto: on a GPU the largest power of two that fits its memory, on a
    CPU the one from which on the images per second no longer rise."""
    accumulate: Times = 1
    """Number of batches whose gradients are added up before the weights change."""
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd has Nesterov momentum 0.9. muon trains convolutions and all linear layers but the last, adamw the rest; its
    learning rate and weight decay are scaled so that values which suit adamw suit it too."""
    fused: bool = True
    """Whether sgd and adamw change all weights with one kernel."""
    learning_rate: Rate = 0.1
    """Peak learning rate of the schedule."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    """How the learning rate goes on after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of all steps in which the learning rate rises from 0 to its peak. none: 0.25 for one_cycle, 0.05 for
    cosine, 0 for constant."""
    weight_decay: Decay = 5e-4
    ema: Fraction | None = None
    """Decay per step of a moving average of the weights. The averaged weights are then the ones that are evaluated and
    kept. none: no average."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass. auto: bf16 where the device has instructions for it, else fp32; the
    table `epochs` records which."""
    channels_last: bool = True
    """Whether images and weights lie in memory with the channels last."""
    compile: bool = False
    """Whether the model and the augmentation are compiled by torch.compile."""
    fused_pointwise: bool = False
    """Whether the operations between the matrix products of ConvNeXt's blocks (convnext_18m, torchvision's) run as
    Triton kernels. Without a GPU the training is then skipped. The weights are those of the plain model."""
    checkpointing: bool = False
    """Whether the backward pass computes the activations of each block again: less memory for a third more work."""
    loading: Literal["auto", "device", "workers"] = "auto"
    """device: all training images lie on the device, as uint8. workers: they are read from disk batch by batch, as
    those for randaugment and trivialaugment always are. auto: device where a quarter of its free memory holds them."""
    workers: Threads | None = None
    """Number of processes that read batches; 0: the training process reads them. none: 0 on a CPU without randaugment
    and trivialaugment, otherwise one per core but one, at most 8, shared by `processes`."""
    pin_memory: bool = True
    """Whether batches that workers have read for a GPU wait in page-locked memory."""
    processes: Times = 1
    """Number of processes on this machine that train together through torchrun, each on its part of every batch and on
    its own GPU. On CPUs BatchNorm sees only the part of its own process."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    """One training per seed. All are recorded, and later stages continue from the best one on validation."""
    train_limit: Images | None = None
    """Train on at most this many images."""
    augment: Annotated[str, choices(*POLICIES)] = "none"
    """Augmentation policy of this training. The augment stage compares several and sets it."""
    device: str = "auto"
    """Device to train on: cpu or cuda:N. auto: the first GPU, or the CPU where there is none."""

    @field_validator("batch_size", mode="before")
    @classmethod
    def _batch_size(cls, value: object) -> object:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value == "auto" or (number and 1 <= value <= 65_536 and value == int(value)):  # type: ignore[operator, call-overload]
            return value
        raise ValueError("expected auto or a whole number from 1 to 65536")

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: str) -> str:
        return known(value, POLICIES, "augmentation policy")

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        return device_name(value, auto=True)

    @model_validator(mode="after")
    def _together(self) -> Train:
        if self.processes > 1 and self.device not in ("auto", "cpu"):
            raise ValueError(
                f"{self.processes} processes take a GPU each; device must be auto or cpu, not {self.device}"
            )
        if self.batch_size != "auto" and self.batch_size < self.processes:
            raise ValueError(
                f"batch_size {self.batch_size} is less than an image for each of {self.processes} processes"
            )
        if self.compile and self.checkpointing:
            raise ValueError("compile chooses itself what to compute again; set checkpointing or compile to false")
        return self


def device_name(value: str, auto: bool = False) -> str:
    """Return `value`, if it names a device; `auto` says whether "auto" is accepted too. Else raise a ValueError."""
    head, _, index = value.partition(":")
    number = index.isascii() and index.isdecimal() and len(index) <= 3
    if value == "cpu" or (auto and value == "auto") or (head == "cuda" and number):
        return value
    raise ValueError(f"unknown device {value!r}; accepted: {'auto, ' if auto else ''}cpu, cuda:0, cuda:1, ...")
