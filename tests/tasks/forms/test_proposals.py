"""What the search proposes: first a bisection per runtime and new settings, then what Optuna's sampler draws."""

from __future__ import annotations

from tasks.forms.proposals import Attempt, Proposal, Space, attempts, propose
from tasks.records import Scored, Tried

LATENCIES = {"onnxruntime": {"fast": 2.0, "exact": 6.0}, "openvino": {"fast": 1.5, "exact": 4.0}}
DROPS = {"fast": 0.02, "exact": 0.004}
MAX_DROP = 0.005
SETTINGS = ("fast", "exact", "new")
SPACE = Space(
    settings=SETTINGS, mixable=frozenset(SETTINGS), blocks={"onnxruntime": 12, "openvino": 9}, max_drop=MAX_DROP
)


def scored(setting: str, kept: int = 0) -> Scored:
    """Each block in float takes a quarter of the drop and costs 4 % of the latency."""
    drop = DROPS.get(setting, 0.02) * 0.75**kept
    times = {name: by.get(setting, by["fast"]) * (1 + 0.04 * kept) for name, by in LATENCIES.items()}
    return Scored(setting=setting, look=drop, divergence=drop, drop=drop, latencies=times)


BASE = (scored("fast"), scored("exact"))


def searched(space: Space, trials: int, ended: dict[int, str] | None = None) -> list[Tried]:
    """Run a search of so many trials; `ended` says how those end that do not end with scores."""
    tried: list[Tried] = []
    for number in range(1, trials + 1):
        proposal = propose(space, attempts(space, BASE, tried), number)
        if proposal is None:
            break
        tried.append(
            Tried(
                number=number,
                setting=proposal.setting,
                runtime=proposal.runtime,
                kept=proposal.kept,
                ended=(ended or {}).get(number, "done"),  # type: ignore[arg-type]
                scored=scored(proposal.setting, proposal.kept) if (ended or {}).get(number) != "failed" else None,
            )
        )
    return tried


def kept_in(tried: list[Tried], runtime: str) -> list[int]:
    return [trial.kept for trial in tried if (trial.runtime, trial.setting) == (runtime, "fast")]


def test_each_runtimes_bisection_ends_at_the_fewest_blocks_within_the_budget() -> None:
    tried = searched(SPACE, 11)
    # 0.02 · 0.75^k is at most 0.005 from k = 5 on.
    assert kept_in(tried, "onnxruntime") == [2, 4, 8, 6, 5]
    assert kept_in(tried, "openvino") == [2, 4, 8, 6, 5]


def test_the_runtimes_take_turns_and_a_new_setting_is_tried_early() -> None:
    tried = searched(SPACE, 3)
    assert [(trial.setting, trial.runtime, trial.kept) for trial in tried] == [
        ("fast", "onnxruntime", 2),
        ("new", "onnxruntime", 0),
        ("fast", "openvino", 2),
    ]


def test_a_form_that_is_slower_than_fp32_ends_its_bisection() -> None:
    tried = searched(
        Space(settings=("fast",), mixable=frozenset(["fast"]), blocks={"onnxruntime": 12}, max_drop=MAX_DROP),
        4,
        {2: "slower"},
    )
    assert kept_in(tried, "onnxruntime")[:3] == [2, 4, 3]


def test_nothing_is_tried_twice_and_the_search_ends_where_nothing_is_left() -> None:
    small = Space(settings=("fast",), mixable=frozenset(["fast"]), blocks={"onnxruntime": 3}, max_drop=MAX_DROP)
    tried = searched(small, 50)
    # One block less than two, which were too few, is not tried.
    assert [trial.kept for trial in tried] == [2, 3]
    assert propose(small, attempts(small, BASE, tried), 51) is None


def test_the_same_past_and_seed_give_the_same_proposal() -> None:
    tried = searched(SPACE, 14)
    assert searched(SPACE, 14) == tried
    past = attempts(SPACE, BASE, tried)
    assert propose(SPACE, past, 1) == propose(SPACE, past, 1)


def test_the_sampler_tries_only_what_may_be_faster_and_within_the_budget() -> None:
    """More blocks than are needed make a form slower, and fewer than were too few make its drop larger."""
    tried = searched(SPACE, 60)
    assert len(tried) < 30
    for place, trial in enumerate(tried):
        for before in tried[:place]:
            if (before.setting, before.runtime) == (trial.setting, trial.runtime) and before.scored is not None:
                assert before.scored.drop is not None
                assert (before.kept < trial.kept) == (before.scored.drop > MAX_DROP)


def test_a_failed_trial_is_not_tried_again() -> None:
    tried = searched(SPACE, 6, {1: "failed"})
    proposals = [Proposal(trial.setting, trial.runtime, trial.kept) for trial in tried]
    assert len(set(proposals)) == len(proposals)


def test_layers_of_a_form_of_a_rewritten_graph_never_stay_in_floating_point() -> None:
    space = Space(settings=SETTINGS, mixable=frozenset(["exact"]), blocks={"onnxruntime": 4}, max_drop=0.001)
    tried = searched(space, 20)
    assert {trial.setting for trial in tried if trial.kept} == {"exact"}
    assert [(trial.setting, trial.kept) for trial in tried if not trial.kept] == [("new", 0)]


def test_blocks_are_not_added_to_a_form_that_is_slower_than_an_allowed_one_already() -> None:
    quick = scored("exact").model_copy(update={"latencies": {"onnxruntime": 2.1, "openvino": 4.0}})
    space = Space(
        settings=("fast", "exact"), mixable=frozenset(SETTINGS), blocks={"onnxruntime": 12}, max_drop=MAX_DROP
    )
    two = Tried(number=1, setting="fast", runtime="onnxruntime", kept=2, ended="done", scored=scored("fast", 2))
    # With two blocks, the fast form takes 2.16 ms, and the exact one is allowed at 2.1 ms.
    assert propose(space, attempts(space, (BASE[0], quick), [two]), 2) is None


def test_a_form_that_a_runtime_does_not_execute_is_not_tried_there() -> None:
    refused = scored("fast").model_copy(update={"latencies": {"onnxruntime": 2.0}})
    past = attempts(SPACE, (refused, BASE[1]), [])
    assert [attempt.ended for attempt in past] == ["done", "failed", "done", "done"]
    tried: list[Proposal] = []
    for seed in range(20):
        proposal = propose(SPACE, [*past, *(Attempt(each, None, "failed") for each in tried)], seed)
        if proposal is None:
            break
        tried.append(proposal)
    assert tried and not [each for each in tried if (each.setting, each.runtime) == ("fast", "openvino")]


def test_a_form_without_blocks_in_floating_point_is_tried_once_for_all_runtimes() -> None:
    new = Tried(number=1, setting="new", runtime="onnxruntime", kept=0, ended="done", scored=scored("new"))
    past = attempts(SPACE, BASE, [new])
    assert [attempt.proposal for attempt in past[-2:]] == [
        Proposal("new", "onnxruntime", 0),
        Proposal("new", "openvino", 0),
    ]
