"""Prune: remove whole channels from a trained model, then fine-tune it."""

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
    from tasks.records import Train
    from tasks.training.evaluation import Scores
    from tasks.training.fit import Fitted


def prune(work: Work, model: Model, data: Prepared, trained: Trained, settings: Prune, ratio: float) -> Trained:
    """Remove about `ratio` of the channels of trained weights, and fine-tune; `base` has the weights in between.

    Raises
    ------
    ValueError
        If ratio and `settings.round_to` leave the model as it is.
    """
    import models

    assert trained.variant.artifact is not None
    path = work.store.get(trained.variant.artifact)
    network = models.load(path)
    training = Training(
        work=work,
        architecture=models.architecture(path),
        data=data,
        settings=_tuning(trained.train, settings),
        model_label=model.label,
        variant=f"{model.label}/prune-{ratio:g}",
        stage="prune",
    )
    raw, scores = _prune(training, network, trained, ratio=ratio, round_to=settings.round_to)
    assert raw.artifact is not None
    fitted = _fine_tune(training, network)
    variant = raw.model_copy(update={"name": training.variant, "artifact": fitted.artifact, "benchmark": True})
    rows = [
        variant_row(raw, validation_top1=scores.top1, validation_macro_f1=scores.macro_f1),
        variant_row(
            variant,
            validation_top1=fitted.validation_top1,
            validation_macro_f1=fitted.validation_macro_f1,
            note=fitted.note,
        ),
    ]
    evaluation = evaluation_row(work, data, raw.name, raw.artifact, training.settings.device)
    return Trained(
        variant=variant,
        train=training.settings,
        validation_macro_f1=fitted.validation_macro_f1,
        base=(raw,),
        tables={
            "epochs": work.rows("epochs", fitted.epochs),
            "variants": work.rows("variants", rows),
            "evaluations": work.rows("evaluations", [evaluation]),
        },
    )


def _tuning(train: Train, settings: Prune) -> Train:
    """Return the settings of the fine-tuning: those that the weights were trained with, but shorter."""
    return train.model_copy(
        update={"epochs": settings.epochs, "patience": settings.epochs, "learning_rate": settings.learning_rate}
    )


def _prune(
    training: Training, network: nn.Module, trained: Trained, *, ratio: float, round_to: int
) -> tuple[Variant, Scores]:
    """Prune `network`, which has the weights of `trained`, in place, and log what that changed.

    Returns
    -------
    tuple of (Variant, Scores)
        The variant of the pruned weights before fine-tuning, and its scores on validation images.
    """
    import torch

    work, data = training.work, training.data
    example = torch.zeros(1, data.channels, data.image_size, data.image_size)
    parameters_before, macs_before = cost(network, example)
    prune_channels(network, example, ratio, round_to)
    parameters, macs = cost(network, example)
    raw = Variant(
        name=f"{training.variant}-raw",
        model=training.model_label,
        stage="prune",
        format="safetensors",
        parent=trained.variant.name,
        setting=f"{ratio:g}",
        parameters=parameters,
        macs=macs,
        artifact=store_weights(work, network, training.architecture),
    )
    scores = evaluate(network.to(choose_device(training.settings.device)), data, work.store, "validation")
    work.log.info(
        "%s: parameters %d -> %d, multiply-accumulates %d -> %d, validation F1 %.4f -> %.4f of %d images",
        training.variant,
        parameters_before,
        parameters,
        macs_before,
        macs,
        trained.validation_macro_f1,
        scores.macro_f1,
        data.validation_rows,
    )
    return raw, scores


def _fine_tune(training: Training, network: nn.Module) -> Fitted:
    """Train the pruned model, and log how good it is now."""
    fitted = fit(training, network)
    training.work.log.info(
        "%s: validation F1 %.4f of %d images after fine-tuning",
        training.variant,
        fitted.validation_macro_f1,
        training.data.validation_rows,
    )
    if fitted.note is not None:
        training.work.log.warning("%s: %s", training.variant, fitted.note)
    return fitted


def prune_channels(model: nn.Module, example: Tensor, ratio: float, round_to: int) -> None:
    """Remove about `ratio` of the output channels of every layer but the classifier's last one, in place.

    Channels that depend on one another (along shortcuts, through normalization and flattening) are removed together:
    those whose weights, over all layers of their group, have the smallest L2 norm (Fang et al. 2023, DepGraph). The
    number that stays is a multiple of `round_to`; a layer of fewer channels is left alone. Where torch-pruning ties the
    embedding of attention to its heads, only the perceptron behind it becomes narrower.

    Raises
    ------
    ValueError
        If rounding leaves every layer as it is, or the model has attention in shifted windows.
    """
    import torch_pruning
    from torch import nn

    # torch-pruning's graph of such a model grows without an end.
    if any("Window" in type(module).__name__ for module in model.modules()):
        raise ValueError(
            "prune: torch-pruning cannot follow attention in shifted windows (Swin and its kin); set prune.ratios = []"
        )

    head = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][-1]
    attention = {m: m.num_heads for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    # In timm's attention the size of a head is a field of the module, so the projection keeps all of its outputs.
    projections = {m.qkv: m.num_heads for m in model.modules() if isinstance(getattr(m, "qkv", None), nn.Linear)}
    left_alone = [head, *projections]
    parameters_before = sum(p.numel() for p in model.parameters())
    with warnings.catch_warnings():
        # It warns of class tokens and layer scales, which it prunes correctly.
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        pruner = torch_pruning.pruner.BasePruner(
            model.eval(),
            example,
            torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio_dict=_ratios(model, left_alone, ratio, round_to),
            ignored_layers=left_alone,
            num_heads=attention | projections,
            # The defaults are dictionaries that all pruners of a process would share.
            in_channel_groups={},
            out_channel_groups={},
        )
    pruner.step()
    if sum(p.numel() for p in model.parameters()) == parameters_before:
        raise ValueError(
            f"prune: ratio {ratio:g} with round_to {round_to} takes no channel out of any layer; "
            "set a larger ratio in prune.ratios or a smaller prune.round_to"
        )


def _ratios(model: nn.Module, left_alone: list[Any], ratio: float, round_to: int) -> dict[nn.Module, float]:
    """Return for each layer the ratio that leaves it a multiple of `round_to` channels.

    torch-pruning's own round_to rounds down: 16 channels less 25 % would become 8.
    """
    from torch import nn

    ratios: dict[nn.Module, float] = {}
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in left_alone:
            channels = module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
            # Half a channel is added because torch-pruning rounds what stays down, with int().
            ratios[module] = max(0.0, (channels - _remaining(channels, ratio, round_to) - 0.5) / channels)
    return ratios


def _remaining(channels: int, ratio: float, round_to: int) -> int:
    """Return the multiple of `round_to` nearest to what the ratio leaves, the larger of two equally near ones."""
    if channels < round_to:
        return channels
    return min(channels, max(round_to, math.floor(channels * (1 - ratio) / round_to + 0.5) * round_to))


prune_task = stage(
    lambda inputs: f"prune/{inputs['model'].label}/{inputs['ratio']:g}",
    libraries=(*LIBRARIES, "torch-pruning"),
    modules=family,
)(prune)
