"""The form that Prefect's UI shows for a deployment: fields with few values are choices, constants are left out."""

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
    """Return the name of the record, the name of the field and its JSON schema, for each field of the form."""
    return [
        (name, field, part)
        for name, record in schema["definitions"].items()
        for field, part in record["properties"].items()
    ]


def values(part):
    """Return the texts from which a field, or each entry of a list, is chosen."""
    return part.get("enum") or part.get("items", {}).get("enum")


def test_the_form_has_no_constant_fields_but_the_kinds_of_range_and_choice(schema):
    constants = {(record, field) for record, field, part in fields(schema) if "const" in part}
    assert constants == {("Range", "kind"), ("Choice", "kind")}, (
        "the kind tells apart these two, which can stand in the same place"
    )


@pytest.mark.parametrize(
    ("record", "field", "expected"),
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
def test_a_field_with_few_values_is_a_choice_of_all_of_them(schema, record, field, expected):
    part = schema["definitions"][record]["properties"][field]
    offered = values(part)
    assert expected <= set(offered)
    valid_values = [(value,) if "items" in part else value for value in offered]
    record_class = type(getattr(Study(), record.lower())) if record != "Study" else Study
    # The record itself accepts each value that the form offers.
    for value in valid_values:
        other_fields = {"path": "images"} if record == "Data" and value not in ("auto", "digits") else {}
        assert getattr(record_class.model_validate({field: value, **other_fields}), field) == value


def test_the_form_does_not_offer_the_null_runtime(schema):
    assert "null" not in values(schema["definitions"]["Benchmark"]["properties"]["runtimes"])


@pytest.mark.parametrize("name", presets())
def test_a_preset_passes_the_schema_with_and_without_the_kinds_of_its_records(schema, name):
    validator = Draft202012Validator(schema)
    study = presets()[name]()
    for filled in (plain(study), study.model_dump(mode="json"), study.model_dump(mode="json", exclude_none=True)):
        validator.validate({"study": filled, "out": "artifacts", "again": ["benchmark"]})
        assert Study.model_validate(filled) == study
    wrong_source = plain(study) | {"data": {"source": "digit"}}
    assert [error.validator for error in validator.iter_errors({"study": wrong_source})] == ["enum"]
    wrong_kind = plain(study) | {"data": {"kind": "train"}}
    assert list(validator.iter_errors({"study": wrong_kind})), "the kind of another record is refused"


def test_the_parameters_in_prefect_yaml_pass_the_schema_and_hold_no_constants(schema):
    validator = Draft202012Validator(schema)
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        validator.validate(deployment["parameters"])
        assert not [
            name
            for name, part in deployment["parameters"]["study"].items()
            if isinstance(part, dict) and "kind" in part
        ]


def test_prefect_yaml_holds_only_settings_that_differ_from_the_defaults():
    text = (ROOT / "prefect.yaml").read_text()
    assert len(text.splitlines()) < 300
    defaults = plain(Study())
    for deployment in yaml.safe_load(text)["deployments"]:
        name = deployment["name"]
        preset, _, scale = name.rpartition("-")
        study = presets()[preset](scale) if scale in SCALES else presets()[name.removesuffix("-nightly")]()
        stored = deployment["parameters"]["study"]
        assert Study.model_validate(stored) == study, "with the defaults, the stored settings are the whole study"
        for section, value in stored.items():
            assert value != defaults[section]
            if isinstance(value, dict):
                assert not [key for key, part in value.items() if defaults[section].get(key, ...) == part]


def test_a_record_with_choices_refuses_a_value_with_its_own_message():
    with pytest.raises(ValueError, match=r"unknown data source 'digit'; did you mean digits. accepted: auto, cifar10"):
        Data(source="digit")
    assert choices("a", "b").json_schema == {"type": "string", "enum": ["a", "b"]}
