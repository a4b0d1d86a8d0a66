"""What makes a step fast on a GPU: bfloat16, compiled cells, the whole step as one CUDA graph.

`auto` means: on CUDA bfloat16 and the graph, elsewhere neither. Compiled cells are asked for by
name: they take minutes to compile, and the graph alone removes the launches.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from darts_lib.engine.ranks import Ranks
from darts_lib.engine.refusals import SettingsError
from darts_lib.engine.settings import RunConfig

WARM_UPS = 3
"""Steps before a graph is recorded, so that libraries have chosen their kernels; torch's advice."""
RECORDINGS = 3
"""How many shapes of a step are recorded: a search's whole batches, and its last of either half."""
KINDS_OF_CELL = 64
"""How many compiled forms of a cell are kept: of each shape, and of each choice of gradients."""

Batch = tuple[Tensor, ...]
"""What a step is given: tensors on the device."""
Shapes = tuple[tuple[torch.Size, ...], ...]


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
        fitting = cuda and alone and config.capturable and "graph" in config.AUTOMATIC
        graph = config.graph == "on" or (config.graph == "auto" and fitting)
        bfloat16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        fitting = bfloat16 and "amp" in config.AUTOMATIC
        amp = config.amp == "on" or (config.amp == "auto" and fitting)
        return cls(device, amp, config.compile == "on", graph)

    def autocast(self) -> torch.autocast:
        """Return the context of a step's ordinary passes; a graph allows no cache of casts."""
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        return torch.autocast(kind, torch.bfloat16, enabled=self.amp, cache_enabled=False)

    def compiled(self, cells: nn.ModuleList) -> None:
        """Compile each cell, in place, if asked for: a region, not the whole network."""
        if self.compile:
            # All cells share their code; torch would run those after the eighth kind eagerly.
            torch._dynamo.config.recompile_limit = KINDS_OF_CELL
            for cell in cells:
                cell.compile()

    def recorded(
        self, step: Callable[..., Tensor], state: Callable[[], Sequence[Tensor]]
    ) -> Callable[..., Tensor]:
        """Return the step itself, or where a graph is wanted the step as one."""
        return Captured(step, state) if self.graph else step

    def __str__(self) -> str:
        """Name what is on, for the line that describes a run."""
        names = ("amp", "compile", "graph")
        return ", ".join(name for name in names if getattr(self, name)) or "eager float32"


class Recording(NamedTuple):
    """One step as a CUDA graph, with the fixed buffers that it reads and what it returns."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor


class Captured:
    """A step on CUDA, recorded as a graph and replayed: one launch in place of thousands.

    `step` takes batches, each a tuple of tensors, and returns a tensor; `state` lists every tensor
    that it changes. Shapes that come a second time are recorded, up to `RECORDINGS` of them; all
    others run eagerly. Raises SettingsError where a step cannot be recorded: after a recording that
    broke off torch's generator and allocator may still be in it, so no eager step is safe there.
    """

    def __init__(self, step: Callable[..., Tensor], state: Callable[[], Sequence[Tensor]]) -> None:
        self.step, self.state = step, state
        self.seen: set[Shapes] = set()
        self.recordings: dict[Shapes, Recording] = {}

    def __call__(self, *batches: Batch) -> Tensor:
        """Take the step; the first of a shape is eager, so that the optimisers make their state."""
        shapes = tuple(tuple(x.shape for x in batch) for batch in batches)
        if shapes in self.seen - self.recordings.keys() and len(self.recordings) < RECORDINGS:
            self.recordings[shapes] = self._recorded(batches)
        if shapes in self.recordings:
            graph, buffers, output = self.recordings[shapes]
            for buffer, x in zip(buffers, (x for batch in batches for x in batch), strict=True):
                buffer.copy_(x.detach())
            graph.replay()
            return output.clone()
        self.seen.add(shapes)
        with warnings.catch_warnings():  # Adam, that it is not being recorded
            warnings.filterwarnings("ignore", "This instance was constructed with capturable")
            return self.step(*batches)

    def _recorded(self, batches: Sequence[Batch]) -> Recording:
        """Return a graph of one step, and put back what warming up has changed."""
        own = [tuple(x.detach().clone() for x in batch) for batch in batches]
        # Detached: a clone's history would hold the weights' nodes of the outer stream alive, and
        # a backward pass that meets them leaves the recording.
        before = [tensor.detach().clone() for tensor in self.state()]
        device = own[0][0].device
        random = torch.cuda.get_rng_state(device)  # a drop path draws in the step
        try:
            with torch.cuda.device(device):  # streams are the current device's, not the tensors'
                graph, output = self._warmed_up_and_recorded(own)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            root: BaseException = error  # ending a broken recording fails too, and hides it
            while root.__context__ is not None:
                root = root.__context__
            first = str(root).partition("\n")[0]
            raise SettingsError(
                f"the step cannot be a CUDA graph ({first}); start again with graph='off'."
            ) from error
        torch.cuda.set_rng_state(random, device)
        with torch.no_grad():
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)
        return Recording(graph, [x for batch in own for x in batch], output)

    def _warmed_up_and_recorded(self, batches: list[Batch]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.step(*batches)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Graphs that never run at the same time may work in the same memory.
        pool = next((one.graph.pool() for one in self.recordings.values()), None)
        # Only this thread is recorded: a loader's may ask CUDA for pinned memory meanwhile.
        with torch.cuda.graph(graph, pool, side, capture_error_mode="thread_local"):
            output = self.step(*batches)
        return graph, output
