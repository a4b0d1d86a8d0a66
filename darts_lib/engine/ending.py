"""How a run ends before its time: what it held is freed, and a Ctrl-C is told in one line."""

import contextlib
import gc
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from darts_lib.engine.heap import give_back_memory


@contextlib.contextmanager
def tidy_end(path: Path) -> Iterator[None]:
    """Free what a run in folder `path` held when it ends, and tell a Ctrl-C in one line.

    A kernel keeps its last error, and with the error's frames the supernet and its gradients: a
    smaller run after it would not fit beside them. So these frames are emptied, for a debugger too.
    """
    try:
        yield
    except BaseException as error:
        _empty_frames(error)
        gc.collect()  # a run holds its own step: a ring, which only this frees at once
        if isinstance(error, KeyboardInterrupt):
            raise _stopped(path) from None
        raise
    finally:
        give_back_memory()
    if torch.cuda.is_available():  # elsewhere Python's own collections come soon enough
        gc.collect()


def _empty_frames(error: BaseException) -> None:
    """Clear the variables of all functions that an error has left, and of the errors before it."""
    chain = [error]
    for link in chain:
        traceback.clear_frames(link.__traceback__)
        before = (link.__cause__, link.__context__)
        chain += [each for each in before if each and all(each is not other for other in chain)]


def _stopped(path: Path) -> KeyboardInterrupt:
    """Return a Ctrl-C that says how to go on; IPython shows its one line and no traceback."""
    said = f"stopped; finished epochs are kept in {path}: run the same cell or command to go on."
    error = KeyboardInterrupt(said)
    error._render_traceback_ = lambda: [f"KeyboardInterrupt: {said}"]  # type: ignore[attr-defined]
    return error
