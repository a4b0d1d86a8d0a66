"""States and files to compare to the bit, as digests: a failing comparison then prints at once.

pytest explains a comparison of two long `bytes` with difflib where `CI` is set, for minutes.
"""

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

TIMES = ("seconds", "hours")  # what no two runs have in common


def digest(content: Path | bytes) -> str:
    """Return the SHA-256 of a file or of bytes, as 64 hexadecimal digits."""
    data = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha256(data).hexdigest()


def bits(value: Any) -> Any:
    """Return a state with its tensors as (type, shape, digest), and without any time."""
    if isinstance(value, Tensor):
        content = value.detach().contiguous().numpy().tobytes()
        return str(value.dtype), tuple(value.shape), digest(content)
    if isinstance(value, dict):
        return {name: bits(part) for name, part in value.items() if name not in TIMES}
    return [bits(part) for part in value] if isinstance(value, list | tuple) else value
