"""Prune: take whole channels out of trained weights, then fine-tune what is left."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from tasks.caching.stage import stage
from tasks.machine.devices import choose_device
from tasks.records import Model, Prepared, Prune, Trained, Variant
from tasks.tables.variants import variant_row
from tasks.training.evaluation import evaluate
from tasks.training.fit import fit, store_weights
from tasks.training.state import Training
from tasks.training.weights import LIBRARIES, cost, evaluation_row, family

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.caching.work import Work


def _kept(channels: int, ratio: float, round_to: int) -> int:
    """Channels to keep: the multiple of `round_to` nearest to what the ratio leaves, the larger of two equally near."""
    if channels < round_to:
        return channels
    return min(channels, max(round_to, math.floor(channels * (1 - ratio) / round_to + 0.5) * round_to))


def prune_channels(model: nn.Module, example: Tensor, ratio: float, round_to: int) -> None:
    """Take about `ratio` of the output channels out of every layer but the classifier's last one, in place.

    Where torch-pruning ties the embedding of attention to its heads, the perceptron behind it alone gets narrower.

    Channels that belong together (along shortcuts, through normalization and flattening) go together: those of the
    smallest L2 norm over all the weights of their group (Fang et al. 2023, DepGraph). What stays is a multiple of
    `round_to`; a layer of fewer channels is left alone.

    Raises
    ------
    ValueError
        If rounding leaves every layer as it is, or the model has attention in shifted windows.
    """
    import torch_pruning
    from torch import nn

    # its graph grows without an end
    if any("Window" in type(module).__name__ for module in model.modules()):
        raise ValueError(
            "prune: torch-pruning cannot follow attention in shifted windows (Swin and its kin); set prune.ratios = []"
        )

    head = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    attention = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    # Timm's attention: its heads' size is a field of the module, so the projection keeps its outputs.
    fused = {m.qkv: m.num_heads for m in model.modules() if isinstance(getattr(m, "qkv", None), nn.Linear)}
    kept = [head, *fused]
    ratios = {}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in kept:
            channels = module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
            # The library's own round_to rounds down (16 channels less 25 % become 8), so each layer gets the ratio that
            # leaves the rounded number; the half channel is for its int().
            ratios[module] = max(0.0, (channels - _kept(channels, ratio, round_to) - 0.5) / channels)
    before = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings():
        # class tokens, layer scales: done rightly
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        pruner = torch_pruning.pruner.BasePruner(
            model.eval(),
            example,
            torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio_dict=ratios,
            ignored_layers=kept,
            num_heads=attention | fused,
            # its defaults are dictionaries shared by all pruners of a process
            in_channel_groups={},
            out_channel_groups={},
        )
    pruner.step()
    if sum(p.numel() for p in model.parameters()) == before:
        raise ValueError(
            f"prune: ratio {ratio:g} with round_to {round_to} takes no channel out of any layer; "
            "set a larger ratio in prune.ratios or a smaller prune.round_to"
        )


def prune(work: Work, model: Model, data: Prepared, trained: Trained, settings: Prune, ratio: float) -> Trained:
    """Prune trained weights to one ratio and fine-tune them; the weights before fine-tuning are kept in `base`.

    Raises
    ------
    ValueError
        If ratio and `settings.round_to` leave the model as it is.
    """
    import torch

    import models

    assert trained.variant.artifact is not None
    path = work.store.get(trained.variant.artifact)
    network, architecture = models.load(path), models.architecture(path)
    example = torch.zeros(1, data.channels, data.image_size, data.image_size)
    parameters, macs = cost(network, example)
    prune_channels(network, example, ratio, settings.round_to)
    left: dict[str, Any] = dict(zip(("parameters", "macs"), cost(network, example), strict=True))
    name = f"{model.label}/prune-{ratio:g}"
    artifact = store_weights(work, network, architecture)
    common: dict[str, Any] = {
        "model": model.label,
        "stage": "prune",
        "format": "safetensors",
        "setting": f"{ratio:g}",
        **left,
    }
    raw = Variant(name=f"{name}-raw", parent=trained.variant.name, artifact=artifact, **common)
    scores = evaluate(network.to(choose_device(trained.train.device)), data, work.store, "validation")
    work.log.info(
        "%s: parameters %d -> %d, multiply-accumulates %d -> %d, validation F1 %.4f -> %.4f of %d images",
        name,
        parameters,
        left["parameters"],
        macs,
        left["macs"],
        trained.validation_macro_f1,
        scores.macro_f1,
        data.validation_rows,
    )

    tuning = trained.train.model_copy(
        update={"epochs": settings.epochs, "patience": settings.epochs, "learning_rate": settings.learning_rate}
    )
    training = Training(
        work=work,
        architecture=architecture,
        data=data,
        settings=tuning,
        model_label=model.label,
        variant=name,
        stage="prune",
    )
    fitted = fit(training, network)
    variant = Variant(name=name, parent=trained.variant.name, artifact=fitted.artifact, benchmark=True, **common)
    work.log.info(
        "%s: validation F1 %.4f of %d images after fine-tuning", name, fitted.validation_macro_f1, data.validation_rows
    )
    if fitted.note is not None:
        work.log.warning("%s: %s", name, fitted.note)
    rows = [
        variant_row(raw, validation_top1=scores.top1, validation_macro_f1=scores.macro_f1),
        variant_row(
            variant,
            validation_top1=fitted.validation_top1,
            validation_macro_f1=fitted.validation_macro_f1,
            note=fitted.note,
        ),
    ]
    return Trained(
        variant=variant,
        train=tuning,
        validation_macro_f1=fitted.validation_macro_f1,
        base=(raw,),
        tables={
            "epochs": work.rows("epochs", fitted.epochs),
            "variants": work.rows("variants", rows),
            "evaluations": work.rows("evaluations", [evaluation_row(work, data, raw.name, artifact, tuning.device)]),
        },
    )


prune_task = stage(
    lambda inputs: f"prune/{inputs['model'].label}/{inputs['ratio']:g}",
    libraries=(*LIBRARIES, "torch-pruning"),
    modules=family,
)(prune)
