"""Retraining: a derived network from scratch into a run folder, tested once at the end.

    w = w - lr grad_w (L(w) + auxiliary_weight L_auxiliary(w))        each batch, dropping paths

`Retraining.step` is one turn of it. Source: DARTS paper, section 3.2 and appendix A.2.1.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from darts_lib.cost import advice
from darts_lib.cost.complexity import count_parameters, multiply_adds
from darts_lib.data.description import PictureData
from darts_lib.data.images import (
    Batch,
    ImageSet,
    a_class,
    augmented_batch,
    clean_batch,
    figures,
    held_out,
    load_splits,
    sums,
)
from darts_lib.data.picture_folder import fingerprint
from darts_lib.engine.batches import check_batch_size, epoch_batches
from darts_lib.engine.command_line import run_from_file
from darts_lib.engine.folder import Row
from darts_lib.engine.opening import same_run, stored_config, this_machine
from darts_lib.engine.optimisers import Part, cosine, momentum_sgd
from darts_lib.engine.progress import live
from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.run import UNNAMED, OnEpoch, Result, Run, run_in_folder
from darts_lib.engine.settings import RunConfig
from darts_lib.formats.cell_choice import CellSettings
from darts_lib.formats.weight_files import WEIGHTS, describe, load_weights, read_run, save_weights
from darts_lib.genotype import Genotype
from darts_lib.kernels.precision import as_autocast
from darts_lib.network import CellStack, Network

RetrainResult = Result[Genotype]
"""A finished retraining; `figures["test_accuracy"]`, a fraction of 1, is the result."""


class RetrainConfig(CellSettings, RunConfig):
    """Settings of a retraining. The defaults are the paper's for CIFAR-10 (appendix A.2.1).

    `genotype` is that of `CellSettings`. The learning rate follows a cosine to 0, or with
    `schedule` "exponential" is multiplied by `rate_decay` after each epoch. `holdout` is the share
    of the training images, the last ones, that the network is tested on instead of the test images
    and does not learn from: to choose among cells, which the test images must not do. A folder's
    validation split, if it has one beside its test split, takes the place of that share.
    `batch_size` is the whole batch: several ranks divide it, so the learning rate stays what it is;
    a batch k times as large wants k times the rate. `accumulate` computes a rank's share in so many
    parts, one after the other, for less memory. Either way a part is normalised by its own
    statistics; `sync_batch_norm` takes those of all ranks, on GPUs.
    """

    KIND = "retrain"
    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "digits",
        "channels": 8,
        "layers": 4,
        "epochs": 8,
        "threads": 1,
        "batch_size": 64,
        "cutout": 0,
        "drop_path": 0.1,
    }

    channels: int = Field(36, ge=2, le=10_000)
    layers: int = Field(20, ge=1, le=1000)
    batch_size: int = Field(96, ge=2)
    learning_rate: float = Field(0.025, gt=0)
    schedule: Literal["cosine", "exponential"] = "cosine"
    rate_decay: float = Field(0.97, gt=0, le=1)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    auxiliary: bool = True
    auxiliary_weight: float = Field(0.4, ge=0)
    drop_path: float = Field(0.2, ge=0, lt=1)
    cutout: int = Field(16, ge=0)
    holdout: float = Field(0.0, ge=0, lt=1)
    accumulate: int = Field(1, ge=1)
    sync_batch_norm: bool = False

    def fingerprint(self) -> Row:
        """Return that of one's own pictures, those of the test only where they judge."""
        return fingerprint(self, unused="test" if self.holdout else "valid")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of epoch 0, 1, ... `epochs - 1`."""
        if self.schedule == "exponential":
            return self.learning_rate * self.rate_decay**epoch
        return cosine(epoch, self.epochs, self.learning_rate, 0.0)

    def network(self, classes: int, in_channels: int) -> CellStack:
        """Return the untrained network, in channels_last: the fast layout."""
        shape = (self.channels, self.layers, classes, in_channels)
        return Network(self.cell, *shape, self.auxiliary).to(memory_format=torch.channels_last)


class Retraining(Run):
    """A retraining between two epochs: network and optimiser, pictures, and one step."""

    CONFIG: type[RunConfig] = RetrainConfig
    PRINTED = ("train_loss", "train_accuracy", "learning_rate", "drop_path", "seconds")
    LESS_MEMORY = "accumulate, or a smaller batch_size, channels or layers"
    KEPT = ("history.jsonl", WEIGHTS)
    figures = staticmethod(figures)
    config: RetrainConfig
    net: CellStack
    train: Any  # an ImageSet, or files that tell of themselves as one does
    tested_on = "test images"

    def __init__(
        self, config: RetrainConfig, folder: object = UNNAMED, data: ImageSet | None = None
    ) -> None:
        """Start a retraining. `data` are the pictures, if not the configuration's."""
        super().__init__(config, folder)
        self.train = self.pictures() if data is None else data.to(self.device)
        self.description = PictureData.row(self.train)
        check_batch_size(config.batch_size, len(self.train))
        form = (len(self.train.classes), self.train.channels)
        self.net = self.placed(lambda: config.network(*form))
        if config.sync_batch_norm:
            if self.device.type != "cuda":
                raise SettingsError(
                    f"sync_batch_norm=True needs GPUs, not {self.device.type!r}; use False, and as "
                    "large a share of the batch for each rank as fits."
                )
            convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
            self.net = convert(self.net)
        self.fast.compiled(self.net.cells)
        # A tensor, so that a recorded step follows the schedule.
        self.drop_path = torch.zeros((), device=self.device)
        self.net.drop_path = self.drop_path if config.drop_path else None
        self.optimiser = momentum_sgd(
            self.net.parameters(), self.rate, config.momentum, config.weight_decay
        )

    def pictures(self) -> Any:
        """Return the images that a retraining learns from: all but those held out."""
        images, _, judges = _learning_and_judging(self.config, brief=False)
        self.tested_on = judges if self.config.holdout else "test images"
        return images.to(self.device)

    def parts(self) -> Mapping[str, Part]:
        """Return what a checkpoint keeps."""
        return {"network": self.net, "optimiser": self.optimiser}

    def step(self, batch: Batch) -> Tensor:
        """Take one step; return (summed loss, correct, count) of the batch, on the device."""
        self.optimiser.zero_grad()
        total = torch.zeros(3, device=self.device)
        for images, labels in self.portions(batch):
            with self.fast.autocast():
                logits, auxiliary = self.logits(images)
                loss = self.loss(logits, auxiliary, labels)
            torch.autograd.backward(loss * (len(labels) / len(batch[1])))
            total += sums(logits.detach().float(), labels)
        self.share_gradients()
        self.descend(self.optimiser, loss, clip=self.config.gradient_clip)
        return total

    def portions(self, batch: Batch) -> Iterable[Batch]:
        """Cut a batch into `accumulate` portions, of two pictures each at least."""
        # One picture alone has no statistics.
        count = max(1, min(self.config.accumulate, len(batch[1]) // 2))
        return zip(*(each.tensor_split(count) for each in batch), strict=True)

    def logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return logits and auxiliary logits, computed in the fast layout and type."""
        laid = images.contiguous(memory_format=torch.channels_last)
        weights = as_autocast(dict(self.net.named_parameters()))
        return functional_call(self.net, weights, (laid,))

    def share_gradients(self) -> None:
        """Give every rank the mean of all ranks' gradients, each in its own layout."""
        if self.ranks.count > 1:
            own = [weight.grad for weight in self.net.parameters() if weight.grad is not None]
            torch._foreach_copy_(own, self.ranks.mean(own))

    def loss(self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor) -> Tensor:
        """Return the cross-entropy, plus the auxiliary head's with its weight.

        Label smoothing e turns the target into (1 - e) onehot + e / classes, for both heads.
        """
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if auxiliary is not None:
            extra = F.cross_entropy(auxiliary, labels, label_smoothing=smoothing)
            loss = loss + self.config.auxiliary_weight * extra
        return loss

    # An epoch ------------------------------------------------------------------------------------

    def index_batches(self, generator: torch.Generator) -> list[Tensor]:
        """Return the indices of an epoch's batches, shuffled alike on every device and rank."""
        config, order = self.config, torch.Generator().manual_seed(generator.initial_seed())
        batches = self.ranks.shared(epoch_batches(len(self.train), config.batch_size, order))
        return batches[: config.max_steps or None]

    def batches(self, generator: torch.Generator) -> Generator[tuple[Batch]]:
        """Yield an epoch's augmented batches, on the device."""
        for indices in live(self.index_batches(generator)):
            batch = augmented_batch(self.train, indices, self.config.cutout, generator)
            yield (self.ranks.part(batch),)

    def begin(self, epoch: int, generator: torch.Generator) -> Row:
        """Set the learning rate and the probability of dropping a path."""
        config = self.config
        if self.ranks.rank:  # each rank drops paths of its own
            torch.manual_seed(generator.initial_seed() + self.ranks.rank)
        # Grows from 0 and never quite reaches the full probability, as in the original.
        rate, drop_path = config.rate(epoch), config.drop_path * epoch / config.epochs
        self.rate.fill_(rate)
        self.drop_path.fill_(drop_path)
        self.net.train()
        return {"learning_rate": rate, "drop_path": drop_path}

    def end(self) -> Row:
        """Let every rank have the mean of all ranks' running statistics."""
        own = [buffer for buffer in self.net.buffers() if buffer.is_floating_point()]
        for buffer, mean in zip(own, self.ranks.mean(own), strict=True):
            buffer.copy_(mean)
        return {}

    # What is said of it --------------------------------------------------------------------------

    def data_line(self, steps: str) -> str:
        """Say what is learnt from."""
        balance = a_class(self.train.labels, len(self.train.classes))
        return (
            f"{len(self.train)} training images ({balance}), {steps} an epoch on {self.device}, "
            f"{self.fast}"
        )

    def network_line(self) -> str:
        """Say how large the network is."""
        madds = multiply_adds(self.net, (self.train.channels, *self.train.size))
        return (
            f"network: {count_parameters(self.net, without='auxiliary_head'):,} weights "
            f"({count_parameters(self.net):,} with the auxiliary head), {madds / 1e6:,.1f} M "
            "multiply-adds an image"
        )

    def advice(self) -> list[str]:
        """Return what looks wrong before the first step."""
        return advice.large_pictures(max(self.train.size))

    def warnings(self, history: Sequence[Row]) -> list[str]:
        """Say so if the network learnt nothing."""
        return advice.chance_loss(history, len(self.train.classes))

    @classmethod
    def write_weights(cls, path: Path, config: RetrainConfig, content: Row) -> None:
        """Write the network of a checkpoint."""
        tensors, data = content["state"]["network"], content.get("data")
        save_weights(tensors, config.cell, path / WEIGHTS, data)

    def test(self) -> dict[str, float]:
        """Return `evaluate`'s figures on the test images, or on those held out for them."""
        images = judging_images(self.config).to(self.device)
        return evaluate(self.net, images, self.config.batch_size)

    def result(self, history: Sequence[Row]) -> Row:
        """Test the network, for the first and only time, and keep its weights in the folder."""
        config, shape = self.config, (self.train.channels, *self.train.size)
        if self.ranks.first:
            file = Path(str(self.folder)) / WEIGHTS
            save_weights(self.net, config.cell, file, self.description)
        tested = self.test()
        return {
            "genotype": config.cell.to_dict(),
            "test_accuracy": tested["top1"],
            "test_top5": tested["top5"],
            "test_loss": tested["loss"],
            "test_images": int(tested["images"]),
            "classes": len(self.train.classes),
            "tested_on": self.tested_on,
            "parameters": count_parameters(self.net, without="auxiliary_head"),
            "parameters_with_auxiliary": count_parameters(self.net),
            "multiply_adds": multiply_adds(self.net, shape),
        }


def retrain(config: RetrainConfig, on_epoch: OnEpoch = None) -> RetrainResult:
    """Train and test, or go on with a run that was stopped, or read a finished one back.

    The test images are read once, after the last epoch: no epoch is chosen by them. Raises
    `SettingsError` for settings or data that cannot be used.
    """
    return run_in_folder(config, Retraining, Genotype, on_epoch)


def judging_images(config: RetrainConfig, like: PictureData | None = None) -> ImageSet:
    """Return the images that judge a retraining: with a holdout these are no test images.

    `like` are the data of a network that was trained before; see `load_splits`.
    """
    if config.holdout:
        return _learning_and_judging(config, True, like)[1]
    folder, size = config.data_folder, config.image_size
    return load_splits(config.dataset, folder, size, brief=True, like=like)["test"]


def _learning_and_judging(
    config: RetrainConfig, brief: bool, like: PictureData | None = None
) -> tuple[ImageSet, ImageSet, str]:
    """Return the images to learn from, those that judge where `holdout` is above 0, their name."""
    folder, size = config.data_folder, config.image_size
    splits = load_splits(config.dataset, folder, size, config.max_images, brief, like)
    if (valid := splits.get("valid")) is None:
        return *held_out(splits["train"], config.holdout), "held-out training images"
    unused = "test" if config.holdout else "validation"
    if not brief:
        print(f"holdout={config.holdout:g}: the {unused} pictures are not used", flush=True)
    return splits["train"], valid, "validation images"


def evaluate(net: CellStack, images: ImageSet, batch_size: int = 96) -> dict[str, float]:
    """Return `tested`'s figures of a network on clean images."""
    indices = Ranks.current().in_turn(epoch_batches(len(images), batch_size, None))
    return tested(net, (clean_batch(images, each) for each in indices))


@torch.no_grad()
def tested(net: CellStack, batches: Iterable[Batch]) -> dict[str, float]:
    """Return loss, top-1 and top-5 accuracy (0 to 1), and the number of images.

    Every image counts once, whatever the batches; the network's mode is put back afterwards. Each
    rank gives its own batches, and all get the figures of all.
    """
    training = net.training
    net.eval()
    total = torch.zeros(4, device=next(net.parameters()).device)
    for batch, labels in batches:
        logits, _ = net(batch.contiguous(memory_format=torch.channels_last))
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        in_top5 = (best == labels[:, None]).sum()
        total += torch.cat([sums(logits, labels), in_top5[None]])
    net.train(training)
    loss, correct, count, in_top5 = Ranks.current().sum(total).tolist()
    shares = {"loss": loss / count, "top1": correct / count, "top5": in_top5 / count}
    return {**shares, "images": count}


def errors_line(top1: float, top5: float, classes: int) -> str:
    """Write errors (0 to 1) in percent; among five classes or fewer a top-5 error says nothing."""
    also = f", top-5 error {100 * top5:.2f} %" if classes > 5 else ""
    return f"top-1 error {100 * top1:.2f} %{also}"


def evaluate_run(path: Path, config: RunConfig | None = None) -> dict[str, float]:
    """Test a finished run's network again; `config` is for this machine's data_root and device."""
    own = stored_config(path, RetrainConfig, **this_machine(config))
    if own.holdout:  # else the share that is held out could be one that was learnt from
        same_run(path, own)
    tensors, known = read_run(path), describe(path)
    like = PictureData.create(**known) if known else None
    test, device = judging_images(own, like), own.open_device()
    net = own.network(len(test.classes), test.channels)
    load_weights(net, tensors, path / WEIGHTS)
    return evaluate(net.to(device), test.to(device), own.batch_size)


def summary(result: RetrainResult) -> str:
    """Say what a retraining has come to, and where its network is."""
    figures = result.figures
    top1, top5 = 1 - figures["test_accuracy"], 1 - figures["test_top5"]
    return (
        f"cell: {result.genotype}\n"
        f"{errors_line(top1, top5, figures.get('classes', 10))} on "
        f"{figures['test_images']} {figures['tested_on']}\n"
        f"weights, with their cell: {result.path / WEIGHTS}"
    )


if __name__ == "__main__":
    run_from_file(RetrainConfig, retrain, summary)
