"""Batches of training images: their order, their random draws, where they are kept, and their augmentation."""

from __future__ import annotations

import logging

import numpy
import pytest
import torch
import torch._dynamo.utils

from tasks.records import Prepared, Train
from tasks.training import batches
from tasks.training.batches import Gathered, Plan, Resident, source, subset
from tasks.training.policies import DRAWS, Augmentation, Normaliser, Policy, crop_flip, erase, policy

SIZE = 16
LOG = logging.getLogger("burnish.test")


def pictures(count: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, SIZE, SIZE, channels), dtype=torch.uint8, generator=torch.Generator())


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def prepared(channels: int = 3) -> Prepared:
    return Prepared.model_construct(mean=(0.4,) * channels, std=(0.3,) * channels, channels=channels)


def test_a_subset_has_each_class_by_its_share_and_may_be_smaller_than_the_classes():
    rows, labels = numpy.arange(5, 605), numpy.arange(605) % 200
    few_rows = subset(rows, labels, 128, seed=0)
    assert (
        len(set(labels[few_rows])) == len(few_rows) == 128
        and set(few_rows) <= set(rows)
        and (numpy.diff(few_rows) > 0).all()
    )
    assert (numpy.bincount(labels[subset(rows, labels, 400, seed=0)]) == 2).all()
    assert (few_rows != subset(rows, labels, 128, seed=1)).any()
    assert subset(rows, labels, None, seed=0) is rows


