"""Augmentation: each policy is scored, none may win, and the epochs are the same for all."""

import polars

from tasks.caching.work import Work
from tasks.records import Augment
from tasks.train import train
from tests.support.digits import digits
from tests.support.trainings import LENET, QUICK


def test_augmentation_scores_each_policy_and_none_may_win(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work)
    trained = train(work, LENET, data, QUICK, False)
    best = augment(work, LENET, data, trained, Augment(policies=("none", "crop_flip", "cutmix")))
    rows = polars.read_parquet(work.store.get(best.tables["variants"]))
    scores = dict(zip(rows["setting"], rows["validation_macro_f1"], strict=True))
    assert best.validation_macro_f1 == max(trained.validation_macro_f1, *scores.values())
    assert best.variant.benchmark
    assert rows.filter(polars.col("benchmark"))["name"].to_list() == [best.variant.name]
    hopeless = augment(work, LENET, data, trained, Augment(policies=("cutmix",), epochs=1, train_limit=40))
    assert hopeless.variant.name == "lenet5/augment-none"
    assert hopeless.variant.artifact == trained.variant.artifact


def policies_of(work, trained):
    """Setting -> most epochs of its training, from what augment returned."""
    variants, epochs = (polars.read_parquet(work.store.get(trained.tables[t])) for t in ("variants", "epochs"))
    most = epochs.group_by("variant").agg(polars.col("epoch").max())
    return dict(most.join(variants, left_on="variant", right_on="name").select("setting", "epoch").iter_rows())


def test_more_epochs_than_the_tuned_training_are_for_every_policy_and_their_weights_may_win(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work, 600)
    tuned = train(work, LENET, data, QUICK.model_copy(update={"epochs": 2, "patience": 20}), False)
    best = augment(work, LENET, data, tuned, Augment(policies=("none", "crop"), epochs=8))
    assert policies_of(work, best) == {"none, longer": 8, "crop": 8}, "each once, as long, none in short"
    assert best.validation_macro_f1 > tuned.validation_macro_f1
    assert best.train.epochs == 8 and best.train.augment == best.variant.setting.removesuffix(", longer")
    variants = polars.read_parquet(work.store.get(best.tables["variants"]))
    assert variants.filter("benchmark")["name"].to_list() == [best.variant.name]
    assert best.variant.name in ("lenet5/augment-crop", "lenet5/augment-none-long")
    shown = variants.filter("benchmark")["validation_macro_f1"].item()
    assert best.validation_macro_f1 == shown == variants["validation_macro_f1"].max()
    poor = augment(work, LENET, data, best, Augment(policies=("none",), epochs=9, train_limit=40))
    assert poor.validation_macro_f1 >= best.validation_macro_f1, "what is tried on few images is retrained on all"
    assert set(policies_of(work, poor).values()) == {9}


def test_fewer_epochs_are_a_try_and_the_best_is_retrained_as_long_as_the_tuned_one(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work)
    tuned = train(work, LENET, data, QUICK, False)
    best = augment(work, LENET, data, tuned, Augment(policies=("crop",), epochs=1))
    epochs = polars.read_parquet(work.store.get(best.tables["epochs"]))
    most = dict(epochs.group_by("variant").agg(polars.col("epoch").max()).iter_rows())
    assert most == {"lenet5/augment-crop-try": 1, "lenet5/augment-crop": 4}
    if best.variant.name == "lenet5/augment-none":
        assert best.train == tuned.train
    else:
        assert best.train == tuned.train.model_copy(update={"augment": "crop"})
