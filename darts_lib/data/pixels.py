"""The pixels of picture files as 8 bits, by their values: one rule for a whole set.

Grey levels and colours of 8 bits stay as they are. What is deeper (10 to 16 bits, whole numbers of
32, floating point) has a range of its own, and is brought from the range of the whole set to 0 to
255: a rule a picture would hide what tells two classes apart, a rule by type would turn most to
black. Transparency is laid over white, and a picture is turned as its camera was held.
"""

import sys
from collections.abc import Generator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor

from darts_lib.engine.files import PICTURE, kind_of_file
from darts_lib.engine.progress import counted
from darts_lib.engine.refusals import SettingsError, one_line

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened, whatever a file's name: Pillow's reader of PostScript would start a program."""
LARGEST_AREA = 2**26
"""Pixels of a picture that is decoded whole; a JPEG beyond is made smaller while it is decoded."""
LONGEST = 100
"""A strip of more squares loses its ends: enlarged, it would fill the memory."""
SAMPLE = 100
"""Pictures looked at where a set is too large to open each."""
PAGED = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
"""Formats with pages or frames; the further pictures of a JPEG are previews."""
ALPHA, PAGES, LONG = "with transparency", "of several pages or frames", "longer than 3:2"
NOTES = {
    ALPHA: "laid over white",
    PAGES: "only the first is read",
    LONG: "only the square at the centre is read",
}
Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Scale:
    """The range of values that becomes 0 to 255."""

    low: float = 0.0
    high: float = 255.0

    def to_bytes(self, values: Values) -> npt.NDArray[np.uint8]:
        """Return values of any type as 8 bits; what lies outside the range becomes its end."""
        pixels = np.empty(values.shape, np.uint8)
        for row, result in zip(values, pixels, strict=True):  # in 64 bits one row at a time
            share = (row.astype(np.float64) - self.low) / (self.high - self.low)
            result[...] = (share.clip(0, 1) * 255).round()
        return pixels


EIGHT_BITS = Scale()


def scale_of(low: float, high: float, whole: bool) -> Scale:
    """Return the scale of deep pictures whose values, `whole` numbers or not, go `low` to `high`.

    Whole numbers: from 0 to the largest of 8, 10, 12, 14 or 16 bits, the fewest that hold `high`,
    but to 1 for masks of 0 and 1. Floats: from 0 to 1. Values that would fill less than a quarter
    of that, and all others, are taken from `low` to `high`.
    """
    bits = max(8, int(high).bit_length())
    top = 2.0 ** (bits + bits % 2) - 1 if whole and high > 1 else 1.0
    if low >= 0 and high <= top <= 65535 and (high - low >= top / 4 or low == high):
        return Scale(0.0, top)
    return Scale(low, high if high > low else low + 1)


@dataclass(frozen=True)
class Survey:
    """What a set's files are, from their headers and, where they are deep, from their values."""

    channels: int
    """1 if all are grey, else 3."""
    side: int
    """The median of the training pictures' smaller sides, in pixels."""
    scale: Scale
    deep: bool
    notes: tuple[str, ...]
    """What a person may not expect, a line each."""


def survey(
    train: Sequence[Path], test: Sequence[Path], *, given: Scale | None = None, channels: int = 0
) -> Survey:
    """Look at all pictures; the scale is that of the training pictures, if any of them is deep.

    A `given` scale, or number of `channels` above 0, is taken in place of what is seen.
    Raises SettingsError, naming the file, for one that cannot be read.
    """
    headers = {path: _header(path) for path in (*train, *test)}
    count, scale, notes = len(headers), given or EIGHT_BITS, []
    if deep := [path for path in headers if headers[path].deep]:
        lows, highs, kinds = zip(*map(_range, sorted({*deep} & {*train}) or deep), strict=True)
        low, high, mixed = min(lows), max(highs), len(deep) < count
        if given is None and not (mixed and all(kinds) and low >= 0 and high <= 255):
            scale = scale_of(low, high, all(kinds))
        notes.append(
            f"{len(deep)} of {counted(count, 'picture')} have more than 8 bits, values {low:,g} to "
            f"{high:,g}: {scale.low:,g} to {scale.high:,g} is read as 0 to 255"
        )
        if mixed:
            notes.append(
                f"warning: {count - len(deep)} beside them have 8 bits and are read as they are; "
                "the depth of a file may give its class away"
            )
    for what, rule in NOTES.items():
        if number := sum(what in header.notes for header in headers.values()):
            notes.append(f"{counted(number, 'picture')} {what}: {rule}")
    channels = channels or (1 if all(header.grey for header in headers.values()) else 3)
    side = int(np.median([headers[path].side for path in train]))
    return Survey(channels, side, scale, bool(deep), tuple(notes))


