"""Tune: Optuna over a declared space; the best trial's settings are retrained on all images."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.records import Model, Prepared, Range, Train, Trained, Tune
from tasks.tables.variants import variant_row
from tasks.training.fit import Diverged, fit
from tasks.training.journal import Journal
from tasks.training.state import Training
from tasks.training.weights import LIBRARIES, family, fresh, images_seen, pretrained, train_seeds, weights

if TYPE_CHECKING:
    import optuna

    from tasks.caching.work import Work


def _suggest(trial: optuna.Trial, space: dict[str, Any]) -> dict[str, Any]:
    values = {}
    for name, over in space.items():
        if not isinstance(over, Range):
            values[name] = trial.suggest_categorical(name, over.values)
        elif isinstance(Train.model_fields[name].default, int):
            values[name] = trial.suggest_int(name, int(over.low), int(over.high), log=over.log)
        else:
            values[name] = trial.suggest_float(name, over.low, over.high, log=over.log)
    return values


def search(
    work: Work, model: Model, data: Prepared, base: Train, settings: Tune
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Run the trials that are not yet done; returns the rows of `trials` and of `epochs`.

    Trial 0 is the study's own settings. The sampler (TPE, Bergstra et al. 2011) is seeded by (seed, trial), so that a
    search that was cut off goes on as if it had not been.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = Journal(work.scratch / "trials.log", work.log)
    study = optuna.create_study(
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        storage=optuna.storages.JournalStorage(journal),  # type: ignore[arg-type]  # two methods are all that it calls
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
    )
    short = base.model_copy(
        update={
            "epochs": settings.epochs,
            "patience": settings.epochs,
            "train_limit": settings.train_limit,
            "seeds": base.seeds[:1],
        }
    )
    for cut in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(cut.number, state=optuna.trial.TrialState.FAIL)
    for number in range(len(_outcomes(study)), settings.trials):
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed * 1009 + number, n_startup_trials=4)
        if number == 0 and not study.get_trials(states=[optuna.trial.TrialState.WAITING]):
            study.enqueue_trial({name: getattr(base, name) for name in settings.space})
        trial = study.ask()
        values = {} if number == 0 else _suggest(trial, settings.space)
        part = work.part(number / settings.trials, (number + 1) / settings.trials)
        outcome, told = _trial(part, model, data, short.model_copy(update=values), trial, number)
        rows = [each["row"] for each in (*_outcomes(study), outcome)]
        scores = [row["score"] for row in rows if row["score"] is not None]
        outcome["row"] |= {
            "model": model.label,
            "trial": number,
            "adjusted": json.dumps(values),
            "best_so_far": max(scores, default=None),
        }
        # before the trial ends: a finished one cannot be written to
        trial.set_user_attr("outcome", outcome)
        study.tell(trial, **told)
        score = f"validation F1 {_percent(outcome['row']['score'])} of {data.validation_rows} images"
        work.progress(
            number + 1,
            settings.trials,
            f"{model.label}/tune trial {number + 1}/{settings.trials}: "
            f"{_in_words(values)}: {score}"
            f"{' (stopped early)' if outcome['row']['stopped_early'] else ''}",
        )
    outcomes = _outcomes(study)
    return [each["row"] for each in outcomes], [row for each in outcomes for row in each["epochs"]]


def _outcomes(study: optuna.Study) -> list[dict[str, Any]]:
    """Row and curves of each trial that ended, in order. One that was cut off before Optuna was told of its end does
    not count: Optuna has it as failed, and would not learn from it.
    """
    from optuna.trial import TrialState

    outcomes = []
    for trial in study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]):
        outcome = trial.user_attrs.get("outcome")
        if outcome and (trial.state != TrialState.FAIL or outcome["row"]["status"] == "failed"):
            outcomes.append(outcome)
    return sorted(outcomes, key=lambda outcome: outcome["row"]["trial"])


def _in_words(values: dict[str, Any]) -> str:
    """What a trial adjusted, for a log line."""
    told = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
    return ", ".join(told) or "as given"


def _percent(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"


def _trial(
    work: Work, model: Model, data: Prepared, settings: Train, trial: optuna.Trial, number: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One trial: its row and curves, and what to tell Optuna of it."""
    import optuna

    scores: list[float] = []

    def report(epoch: int, score: float) -> None:
        scores.append(score)
        trial.report(score, epoch)
        if epoch < settings.epochs and trial.should_prune():
            raise optuna.TrialPruned

    network, architecture = fresh(model, data, settings.seeds[0])
    row: dict[str, Any] = {"status": "ok", "error": None, "stopped_early": False}
    epochs: list[dict[str, object]] = []
    started = time.perf_counter()
    variant = f"{model.label}/tune/trial-{number}"
    try:
        training = Training(
            work=work,
            architecture=architecture,
            data=data,
            settings=settings,
            model_label=model.label,
            variant=variant,
            stage="tune",
        )
        fitted = fit(training, network, on_epoch=report)
        epochs = fitted.epochs
        told: dict[str, Any] = {"values": fitted.validation_macro_f1}
    except optuna.TrialPruned:
        row["stopped_early"] = True
        told = {"state": optuna.trial.TrialState.PRUNED}
    except Diverged as error:
        row |= {"status": "failed", "error": str(error)}
        told = {"state": optuna.trial.TrialState.FAIL}
    row |= {"score": max(scores, default=None), "epochs": len(scores), "seconds": time.perf_counter() - started}
    return {"row": row, "epochs": epochs}, told


