"""The published studies as presets, in three scales with the same stages and tables.

The scale `smoke` takes minutes on two cores, with digits; `cpu` takes an evening on a desktop; `full` has the study's
own size and takes one GPU. tasks/published has the figures that the results are compared with.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from tasks.records import (
    Ablate,
    Augment,
    Benchmark,
    Build,
    Choice,
    Data,
    Model,
    Prune,
    Qat,
    Quantize,
    Range,
    Serve,
    Study,
    Train,
    Tune,
)

Scale = Literal["smoke", "cpu", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)

CIFAR10 = Data(path="uoft-cs/cifar10")
IMAGENET = Data(
    path="ILSVRC/imagenet-1k:validation",
    image_size=224,
    resize=256,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    test_fraction=0.75,
    test_limit=1024,
)
"""ImageNet's validation split. 1,024 of its images are held out for testing, as in the studies; the others serve to
calibrate int8 forms and to fine-tune pruned models."""
NO_TUNING = Tune(trials=0)
NO_POLICIES = Augment(policies=())
NO_PRUNING = Prune(ratios=())
FILES = ("eager", "torchscript", "onnxruntime", "openvino")
"""Runtimes for S2 and S4 on a CPU. The tables of these studies have no row for an engine there, so none is built."""
FEW = Data(train_limit=480, test_limit=200)
"""Few digits, for the large models of a smoke test."""
QUICK = Benchmark(
    batch_sizes=(1, 8),
    rounds=3,
    processes=1,
    warmup_seconds=0.1,
    min_seconds=0.1,
    min_queries=16,
    minutes=1,
    throughput=False,
)
"""How a smoke test measures: every row, with few queries, in one process per candidate. Throughput would take as many
processes again, and only one study's own table has it (S2's benchmark_results.csv)."""
FORMS = {
    "quantize": Quantize(settings=("u8s8-reduced",), calibration_images=64),
    "build": Build(precisions=("fp16",)),
    "serve": Serve(seconds=0.1, trials=1),
}
"""Settings with which a smoke test makes one form of each kind."""


def _changed(study: Study, **parts: Any) -> Study:
    """Return a study with other sections. A dictionary changes only some fields of the study's section."""
    new = {
        name: getattr(study, name).model_copy(update=part) if isinstance(part, dict) else part
        for name, part in parts.items()
    }
    return Study(**{**dict(study), **new})


def resnet34_tensorrt(scale: Scale = "smoke") -> Study:
    """S1: train, tune and augment ResNet-34 on CIFAR-10, then latency before and after TensorRT."""
    study = Study(
        name="resnet34-tensorrt",
        published="resnet34_tensorrt",
        data=CIFAR10,
        models=(Model(name="resnet34"),),
        # This is Page's recipe for DAWNBench: batch size 512, learning rate 0.4, weight decay 5e-4, Nesterov momentum.
        # With crops it brings ResNet-9 to 94 % in 24 epochs. Scores improve most at the end of the schedule, where the
        # rate falls to 0, so the patience is longer than the training: no earlier plateau stops it.
        train=Train(
            epochs=24,
            patience=36,
            batch_size=512,
            learning_rate=0.4,
            label_smoothing=0.1,
            precision="auto",
            compile=True,
            ema=0.99,
            seeds=(0, 1, 2),
        ),
        tune=Tune(
            trials=12,
            epochs=8,
            space={
                "learning_rate": Range(low=0.1, high=1.2, log=True),
                "weight_decay": Range(low=1e-4, high=5e-3, log=True),
                "label_smoothing": Choice(values=(0.0, 0.1)),
            },
        ),
        # Augmented images need more epochs, or the model underfits. 36 epochs of up to 5 s, as an H100 should take,
        # are 180 s.
        augment=Augment(policies=("none", "crop_flip", "erasing", "cutmix"), epochs=36),
        prune=Prune(ratios=(0.25,), epochs=8),
        benchmark=Benchmark(
            batch_sizes=(1, 8, 32),
            rounds=5,
            runtimes=("eager", "torchscript", "onnxruntime", "openvino", "tensorrt", "tensorrt_graph"),
        ),
    )
    if scale == "cpu":
        return _changed(
            study,
            data={"train_limit": 20_000},
            train=Train(epochs=12, patience=16, learning_rate=0.1, precision="auto", seeds=(0, 1)),
            tune={"trials": 6, "epochs": 3, "train_limit": 5_000},
            augment={"epochs": 16},
            prune=Prune(ratios=(0.25,), epochs=3),
        )
    if scale == "smoke":
        return _changed(
            study,
            data=Data(),
            models=(Model(name="resnet34", width=16),),
            train=Train(epochs=6, batch_size=48, learning_rate=0.07, label_smoothing=0.1, seeds=(0, 1)),
            tune=Tune(trials=2, epochs=2, space={"learning_rate": Range(low=0.02, high=0.2, log=True)}),
            augment=Augment(policies=("none", "crop"), epochs=8),
            prune=Prune(ratios=(0.25,), epochs=2),
            quantize=Quantize(settings=("u8s8-reduced", "s8s8"), calibration_images=64),
            benchmark=QUICK.model_copy(update={"runtimes": ("eager", "onnxruntime", "tensorrt")}),
            serve=Serve(seconds=0.2, trials=2),
        )
    return study


