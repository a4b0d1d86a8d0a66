"""The language model: exact counts, names, the derived cell by hand, and masks that stay."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from darts_lib.bilevel import InnerStep, Tensors, architecture_gradient
from darts_lib.cost.complexity import count_parameters
from darts_lib.recurrent.genotype import PUBLISHED
from darts_lib.recurrent.network import (
    DerivedCell,
    Dropout,
    LanguageModel,
    Masks,
    derived_network,
    supernet,
)
from darts_lib.recurrent.relaxation import SearchCell, initial_alphas

WORDS, WIDTH, BATCH, TIME = 50, 8, 6, 5
ALL = Dropout(0.1, 0.2, 0.75, 0.25, 0.75)


def tokens(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORDS, (TIME, BATCH), generator=generator)


@pytest.mark.parametrize(
    ("name", "width", "vocabulary", "count"),
    [
        ("DARTS_V1", 850, 10_000, 22_960_000),
        ("DARTS_V2", 850, 10_000, 22_960_000),
        ("ENAS", 850, 10_000, 27_295_000),
        ("DARTS_V2", 700, 33_278, 33_127_878),
    ],
)
def test_the_published_counts(name: str, width: int, vocabulary: int, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(derived_network(PUBLISHED[name], width, vocabulary)) == count


def test_the_count_of_the_search() -> None:
    with torch.device("meta"):
        assert count_parameters(supernet(300, 10_000)) == 4_810_000
    assert initial_alphas()["recurrent"].numel() == 180


def test_the_names_are_the_originals() -> None:
    net = derived_network(PUBLISHED["DARTS_V2"], WIDTH, WORDS)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes == {
        "encoder.weight": (WORDS, WIDTH),
        "rnns.0._W0": (2 * WIDTH, 2 * WIDTH),
        **{f"rnns.0._Ws.{i}": (WIDTH, 2 * WIDTH) for i in range(8)},
        "decoder.weight": (WORDS, WIDTH),
        "decoder.bias": (WORDS,),
    }
    assert set(supernet(WIDTH, WORDS).state_dict()) == set(shapes)


def test_embedding_and_decoder_are_one_matrix_also_after_loading() -> None:
    net = supernet(WIDTH, WORDS)
    state = {name: torch.randn_like(value) for name, value in net.state_dict().items()}
    state["decoder.weight"] = state["encoder.weight"]
    net.load_state_dict(state)
    assert net.decoder.weight is net.encoder.weight
    assert torch.equal(net.encoder.weight, state["encoder.weight"])
    assert "decoder.weight" not in dict(net.named_parameters())


def test_weights_start_uniform_and_the_bias_zero() -> None:
    for name, value in supernet(WIDTH, 500).named_parameters():
        if name == "decoder.bias":
            assert not value.any()
        else:
            assert 0.03 < float(value.detach().abs().max()) <= 0.04


# The derived cell --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_derived_cell_against_a_plain_rewriting(name: str) -> None:
    torch.manual_seed(0)
    genotype = PUBLISHED[name]
    cell = DerivedCell(WIDTH, genotype).double()
    with torch.no_grad():
        for weight in cell.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    inputs, hidden = torch.randn(TIME, BATCH, WIDTH).double(), torch.randn(BATCH, WIDTH).double()
    mx, mh = ((torch.rand(BATCH, WIDTH) < 0.7).double() / 0.7 for _ in range(2))
    found, last = cell(inputs, hidden, mx, mh)
    functions = {
        "tanh": nn.Tanh(), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid(), "identity": nn.Identity(),
    }  # fmt: skip
    state = hidden
    for t in range(TIME):
        joined = torch.cat([inputs[t] * mx, state * mh], dim=1) @ cell._W0
        gate, candidate = torch.sigmoid(joined[:, :WIDTH]), torch.tanh(joined[:, WIDTH:])
        states = [(1 - gate) * state + gate * candidate]
        for i, (activation, source) in enumerate(genotype.recurrent):
            before = states[source]
            product = (before * mh) @ cell._Ws[i]
            gate = torch.sigmoid(product[:, :WIDTH])
            new = functions[activation](product[:, WIDTH:])
            states.append((1 - gate) * before + gate * new)
        state = sum(states[i] for i in genotype.concat) / len(genotype.concat)
        torch.testing.assert_close(found[t], state)
    torch.testing.assert_close(last, state)


def test_a_derived_cell_takes_one_sample() -> None:
    net = derived_network(PUBLISHED["DARTS_V1"], WIDTH, WORDS)
    out = net(tokens()[:, :1], net.first_hidden(1))
    assert tuple(out.logits.shape) == (TIME, 1, WORDS)
    small = supernet(WIDTH, WORDS)
    with pytest.raises(ValueError, match="at least 2"):
        small(tokens()[:, :1], small.first_hidden(1), alphas=initial_alphas())


def test_two_halves_are_one_pass_when_the_hidden_state_is_carried() -> None:
    net = derived_network(PUBLISHED["DARTS_V2"], WIDTH, WORDS)
    masks = Masks(ALL, BATCH, WIDTH, WORDS).draw()
    whole = net(tokens(), net.first_hidden(BATCH), masks)
    first = net(tokens()[:2], net.first_hidden(BATCH), masks)
    second = net(tokens()[2:], first.hidden, masks)
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole.logits)


# Dropout -----------------------------------------------------------------------------------------


def test_masks_have_the_right_size_share_and_height() -> None:
    masks = Masks(ALL, 200, 100, 4000).draw(torch.Generator().manual_seed(0))
    for name, probability in vars(ALL).items():
        mask = getattr(masks, name)
        kept = mask > 0
        assert tuple(mask.shape) == ((4000, 1) if name == "words" else (200, 100))
        assert float(kept.float().mean()) == pytest.approx(1 - probability, abs=0.02)
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - probability)))


def test_masks_follow_the_generator_and_stay_in_place() -> None:
    masks = [Masks(ALL, BATCH, WIDTH, WORDS) for _ in range(2)]
    place = masks[0].hidden.data_ptr()  # type: ignore[union-attr]
    for mask in masks:
        mask.draw(torch.Generator().manual_seed(5))
    for name in vars(ALL):
        assert torch.equal(getattr(masks[0], name), getattr(masks[1], name))
    before = masks[0].output.clone()  # type: ignore[union-attr]
    masks[0].draw(torch.Generator().manual_seed(6))
    assert not torch.equal(before, masks[0].output)
    assert masks[0].hidden.data_ptr() == place  # type: ignore[union-attr]


def test_a_probability_that_drops_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dropout hidden=1.0 must be from 0 to below 1"):
        Masks(Dropout(hidden=1.0), 2, 2, 2)


def test_a_dropped_word_is_dropped_wherever_it_stands() -> None:
    net = derived_network(PUBLISHED["DARTS_V1"], WIDTH, WORDS)
    masks = Masks(Dropout(0.5, 0.0, 0.0, 0.0, 0.0), BATCH, WIDTH, WORDS)
    assert masks.words is not None
    masks.words.fill_(1.0)
    masks.words[7] = 0.0
    other = tokens().clone()
    other[other == 7] = 8
    other[2] = 7
    emptied = net(other, net.first_hidden(BATCH), masks).logits
    with torch.no_grad():
        net.encoder.weight[7] = 5.0
        changed = net(other, net.first_hidden(BATCH), masks).logits
    assert torch.equal(emptied[..., :7], changed[..., :7])


def test_without_masks_training_mode_changes_nothing() -> None:
    net = derived_network(PUBLISHED["DARTS_V1"], WIDTH, WORDS)
    a = net.train()(tokens(), net.first_hidden(BATCH)).logits
    assert torch.equal(a, net.eval()(tokens(), net.first_hidden(BATCH)).logits)


# The same masks in the perturbed passes ----------------------------------------------------------


def hessian_products(redrawn: bool) -> list[Tensor]:
    """Return the implicit term twice on one batch, with masks kept or drawn anew at each pass."""
    torch.manual_seed(0)
    net, alphas = supernet(WIDTH, WORDS), initial_alphas()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(10)
    generator = torch.Generator().manual_seed(1)
    masks = Masks(ALL, BATCH, WIDTH, WORDS).draw(generator)

    def loss(weights: Tensors, alphas: Tensors) -> Tensor:
        masks_now = Masks(ALL, BATCH, WIDTH, WORDS).draw(generator) if redrawn else masks
        arguments = (tokens(), net.first_hidden(BATCH), masks_now, dict(alphas))
        out = functional_call(net, dict(weights), arguments)
        return nn.functional.cross_entropy(out.logits.flatten(0, 1), tokens(1).flatten())

    inner = InnerStep(0.5, 0.0, 0.0)
    weights = dict(net.named_parameters())
    found = [architecture_gradient(loss, loss, weights, alphas, inner) for _ in range(2)]
    return [gradient.implicit["recurrent"] for gradient in found]


def test_repeated_hessian_products_on_one_batch_are_equal() -> None:
    first, second = hessian_products(redrawn=False)
    assert torch.equal(first, second)
    assert float(first.norm()) > 0


def test_masks_drawn_anew_in_each_pass_make_them_noise() -> None:
    kept = hessian_products(redrawn=False)[0]
    first, second = hessian_products(redrawn=True)
    assert float(torch.cosine_similarity(first.flatten(), second.flatten(), dim=0)) < 0.9
    assert float(first.norm()) > 3 * float(kept.norm())


def test_tied_weights_move_together_in_a_functional_call() -> None:
    net = supernet(WIDTH, WORDS)
    weights = {name: value.detach() * 2 for name, value in net.named_parameters()}
    hidden, alphas = net.first_hidden(BATCH), initial_alphas()
    called = functional_call(net, weights, (tokens(), hidden), {"alphas": alphas}).logits
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(2)
    torch.testing.assert_close(called, net(tokens(), hidden, alphas=alphas).logits)


def test_the_plain_cell_fits_the_same_model() -> None:
    fast = supernet(WIDTH, WORDS)
    plain = LanguageModel(SearchCell(WIDTH), WORDS)
    plain.load_state_dict(fast.state_dict())
    masks = Masks(ALL, BATCH, WIDTH, WORDS).draw()
    outs = [
        net(tokens(), net.first_hidden(BATCH), masks, initial_alphas()).logits
        for net in (plain, fast)
    ]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)