def test_each_image_is_shifted_and_mirrored_by_its_own_draws():
    pixels, drawn = pictures(64), draws(64)
    augmented = crop_flip(pixels, drawn, crop=True, flip=True)
    for image, cropped, image_draws in zip(pixels.numpy(), augmented.numpy(), drawn.numpy(), strict=True):
        # The image is padded by an eighth of its 16 pixels and cropped at one of 5 × 5 places.
        top, left = (int(image_draws[axis] * 5) for axis in (0, 1))
        padded = numpy.pad(image[:, ::-1] if image_draws[2] < 0.5 else image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        assert (cropped == padded[top : top + SIZE, left : left + SIZE]).all()
    # More than half of the 50 combinations of place and mirroring are drawn.
    assert len({tuple((image_draws[:3] * torch.tensor([5, 5, 2])).int().tolist()) for image_draws in drawn}) > 25


def test_crops_reach_every_place_and_half_of_the_images_are_mirrored():
    line = torch.arange(SIZE, dtype=torch.uint8)
    pixels = (line[:, None] * SIZE + line)[None, :, :, None].expand(4000, -1, -1, 1)
    shifted = crop_flip(pixels, draws(4000), crop=True, flip=False)[:, SIZE // 2, SIZE // 2, 0]
    places, counts = shifted.unique(return_counts=True)
    assert len(places) == 25
    # Each of the 25 places is expected 160 times among 4000 images.
    assert counts.min() > 100
    mirrored = crop_flip(pixels, draws(4000), crop=False, flip=True)[:, 0, 0, 0] == SIZE - 1
    assert 0.46 < mirrored.float().mean() < 0.54


def test_erasing_zeroes_a_random_box_in_half_of_the_images():
    erased = erase(torch.ones(2000, 3, SIZE, SIZE), draws(2000)) == 0
    # A box is erased in every channel.
    assert (erased == erased[:, :1]).all()
    touched = erased[:, 0].flatten(1).any(1)
    assert 0.46 < touched.float().mean() < 0.54
    for image in erased[touched][:200, 0]:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all() and image.sum() == box.numel()
    areas = erased[touched][:, 0].flatten(1).float().mean(1)
    assert areas.min() < 0.04 and 0.28 < areas.max() < 0.38
    assert len(erased[touched].flatten(1).unique(dim=0)) > 500


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_normaliser_of_training_equals_the_normalisation_for_the_runtimes(channels_last):
    from tasks.datasets._pixels import normalise

    pixels, data = pictures(8), prepared()
    normalised = Normaliser(data, "cpu", channels_last)(pixels)
    numpy.testing.assert_allclose(normalised, normalise(pixels.numpy(), data.mean, data.std), atol=2e-6)
    assert normalised.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_the_labels_of_mixed_images_are_class_probabilities():
    data, labels = prepared(), torch.arange(8) % 4
    for name in ("mixup", "cutmix"):
        augment = Augmentation(policy(name, 4), Normaliser(data, "cpu"), compiled=False)
        images, target = augment(pictures(8), draws(8), labels)
        assert images.shape == (8, 3, SIZE, SIZE)
        torch.testing.assert_close(target.sum(1), torch.ones(8))


@pytest.mark.slow
def test_compiled_augmentation_equals_plain_augmentation():
    pixels, drawn, labels = pictures(8), draws(8), torch.zeros(8, dtype=torch.long)
    full_policy = Policy(crop=True, flip=True, erase=True)
    plain, compiled = (Augmentation(full_policy, Normaliser(prepared(), "cpu", True), c) for c in (False, True))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain(pixels, drawn, labels)
    assert not torch._dynamo.utils.counters["stats"]
    compiled(pixels, drawn, labels)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "the augmentation is one compiled graph"
    torch.testing.assert_close(compiled(pixels, drawn, labels)[0], plain(pixels, drawn, labels)[0])


@pytest.mark.parametrize("processes", [2, 3])
def test_the_parts_of_all_processes_make_up_the_batches_of_one_process(processes):
    whole = Plan(103, 32)
    parts = [Plan(103, 32, rank, processes) for rank in range(processes)]
    # 103 images are three batches of 32, and the incomplete fourth is left out.
    assert len(whole.parts) == 3
    for n, batch in enumerate(whole.parts):
        places = [place for plan in parts for place in range(plan.parts[n].start, plan.parts[n].stop)]
        assert places == list(range(batch.start, batch.stop))
        assert sum(plan.weight(plan.parts[n]) for plan in parts) == pytest.approx(processes)
    assert all(torch.equal(a, b) for a, b in zip(whole.draw(1, 2), parts[1].draw(1, 2), strict=True))
    assert not torch.equal(whole.draw(1, 2)[0], whole.draw(1, 3)[0])
    assert [len(order) for order in Plan(20, 32).draw(0, 1)] == [20, 20]
    assert len(Plan(20, 32).parts) == 1


@pytest.mark.parametrize("each", [None, torch.flipud], ids=["plain", "image by image"])
def test_workers_gather_the_same_batches_as_a_source_on_the_device(each):
    images, labels = pictures(50).numpy(), numpy.arange(50)
    rows = numpy.flatnonzero(labels % 3 != 0)
    plan = Plan(len(rows), 8)
    gathered = {
        workers: list(Gathered(images, labels, rows, "cpu", workers, True, each).epoch(plan, 0, 1))
        for workers in (0, 1)
    }
    resident = list(Resident(images, labels, rows, "cpu").epoch(plan, 0, 1))
    assert len(resident) == len(plan.parts) == 4
    for by_training, by_worker, by_device in zip(gathered[0], gathered[1], resident, strict=True):
        assert torch.equal(by_training.pixels, by_worker.pixels) and torch.equal(by_training.draws, by_worker.draws)
        assert torch.equal(by_training.labels, by_device.labels) and torch.equal(by_training.draws, by_device.draws)
        assert torch.equal(by_training.pixels.flip(3) if each else by_training.pixels, by_device.pixels)
        assert (torch.from_numpy(images)[by_device.labels] == by_device.pixels).all()


@pytest.mark.parametrize(
    ("device", "pin", "pinned"), [("cuda:0", True, True), ("cuda:0", False, False), ("cpu", True, False)]
)
def test_gathered_images_are_pinned_only_for_a_gpu_and_only_if_the_setting_says_so(device, pin, pinned):
    source = Gathered(pictures(8).numpy(), numpy.arange(8), numpy.arange(8), device, 0, pin, None)
    assert source.loader.pin_memory is pinned


def test_a_policy_for_single_images_gives_the_same_batches_with_any_number_of_workers():
    images, labels, rows = pictures(32).numpy(), numpy.arange(32), numpy.arange(32)
    each, plan = policy("trivialaugment", 10).each, Plan(32, 8)
    from_one_worker = list(Gathered(images, labels, rows, "cpu", 1, False, each).epoch(plan, 0, 1))
    state = torch.random.get_rng_state()
    without_workers = list(Gathered(images, labels, rows, "cpu", 0, False, each).epoch(plan, 0, 1))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(from_one_worker, without_workers, strict=True))
    assert all(batch.pixels.is_contiguous() for batch in without_workers)
    assert torch.equal(torch.random.get_rng_state(), state)
    next_epoch = list(Gathered(images, labels, rows, "cpu", 0, False, each).epoch(plan, 0, 2))
    assert not torch.equal(without_workers[0].pixels, next_epoch[0].pixels)


def test_images_are_kept_on_the_device_if_they_fit_and_one_log_line_says_why(monkeypatch, caplog):
    images, labels, rows = pictures(40).numpy(), numpy.arange(40), numpy.arange(40)
    caplog.set_level(logging.INFO)

    def chosen(free: int, each=None, **settings):
        monkeypatch.setattr(batches, "free_bytes", lambda device: free)
        caplog.clear()
        images_source = source(images, labels, rows, "cpu", Train(**settings), each, LOG)
        assert len(caplog.messages) == 1
        return type(images_source), caplog.messages[0]

    assert chosen(4 * images.nbytes) == (
        Resident,
        "40 training images of 0.0 MB are kept on cpu, which has 0.0 GB free",
    )
    kind, line = chosen(4 * images.nbytes - 1)
    assert (
        kind is Gathered
        and "by no worker but training itself (train.workers = 0): over 25% of the 0.0 GB free on cpu" in line
    )
    # Two processes would keep the images twice.
    assert chosen(4 * images.nbytes, processes=2, device="cpu")[0] is Gathered
    assert chosen(1, loading="device")[0] is Resident
    kind, line = chosen(1 << 30, loading="workers", workers=2)
    assert kind is Gathered and "by 2 workers: train.loading = workers" in line
    kind, line = chosen(1 << 30, each=torch.flipud)
    assert kind is Gathered and "workers: the policy works on one image at a time" in line
