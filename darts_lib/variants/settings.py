"""The settings that every kind of search has, and those of a search for image cells."""

from typing import Self

from pydantic import Field, model_validator

from darts_lib.bilevel import DOUBLE_BACKWARD, ROUTES
from darts_lib.engine.refusals import StrictModel, show, unknown
from darts_lib.operations import OPERATIONS
from darts_lib.search_space import PRIMITIVES
from darts_lib.variants import METHODS


class RouteSettings(StrictModel):
    """How the architecture gradient is computed: the settings of every kind of search.

    `order` is 1 or 2 as in the paper; `route`, one of the four of `bilevel`, goes before it.
    """

    order: int = Field(2, ge=1, le=2)
    route: str = ""

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
        return self.route or {1: "first_order", 2: "finite_difference"}[self.order]


class MethodSettings(RouteSettings):
    """By which method which space is searched, and which form of the supernet computes it.

    `method` is a row of `variants.METHODS`; `supernet` is `fused`, or `plain` to be read and
    changed. `primitives` are the candidate operations; `edge_primitives` gives for a kind of cell a
    list of them for each edge, in the order of alpha's rows, where not every edge may have all.
    """

    method: str = "darts"
    supernet: str = "fused"
    primitives: tuple[str, ...] = PRIMITIVES
    edge_primitives: dict[str, tuple[tuple[str, ...], ...]] = {}

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if self.method not in METHODS:
            raise ValueError(unknown("method", self.method, METHODS))
        supernets = METHODS[self.method].supernets
        if self.supernet not in supernets:
            raise ValueError(
                f"supernet={show(self.supernet)} is not for method={self.method!r}; use "
                f"{' or '.join(map(repr, supernets))}"
            )
        names = self.primitives
        if odd := [name for name in names if name not in OPERATIONS]:
            raise ValueError(unknown("primitive", odd[0], OPERATIONS))
        if not set(names) - {"none"} or len(set(names)) < len(names):
            raise ValueError(f"primitives={list(names)} must be distinct, one at least not 'none'")
        return self
