"""Exercises of all chapters: solutions pass, wrong answers get their hints, and hints are true."""

import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from chapter_tools import NOTEBOOKS, chapter_cells, exercises, imported, solution
from torch import Tensor, nn
from torch.nn import functional as F

from darts_lib.genotype import PUBLISHED
from darts_lib.operations import batch_norm
from darts_lib.recurrent.search_space import ACTIVATIONS
from darts_lib.recurrent.search_space import PRIMITIVES as RECURRENT_PRIMITIVES
from darts_lib.relaxation import mix
from darts_lib.search_space import PRIMITIVES, count_cells
from darts_lib.teaching.exercises import (
    bilevel,
    genotype,
    gradient,
    recurrent,
    relaxation,
    retrain,
    search_space,
    transfer,
)
from darts_lib.teaching.gradient_bugs import BUGS
from darts_lib.teaching.smooth_problem import relative_error, smooth_problem

Function = Callable[[Tensor], Tensor]
Row = tuple[Callable[..., None], Any, str]  # A check, an answer, and a pattern in the hint


def primitive(forward: Callable[..., Tensor], norm: Any = batch_norm) -> Callable[..., nn.Module]:
    """Return what builds a 3x3 pool with a forward pass, and perhaps a norm, of its own."""

    def build(channels: int, stride: int, affine: bool) -> nn.Module:
        module: Any = nn.Module()
        module.stride, module.norm = stride, norm(channels, affine=affine)
        module.bias, module.forward = nn.Parameter(torch.zeros(())), partial(forward, module)
        return module

    return build


def pool(module: Any, x: Tensor) -> Tensor:
    return F.avg_pool2d(module.norm(x), 3, module.stride, padding=1)


def separable(
    layers: Callable[[list[nn.Module]], list[nn.Module]] = lambda layers: layers,
    groups: int = 0,
    bias: bool = False,
    pad: Callable[[int, int], int] = lambda k, d: d * (k // 2),
) -> Callable[[int, int, int, int], nn.Module]:
    """Return what builds a depthwise-separable block with one thing changed."""

    def build(c: int, k: int, s: int, d: int) -> nn.Module:
        depthwise = nn.Conv2d(c, c, k, s, pad(k, d), d, groups or c, bias)
        norm = nn.BatchNorm2d(c, affine=False, track_running_stats=False)
        return nn.Sequential(*layers([nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), norm]))

    return build


def mixer(keep: Any, weigh: Function = lambda w: w) -> Callable[[Any], nn.Module]:
    """Return what builds a mixed operation that keeps its operations and weighs in its own way."""

    class Mixer(nn.Module):
        def __init__(self, operations: Any) -> None:
            super().__init__()
            self.operations = keep(operations)

        def forward(self, x: Tensor, weights: Tensor) -> Any:
            pairs = zip(weigh(weights), self.operations, strict=False)
            return sum(weight * operation(x) for weight, operation in pairs)

    return Mixer


def node(weights: Function) -> relaxation.Node:
    def total(states: Any, alphas: Tensor, operations: Any) -> Any:
        edges = zip(states, weights(alphas), operations, strict=True)
        return sum(w * run(x) for x, row, runs in edges for w, run in zip(row, runs, strict=True))

    return total


def difference(
    scale: Callable[[Tensor, float], Any], below: float = 1, normed: bool = True
) -> Callable[..., Tensor]:
    """Return the slopes' difference at w + eps v and w - `below` eps v, over scale(eps, radius)."""

    def product(slope: Function, w: Tensor, v: Tensor, radius: float) -> Tensor:
        eps = radius / v.norm() if normed else torch.tensor(radius)
        return (slope(w + eps * v) - slope(w - below * eps * v)) / scale(eps, radius)

    return product


def choice(*given: Any) -> list[tuple[str, int]]:
    return list(solution("04_genotype", "choose")(*given))


def twice(alphas: Tensor, names: Sequence[str]) -> Any:
    """Choose by pairs, so that a source may come twice, but where all are equal."""
    return (genotype.SUSPECTS["C"] if float(alphas.abs().max()) else choice)(alphas, names)


