"""What a person sees of a run in a terminal and in Prefect's UI. The form of the UI is tested in test_form.py."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise

import pytest
from PIL import Image

from flows.orchestration.artifacts import MARKED
from flows.settings import load, plain
from tasks import tables
from tests.support.command import SHORT, api
from tests.support.paths import ROOT
from tests.support.screen import watch

pytestmark = pytest.mark.slow
PROGRESS = re.compile(r" of \d+ visits\)| epoch \d+/|decoded \d|checking |fit to be published")
STAGES = re.compile(r"^(\d+) of (\d+) stages done  (?:[━]+  )?\d+:\d\d(, about \d+ \w+ left)?$")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("seen") / "artifacts"


@pytest.fixture(scope="module")
def watched(server, out):
    """The shortest study, run in a terminal of 80 columns."""
    return watch(
        "run",
        "quickstart",
        "--out",
        str(out),
        *(f"--set={setting}" for setting in SHORT),
        width=80,
        environment={**os.environ, "PREFECT_API_URL": server},
    )


def stage_progress(screens):
    """Return (stages done, all stages, time left or None, lines below) for each screen that shows the stages done."""
    progress = []
    for lines in screens:
        matches = [(STAGES.match(line), lines[row + 1 :]) for row, line in enumerate(lines) if "stages done" in line]
        assert len(matches) <= 1, f"the line about stages is there twice: {lines}"
        for match, below in matches:
            assert match, lines
            progress.append((int(match[1]), int(match[2]), match[3], below))
    return progress


def test_a_terminal_shows_how_many_stages_are_done_and_how_far_the_current_one_is(watched):
    assert watched.code == 0, watched.end[-20:]
    progress = stage_progress(watched.seen)
    assert {total for _, total, _, _ in progress} == {5}, "prepare, train, export, benchmark, aggregate"
    assert [done for done, _, _, _ in progress] == sorted(done for done, _, _, _ in progress)
    assert {done for done, _, _, _ in progress} >= {0, 1, 3, 4}
    measuring = [below for done, _, _, below in progress if done == 3 and below and "%" in below[0]]
    assert measuring, "the terminal shows how far the benchmark is"
    assert all(re.match(r"benchmark  ━+  \d+%", below[0]) for below in measuring)
    shares = [int(re.search(r"(\d+)%", below[0])[1]) for below in measuring]
    assert shares == sorted(shares) and len(set(shares)) > 3
    assert any(
        re.match(r"  round \d of 2, batch 1 \(\d of 4 visits\): 2 candidates in turns", below[1]) for below in measuring
    )
    # Training may end between two looks at the screen; the export, of some seconds, does not.
    assert any(below[0].startswith("export/lenet5/train") for _, _, _, below in progress if below)
    assert all(time_left is None for done, _, time_left, _ in progress if done < 4), (
        "a first run cannot know the time left before its last stage"
    )


def test_at_the_end_the_progress_bars_are_gone_and_each_stage_has_a_line(watched):
    end = "\n".join(watched.end)
    assert "stages done" not in end
    assert "━" not in end.partition("variant")[0]
    finished_stages = re.findall(r"^\d\d:\d\d:\d\d (\d of 5 stages: \S+ done) in [\d.]+ s$", end, re.M)
    assert finished_stages == [
        f"{position} of 5 stages: {name} done"
        for position, name in enumerate(("prepare", "train/lenet5", "export/lenet5/train", "benchmark", "aggregate"), 1)
    ]
    assert all(len(line) <= 80 for line in watched.end)


def test_a_second_run_shows_the_time_left_in_a_terminal_of_60_columns(server, out, watched):
    second = watch(
        "run",
        "quickstart",
        "--out",
        str(out),
        "--again",
        "benchmark",
        *(f"--set={setting}" for setting in SHORT),
        width=60,
        environment={**os.environ, "PREFECT_API_URL": server},
    )
    assert second.code == 0, second.end[-20:]
    progress = stage_progress(second.seen)
    assert {total for _, total, _, _ in progress} == {5}
    assert all(time_left is None for done, _, time_left, _ in progress if done < 3), (
        "until a stage is computed, all of them may be cached"
    )
    assert any(time_left for done, _, time_left, _ in progress if done == 3)
    end = "\n".join(second.end)
    assert [position for position in range(1, 4) if re.search(rf"{position} of 5 stages: \S+ cached", end)] == [1, 2, 3]
    assert "5 of 5 stages: aggregate" in end


def watched_run(out):
    """Return the folder of the run that `watched` has seen, which is the first of all."""
    return sorted((out / "runs").iterdir())[0]


def artifacts_of(server, run):
    """Return the artifacts of a run in Prefect, by their keys."""
    artifacts = api(server, "artifacts/filter", {"artifacts": {"key": {"exists_": True}}, "limit": 200})
    return {artifact["key"]: artifact for artifact in artifacts if run.name in (artifact["description"] or "")}


def value_of(text: str) -> float:
    """Return the value of a figure in a table. From a thousand on, as on a busy machine, it holds a thin space."""
    return float(text.replace("\u202f", ""))


def test_the_summary_in_prefect_shows_rounded_figures_conditions_and_speed_up(server, out, watched):
    run = watched_run(out)
    rows = json.loads(artifacts_of(server, run)["summary"]["data"])
    summary = {
        (summary_row["variant"], summary_row["runtime"]): summary_row
        for summary_row in tables.read(out, "summary", run.name).collect().to_dicts()
    }
    assert len(rows) == len(summary) == 2
    for row in rows:
        expected = summary[row["variant"], row["runtime"]]
        assert value_of(row["median, ms"]) == pytest.approx(expected["latency_median_ms"], rel=0.005)
        assert float(row["top-1, share"]) == pytest.approx(expected["top1"], abs=0.0005)
        assert row["status"] == (MARKED if expected["conditions"] else "ok")
        assert row["conditions"] == (expected["conditions"] or "good")
        # A row with the speed-up 1 is the reference, which may be the winner too.
        if (expected["speedup_low"], expected["speedup_high"]) != (1.0, 1.0):
            times, interval = re.fullmatch(r"([^(]+) \((.+)\)", row["speed-up"]).groups()
            if re.fullmatch(r"[^ ]+–[^ ]+", interval):
                assert value_of(times) == pytest.approx(expected["speedup"], rel=0.005)
            else:
                assert (times, interval) in {("–", "rounds differ too much"), ("–", "one round")}
        assert not re.search(
            r"\d\.\d{5}", json.dumps({column: value for column, value in row.items() if column != "conditions"})
        )


def test_the_report_in_prefect_shows_winner_table_charts_and_the_path_of_its_file(server, out, watched):
    run = watched_run(out)
    artifacts = artifacts_of(server, run)
    result = json.loads((run / "result.json").read_text())
    for key in ("report", "winner"):
        assert artifacts[key]["type"] == "markdown"
        text = re.sub(r"\\(.)", r"\1", artifacts[key]["data"])
        assert result["reason"] in text
        assert result["winner"] is None or f"**Winner: {result['winner']}**" in text
    text = artifacts["report"]["data"]
    assert "file://" not in text
    assert f"`{run / 'report.html'}`" in text and (run / "report.html").is_file()
    assert re.search(r"^\| .*variant.*median, ms.*speed-up", text, re.M)
    assert len(re.findall(r"^\| .*lenet5/train", text, re.M)) == 2
    pictures = re.findall(r"!\[(.*?)\]\(data:image/png;base64,(\S+?)\)", text)
    assert [title for title, _ in pictures] == [
        "Accuracy against latency, cpu, batch 1",
        "Latency of single queries, cpu, batch 1",
    ]
    for _, picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        image.load()
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "the picture is readable on a dark page"
        assert len(image.convert("RGB").getcolors(1 << 20)) > 8, "the picture is not empty"
    assert len(text) < 200_000


def test_the_state_of_a_flow_run_names_the_winner_or_says_that_there_is_none(server, out, watched):
    run = watched_run(out)
    flow_run = api(server, f"flow_runs/{artifacts_of(server, run)['winner']['flow_run_id']}")
    result = json.loads((run / "result.json").read_text())
    assert flow_run["state"]["type"] == "COMPLETED"
    message = flow_run["state"]["message"]
    assert message.startswith(f"{'Winner: ' if result['winner'] else ''}{result['sentences'][0]}")
    assert message == message.splitlines()[0] and len(message) < 400
    assert flow_run["name"] == "quickstart"


def test_prefects_logs_have_at_most_one_line_about_progress_per_ten_seconds(server, out, watched):
    run = artifacts_of(server, watched_run(out))["winner"]["flow_run_id"]
    entries = [(datetime.fromisoformat(entry["timestamp"]), entry["message"]) for entry in log_of(server, run)]
    progress_times = [logged_at for logged_at, text in entries if PROGRESS.search(text)]
    assert progress_times
    assert all((after - before).total_seconds() > 9.9 for before, after in pairwise(progress_times))
    files = [file.read_text() for file in (watched_run(out) / "logs").iterdir()]
    assert sum(len(PROGRESS.findall(text)) for text in files) > len(progress_times) + 5, (
        "the stages' own log files have all lines about progress"
    )
    finished_stages = [text for _, text in entries if re.match(r"\d of 5 stages: ", text)]
    assert len(finished_stages) == 5


@pytest.fixture(scope="module")
def failed_runs(server, tmp_path_factory):
    """The flow run and its log, by name, of runs of a deployment that fail: in a stage, or for values in the form."""
    environment = {**os.environ, "PREFECT_API_URL": server}
    folder = tmp_path_factory.mktemp("failed")
    prefect = [sys.executable, "-m", "prefect"]
    subprocess.run(
        [*prefect, "work-pool", "create", "burnish", "--type", "process"],
        env=environment,
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    subprocess.run(
        [*prefect, "--no-prompt", "deploy", "--name", "quickstart"],
        env=environment,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    deployment = api(server, "deployments/name/burnish/quickstart")
    diverges = plain(
        load("quickstart", [*SHORT, "train.learning_rate=1000", "train.schedule='constant'", "train.epochs=1"])
    )
    impossible = plain(load("quickstart", [*SHORT])) | {"benchmark": {"runtimes": ["onnxruntime"]}}
    runs = {
        name: api(
            server,
            f"deployments/{deployment['id']}/create_flow_run",
            {"name": name, "parameters": {"study": study, "out": out}},
        )["id"]
        for name, study, out in (
            ("Tuesday's attempt", diverges, str(folder / "out")),
            ("no reference", impossible, str(folder / "out")),
            ("no folder", plain(load("quickstart", [*SHORT])), ""),
        )
    }
    with (folder / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            [*prefect, "worker", "start", "--pool", "burnish"], env=environment, cwd=ROOT, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 300
            while {api(server, f"flow_runs/{run}")["state_type"] for run in runs.values()} != {"FAILED"}:
                assert time.monotonic() < deadline, (folder / "worker.log").read_text()[-3000:]
                time.sleep(1)
            # Prefect sends logs every two seconds, the last ones when the process ends.
            while not all(any(entry["level"] >= 40 for entry in log_of(server, run)) for run in runs.values()):
                assert time.monotonic() < deadline, (folder / "worker.log").read_text()[-3000:]
                time.sleep(1)
            time.sleep(5)
        finally:
            worker.terminate()
            worker.wait(60)
    return {name: (api(server, f"flow_runs/{run}"), log_of(server, run)) for name, run in runs.items()}


def log_of(server, run):
    """Return the log entries of a flow run, the oldest first."""
    query = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
    return api(server, "logs/filter", query)


def test_a_flow_run_keeps_the_name_that_a_person_gave_it(failed_runs):
    assert {flow_run["name"] for flow_run, _ in failed_runs.values()} == set(failed_runs)


def test_a_failed_run_says_why_in_its_state_and_once_in_its_log_with_one_traceback(failed_runs):
    flow_run, log = failed_runs["Tuesday's attempt"]
    reason = "Diverged: lenet5/train: the loss is (nan|inf) at epoch 1"
    assert re.match(f"no variant to measure: lenet5/train: {reason}", flow_run["state"]["message"])
    errors = [entry["message"] for entry in log if entry["level"] >= 40]
    assert len(errors) == 3, errors
    assert re.match(f"2 of 4 stages: train/lenet5 failed: {reason}", errors[0])
    assert errors[1].startswith("Finished in state Failed('no variant to measure: lenet5/train")
    assert errors[2].startswith("This is where the run failed:\nTraceback")
    assert "tasks/training/loop.py" in errors[2], "the stage's own traceback"
    assert "/prefect/" not in errors[2] and "tasks/caching/stage.py" in errors[2]
    assert sum("Traceback" in entry["message"] for entry in log) == 1
    assert "\n" not in errors[0] + errors[1]


def test_settings_that_cannot_go_together_are_refused_in_one_line(failed_runs):
    flow_run, log = failed_runs["no reference"]
    reason = "benchmark.runtimes: must contain 'eager', which the reference is measured with, or 'auto'"
    assert reason in flow_run["state"]["message"]
    assert [entry["message"] for entry in log if entry["level"] >= 40] == [f"refused: study: {reason}"]


def test_an_empty_text_for_the_folder_in_the_form_is_refused_in_one_line(failed_runs):
    flow_run, _ = failed_runs["no folder"]
    assert flow_run["state"]["message"] == "out: an empty text is no folder; name one"
    assert not {"runs", "store", "tables"} & {path.name for path in ROOT.iterdir()}
