"""What a run warns of before its first step and after its last: each a list of lines, mostly empty.

They take plain figures, so that a run, a notebook and a sweep can ask alike.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from darts_lib.cost.complexity import count_parameters
from darts_lib.engine.settings import RunConfig
from darts_lib.genotype import Genotype
from darts_lib.operations import build_operation

History = Sequence[Mapping[str, Any]]


def ignored_order(config: RunConfig) -> list[str]:
    """Warn if a route and an order are both given: the route wins."""
    route, order = getattr(config, "route", ""), getattr(config, "order", 0)
    if route and "order" in config.model_fields_set:
        return [f"route={route} is given, so order={order} is ignored."]
    return []


def short_reach(steps: int, rate: float) -> list[str]:
    """Warn if the alphas cannot get far in so many steps; Adam moves by about its rate."""
    if steps * rate >= 0.1:  # less leaves each softmax weight, 1/8 at first, between 0.10 and 0.15
        return []
    return [
        f"{steps} steps of about {rate:g} move each alpha by {steps * rate:.2g} at most, so the "
        "cell found will be noise: raise alpha_learning_rate or epochs, or lower batch_size."
    ]


def large_pictures(side: int) -> list[str]:
    """Warn if pictures of so many pixels a side go through the form for CIFAR."""
    if side < 128:
        return []
    return [
        f"image_size={side}: the form for CIFAR works at full size in a third of its cells, so a "
        f"picture costs {(side / 64) ** 2:.0f} times what it does at 64: take image_size=64, or "
        "retrain in the form for ImageNet (python -m darts_lib.imagenet_retrain)."
    ]


def missing_cells(kinds: Sequence[str], layers: int) -> list[str]:
    """Warn if the supernet has no cell of some kinds: their alphas have no gradient."""
    return [
        f"with layers={layers} there is no {kind} cell, so no loss depends on its alphas and the "
        "one found is noise; use layers=3 or more."
        for kind in kinds
    ]


def chance_loss(history: History, classes: int, data: str = "data") -> list[str]:
    """Warn if the training loss never left the loss of guessing, ln(classes)."""
    lowest = min(row["train_loss"] for row in history)
    if lowest <= 0.98 * math.log(classes):
        return []
    level = "chance" if data == "data" else "that of guessing"
    return [
        f"the training loss stayed at {level}, ln({classes}) = {math.log(classes):.3f}; train "
        f"longer, or look at the learning rate and the {data}."
    ]


def after_search(history: History, classes: int, data: str = "data") -> list[str]:
    """Warn of what looks wrong in a search: a loss at chance level, collapse, frozen alphas."""
    warnings = chance_loss(history, classes, data)
    skips = history[-1].get("skips", 0)  # a recurrent cell has none
    if skips >= 3:  # of eight edges
        warnings.append(
            f"{skips} of the normal cell's edges are skip connections, a known weakness of DARTS, "
            "not a fault of this run: search for fewer epochs, try other seeds, or set max_skip."
        )
    if all(row["alpha_change"] < 1e-6 for row in history):
        warnings.append(
            "the alphas never moved, so the cell found is noise; check alpha_learning_rate."
        )
    return warnings


def poor_cell(genotype: Genotype) -> list[str]:
    """Warn if no edge of the normal cell has weights: a cell of pools and skip connections."""
    with torch.device("meta"):  # draws nothing from the generator
        operations = [build_operation(name, 2, 1, affine=True) for name, _ in genotype.normal]
    if any(count_parameters(operation) for operation in operations):
        return []
    return [
        "no edge of the normal cell has weights, only pools and skip connections, so the network "
        "can learn little: search with other seeds, for another number of epochs, or with max_skip."
    ]