def turn(
    order: str = "vw", clear: str = "aw", clip: bool = True, swap: bool = False
) -> Callable[..., None]:
    """Return a turn of the search: `order` has v for the alphas' step and w for the weights'."""

    def take(
        net: Any, alphas: Any, sgd: Any, adam: Any, train: Any, valid: Any, most: float
    ) -> None:
        if swap:
            train, valid = valid, train
        for each in order:
            batch, optimiser = (valid, adam) if each == "v" else (train, sgd)
            if ("a" if each == "v" else "w") in clear:
                optimiser.zero_grad()
            F.cross_entropy(net(batch[0], mix(alphas)), batch[1]).backward()
            if each == "w" and clip:
                nn.utils.clip_grad_norm_(net.parameters(), most)
            optimiser.step()

    return take


def again(*given: Any) -> Any:
    return solution("appendix_e_gradient", "twice")(*given)


def mask(x: Tensor, probability: float, *shape: int) -> Tensor:
    return torch.empty(shape or (len(x), 1, 1, 1), dtype=x.dtype).bernoulli_(1 - probability)


def drop(x: Tensor, p: float, *shape: int) -> Tensor:
    return x * mask(x, p, *shape) / (1 - p)


def rows_covered(side: int, length: int) -> float:
    return float(solution("05_retrain", "area")(side, length) ** 0.5)


def cell_of(joined: Callable[[Any, list[Tensor]], list[Tensor]]) -> Callable[..., Tensor]:
    """Return a derived cell's forward pass that joins other states."""

    def forward(cell: Any, x: Tensor, y: Tensor) -> Tensor:
        states = [cell.preprocess0(x), cell.preprocess1(y)]
        for i in range(0, len(cell.sources), 2):
            edges = (cell._ops[k](states[cell.sources[k]]) for k in (i, i + 1))
            states.append(sum(edges, torch.zeros(())))
        return torch.cat([s for s in joined(cell, states) if s.shape == states[-1].shape], dim=1)

    return forward


def chosen(
    weights: Function,
    score: Callable[[Tensor, Tensor], Tensor] = lambda table, logits: table.amax(1),
    names: Sequence[str] = ACTIVATIONS,
) -> Callable[[Tensor], tuple[str, int]]:
    """Return a choice of the edge with the best score and, on it, of the largest weight."""

    def choose(logits: Tensor) -> tuple[str, int]:
        table = weights(logits)
        source = int(score(table, logits).argmax())
        return names[int(table[source].argmax())], source

    return choose


def mean(losses: Sequence[float], words: Sequence[int]) -> float:
    return sum(loss * n for loss, n in zip(losses, words, strict=True)) / sum(words)


def shares(label: int, classes: int, top: float, rest: float) -> list[float]:
    return [top if each == label else rest for each in range(classes)]


