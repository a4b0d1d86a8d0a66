"""Networks from files of weights: the shape is read off the weights, the names are made ours.

Known files: the original's CIFAR-10 and ImageNet state dicts, MMRazor's subnets, and what `retrain`
writes. MMRazor names an operation by its edge, `normal_n3_p1` (node 3 hears state 1), where the
original counts operations, so the genotype is needed. Two layouts are known: that of its main
branch, and that of version 0.1.0, known from its source only.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from darts_lib.engine.refusals import SettingsError
from darts_lib.formats.weight_files import Weights, check_fit, listed, load_weights, read_weights
from darts_lib.genotype import Genotype
from darts_lib.network import CellStack, ImageNetNetwork, Network
from darts_lib.search_space import INPUTS, reductions

IMAGENET_STEM = "stem0.0.weight"  # the first weight of the ImageNet form


def load_network(
    path: Path, genotype: Genotype | None = None, **expected: int | None
) -> tuple[CellStack, Genotype]:
    """Return the network of a file of weights, in evaluation mode, and its genotype.

    `expected` may name `channels`, `layers` or `auxiliary`; a file of another shape is refused.
    Raises SettingsError if the file carries no genotype and none is given, or does not fit it.
    """
    file = read_weights(path)
    cell = genotype or file.genotype
    if cell is None:
        raise SettingsError(f"{path} carries no genotype; name it, for example --genotype DARTS_V2")
    build, weights = file.fitting(lambda weights: _plan(path, weights, cell, expected))
    net = build()
    load_weights(net, weights, path)
    return net.eval(), cell


def _plan(
    path: Path, weights: Weights, cell: Genotype, expected: Mapping[str, int | None]
) -> tuple[Callable[[], CellStack], Weights]:
    """Return what builds the network, and the weights by our names: all fit, before it is built."""
    tensors = {as_main(name): value for name, value in weights.items()}
    mmrazor = {"backbone.stem.0.weight", "head.fc.weight"} <= {*tensors}
    shape = _shape_of(path, tensors, mmrazor)
    for name, value in expected.items():
        if value is not None and value != shape[name]:
            raise SettingsError(f"{path} has {name}={shape[name]}, not {value}.")
    build = partial(Network if "in_channels" in shape else ImageNetNetwork, cell, **shape)
    with torch.device("meta"):  # shapes only: a file does not decide how much memory is taken
        plan = build()
    if mmrazor:
        names = mmrazor_names(plan.state_dict(), cell, shape["layers"])
        ours = {theirs: name for name, theirs in names.items()}
        tensors = {ours.get(name, name): value for name, value in tensors.items()}
    check_fit(plan, tensors, path)
    return build, tensors


SUPERNETS = {
    r"cells\.\d+\._ops\.\d+\._ops\.": "the original does not store alphas there: the cell is in "
    "its log.txt",
    r"cells\.\d+\.(edges|fans)\.": "load_search(FOLDER) reads a search, and the folder itself "
    "stands for its cell",
}
"""Names of a supernet's weights, the original's and ours, and where the cell is instead."""


def _shape_of(path: Path, tensors: Weights, mmrazor: bool) -> dict[str, Any]:
    """Read what a network takes besides its genotype off the weights."""
    for pattern, place in SUPERNETS.items():
        if any(re.match(pattern, name) for name in tensors):
            alphas = [name for name in tensors if "alpha" in name]
            there = f"its alphas stand beside them ({listed(alphas)})" if alphas else place
            raise SettingsError(
                f"{path} holds the weights of a search, not of a derived network; {there}."
            )
    stem = "backbone.stem.0.weight" if mmrazor else "stem.0.weight"
    imagenet = IMAGENET_STEM in tensors and not mmrazor
    first = tensors[IMAGENET_STEM if imagenet else stem]
    classifier = tensors["head.fc.weight" if mmrazor else "classifier.weight"]
    numbers = {n for name in tensors for n in re.findall(r"\bcells\.([0-9]+)\.preproc", name)}
    layers = sum(str(n) in numbers for n in range(len(numbers)))
    width = first.shape[:1].numel()
    channels = 2 * width if imagenet else width // 3
    whole = 0 < layers == len(numbers) and len(tensors) > 10 * layers  # else of names alone
    if first.dim() != 4 or classifier.dim() != 2 or not channels or not whole:
        raise SettingsError(
            f"{path} is of no derived network: its stem is {tuple(first.shape)}, its classifier "
            f"{tuple(classifier.shape)}, its cells are {listed(sorted(numbers))}."
        )
    shape = {"layers": layers, "classes": len(classifier), "channels": channels}
    shape["auxiliary"] = any("aux" in name for name in tensors)
    if imagenet:
        return shape
    # Among our own names a normalisation right inside an operation is that of a pool.
    pooled = any("pool" in name or re.search(r"_ops\.\d+\.1\.weight", name) for name in tensors)
    return {**shape, "in_channels": first.shape[1], "pool_norm": pooled}


# --- what MMRazor calls the weights -----------------------------------------------------------

WHOLE = (
    (r"stem\.(.+)", r"backbone.stem.\1"),
    (r"classifier\.(.+)", r"head.fc.\1"),
    (r"auxiliary_head\.classifier\.(.+)", r"head.aux_linear.\1"),
    # The spelling is that of the source.
    (r"auxiliary_head\.features\.(.+)", r"backbone.auxliary_module.net.\1"),
    (r"(cells\.\d+)\.preprocess(\d)\.op\.(.+)", r"backbone.\1.preproc\2.net.\3"),
    (r"(cells\.\d+)\.preprocess(\d)\.conv_(\d)\.(.+)", r"backbone.\1.preproc\2.conv\3.\4"),
    (r"(cells\.\d+)\.preprocess(\d)\.(bn\..+)", r"backbone.\1.preproc\2.\3"),
)
INSIDE = (
    (r"op\.([123])\.(.+)", r"conv1.\1.\2"),
    (r"op\.5\.(.+)", r"conv2.1.\1"),
    (r"op\.6\.(.+)", r"conv2.2.\1"),
    (r"op\.7\.(.+)", r"conv2.3.\1"),
    (r"conv_(\d)\.(.+)", r"conv\1.\2"),
    (r"(?:bn|1)\.(.+)", r"bn.\1"),  # 1 is the normalisation after a pool
)
OPERATION = re.compile(r"cells\.(\d+)\._ops\.(\d+)\.(.+)")


def mmrazor_names(names: Iterable[str], genotype: Genotype, layers: int) -> dict[str, str]:
    """Return MMRazor's name (main branch, without prefix) for each of our names."""

    def translated(name: str) -> str:
        if not (match := OPERATION.fullmatch(name)):
            return _first_match(name, WHOLE)
        cell, position, node = int(match[1]), int(match[2]), int(match[2]) // 2
        kind = "reduce" if cell in reductions(layers) else "normal"
        operation, source = genotype.pairs(kind)[position]
        edge = f"nodes.{node}.route._candidates.{kind}_n{node + INPUTS}_p{source}"
        inside = _first_match(match[3], INSIDE)
        return f"backbone.cells.{cell}.{edge}._candidates.{operation}.{inside}"

    return {name: translated(name) for name in names}


def _first_match(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"{name!r} is the name of no weight of a derived network.")


def as_main(name: str) -> str:
    """Bring a name of a checkpoint to the form of the main branch, from an older layout."""
    name = name.replace(".edges.choices.", ".route._candidates.")
    return name.replace(".0.choices.", "._candidates.")
