"""What the chapters need beside the method: parameters, exercises, wrong gradients.

For whoever writes or changes a chapter.
"""

from darts_lib.engine.devices import resolve_device
from darts_lib.teaching.chain import Chain
from darts_lib.teaching.gradient_bugs import BUGS, right
from darts_lib.teaching.notebook import (
    check,
    check_run,
    figure_folder,
    read_parameters,
    search_before,
    set_seed,
    with_searched_cell,
)
from darts_lib.teaching.smooth_problem import (
    SMOOTH_PRIMITIVES,
    check_architecture_gradient,
    relative_error,
    slope,
    smooth_problem,
    smoothed,
)
from darts_lib.teaching.source import show
