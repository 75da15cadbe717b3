"""Every command says why a run has no results (still going, failed, or interrupted) and how to continue it."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from flows.cli import main
from flows.runs.unfinished import FAILED, GOING, under_way
from flows.settings import load, to_toml
from tasks.machine.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

OLD, RUN = "quickstart-20260101-000000", "quickstart-20260102-000000"
MESSAGES = {
    "going": "run {run} is still going, so it has no results yet",
    "failed": "run {run} failed, so it has no results: train.epochs: no; once that is mended, this goes on where "
    "it stopped: "
    "{command}",
    "crashed": "run {run} failed, so it has no results: KeyError: 'left'; once that is mended, this goes on "
    "where it stopped:"
    " {command}",
    "interrupted": "run {run} was interrupted, so it has no results yet; this goes on where it stopped: {command}",
}
ENDS = {"failed": ValueError("train.epochs: no"), "crashed": KeyError("left"), "interrupted": KeyboardInterrupt()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An artifacts folder with one run, of which there is nothing but the study."""
    write_text(tmp_path / "runs" / RUN / "study.toml", to_toml(load("quickstart", [])))
    return tmp_path


@pytest.mark.parametrize("state", MESSAGES)
def test_each_command_says_why_a_run_has_no_results_and_the_report_links_no_missing_file(
    out: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = out / "runs" / RUN
    message = MESSAGES[state].format(run=RUN, command=f"burnish run {folder / 'study.toml'} --out {out}")
    with ExitStack() as stack:
        if state == "going":
            stack.enter_context(under_way(folder))
        else:
            with suppress(ValueError, KeyError, KeyboardInterrupt), under_way(folder):
                raise ENDS[state]
        assert (folder / GOING).exists() == (state == "going")
        assert (folder / FAILED).exists() == (state in ("failed", "crashed"))
        for command in (
            ["deploy", "--to", str(out / "to")],
            ["deploy", RUN, "--to", str(out / "to")],
            ["profile"],
            ["profile", "--run", RUN],
            ["profile", "lenet5/train"],
        ):
            assert main([*command, "--out", str(out)]) == 2
            assert capsys.readouterr().err == f"burnish: {message}\n"
        assert main(["report", "--out", str(out)]) == 0
        assert capsys.readouterr() == (f"{folder / 'report.html'}\n", f"burnish: {message}\n")
    page = (folder / "report.html").read_text()
    assert "Not finished:" in page
    assert f"run {RUN} " in page
    assert "Not published" not in page
    assert "visited in turn" not in page, "nothing was measured yet"
    assert not re.findall(r'href="[^#][^"]*"', page)
    assert main(["why", "--out", str(out)]) == 0


def test_deploy_prefers_an_older_run_with_results_to_a_newer_run_without(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("study.toml", "result.json"):
        write_text(out / "runs" / OLD / name, "{}")
    assert main(["deploy", RUN, "--to", str(out / "to"), "--out", str(out)]) == 2
    assert f"run {RUN} was interrupted" in capsys.readouterr().err
    assert main(["deploy", "nothing", "--to", str(out / "to"), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"burnish: no run 'nothing' in {out / 'runs'}; there is {OLD}\n"
    main(["deploy", "--to", str(out / "to"), "--out", str(out)])
    assert OLD in capsys.readouterr().err, "the older run is the one that is read"
