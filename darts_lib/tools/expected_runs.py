"""What the full-scale runs are expected to need, from shapes: the README's table of commands.

    python -m darts_lib.expected_runs

Memory follows from the shapes alone, also for a machine that is not here. Time needs the machine:
each distinct operation of a step is timed on the one at hand, so what another needs is not told.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from darts_lib import imagenet_retrain
from darts_lib.cost.step_cost import StepCost, trace
from darts_lib.engine.devices import machine
from darts_lib.engine.heap import keep_freed_memory
from darts_lib.engine.places import project_root
from darts_lib.engine.progress import duration
from darts_lib.imagenet_retrain import ImageNetRetrainConfig
from darts_lib.network import CellStack
from darts_lib.retrain_step import RetrainConfig, RetrainStep
from darts_lib.search_settings import SearchConfig
from darts_lib.search_step import SearchStep
from darts_lib.tools.markdown import put_between_marks, table

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
Step = SearchStep | RetrainStep


@dataclass(frozen=True)
class Data:
    """The size of a data set; `image` is (channels, height, width)."""

    images: int
    classes: int
    image: tuple[int, int, int]


CIFAR10 = Data(50_000, 10, (3, 32, 32))
IMAGENET = Data(1_281_167, 1000, (3, 224, 224))


class ImageNetStep(RetrainStep):
    """A step of the ImageNet form, without pictures."""

    config: ImageNetRetrainConfig

    def build(self, classes: int, in_channels: int) -> CellStack:
        """Return the untrained network of the ImageNet form."""
        return imagenet_retrain.build_network(self.config, classes)


@dataclass(frozen=True)
class Run:
    """A full-scale run: what it is called, how it is started, its settings and its data."""

    name: str
    command: str
    config: SearchConfig | RetrainConfig
    data: Data
    timed: bool = True

    def cost(self, ranks: int) -> StepCost:
        """Return the cost of a step of one rank of so many."""
        count = self.config.batch_size // ranks

        def take(run: Step) -> None:
            batch = (torch.zeros(count, *self.data.image), torch.zeros(count, dtype=torch.int64))
            run.eager_step(*batch, *(batch if isinstance(run, SearchStep) else ()))

        return trace(self._step(), take)

    def _step(self) -> Step:
        config, data = self.config, self.data
        if isinstance(config, SearchConfig):
            return SearchStep(config, data.classes, data.image, CPU)
        form = ImageNetStep if isinstance(config, ImageNetRetrainConfig) else RetrainStep
        return form(config, data.classes, data.image[0], CPU)

    @property
    def steps(self) -> int:
        """Return the steps of the whole run; a search gives half of the images to the alphas."""
        images = self.data.images // (2 if isinstance(self.config, SearchConfig) else 1)
        return self.config.epochs * -(-images // self.config.batch_size)


def full_scale() -> list[Run]:
    """Return the paper's runs."""
    paper: dict[str, object] = {"scale": "paper", "device": "cpu"}
    first, second = (SearchConfig.create(**paper, epochs=50, order=order) for order in (1, 2))
    retraining = RetrainConfig.create(**paper, epochs=600)
    imagenet = ImageNetRetrainConfig.create(**paper)
    module = "`python -m darts_lib.imagenet_retrain CONFIG.json`"
    return [
        Run("search, CIFAR-10, first order", "03, `-p epochs 50 -p order 1`", first, CIFAR10),
        Run("search, CIFAR-10, second order", "03, `-p epochs 50`", second, CIFAR10),
        Run("retraining, CIFAR-10", "05, `-p epochs 600`", retraining, CIFAR10),
        Run("retraining, ImageNet", module, imagenet, IMAGENET, timed=False),
    ]


def rows(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return a row for each run, all of it expected and nothing measured."""
    found = []
    for run in runs:
        one, eight = run.cost(1), run.cost(8)
        seconds = one.seconds(CPU) * run.steps if run.timed else 0.0
        found.append(
            {
                "run, at paper scale": run.name,
                "command": run.command,
                "steps": f"{run.steps:,}",
                "GPU memory of a step": f"{one.memory(CUDA) / 2**30:.1f} GiB",
                "on each of 8 ranks": f"{eight.memory(CUDA) / 2**30:.1f} GiB",
                "time on this CPU": duration(seconds) if run.timed else "not timed",
            }
        )
    return found


def main() -> None:
    """Write the table into the README."""
    keep_freed_memory()  # as a run does
    here = machine()
    said = f"Expected, not measured; this CPU: {here['device']}, threads: {here['threads']}."
    put_between_marks(
        project_root() / "README.md", "expected", f"{said}\n\n{table(rows(full_scale()))}"
    )
