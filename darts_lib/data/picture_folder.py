"""A folder of your own pictures as a data set: a subfolder a class, any size, grey or colour."""

from pathlib import Path

import torch
from torch import Tensor

from darts_lib.data import pixels
from darts_lib.data.description import PictureData
from darts_lib.data.listing import Labelled, Split, listed
from darts_lib.data.pixels import Scale
from darts_lib.engine.devices import check_memory
from darts_lib.engine.folder import Row
from darts_lib.engine.progress import counted
from darts_lib.engine.settings import RunConfig

LARGEST = 64  # side in pixels above which pictures are made smaller unless a size is asked for
Pictures = tuple[Tensor, Tensor]
"""Images uint8 `(n, channels, height, width)` and labels int64 `(n,)`."""
Splits = tuple[dict[Split, Pictures], tuple[str, ...]]
"""Pictures by split, of which `valid` may be missing, and the names of their classes."""


def read(
    root: Path, size: int = 0, brief: bool = False, like: PictureData | None = None
) -> tuple[*Splits, Scale]:
    """Return a folder's pictures: the smaller side resized to `size`, the centre cut out.

    Size 0 is the median of the training pictures' smaller sides, at most 64. One channel if all
    pictures are grey, else three. The order is mixed, the same each time, with every class spread
    evenly over it. With them is returned by which scale deep pictures became 8 bits. Size, channels
    and scale are those of `like`, if it is given. Prints what the folder has; if `brief`, without
    looking for copies. Raises SettingsError naming the folder or the file at fault.
    """
    listing = listed(root)
    paths = {split: [path for path, _ in files] for split, files in listing.splits.items()}
    train = paths.pop("train")
    others, scale, channels = [path for files in paths.values() for path in files], None, 0
    if like:
        size, scale = size or like.size[0], like.pixels
        channels = like.channels if like.channels in (1, 3) else 0
    seen = pixels.survey(train, others, given=scale, channels=channels)
    size = size or min(seen.side, LARGEST)
    listing.tell(
        f"{counted(seen.channels, 'channel')}, read at {size}x{size} pixels (median smaller "
        f"side {seen.side}; image_size 0 takes that up to {LARGEST}).",
        brief,
    )
    splits = {split: _load(files, seen, size) for split, files in listing.splits.items()}
    for line in (*seen.notes, *pixels.oddities([each for each, _ in splits.values()], seen.deep)):
        print(line, flush=True)
    return splits, listing.classes, seen.scale


def _load(files: Labelled, seen: pixels.Survey, size: int) -> Pictures:
    """Read the centre of each picture, smaller side resized to `size`, grey or in colour."""
    from torchvision.transforms import functional  # slow to load, and only needed for reading

    what = f"{len(files)} pictures at image_size={size}"
    check_memory(len(files) * seen.channels * size**2, what)
    images = torch.empty(len(files), seen.channels, size, size, dtype=torch.uint8)
    for image, (path, _) in zip(images, files, strict=True):
        picture = pixels.picture_bytes(path, seen.channels, seen.scale)
        resized = functional.resize(picture, [size])
        image.copy_(functional.pil_to_tensor(functional.center_crop(resized, [size, size])))
    return images, torch.tensor([label for _, label in files])


def fingerprint(config: RunConfig, unused: Split) -> Row:
    """Return what tells a folder's pictures from others, without the split that a run leaves."""
    return listed(config.data_folder).fingerprint(unused) if config.dataset == "folder" else {}
