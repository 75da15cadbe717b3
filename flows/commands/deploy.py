"""`burnish deploy`: write a run's winner as a bundle, which is used, verified and served without burnish."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.bundle.source import source_of
from flows.bundle.write import SERVED, SUMS, write
from flows.runs.choice import chosen_run
from flows.runs.damage import anew, check
from flows.settings import Mistake, load
from tasks import tables
from tasks.machine.files import replace
from tasks.machine.space import watched
from tasks.tables.figures import exact_points, sig, words
from tasks.tables.goals import BEST, cost, over_limit, written
from tasks.tables.rule import EPS, accurate

if TYPE_CHECKING:
    import argparse

    from tasks.records import Study

Row = dict[str, Any]


def main(arguments: argparse.Namespace) -> None:
    """Write the folder `arguments.to`, as a whole or not at all, and print what it serves and how it is started."""
    out, target = Path(arguments.out), Path(arguments.to)
    run = chosen_run(out, arguments.run, "result.json")
    if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or _is_bundle(target))):
        raise Mistake(f"--to {target}: exists, and is no folder that `burnish deploy` wrote; name a new one")
    tables_read = ("summary", "variants", "benchmarks", "predictions", "datasets", "preparations", "environments")
    check(out, run, tables_read)
    row, notes = choose(out, run, arguments.variant)
    for note in (*notes, *_replaced(target, row)):
        print(note)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".deploy-") as scratch:
        folder = Path(scratch) / "new"
        folder.mkdir()
        with watched(target, option="--to"), anew(out, run):
            notes = write(source_of(out, run, row), folder, folded=arguments.folded)
            folder.chmod(0o755)
            replace(folder, target.absolute())
    for note in notes:
        print(note)
    place = shlex.quote(str(target))
    print(
        f"{words(row)} of {run}: {target}\n"
        f"verify it on any machine with: python {place}/verify.py; use it as {target}/README.md says\n"
        f"start it with: cd {place} && pip install -r requirements.txt && python app.py; as an image: docker "
        f"build {place}; see {target}/app.py"
    )


def _is_bundle(folder: Path) -> bool:
    """Return whether `burnish deploy` wrote a folder, which may be damaged since."""
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return (folder / "model.json").is_file() and any(line.endswith("  model.json") for line in lines)


def _replaced(target: Path, row: Row) -> list[str]:
    """Return a note where the target is the bundle of another variant."""
    try:
        before = json.loads((target / "model.json").read_text())["variant"]
    except (OSError, ValueError, KeyError, TypeError):
        # It does not exist, or is too damaged to say what it was.
        return []
    return [] if before == row["variant"] else [f"note: {target} was the bundle of {before}, which this one replaces"]


def choose(out: Path, run: str, variant: str | None) -> tuple[Row, list[str]]:
    """Choose the row of the summary to deploy: the named variant, the winner, or the fastest that can be served.

    The server answers one image per query, so the row is the one for batch size 1 where that was measured.

    Returns
    -------
    tuple
        The row, and notes for the user.

    Raises
    ------
    Mistake
        If the run has no winner and no variant is named, or the chosen variant cannot be served without burnish.
    """
    rows = tables.read(out, "summary", run).collect().to_dicts()
    select = _study(out, run).select
    winner = next((row for row in rows if row["role"] == "winner"), None)
    batch = winner["batch_size"] if winner else min(row["batch_size"] for row in rows)
    servable = sorted(
        (row for row in rows if _is_servable(row) and row["batch_size"] == batch),
        key=lambda row: (cost(row, select.by), row["latency_median_ms"]),
    )
    accepted = ", ".join(dict.fromkeys(row["variant"] for row in servable)) or "none of this run"
    rule = f"only files measured on cpu in {', '.join(SERVED)} can be served alone; accepted: {accepted}"
    if variant is not None:
        named = next((row for row in servable if row["variant"] == variant), None)
        if named is None:
            raise Mistake(f"--variant {variant}: {_why_not_servable(out, run, rows, variant)}; {rule}")
        row, notes = _at_batch_size_1(rows, named)
        return row, [*_doubts(row, winner, _study(out, run)), *notes]
    if winner is None:
        provisional = next((row for row in rows if row["role"] == "provisional"), None)
        best = f"its provisional best is {words(provisional)}; " if provisional else ""
        raise Mistake(
            f"run {run} has no winner, so there is nothing to deploy by itself; {best}its report says why, and "
            f"--variant NAME deploys a form of your choice; {rule}"
        )
    if winner in servable:
        return _at_batch_size_1(rows, winner)
    refused = f"the winner, {words(winner)}, cannot be served alone"
    eligible = [row for row in servable if row["eligible"]]
    if not eligible:
        raise Mistake(f"{refused}, nor any form that is accurate enough; {rule} (--variant NAME)")
    row, notes = _at_batch_size_1(rows, eligible[0])
    return row, [f"{refused}; deployed instead, the {BEST[select.by]} that can: {words(eligible[0])}", *notes]


def _is_servable(row: Row) -> bool:
    """Return whether a row was measured as the server runs it: on a CPU, in a runtime that needs no burnish."""
    return row["status"] == "ok" and row["runtime"] in SERVED and row["device"] == "cpu"


def _why_not_servable(out: Path, run: str, rows: list[Row], variant: str) -> str:
    """Return why the variant that the user named cannot be deployed."""
    if any(row["variant"] == variant for row in rows):
        return "cannot be served"
    variants = set(tables.read(out, "variants", run).select("name").collect()["name"])
    return "was made, but not measured" if variant in variants else f"is no variant of {run}"


def _study(out: Path, run: str) -> Study:
    """Return the study that a run executed."""
    return load(str(out / "runs" / run / "study.toml"), [])


def _doubts(row: Row, winner: Row | None, study: Study) -> list[str]:
    """Return in one note why the row that the user named is not the winner; no note if it is the winner."""
    if row["role"] == "winner":
        return []
    reasons = []
    if row["conditions"]:
        reasons.append(f"it was measured under bad conditions ({row['conditions']}), so that its figures may be wrong")
    allowed = study.select.max_drop
    if row["drop"] is None:
        reasons.append("how much accuracy it loses is not known")
    elif row["drop"] > allowed + EPS:
        reasons.append(f"it loses {row['drop']:.3f} of the reference's accuracy, where the study allows {allowed:g}")
    elif not accurate(row, study):
        reasons.append(f"it is not {study.select.confidence} to lose at most {exact_points(allowed)}")
    reasons += [f"it is over a limit: {limit}" for limit in over_limit(row, study.select)]
    about_winner = "there is none"
    if winner is not None:
        about_winner = f"that is {words(winner)}, at {written(winner, study.select.by)}"
        if not reasons:
            reasons.append(f"it {'takes' if study.select.by == 'latency' else 'has'} {written(row, study.select.by)}")
    return ["; ".join([f"note: {words(row)}, is not the run's winner ({about_winner})", *reasons])]


def _at_batch_size_1(rows: list[Row], row: Row) -> tuple[Row, list[str]]:
    """Return the same candidate's row for batch size 1, and a note where the row was chosen at another batch size."""
    if row["batch_size"] == 1:
        return row, []
    note = f"it was chosen at batch size {row['batch_size']}, the server answers one image per query"
    for single in rows:
        same = all(single[key] == row[key] for key in ("variant", "runtime", "device"))
        if same and single["batch_size"] == 1 and single["status"] == "ok":
            return single, [f"{note}: {sig(single['latency_median_ms'])} ms, measured"]
    return row, [f"{note}, which this run did not measure"]
