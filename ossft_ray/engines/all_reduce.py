"""A timed all-reduce over several processes, the collective that training runs at every step."""

import time
from datetime import timedelta

import torch

_NUM_TIMED = 3


def all_reduce_seconds(rank: int, num_workers: int, address: str, num_bytes: int, timeout_seconds: float) -> float:
    """Seconds of one all-reduce over `num_workers` processes, the best of three after a warm-up.

    `address` is HOST:PORT, on which rank 0 listens. The backend is NCCL where torch has a GPU, else Gloo.

    Raises:
        RuntimeError: the processes do not find each other in time, or their sum is wrong.
    """
    device, backend = ("cuda", "nccl") if torch.cuda.is_available() else ("cpu", "gloo")
    timeout = timedelta(seconds=timeout_seconds)
    torch.distributed.init_process_group(backend, f"tcp://{address}", timeout, num_workers, rank)
    try:
        best = float("inf")
        for _ in range(1 + _NUM_TIMED):
            values = torch.full((num_bytes // 4,), float(rank + 1), device=device)
            torch.distributed.barrier()
            began = time.perf_counter()
            torch.distributed.all_reduce(values)
            total = float(values[-1].item())  # waits for the GPU
            best = min(best, time.perf_counter() - began)
            if total != num_workers * (num_workers + 1) / 2:
                raise RuntimeError(f"the sum over {num_workers} processes is wrong: {total}")
        return best
    finally:
        torch.distributed.destroy_process_group()
