"""Studies and tables of labels are read in the encodings that editors and spreadsheets write, or refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flows.settings import Mistake, load
from tests.support.images import opened, tree

if TYPE_CHECKING:
    from pathlib import Path

STUDY = "# à la carte\r\nname = 'mine'\r\n[train]\r\nepochs = 3\r\n"


def test_a_study_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(STUDY.encode("utf-8-sig"))
    study = load(str(tmp_path / "a.toml"), [])
    assert (study.name, study.train.epochs) == ("mine", 3)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "is in UTF-16"),
        ("utf-16-be", "is in UTF-16"),
        ("utf-16-le", "is in UTF-16"),
        ("latin-1", r"is not in UTF-8 \(byte 3 is 0xe0\)"),
    ],
)
def test_a_study_in_another_encoding_is_refused_with_the_encodings_name(
    tmp_path: Path, encoding: str, message: str
) -> None:
    (tmp_path / "a.toml").write_bytes(STUDY.encode(encoding))
    with pytest.raises(Mistake, match=message) as raised:
        load(str(tmp_path / "a.toml"), [])
    assert "codec" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_labels_is_read_in_the_encodings_that_spreadsheets_write(tmp_path: Path, encoding: str) -> None:
    root = tree(tmp_path / "set", {".": 4})
    rows = "file\tlabel\r\n" + "".join(f"{i:03}.png\t{'ab'[i % 2]}\r\n" for i in range(4))
    (root / "labels.tsv").write_bytes(rows.encode(encoding))
    assert opened(root).images.classes == ("a", "b")