def _share_of_search(data: Prepared, train: Train, settings: Tune) -> float:
    """The share of the stage that its trials take, the rest is the training with the best settings, by images seen."""
    trial = train.model_copy(update={"epochs": settings.epochs, "train_limit": settings.train_limit, "seeds": (0,)})
    search = settings.trials * images_seen(data, trial)
    return search / (search + images_seen(data, train))


def tune(work: Work, model: Model, data: Prepared, trained: Trained, settings: Tune, final: bool) -> Trained:
    """Search `settings.space` around the settings of `trained` and retrain the best.

    The weights that are better on validation go on: the retrained ones, or those the search started from.
    """
    # what is trained has validation images
    assert trained.validation_macro_f1 is not None
    searched = _share_of_search(data, trained.train, settings)
    trials, epochs = search(work.part(0, searched), model, data, trained.train, settings)
    best = max((t for t in trials if t["score"] is not None), key=lambda t: t["score"], default=None)  # type: ignore[arg-type,return-value]
    if best is None:
        raise RuntimeError(f"{model.label}: every one of {len(trials)} trials failed: {trials[-1]['error']}")
    name, tables = f"{model.label}/tune", {"trials": work.rows("trials", trials)}
    rows: list[dict[str, object]] = []
    result = trained
    # the study's own settings would train to the same weights again
    if best["trial"] != 0:
        found = trained.train.model_copy(update=json.loads(str(best["adjusted"])))
        seeded = train_seeds(work.part(searched, 1), model, data, found, name, "tune")
        fitted = seeded.fitted
        epochs += seeded.epochs
        tuned = weights(
            model,
            data,
            name,
            "tune",
            fitted.artifact,
            parent=trained.variant.name,
            setting=f"trial {best['trial']}, seed {seeded.seed}",
        )
        if fitted.validation_macro_f1 >= trained.validation_macro_f1:
            tuned = tuned.model_copy(update={"benchmark": final})
            result = Trained(variant=tuned, train=found, validation_macro_f1=fitted.validation_macro_f1)
        rows.append(
            variant_row(
                tuned,
                validation_top1=fitted.validation_top1,
                note=fitted.note,
                validation_macro_f1=fitted.validation_macro_f1,
            )
        )
        tables["evaluations"] = work.rows("evaluations", [seeded.evaluation])
        tables["seeds"] = work.rows("seeds", [seeded.spread])
    # the first weights under a name of this stage, so that the lineage has one end
    if result is trained:
        work.log.info(
            "%s: tuning did not help; going on with the first training (validation F1 %.4f of %d images)",
            name,
            trained.validation_macro_f1,
            data.validation_rows,
        )
        kept = {"name": f"{name}-none", "stage": "tune", "parent": trained.variant.name, "setting": "as given"}
        result = trained.model_copy(update={"variant": trained.variant.model_copy(update={**kept, "benchmark": final})})
        rows.append(variant_row(result.variant, validation_macro_f1=trained.validation_macro_f1))
    tables |= {"epochs": work.rows("epochs", epochs), "variants": work.rows("variants", rows)}
    return result.model_copy(update={"tables": tables})


tune_task = stage(
    lambda inputs: f"tune/{inputs['model'].label}",
    libraries=(*LIBRARIES, "optuna"),
    modules=family,
    extra=pretrained,
)(tune)
