"""What makes a step fast on a GPU: bfloat16, compiled cells, the whole step as one CUDA graph.

`auto` means: on CUDA bfloat16 and the graph, elsewhere neither. Compiled cells are asked for by
name: they take minutes to compile, and the graph alone removes the launches.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darts_lib.ranks import Ranks
from darts_lib.settings import RunConfig

WARM_UPS = 3
"""Steps before a graph is recorded, so that libraries have chosen their kernels; torch's advice."""


@dataclass(frozen=True)
class Acceleration:
    """The switches of a run, resolved for its device."""

    device: torch.device
    amp: bool
    compile: bool
    graph: bool

    @classmethod
    def of(cls, config: RunConfig, device: torch.device) -> "Acceleration":
        """Resolve `auto`; the configuration has refused what cannot be."""
        cuda = device.type == "cuda"
        alone = Ranks.current().count == 1  # messages between ranks are left out of graphs
        fitting = cuda and alone and config.capturable
        graph = config.graph == "on" or (config.graph == "auto" and fitting)
        bfloat16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        amp = config.amp == "on" or (config.amp == "auto" and bfloat16)
        return cls(device, amp, config.compile == "on", graph)

    def autocast(self) -> torch.autocast:
        """Return the context of a step's ordinary passes; a graph allows no cache of casts."""
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        return torch.autocast(kind, torch.bfloat16, enabled=self.amp, cache_enabled=False)

    def compiled(self, cells: nn.ModuleList) -> None:
        """Compile each cell, in place, if asked for: a region, not the whole network."""
        if self.compile:
            for cell in cells:
                cell.compile()

    def recorded(
        self, step: Callable[..., Tensor], state: Callable[[], Sequence[Tensor]], required: bool
    ) -> Callable[..., Tensor]:
        """Return the step itself, or where a graph is wanted the step as one."""
        return Captured(step, state, required) if self.graph else step

    def __str__(self) -> str:
        """Name what is on, for the line that describes a run."""
        names = ("amp", "compile", "graph")
        return ", ".join(name for name in names if getattr(self, name)) or "eager float32"


def warn_of_unused_gpu(name: str) -> None:
    """Print a line if `auto` is the CPU only because this torch was built without CUDA."""
    built_with = torch.version.cuda or torch.version.hip
    if name == "auto" and not built_with and shutil.which("nvidia-smi"):
        print(
            f"warning: this machine has an NVIDIA GPU, but torch {torch.__version__} is built for "
            "the CPU alone; install the torch for your CUDA as PyTorch's site says, or ask for the "
            "CPU with device='cpu'."
        )


@contextmanager
def full_precision() -> Iterator[None]:
    """IEEE float32 inside: no autocast, no TF32.

    The finite difference moves each weight by about 1e-5 of itself; in bfloat16 or TF32 that
    drowns in rounding.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class Captured:
    """A step on CUDA, recorded as a graph and replayed: one launch in place of thousands.

    `step` takes tensors and returns one; `state` lists every tensor that it changes. Inputs are
    copied into fixed buffers. Inputs of another shape (an epoch's last batch) run eagerly. Where
    recording fails, a `required` graph raises; else the run says so and goes on eagerly.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        state: Callable[[], Sequence[Tensor]],
        required: bool = True,
    ) -> None:
        self.step, self.state, self.required = step, state, required
        self.started = self.failed = False
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take the step; the first is eager, so that the optimisers make their state."""
        if not self.started or self.failed:
            self.started = True
            return self.step(*inputs)
        if self.graph is None:
            self._record(inputs)
        if self.graph is None or [x.shape for x in inputs] != [own.shape for own in self.inputs]:
            return self.step(*inputs)
        for own, x in zip(self.inputs, inputs, strict=True):
            own.copy_(x)
        self.graph.replay()
        return self.output.clone()

    def _record(self, inputs: Sequence[Tensor]) -> None:
        """Warm up and record one step, and put back what the warm-up changed."""
        self.inputs = [x.clone() for x in inputs]
        before = [tensor.clone() for tensor in self.state()]
        try:
            self.graph = self._recorded()
        except RuntimeError as error:
            if self.required:
                raise
            self.failed = True
            first = str(error).partition("\n")[0]
            print(f"the step cannot be a CUDA graph ({first}); going on without, as graph='off'.")
        with torch.no_grad():
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)

    def _recorded(self) -> torch.cuda.CUDAGraph:
        """Return a graph of one step, after some on a stream of their own."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.step(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.output = self.step(*self.inputs)
        return graph
