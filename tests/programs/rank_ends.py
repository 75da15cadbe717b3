"""Ends as a rank of a training does, with code 3, while a process that loads its data is at work for two minutes."""

import atexit
import time

import torch

from tasks.training import ddp


class Slow:
    """A data set of nine rows whose second one takes two minutes."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        time.sleep(120 * index)
        return index


atexit.register(print, "Python's own end", flush=True)
batches = iter(torch.utils.data.DataLoader(Slow(), num_workers=1))  # type: ignore[arg-type,var-annotated]
next(batches)
ddp._end(3)
