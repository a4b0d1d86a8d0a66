"""Figures: curves, alphas, cells and pictures, in one style.

For whoever draws a run or a cell; each function takes data and returns what it has drawn on.
"""

from darts_lib.drawing import plots
from darts_lib.drawing.cell_plots import (
    cell_picture,
    compare_cells,
    describe_cell,
    draw_genotype,
    draw_supercell,
    search_gif,
)
from darts_lib.drawing.genotype_plots import (
    draw_choices,
    draw_comparison,
    draw_gap,
    draw_margins,
    draw_rises,
)
from darts_lib.drawing.mixed_plots import (
    draw_alpha_gradients,
    draw_maps,
    draw_mixed_edge,
    draw_step_errors,
)
from darts_lib.drawing.pipeline import draw_pipeline
from darts_lib.drawing.plot_style import BLUE, GREY, SKY, VERMILION, use_style
from darts_lib.drawing.plots import (
    alpha_heat_map,
    alpha_history,
    bars,
    image_grid,
    path_on_contours,
)
from darts_lib.drawing.recurrent_plots import ACTIVATION_STROKES, draw_recurrent_cell
from darts_lib.drawing.search_plots import (
    draw_collapse,
    draw_kink,
    error_curves,
    loss_along,
    moving_picture,
    search_curves,
    toy_paths,
)
