"""Checkpoints of a training: the last two are kept, and a damaged one is never trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.machine.durable import Series

if TYPE_CHECKING:
    import logging
    from pathlib import Path

KEPT = 2
"""The newest, and the one before it, which is used where the newest is damaged."""


class Checkpoints:
    """The checkpoints of one training run, by epoch.

    Parameters
    ----------
    folder
        Where they lie.
    variant
        What is trained.
    seed
        Of the training.
    """

    def __init__(self, folder: Path, variant: str, seed: int) -> None:
        self.variant = variant
        self.series = Series(folder, f"{variant.replace('/', '-')}-{seed}", ".pt")

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Keep the state after an epoch. The one before the last goes first, so that there is never room for three."""
        import torch

        for old in self.series.files()[: -(KEPT - 1)]:
            old.path.unlink()
        self.series.write(epoch, lambda file: torch.save(state, file))

    def newest(self, log: logging.Logger) -> Path | None:
        """The newest that is as it was written. Damaged ones are removed and said; None means to start over."""
        damaged = []
        found: Path | None = None
        goes_on = "back to the beginning"
        for kept in reversed(self.series.files()):
            if kept.intact():
                found, goes_on = kept.path, f"on after epoch {kept.number}"
                break
            damaged.append(kept)
        for one in damaged:
            one.path.unlink()
            log.warning(
                "%s: the checkpoint after epoch %d is damaged (%s does not hold what its name says); it was removed, "
                "and training goes %s",
                self.variant,
                one.number,
                one.path.name,
                goes_on,
            )
        return found


def load(checkpoint: Path, device: str) -> dict[str, Any]:
    """The state that was saved, its tensors on a device."""
    import torch

    return torch.load(checkpoint, weights_only=True, map_location=device)  # type: ignore[no-any-return]
