"""What the search for forms tries next: an int8 setting, and how many blocks of layers stay in floating point.

First, for each runtime, it looks for the fewest blocks that must stay in floating point so that the fastest form loses
no more than it may, by bisection, because divergence falls with the number of blocks and latency rises. Then Optuna's
sampler proposes (TPE for several objectives with constraints: Ozaki et al. 2022, Multiobjective tree-structured Parzen
estimator).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import optuna

    from tasks.records import Scored, Tried

MOST_BLOCKS = 24
"""Blocks in floating point at most. A form with more of them is hardly an int8 form."""
FIRST_KEPT = 2
"""Blocks in floating point of a bisection's first trial."""
STARTUP = 6
"""Trials before the sampler's model is used. Until then it draws at random."""
ATTEMPTS = 50
"""How often the sampler is asked for something that was not tried before."""


@dataclass(frozen=True)
class Proposal:
    """One trial: a setting, the runtime by whose ranking blocks are kept in floating point, and their number."""

    setting: str
    runtime: str
    kept: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """What can be tried."""

    settings: tuple[str, ...]
    """Int8 settings."""
    mixable: frozenset[str]
    """Those of whose forms blocks can be put into floating point."""
    blocks: dict[str, int]
    """Runtime -> number of its ranked blocks."""
    max_drop: float
    """How much validation top-1 a form may lose."""

    def most_kept(self, runtime: str) -> int:
        """Return how many blocks can stay in floating point in a runtime."""
        return min(self.blocks[runtime], MOST_BLOCKS)


@dataclass(frozen=True)
class Attempt:
    """What was tried, and what came of it."""

    proposal: Proposal
    scored: Scored | None
    """None: it failed."""
    ended: str
    """How it ended, as in `Tried.ended`."""

    @property
    def latency(self) -> float | None:
        """Median latency in its runtime in milliseconds, None where it was not measured."""
        return self.scored.latencies.get(self.proposal.runtime) if self.scored else None

    def is_allowed(self, max_drop: float) -> bool:
        """Return whether its drop is known and not too large."""
        return self.scored is not None and self.scored.drop is not None and self.scored.drop <= max_drop + 1e-9


def attempts(space: Space, base: Sequence[Scored], earlier: Sequence[Tried]) -> list[Attempt]:
    """Return everything that was tried: the forms of the stage quantize in every runtime, then the trials.

    A form that a runtime does not execute counts as failed there. A form without blocks in floating point is the same
    whatever the runtime, so that it counts in every runtime in which it was measured.
    """
    before = [
        Attempt(Proposal(scored.setting, runtime, 0), scored, "done" if runtime in scored.latencies else "failed")
        for scored in base
        for runtime in space.blocks
        if scored.setting in space.settings
    ]
    return before + [attempt for tried in earlier for attempt in _attempts_of(space, tried)]


def _attempts_of(space: Space, tried: Tried) -> list[Attempt]:
    """Return what one trial says of each runtime."""
    if tried.ended == "nothing left":
        return []
    runtimes = [tried.runtime]
    # Where a form could not even be made, it can be made for no other runtime.
    if tried.ended in ("done", "failed") and not tried.kept:
        runtimes += [name for name in space.blocks if name != tried.runtime]
    scored = tried.scored
    return [
        Attempt(
            Proposal(tried.setting, runtime, tried.kept),
            scored,
            "failed" if tried.ended == "done" and scored and runtime not in scored.latencies else tried.ended,
        )
        for runtime in runtimes
    ]


def propose(space: Space, past: Sequence[Attempt], seed: int) -> Proposal | None:
    """Return what to try next, None where nothing is left. The same past and seed give the same proposal."""
    tried = {attempt.proposal for attempt in past}
    for proposal in _first(space, past):
        if proposal not in tried:
            return proposal
    return _sampled(space, past, tried, seed)


def _first(space: Space, past: Sequence[Attempt]) -> Iterator[Proposal]:
    """Yield what is tried before the sampler is asked: by turns a step of a runtime's bisection, and a new setting."""
    depths = Counter(attempt.proposal.runtime for attempt in past if attempt.proposal.kept)
    steps = [_bisected(space, past, runtime) for runtime in sorted(space.blocks, key=lambda name: depths[name])]
    bisections = [step for step in steps if step is not None]
    tried_settings = {attempt.proposal.setting for attempt in past}
    first_runtime = next(iter(space.blocks))
    new = [Proposal(setting, first_runtime, 0) for setting in space.settings if setting not in tried_settings]
    yield from (*new, *bisections) if past and past[-1].proposal.kept else (*bisections, *new)


