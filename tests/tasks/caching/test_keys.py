"""What a cache key is made of."""

import pytest

from tasks.caching import keys
from tasks.caching.keys import Stage, digest, flatten, sources
from tasks.records import Artifact, Benchmark, Forms, Model, Prune, Train, Variant
from tasks.train import train_task


@pytest.fixture
def about():
    return train_task.about


def parts(about, **changed):
    inputs = {"context": None, "model": Model(), "settings": Train(), "final": True, **changed}
    return about.parts(inputs)


def test_the_key_changes_with_every_setting_and_nothing_else(about):
    base = digest(parts(about))
    assert digest(parts(about)) == base
    assert digest(parts(about, context="another folder")) == base
    assert digest(parts(about, settings=Train(epochs=31))) != base
    assert digest(parts(about, model=Model(name="resnet34"))) != base
    assert digest(parts(about, final=False)) != base


def test_the_key_holds_the_sources_that_the_stage_reaches(about):
    found = {name.removeprefix("code of ") for name in parts(about) if name.startswith("code of ")}
    assert {
        "tasks.train",
        "tasks.training.fit",
        "tasks.training.policies",
        "tasks.measure.metrics",
        "tasks.records._train",
        "tasks.caching.work",
        "models.lenet",
    } <= found
    # another model's file
    assert "models.resnet" not in found
    assert "tasks.benchmark" not in found
    assert "tasks.caching.stage" not in found


def test_the_key_holds_versions_of_the_libraries_that_do_the_work(about):
    import torch

    assert parts(about)["version of torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_two_steps_with_equal_fields_do_not_hash_alike():
    def one(work, settings): ...
    def two(work, settings): ...

    made = [Stage(f, str, (), None, None).parts({"settings": Prune()}) for f in (one, two)]
    assert digest(made[0]) != digest(made[1])
    kinds = [dict(flatten({"settings": keys._json(record)})) for record in (Prune(), Benchmark())]
    assert kinds[0]["settings.kind"] != kinds[1]["settings.kind"]


def test_an_artifact_counts_by_its_content_and_not_by_its_place():
    def variant(path, sha256):
        artifact = Artifact(path=path, sha256=sha256, size_bytes=1, format="onnx")
        return Variant(name="v", model="m", stage="export", format="onnx", artifact=artifact)

    def step(work, parent): ...

    def key(value):
        return digest(Stage(step, str, (), None, None).parts({"parent": value}))

    assert key(variant("a", "1" * 64)) == key(variant("b", "1" * 64))
    assert key(variant("a", "1" * 64)) != key(variant("a", "2" * 64))


def test_rows_of_an_input_do_not_belong_to_the_key():
    def step(work, forms): ...

    def key(value):
        return digest(Stage(step, str, (), None, None).parts({"forms": value}))

    rows = Artifact(path="a", sha256="1" * 64, size_bytes=1, format="parquet")
    assert key(Forms(variants=())) == key(Forms(variants=(), tables={"variants": rows}))


def test_sources_follow_imports_inside_functions():
    # the process that measures imports a profile's clock at its beginning, and NVML when it is asked for
    assert "tasks.tables.frames" in sources("tasks.caching.work")


def test_of_a_package_that_hands_names_on_the_module_that_defines_them_counts():
    found = sources("tasks.train")
    assert "tasks.records._train" in found and "tasks.records" not in found and "tasks.records._forms" not in found
