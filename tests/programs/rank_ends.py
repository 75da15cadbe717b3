"""Ends as a rank of a distributed training does, with code 3, while its data loader's process still works.

The data loader's process would work for two more minutes.
"""

import atexit
import time

import torch

from tasks.training import ddp


class SlowRows:
    """A data set of nine rows. To load row `index` takes two minutes times `index`."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        time.sleep(120 * index)
        return index


atexit.register(print, "Python's own end", flush=True)
batches = iter(torch.utils.data.DataLoader(SlowRows(), num_workers=1))  # type: ignore[arg-type,var-annotated]
next(batches)
ddp._end(3)
