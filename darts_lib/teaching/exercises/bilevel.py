"""Checks of chapter 03's exercises: where the toy ends, two bugs, one step of the search."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from darts_lib.data.images import Batch
from darts_lib.relaxation import mix
from darts_lib.search import Search, SearchConfig
from darts_lib.teaching.exercises.answers import close, compare

BUGS_SHOWN = {"A": "expanded_around_virtual_weights", "B": "weight_decay_left_out"}
"""What is wrong with the two formulas of the exercise, by the names in `gradient_bugs.BUGS`."""

SMALL = {"scale": "laptop", "device": "cpu", "order": 1, "supernet": "plain", "gradient_clip": 0.5}
SMALL |= {"layers": 3, "nodes": 1, "channels": 2, "batch_size": 16}
"""The search of the exercise: small, and with a limit that every gradient exceeds."""


def end_of_toy(end: Callable[[float], float]) -> None:
    """Check `end(xi)`: the alpha at which the toy's second order comes to rest."""
    for xi in (0.0, 0.5, 0.1, 2.0):
        alpha = float(end(xi))
        mistakes = {
            2 - 2 * xi: f"a straight line through both known ends; at xi = {xi} it gives "
            f"{alpha:.4g}. Set the gradient to zero instead.",
            2 / (1 + xi): "the implicit term is 2 xi alpha; "
            "the 2 comes from L_train = (w - alpha)^2.",
        }
        otherwise = (
            f"at xi = {xi} you say {alpha:.4g}. At rest w = alpha, so w' = w as well; then "
            "(w' - 2) + 2 xi alpha = 0."
        )
        compare(alpha, 2 / (1 + 2 * xi), mistakes, otherwise)


def spot_the_bugs(names: Mapping[str, str]) -> None:
    """Check the names given to the formulas A and B, as they stand in `gradient_bugs.BUGS`."""
    complete = isinstance(names, Mapping) and set(names) == set(BUGS_SHOWN)
    assert complete, 'answer with a dict of both, {"A": "...", "B": "..."}.'
    hints = {
        "A": "go through it line by line beside `by_hand`. From which weights do the two points "
        "start?",
        "B": "its virtual step: name the three parts that SGD adds up, and look for each.",
    }
    for letter, right in BUGS_SHOWN.items():
        assert names[letter] == right, f"{letter}: {hints[letter]}"


def first_order_step(step: Callable[..., Any]) -> None:
    """Check `step(net, alphas, sgd, adam, train, valid, clip)` against `Search.step`, taken twice.

    The second time, what the first has left in `.grad` counts too.
    """
    right = _moved(lambda run, train, valid: run.step(train, valid))
    answer = _moved(lambda run, *batches: step(*_parts(run), *batches, run.config.gradient_clip))
    start = _moved(lambda *_: None)
    for part, what in enumerate(("weights", "alphas")):
        assert not close(answer[part], start[part]), f"the {what} have not moved."
    if all(close(*pair, 1e-4) for pair in zip(answer, right, strict=True)):
        return
    mistakes = {
        "weights_first": "the weights went first; Algorithm 1 begins with the alphas.",
        "left_in_weights": "the alphas' backward pass has also filled the weights' gradients: "
        "clear them before the training batch.",
        "left_in_alphas": "the training batch's backward pass has filled the alphas' gradients "
        "too: clear them before the next step of the alphas.",
        "unclipped": "the weights' gradient is not clipped to a norm of `clip`.",
        "halves": "the alphas belong to the validation batch, the weights to the training batch.",
    }
    for mistake, hint in mistakes.items():
        wrong = _moved(partial(_iteration, mistake=mistake))
        assert not all(map(close, answer, wrong)), hint
    raise AssertionError(
        "after two steps weights or alphas are elsewhere. Alphas on the validation batch, then "
        "weights on the training batch, clipped; zero_grad before each."
    )


def _parts(run: Search) -> tuple[Any, ...]:
    return run.net, run.alphas, run.optimiser, run.alpha_optimiser


def _moved(take: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """Return all weights and all alphas after two steps, each as one vector."""
    run = Search(SearchConfig.create(**SMALL))
    batches = run.batches(torch.Generator().manual_seed(0))
    for _ in range(2):
        take(run, *next(batches))
    vectors = (run.weights.values(), run.alphas.values())
    weights, alphas = (torch.cat([t.detach().flatten() for t in part]) for part in vectors)
    return weights, alphas


def _iteration(run: Search, train: Batch, valid: Batch, mistake: str) -> None:
    """Take a first-order step with one mistake in it."""
    net, alphas, sgd, adam = _parts(run)
    train, valid = (valid, train) if mistake == "halves" else (train, valid)

    def backward(batch: Batch) -> None:
        torch.autograd.backward(nn.functional.cross_entropy(net(batch[0], mix(alphas)), batch[1]))

    def weights() -> None:
        if mistake != "left_in_weights":
            sgd.zero_grad()
        backward(train)
        if mistake != "unclipped":
            nn.utils.clip_grad_norm_(net.parameters(), run.config.gradient_clip)
        sgd.step()

    if mistake == "weights_first":
        weights()
    if mistake != "left_in_alphas":
        adam.zero_grad()
    backward(valid)
    adam.step()
    if mistake != "weights_first":
        weights()
