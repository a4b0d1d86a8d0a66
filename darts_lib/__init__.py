"""DARTS, differentiable architecture search: the library behind the notebooks.

The method, in the order of the chapters:

    search_space   primitives, the graph of a cell, the layout of a network, sizes of the space
    operations     the candidate operations as modules, in one table
    relaxation     alphas to weights, the mixed operation, the search cell, the supernet
    bilevel        the gradient of the validation loss with respect to the alphas, by four routes
    search         Algorithm 1; `plain` has its steps as the original code takes them
    genotype       a cell as data;  derivation  from alphas to a cell
    network        the network of a cell;  retrain  its training from scratch
    transfer       the cell on large images
    recurrent      the same names for recurrent cells
    variants       methods since DARTS: the table, and what they share

What it stands on: `engine` (runs), `kernels` and `fast` (speed), `data`, `cost`, `formats` (cells
and weights in files). What stands on it: `drawing`, `teaching` and `tools`.
"""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__path__.append(str(Path(__file__).parent / "tools"))  # so that commands keep short names

NAMES = {
    "search_space": "INPUTS KINDS PRIMITIVES Stem count_cells count_relaxed_cells edges list_cells "
    "nodes_of plan_cells reductions row_offset",
    "operations": "DilatedConv FactorizedReduce ReLUConvBN SeparableConv add_operation batch_norm "
    "build_candidate build_operation depthwise_block every_second_pixel preprocess",
    "relaxation": "MixedOp SearchCell Supernet initial_alphas mix",
    "bilevel": "ArchitectureGradient InnerStep Problem architecture_gradient finite_difference "
    "gradients second_order virtual_weights",
    "search": "Search SearchConfig load_search",
    "genotype": "PUBLISHED Genotype GenotypeError",
    "derivation": "choice_strengths derive genotypes_of keep_edges margins one_hot_alphas "
    "random_genotype strongest",
    "network": "Cell ImageNetNetwork Network drop_path kept_paths",
    "retrain": "RetrainConfig Retraining",
    "recurrent.retrain": "RecurrentRetrainConfig",
    "engine.batches": "seed_epoch",
    "engine.optimisers": "cosine",
    "cost.complexity": "count_parameters multiply_adds published_flops saved_bytes "
    "seconds_per_pass",
    "data.images": "ImageSet augment clean_batch halves load_images normalise statistics",
    "data.example_pictures": "photograph",
    "fast.fused": "FusedCell FusedSupernet",
    "formats.network_files": "load_network",
}
"""What chapters import from here, by module; a module is loaded when a name of it is asked for."""


def __getattr__(name: str) -> Any:
    for module, names in NAMES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"darts_lib.{module}"), name)
    raise AttributeError(f"module 'darts_lib' has no attribute {name!r}")
