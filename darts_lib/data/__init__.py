"""Images, folders of pictures, ImageNet and text: read, checked, and put on the device.

For whoever brings data of their own.
"""

from darts_lib.data.images import (
    ImageSet,
    augment,
    clean_batch,
    halves,
    load_images,
    normalise,
    statistics,
)

__all__ = ["ImageSet", "augment", "clean_batch", "halves", "load_images", "normalise", "statistics"]
