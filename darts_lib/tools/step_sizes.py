"""The sizes at which steps of a search are compared, timed and weighed, on random pictures."""

from dataclasses import dataclass

import torch

from darts_lib.data.images import Batch
from darts_lib.search_settings import SearchConfig
from darts_lib.search_step import SearchStep


@dataclass(frozen=True)
class Size:
    """One size of the comparison: a supernet and its images."""

    channels: int
    layers: int
    pixels: int
    batch: int

    def __str__(self) -> str:
        return f"C={self.channels}, {self.layers} cells, {self.pixels} px, batch {self.batch}"

    def config(self, **given: object) -> SearchConfig:
        """Return the search of this size."""
        shape = {"channels": self.channels, "layers": self.layers, "batch_size": self.batch}
        return SearchConfig.create(scale="laptop", **shape, **given)

    def start(self, device: torch.device, **given: object) -> SearchStep:
        """Return a search of this size before its first step."""
        return SearchStep(self.config(**given), 10, (3, self.pixels, self.pixels), device)

    def batch_of(self, device: torch.device) -> Batch:
        """Return random pictures with labels."""
        images = torch.randn(self.batch, 3, self.pixels, self.pixels, device=device)
        return images, torch.randint(10, (self.batch,), device=device)


def random_step(size: Size, run: SearchStep) -> object:
    """Take one step on random pictures of this size."""
    return run.eager_step(*size.batch_of(run.device), *size.batch_of(run.device))


SMALL = (Size(4, 3, 8, 16),)
PAPERS_BATCH = 64
ROOM = 24 * 2**30
"""Bytes for the benchmark with the paper's batch: on the CPU it held up to 21 GiB."""


def sizes(device: torch.device, batch: int = 0) -> tuple[Size, ...]:
    """Return the sizes to compare: the laptop's, and the paper's with so many pictures a batch.

    0 is the paper's batch where a GPU has the memory, and 16 elsewhere: over 64 pictures the plain
    side takes 19 s for a forward and a backward pass on two cores.
    """
    room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    return Size(8, 4, 16, 64), Size(16, 8, 32, batch or (PAPERS_BATCH if room > ROOM else 16))
