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
from darts_lib.drawing.plot_style import BLUE, GREY, SKY, VERMILION
from darts_lib.drawing.plots import image_grid, path_on_contours
from darts_lib.drawing.recurrent_plots import ACTIVATION_STROKES, draw_recurrent_cell
