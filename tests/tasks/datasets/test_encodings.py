"""Studies and tables of labels as editors and spreadsheets write them: with a byte-order mark, in UTF-16, in
Latin-1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flows.settings import Mistake, load
from tests.support.images import opened, tree

if TYPE_CHECKING:
    from pathlib import Path

STUDY = "# à la carte\r\nname = 'mine'\r\n[train]\r\nepochs = 3\r\n"


def test_a_study_with_notepads_mark_and_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(STUDY.encode("utf-8-sig"))
    study = load(str(tmp_path / "a.toml"), [])
    assert (study.name, study.train.epochs) == ("mine", 3)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-16", "is in UTF-16"),
        ("utf-16-be", "is in UTF-16"),
        ("utf-16-le", "is in UTF-16"),
        ("latin-1", r"is not in UTF-8 \(byte 3 is 0xe0\)"),
    ],
)
def test_a_study_in_another_encoding_is_refused_in_words(tmp_path: Path, encoding: str, said: str) -> None:
    (tmp_path / "a.toml").write_bytes(STUDY.encode(encoding))
    with pytest.raises(Mistake, match=said) as raised:
        load(str(tmp_path / "a.toml"), [])
    assert "codec" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_labels_is_read_as_spreadsheets_write_it(tmp_path: Path, encoding: str) -> None:
    root = tree(tmp_path / "set", {".": 4})
    rows = "file\tlabel\r\n" + "".join(f"{n:03}.png\t{'ab'[n % 2]}\r\n" for n in range(4))
    (root / "labels.tsv").write_bytes(rows.encode(encoding))
    assert opened(root).images.classes == ("a", "b")
