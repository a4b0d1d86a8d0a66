"""What a run sees: pictures of one's own, clean ones to judge by, and in each epoch others."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_tools import Patch, Printed
from picture_tools import make, save
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from darts_lib import search as searching
from darts_lib.data.images import ImageSet, augmented_batch, load_images, normalise
from darts_lib.engine.files import unpack
from darts_lib.engine.settings import RunConfig
from darts_lib.genotype import Genotype
from darts_lib.network import Network
from darts_lib.relaxation import mix
from darts_lib.retrain import RetrainConfig, Retraining, evaluate, retrain
from darts_lib.search import Search, SearchConfig, search
from darts_lib.transfer import ImageNetRetrainConfig, ImageNetRetraining

CELL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=[2], "
    "reduce=[('max_pool_3x3', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])"
)
SMALL = {"scale": "laptop", "layers": 2, "max_steps": 2, "batch_size": 8, "epochs": 1}
TO_SEARCH = {**SMALL, "channels": 2, "nodes": 1}
FEW_STEPS = {**TO_SEARCH, "epochs": 3, "max_steps": 0, "alpha_learning_rate": 3e-4}
TO_RETRAIN = {**SMALL, "channels": 4, "genotype": CELL}


# Pictures of one's own ---------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_own_pictures_go_from_search_to_retraining_by_parameters_alone(
    mode: str, channels: int, tmp_path: Path
) -> None:
    """Classes and channels come from the folder; a blank or an umlaut in a path does no harm."""
    root, there = make(tmp_path / "my pictures, süß", 6), tmp_path / "not yet" / "there"
    for path in root.rglob("*.JPEG"):
        Image.open(path).convert(mode).save(path)
    own: Any = {"dataset": "folder", "data_root": str(root), "image_size": 9, "cutout": 4}
    found = search(SearchConfig.create(**TO_SEARCH, **own, run_dir=str(there / "a sëarch")))
    own |= {"genotype": str(found.path), "run_dir": str(there / "b")}
    result = retrain(RetrainConfig.create(**{**TO_RETRAIN, **own}))
    assert result.genotype == found.genotype
    assert (result.figures["test_images"], result.figures["tested_on"]) == (6, "test images")
    state: Any = unpack(found.path / "checkpoint.pt")["state"]
    stored = load_file(result.path / "weights.safetensors")
    assert len(stored["auxiliary_head.classifier.weight"]) == 3
    for weights in (state["weights"], stored):
        assert len(weights["classifier.weight"]) == 3
        assert weights["stem.0.weight"].shape[1] == channels


@pytest.mark.parametrize(("run", "config", "counts", "lines"), [
    (Search, partial(SearchConfig.create, **FEW_STEPS),
     {"few": 5, "many": 40, "some": 10},
     ["22 images for the weights (2 to 16 a class), 22 for the alphas, 3 steps an",
      "warning: 9 steps of about 0.0003 move each alpha by 0.0027 at most, so the cell found will "
      "be noise"]),
    (Retraining, partial(RetrainConfig.create, **TO_RETRAIN), {"a": 10, "b": 10},
     ["16 training images (8 a class), 2 steps an epoch"]),
])  # fmt: skip
def test_the_pictures_of_a_class_and_too_few_steps_are_told_before_the_first_step(
    run: Any, config: Any, counts: dict[str, int], lines: list[str], tmp_path: Path, capsys: Printed
) -> None:
    for name, i in ((name, i) for name, count in counts.items() for i in range(count)):
        save(tmp_path / "own" / name / f"{i}.png")
    run(config(dataset="folder", data_root=str(tmp_path / "own"), image_size=8)).describe()
    said = capsys.readouterr().out
    assert [line for line in lines if line not in said] == []


# What a search and a retraining see -------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "parts"), [(8, [2, 2, 2, 2]), (7, [3, 2, 2]), (5, [3, 2]), (3, [3]), (2, [2])]
)
def test_a_part_of_a_batch_has_two_pictures_or_more(count: int, parts: list[int]) -> None:
    """Of one alone the auxiliary head's last normalisation has a single value a channel."""
    run, seen = Retraining(RetrainConfig.create(**TO_RETRAIN, accumulate=4)), []
    run.net.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    ((images, labels),) = next(run.batches(torch.Generator().manual_seed(0)))
    assert run.step((images[:count], labels[:count]))[2] == count
    assert seen == parts


