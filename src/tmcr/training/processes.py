"""One training run on several processes, as torchrun starts them: who does what, and what they tell each other.

A batch is split over the processes for the encoder, where the time goes. The features of all shares are gathered
and every process computes the loss of the whole batch, so that the loss is that of one process; the gradients of
the encoder's weights are summed. Only the first process writes files.

Numbers on a CPU travel by Gloo, numbers on GPUs by NCCL. Without torchrun there is `ALONE`, for which every method
here returns at once, and torch.distributed is not touched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tmcr.errors import TmcrError

if TYPE_CHECKING:  # stage.py imports this module and does without torch
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

STEP_TIMEOUT = timedelta(minutes=30)  # for what belongs to a training step; a process that died is noticed at once
WAIT_TIMEOUT = timedelta(days=7)  # for what only the first process does
_BUCKET = 1 << 23  # numbers that travel together; bounds the memory that summing gradients takes


class ProcessLost(TmcrError):
    """Another process of the run has ended, or cannot be reached."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a training run.

    Attributes:
        rank: 0..count−1; 0 is the first, which writes the files.
        count: how many there are on all machines.
        local_rank, local_count: the same on this machine.
        control: the torch.distributed group for waiting and for Python values.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    control: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    # ---- shares of a batch ----------------------------------------------------------------------------------

    def share(self, size: int, block: int = 1) -> slice:
        """The rows of `size` that are this process's: whole blocks of `block` rows, contiguous, in order of rank.

        Shares differ by one block at most and may be empty, though never the first process's.
        """
        return self._share(self.rank, size, block)

    def _share(self, rank: int, size: int, block: int) -> slice:
        blocks = -(-size // block)
        begin, end = (-(-blocks * place // self.count) * block for place in (rank, rank + 1))
        return slice(min(begin, size), min(end, size))

    def gather(self, parts: Sequence[Tensor], size: int, *, device: torch.device, block: int = 1) -> Tensor:
        """All `size` rows on every process, from each one's rows of `share(size, block)`, without gradient.

        Args:
            parts: this process's rows, in one tensor or several; none where its share is empty.
            device: where the tensors are.
        """
        import torch

        if self.count == 1:
            return torch.cat(list(parts))
        import torch.distributed as dist

        shares = [self._share(rank, size, block) for rank in range(self.count)]
        lengths = [share.stop - share.start for share in shares]
        mine = torch.cat(list(parts)) if parts else None
        if min(lengths) == 0:  # who has no row does not know what a row looks like
            like = self.agree(mine[:0].cpu() if mine is not None else None)
            mine = like.to(device) if mine is None and like is not None else mine
        if mine is None or len(mine) != lengths[self.rank]:
            raise ValueError(f"this process's share of {size} rows is {lengths[self.rank]} rows")
        padded = mine.new_zeros((max(lengths), *mine.shape[1:]))  # the backends want the same size of all
        padded[: len(mine)] = mine
        gathered = [torch.empty_like(padded) for _ in range(self.count)]
        with self._talking():
            dist.all_gather(gathered, padded)
        return torch.cat([part[:length] for part, length in zip(gathered, lengths, strict=True)])

    # ---- gradients and weights ------------------------------------------------------------------------------

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up each parameter's gradient over all processes; one that no process has a gradient for keeps none."""
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist

        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if not trained:
            return
        known = torch.tensor([parameter.grad is not None for parameter in trained], device=trained[0].device).int()
        with self._talking():
            dist.all_reduce(known)
        gradients = []
        for parameter, holders in zip(trained, known.tolist(), strict=True):
            if holders:
                if parameter.grad is None:  # this process's share was empty
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        self._in_buckets(gradients, dist.all_reduce)

    def same_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the first process's gradients, for parameters whose full gradient every process has computed.

        They are equal already; but two machines may round differently, and weights that drift apart are no model.
        """
        if self.count == 1:
            return
        import torch.distributed as dist

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._in_buckets(gradients, lambda bucket: dist.broadcast(bucket, src=0))

    def same_state(self, module: nn.Module) -> None:
        """Take the first process's weights and buffers."""
        if self.count == 1:
            return
        import torch.distributed as dist

        values = [value.detach() for value in module.state_dict().values()]
        self._in_buckets(values, lambda bucket: dist.broadcast(bucket, src=0))

    def _in_buckets(self, values: Sequence[Tensor], talk: Callable[[Tensor], Any]) -> None:
        """Let `talk` change all values in place, many of them in one message."""
        import torch

        for bucket in _buckets(values):
            flat = torch.cat([value.flatten() for value in bucket])
            with self._talking():
                talk(flat)
            with torch.no_grad():
                for value, piece in zip(bucket, flat.split([value.numel() for value in bucket]), strict=True):
                    value.copy_(piece.view(value.shape))

    # ---- random numbers -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def own_draws(self, device: torch.device, key: Sequence[int]) -> Iterator[None]:
        """Random numbers that depend on `key` and this process, for what it alone encodes.

        Afterwards the numbers go on as if nothing had been drawn, so that all processes draw the same in the loss.
        One process simply goes on drawing.
        """
        if self.count == 1:
            yield
            return
        import numpy as np
        import torch

        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([*key, 1 + self.rank]).generate_state(1)[0]))
            yield

    # ---- agreement ------------------------------------------------------------------------------------------

    def agree(self, value: T) -> T:
        """The first process's value, on all of them."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        holder = [value]
        with self._talking():
            dist.broadcast_object_list(holder, src=0, group=self.control)
        return holder[0]

    def collect(self, value: T) -> list[T]:
        """Every process's value in order of rank, on the first process; nothing on the others."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.count
        with self._talking():
            dist.gather_object(value, gathered if self.first else None, dst=0, group=self.control)
        return gathered if self.first else []

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist

        with self._talking():
            dist.all_reduce(torch.zeros(1), group=self.control)

    def first_ahead(self, work: Callable[[], T]) -> T:
        """Each process's `work`, the first one's before that of the others, who find what it left in a cache."""
        if self.first:
            result = work()
            self.wait()
            return result
        self.wait()
        return work()

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ProcessLost(
                f"process {self.rank} of {self.count} stops because another one has ended or cannot be reached "
                f"({_reason(error)}); see what that one said, then start the run again: it goes on where it stood"
            ) from None


ALONE = Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun has started, for the length of the block; `ALONE` without torchrun.

    Raises:
        ProcessLost: they do not find each other.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if count == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    rank, local_rank, local_count = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=STEP_TIMEOUT)
        control = dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT)
    except RuntimeError as error:
        raise ProcessLost(
            f"process {rank} of {count} does not find the others ({_reason(error)}); "
            "check the addresses given to torchrun and the network between the machines"
        ) from None
    yield Processes(rank, count, local_rank, local_count, control)
    # Not after an error: leaving the group waits for the others, who learn of the end by this process's ending.
    dist.destroy_process_group()


def _buckets(values: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of values of one type and device, in order, of `_BUCKET` numbers or one value."""
    bucket: list[Tensor] = []
    numbers = 0
    for value in values:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (value.dtype, value.device)
        if bucket and (not alike or numbers + value.numel() > _BUCKET):
            yield bucket
            bucket, numbers = [], 0
        bucket.append(value)
        numbers += value.numel()
    if bucket:
        yield bucket


def _reason(error: BaseException) -> str:
    """The first sentence of what a backend says, without the place in its source."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    line = line.partition("] ")[2] if line.startswith("[") else line
    return line.partition(". ")[0].rstrip(".")[:120]
