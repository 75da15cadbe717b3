"""What a stage's key consists of: settings, contents of inputs, code, and versions of libraries."""

import pytest

from tasks.caching import keys
from tasks.caching.keys import Stage, digest, flatten, sources
from tasks.records import Artifact, Benchmark, Forms, Model, Prune, Train, Variant
from tasks.train import train_task


@pytest.fixture
def train_stage():
    """The `Stage` record from which the key of the train stage is made."""
    return train_task.about


def parts(train_stage, **changed):
    """Return the parts of a key of the train stage, with `changed` in place of some of its inputs."""
    inputs = {"context": None, "model": Model(), "settings": Train(), "final": True, **changed}
    return train_stage.parts(inputs)


def test_a_key_changes_with_each_setting_and_not_with_the_context(train_stage):
    base = digest(parts(train_stage))
    assert digest(parts(train_stage)) == base
    assert digest(parts(train_stage, context="another folder")) == base
    assert digest(parts(train_stage, settings=Train(epochs=31))) != base
    assert digest(parts(train_stage, model=Model(name="resnet34"))) != base
    assert digest(parts(train_stage, final=False)) != base


def test_a_key_holds_the_hash_of_each_module_that_the_stage_uses_and_of_no_other(train_stage):
    modules = {name.removeprefix("code of ") for name in parts(train_stage) if name.startswith("code of ")}
    assert {
        "tasks.train",
        "tasks.training.fit",
        "tasks.training.policies",
        "tasks.measure.metrics",
        "tasks.records._train",
        "tasks.caching.work",
        "models.lenet",
    } <= modules
    # The file of another model than the one that is trained.
    assert "models.resnet" not in modules
    assert "tasks.benchmark" not in modules
    assert "tasks.caching.stage" not in modules


def test_a_key_holds_the_versions_of_the_libraries_that_the_stage_uses(train_stage):
    import torch

    assert parts(train_stage)["version of torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_stages_and_records_of_different_names_have_different_keys_despite_equal_fields():
    def first_stage(work, settings): ...
    def second_stage(work, settings): ...

    parts_per_stage = [
        Stage(function, str, (), None, None).parts({"settings": Prune()}) for function in (first_stage, second_stage)
    ]
    assert digest(parts_per_stage[0]) != digest(parts_per_stage[1])
    flat_records = [dict(flatten({"settings": keys._json(record)})) for record in (Prune(), Benchmark())]
    assert flat_records[0]["settings.kind"] != flat_records[1]["settings.kind"]


def test_a_key_depends_on_the_content_of_an_artifact_and_not_on_its_path():
    def variant(path, sha256):
        artifact = Artifact(path=path, sha256=sha256, size_bytes=1, format="onnx")
        return Variant(name="v", model="m", stage="export", format="onnx", artifact=artifact)

    def step(work, parent): ...

    def key(value):
        return digest(Stage(step, str, (), None, None).parts({"parent": value}))

    assert key(variant("a", "1" * 64)) == key(variant("b", "1" * 64))
    assert key(variant("a", "1" * 64)) != key(variant("a", "2" * 64))


def test_a_key_does_not_depend_on_the_rows_of_an_input():
    def step(work, forms): ...

    def key(value):
        return digest(Stage(step, str, (), None, None).parts({"forms": value}))

    rows = Artifact(path="a", sha256="1" * 64, size_bytes=1, format="parquet")
    assert key(Forms(variants=())) == key(Forms(variants=(), tables={"variants": rows}))


def test_modules_that_a_function_imports_when_it_runs_belong_to_the_key():
    # tasks/caching/work.py imports it inside a function.
    assert "tasks.tables.frames" in sources("tasks.caching.work")


def test_a_name_imported_from_a_package_adds_the_module_that_defines_it_and_not_the_package():
    modules = sources("tasks.train")
    assert (
        "tasks.records._train" in modules and "tasks.records" not in modules and "tasks.records._forms" not in modules
    )
