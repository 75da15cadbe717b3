"""An image with too many pixels is refused with file, size and limit; one below the limit decodes without a warning."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tasks.caching.work import Work
from tasks.prepare import prepare
from tasks.records import Data
from tests.support.files import as_if_huge, encoded, png
from tests.support.images import tree
from tests.support.paths import ROOT


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "PPM"])
def test_an_image_with_too_many_pixels_is_refused_with_its_size_and_the_limit(tmp_path: Path, kind: str) -> None:
    bmp = encoded(Image.new("L", (4, 4)), "BMP")
    gif = encoded(Image.new("L", (4, 4)), "GIF")
    # The header of each file claims 60,000 x 60,000 pixels.
    content = {
        "PNG": lambda: as_if_huge(png()),
        "BMP": lambda: bmp[:18] + (60_000).to_bytes(4, "little") * 2 + bmp[26:],
        "GIF": lambda: gif[:6] + (60_000).to_bytes(2, "little") * 2 + gif[10:],
        "PPM": lambda: b"P5 60000 60000 255\n" + bytes(100),
    }[kind]()
    root = tree(tmp_path / "set", {"cat": 6, "dog": 6})
    (root / "cat" / "huge").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"cat/huge.*60000 x 60000 pixels, 3600 million; at most 179 million"
    ) as raised:
        prepare(Work.at(tmp_path / "out", "prepare"), Data(path=str(root), image_size=8))
    assert "bomb" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_large_image_below_the_limit_is_decoded_without_pillows_warning(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(buffer, "PNG")
    (tmp_path / "large.png").write_bytes(buffer.getvalue())
    shape = f"decode(Path({str(tmp_path / 'large.png')!r}), 8).shape"
    code = f"from pathlib import Path; from tasks.datasets._decode import decode; print({shape})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("(8, 8)\n", "")
