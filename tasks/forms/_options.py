"""List the values that each aspect of a preparation may have: what is set, else what is stated, else the usual ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.forms._classes import by_names, usual_orders
from tasks.forms._statements import read_labels
from tasks.forms._tries import ClassOrder, Geometry, Option, Try

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.forms._statements import Normalisation, Statement
    from tasks.records import Data, Model
    from tasks.records._data import Layout

TRIED = "tried"
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE: Normalisation = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3)
"""Caffe's models and those of Keras after them: BGR from 0 to 255, less the mean of ImageNet."""
HALF: Normalisation = ((0.5,), (0.5,))
UNIT: Normalisation = ((0.0,), (1.0,))
BYTES: Normalisation = ((0.0,), (1 / 255,))
USUAL: tuple[Normalisation, ...] = (IMAGENET, HALF, UNIT, BYTES, ((0.498,), (0.502,)), CAFFE)
"""Usual means and stds, the most usual first: ImageNet's; -1 to 1; 0 to 1; 0 to 255; EfficientNet-Lite's; Caffe's."""
USUAL_GREY: tuple[Normalisation, ...] = (UNIT, HALF, BYTES, ((0.1307,), (0.3081,)))
"""The same for models of grey images. The last are MNIST's."""
USUAL_INTEGERS: dict[str, Normalisation] = {"uint8": BYTES, "int8": ((128 / 255,), (1 / 255,))}
"""Type of an input that takes whole numbers -> the only usual mean and std."""
SIZES = (224, 256, 288, 299, 384, 192, 160, 128, 64, 32)
"""Usual sizes of inputs in pixels, the most usual first."""
SCREENED = (224, 64, 32)
"""Sizes that are tried first where a model takes any. Those near the best of them follow."""
CROP = 0.875
"""The usual share of the shorter side that a crop keeps: 224 of 256 pixels."""
SMALL = 128
"""Images for smaller inputs are usually not cropped."""


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What the graph of a model takes and gives."""

    layouts: tuple[tuple[Layout, int, int | None], ...]
    """Orders of the axes that the input may mean, each with the number of channels and the fixed size, or None."""
    dtype: str
    outputs: int
    """Number of the outputs, each of which is a class."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a preparation is sought for."""

    model: Model
    data: Data
    statements: Sequence[Statement]
    classes: tuple[str, ...]
    """Names of the data's classes."""
    own_size: int | None
    """Height and width in pixels, if all images of the data are squares of one size."""
    moments: Normalisation | None
    """Mean and std of the data's own images. None: unknown."""


@dataclass
class Aspects:
    """The options of each aspect, the most usual first, and what there is to say about the statements."""

    order: list[Option] = field(default_factory=list)
    layout: list[Option] = field(default_factory=list)
    geometry: list[Option] = field(default_factory=list)
    normalisation: list[Option] = field(default_factory=list)
    classes: list[Option] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def told(self) -> dict[str, list[Option]]:
        """Return the options that sources state, for each aspect that any states."""
        stated = {
            name: [option for option in options if option.told]
            for name, options in vars(self).items()
            if name != "notes"
        }
        return {name: options for name, options in stated.items() if options}


