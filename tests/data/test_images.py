"""Known answers for splits, statistics, halves, batches and augmentation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import functional

from darts_lib.engine.batches import epoch_batches
from darts_lib.data.images import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    ImageSet,
    Split,
    augment,
    crop_and_flip,
    cut_out,
    halves,
    load_images,
    normalise,
    statistics,
)
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import DATASETS

NOWHERE = Path("/nowhere")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_set(
    count: int = 6, channels: int = 3, height: int = 8, width: int = 8, labels: Tensor | None = None
) -> ImageSet:
    """Return random pictures of three classes, pad 2 and flip on."""
    images = torch.randint(
        256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(count)
    )
    labels = torch.arange(count) % 3 if labels is None else labels
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return ImageSet("toy", images, labels, ("ant", "bee", "cat"), mean, std, pad=2, flip=True)


def test_an_image_set_selects_and_moves_pictures_with_their_labels() -> None:
    toy = image_set()
    assert (len(toy), toy.channels, toy.size) == (6, 3, (8, 8))
    picked = toy.select(torch.tensor([4, 1]))
    assert picked.labels.tolist() == [1, 1]
    assert torch.equal(picked.images, toy.images[[4, 1]])
    assert (picked.classes, picked.mean, picked.pad) == (toy.classes, toy.mean, toy.pad)
    assert len(toy.select(slice(2))) == 2
    moved = toy.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"


# Loading ----------------------------------------------------------------------------------------


def test_the_settings_of_a_set_belong_to_all_of_it() -> None:
    train, test = load_images("digits", NOWHERE, "train"), load_images("digits", NOWHERE, "test")
    assert (len(train), len(test)) == (1437, 360)
    assert (train.channels, train.size, train.pad, train.flip) == (1, (8, 8), 1, False)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.classes == tuple("0123456789")
    pixels = train.images.double() / 255
    assert_close(train.mean[0], float(pixels.mean()))
    assert_close(train.std[0], float(pixels.std(correction=0)))
    assert (test.mean, test.std) == (train.mean, train.std)


def test_max_images_keeps_the_first_and_the_statistics_of_all() -> None:
    everything = load_images("digits", NOWHERE, "train")
    some = load_images("digits", NOWHERE, "train", max_images=50)
    assert torch.equal(some.images, everything.images[:50])
    assert torch.equal(some.labels, everything.labels[:50])
    assert some.mean == everything.mean


def test_an_unknown_data_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"'cifar_10'.*Did you mean 'cifar10'\?") as caught:
        load_images("cifar_10", NOWHERE, "train")
    assert all(name in str(caught.value) for name in DATASETS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "max_images", "named"),
    [(16, 0, "image_size is 16"), (-1, 0, "image_size is -1"), (0, -5, "max_images is -5")],
)
def test_figures_without_meaning_are_refused(size: int, max_images: int, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_images("digits", NOWHERE, "train", size, max_images)


@pytest.mark.parametrize(
    ("dataset", "pad", "flip"),
    [
        ("cifar10", 4, True),
        ("cifar100", 4, True),
        ("fashion_mnist", 4, True),
        ("svhn", 4, False),
    ],
)
def test_pad_and_flip_of_a_downloaded_set(
    dataset: str, pad: int, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = image_set()
    part = (toy.images, toy.labels)
    monkeypatch.setattr(
        "darts_lib.data.data_sets.read_downloaded", lambda *_: (part, part, toy.classes)
    )
    loaded = load_images(dataset, NOWHERE, "test")
    assert (loaded.name, loaded.pad, loaded.flip) == (dataset, pad, flip)
    expected = (CIFAR10_MEAN, CIFAR10_STD) if dataset == "cifar10" else statistics(toy.images)
    assert (loaded.mean, loaded.std) == expected


def test_statistics_equal_numpys_and_survive_a_constant_channel() -> None:
    images = image_set(50, height=5, width=7).images
    mean, std = statistics(images)
    pixels = images.numpy() / 255
    assert_allclose(mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    assert_allclose(std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    assert statistics(torch.full((2, 1, 4, 4), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


# Halves -----------------------------------------------------------------------------------------


def test_halves_are_the_first_and_the_second_in_file_order() -> None:
    toy = image_set(13)
    first, second = halves(toy)
    assert (len(first), len(second)) == (6, 7)
    assert torch.equal(torch.cat([first.images, second.images]), toy.images)
    assert torch.equal(torch.cat([first.labels, second.labels]), toy.labels)


def test_a_class_missing_in_a_half_is_named_with_its_counts() -> None:
    toy = image_set(8, labels=torch.tensor([0, 1, 2, 2, 0, 1, 0, 1]))
    with pytest.raises(SettingsError, match=r"'cat'.* has 2 .* weights' half and 0 .*max_images"):
        halves(toy)
    with pytest.raises(SettingsError, match="'bee'"):
        halves(image_set(8, labels=torch.tensor([0, 2, 0, 2, 0, 1, 2, 0])))


def test_three_pictures_have_no_two_halves() -> None:
    with pytest.raises(SettingsError, match="toy has 3 pictures"):
        halves(image_set(3))


def test_the_halves_of_the_digits_have_every_class() -> None:
    first, second = halves(load_images("digits", NOWHERE, "train"))
    assert (len(first), len(second)) == (718, 719)


# Batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "batch_size", "lengths"),
    [
        (128, 64, [64, 64]),
        (65, 64, [65]),
        (129, 64, [64, 65]),
        (130, 64, [64, 64, 2]),
        (5, 2, [2, 3]),
        (2, 2, [2]),
    ],
)
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_cover_every_picture_once(
    count: int, batch_size: int, lengths: list[int], seed: int | None
) -> None:
    batches = epoch_batches(count, batch_size, None if seed is None else seeded(seed))
    assert [len(batch) for batch in batches] == lengths
    joined = torch.cat(batches)
    assert joined.dtype == torch.int64
    assert sorted(joined.tolist()) == list(range(count))
    assert (joined.tolist() == list(range(count))) == (seed is None or count == 2)


def test_shuffling_follows_the_generator() -> None:
    generator = seeded(3)
    first, second = (torch.cat(epoch_batches(100, 10, generator)) for _ in range(2))
    again = torch.cat(epoch_batches(100, 10, seeded(3)))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(epoch_batches(100, 10, seeded(4))))


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"batch_size is 1: .*two pictures, use 2 or more"):
        epoch_batches(10, 1, seeded(0))


def test_training_needs_one_full_batch_and_evaluation_does_not() -> None:
    with pytest.raises(SettingsError, match=r"64 .* the 56 pictures.* batch_size of 56 or less"):
        epoch_batches(56, 64, seeded(0))
    assert [batch.tolist() for batch in epoch_batches(3, 64, None)] == [[0, 1, 2]]
    assert [batch.tolist() for batch in epoch_batches(1, 64, None)] == [[0]]


# Augmentation -----------------------------------------------------------------------------------


def test_normalise_equals_torchvisions() -> None:
    toy = image_set()
    expected = functional.normalize(toy.images.float() / 255, list(toy.mean), list(toy.std))
    assert_close(normalise(toy.images, toy.mean, toy.std), expected)
    grey = normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), (0.5,), (0.25,))
    assert grey.flatten().tolist() == [-2.0, 2.0]


def slow_augment(toy: ImageSet, cutout: int, generator: torch.Generator) -> Tensor:
    """Augment picture by picture with torchvision and slices, in the same order of draws."""
    count, (height, width) = len(toy), toy.size

    def draw(high: int) -> list[int]:
        return [int(number) for number in torch.randint(high, (count,), generator=generator)]

    mirrored = draw(2) if toy.flip else [0] * count
    top, left = draw(2 * toy.pad + 1), draw(2 * toy.pad + 1)
    centres = list(zip(draw(height), draw(width), strict=True)) if cutout else []
    results = []
    for i, picture in enumerate(toy.images):
        padded = functional.pad(picture, [toy.pad] * 4)
        crop = functional.crop(padded, top[i], left[i], height, width)
        crop = functional.hflip(crop) if mirrored[i] else crop
        result = functional.normalize(crop.float() / 255, list(toy.mean), list(toy.std))
        if cutout:
            half, (row, column) = cutout // 2, centres[i]
            rows, columns = (
                np.clip([row - half, row + half], 0, height),
                (column - half, column + half),
            )
            result[:, rows[0] : rows[1], max(columns[0], 0) : columns[1]] = 0
        results.append(result)
    return torch.stack(results)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 11), (9, 5)])
@pytest.mark.parametrize("cutout", [0, 4])
def test_augment_equals_a_loop_over_pictures(
    channels: int, height: int, width: int, cutout: int
) -> None:
    toy = image_set(40, channels, height, width)
    result = augment(toy.images, toy, cutout, seeded(7))
    assert result.dtype == torch.float32
    assert_close(result, slow_augment(toy, cutout, seeded(7)))


def test_the_generator_decides_every_bit() -> None:
    toy = image_set(20)
    generator = seeded(1)
    first, second = (augment(toy.images, toy, 4, generator) for _ in range(2))
    assert torch.equal(first, augment(toy.images, toy, 4, seeded(1)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, augment(toy.images, toy, 4, seeded(2)))


def crops_of_one_picture(count: int, flip: bool) -> list[tuple[bytes, ...]]:
    """Return the augmented copies of one 8x8 picture whose pixels all differ, pad 1."""
    picture = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    batch = picture.expand(count, 1, 8, 8)
    labels = torch.zeros(count, dtype=torch.int64)
    toy = ImageSet("toy", batch, labels, ("one",), (0.0,), (1.0,), pad=1, flip=flip)
    result = (augment(batch, toy, 0, seeded(0)) * 255).round().to(torch.uint8)
    return [(crop.numpy().tobytes(),) for crop in result]


def test_crops_and_flips_are_drawn_evenly_and_for_each_picture() -> None:
    crops = crops_of_one_picture(4500, flip=True)
    kinds = {crop: crops.count(crop) for crop in set(crops)}
    assert len(kinds) == 3 * 3 * 2
    # 250 of each expected, standard deviation 15: five of them.
    assert all(abs(number - 250) < 77 for number in kinds.values())


def test_without_flip_nothing_is_mirrored() -> None:
    assert len(set(crops_of_one_picture(500, flip=False))) == 3 * 3


def test_the_middle_crop_is_the_picture_and_a_corner_brings_zeros() -> None:
    batch = image_set(2).images
    both = torch.tensor([2, 0])
    result = crop_and_flip(batch, 2, both, both, torch.tensor([True, False]))
    assert torch.equal(result[0], batch[0].flip(-1))
    assert torch.equal(result[1, :, 2:, 2:], batch[1, :, :6, :6])
    assert not result[1, :, :2].any()
    assert not result[1, :, :, :2].any()


def test_cutout_area_over_all_centres() -> None:
    centres = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    cut = cut_out(torch.ones(1024, 1, 32, 32), centres[:, 0], centres[:, 1], 16) == 0
    areas = cut.flatten(1).sum(dim=1)
    # A row of 32 has 17 centres with all 16 pixels, and 14 covered pixels on average.
    assert int(areas.sum()) == (14 * 32) ** 2
    assert int((areas == 256).sum()) == 17**2
    assert round(float(areas.double().mean()) / 1024, 3) == 0.191
    assert round(17**2 / 1024, 3) == 0.282
    assert int(areas.min()) == 64


@pytest.mark.parametrize(
    ("length", "rows"), [(1, [3]), (2, [2, 3]), (4, [1, 2, 3, 4]), (5, [1, 5])]
)
def test_the_box_runs_from_half_below_to_half_above(length: int, rows: list[int]) -> None:
    cut = cut_out(torch.ones(1, 3, 9, 9), torch.tensor([3]), torch.tensor([4]), length) == 0
    assert torch.equal(cut[0, 0], cut[0, 2])
    covered = cut[0, 0].any(dim=1).nonzero().flatten().tolist()
    assert (covered[0], covered[-1], len(covered)) == (rows[0], rows[-1], length)
    assert int(cut[0, 0].sum()) == length**2


# Real data --------------------------------------------------------------------------------------


@pytest.mark.real_data("cifar-10-batches-py")
def test_the_real_cifar10(real_data_root: Path) -> None:
    expected: list[tuple[Split, int]] = [("train", 5000), ("test", 1000)]
    for split, count in expected:
        loaded = load_images("cifar10", real_data_root, split)  # checks torchvision's checksums
        assert loaded.images.shape == (10 * count, 3, 32, 32)
        assert loaded.labels.bincount().tolist() == [count] * 10
        assert (loaded.mean, loaded.std) == (CIFAR10_MEAN, CIFAR10_STD)
        assert loaded.labels[:4].tolist() == ([6, 9, 9, 4] if split == "train" else [3, 8, 8, 0])
        if split == "train":
            measured_mean, measured_std = statistics(loaded.images)
            assert_allclose(measured_mean, CIFAR10_MEAN, atol=1e-5, rtol=0)
            assert_allclose(measured_std, CIFAR10_STD, atol=1e-5, rtol=0)
            assert [len(half) for half in halves(loaded)] == [25_000, 25_000]
