"""The tune stage records every trial as a row, and continues a search that was cut off."""

import polars

from tasks.caching.work import Work
from tasks.records import Choice, Range, Tune
from tasks.train import train
from tests.support.digits import digits
from tests.support.trainings import LENET, QUICK

SPACE = {"learning_rate": Range(low=0.01, high=0.2, log=True), "label_smoothing": Choice(values=(0.0, 0.1))}


def test_a_search_that_was_cut_off_continues_with_the_next_trial_and_records_all(tmp_path):
    from tasks.tune import search

    work = Work.at(tmp_path)
    data = digits(work)
    first_rows, _ = search(work, LENET, data, QUICK, Tune(trials=2, epochs=2, space=SPACE))
    rows, epochs = search(work, LENET, data, QUICK, Tune(trials=4, epochs=2, space=SPACE))
    assert [row["trial"] for row in rows] == [0, 1, 2, 3]
    # The finished trials are not run again.
    assert rows[:2] == first_rows
    assert rows[0]["adjusted"] == "{}"
    assert all("learning_rate" in row["adjusted"] for row in rows[1:])
    assert rows[-1]["best_so_far"] == max(row["score"] for row in rows)
    uninterrupted_rows, _ = search(Work.at(tmp_path), LENET, data, QUICK, Tune(trials=4, epochs=2, space=SPACE))
    # A search that was not cut off makes the same trials.
    assert [r["adjusted"] for r in uninterrupted_rows] == [r["adjusted"] for r in rows]
    assert epochs


def test_a_trial_that_diverges_is_recorded_as_failed_and_the_search_ends_normally(tmp_path):
    from tasks.tune import tune

    work = Work.at(tmp_path)
    data = digits(work)
    trained = train(work, LENET, data, QUICK, False)
    space = {"learning_rate": Choice(values=(1e3,)), "schedule": Choice(values=("constant",))}
    tuned = tune(work, LENET, data, trained, Tune(trials=2, epochs=2, space=space), True)
    rows = polars.read_parquet(work.store.get(tuned.tables["trials"]))
    assert rows["status"].to_list() == ["ok", "failed"]
    assert "epoch" in rows["error"][1]
