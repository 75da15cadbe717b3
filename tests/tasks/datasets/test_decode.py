"""Images of every mode are decoded to upright grey or RGB pixels, resized and cropped; damaged images are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.datasets._decode import Bad, decode
from tests.support.files import (
    as_if_huge,
    encoded,
    png,
)


def test_an_image_is_turned_upright_as_its_exif_orientation_says() -> None:
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 6) * 20)
    exif = Image.Exif()
    # Orientation 6: a viewer turns the image by 90 degrees clockwise.
    exif[0x0112] = 6
    upright = decode(encoded(picture, "PNG", exif=exif), None)
    assert np.array_equal(upright, np.rot90(np.asarray(picture), -1))


@pytest.mark.parametrize(
    ("picture", "form", "shape", "first"),
    [
        (Image.new("L", (3, 2), 9), "PNG", (2, 3), 9),
        (Image.new("1", (3, 2), 1), "PNG", (2, 3), 255),
        (Image.fromarray(np.full((2, 3), 0x1234, np.uint16)), "PNG", (2, 3), 0x12),
        (Image.fromarray(np.full((2, 3), 0xFFFF, np.uint16)), "TIFF", (2, 3), 255),
        (Image.new("LA", (3, 2), (0, 0)), "PNG", (2, 3), 255),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 0)), "PNG", (2, 3, 3), 255),
        (Image.new("RGBA", (3, 2), (10, 0, 0, 255)), "PNG", (2, 3, 3), 10),
        # 204 is the value of the web palette that is nearest to 200.
        (Image.new("RGB", (3, 2), (200, 0, 0)).convert("P"), "GIF", (2, 3, 3), 204),
        (Image.new("CMYK", (3, 2), (0, 0, 0, 0)), "JPEG", (2, 3, 3), 255),
        (Image.new("RGB", (3, 2), (7, 8, 9)), "BMP", (2, 3, 3), 7),
        (Image.new("RGB", (3, 2), (7, 8, 9)), "PPM", (2, 3, 3), 7),
    ],
)
def test_an_image_of_any_mode_is_decoded_to_grey_or_rgb(
    picture: Image.Image, form: str, shape: tuple[int, ...], first: int
) -> None:
    pixels = decode(encoded(picture, form), None)
    assert pixels.dtype == np.uint8
    assert pixels.shape == shape
    assert pixels.flat[0] == first


def test_decoding_resizes_the_shorter_side_and_crops_the_centre() -> None:
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    # The shorter side already has the size asked for, so that the image is cropped and not interpolated.
    assert np.array_equal(decode(wide, 4), np.full((4, 4), 200))
    smooth = np.repeat(np.linspace(0, 255, 40).astype(np.uint8)[None], 20, axis=0)
    small = decode(smooth, 10)
    assert small.shape == (10, 10)
    assert np.abs(small[5] - np.linspace(69, 186, 10)).max() < 4
    assert decode(np.zeros((3, 5, 3), np.uint8), 9).shape == (9, 9, 3)
    noise = np.random.default_rng(0).integers(0, 256, (8, 16), np.uint8)
    # The shorter side already has the 8 pixels to resize to, so that the image is only cropped.
    assert np.array_equal(decode(noise, 4, 8), noise[2:6, 6:10])
    assert np.array_equal(decode(noise, 4, 6), decode(noise, 6)[1:5, 1:5])


@pytest.mark.parametrize(
    ("image", "reason", "detail"),
    [
        (None, "null image", ""),
        (b"", "empty image", ""),
        (b"hello", "undecodable image", "no known format"),
        (png(3, (40, 40))[:-30], "undecodable image", "truncated|broken|Truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-200], "undecodable image", "truncated"),
        # Pillow would run Ghostscript to read EPS.
        (encoded(Image.new("L", (2, 2)), "EPS"), "undecodable image", "no known format"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "undecodable image", "no known range"),
        (Path("nowhere.png"), "undecodable image", "No such file"),
        (
            as_if_huge(png()),
            "undecodable image",
            "60000 x 60000 pixels, 3600 million; at most 179 million",
        ),
    ],
)
def test_a_missing_damaged_or_unsupported_image_is_refused_with_the_reason(
    image: Any, reason: str, detail: str
) -> None:
    with pytest.raises(Bad) as bad:
        decode(image, None)
    assert bad.value.args[0] == reason
    assert re.search(detail, bad.value.args[1])


def test_an_image_too_elongated_to_be_resized_is_refused() -> None:
    with pytest.raises(Bad, match="too elongated"):
        decode(np.zeros((1, 10_000), np.uint8), 224)
