"""Stored results: a damaged one is reported, removed and computed again; one run at a time computes a key."""

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
    """Return the content of the file that `burnish why` reads for the stage."""
    return json.loads((out / "runs" / "study-20260101-000000" / "why" / "rows-a.json").read_text())


def test_a_stored_result_is_used_until_the_key_differs_or_the_stage_is_asked_for_again(tmp_path):
    assert [ask(tmp_path), ask(tmp_path), ask(tmp_path, "b"), ask(tmp_path)] == ["computed", "hit", "computed", "hit"]
    assert ask(tmp_path, again=("rows",)) == "computed"
    assert why(tmp_path)["differs"] == ["asked for again"]
    # Neither a scratch folder nor a lock remains.
    assert list((tmp_path / "scratch").iterdir()) == []


def _give_wrong_type(path: Path) -> None:
    content = json.loads(path.read_text())
    content["result"]["tables"]["trials"]["size_bytes"] = "many"
    path.write_text(json.dumps(content))


def _flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    (path / "inner").mkdir(parents=True)


def _replace_by_symlink_to_itself(path: Path) -> None:
    path.unlink()
    # Reading it fails with "too many levels of symbolic links".
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
    "flipped": _flip_bit,
    "folder": _replace_by_folder,
    "loop": _replace_by_symlink_to_itself,
}


@pytest.mark.parametrize("damage", [*DAMAGE, "retyped"])
def test_a_damaged_result_is_reported_removed_and_computed_again_once(tmp_path, caplog, damage):
    assert ask(tmp_path) == "computed"
    (result,) = (tmp_path / "store" / "results").iterdir()
    (DAMAGE | {"retyped": _give_wrong_type})[damage](result)
    with caplog.at_level("INFO", "burnish"):
        assert ask(tmp_path) == "computed"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"stored result {result.name} is not readable: " in warnings[0]
    assert why(tmp_path)["differs"][0] in warnings[0]
    assert ask(tmp_path) == "hit"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_of_the_last_run_is_reported_and_removed_and_the_result_is_used(tmp_path, caplog, damage):
    assert ask(tmp_path) == "computed"
    (last,) = (tmp_path / "store" / "last").glob("*/*.json")
    DAMAGE[damage](last)
    with caplog.at_level("INFO", "burnish"):
        assert ask(tmp_path) == "hit"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"{last} was removed, because it is not readable: " in warnings[0]
    assert why(tmp_path)["differs"][0] in warnings[0]
    assert ask(tmp_path) == "hit"
    assert why(tmp_path)["differs"] == []


def test_a_stored_file_that_is_gone_or_is_a_folder_has_its_stage_computed_again(tmp_path):
    ask(tmp_path)
    (stored,) = (tmp_path / "store").glob("??/*.bin")
    for damage in (Path.unlink, _replace_by_folder):
        damage(stored)
        assert ask(tmp_path) == "computed"
        assert why(tmp_path)["differs"] == [f"stored file gone or changed: {stored.parent.name}/{stored.name}"]
        assert stored.read_bytes() == b"a"
        assert ask(tmp_path) == "hit"


def test_an_error_while_the_key_is_made_ends_the_stage(tmp_path):
    def broken(inputs):
        raise ZeroDivisionError("no fingerprint")

    context = Context(out=str(tmp_path), run="study-20260101-000000")
    stage = Stage(rows, lambda inputs: "rows/a", (), None, broken)
    with pytest.raises(ZeroDivisionError, match="no fingerprint"), open_request(stage, context, {"name": "a"}):
        pass


def test_a_results_folder_that_is_a_file_ends_the_stage_and_leaves_no_scratch_folder(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "results").write_text("a file where the folder belongs")
    context = Context(out=str(tmp_path), run="study-20260101-000000")
    with pytest.raises(NotADirectoryError), open_request(STAGE, context, {"name": "a"}) as request:
        request.keep(rows(request.work(None), "a"))
    assert list((tmp_path / "scratch").glob("*/")) == []