def densenet121_imagenet(scale: Scale = "smoke") -> Study:
    """S2: pretrained DenseNet-121 on 1,024 ImageNet images: plain, pruned, ONNX and int8, at five batch sizes."""
    study = Study(
        name="densenet121-imagenet",
        published="densenet121_imagenet",
        data=IMAGENET,
        models=(Model(name="densenet121", pretrained="hub"),),
        train=Train(epochs=0, batch_size=64, precision="auto"),
        tune=NO_TUNING,
        augment=NO_POLICIES,
        prune=Prune(ratios=(0.1,), epochs=4, learning_rate=0.01),
        benchmark=Benchmark(batch_sizes=(1, 4, 8, 16, 32), rounds=5, runtimes=(*FILES, "tensorrt")),
    )
    if scale == "cpu":
        return _changed(
            study,
            data={"train_limit": 2_000},
            prune=Prune(ratios=(0.1,), epochs=1, learning_rate=0.01),
            benchmark={"minutes": 60, "runtimes": FILES},
        )
    if scale == "smoke":
        return _changed(
            study,
            data=FEW,
            models=(Model(name="densenet121"),),
            train=Train(epochs=5, batch_size=24, optimizer="adamw", learning_rate=2e-3),
            prune=Prune(ratios=(0.1,), epochs=1, learning_rate=1e-3),
            benchmark=QUICK.model_copy(
                update={
                    "batch_sizes": study.benchmark.batch_sizes,
                    "processes": 2,
                    "throughput": True,
                    "runtimes": ("eager", "onnxruntime"),
                }
            ),
            **{**FORMS, "build": Build()},
        )
    return study


def cifar_architectures(scale: Scale = "smoke") -> Study:
    """S3: EfficientNet-B0, ResNet-50 and ViT-B/16 on CIFAR-10, with and without three training techniques."""
    study = Study(
        name="cifar-architectures",
        published="cifar_architectures",
        data=CIFAR10,
        models=tuple(
            Model(name=name, pretrained="hub", upsample=224) for name in ("efficientnet_b0", "resnet50", "vit_b_16")
        ),
        train=Train(
            epochs=5,
            batch_size=128,
            optimizer="adamw",
            learning_rate=2e-4,
            weight_decay=0.05,
            precision="auto",
            augment="crop_flip",
        ),
        ablate=Ablate(
            techniques={
                "mixed precision (bf16)": {"precision": "bf16"},
                "mixed precision (fp16, grad scaler)": {"precision": "fp16"},
                "pinned memory": {"pin_memory": True},
                "gradient accumulation": {"accumulate": 4, "batch_size": 32},
            },
            alone=("mixed precision (fp16, grad scaler)",),
            plain={"precision": "fp32", "pin_memory": False, "loading": "workers"},
            epochs=5,
            train_limit=10_000,
        ),
        tune=NO_TUNING,
        augment=NO_POLICIES,
        prune=NO_PRUNING,
        benchmark=Benchmark(batch_sizes=(1, 32), runtimes=("eager", "onnxruntime", "tensorrt")),
    )
    if scale == "cpu":
        return _changed(
            study,
            data={"train_limit": 5_000, "test_limit": 2_000},
            models=tuple(m.model_copy(update={"upsample": 96}) for m in study.models),
            train={"epochs": 3, "batch_size": 64},
            ablate={"train_limit": 1_000},
            benchmark={"minutes": 30},
        )
    if scale == "smoke":
        return _changed(
            study,
            data=FEW,
            models=(
                Model(name="efficientnet_b0", upsample=32),
                Model(name="resnet50"),
                Model(name="timm:vit_tiny_patch16_224", upsample=32),
            ),
            train=Train(epochs=6, batch_size=24, optimizer="adamw", learning_rate=3e-3),
            ablate={
                "train_limit": 96,
                "plain": study.ablate.plain | {"batch_size": 48},
                "techniques": study.ablate.techniques | {"gradient accumulation": {"accumulate": 4, "batch_size": 12}},
            },
            benchmark=QUICK.model_copy(
                update={"runtimes": ("eager", "onnxruntime", "tensorrt"), "batch_sizes": (1, 32)}
            ),
            **FORMS,
        )
    return study