def aspects(asked: Asked, accepted: Accepted) -> Aspects:
    """Return the options of each aspect of a preparation.

    Raises
    ------
    ValueError
        If a setting does not fit the graph, or nothing can tell which output stands for which class.
    """
    found = Aspects()
    _add_layouts(found, asked, accepted)
    _add_orders(found, asked, accepted)
    _add_geometries(found, asked, accepted)
    _add_normalisations(found, asked, accepted)
    _add_classes(found, asked, accepted)
    for name, options in found.told().items():
        if len(options) > 1 and len({option.by for option in options}) > 1:
            said = "; ".join(f"{option.by} says {_shown(option.value)}" for option in options)
            found.notes.append(f"sources contradict each other on the {name}: {said}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, Geometry):
        return f"{value.image_size} pixels from {value.resize or value.image_size}"
    return value.words if isinstance(value, ClassOrder) else str(value)


def _add(options: list[Option], value: Any, by: str = TRIED) -> None:
    """Add an option, unless the same value is among them."""
    if all(option.value != value for option in options):
        options.append(Option(value, by, told=by != TRIED))


def _add_layouts(found: Aspects, asked: Asked, accepted: Accepted) -> None:
    names = list(dict.fromkeys(name for name, _, _ in accepted.layouts))
    wanted = asked.model.layout
    if wanted is not None:
        if wanted not in names:
            raise ValueError(f'models: layout = "{wanted}" does not fit the input, which can be {" or ".join(names)}')
        _add(found.layout, wanted, "models.layout")
        return
    if len(names) == 1:
        _add(found.layout, names[0], "the graph's input")
        return
    for statement in asked.statements:
        if statement.layout in names:
            _add(found.layout, statement.layout, statement.source)
    for name in names:
        _add(found.layout, name)


def _add_orders(found: Aspects, asked: Asked, accepted: Accepted) -> None:
    channels = {count for name, count, _ in accepted.layouts if name in _values(found.layout)}
    possible = [
        order for count in sorted(channels, reverse=True) for order in (("rgb", "bgr") if count == 3 else ("grey",))
    ]
    wanted = asked.model.order
    if wanted is not None:
        if wanted not in possible:
            raise ValueError(
                f'models: order = "{wanted}" does not fit the input, whose order is {" or ".join(possible)}'
            )
        _add(found.order, wanted, "models.order")
        return
    if possible == ["grey"]:
        _add(found.order, "grey", "the graph's input")
        return
    for statement in asked.statements:
        if statement.order in possible:
            _add(found.order, statement.order, statement.source)
    for order in possible:
        _add(found.order, order)


def _add_geometries(found: Aspects, asked: Asked, accepted: Accepted) -> None:
    possible = {size for name, _, size in accepted.layouts if name in _values(found.layout)}
    fixed = {size for size in possible if size is not None}
    is_free = None in possible
    wanted = asked.data.image_size
    if wanted is not None:
        if not is_free and wanted not in fixed:
            raise ValueError(
                f"data.image_size = {wanted} does not fit the model, which takes {_joined(fixed)} pixels; leave it out"
            )
        _add(found.geometry, Geometry(wanted, asked.data.resize), "data.image_size")
        return
    for statement in asked.statements:
        size, resize = statement.image_size, statement.resize
        if size is None:
            continue
        if not is_free and size not in fixed:
            found.notes.append(f"{statement.source} says {size} pixels, but the graph takes {_joined(fixed)}")
            # The share of the image that is cropped stays as it is told.
            resize = resize and round(resize * min(fixed) / size)
            size = min(fixed)
        for candidate in (resize,) if resize else _resizes(size, asked.own_size):
            is_cropped = candidate is not None and candidate > size
            _add(found.geometry, Geometry(size, candidate if is_cropped else None), statement.source)
    sizes = _usual_sizes(asked.own_size) if is_free else sorted(fixed)
    for number in range(2):
        for side in sizes:
            for candidate in _resizes(side, asked.own_size)[number : number + 1]:
                _add(found.geometry, Geometry(side, candidate))


def _usual_sizes(own_size: int | None) -> list[int]:
    """Return the usual sizes of inputs, the most usual first. Small images are usually taken at their own size."""
    if own_size is None:
        return list(SIZES)
    others = [size for size in SIZES if size != own_size]
    return [own_size, *others] if own_size < SMALL else [*others, own_size]


def _joined(sizes: set[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


def _resizes(size: int, own_size: int | None) -> list[int | None]:
    """Return the usual lengths of the shorter side before the crop to a size, the most usual first."""
    if own_size == size:
        return [None]
    cropped = round(size / CROP)
    return [None, cropped] if size < SMALL else [cropped, None]


def _add_normalisations(found: Aspects, asked: Asked, accepted: Accepted) -> None:
    is_grey = _values(found.order) == ["grey"]
    if asked.data.mean is not None and asked.data.std is not None:
        mean, std = asked.data.mean, asked.data.std
        if is_grey and len(mean) != 1:
            raise ValueError(f"data.mean has {len(mean)} values, but the model takes grey images: give one")
        _add(found.normalisation, (mean, std), "data.mean and data.std")
        return
    if accepted.dtype in USUAL_INTEGERS:
        _add(found.normalisation, USUAL_INTEGERS[accepted.dtype], "the graph's input")
        return
    for statement in asked.statements:
        if statement.normalisation and (not is_grey or len(statement.normalisation[0]) == 1):
            _add(found.normalisation, statement.normalisation, statement.source)
    for normalisation in USUAL_GREY if is_grey else USUAL:
        _add(found.normalisation, normalisation)
    if asked.moments and (not is_grey or len(asked.moments[0]) == 1):
        _add(found.normalisation, asked.moments)


def _add_classes(found: Aspects, asked: Asked, accepted: Accepted) -> None:
    classes, count = asked.classes, accepted.outputs
    sources = [(statement.labels, statement.source) for statement in asked.statements if statement.labels]
    if asked.model.labels:
        sources = [(read_labels(Path(asked.model.labels).expanduser()), f"models.labels = {asked.model.labels}")]
    for names, source in sources:
        outputs, trouble = by_names(classes, names)
        if len(names) != count:
            outputs, trouble = None, f"it names {len(names)} classes, and the model has {count} outputs"
        if outputs is None:
            if asked.model.labels:
                raise ValueError(f"{source}: {trouble}; give a class of the data per line, in the order of the outputs")
            found.notes.append(f"the names of {source} are not used: {trouble}")
            continue
        in_order = outputs == tuple(range(count))
        _add(found.classes, ClassOrder(f"classes by the names of {source}", None if in_order else outputs), source)
    if asked.model.labels:
        return
    seen = [option.value.outputs for option in found.classes]
    for words, outputs in usual_orders(classes, count):
        if outputs not in seen:
            _add(found.classes, ClassOrder(f"classes in {words}", outputs))
    if not found.classes:
        raise ValueError(
            f"the model has {count} outputs and the data {len(classes)} classes, and nothing says which stands for "
            "which: give models.labels, a text file with the name of a class per line, in the order of the outputs"
        )


def _values(options: Sequence[Option]) -> list[Any]:
    return [option.value for option in options]


def tries(found: Aspects, accepted: Accepted, geometries: Sequence[Option]) -> list[Try]:
    """Return the tries that combine the options with these geometries, as far as they fit each other."""
    told = found.told()
    combined = []
    for options in product(found.order, found.layout, geometries, found.normalisation, found.classes):
        order, layout, geometry, normalisation, _ = options
        fits = any(
            name == layout.value
            and (channels == 1) == (order.value == "grey")
            and size in (None, geometry.value.image_size)
            for name, channels, size in accepted.layouts
        )
        # Nobody uses Caffe's mean with another order than Caffe's.
        if not fits or (normalisation.value == CAFFE and order.value != "bgr" and not normalisation.told):
            continue
        lists = (found.order, found.layout, found.geometry, found.normalisation, found.classes)
        rank = sum(of_aspect.index(option) for of_aspect, option in zip(lists, options, strict=True))
        as_told = all(getattr(Try(*options), name) in stated for name, stated in told.items())
        combined.append(Try(*options, rank=rank, as_told=as_told))
    return combined


def screened(found: Aspects, own_size: int | None) -> list[Option]:
    """Return the geometries that are tried first: one for each size that is told, that is fixed, or in `SCREENED`."""
    first: dict[int, Option] = {}
    for option in found.geometry:
        first.setdefault(option.value.image_size, option)
    sizes = (*SCREENED, own_size)
    return [option for size, option in first.items() if option.told or size in sizes] or list(first.values())


def near(found: Aspects, geometry: Geometry) -> list[Option]:
    """Return the geometries that are tried once `geometry` is the best: sizes from half of it to twice, all resizes."""
    size = geometry.image_size
    return [option for option in found.geometry if size / 2 < option.value.image_size < size * 2]