def test_records_that_are_written_and_read_are_equal(tmp_path):
    results = Results(tmp_path)
    variant = Variant(name="a/b", model="a", stage="train", format="onnx", status="failed", error="größer als ½ \ud83d")
    for key, record in enumerate((variant, Forms(variants=(variant,)), Output())):
        results.write(str(key), record)
        assert results.read(str(key)) == record
    with pytest.raises(Damaged):
        (results.folder / "3").write_text(json.dumps({"record": "Path", "sha256": "", "result": {}}))
        results.read("3")
    assert results.read("4") is None


def test_two_runs_that_ask_for_a_stage_again_at_once_compute_it_once(tmp_path):
    ask(tmp_path)
    context = Context.model_construct(out=str(tmp_path), run="study-20260101-000000", again=("rows",))
    outcomes = []
    second_run = threading.Thread(target=lambda: outcomes.append(ask(tmp_path, again=("rows",))))
    with open_request(STAGE, context, {"context": context, "name": "a"}) as request:
        assert request.stored is None
        second_run.start()
        time.sleep(1)
        assert outcomes == []
        request.keep(rows(request.work(None), "a"))
    second_run.join(10)
    assert outcomes == ["hit"]
    assert ask(tmp_path, again=("rows",)) == "computed"


def start_run(out: Path, seconds: float) -> subprocess.Popen:
    """Start a process that asks for the stage, whose computation takes so many seconds."""
    return subprocess.Popen(
        command("ask_slowly", out, seconds),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def wait_until_computing(out: Path) -> None:
    """Wait until a process of `start_run` has begun to compute the stage."""
    deadline = time.monotonic() + 60
    while not (out / "computed").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_when_five_runs_ask_for_a_stage_at_once_one_computes_it_and_the_others_use_its_result(tmp_path):
    runs = [start_run(tmp_path, 2) for _ in range(5)]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0] * 5, outputs
    assert sorted(out.strip() for out, _ in outputs) == ["computed", *["hit"] * 4]
    assert len((tmp_path / "computed").read_text().split()) == 1
    # A run that waited reports that once.
    for out, errors in outputs:
        assert errors.count("waiting for another run") <= (out.strip() == "hit"), errors
    assert list((tmp_path / "scratch").iterdir()) == []


def test_when_the_run_that_computes_is_killed_the_waiting_run_computes(tmp_path):
    first = start_run(tmp_path, 60)
    wait_until_computing(tmp_path)
    second = start_run(tmp_path, 0)
    assert any("waiting for another run" in line for line in iter(second.stderr.readline, ""))
    first.send_signal(signal.SIGKILL)
    out, _ = second.communicate(timeout=60)
    assert out.strip() == "computed"
    first.communicate()


def test_a_run_that_waits_for_another_can_be_interrupted(tmp_path):
    first = start_run(tmp_path, 60)
    wait_until_computing(tmp_path)
    second = start_run(tmp_path, 0)
    assert any("waiting for another run" in line for line in iter(second.stderr.readline, ""))
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=10)
    assert second.returncode == -signal.SIGINT
    first.kill()
    first.communicate()


@pytest.mark.slow
def test_two_flow_runs_at_once_compute_a_stage_once_and_prefect_shows_the_second_as_cached(server, tmp_path):
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
    outputs = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    assert (tmp_path / "computed").read_text() == "once\n"
    request = urllib.request.Request(f"{server}/task_runs/filter", b"{}", {"Content-Type": "application/json"})
    states, deadline = [], time.monotonic() + 60
    # The server learns of the states by events, which arrive a moment later.
    while sorted(states) != ["Cached", "Completed"]:
        assert time.monotonic() < deadline, states
        time.sleep(0.5)
        states = [
            run["state"]["name"]
            for run in json.loads(urllib.request.urlopen(request, timeout=30).read())
            if run["name"] == "train/slow"
        ]
