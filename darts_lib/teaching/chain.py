"""A network in which skip connections win: mixed operations in a row, and two alphas for all."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.data.images import ImageSet, clean_batch


class Chain(nn.Module):
    """Fifteen mixed operations in a row, five before and after each halving. All share two alphas.

    x  ->  weights[0] * x  +  weights[1] * convolution(x)
    """

    def __init__(self, length: int = 5, channels: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.stem, self.stages = _convolution(1, channels, 3), nn.ModuleList()
        for stage in range(3):
            width = channels * 2**stage
            into = nn.Sequential(nn.AvgPool2d(2), _convolution(width // 2, width, 1))
            layers = [
                nn.Sequential(nn.ReLU(), _convolution(width, width, 3)) for _ in range(length)
            ]
            self.stages.append(nn.ModuleList([into if stage else nn.Identity(), *layers]))
        self.norm = nn.BatchNorm2d(width, affine=False, track_running_stats=False)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return logits `(batch, classes)`; `weights["edge"]` is `(1, 2)`: skip, convolution."""
        skip, share = weights["edge"][0]
        x = self.stem(images)
        for stage in self.stages:
            into, *layers = cast("nn.ModuleList", stage)
            x = into(x)
            for layer in layers:
                x = skip * x + share * layer(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))

    @torch.no_grad()
    def accuracy(self, images: ImageSet, skip: float) -> float:
        """Return the accuracy on clean images where the skip has this softmax weight."""
        pixels, labels = clean_batch(images, torch.arange(len(images)))
        logits = self(pixels, {"edge": torch.tensor([[skip, 1 - skip]])})
        return float((logits.argmax(1) == labels).float().mean())


def _convolution(channels: int, width: int, side: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, side, padding=side // 2, bias=False)
    return nn.Sequential(
        convolution, nn.BatchNorm2d(width, affine=False, track_running_stats=False)
    )
