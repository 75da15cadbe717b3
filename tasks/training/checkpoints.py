"""Checkpoints of a training: the last two are kept, and a damaged one is never trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.machine.durable import Series

if TYPE_CHECKING:
    import logging
    from pathlib import Path

KEPT = 2
"""Checkpoints that are kept: the newest, and the one before it, which is used where the newest is damaged."""


class Checkpoints:
    """The checkpoints of one training, one per epoch at most.

    Parameters
    ----------
    folder
        Where the files lie.
    variant
        Name of the variant that is trained.
    seed
        The seed that it is trained with.
    """

    def __init__(self, folder: Path, variant: str, seed: int) -> None:
        self.variant = variant
        self.series = Series(folder, f"{variant.replace('/', '-')}-{seed}", ".pt")

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after an epoch. Older checkpoints are removed before, so that the disk never holds three."""
        import torch

        for old in self.series.files()[: -(KEPT - 1)]:
            old.path.unlink()
        self.series.write(epoch, lambda file: torch.save(state, file))

    def newest(self, log: logging.Logger) -> Path | None:
        """Return the newest checkpoint that is as it was written, or None where the training starts over.

        Damaged ones are removed, with a warning for each.
        """
        damaged = []
        newest: Path | None = None
        where = "back to the beginning"
        for checkpoint in reversed(self.series.files()):
            if checkpoint.intact():
                newest = checkpoint.path
                where = f"on after epoch {checkpoint.number}"
                break
            damaged.append(checkpoint)
        for checkpoint in damaged:
            checkpoint.path.unlink()
            log.warning(
                "%s: the checkpoint after epoch %d is damaged (%s does not hold what its name says); it was removed, "
                "and training goes %s",
                self.variant,
                checkpoint.number,
                checkpoint.path.name,
                where,
            )
        return newest


def load(checkpoint: Path, device: str) -> dict[str, Any]:
    """Return the state that a checkpoint holds, its tensors on a device."""
    import torch

    return torch.load(checkpoint, weights_only=True, map_location=device)  # type: ignore[no-any-return]
