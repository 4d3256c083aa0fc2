"""What a compiled kernel needs of a GPU, read from the binary itself."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from attndsl.codegen.triton.targets import GpuTarget
from attndsl.diagnostics import InternalError

# Fewer instructions than any kernel of ours: the compiler gave up and said nothing.
_FEWEST_INSTRUCTIONS = 30


@dataclass(frozen=True)
class Resources:
    """Per thread: `registers`, `stack` (bytes of local memory: spills). Per block: `shared` bytes.

    `instructions` counts the whole kernel; `tensor_instructions` those that multiply matrices.
    """

    registers: int
    stack: int
    shared: int
    instructions: int
    tensor_instructions: int

    def fits(self, target: GpuTarget) -> bool:
        """No spills, and no more shared memory than the target has."""
        is_real = self.instructions >= _FEWEST_INSTRUCTIONS
        return self.stack == 0 and self.shared <= target.shared and is_real


def of_cubin(cubin: bytes, shared: int) -> Resources:
    """Resources of an NVIDIA binary; `shared` is the dynamic shared memory of its launch."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _run("cuobjdump", "-res-usage", str(path))
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if found is None:
        raise InternalError(f"cuobjdump said nothing of registers: {usage[:200]}")
    registers, stack, static_shared, local = map(int, found.groups())
    listing = [text for _, text in sass(cubin)]
    return Resources(
        registers,
        stack + local,
        shared + static_shared,
        len(listing),
        sum("MMA" in text for text in listing),
    )


def of_amdgcn(assembly: str, shared: int) -> Resources:
    """Resources of an AMD binary, from the metadata in its assembly."""

    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", assembly)
        return int(found[1]) if found is not None else 0

    listing = amdgcn(assembly)
    return Resources(
        # Where a target has them, accumulation registers are counted in.
        field("vgpr_count"),
        max(field("private_segment_fixed_size"), 4 * field("vgpr_spill_count")),
        shared,
        len(listing),
        sum("mfma" in text or "wmma" in text for _, text in listing),
    )


def sass(cubin: bytes) -> list[tuple[str, str]]:
    """The machine instructions, each with the label that stands before it, if any."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        text = _run("nvdisasm", "-c", str(path))
    label, listing = "", []
    for line in text.splitlines():
        at = re.match(r"\s*(\.L_x_\d+):", line)
        if at is not None:
            label = at[1]
            continue
        instruction = re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line)
        if instruction is not None:
            listing.append((label, instruction[1]))
            label = ""
    return listing


def amdgcn(assembly: str) -> list[tuple[str, str]]:
    """As `sass`, of AMD assembly."""
    label, listing = "", []
    for line in assembly.splitlines():
        at = re.match(r"(\.L\w+):", line)
        if at is not None:
            label = at[1]
            continue
        instruction = re.match(r"\s+((?:[vs]_|ds_|global_|buffer_|flat_|scratch_).*)", line)
        if instruction is not None:
            listing.append((label, instruction[1].partition(";")[0].strip()))
            label = ""
    return listing


def matrix_loops(listing: list[tuple[str, str]]) -> list[list[str]]:
    """The instructions of each innermost loop that multiplies matrices, in code order."""
    places = {label: number for number, (label, _) in enumerate(listing) if label}
    loops: list[tuple[int, int]] = []
    for number, (_, text) in enumerate(listing):
        target = re.search(r"(?:BRA|s_cbranch).*?(\.L\w+)", text)
        if target is None or places.get(target[1], number + 1) > number:
            continue
        first = places[target[1]]
        if any(re.search("MMA|mfma|wmma", text) for _, text in listing[first : number + 1]):
            loops.append((first, number))
    innermost = [
        one
        for one in loops
        if not any(one != two and one[0] <= two[0] and two[1] <= one[1] for two in loops)
    ]
    return [[text for _, text in listing[first : last + 1]] for first, last in innermost]


@cache
def _tool(name: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.exists():
        raise InternalError(f"Triton's wheel has no {name}")
    return str(path)


def _run(tool: str, *arguments: str) -> str:
    finished = subprocess.run(
        [_tool(tool), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    if finished.returncode != 0:
        raise InternalError(f"{tool}: {finished.stderr.strip()[:500]}")
    return finished.stdout
