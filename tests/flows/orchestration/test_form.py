"""The form that Prefect's UI shows of a deployment: choices where there are some, nothing that is not to be filled
in."""

from __future__ import annotations

import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.utilities.callables import parameter_schema

from flows.presets import presets
from flows.settings import plain
from flows.studies import SCALES
from flows.study import run_study
from tasks.records import Data, Study
from tasks.records._base import choices
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def schema():
    return parameter_schema(run_study.fn).model_dump()


def fields(schema):
    """(Record, field, its JSON schema) of the whole form."""
    return [
        (name, field, part)
        for name, record in schema["definitions"].items()
        for field, part in record["properties"].items()
    ]


def values(part):
    """Texts that a field, or each entry of it, is chosen from."""
    return part.get("enum") or part.get("items", {}).get("enum")


def test_a_constant_is_not_asked_for(schema):
    asked = {(record, field) for record, field, part in fields(schema) if "const" in part}
    assert asked == {("Range", "kind"), ("Choice", "kind")}, "the two can stand in the same place"


@pytest.mark.parametrize(
    ("record", "field", "some"),
    [
        ("Benchmark", "runtimes", {"eager", "onnxruntime", "openvino", "tensorrt"}),
        ("Data", "source", {"digits", "folder", "parquet"}),
        ("Data", "on_bad", {"refuse", "drop"}),
        ("Train", "precision", {"auto", "fp32", "bf16", "fp16"}),
        ("Train", "augment", {"none", "crop_flip"}),
        ("Augment", "policies", {"none", "crop_flip"}),
        ("Quantize", "settings", {"u8s8", "u8s8-reduced", "s8s8"}),
        ("Qat", "settings", {"u8s8", "u8s8-reduced", "s8s8"}),
        ("Build", "precisions", {"fp32", "fp16", "int8"}),
        ("Select", "metric", {"top1", "macro_f1"}),
        ("Study", "published", {"", "resnet34_tensorrt"}),
    ],
)
def test_what_has_few_values_is_a_choice_of_all_of_them(schema, record, field, some):
    part = schema["definitions"][record]["properties"][field]
    offered = values(part)
    assert some <= set(offered)
    one_by_one = [(value,) if "items" in part else value for value in offered]
    record_class = type(getattr(Study(), record.lower())) if record != "Study" else Study
    # each is accepted by the record itself
    for value in one_by_one:
        needs = {"path": "images"} if record == "Data" and value not in ("auto", "digits") else {}
        assert getattr(record_class.model_validate({field: value, **needs}), field) == value


def test_a_runtime_that_no_stage_feeds_is_not_offered(schema):
    assert "null" not in values(schema["definitions"]["Benchmark"]["properties"]["runtimes"])


@pytest.mark.parametrize("name", presets())
def test_values_pass_the_schema_with_and_without_their_kinds(schema, name):
    check = Draft202012Validator(schema)
    study = presets()[name]()
    for filled in (plain(study), study.model_dump(mode="json"), study.model_dump(mode="json", exclude_none=True)):
        check.validate({"study": filled, "out": "artifacts", "again": ["benchmark"]})
        assert Study.model_validate(filled) == study
    wrong = plain(study) | {"data": {"source": "digit"}}
    assert [e.validator for e in check.iter_errors({"study": wrong})] == ["enum"]
    other = plain(study) | {"data": {"kind": "train"}}
    assert list(check.iter_errors({"study": other})), "the kind of another record is refused"


def test_the_deployments_file_fills_the_form_without_constants(schema):
    check = Draft202012Validator(schema)
    for made in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        check.validate(made["parameters"])
        assert not [
            name for name, part in made["parameters"]["study"].items() if isinstance(part, dict) and "kind" in part
        ]


def test_the_deployments_file_holds_only_what_differs_from_the_defaults():
    text = (ROOT / "prefect.yaml").read_text()
    assert len(text.splitlines()) < 300
    defaults = plain(Study())
    for deployment in yaml.safe_load(text)["deployments"]:
        name = deployment["name"]
        preset, _, scale = name.rpartition("-")
        study = presets()[preset](scale) if scale in SCALES else presets()[name.removesuffix("-nightly")]()
        stored = deployment["parameters"]["study"]
        assert Study.model_validate(stored) == study, "with the defaults it is the whole study"
        for section, value in stored.items():
            assert value != defaults[section]
            if isinstance(value, dict):
                assert not [key for key, part in value.items() if defaults[section].get(key, ...) == part]


def test_choices_leave_the_record_its_own_message():
    with pytest.raises(ValueError, match=r"unknown data source 'digit'; did you mean digits. accepted: auto, cifar10"):
        Data(source="digit")
    assert choices("a", "b").json_schema == {"type": "string", "enum": ["a", "b"]}
