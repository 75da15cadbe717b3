"""Tune: search a space of training settings with Optuna, then train on all images with the best trial's settings."""

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
from tasks.training.weights import (
    LIBRARIES,
    Seeded,
    family,
    fresh,
    images_seen,
    pretrained,
    train_seeds,
    weights_variant,
)

if TYPE_CHECKING:
    import optuna
    from torch import nn

    from tasks.caching.work import Work


def tune(work: Work, model: Model, data: Prepared, trained: Trained, settings: Tune, final: bool) -> Trained:
    """Search `settings.space` around the settings of `trained`, and train with the best settings of the search.

    The result is that training, or `trained` where its weights are better on validation. `final` says that no later
    stage makes other weights of the result, so that it is benchmarked.
    """
    # Where something was trained, there are validation images.
    assert trained.validation_macro_f1 is not None
    search_share = _share_of_search(data, trained.train, settings)
    trials, epochs = search(work.part(0, search_share), model, data, trained.train, settings)
    best = _best(trials, model)
    tables = {"trials": work.rows("trials", trials)}
    rows: list[dict[str, object]] = []
    result: Trained | None = None
    # The settings of trial 0 are those of `trained`: training with them again would give the same weights.
    if best["trial"] != 0:
        retrained, seeded = _retrain(work.part(search_share, 1), model, data, trained, best)
        if seeded.fitted.validation_macro_f1 >= trained.validation_macro_f1:
            retrained = result = _benchmarked(retrained, final)
        epochs += seeded.epochs
        rows.append(
            variant_row(
                retrained.variant,
                validation_top1=seeded.fitted.validation_top1,
                note=seeded.fitted.note,
                validation_macro_f1=seeded.fitted.validation_macro_f1,
            )
        )
        tables["evaluations"] = work.rows("evaluations", [seeded.evaluation])
        tables["seeds"] = work.rows("seeds", [seeded.spread])
    if result is None:
        result = _benchmarked(_as_before(work, model, data, trained), final)
        rows.append(variant_row(result.variant, validation_macro_f1=trained.validation_macro_f1))
    tables |= {"epochs": work.rows("epochs", epochs), "variants": work.rows("variants", rows)}
    return result.model_copy(update={"tables": tables})


def _share_of_search(data: Prepared, train: Train, settings: Tune) -> float:
    """Return the share of the stage that its trials take, by images seen. The rest is the training that follows."""
    trial = train.model_copy(update={"epochs": settings.epochs, "train_limit": settings.train_limit, "seeds": (0,)})
    search = settings.trials * images_seen(data, trial)
    return search / (search + images_seen(data, train))


def _best(trials: list[dict[str, Any]], model: Model) -> dict[str, Any]:
    """Return the row of the trial with the highest score."""
    scored = [row for row in trials if row["score"] is not None]
    if not scored:
        raise RuntimeError(f"{model.label}: every one of {len(trials)} trials failed: {trials[-1]['error']}")
    return max(scored, key=lambda row: row["score"])


def _retrain(
    work: Work, model: Model, data: Prepared, trained: Trained, best: dict[str, Any]
) -> tuple[Trained, Seeded]:
    """Train on all images with the settings of the best trial, whose row is `best`."""
    settings = trained.train.model_copy(update=json.loads(str(best["adjusted"])))
    name = f"{model.label}/tune"
    seeded = train_seeds(work, model, data, settings, variant=name, stage="tune")
    variant = weights_variant(
        model,
        data,
        seeded.fitted.artifact,
        name=name,
        stage="tune",
        parent=trained.variant.name,
        setting=f"trial {best['trial']}, seed {seeded.seed}",
    )
    return Trained(variant=variant, train=settings, validation_macro_f1=seeded.fitted.validation_macro_f1), seeded


def _as_before(work: Work, model: Model, data: Prepared, trained: Trained) -> Trained:
    """Return `trained` under a name of this stage, so that later stages find one variant to continue from."""
    work.log.info(
        "%s/tune: tuning did not help; going on with the first training (validation F1 %.4f of %d images)",
        model.label,
        trained.validation_macro_f1,
        data.validation_rows,
    )
    changed = {
        "name": f"{model.label}/tune-none",
        "stage": "tune",
        "parent": trained.variant.name,
        "setting": "as given",
    }
    return trained.model_copy(update={"variant": trained.variant.model_copy(update=changed)})


def _benchmarked(trained: Trained, final: bool) -> Trained:
    return trained.model_copy(update={"variant": trained.variant.model_copy(update={"benchmark": final})})