def _bisected(space: Space, past: Sequence[Attempt], runtime: str) -> Proposal | None:
    """Return the next step of the bisection of a runtime's fastest form, None where it has come to its end."""
    plain = [
        attempt
        for attempt in past
        if attempt.proposal.runtime == runtime
        and attempt.proposal.kept == 0
        and attempt.latency is not None
        and attempt.proposal.setting in space.mixable
    ]
    if not plain:
        return None
    fastest = min(plain, key=lambda attempt: attempt.latency or 0.0)
    if fastest.is_allowed(space.max_drop):
        return None
    setting = fastest.proposal.setting
    own = [attempt for attempt in past if (attempt.proposal.setting, attempt.proposal.runtime) == (setting, runtime)]
    allowed = [attempt.proposal.kept for attempt in own if attempt.is_allowed(space.max_drop)]
    # With more blocks in floating point, a form that is slower than fp32 does not become faster.
    ends = [attempt.proposal.kept for attempt in own if attempt.ended in ("slower", "failed")]
    below = max(
        (
            attempt.proposal.kept
            for attempt in own
            if not attempt.is_allowed(space.max_drop) and attempt.ended == "done"
        ),
        default=0,
    )
    above = min(allowed + ends, default=None)
    kept = min(max(FIRST_KEPT, 2 * below), space.most_kept(runtime)) if above is None else (below + above) // 2
    proposal = Proposal(setting, runtime, kept)
    return proposal if kept > below and kept != above and _may_help(space, past, proposal) else None


def _sampled(space: Space, past: Sequence[Attempt], tried: set[Proposal], seed: int) -> Proposal | None:
    """Return what Optuna's sampler proposes that was not tried, None where that is nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    most = max((space.most_kept(runtime) for runtime in space.blocks), default=0)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "setting": optuna.distributions.CategoricalDistribution(space.settings),
        "runtime": optuna.distributions.CategoricalDistribution(tuple(space.blocks)),
        "kept": optuna.distributions.IntDistribution(0, most),
    }
    left = [
        proposal
        for setting in space.settings
        for runtime in space.blocks
        for kept in range(space.most_kept(runtime) + 1)
        if (proposal := Proposal(setting, runtime, kept)) not in tried and _may_help(space, past, proposal)
    ]
    study = _study(space, past, distributions, seed)
    for _ in range(ATTEMPTS if left else 0):
        trial = study.ask(distributions)
        proposal = Proposal(**trial.params)
        if proposal in left:
            return proposal
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return next(iter(left), None)


def _may_help(space: Space, past: Sequence[Attempt], proposal: Proposal) -> bool:
    """Return whether a proposal may be faster than what was tried, and within the allowed drop.

    More blocks in floating point than are needed make a form slower, and fewer make its drop larger. A form that is
    slower with fewer blocks than the fastest allowed one is slower with more blocks, too.
    """
    if proposal.kept and proposal.setting not in space.mixable:
        return False
    allowed = [
        attempt.latency
        for attempt in past
        if attempt.proposal.runtime == proposal.runtime and attempt.latency and attempt.is_allowed(space.max_drop)
    ]
    best = min(allowed, default=math.inf)
    own = [
        attempt
        for attempt in past
        if (attempt.proposal.setting, attempt.proposal.runtime) == (proposal.setting, proposal.runtime)
    ]
    if any(attempt.ended == "failed" and not attempt.proposal.kept for attempt in own):
        return False
    for attempt in own:
        too_slow = attempt.ended == "slower" or (attempt.latency or 0.0) > best
        if attempt.proposal.kept < proposal.kept and (too_slow or attempt.is_allowed(space.max_drop)):
            return False
    lossy = (attempt for attempt in own if attempt.ended == "done" and not attempt.is_allowed(space.max_drop))
    return all(attempt.proposal.kept < proposal.kept for attempt in lossy)


def _study(
    space: Space,
    past: Sequence[Attempt],
    distributions: dict[str, optuna.distributions.BaseDistribution],
    seed: int,
) -> optuna.Study:
    """Return an Optuna study of the past: divergence and latency are to be small, under the limit of the drop."""
    import optuna

    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for attempt in past:
        if (
            attempt.scored is None
            or attempt.latency is None
            or attempt.proposal.kept > space.blocks.get(attempt.proposal.runtime, -1)
        ):
            continue
        drop = attempt.scored.drop
        # A form that was left after the first look was not within the limit, or not fast.
        excess = space.max_drop if drop is None else drop - space.max_drop
        study.add_trial(
            optuna.trial.create_trial(
                params={
                    "setting": attempt.proposal.setting,
                    "runtime": attempt.proposal.runtime,
                    "kept": attempt.proposal.kept,
                },
                distributions=distributions,
                values=[attempt.scored.look, attempt.latency],
                # Above 0 is over the limit.
                constraints={"drop": excess},
            )
        )
    return study