def assert_figures(found: dict[str, Any], names: str, logits: Tensor, labels: Tensor) -> None:
    """Compare a loss and an accuracy, by their names, with those of the logits."""
    loss, accuracy = names.split()
    assert found[loss] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert found[accuracy] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


@torch.no_grad()
def test_accuracies_are_those_of_clean_pictures() -> None:
    """Of a set that was split by index, the part that judges must not be augmented too."""
    run = Search(SearchConfig.create(**TO_SEARCH, cutout=4))
    found = run.evaluate()
    torch.rand(3)
    assert run.evaluate() == found
    clean = normalise(run.valid.images[:16], run.valid.mean, run.valid.std)
    logits = torch.cat([run.net(batch, mix(run.alphas)) for batch in clean.split(8)])
    assert_figures(found, "valid_loss valid_accuracy", logits, run.valid.labels[:16])
    test = load_images("digits", Path(), "test", max_images=21)
    net = Network(Genotype.from_text(CELL), 4, 3, 10, 1).eval()
    logits, _ = net(normalise(test.images, test.mean, test.std))
    assert_figures(evaluate(net, test, 8), "loss top1", logits, test.labels)


FROM_FILES = {**TO_RETRAIN, "batch_size": 6, "workers": 2}


@pytest.mark.parametrize(("run", "config", "given"), [
    (Search, SearchConfig, TO_SEARCH),
    (Retraining, RetrainConfig, TO_RETRAIN),
    (ImageNetRetraining, ImageNetRetrainConfig, FROM_FILES),
])  # fmt: skip
def test_no_two_epochs_draw_alike_and_each_draws_the_same_again(
    run: Any, config: type[RunConfig], given: dict[str, Any], tmp_path: Path
) -> None:
    own = {"data_root": str(make(tmp_path))} if given is FROM_FILES else {}
    run, seen = run(config.create(**given, **own)), []

    def step(*batches: tuple[Tensor, Tensor]) -> Tensor:
        seen[-1] += [images for images, _ in batches]
        return torch.ones(3)

    run.take = step
    for epoch in (0, 1, 0):
        seen.append([])
        run.epoch(epoch)
    first, second, again = (torch.cat(images) for images in seen)
    assert torch.equal(first, again)
    assert first.shape == second.shape
    assert not torch.equal(first, second)
    if given is FROM_FILES:  # of photographs no two crops are the same
        both = [image.numpy().tobytes() for image in torch.cat([first, second])]
        assert len(set(both)) == len(both) == 24


def test_the_alphas_half_is_used_up_before_it_is_drawn_anew(monkeypatch: Patch) -> None:
    """Begun anew at each step, a half is not covered, and a loader starts its workers each time."""
    drawn: list[Tensor] = []
    run = Search(SearchConfig.create(**{**TO_SEARCH, "max_steps": 0, "max_images": 200}))
    run.valid = run.valid.select(slice(20))

    def noting(images: ImageSet, indices: Tensor, *rest: Any) -> Any:
        if images is run.valid:
            drawn.append(indices)
        return augmented_batch(images, indices, *rest)

    monkeypatch.setattr(searching, "augmented_batch", noting)
    steps = len(list(run.batches(torch.Generator().manual_seed(0))))
    assert steps == len(drawn) == 13
    passes = [torch.cat(drawn[start : start + 3]).tolist() for start in range(0, 12, 3)]
    assert [sorted(each) for each in passes] == [list(range(20))] * 4
    assert len({tuple(each) for each in passes}) == 4, "in another order each time"
