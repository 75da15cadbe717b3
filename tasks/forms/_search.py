"""Search for the preparation with which a given model is right most often, and decide whether that is clear."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tasks.forms._classes import reordered
from tasks.forms._options import near, screened, tries
from tasks.measure.metrics import mcnemar, paired_drop

if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence

    from tasks.forms._options import Accepted, Aspects
    from tasks.forms._tries import Trials, Try

COUNTS = (32, 80, 200)
"""Numbers of images in the rounds of the race. Most tries are clearly worse than the best after 32 images."""
WORSE = 0.01
"""A try leaves the race where a difference to the best that is as large has no higher probability by chance."""
FEWEST = 6
"""At least this many tries stay in the race for the next round, as long as they are not clearly worse."""
ERROR = 0.05
"""Probability of a wrong conclusion that is allowed, over all tries together."""
SKILL = 0.05
"""A trained model is expected to have a larger share than this of what is possible above chance."""
RESIZED = 0.05
"""A statement of the size is overruled by no smaller gain in top-1: a model gains up to a few points where it is tested
at a somewhat larger size than it was trained at (Touvron 2019, Fixing the train-test resolution discrepancy)."""
FEWEST_OF_CLASS = 8
"""With fewer images per class, an order of the outputs cannot be found from the images."""
NAMED = 3
"""A message names at most this many preparations that count as the same."""


class Choice(NamedTuple):
    """What several tries come down to."""

    chosen: Try
    same: list[Try]
    """Tries that count as the same as the chosen one."""
    rivals: list[Try]
    """Other tries that are not clearly worse, the best first. Where there are any, nothing shows which is right."""


class Search:
    """The search for the preparation of one model."""

    def __init__(self, aspects: Aspects, accepted: Accepted, trials: Trials, log: logging.Logger) -> None:
        self.aspects = aspects
        self.accepted = accepted
        self.trials = trials
        self.log = log
        images = len(trials.images)
        self.counts = sorted({min(count, images) for count in COUNTS})
        self.first = screened(aspects, trials.images.own_size)
        """The geometries that are tried first."""

    def find(self) -> Try:
        """Return the preparation: as it is told, unless another is clearly better; else the best, if clearly so.

        Raises
        ------
        ValueError
            If the model is no better than chance with any, or nothing shows which of several is the right one.
        """
        everything = tries(self.aspects, self.accepted, self.first)
        as_told = self._race([tried for tried in everything if tried.as_told])
        choice = self._choose(as_told) if as_told else None
        told = choice.chosen if choice else None
        others = self._race([tried for tried in everything if not tried.as_told], told)
        if not as_told and not others:
            raise ValueError(f"the model accepts none of the inputs that were tried: {self._refusal()}")
        if choice is None or any(self._overrules(tried, choice.chosen) for tried in others):
            choice = self._choose(others)
        self._refuse_unskilled(choice.chosen)
        if choice.rivals:
            raise ValueError(self._ambiguous([choice.chosen, *choice.rivals[:2]]))
        if choice.chosen is not told and len(as_told) < len(everything):
            self._tell_overruled(told, choice.chosen)
        self._tell_same(choice.chosen, choice.same)
        return choice.chosen

    @property
    def images(self) -> int:
        """Number of images in the last round."""
        return self.counts[-1]

    def _race(self, contenders: list[Try], kept: Try | None = None) -> list[Try]:
        """Return the tries that are not clearly worse than the best one, after each round on more images.

        Parameters
        ----------
        kept
            A try that stays in the race whatever happens. It has been tried on all images.
        """
        alive = contenders
        for number, count in enumerate(self.counts):
            if not alive:
                return []
            ways = "one way" if len(alive) == 1 else f"{len(alive)} ways"
            self.log.info("trying %s to prepare images, on %d images", ways, count)
            alive = [tried for tried in alive if self.trials.accepts(tried, count)]
            if not alive:
                return []
            in_race = [*alive, kept] if kept else alive
            best = self.trials.best(in_race, count)
            if number == len(self.counts) - 1:
                break
            good = [tried for tried in alive if self.trials.p_value(best, tried, count) >= WORSE]
            good.sort(key=lambda tried: (-self.trials.right(tried, count).sum(), tried.rank))
            alive = good[: max(FEWEST, len(good) // 2)]
            if number == 0 and best is not kept:
                alive += self._near(best, alive)
        return alive

    def _near(self, best: Try, known: Sequence[Try]) -> list[Try]:
        """Return tries that differ from the best one in the geometry alone, and are not known yet."""
        geometries = near(self.aspects, best.geometry.value)
        variants = [
            tried
            for tried in tries(self.aspects, self.accepted, geometries)
            if replace(tried, geometry=best.geometry, rank=best.rank, as_told=best.as_told) == best
            and tried.as_told == best.as_told
        ]
        return [tried for tried in variants if tried not in known]

    def _choose(self, alive: list[Try]) -> Choice:
        """Choose the best of the tries; of those that count as the same, the most usual."""
        trials, count = self.trials, self.images
        best = trials.best(alive, count)
        unbeaten = [tried for tried in alive if not trials.clearly_better(best, tried, count)]
        group, added = [best], [best]
        while added:
            added = [
                tried
                for tried in unbeaten
                if tried not in group and any(trials.same(tried, member, count) for member in added)
            ]
            group += added
        chosen = min(group, key=lambda tried: tried.rank)
        rivals = [tried for tried in unbeaten if tried not in group]
        rivals.sort(key=lambda tried: -trials.right(tried, count).sum())
        return Choice(chosen, [tried for tried in group if tried is not chosen], rivals)

    def _overrules(self, other: Try, told: Try) -> bool:
        """Return whether the images show that another preparation than the one that is told is right.

        As it is the best of many, the difference has to be less probable by chance than one between two would have to.
        """
        lost, mended = self.trials.differing(told, other, self.images)
        sizes_alone = replace(other, geometry=told.geometry, rank=told.rank, as_told=told.as_told) == told
        if mended <= lost or (sizes_alone and mended - lost < RESIZED * self.images):
            return False
        return self.trials.p_value(told, other, self.images) * len(self.trials.seen) < ERROR

    def _refuse_unskilled(self, chosen: Try) -> None:
        """Refuse a model that is hardly better than chance, or whose outputs seem to stand for other classes.

        Raises
        ------
        ValueError
            If a model that names the commonest class every time would have as many images right in one of the tries,
            with a probability above 5 %; if most classes are never right; or if another order of the classes has
            clearly more images right.
        """
        from scipy.special import betainc

        hits = self.trials.right(chosen, self.images)
        labels = self.trials.images.labels[: self.images]
        counts = np.bincount(labels, minlength=len(self.trials.images.classes))
        chance = float(max(1 / len(counts), counts.max() / len(labels)))
        limit = chance + SKILL * (1 - chance)
        right = int(hits.sum())
        # The probability of as many right images, where each is right with the probability `limit`.
        probability = float(betainc(right, len(labels) - right + 1, limit)) if right else 1.0
        # Weights that are not trained may be right more often than by chance, but then only for the classes that they
        # name all the time.
        frequent = counts >= FEWEST_OF_CLASS
        never_right = frequent & (np.bincount(labels[hits], minlength=len(counts)) == 0)
        is_near_chance = probability * len(self.trials.seen) > ERROR or 2 * never_right.sum() > frequent.sum()
        tried = list(dict.fromkeys(replace(other, classes=chosen.classes) for other in self.trials.seen))
        order = self._other_order(tried if is_near_chance else [chosen], chosen)
        if order:
            raise ValueError(order)
        if is_near_chance:
            never = f", and {never_right.sum()} of {frequent.sum()} frequent classes are never right"
            raise ValueError(
                f"the model is near chance however images are prepared: {right} of {len(labels)} are right in the best "
                f"of {len(self.trials.seen)} tries ({chosen}), {chance:.1%} would be by chance"
                f"{never if frequent.any() else ''}; check that the data's "
                "classes are the model's (models.labels, --labels, names them in the order of the outputs), that the "
                "labels are right, and that the file's weights are trained"
            )

    def _other_order(self, tried: list[Try], chosen: Try) -> str:
        """Return in words that another order of the outputs fits the images clearly better, or an empty text.

        Parameters
        ----------
        tried
            Preparations with which it may.
        """
        images = self.trials.images
        if self.images < FEWEST_OF_CLASS * len(images.classes):
            return ""
        labels = images.labels[: self.images]
        best = None
        for other in tried:
            if self.trials.accepts(other, self.images):
                outputs = self.trials.largest_output(other, self.images)
                right, order = reordered(outputs, labels, len(images.classes))
                if best is None or right.sum() > best[0].sum():
                    best = right, order
        now = self.trials.right(chosen, self.images)
        if best is None or best[0].sum() <= now.sum():
            return ""
        right, order = best
        if mcnemar(int((right & ~now).sum()), int((now & ~right).sum())) >= WORSE:
            return ""
        named = ", ".join(f"{name} is output {number}" for name, number in zip(images.classes, order, strict=True))
        return (
            f"the outputs do not stand for the classes in any order that was tried: {int(now.sum())} of {self.images} "
            f"images are right in the best ({chosen}), and {int(right.sum())} in this one: {named[:300]}; give "
            "models.labels (--labels), a text file with the class of each output per line, or check that the weights "
            "are trained"
        )

    def _ambiguous(self, candidates: list[Try]) -> str:
        """Return the message that names preparations of which none is clearly the best, and what tells them apart."""
        told = "; or ".join(f"{tried} (top-1 {self.top1(tried):.3f})" for tried in candidates)
        settings = {
            "order": "models.order (--order)",
            "layout": "models.layout (--layout)",
            "geometry": "data.image_size and data.resize (--image-size, --resize)",
            "normalisation": "data.mean and data.std (--mean, --std)",
            "classes": "models.labels (--labels)",
        }
        needed = [
            words
            for aspect, words in settings.items()
            if len({repr(getattr(tried, aspect).value) for tried in candidates}) > 1
        ]
        return (
            f"{self.images} labelled images do not show which preparation is right: {told}; give "
            f"{', '.join(needed)}, or more images"
        )

    def top1(self, tried: Try) -> float:
        """Return the share of images that are right, of those that the preparation was tried on."""
        return float(self.trials.right(tried, self.trials.seen[tried]).mean())

    def _refusal(self) -> str:
        """Return what the model says to the first input that it does not accept."""
        return next(iter(self.trials.refused.values()), "nothing was tried")[:300]

    def _tell_same(self, chosen: Try, others: list[Try]) -> None:
        """Log which preparations can't be told from the chosen one."""
        if others:
            named = "; ".join(f"{other} (top-1 {self.top1(other):.3f})" for other in others[:NAMED])
            rest = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
            text = f"{self.images} images do not tell {chosen} (top-1 {self.top1(chosen):.3f}) from {named}{rest}"
            self.log.info("%s; the first, which is the more usual, is taken", text)

    def _tell_overruled(self, told: Try | None, chosen: Try) -> None:
        """Warn that the images contradict what is stated."""
        if told is None:
            self.log.warning("the model accepts no input as it is stated (%s); taken: %s", self._refusal(), chosen)
            return
        wrong = [
            f"{option.by} ({name})"
            for name, options in self.aspects.told().items()
            for option in options
            if getattr(told, name) == option and getattr(chosen, name) != option
        ]
        low, high = paired_drop(*self.trials.differing(chosen, told, self.images), self.images)
        interval = f"95 % between {low:.3f} and {high:.3f} more, from {self.images} images"
        self.log.warning(
            "the images contradict %s: top-1 is %.3f as it is stated, and %.3f (%s) with %s, which is taken",
            " and ".join(dict.fromkeys(wrong)),
            self.top1(told),
            self.top1(chosen),
            interval,
            chosen,
        )
