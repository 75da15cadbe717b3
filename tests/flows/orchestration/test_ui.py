"""What a person sees of a run: in a terminal, and in Prefect's UI (its form: test_form.py)."""

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
        *(f"--set={s}" for s in SHORT),
        width=80,
        environment={**os.environ, "PREFECT_API_URL": server},
    )


def counted(seen):
    """(Stages done, of all, time left or None) of every look at the screen that showed them, and what stood below."""
    found = []
    for lines in seen:
        here = [(STAGES.match(line), lines[n + 1 :]) for n, line in enumerate(lines) if "stages done" in line]
        assert len(here) <= 1, f"a line stood twice: {lines}"
        for match, below in here:
            assert match, lines
            found.append((int(match[1]), int(match[2]), match[3], below))
    return found


def test_a_terminal_shows_stages_done_of_all_and_how_far_the_stage_at_work_is(watched):
    assert watched.code == 0, watched.end[-20:]
    found = counted(watched.seen)
    assert {total for _, total, _, _ in found} == {5}, "prepare, train, export, benchmark, aggregate"
    assert [done for done, _, _, _ in found] == sorted(done for done, _, _, _ in found)
    assert {done for done, _, _, _ in found} >= {0, 1, 3, 4}
    measuring = [below for done, _, _, below in found if done == 3 and below and "%" in below[0]]
    assert measuring, "the benchmark says how far it is"
    assert all(re.match(r"benchmark  ━+  \d+%", below[0]) for below in measuring)
    shares = [int(re.search(r"(\d+)%", below[0])[1]) for below in measuring]
    assert shares == sorted(shares) and len(set(shares)) > 3
    assert any(
        re.match(r"  round \d of 2, batch 1 \(\d of 4 visits\): 2 candidates in turns", below[1]) for below in measuring
    )
    # Training may end between two looks at the screen; the export, of some seconds, does not.
    assert any(below[0].startswith("export/lenet5/train") for _, _, _, below in found if below)
    assert all(left is None for done, _, left, _ in found if done < 4), (
        "a first run cannot know it before its last stage"
    )


def test_nothing_of_the_bars_is_left_and_lines_say_what_was_done(watched):
    end = "\n".join(watched.end)
    assert "stages done" not in end
    assert "━" not in end.partition("variant")[0]
    told = re.findall(r"^\d\d:\d\d:\d\d (\d of 5 stages: \S+ done) in [\d.]+ s$", end, re.M)
    assert told == [
        f"{n} of 5 stages: {name} done"
        for n, name in enumerate(("prepare", "train/lenet5", "export/lenet5/train", "benchmark", "aggregate"), 1)
    ]
    assert all(len(line) <= 80 for line in watched.end)


def test_with_the_last_runs_times_a_terminal_of_60_columns_shows_the_time_left(server, out, watched):
    again = watch(
        "run",
        "quickstart",
        "--out",
        str(out),
        "--again",
        "benchmark",
        *(f"--set={s}" for s in SHORT),
        width=60,
        environment={**os.environ, "PREFECT_API_URL": server},
    )
    assert again.code == 0, again.end[-20:]
    found = counted(again.seen)
    assert {total for _, total, _, _ in found} == {5}
    assert all(left is None for done, _, left, _ in found if done < 3), "before anything is computed, all may be cached"
    assert any(left for done, _, left, _ in found if done == 3)
    end = "\n".join(again.end)
    assert [n for n in range(1, 4) if re.search(rf"{n} of 5 stages: \S+ cached", end)] == [1, 2, 3]
    assert "5 of 5 stages: aggregate" in end


def newest_run(out):
    # the one that was watched
    return sorted((out / "runs").iterdir())[0]


def artifacts_of(server, run):
    """Key -> artifact of a run."""
    found = api(server, "artifacts/filter", {"artifacts": {"key": {"exists_": True}}, "limit": 200})
    return {a["key"]: a for a in found if run.name in (a["description"] or "")}


def number(text: str) -> float:
    """A figure as it is shown: on a busy machine it may be over a thousand, which has a thin space in it."""
    return float(text.replace("\u202f", ""))


def test_the_summary_in_prefect_is_rounded_and_says_conditions_and_speed_up(server, out, watched):
    run = newest_run(out)
    rows = json.loads(artifacts_of(server, run)["summary"]["data"])
    summary = {(r["variant"], r["runtime"]): r for r in tables.read(out, "summary", run.name).collect().to_dicts()}
    assert len(rows) == len(summary) == 2
    for row in rows:
        true = summary[row["variant"], row["runtime"]]
        assert number(row["median, ms"]) == pytest.approx(true["latency_median_ms"], rel=0.005)
        assert float(row["top-1, share"]) == pytest.approx(true["top1"], abs=0.0005)
        assert row["status"] == (MARKED if true["conditions"] else "ok")
        assert row["conditions"] == (true["conditions"] or "good")
        # the reference, which may be the winner too
        if (true["speedup_low"], true["speedup_high"]) != (1.0, 1.0):
            times, interval = re.fullmatch(r"([^(]+) \((.+)\)", row["speed-up"]).groups()
            if re.fullmatch(r"[^ ]+–[^ ]+", interval):
                assert number(times) == pytest.approx(true["speedup"], rel=0.005)
            else:
                assert (times, interval) in {("–", "rounds differ too much"), ("–", "one round")}
        assert not re.search(r"\d\.\d{5}", json.dumps({k: v for k, v in row.items() if k != "conditions"}))