def oddities(splits: Sequence[Tensor], deep: bool) -> list[str]:
    """Warn of pictures of one colour throughout, and of a `deep` set squeezed by a few values.

    A split is uint8 `(n, channels, height, width)`, as it was read.
    """
    warnings, count = [], sum(map(len, splits))
    flat = [images.flatten(2) for images in splits]
    plain = sum(int((each.amax(2) == each.amin(2)).all(1).sum()) for each in flat)
    if plain:
        which = "all" if plain == count else f"{plain:,} of"
        warnings.append(
            f"warning: {which} {count:,} pictures read are of one colour throughout; look at them"
        )
    if deep and plain < count:
        levels = torch.bincount(splits[0].flatten(), minlength=256).double().cumsum(0)
        middle = 1 + int(((levels > 0.01 * levels[-1]) & (levels < 0.99 * levels[-1])).sum())
        if middle <= 16:
            warnings.append(
                f"warning: 98 % of the pixels lie within {middle} of 256 levels: a few values far "
                "off set the range; take them out of the files"
            )
    return warnings


@contextmanager
def opened(path: Path) -> Generator[ImageFile]:
    """Open a picture file, its header read; its pixels are decoded when they are asked for.

    Raises SettingsError, which names it, for a file that is no picture of `FORMATS`, is damaged
    (also where that is found in the `with` block), or is larger than `LARGEST_AREA` and no JPEG.
    """
    Image.init()
    limit = Image.MAX_IMAGE_PIXELS
    try:
        # Given its name, Pillow maps a file into memory, and then turns a TIFF wrongly.
        with open(path, "rb") as file:
            try:  # Pillow's own limit knows nothing of JPEG, and is a warning first
                Image.MAX_IMAGE_PIXELS = None
                picture = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
            finally:
                Image.MAX_IMAGE_PIXELS = limit
            with picture:
                width, height = picture.size
                shrink = next((s for s in (1, 2, 4) if width * height <= LARGEST_AREA * s**2), 8)
                # A progressive JPEG is decoded whole all the same.
                if shrink > 1 and not picture.info.get("progressive"):
                    picture.draft(None, (width // shrink, height // shrink))
                if picture.size[0] * picture.size[1] > LARGEST_AREA:
                    raise SettingsError(
                        f"{path} is a picture of {width} x {height} pixels, more than "
                        f"{LARGEST_AREA / 1e6:.0f} million: make it smaller, or remove it."
                    )
                yield picture
    except SettingsError:
        raise
    except Exception as error:  # Pillow's readers raise of all kinds for a damaged file
        reason = one_line(error)
        if isinstance(error, UnidentifiedImageError):
            kind = kind_of_file(path)
            forms = f"in no form of {', '.join(FORMATS)} that is read"
            reason = forms if kind in ("", PICTURE) else f"it is {kind}"
        raise SettingsError(
            f"{path} cannot be read as a picture ({reason}): repair or remove it."
        ) from error


def picture_bytes(path: Path, channels: int, scale: Scale = EIGHT_BITS) -> Image.Image:
    """Return a picture of any mode, upright and in 8 bits: grey (1 channel) or RGB (3)."""
    with opened(path) as file:
        picture: Image.Image = file
        if _is_deep(file):
            values, alpha = _deep_values(file, path)
            turn = file.getexif().get(ExifTags.Base.Orientation, 1)
            picture = Image.fromarray(scale.to_bytes(values))
            if alpha is not None:
                picture.putalpha(Image.fromarray(alpha))
            picture.getexif()[ExifTags.Base.Orientation] = turn
        picture = ImageOps.exif_transpose(picture)
        if max(picture.size) > (limit := LONGEST * min(picture.size)):
            width, height = (max(0, side - limit) // 2 for side in picture.size)
            picture = ImageOps.crop(picture, (width, height))
        return in_channels(picture, channels)


def in_channels(picture: Image.Image, channels: int) -> Image.Image:
    """Return a picture of 8 bits a channel as grey (1) or RGB (3), its transparency over white."""
    if _has_alpha(picture):
        picture = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L" if channels == 1 else "RGB")


def sample(count: int) -> list[int]:
    """Return the places of at most `SAMPLE` of so many pictures, spread evenly."""
    return [i * count // min(SAMPLE, count) for i in range(min(SAMPLE, count))]


# --- what stands in a file ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    grey: bool
    side: int
    deep: bool
    notes: Set[str]


def _header(path: Path) -> _Header:
    with opened(path) as picture:
        deep = _is_deep(picture)
        short, long = sorted(picture.size)
        grey = Image.getmodebase(picture.mode) == "L" or "LA;16" in _layout(picture)
        parts = getattr(picture, "n_frames", 1) if picture.format in PAGED else 1
        notes = {ALPHA: _has_alpha(picture), PAGES: parts > 1, LONG: long > 1.5 * short}
        return _Header(grey, short, deep, {what for what in notes if notes[what]})


def _range(path: Path) -> tuple[float, float, bool]:
    """Return the least and the largest value of a deep picture that is seen; are they whole?"""
    with opened(path) as picture:
        values, alpha = _deep_values(picture, path)
    seen = values if alpha is None or not alpha.any() else values[alpha > 0]
    return float(seen.min()), float(seen.max()), seen.dtype.kind in "iu"


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info


def _layout(picture: ImageFile) -> str:
    """Return how Pillow takes the numbers of a file apart, which tells what it would drop."""
    return str(picture.tile[0][3]) if getattr(picture, "tile", None) else ""


def _is_deep(picture: ImageFile) -> bool:
    """Say whether a picture has more than 8 bits a channel, also where Pillow would drop them."""
    if picture.format == "PPM" and picture.mode == "RGB":
        return isinstance(args := picture.tile[0][3], tuple) and int(args[1]) > 255
    odd = _tiff(picture, BITS) > 8 or (picture.mode == "L" and _tiff(picture, SAMPLE_FORMAT) == 2)
    return odd or picture.mode.startswith(("I", "F")) or ";16" in _layout(picture)


BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339


def _tiff(picture: ImageFile, tag: int) -> int:
    """Return the number of a TIFF's tag, or 1, which means positive whole numbers, 0 for black."""
    value = getattr(picture, "tag_v2", {}).get(tag, 1)
    return int(value[0] if isinstance(value, tuple) else value)


def _deep_values(picture: ImageFile, path: Path) -> tuple[Values, Values | None]:
    """Return the numbers of a deep picture, `(height, width)` or with channels last, and its alpha.

    Alpha is uint8 `(height, width)`, or None; it has a range of its own.
    """
    key = picture.info.get("transparency")
    if picture.format == "PPM" and picture.mode in ("RGB", "I"):
        values = _ppm(picture, path)
    elif picture.mode.startswith(("I", "F", "L")) and "LA" not in picture.mode:
        values = np.asarray(picture)
        if picture.mode == "I" and _tiff(picture, SAMPLE_FORMAT) == 1:
            values = values.view(np.uint32)
        elif picture.mode == "L":
            values = values.view(np.int8)
        if _tiff(picture, PHOTOMETRIC) == 0:  # 0 is white
            values = -values if values.dtype.kind == "f" else ~values
    else:
        values = _colours(picture, path)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise SettingsError(f"{path} has pixels that are no number: repair or remove it.")
    if values.ndim == 3 and values.shape[2] in (2, 4):
        colours = values[..., 0] if values.shape[2] == 2 else values[..., :3]
        return colours, Scale(0, 65535).to_bytes(values[..., -1])
    if key is not None:
        hidden = (values == key).reshape(*values.shape[:2], -1).all(2)
        return values, np.where(hidden, 0, 255).astype(np.uint8)
    return values, None


def _ppm(picture: ImageFile, path: Path) -> Values:
    """Return a PPM's numbers as they stand: Pillow scales each file by the maximum it names."""
    (codec, _, offset, _), (width, height) = picture.tile[0], picture.size
    shape = (height, width, 3) if picture.mode == "RGB" else (height, width)
    count, content = int(np.prod(shape)), path.read_bytes()[offset:]
    if codec == "ppm_plain":
        values = np.array([int(number) for number in content.split()[:count]], np.int32)
    else:
        values = np.frombuffer(content, ">u2", count)
    return values.reshape(shape)


def _colours(picture: ImageFile, path: Path) -> Values:
    """Return colours of 16 bits, alpha last. Pillow keeps one byte of two, so it reads twice."""
    tiles: Any = picture.tile
    layout = tiles[0][3] if isinstance(tiles[0][3], str) else tiles[0][3][0]
    base, _, order = layout.partition(";16")
    if base not in ("LA", "RGB", "RGBA", "RGBX"):
        raise SettingsError(
            f"{path} has 16 bits a colour in a form that is not read ({picture.format}, "
            f"{picture.mode}): store it as PNG, or with 8 bits a colour."
        )
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[order]
    # The two bytes of grey and of alpha are taken for four channels: there is no `LA;16L`.
    layout = "RGBA" if base == "LA" else f"{base};16{other}"
    with opened(path) as again:
        again.tile = [
            each._replace(args=layout if isinstance(each[3], str) else (layout, *each[3][1:]))
            for each in tiles
        ]
        low = np.asarray(again).astype(np.uint16)
    if base == "LA":
        return low[..., ::2] << 8 | low[..., 1::2]
    return np.asarray(picture).astype(np.uint16) << 8 | low
