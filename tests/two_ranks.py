"""What a process of test_ranks.py runs, alone or by torchrun.

    two_ranks.py steps OUT.pt             some steps in float64, normalised without the batch
    two_ranks.py search CONFIG.json       a search as its command does it
    two_ranks.py dies CONFIG.json         the same, but the second rank dies after the second epoch

Normalisation looks at one example and channel only (GroupNorm), so that half a batch on each of two
ranks is the same calculation as the whole on one.
"""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.engine.command_line import read_config
from darts_lib.engine.folder import Row
from darts_lib.engine.ranks import Ranks, joined
from darts_lib.fast import fan
from darts_lib.retrain import RetrainConfig, Retraining
from darts_lib.search import Search, SearchConfig, search


def normalise(x: Tensor, gain: Tensor | None = None) -> Tensor:
    return F.group_norm(x, x.shape[1] // 2, gain)


def use_group_norm(net: nn.Module) -> None:
    """Put GroupNorm, with the same gain and bias, where a network has BatchNorm.

    Groups of two channels: with one, the mean over an image would be 0 and so would all gradients.
    """
    fan.normalise = normalise
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                group = nn.GroupNorm(child.num_features // 2, child.num_features)
                group.weight, group.bias = child.weight, child.bias
                setattr(module, name, group)


def retrained() -> dict[str, Tensor]:
    """Retrain for three steps; two ranks have each half of a batch, in two parts."""
    given = {"scale": "laptop", "channels": 4, "layers": 3, "batch_size": 12, "drop_path": 0.0}
    given |= {"max_images": 240, "max_steps": 3, "accumulate": Ranks.current().count}
    run = Retraining(RetrainConfig.create(**given, genotype="DARTS_V1", device="cpu"))
    use_group_norm(run.net)
    run.epoch(0)
    return {f"retrained: {name}": weight.detach() for name, weight in run.net.named_parameters()}


def steps(path: str) -> None:
    """Take three steps of a search of either order, and of a retraining; store where they ended."""
    torch.set_default_dtype(torch.float64)
    given = {"scale": "laptop", "channels": 4, "layers": 3, "nodes": 2, "batch_size": 12}
    given |= {"max_images": 240}  # of an uneven batch the ranks would leave some out
    ended = retrained()
    for order in (1, 2):
        run = Search(SearchConfig.create(**given, order=order, max_steps=3, device="cpu"))
        use_group_norm(run.net)
        run.epoch(0)
        reached = {**run.weights, **run.alphas}
        ended |= {f"order {order}: {name}": value.detach() for name, value in reached.items()}
    if Ranks.current().first:
        torch.save(ended, path)


def searches(path: str, dying: bool = False) -> None:
    """Search; if `dying`, the second rank ends after the second epoch."""

    def after_epoch(row: Row) -> None:
        if dying and Ranks.current().rank == 1 and row["epoch"] == 2:
            os._exit(9)

    search(read_config(Path(path), SearchConfig), after_epoch)


def dies(path: str) -> None:
    searches(path, dying=True)


if __name__ == "__main__":
    with joined():
        {"steps": steps, "search": searches, "dies": dies}[sys.argv[1]](*sys.argv[2:])
