"""The supernet computes the same function on the GPU as on the CPU."""

import copy

import torch

from darts_lib.relaxation import Alphas, Supernet, initial_alphas, mix


def _gradients(net: Supernet, images: torch.Tensor, alphas: Alphas) -> Alphas:
    loss = net(images, mix(alphas)).square().mean()
    values = torch.autograd.grad(loss, list(alphas.values()))
    return dict(zip(alphas, values, strict=True))


def test_alpha_gradients_agree_with_the_cpu_in_float64() -> None:
    torch.manual_seed(0)
    on_cpu = Supernet(channels=4, layers=3).double()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    alphas = {k: v.detach().double().requires_grad_() for k, v in initial_alphas().items()}
    alphas_gpu = {k: v.detach().cuda().requires_grad_() for k, v in alphas.items()}
    expected = _gradients(on_cpu, images, alphas)
    for kind, found in _gradients(on_gpu, images.cuda(), alphas_gpu).items():
        torch.testing.assert_close(found.cpu(), expected[kind], rtol=1e-8, atol=1e-12)
