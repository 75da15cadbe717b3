"""Stored files: they are written whole or not at all, named by the hash of their content, and verified when read."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.caching.store import Corrupt, Store
from tasks.machine.files import content, write_text
from tests.support.programs import command, environment


@given(data=st.binary(max_size=2000))
@settings(max_examples=25, deadline=None)
def test_a_stored_file_is_read_back_equal_and_its_name_is_its_hash(data, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    with store.temporary() as folder:
        (folder / "a.bin").write_bytes(data)
        artifact = store.put(folder / "a.bin", "bin")
    path = store.get(artifact)
    assert path.read_bytes() == data
    assert path.name == f"{artifact.sha256}.bin"
    assert artifact.size_bytes == len(data)


def test_a_folder_is_stored_as_one_artifact_with_the_size_of_all_its_files(tmp_path):
    store = Store(tmp_path)
    with store.temporary() as folder:
        (folder / "model").mkdir()
        (folder / "model" / "graph.onnx").write_bytes(b"graph")
        (folder / "model" / "graph.onnx.data").write_bytes(b"x" * 1000)
        artifact = store.put(folder / "model", "onnx")
    assert artifact.size_bytes == 1005
    (store.get(artifact) / "graph.onnx.data").write_bytes(b"y" * 1000)
    assert not store.intact(artifact)


@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"other")])
def test_getting_a_damaged_file_raises_corrupt(tmp_path, damage):
    store = Store(tmp_path)
    with store.temporary() as folder:
        (folder / "a.bin").write_bytes(b"right")
        artifact = store.put(folder / "a.bin", "bin")
    damage(store.root / artifact.path)
    with pytest.raises(Corrupt):
        store.get(artifact)


@pytest.mark.parametrize("moment", ["sync", "copy"])
def test_a_process_killed_while_it_publishes_a_table_leaves_the_earlier_table_or_none(tmp_path, moment):
    table = tmp_path / "tables" / "latencies" / "run-1.parquet"
    for earlier_content in (None, b"what was there"):
        if earlier_content is not None:
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_bytes(earlier_content)
        process = subprocess.run(command("publish_killed", tmp_path, moment), env=environment(), check=False)
        assert process.returncode == -signal.SIGKILL
        assert (table.read_bytes() if table.exists() else None) == earlier_content
        from tasks import tables

        published = {p.name for p in (tmp_path / "tables").rglob("*.parquet")} if table.parent.exists() else set()
        assert published <= {"run-1.parquet"}
    source = tmp_path / "fragment.parquet"
    tables.publish({"latencies": source}, tmp_path, "run-1")
    assert tables.read(tmp_path, "latencies", "run-1").collect().height == 200_000


def test_written_text_replaces_the_file_and_is_readable_by_other_users(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "one")
    write_text(tmp_path / "a" / "b.txt", "two")
    assert (tmp_path / "a" / "b.txt").read_text() == "two"
    assert oct((tmp_path / "a" / "b.txt").stat().st_mode)[-3:] == "644"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_the_hash_of_a_folder_does_not_depend_on_the_order_in_which_its_files_were_written(tmp_path):
    for name, order in (("one", ("a", "b")), ("two", ("b", "a"))):
        (tmp_path / name).mkdir()
        for file in order:
            (tmp_path / name / file).write_text(file)
            time.sleep(0.01)
    assert content(tmp_path / "one") == content(tmp_path / "two")
