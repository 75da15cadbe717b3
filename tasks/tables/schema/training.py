"""Tables of training: learning curves, seeds, techniques and trials."""

from __future__ import annotations

import polars as pl

from tasks.tables.schema.column import Column, Table, count, number, share, text
from tasks.tables.schema.shared import OUTCOME, QUALITY

VERDICT_OF_EPOCHS = (
    "compared with technique none: faster where each epoch is shorter than each epoch of none, slower where each is "
    "longer; null for none itself, and where there are fewer than four epochs"
)
TABLES: dict[str, Table] = {
    "epochs": Table(
        "Training curves: one row per epoch and split.",
        {
            "model": text("label of the model"),
            "variant": text("name of what was being trained, e.g. lenet5/tune/trial-3"),
            "stage": text("stage that trained", "train", "tune", "augment", "prune", "ablate", "qat"),
            "seed": count("random seed"),
            "epoch": count("number of the epoch, from 1", low=1),
            "split": text("images that were scored", "train", "validation"),
            "loss": number("mean cross-entropy"),
            "top1": share("top-1 accuracy"),
            "top5": share("top-5 accuracy"),
            "macro_f1": share("F1 averaged over the classes"),
            "learning_rate": number("learning rate at the end of the epoch"),
            "images_per_second": number("images of this split per second"),
            "seconds": number("time of the epoch on this split, without compile_seconds"),
            "compile_seconds": number(
                "time of the step before the epoch in which PyTorch compiled and cuDNN chose algorithms; null where "
                "there was no such step",
                null=True,
            ),
            "data_wait": share(
                "share of the seconds spent waiting for images to be read, augmenting them not included", null=True
            ),
            "batch_size": count("images per batch, of all processes together", low=1),
            "memory_peak_bytes": count(
                "peak memory since the epoch began: resident in the process, or on a GPU in its allocator"
            ),
            "precision": text("arithmetic that was used", "fp32", "bf16", "fp16"),
            "device": text("cpu or cuda:N"),
        },
        unique=("variant", "seed", "epoch", "split"),
        ordered=(("top1", "top5"),),
    ),
    "seeds": Table(
        "How much the outcome of a training depends on the seed: one row per training, of all its seeds.",
        {
            "model": text("label of the model"),
            "variant": text("name of what was trained"),
            "stage": text("stage that trained", "train", "tune", "augment"),
            "seeds": Column(pl.List(pl.Int64), "random seeds; with each the training was done once", low=0),
            "chosen": count("seed with the best validation score, whose weights later stages use"),
            **{
                f"{split}_macro_f1{end}": column
                for split in ("validation", "test")
                for end, column in {
                    "": Column(pl.List(pl.Float64), f"macro F1 of each seed, on {split} images", low=0, high=1),
                    "_mean": share("mean of macro F1 over the seeds"),
                    "_std": number(
                        "standard deviation of macro F1 over the seeds, null for one seed", high=1, null=True
                    ),
                }.items()
            },
        },
        unique=("variant",),
    ),
    "ablations": Table(
        "Training with each technique alone, with all together and with none: one row per model and technique.",
        {
            "model": text("label of the model"),
            "technique": text("none, all, or one of the study's techniques"),
            "sets": text("fields of the study's train section, or of the model, that the technique sets, as JSON"),
            "seeds": count("number of trainings, one per seed", null=True),
            "epochs": count("epochs of each training", null=True),
            "epoch_seconds": number(
                "median time of a training epoch, the first left out, over all seeds; null for one epoch", null=True
            ),
            "epoch_seconds_low": number("time of the shortest of these epochs", null=True),
            "epoch_seconds_high": number("time of the longest of these epochs", null=True),
            "verdict": text(VERDICT_OF_EPOCHS, "faster", "slower", "indistinguishable", null=True),
            "first_epoch_seconds": number(
                "time of the first training epoch, in which PyTorch compiles: mean over the seeds", null=True
            ),
            "images_per_second": number("training images per second: median of the same epochs", null=True),
            "data_wait": share("share of the seconds spent waiting for images: median of the same epochs", null=True),
            "memory_peak_bytes": count(
                "peak memory, the highest of all seeds: resident in the process, or on a GPU in its allocator",
                null=True,
            ),
            "precision": text("arithmetic that was used", "fp32", "bf16", "fp16", null=True),
            "device": text("cpu or cuda:N", null=True),
            "batch_size": count("images per batch", null=True),
            **{key: column for key, column in QUALITY.items() if key != "top5"},
            "macro_f1_std": number(
                "standard deviation of macro F1 over the seeds, null for one seed", high=1, null=True
            ),
            "note": text(
                "techniques that all leaves out, because this machine cannot run them; null where it leaves none out",
                null=True,
            ),
            **OUTCOME,
        },
        unique=("model", "technique"),
        ordered=(
            ("epoch_seconds_low", "epoch_seconds", "epoch_seconds_high"),
            ("top1_low", "top1", "top1_high"),
            ("macro_f1_low", "macro_f1_high"),
        ),
        given_when_ok=("images_per_second",),
    ),
    "trials": Table(
        "Tuning: one row per trial.",
        {
            "model": text("label of the model"),
            "trial": count("number of the trial; trial 0 has the study's own settings"),
            "adjusted": text("settings of the trial, as JSON"),
            "score": share("validation macro F1 at the best epoch of the trial", null=True),
            "best_so_far": share("best score of this trial and all before it", null=True),
            "epochs": count("epochs that were trained before the trial ended"),
            "seconds": number("training time"),
            "stopped_early": Column(pl.Boolean, "whether the trial was ended early because its scores were poor"),
            **OUTCOME,
        },
        unique=("model", "trial"),
        ordered=(("score", "best_so_far"),),
    ),
}
