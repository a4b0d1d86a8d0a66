"""The settings of a search."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from darts_lib.bilevel import DOUBLE_BACKWARD, ROUTES, route_of
from darts_lib.engine.refusals import show
from darts_lib.engine.settings import RunConfig


class SearchConfig(RunConfig):
    """Settings of a search. The defaults are the paper's CIFAR-10 search (A.1.1).

    `order` is 1 or 2 as in the paper; `route` names one of the four routes of `bilevel` and then
    `order` is ignored. `max_skip` limits the normal cell's skip connections; -1 is no limit.
    `max_steps` ends every epoch after so many steps; 0 is all. `max_images` takes only the first
    training images; 0 is all. `recompute` holds less memory and takes more time: each cell is
    computed again in the backward pass. `madds_weight` adds so much loss for each million of
    expected multiply-adds of the cells, so that the search looks for cheaper ones; 0 is none.
    """

    KIND = "search"
    NO_EFFECT_ON_RESULT = RunConfig.NO_EFFECT_ON_RESULT | {"recompute"}
    LAPTOP: ClassVar[dict[str, Any]] = {
        "dataset": "digits",
        "channels": 4,
        "layers": 3,
        "epochs": 4,
        "threads": 1,  # on arrays this small a second thread waits more than it works
        # At the paper's 3e-4 and a dozen steps an epoch, the alphas could not move.
        "alpha_learning_rate": 0.05,
    }

    order: int = Field(2, ge=1, le=2)
    route: str = ""
    channels: int = Field(16, ge=2, le=10_000)
    layers: int = Field(8, ge=1, le=1000)
    nodes: int = Field(4, ge=1, le=100)
    learning_rate: float = Field(0.025, gt=0)
    final_learning_rate: float = Field(0.001, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    alpha_learning_rate: float = Field(3e-4, ge=0)
    alpha_weight_decay: float = Field(1e-3, ge=0)
    cutout: int = Field(0, ge=0)
    max_skip: int = Field(-1, ge=-1)
    recompute: bool = False
    madds_weight: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_route(self) -> Self:
        if self.route and self.route not in ROUTES:
            raise ValueError(f"unknown route {show(self.route)}; choose one of {', '.join(ROUTES)}")
        for switch in ("compile", "graph"):
            if getattr(self, switch) == "on" and not self.capturable:
                raise ValueError(
                    f"{switch}='on' cannot be with route={self.route!r}, which differentiates "
                    "twice; use 'off', or route='finite_difference'"
                )
        return self

    @property
    def capturable(self) -> bool:
        """Say whether a graph or a compiler can take the step: it differentiates once only."""
        return self.chosen_route not in DOUBLE_BACKWARD

    @property
    def chosen_route(self) -> str:
        """Return the route of the architecture gradient."""
        return route_of(self.order, self.route)
