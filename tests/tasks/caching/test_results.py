"""Stored results: what cannot be read is said, removed and computed once; a key is computed by one run at a time."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tasks.caching.keys import Stage
from tasks.caching.results import Damaged, Results, open_request
from tasks.records import Context, Forms, Output, Variant
from tests.support.one_stage import STAGE, ask, rows
from tests.support.programs import command, environment


def why(out: Path) -> dict:
    return json.loads((out / "runs" / "study-20260101-000000" / "why" / "rows-a.json").read_text())


def test_a_result_is_taken_until_something_differs(tmp_path):
    assert [ask(tmp_path), ask(tmp_path), ask(tmp_path, "b"), ask(tmp_path)] == ["computed", "hit", "computed", "hit"]
    assert ask(tmp_path, again=("rows",)) == "computed"
    assert why(tmp_path)["differs"] == ["asked for again"]
    # neither a folder nor a lock
    assert list((tmp_path / "scratch").iterdir()) == []


def _retyped(path: Path) -> None:
    told = json.loads(path.read_text())
    told["result"]["tables"]["trials"]["size_bytes"] = "many"
    path.write_text(json.dumps(told))


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def _no_longer(path: Path) -> None:
    path.unlink()
    # "too many levels of symbolic links"
    path.symlink_to(path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "number": lambda path: path.write_text("5"),
    "other object": lambda path: path.write_text('{"record": 5, "sha256": [], "result": {}, "more": 1}'),
    "nested": lambda path: path.write_text("[" * 100_000),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "binary": lambda path: path.write_bytes(b"\xff\x00" * 100),
    "flipped": _flipped,
    "folder": _folder,
    "loop": _no_longer,
}


@pytest.mark.parametrize("damage", [*DAMAGE, "retyped"])
def test_a_damaged_result_is_said_removed_and_computed_once(tmp_path, caplog, damage):
    assert ask(tmp_path) == "computed"
    (result,) = (tmp_path / "store" / "results").iterdir()
    (DAMAGE | {"retyped": _retyped})[damage](result)
    with caplog.at_level("INFO", "burnish"):
        assert ask(tmp_path) == "computed"
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert f"stored result {result.name} is not readable: " in warned[0]
    assert why(tmp_path)["differs"][0] in warned[0]
    assert ask(tmp_path) == "hit"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_note_of_the_last_time_is_said_and_removed_and_costs_no_result(tmp_path, caplog, damage):
    assert ask(tmp_path) == "computed"
    (last,) = (tmp_path / "store" / "last").glob("*/*.json")
    DAMAGE[damage](last)
    with caplog.at_level("INFO", "burnish"):
        assert ask(tmp_path) == "hit"
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert f"{last} was removed, because it is not readable: " in warned[0]
    assert why(tmp_path)["differs"][0] in warned[0]
    assert ask(tmp_path) == "hit"
    assert why(tmp_path)["differs"] == []


def test_a_stored_file_that_is_gone_or_is_a_folder_makes_its_stage_run_again(tmp_path):
    ask(tmp_path)
    (stored,) = (tmp_path / "store").glob("??/*.bin")
    for damage in (Path.unlink, _folder):
        damage(stored)
        assert ask(tmp_path) == "computed"
        assert why(tmp_path)["differs"] == [f"stored file gone or changed: {stored.parent.name}/{stored.name}"]
        assert stored.read_bytes() == b"a"
        assert ask(tmp_path) == "hit"


def test_a_key_that_cannot_be_made_ends_the_stage(tmp_path):
    def broken(inputs):
        raise ZeroDivisionError("no fingerprint")

    context = Context(out=str(tmp_path), run="study-20260101-000000")
    made = Stage(rows, lambda inputs: "rows/a", (), None, broken)
    with pytest.raises(ZeroDivisionError, match="no fingerprint"), open_request(made, context, {"name": "a"}):
        pass


def test_a_result_that_cannot_be_written_ends_the_stage_and_keeps_its_scratch_folder(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "results").write_text("a file where the folder belongs")
    context = Context(out=str(tmp_path), run="study-20260101-000000")
    with pytest.raises(NotADirectoryError), open_request(STAGE, context, {"name": "a"}) as mine:
        mine.keep(rows(mine.work(None), "a"))
    assert list((tmp_path / "scratch").glob("*/")) == []


def test_records_come_back_as_they_were(tmp_path):
    results = Results(tmp_path)
    variant = Variant(name="a/b", model="a", stage="train", format="onnx", status="failed", error="größer als ½ \ud83d")
    for key, record in enumerate((variant, Forms(variants=(variant,)), Output())):
        results.write(str(key), record)
        assert results.read(str(key)) == record
    with pytest.raises(Damaged):
        (results.folder / "3").write_text(json.dumps({"record": "Path", "sha256": "", "result": {}}))
        results.read("3")
    assert results.read("4") is None


def test_of_two_that_ask_for_it_again_at_once_one_computes(tmp_path):
    ask(tmp_path)
    context = Context.model_construct(out=str(tmp_path), run="study-20260101-000000", again=("rows",))
    told = []
    other = threading.Thread(target=lambda: told.append(ask(tmp_path, again=("rows",))))
    with open_request(STAGE, context, {"context": context, "name": "a"}) as mine:
        assert mine.stored is None
        other.start()
        time.sleep(1)
        assert told == []
        mine.keep(rows(mine.work(None), "a"))
    other.join(10)
    assert told == ["hit"]
    assert ask(tmp_path, again=("rows",)) == "computed"


def start(out: Path, seconds: float) -> subprocess.Popen:
    return subprocess.Popen(
        command("ask_slowly", out, seconds),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def computing(out: Path) -> None:
    deadline = time.monotonic() + 60
    while not (out / "computed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_five_that_ask_at_once_one_computes_and_the_others_take_its_result(tmp_path):
    runs = [start(tmp_path, 2) for _ in range(5)]
    told = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0] * 5, told
    assert sorted(out.strip() for out, _ in told) == ["computed", *["hit"] * 4]
    assert len((tmp_path / "computed").read_text().split()) == 1
    # who waited says it once
    for out, err in told:
        assert err.count("waiting for another run") <= (out.strip() == "hit"), err
    assert list((tmp_path / "scratch").iterdir()) == []


def test_when_the_first_is_killed_the_second_takes_over(tmp_path):
    first = start(tmp_path, 60)
    computing(tmp_path)
    second = start(tmp_path, 0)
    assert any("waiting for another run" in line for line in iter(second.stderr.readline, ""))
    first.send_signal(signal.SIGKILL)
    out, _ = second.communicate(timeout=60)
    assert out.strip() == "computed"
    first.communicate()


def test_who_waits_can_be_interrupted(tmp_path):
    first = start(tmp_path, 60)
    computing(tmp_path)
    second = start(tmp_path, 0)
    assert any("waiting for another run" in line for line in iter(second.stderr.readline, ""))
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=10)
    assert second.returncode == -signal.SIGINT
    first.kill()
    first.communicate()


@pytest.mark.slow
def test_two_flow_runs_compute_a_stage_once_and_prefect_shows_the_other_as_cached(server, tmp_path):
    code = "import sys; from tests.programs.flow_of_five_seconds import train_once; train_once(sys.argv[2])"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), run],
            env=environment(PREFECT_API_URL=server),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for run in ("x-1-1", "x-1-2")
    ]
    told = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    assert (tmp_path / "computed").read_text() == "once\n"
    request = urllib.request.Request(f"{server}/task_runs/filter", b"{}", {"Content-Type": "application/json"})
    states, deadline = [], time.monotonic() + 60
    # the server learns of them by events, a moment later
    while sorted(states) != ["Cached", "Completed"]:
        assert time.monotonic() < deadline, states
        time.sleep(0.5)
        states = [
            run["state"]["name"]
            for run in json.loads(urllib.request.urlopen(request, timeout=30).read())
            if run["name"] == "train/slow"
        ]