def sides(pixels: int, layers: int, halvings: int = 3, late: int = 0, up: bool = True) -> list[int]:
    side, outputs = pixels, []
    for layer in range(-halvings, layers):
        if layer < 0 or layer - late in (layers // 3, 2 * layers // 3):
            side = -(-side // 2) if up else side // 2
        outputs.append(side)
    return outputs[halvings:]


block, own = search_space.separable_block, search_space.own_primitive
skips = search_space.cells_with_skips
count, heat = relaxation.mixed_operation_count, relaxation.temperature_of_share
mixture = relaxation.mixed_module
product, step = gradient.mixed_product, gradient.virtual_step
twice_product, iteration = gradient.twice_differentiated, bilevel.first_order_step
strength, node_choice = genotype.edge_strength, genotype.node_choice
drops, stacked = retrain.dropped_node, retrain.cell_forward
by_sum = chosen(lambda x: x.softmax(-1)[:, 1:], lambda table, _: table.sum(1))
by_logits = chosen(lambda x: x[:, 1:], lambda table, x: table.amax(1) - 10 * (x[:, 0] > 5))
next_name = chosen(lambda x: x.softmax(-1)[:, 1:], names=ACTIVATIONS[-1:] + ACTIVATIONS[:-1])
activation = recurrent.node_choice
perplexity, size = recurrent.text_perplexity, recurrent.model_parameters
target, cell_sides, within = transfer.smoothed_target, transfer.cell_sides, transfer.widest_within

WRONG: list[Row] = [
    # Chapter 01
    (search_space.first_row, lambda t: sum(range(t)), "inputs, states 0 and 1"),
    (search_space.first_row, lambda t: sum(range(2, t + 1)), "next state starts"),
    (search_space.first_row, lambda t: sum(range(2, t + 2)), "first node is state 2"),
    (search_space.first_row, 5, "is a function"),
    (search_space.first_row, lambda t: None, "whole number"),
    (skips, lambda n, k: count_cells(n, 1) * 6 ** (2 * n - k), "which of the kept"),
    (skips, lambda n, k: math.comb(2 * n, k) * 6 ** (2 * n - k), "which of the kept|two of its"),
    (
        skips,
        lambda n, k: count_cells(n, 1) * math.comb(2 * n, k) * 7 ** (2 * n - k),
        "six are|any number",
    ),
    (skips, lambda n, k: count_cells(n), "any number of skips"),
    (skips, lambda n, k: 0, "sources, times places"),
    (block, lambda c, k, s, d: "block", "nn.Module"),
    (block, separable(groups=1), "groups=channels"),
    (block, separable(bias=True), "no biases"),
    (block, separable(pad=lambda k, d: k // 2), "pad by"),
    (block, separable(lambda layers: layers[1:]), "ReLU in front"),
    (block, separable(lambda layers: layers[:3]), "normalisation at the end"),
    (block, separable(lambda layers: [layers[1], layers[0], *layers[2:]]), "the order is"),
    (own, lambda c, s, a: torch.relu, "nn.Module"),
    (own, lambda c, s, a: nn.Conv2d(3, c, 1, s), r"a tensor \(2, 4, 8, 8\)\) it raised RuntimeErr"),
    (own, primitive(lambda m, x: F.avg_pool2d(m.norm(x), m.stride)), "odd sizes"),
    (own, primitive(lambda m, x: pool(m, x.data.relu_())), "in place"),
    (own, primitive(lambda m, x: pool(m, x).detach()), "no gradient"),
    (own, primitive(lambda m, x: pool(m, x.detach()) + m.bias), "to its input"),
    (own, primitive(pool, nn.BatchNorm2d), "no running statistics"),
    (own, lambda c, s, a: primitive(pool)(c, s, True), "affine=False was asked for"),
    # Chapter 02
    (count, lambda nodes, layers: 8 * layers * sum(range(2, nodes + 2)), "candidate operations"),
    (count, lambda nodes, layers: sum(range(2, nodes + 2)), "that is one cell"),
    (heat, lambda row, share: -1.0, "above 0"),
    (
        heat,
        lambda row, share: 1 / solution("02_continuous_relaxation", "temperature")(row, share),
        "you multiply",
    ),
    (heat, lambda row, share: 1.0, "sharpens"),
    (mixture, lambda ops: ops, "return a module"),
    (mixture, mixer(lambda ops: ops), "ModuleList"),
    (mixture, mixer(nn.ModuleList, lambda w: w.softmax(-1)), "no second softmax"),
    (mixture, mixer(nn.ModuleList, lambda w: w / 4), "that is a mean"),
    (mixture, mixer(nn.ModuleList, lambda w: w.detach()), "turn them into numbers|detach"),
    (mixture, mixer(nn.ModuleList, lambda w: w.flip(0)), "weight times operation"),
    (mixture, mixer(nn.ModuleList, lambda w: torch.ones(1, 1)), "keeps the shape|over all"),
    (relaxation.node_of_a_cell, node(lambda a: a.softmax(0)), "dim=0"),
    (relaxation.node_of_a_cell, node(lambda a: a.flatten().softmax(0).view_as(a)), "all edges"),
    (relaxation.node_of_a_cell, node(lambda a: a), "logits"),
    (relaxation.node_of_a_cell, node(lambda a: a.softmax(-1) / 2), "mean of the edges"),
    (relaxation.node_of_a_cell, lambda states, a, ops: torch.cat(list(states), 1), "do not join"),
    # Chapter 03
    (bilevel.end_of_toy, lambda xi: 2 - 2 * xi, "straight line"),
    (bilevel.end_of_toy, lambda xi: 2 / (1 + xi), "the 2 comes from"),
    (bilevel.end_of_toy, lambda xi: 1.0, "At rest w = alpha"),
    (bilevel.spot_the_bugs, {**bilevel.BUGS_SHOWN, "A": "wrong_sign"}, "A: go through"),
    (bilevel.spot_the_bugs, {**bilevel.BUGS_SHOWN, "B": "wrong_sign"}, "B: its virtual step"),
    (bilevel.spot_the_bugs, {"A": "multiplied_by_eps"}, "both"),
    (iteration, turn("wv"), "weights went first"),
    (iteration, turn(clear="a"), "clear them before the training batch"),
    (iteration, turn(clear="w"), "clear them before the next step"),
    (iteration, turn(clip=False), "not clipped"),
    (iteration, turn(swap=True), "belong to the validation batch"),
    (iteration, turn("v"), "the weights have not moved"),
    (iteration, turn("w"), "the alphas have not moved"),
    (iteration, turn("vww"), "weights or alphas are elsewhere"),
    # Appendix E
    (product, difference(lambda eps, _: 2 / eps), "divide by the product"),
    (product, difference(lambda eps, _: eps), "2 eps apart"),
    (product, difference(lambda eps, _: -2 * eps), "turned round"),
    (product, difference(lambda eps, _: eps, below=0), "both sides"),
    (product, difference(lambda eps, _: 2 * eps, normed=False), "norm of v"),
    (product, difference(lambda _, radius: 2 * radius), "not by 2 R"),
    (product, lambda slope, w, v, radius: slope(w).sum(), "one number for each alpha"),
    (product, lambda slope, w, v, radius: slope(w.add_(v)), "work on a copy"),
    (product, lambda slope, w, v, radius: v, "never called"),
    (step, lambda w, g, b, xi, mu, wd: w - xi * (g + wd * w), "no momentum"),
    (step, lambda w, g, b, xi, mu, wd: w - xi * (g + mu * b), "no weight decay"),
    (step, lambda w, g, b, xi, mu, wd: w - xi * g, "neither"),
    (step, lambda w, g, b, xi, mu, wd: w + xi * (g + wd * w + mu * b), "climbs"),
    (step, lambda w, g, b, xi, mu, wd: w - xi * (g + wd * w + b), "counts whole"),
    (step, lambda w, g, b, xi, mu, wd: w - xi * (g + mu * b) - wd * w, "inside the brackets"),
    (step, lambda w, g, b, xi, mu, wd: w - xi * (g + mu * (b + wd * w)), "buffer alone"),
    (step, lambda w, g, b, xi, mu, wd: (w - xi * g).sum(), "same shape"),
    (step, lambda w, g, b, xi, mu, wd: w.sub_(xi * (g + wd * w + mu * b)), "in place"),
    (twice_product, lambda *given: [-part for part in again(*given)], "belongs to equation 7"),
    (twice_product, lambda loss, w, a, v: again(loss, w, a, [x**0 for x in v]), "not used"),
    (twice_product, lambda loss, w, a, v: torch.autograd.grad(loss, a), "first derivative"),
    (twice_product, lambda loss, w, a, v: torch.autograd.grad(loss, w), "weights first"),
    (twice_product, lambda *given: [2 * part for part in again(*given)], "not the product"),
    # Chapter 04
    (strength, lambda a, names: a[:, 1:].amax(-1), "raw alphas"),
    (strength, lambda a, names: a.softmax(0)[:, 1:].amax(-1), "over the edges"),
    (strength, lambda a, names: a.softmax(-1)[:, 1:].sum(-1), "not the sum"),
    (strength, lambda a, names: a.softmax(-1).amax(-1), "none may not win"),
    (strength, lambda a, names: a[:, 1:].softmax(-1).amax(-1), "take its mass"),
    (strength, lambda a, names: a.softmax(-1)[:, 1:].amax(-1), "by its name"),
    (strength, lambda a, names: a.softmax(-1).amax(), "for each edge"),
    (strength, lambda a, names: a.softmax(-1).amax(-1).tolist(), "return a tensor"),
    (node_choice, genotype.SUSPECTS["A"], "sum of their weights"),
    (node_choice, genotype.SUSPECTS["B"], "raw alphas"),
    (node_choice, twice, "two edges first"),
    (node_choice, lambda a, n: [(x, len(a) - 1 - i) for x, i in choice(a.flip(0), n)], "lower"),
    (node_choice, lambda *x: sorted(choice(*x), key=lambda pair: pair[1]), "stronger edge"),
    (node_choice, lambda *x: choice(*x)[:1], "two edges"),
    (node_choice, lambda a, names: [("none", 0), ("none", 1)], "none may not"),
    (genotype.suspects, {"A": "raw", "B": "sum", "C": "pairs"}, "A: adding 10"),
    (genotype.suspects, {"A": "sum", "B": "pairs", "C": "raw"}, "B: when one edge"),
    (genotype.suspects, {"A": "sum", "B": "sum", "C": "pairs"}, "B: an edge with one large"),
    (genotype.suspects, {"A": "sum", "B": "raw"}, "each of A, B and C"),
    (genotype.suspects, {"A": "sum", "B": "raw", "C": "max"}, "C: 'max' is none of"),
    (genotype.suspects, "raw", "give a dict"),
    # Chapter 05
    (drops, lambda a, b, p, i: (a + b) * mask(a, p) / (1 - p), "a draw of its own"),
    (drops, lambda a, b, p, i: drop(a, p) + drop(b, p), "identity is never dropped"),
    (drops, lambda a, b, p, i: drop(a, p) + (b / (1 - p) if i else drop(b, p)), "not scaled"),
    (drops, lambda a, b, p, i: a * mask(a, p) + b * mask(b, p), "must be divided"),
    (drops, lambda a, b, p, i: drop(a, p, *a.shape) + drop(b, p), "once an image"),
    (drops, lambda a, b, p, i: drop(a, 1 - p) + drop(b, 1 - p), "of dropping"),
    (drops, lambda a, b, p, i: (a + b) / (1 - p), "keep an edge"),
    (drops, lambda a, b, p, i: drop(a, p).flatten(1), "shape is the inputs'"),
    (drops, lambda a, b, p, i: a / (1 - p) + b if i else drop(a, p) + drop(b, p), "beside an id"),
    (drops, lambda a, b, p, i: a.mul_(mask(a, p) / (1 - p)) + b, "changed in place"),
    (retrain.cutout_area, lambda side, length: (length / side) ** 2, "clipped"),
    (retrain.cutout_area, lambda s, length: (rows_covered(s, length) * s) ** 2, "of pixels"),
    (retrain.cutout_area, rows_covered, "square it"),
    (retrain.cutout_area, lambda s, length: rows_covered(s, length + 1) ** 2, "up to, not with"),
    (stacked, lambda cell, x, y: [x, y], "return a tensor"),
    (stacked, cell_of(lambda cell, states: states), "inputs left out"),
    (stacked, cell_of(lambda cell, states: states[2:]), "not all nodes"),
    (stacked, lambda cell, x, y: cell(y, x, None), "state 0 is the older"),
    (stacked, lambda cell, x, y: 2 * cell(x, y, None), "node n adds"),
    # Chapter 06
    (activation, chosen(lambda x: x.softmax(-1), names=RECURRENT_PRIMITIVES), "no cell contains"),
    (activation, chosen(lambda x: x[:, 1:].softmax(-1)), "after the softmax, not before"),
    (activation, by_sum, "not by the sum"),
    (activation, by_logits, "cannot be compared"),
    (activation, next_name, "the library chooses"),
    (activation, lambda logits: 0, "return a pair"),
    (activation, lambda logits: ("gelu", 0), "is no activation"),
    (perplexity, lambda x, n: sum(map(math.exp, x)) / len(x), "mean of perplexities"),
    (perplexity, lambda x, n: mean(list(map(math.exp, x)), n), "mean of perplexities"),
    (perplexity, lambda x, n: math.exp(sum(x) / len(x)), "weigh each loss"),
    (perplexity, lambda x, n: 2 ** mean(x, n), "in nats"),
    (perplexity, mean, "exp is missing"),
    (perplexity, lambda x, n: math.exp(1.75), "three segments"),
    (size, lambda d, v, n: 2 * v * d + v + 4 * d * d + 2 * n * d * d, "share one matrix"),
    (size, lambda d, v, n: v * d + 4 * d * d + 2 * n * d * d, "has a bias"),
    (size, lambda d, v, n: v * d + v + 2 * d * d + 2 * n * d * d, "2 d rows"),
    (size, lambda d, v, n: v * d + v + 2 * d * d + n * d * d, "2 d columns"),
    (size, lambda d, v, n: 22_960_000, "33,278 words"),
    # Chapter 07
    (target, lambda y, k, e: shares(y, k, 1 - e, e / (k - 1)), "the right one included"),
    (target, lambda y, k, e: shares(y, k, 1 - e, e / k), r"add up to 0\.980"),
    (target, lambda y, k, e: shares(y, k, 1.0, 0.0), r"share is 0\.920, not 1\.000"),
    (target, lambda y, k, e: shares(y - 1, k, 1 - e + e / k, e / k), "that of the label, 2"),
    (target, lambda y, k, e: [1 - e + e / k], "each of the 5 classes, not 1"),
    (cell_sides, lambda p, n: sides(p, n, halvings=2), "puts out 28, not 56: three halvings"),
    (cell_sides, lambda p, n: sides(p, n, up=False), "70 pixels and 5 cells: .* rounded up"),
    (cell_sides, lambda p, n: sides(p, n, late=1), "cell 4 puts out 14, not 28"),
    (cell_sides, lambda p, n: [-(-p // 4), *sides(p, n)[:-1]], "what each cell reads"),
    (cell_sides, lambda p, n: sides(p, n)[:-1], "14 in all, not 13"),
    (within, lambda cell, budget: 48, "DARTS_V2 at 50 channels has .* still within"),
    (within, lambda cell, budget: 50, "NASNet at 50 channels has .* more than 600,000,000"),
    (within, lambda x, _: 50 if x == PUBLISHED["DARTS_V2"] else 46, "V2 at .* more than 300,000"),
    (within, lambda cell, budget: 51, "number is even"),
    (within, lambda cell, budget: 50.0, "is an int, not 50.0"),
    (within, lambda cell, budget: 573_472_800, "not multiply-adds"),
]


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG)
def test_wrong_answers_have_hints(check: Callable[[Any], None], answer: object, hint: str) -> None:
    with pytest.raises(AssertionError, match=hint):
        check(answer)


def test_right_answers_of_another_kind_pass() -> None:
    search_space.own_primitive(primitive(pool))
    recurrent.text_perplexity(lambda x, n: float(torch.tensor(mean(x, n)).exp()))
    assert solution("05_retrain", "area")(32, 16) == pytest.approx(0.191, abs=5e-4)


CHAPTERS = [
    pytest.param(path.stem, marks=pytest.mark.deep if path.stem == "07_transfer" else ())
    for path in NOTEBOOKS
    if "checks." in "".join(chapter_cells(path.stem, "code"))  # not every appendix has exercises
]
"""The solution of 07 builds the ImageNet network again and again."""


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_check_has_an_exercise_that_waits_a_solution_and_wrong_answers(chapter: str) -> None:
    asked = set()
    for name, cell, check, answer in exercises(chapter):
        asked.add(check)
        assert f"{name} = None" in cell
        check(answer)
    module = imported(chapter)["checks"]
    functions = [f for _, f in inspect.getmembers(module, inspect.isfunction)]
    checks = {f for f in functions if f.__module__ == module.__name__ and f.__name__[0] != "_"}
    assert len(checks) >= 3
    assert checks == asked == {check for check, _, _ in WRONG if check in checks}


def test_a_shown_formula_is_the_named_bug_and_no_other() -> None:
    namespace, arguments = imported("03_search"), smooth_problem(learning_rate=0.5).arguments
    for cell in chapter_cells("03_search", "code"):
        if cell.startswith(("def grad", "def implicit_term", "def formula_")):
            exec(cell, namespace)
    bugs = {name: bug(*arguments) for name, bug in BUGS.items()}
    for letter, right in bilevel.BUGS_SHOWN.items():
        shown = namespace[f"formula_{letter.lower()}"](*arguments)
        for name, bug in bugs.items():
            pairs = ((bug.implicit, shown.implicit), (bug.direct, shown.direct))
            assert all(relative_error(*pair) < 1e-6 for pair in pairs) == (name == right), name


def test_what_the_hints_say_of_the_suspects_is_true() -> None:
    """The refutations: A and C ignore a constant, B and C keep one large weight, A and B two."""
    generator = torch.Generator().manual_seed(1)
    table = 2 * torch.randn(4, len(PRIMITIVES), generator=generator, dtype=torch.float64)
    for row, name in itertools.product(range(4), "AC"):
        shifted, rule = table.clone(), genotype.SUSPECTS[name]
        shifted[row] += 10
        assert rule(shifted, PRIMITIVES) == rule(table, PRIMITIVES)
    names = ("none", "sep_conv_3x3", "max_pool_3x3")
    one_large = torch.tensor([[0.4, 0.5, 0.1], [0.3, 0.35, 0.35], [0.05, 0.9, 0.05]]).log()
    two_large = torch.tensor([[0.0, 9.0, 9.0], [9.0, 8.0, 0.0]], dtype=torch.float64)
    sources = {
        name: [{source for _, source in rule(x, names)} for x in (one_large, two_large)]
        for name, rule in genotype.SUSPECTS.items()
    }
    assert sources == {"A": [{1, 2}, {0, 1}], "B": [{0, 2}, {0, 1}], "C": [{0, 2}, {0}]}