def cifar100_architectures(scale: Scale = "smoke") -> Study:
    """S3 on CIFAR-100 (smoke: on digits, too)."""
    study = cifar_architectures(scale)
    data = {} if scale == "smoke" else {"path": "uoft-cs/cifar100", "label": "fine_label"}
    return _changed(study, name="cifar100-architectures", published="cifar100_architectures", data=data)


def runtime_formats(scale: Scale = "smoke") -> Study:
    """S4: four pretrained ImageNet models as trained, in ONNX, quantized, and in TorchScript: size, latency,
    accuracy."""
    study = Study(
        name="runtime-formats",
        published="runtime_formats",
        data=IMAGENET,
        models=tuple(
            Model(name=name, pretrained="hub")
            for name in ("resnet34", "densenet121", "efficientnet_b0", "convnext_base")
        ),
        train=Train(epochs=0),
        tune=NO_TUNING,
        augment=NO_POLICIES,
        prune=NO_PRUNING,
        quantize=Quantize(settings=("u8s8-reduced", "u8s8", "u8s8-core", "s8s8")),
        benchmark=Benchmark(batch_sizes=(1, 8), rounds=5, runtimes=(*FILES, "tensorrt")),
    )
    if scale == "cpu":
        return _changed(
            study,
            data={"train_limit": 500},
            benchmark={"minutes": 60, "runtimes": FILES},
        )
    if scale == "smoke":
        return _changed(
            study,
            data=FEW,
            models=(
                Model(name="resnet34", width=16),
                Model(name="densenet121"),
                Model(name="efficientnet_b0"),
                Model(name="timm:convnext_atto", upsample=32),
            ),
            train=Train(epochs=6, batch_size=24, optimizer="adamw", learning_rate=4e-3),
            benchmark=QUICK.model_copy(
                update={"batch_sizes": (1,), "runtimes": ("eager", "torchscript", "onnxruntime")}
            ),
            **{**FORMS, "build": Build()},
        )
    return study


def convnext_speed(scale: Scale = "smoke") -> Study:
    """S5: ConvNeXt of 18 million parameters on Tiny ImageNet at 224 pixels: what each training technique brings."""
    study = Study(
        name="convnext-speed",
        published="convnext_speed",
        data=Data(path="zh-plus/tiny-imagenet"),
        models=(Model(name="convnext_18m", upsample=224),),
        train=Train(
            epochs=20,
            batch_size=128,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.05,
            precision="auto",
            compile=True,
            label_smoothing=0.1,
            augment="crop_flip",
        ),
        ablate=Ablate(
            techniques={
                "TC": {"compile": True},
                "AMP": {"precision": "bf16"},
                "TC + AMP": {"compile": True, "precision": "bf16"},
                "channels-last": {"channels_last": True},
                "fused optimizer": {"fused": True},
                "images on the device": {"loading": "device"},
                "all of these": {
                    "compile": True,
                    "precision": "bf16",
                    "channels_last": True,
                    "fused": True,
                    "loading": "device",
                },
                "GELU by tanh": {"model.gelu": "tanh"},
                "Triton pointwise block": {"fused_pointwise": True},
            },
            plain={"compile": False, "precision": "fp32", "channels_last": False, "fused": False, "loading": "workers"},
            epochs=5,
        ),
        tune=NO_TUNING,
        augment=NO_POLICIES,
        prune=Prune(ratios=(0.25,), epochs=3, learning_rate=1e-4),
        qat=Qat(epochs=2, settings=("u8s8-reduced", "s8s8")),
        benchmark=Benchmark(
            batch_sizes=(1, 32),
            rounds=5,
            runtimes=("eager", "eager_fused", "torch_compile", "torchscript", "onnxruntime", "openvino", "tensorrt"),
        ),
    )
    if scale == "cpu":
        return _changed(
            study,
            data={"train_limit": 5_000, "test_limit": 2_000},
            models=(Model(name="convnext_18m", upsample=96),),
            train={"epochs": 6, "batch_size": 64},
            ablate={"train_limit": 1_280},
            benchmark={"minutes": 30},
        )
    if scale == "smoke":
        return _changed(
            study,
            data=FEW,
            models=(Model(name="convnext_18m", upsample=32),),
            train=Train(epochs=3, batch_size=48, optimizer="adamw", learning_rate=1e-3),
            ablate={"train_limit": 144},
            prune=Prune(ratios=(0.25,), epochs=1, learning_rate=1e-4),
            qat={"epochs": 1},
            benchmark=QUICK.model_copy(update={"batch_sizes": (1,), "runtimes": ("eager", "onnxruntime", "tensorrt")}),
            **{
                **FORMS,
                "quantize": Quantize(settings=("u8s8-reduced", "s8s8"), calibration_images=64),
                "build": Build(precisions=("fp16", "int8")),
            },
        )
    return study
