"""Peak memory of a step of training, each implementation in a process of its own.

python benchmarks/memory.py attndsl 16384 64 causal    prints MiB beside the operands
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import torch
from variants import VARIANTS, Problem

PEERS = ("attndsl", "SDPA")


def peak_of(peer: str, length: int, head_dim: int, variant: str = "causal") -> float:
    """MiB that forward and backward need beside the operands, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__)), peer, str(length), str(head_dim), variant]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout)


def _peak() -> float:
    """MiB that this process has held at most so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (2**20 if sys.platform == "darwin" else 2**10)


def _measure(peer: str, length: int, head_dim: int, variant: str) -> float:
    torch.manual_seed(0)

    def step(tokens: int) -> float:
        """MiB from before the first call to after the backward."""
        problem = Problem(1, 8, tokens, head_dim, torch.float32, torch.device("cpu"))
        forms = VARIANTS[variant](problem)
        attention = forms.ours() if peer == "attndsl" else forms.sdpa()
        operands = [one.requires_grad_() for one in problem.operands()]
        out_gradient = torch.randn_like(operands[0])
        before = _peak()
        torch.autograd.grad(attention(*operands), operands, out_gradient)
        return _peak() - before

    step(128)  # compilers and libraries are loaded and threads started
    return step(length)


if __name__ == "__main__":
    print(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
