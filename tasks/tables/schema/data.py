"""The tables of the prepared data, and of how a given model wants it."""

from __future__ import annotations

import polars as pl

from tasks.tables.schema.column import Column, Table, count, share, text

TABLES: dict[str, Table] = {
    "datasets": Table(
        "The prepared data: one row per split.",
        {
            "source": text("kind of source: the name of a file in tasks/datasets"),
            "path": text("where the images came from", null=True),
            "label": text("name of the images, under which figures measured on them are shown"),
            "split": text("part of the images", "train", "validation", "test"),
            "rows": count("images of the split", low=1),
            "classes": count("classes of the data set", low=2),
            "image_size": count("height and width of an image, pixels", low=1),
            "channels": count("channels of an image, 1 or 3", low=1),
            "class_rows_min": count("images of the rarest class"),
            "class_rows_max": count("images of the commonest class"),
            "class_rows": Column(pl.List(pl.Int64), "images of each class, in class order", low=0),
            "class_names": Column(pl.List(pl.String), "names of the classes in the source, in class order"),
            "images_path": text(
                "file in the store with the images of all splits: npy, uint8, (rows, height, width, channels)"
            ),
            "images_sha256": text("SHA-256 of that file"),
            "images_size_bytes": count("size of that file", low=1),
            "duplicates_within": count(
                "images with the same pixels as an earlier image of their split, and as no image of an earlier split"
            ),
            "duplicates_across": count(
                "images with the same pixels as one of an earlier split (in the order train, validation, test)"
            ),
            "dropped": count("rows of the source that were dropped because they were bad"),
            "dropped_rows": Column(pl.List(pl.Int64), "numbers of the dropped rows in the source's part", low=0),
            "dropped_reasons": Column(pl.List(pl.String), "why each of them was dropped, in the same order"),
            "layout": text(
                "how the source was read: which folders, files and columns are classes, splits, images and labels"
            ),
            "left_out": Column(pl.List(pl.String), "parts of the source that are not used, and why"),
        },
        unique=("split",),
        ordered=(
            ("class_rows_min", "class_rows_max", "rows"),
            ("duplicates_within", "rows"),
            ("duplicates_across", "rows"),
        ),
        lengths=(
            ("class_rows", "classes"),
            ("class_names", "classes"),
            ("dropped_rows", "dropped"),
            ("dropped_reasons", "dropped"),
        ),
    ),
    "preparations": Table(
        "Ways to prepare images that were tried on a given model: one row per try.",
        {
            "model": text("label of the model"),
            "number": count("number of the try, from 0"),
            "order": text("order of the channels in the model's input", "rgb", "bgr", "grey"),
            "layout": text("order of the axes of the model's input", "nchw", "nhwc"),
            "image_size": count("height and width of the model's input, pixels", low=1),
            "resize": count("shorter side of the image before it is cropped, pixels", low=1),
            "mean": Column(
                pl.List(pl.Float64), "mean, of pixels scaled to 0..1: one for all channels, or in RGB order"
            ),
            "std": Column(pl.List(pl.Float64), "standard deviation in the same form as mean", low=0),
            "class_order": text("which output stands for which class, in words"),
            "images": count("labelled images that it was tried on", low=1),
            "top1": share("share of these images whose predicted class is right"),
            "chosen": Column(pl.Boolean, "whether it is how the images are prepared"),
            "told_by": text("what states or sets parts of it; null where all of it is a guess", null=True),
        },
        unique=("model", "number"),
        ordered=(("image_size", "resize"),),
    ),
}