def search(
    work: Work, model: Model, data: Prepared, base: Train, settings: Tune
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Run the trials that have not ended yet; return the rows of the tables `trials` and `epochs` of all trials.

    Trial 0 has the settings of the study. For every trial the sampler (TPE, Bergstra et al. 2011) is seeded with (seed,
    trial), so that a search that was cut off continues as if it had not been.
    """
    study = _open_study(work)
    short = base.model_copy(
        update={
            "epochs": settings.epochs,
            "patience": settings.epochs,
            "train_limit": settings.train_limit,
            "seeds": base.seeds[:1],
        }
    )
    for number in range(len(_outcomes(study)), settings.trials):
        trial, adjusted = _next_trial(study, base, settings, number)
        network, architecture = fresh(model, data, short.seeds[0])
        training = Training(
            work=work.part(number / settings.trials, (number + 1) / settings.trials),
            architecture=architecture,
            data=data,
            settings=short.model_copy(update=adjusted),
            model_label=model.label,
            variant=f"{model.label}/tune/trial-{number}",
            stage="tune",
        )
        outcome, result = _run_trial(training, network, trial)
        row = outcome["row"]
        row |= {"model": model.label, "trial": number, "adjusted": json.dumps(adjusted)}
        scores = [each["row"]["score"] for each in (*_outcomes(study), outcome)]
        row["best_so_far"] = max((score for score in scores if score is not None), default=None)
        # This comes before the trial ends, because Optuna refuses to write to a finished trial.
        trial.set_user_attr("outcome", outcome)
        study.tell(trial, **result)
        work.progress(
            number + 1,
            settings.trials,
            f"{model.label}/tune trial {number + 1}/{settings.trials}: {_in_words(adjusted)}: validation F1 "
            f"{_rounded(row['score'])} of {data.validation_rows} images"
            f"{' (stopped early)' if row['stopped_early'] else ''}",
        )
    outcomes = _outcomes(study)
    return [each["row"] for each in outcomes], [row for each in outcomes for row in each["epochs"]]


def _open_study(work: Work) -> optuna.Study:
    """Open the search that an interruption left in the scratch folder, or begin one."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = Journal(work.scratch / "trials.log", work.log)
    study = optuna.create_study(
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        # The storage calls only the two methods that the journal has.
        storage=optuna.storages.JournalStorage(journal),  # type: ignore[arg-type]
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
    )
    for interrupted in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(interrupted.number, state=optuna.trial.TrialState.FAIL)
    return study


def _next_trial(study: optuna.Study, base: Train, settings: Tune, number: int) -> tuple[optuna.Trial, dict[str, Any]]:
    """Begin the trial of a number; return it, and the settings in which it differs from `base`."""
    import optuna

    study.sampler = optuna.samplers.TPESampler(seed=settings.seed * 1009 + number, n_startup_trials=4)
    if number == 0 and not study.get_trials(states=[optuna.trial.TrialState.WAITING]):
        study.enqueue_trial({name: getattr(base, name) for name in settings.space})
    trial = study.ask()
    return trial, {} if number == 0 else _suggest(trial, settings.space)


def _suggest(trial: optuna.Trial, space: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the sampler suggests for the fields of `Train` in the space."""
    values = {}
    for name, over in space.items():
        if not isinstance(over, Range):
            values[name] = trial.suggest_categorical(name, over.values)
        elif isinstance(Train.model_fields[name].default, int):
            values[name] = trial.suggest_int(name, int(over.low), int(over.high), log=over.log)
        else:
            values[name] = trial.suggest_float(name, over.low, over.high, log=over.log)
    return values


def _outcomes(study: optuna.Study) -> list[dict[str, Any]]:
    """Return the outcome of each trial that ended (its `row` and its `epochs`), in order.

    A trial that was interrupted between its outcome and its end does not count: Optuna has it as failed, and would not
    learn from it.
    """
    from optuna.trial import TrialState

    outcomes = []
    for trial in study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]):
        outcome = trial.user_attrs.get("outcome")
        if outcome and (trial.state != TrialState.FAIL or outcome["row"]["status"] == "failed"):
            outcomes.append(outcome)
    return sorted(outcomes, key=lambda outcome: outcome["row"]["trial"])


def _run_trial(training: Training, network: nn.Module, trial: optuna.Trial) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train for one trial; return its outcome, and the arguments by which Optuna is told of its result."""
    import optuna

    scores: list[float] = []

    def report(epoch: int, score: float) -> None:
        scores.append(score)
        trial.report(score, epoch)
        if epoch < training.settings.epochs and trial.should_prune():
            raise optuna.TrialPruned

    row: dict[str, Any] = {"status": "ok", "error": None, "stopped_early": False}
    epochs: list[dict[str, object]] = []
    started = time.perf_counter()
    result: dict[str, Any]
    try:
        fitted = fit(training, network, on_epoch=report)
        epochs = fitted.epochs
        result = {"values": fitted.validation_macro_f1}
    except optuna.TrialPruned:
        row["stopped_early"] = True
        result = {"state": optuna.trial.TrialState.PRUNED}
    except Diverged as error:
        row |= {"status": "failed", "error": str(error)}
        result = {"state": optuna.trial.TrialState.FAIL}
    row |= {"score": max(scores, default=None), "epochs": len(scores), "seconds": time.perf_counter() - started}
    return {"row": row, "epochs": epochs}, result


def _in_words(adjusted: dict[str, Any]) -> str:
    """Return the settings that a trial adjusted, for a log line."""
    words = []
    for name, value in adjusted.items():
        words.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words) or "as given"


def _rounded(score: float | None) -> str:
    return "none" if score is None else f"{score:.4f}"


tune_task = stage(
    lambda inputs: f"tune/{inputs['model'].label}",
    libraries=(*LIBRARIES, "optuna"),
    modules=family,
    extra=pretrained,
)(tune)