def test_the_report_in_prefect_has_winner_table_charts_and_the_files_path(server, out, watched):
    run = newest_run(out)
    found = artifacts_of(server, run)
    result = json.loads((run / "result.json").read_text())
    for key in ("report", "winner"):
        assert found[key]["type"] == "markdown"
        text = re.sub(r"\\(.)", r"\1", found[key]["data"])
        assert result["reason"] in text
        assert result["winner"] is None or f"**Winner: {result['winner']}**" in text
    text = found["report"]["data"]
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
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "readable in a dark page"
        assert len(image.convert("RGB").getcolors(1 << 20)) > 8, "something is drawn"
    assert len(text) < 200_000


def test_the_state_of_a_run_says_the_winner_or_that_there_is_none(server, out, watched):
    run = newest_run(out)
    flow_run = api(server, f"flow_runs/{artifacts_of(server, run)['winner']['flow_run_id']}")
    result = json.loads((run / "result.json").read_text())
    assert flow_run["state"]["type"] == "COMPLETED"
    message = flow_run["state"]["message"]
    assert message.startswith(f"{'Winner: ' if result['winner'] else ''}{result['sentences'][0]}")
    assert message == message.splitlines()[0] and len(message) < 400
    assert flow_run["name"] == "quickstart"


def test_the_servers_logs_have_a_line_about_progress_in_ten_seconds_at_most(server, out, watched):
    run = artifacts_of(server, newest_run(out))["winner"]["flow_run_id"]
    told = [(datetime.fromisoformat(entry["timestamp"]), entry["message"]) for entry in log_of(server, run)]
    about = [at for at, text in told if PROGRESS.search(text)]
    assert about
    assert all((after - before).total_seconds() > 9.9 for before, after in pairwise(about))
    files = [file.read_text() for file in (newest_run(out) / "logs").iterdir()]
    assert sum(len(PROGRESS.findall(text)) for text in files) > len(about) + 5, "the stages' own files have all of it"
    ended = [text for _, text in told if re.match(r"\d of 5 stages: ", text)]
    assert len(ended) == 5


@pytest.fixture(scope="module")
def failed(server, tmp_path_factory):
    """Name -> (flow run, its log) of two runs of a deployment that fail: in a stage, and for the values in the form."""
    environment, folder = {**os.environ, "PREFECT_API_URL": server}, tmp_path_factory.mktemp("failed")
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
            while not all(any(e["level"] >= 40 for e in log_of(server, run)) for run in runs.values()):
                assert time.monotonic() < deadline, (folder / "worker.log").read_text()[-3000:]
                time.sleep(1)
            time.sleep(5)
        finally:
            worker.terminate()
            worker.wait(60)
    return {name: (api(server, f"flow_runs/{run}"), log_of(server, run)) for name, run in runs.items()}


def log_of(server, run):
    asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
    return api(server, "logs/filter", asked)


def test_a_run_keeps_the_name_that_a_person_gave_it(failed):
    assert {flow_run["name"] for flow_run, _ in failed.values()} == set(failed)


def test_a_run_that_fails_says_why_in_its_state_and_once_in_its_log_with_one_traceback(failed):
    flow_run, log = failed["Tuesday's attempt"]
    why = "Diverged: lenet5/train: the loss is (nan|inf) at epoch 1"
    assert re.match(f"no variant to measure: lenet5/train: {why}", flow_run["state"]["message"])
    errors = [entry["message"] for entry in log if entry["level"] >= 40]
    assert len(errors) == 3, errors
    assert re.match(f"2 of 4 stages: train/lenet5 failed: {why}", errors[0])
    assert errors[1].startswith("Finished in state Failed('no variant to measure: lenet5/train")
    assert errors[2].startswith("This is where the run failed:\nTraceback")
    assert "tasks/training/loop.py" in errors[2], "the stage's own traceback"
    assert "/prefect/" not in errors[2] and "tasks/caching/stage.py" in errors[2]
    assert sum("Traceback" in entry["message"] for entry in log) == 1
    assert "\n" not in errors[0] + errors[1]


def test_values_that_cannot_go_together_are_refused_in_one_line(failed):
    flow_run, log = failed["no reference"]
    why = "benchmark.runtimes: must contain 'eager', which the reference is measured with, or 'auto'"
    assert why in flow_run["state"]["message"]
    assert [entry["message"] for entry in log if entry["level"] >= 40] == [f"refused: study: {why}"]


def test_an_empty_folder_in_the_form_is_refused_in_one_line(failed):
    flow_run, _ = failed["no folder"]
    assert flow_run["state"]["message"] == "out: an empty text is no folder; name one"
    assert not {"runs", "store", "tables"} & {path.name for path in ROOT.iterdir()}
