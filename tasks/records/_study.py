"""The settings of a whole study, and the rules between its stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from tasks.records._base import (
    AUTO,
    MAKES,
    Record,
    SkippableStage,
    StudyName,
    choices,
    formats,
    known,
    plugins,
    skippable,
)
from tasks.records._data import Data, Model
from tasks.records._forms import Benchmark, Build, Export, Qat, Quantize, Select, Serve
from tasks.records._search import Ablate, Augment, Prune, Tune
from tasks.records._skip import LEFT_OUT
from tasks.records._train import Train


class Study(Record):
    """The settings of one whole study, as a preset, a TOML file, the command line or Prefect's form writes them."""

    kind: Literal["study"] = "study"
    name: StudyName = "study"
    """Name of the study; the names of its runs begin with it."""
    skip: tuple[SkippableStage, ...] = ()
    """Stages that are left out, whatever their own settings say. Those that can be are ablate, tune, augment, prune,
    quantize, qat, build and serve."""
    published: Annotated[str, choices("", *plugins("published"))] = ""
    """A published study (a file in tasks/published) whose table the report shows, with the figures of this study beside
    it."""
    data: Data = Data()
    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=100)] = (Model(),)
    train: Train = Train()
    tune: Tune = Tune()
    ablate: Ablate = Ablate()
    augment: Augment = Augment()
    prune: Prune = Prune()
    export: Export = Export()
    quantize: Quantize = Quantize()
    qat: Qat = Qat()
    build: Build = Build()
    benchmark: Benchmark = Benchmark()
    serve: Serve = Serve()
    select: Select = Select()

    @field_validator("skip", mode="before")
    @classmethod
    def _skip(cls, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return tuple(skippable(stage) for stage in map(str, value))
        return value

    @field_validator("published")
    @classmethod
    def _published(cls, value: str) -> str:
        return known(value, ("", *plugins("published")), "published study")

    def rule(self) -> dict[str, Any]:
        """Return the settings that the last stages read: name, data and accuracy rule. The rows tell them all else."""
        return {"name": self.name, "data": self.data, "select": self.select}

    @model_validator(mode="after")
    def _chain(self) -> Study:
        labels = [m.label for m in self.models]
        if len(set(labels)) < len(labels):
            raise ValueError(f"models: each may stand once, got {', '.join(labels)}")
        self._refuse_unfit_techniques()
        self.without_skipped()._refuse_contradictions()
        return self

    def without_skipped(self) -> Study:
        """Return the study with the stages of `skip` left out by their own settings, and without runtimes that only
        they feed."""
        parts: dict[str, Any] = {stage: getattr(self, stage).model_copy(update=LEFT_OUT[stage]) for stage in self.skip}
        if "build" in self.skip:
            fed = tuple(name for name in self.benchmark.runtimes if name == AUTO or formats(name) != ("engine",))
            parts["benchmark"] = self.benchmark.model_copy(update={"runtimes": fed})
        return self.model_copy(update={**parts, "skip": ()})

    def _refuse_contradictions(self) -> None:
        """Refuse settings of one stage that contradict those of another.

        This is called on a study without the stages that `skip` names. A list of runtimes or precisions that says
        `auto` is checked again by flows/plan.py, once it is known which ones that means on this machine.
        """
        for runtime in self._reference_runtimes():
            if not {runtime, AUTO} & set(self.benchmark.runtimes):
                raise ValueError(
                    f"benchmark.runtimes: must contain {runtime!r}, which the reference is measured with, or 'auto'"
                )
        self._refuse_runtimes_without_files()
        self._refuse_training_stages_without_training()
        if "onnx" not in self.formats():
            self._refuse_stages_that_need_onnx()
        if self.select.batch_size is not None and self.select.batch_size not in self.benchmark.batch_sizes:
            raise ValueError(
                f"select.batch_size: {self.select.batch_size} is not measured; benchmark.batch_sizes has "
                f"{', '.join(map(str, self.benchmark.batch_sizes))}"
            )

    def formats(self) -> set[str]:
        """Return the formats of the files that the study has or makes, engines left out."""
        given = {"onnx"} if any(model.file for model in self.models) else set()
        named = {"safetensors", *self.export.formats} if any(not model.file for model in self.models) else set()
        return given | named

    def _reference_runtimes(self) -> list[str]:
        """Return the runtimes in which models are measured as they were trained or given."""
        kinds = {bool(model.file) for model in self.models}
        return [runtime for is_file, runtime in ((False, "eager"), (True, "onnxruntime")) if is_file in kinds]

    def _refuse_runtimes_without_files(self) -> None:
        """Refuse runtimes that execute a format which no stage makes, and engines too small for the benchmark."""
        available = self.formats() | ({"engine"} if self.build.precisions else set())
        runtimes = [name for name in self.benchmark.runtimes if name != AUTO]
        for runtime in runtimes:
            if not available & set(formats(runtime)):
                form = formats(runtime)[0]
                raise ValueError(
                    f"benchmark.runtimes: {runtime} executes {form}; {MAKES.get(form, 'no stage makes it')}"
                )
        largest = max(*self.benchmark.batch_sizes, self.benchmark.evaluation_batch)
        engines = [name for name in runtimes if "engine" in formats(name)]
        if engines and largest > max(self.build.batch_sizes):
            raise ValueError(
                f"build.batch_sizes: the largest is {max(self.build.batch_sizes)}, the benchmark asks engines "
                f"for {largest} images (benchmark.batch_sizes, benchmark.evaluation_batch)"
            )

    def _refuse_unfit_techniques(self) -> None:
        """Refuse a technique whose settings would be refused if they were written in `train` or the model."""
        for name in self.ablate.names:
            part = ("techniques", name) if name not in ("none", "all") else ("plain",)
            of_model: tuple[str, ...] = ()
            try:
                self.ablate.train(self.train, name)
                of_model = ("model",)
                for model in (model for model in self.models if not model.file):
                    self.ablate.model(model, name)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(("ablate", *part, *of_model, *map(str, first["loc"])))
                raise ValueError(f"{where}: {first['msg']}") from error

    def _refuse_stages_that_need_onnx(self) -> None:
        """Refuse forms that are made from ONNX files, where none are exported."""
        if self.quantize.settings or self.quantize.dynamic:
            raise ValueError(
                "quantize: int8 is made from ONNX; export.formats must contain 'onnx', or set "
                "quantize.settings = [] and quantize.dynamic = false"
            )
        if self.qat.epochs:
            raise ValueError("qat: int8 is written as ONNX; export.formats must contain 'onnx', or set qat.epochs = 0")
        if set(self.build.precisions) - {AUTO}:
            raise ValueError(
                "build: engines are made from ONNX; export.formats must contain 'onnx', or set build.precisions = []"
            )

    def _refuse_training_stages_without_training(self) -> None:
        """Refuse stages that need training, where nothing is trained or no images are left to train with."""
        if self.train.epochs == 0:
            scratch = [m.label for m in self.models if m.pretrained is None and not m.file]
            if scratch:
                raise ValueError(f"train.epochs: 0 is for pretrained models; {', '.join(scratch)} would stay untrained")
            if self.tune.trials or self.augment.policies:
                raise ValueError(
                    "train.epochs: 0 trains nothing; set tune.trials = 0 and augment.policies = [], or leave these "
                    'stages out with skip = ["tune", "augment"]'
                )
        if self.data.test_fraction == 1:
            if self.train.epochs or self.prune.ratios or self.qat.epochs:
                raise ValueError(
                    "data.test_fraction: 1 leaves nothing to train with; set train.epochs = 0, "
                    "prune.ratios = [] and qat.epochs = 0"
                )
            if self.quantize.settings or self.quantize.dynamic:
                raise ValueError(
                    "data.test_fraction: 1 leaves nothing to calibrate int8 with or to choose it by; set "
                    "quantize.settings = [] and quantize.dynamic = false"
                )
