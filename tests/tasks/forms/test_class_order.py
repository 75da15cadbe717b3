"""Outputs of a model are matched with the data's classes by their names, else by the usual orders."""

from __future__ import annotations

import numpy as np

from tasks.forms._classes import by_names, reordered, usual_orders


def test_names_match_whatever_their_case_and_separators() -> None:
    assert by_names(("Polar_Bear", "cat"), ("cat", "dog", "polar bear"))[0] == (2, 0)


def test_names_match_by_synonyms_and_by_wordnet_ids() -> None:
    names = ("n01440764 tench, Tinca tinca", "n01443537 goldfish, Carassius auratus", "n02012849 crane")
    assert by_names(("n01443537", "n01440764"), names)[0] == (1, 0)
    assert by_names(("tench", "Carassius auratus", "crane"), names)[0] == (0, 1, 2)
    assert by_names(("goldfish, carassius auratus", "n02012849"), names)[0] == (1, 2)


def test_a_name_that_several_outputs_have_tells_none() -> None:
    outputs, trouble = by_names(("crane", "tench"), ("crane, bird", "tench", "crane, machine"))
    assert outputs is None
    assert trouble == "1 of the data's 2 classes (crane) are not among its names"
    assert by_names(("kit fox", "fox"), ("fox, kit fox", "wolf, fox"))[0] is None
    assert by_names(("a", "A"), ("a", "b"))[1] == "several of the data's classes match the same one of its names"


def test_the_usual_orders_are_the_data_and_the_alphabet() -> None:
    assert usual_orders(("a", "b"), 2) == [("the data's order", None)]
    assert usual_orders(("b", "C", "a"), 3) == [
        ("the data's order", None),
        ("alphabetical order", (2, 0, 1)),
        ("alphabetical order without case", (1, 2, 0)),
    ]
    assert ("order of the numbers in the names", (0, 2, 1)) in usual_orders(("c1", "c10", "c2"), None)


def test_one_output_more_is_the_background_and_other_numbers_tell_nothing() -> None:
    assert usual_orders(("a", "b"), 3) == [("the data's order, after one output more", (1, 2))]
    assert usual_orders(("a", "b"), 1000) == []


def test_an_order_is_found_from_predictions_and_none_where_there_is_none() -> None:
    dice = np.random.default_rng(0)
    labels = dice.integers(0, 10, 200)
    order = dice.permutation(10)
    predicted = np.where(dice.random(200) < 0.7, order[labels], dice.integers(0, 10, 200))
    right, found = reordered(predicted, labels, 10)
    assert found.tolist() == order.tolist()
    assert 0.6 < right.mean() < 0.85
    by_chance, _ = reordered(dice.integers(0, 10, 200), labels, 10)
    assert by_chance.mean() < 0.2
