"""Settings of a training."""

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
    """Most epochs; training ends earlier when validation macro F1 has not risen for `patience` epochs. 0: pretrained
    weights go on as they are."""
    patience: SomeEpochs = 8
    batch_size: Batch | Literal["auto"] = 128
    """Images of a batch, over all processes; auto: the largest power of two that fits the GPU's memory, on a CPU the
    one after which images a second no longer rise."""
    accumulate: Times = 1
    """Batches whose gradients are added up before a step."""
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """sgd: with Nesterov momentum 0.9. muon: for convolutions and linear layers but the last one, the rest by adamw;
    its learning rate and weight decay are scaled to suit where adamw's do."""
    fused: bool = True
    """One kernel for the steps of all weights (sgd and adamw)."""
    learning_rate: Rate = 0.1
    """Peak learning rate of the schedule."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of all steps in which the learning rate rises from 0; none: 0.25 one_cycle, 0.05 cosine, 0 constant."""
    weight_decay: Decay = 5e-4
    ema: Fraction | None = None
    """Decay a step of the moving average of the weights, which is then what is evaluated and kept; none: no average."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """auto: bf16 where the device has instructions for it, else fp32; which one is recorded in `epochs`."""
    channels_last: bool = True
    compile: bool = False
    """torch.compile the model and the augmentation."""
    fused_pointwise: bool = False
    """Triton kernels between the matrix products of ConvNeXt's blocks (convnext_18m, torchvision's), on a GPU; where
    there is none the training is skipped. The weights are of the plain model."""
    checkpointing: bool = False
    """Compute the activations of each block again in the backward pass: less memory, a third more work."""
    loading: Literal["auto", "device", "workers"] = "auto"
    """device: training images live on the device as uint8; workers: they are read batch by batch from the memory-mapped
    file, as are those of randaugment and trivialaugment in any case; auto: device where a quarter of its free memory
    holds them."""
    workers: Threads | None = None
    """Processes that read batches; 0: the training process. none: 0 on a CPU, but for randaugment and trivialaugment;
    else all cores but one, at most 8, shared by `processes`."""
    pin_memory: bool = True
    """Batches for a GPU wait in page-locked memory, where they are read by workers."""
    processes: Times = 1
    """Processes on this machine that train together through torchrun, each on its part of every batch and on its own
    GPU; on CPUs BatchNorm sees a process's part alone."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000)] = (0,)
    """One training per seed; the one best on validation goes on, all are recorded."""
    train_limit: Images | None = None
    """Train on at most this many images."""
    augment: Annotated[str, choices(*POLICIES)] = "none"
    """Augmentation policy; the augment stage sets it."""
    device: str = "auto"
    """auto (the GPU if there is one), cpu or cuda:N."""

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
    head, _, index = value.partition(":")
    number = index.isascii() and index.isdecimal() and len(index) <= 3
    if value == "cpu" or (auto and value == "auto") or (head == "cuda" and number):
        return value
    raise ValueError(f"unknown device {value!r}; accepted: {'auto, ' if auto else ''}cpu, cuda:0, cuda:1, ...")
