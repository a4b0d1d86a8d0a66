"""The language model: exact counts, names, the derived cell by hand, and masks that stay."""

import pytest
import torch
from torch import Tensor, nn

from darts_lib.cost.complexity import count_parameters
from darts_lib.recurrent import network
from darts_lib.recurrent.genotype import PUBLISHED
from darts_lib.recurrent.network import Dropout, Masks, derived_network, supernet
from darts_lib.recurrent.relaxation import initial_alphas
from darts_lib.relaxation import mix

WORDS, WIDTH, BATCH, TIME = 50, 8, 6, 5
ALL = Dropout(0.1, 0.2, 0.75, 0.25, 0.75)
TOKENS = torch.randint(WORDS, (TIME, BATCH), generator=torch.Generator().manual_seed(0))
START = torch.zeros(BATCH, WIDTH)


@pytest.mark.parametrize(("name", "width", "vocabulary", "count"), [
    ("DARTS_V1", 850, 10_000, 22_960_000),
    ("DARTS_V2", 850, 10_000, 22_960_000),
    ("ENAS", 850, 10_000, 27_295_000),
    ("DARTS_V2", 700, 33_278, 33_127_878),
    ("", 300, 10_000, 4_810_000),  # the supernet
])  # fmt: skip
def test_the_published_counts(name: str, width: int, vocabulary: int, count: int) -> None:
    with torch.device("meta"):
        sizes = width, vocabulary
        net = derived_network(PUBLISHED[name], *sizes) if name else supernet(*sizes)
    assert count_parameters(net) == count


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
    net, other = supernet(WIDTH, WORDS), supernet(WIDTH, WORDS)
    net.load_state_dict(other.state_dict())
    assert net.decoder.weight is net.encoder.weight
    assert torch.equal(net.encoder.weight, other.encoder.weight)
    assert "decoder.weight" not in dict(net.named_parameters())
    weights = supernet(WIDTH, 500).state_dict()
    assert not weights.pop("decoder.bias").any()
    assert all(0.03 < float(weight.abs().max()) <= 0.04 for weight in weights.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_derived_cell_against_a_plain_rewriting(name: str) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    genotype = PUBLISHED[name]
    cell = network.DerivedCell(WIDTH, genotype)
    with torch.no_grad():
        for weight in cell.parameters():
            weight.copy_(0.5 * torch.randn_like(weight))
    inputs, state = torch.randn(TIME, BATCH, WIDTH), torch.randn(BATCH, WIDTH)
    mx, mh = ((torch.rand(BATCH, WIDTH) < 0.7) / 0.7 for _ in range(2))
    outputs, last = cell(inputs, state, mx, mh)
    functions = {"tanh": nn.Tanh(), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid()}
    for x, output in zip(inputs, outputs, strict=True):
        gate, new = (torch.cat([x * mx, state * mh], dim=1) @ cell._W0).chunk(2, dim=1)
        states = [(1 - gate.sigmoid()) * state + gate.sigmoid() * new.tanh()]
        for (activation, source), matrix in zip(genotype.recurrent, cell._Ws, strict=True):
            before = states[source]
            gate, new = ((before * mh) @ matrix).chunk(2, dim=1)
            new = functions.get(activation, nn.Identity())(new)
            states.append((1 - gate.sigmoid()) * before + gate.sigmoid() * new)
        state = sum(states[i] for i in genotype.concat) / len(genotype.concat)
        torch.testing.assert_close(output, state)
    torch.testing.assert_close(last, state)


def test_two_halves_are_one_pass_and_only_a_derived_cell_takes_one_sample() -> None:
    net = derived_network(PUBLISHED["DARTS_V2"], WIDTH, WORDS)
    assert tuple(net(TOKENS[:, :1], START[:1]).logits.shape) == (TIME, 1, WORDS)
    with pytest.raises(ValueError, match="at least 2"):
        supernet(WIDTH, WORDS)(TOKENS[:, :1], START[:1], weights=mix(initial_alphas()))
    masks = Masks(ALL, BATCH, WIDTH, WORDS).draw()
    first = net(TOKENS[:2], START, masks)
    second = net(TOKENS[2:], first.hidden, masks)
    whole = net(TOKENS, net.first_hidden(BATCH), masks).logits
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole)


def test_masks_have_the_right_size_share_and_height() -> None:
    masks = Masks(ALL, 200, 100, 4000).draw(torch.Generator().manual_seed(0))
    for name, probability in vars(ALL).items():
        mask = getattr(masks, name)
        kept = mask > 0
        assert tuple(mask.shape) == ((4000, 1) if name == "words" else (200, 100))
        assert float(kept.float().mean()) == pytest.approx(1 - probability, abs=0.02)
        torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / (1 - probability)))


def test_masks_follow_the_generator_and_stay_in_place() -> None:
    def values(masks: Masks, seed: int) -> list[Tensor]:
        masks.draw(torch.Generator().manual_seed(seed))
        return [getattr(masks, name).clone() for name in vars(ALL)]

    masks = Masks(ALL, BATCH, WIDTH, WORDS)
    place, first = masks.hidden.data_ptr(), values(masks, 5)
    assert not torch.equal(values(masks, 6)[-1], first[-1])
    assert all(map(torch.equal, values(masks, 5), first))
    assert masks.hidden.data_ptr() == place
    with pytest.raises(ValueError, match=r"dropout hidden=1.0 must be from 0 to below 1"):
        Masks(Dropout(hidden=1.0), 2, 2, 2)


def test_a_dropped_word_is_dropped_wherever_it_stands() -> None:
    net = derived_network(PUBLISHED["DARTS_V1"], WIDTH, WORDS)
    assert torch.equal(net.train()(TOKENS, START).logits, net.eval()(TOKENS, START).logits)
    masks = Masks(Dropout(0.5, 0.0, 0.0, 0.0, 0.0), BATCH, WIDTH, WORDS)
    masks.words[7] = 0.0
    tokens = TOKENS.clone()
    tokens[2] = 7
    dropped = net(tokens, START, masks).logits
    with torch.no_grad():
        net.encoder.weight[7] = 5.0
    assert torch.equal(dropped[..., :7], net(tokens, START, masks).logits[..., :7])
