"""The augment stage scores every policy, and trains all of them equally long. The policy "none" may win."""

import polars

from tasks.caching.work import Work
from tasks.records import Augment
from tasks.train import train
from tests.support.digits import digits
from tests.support.trainings import LENET, QUICK


def test_augment_scores_each_policy_and_the_policy_none_may_win(tmp_path):
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


def epochs_per_setting(work, trained):
    """Return the number of epochs that each setting was trained for, given the result of the augment stage."""
    variants, epochs = (polars.read_parquet(work.store.get(trained.tables[t])) for t in ("variants", "epochs"))
    last_epochs = epochs.group_by("variant").agg(polars.col("epoch").max())
    return dict(last_epochs.join(variants, left_on="variant", right_on="name").select("setting", "epoch").iter_rows())


def test_with_more_epochs_than_the_tuned_training_every_policy_trains_as_long_and_may_win(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work, 600)
    tuned = train(work, LENET, data, QUICK.model_copy(update={"epochs": 2, "patience": 20}), False)
    best = augment(work, LENET, data, tuned, Augment(policies=("none", "crop"), epochs=8))
    assert epochs_per_setting(work, best) == {"none, longer": 8, "crop": 8}, (
        "every policy trains once and for all 8 epochs, the policy none too"
    )
    assert best.validation_macro_f1 > tuned.validation_macro_f1
    assert best.train.epochs == 8 and best.train.augment == best.variant.setting.removesuffix(", longer")
    variants = polars.read_parquet(work.store.get(best.tables["variants"]))
    assert variants.filter("benchmark")["name"].to_list() == [best.variant.name]
    assert best.variant.name in ("lenet5/augment-crop", "lenet5/augment-none-long")
    winning_score = variants.filter("benchmark")["validation_macro_f1"].item()
    assert best.validation_macro_f1 == winning_score == variants["validation_macro_f1"].max()
    limited = augment(work, LENET, data, best, Augment(policies=("none",), epochs=9, train_limit=40))
    assert limited.validation_macro_f1 >= best.validation_macro_f1, (
        "a policy that is tried on few images must be retrained on all"
    )
    assert set(epochs_per_setting(work, limited).values()) == {9}


def test_with_fewer_epochs_than_the_tuned_training_the_best_policy_is_retrained_as_long_as_it(tmp_path):
    from tasks.augment import augment

    work = Work.at(tmp_path)
    data = digits(work)
    tuned = train(work, LENET, data, QUICK, False)
    best = augment(work, LENET, data, tuned, Augment(policies=("crop",), epochs=1))
    epochs = polars.read_parquet(work.store.get(best.tables["epochs"]))
    last_epochs = dict(epochs.group_by("variant").agg(polars.col("epoch").max()).iter_rows())
    assert last_epochs == {"lenet5/augment-crop-try": 1, "lenet5/augment-crop": 4}
    if best.variant.name == "lenet5/augment-none":
        assert best.train == tuned.train
    else:
        assert best.train == tuned.train.model_copy(update={"augment": "crop"})
