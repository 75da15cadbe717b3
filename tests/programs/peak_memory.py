"""Prints by how many bytes a training step with 128 images raises this process's peak of memory.

Argument: "True" if the model's blocks are to be checkpointed.
"""

import sys

import torch

import models
from tasks.machine.devices import peak_bytes, reset_peak
from tasks.training.checkpointing import checkpoint_blocks

model = models.build("resnet34", num_classes=10, image_size=32, width=16).to(memory_format=torch.channels_last)
if sys.argv[1] == "True":
    checkpoint_blocks(model, "resnet34")


def step(images: int) -> None:
    model(torch.randn(images, 3, 32, 32).to(memory_format=torch.channels_last)).sum().backward()


step(2)
reset_peak("cpu")
before = peak_bytes("cpu")
step(128)
print(peak_bytes("cpu") - before)
