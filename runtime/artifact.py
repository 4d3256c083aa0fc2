"""Programs compiled ahead of time: called as a kernel is, and saved as a folder.

`artifact_files` says what is in the folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attndsl.codegen.program import Program
from attndsl.diagnostics import AttnError, error
from attndsl.planner.plan import Plan
from attndsl.runtime.manifest import MANIFEST, Manifest, ProgramBuild, read_manifest
from attndsl.runtime.options import Options
from attndsl.runtime.targets import Target, device_target

if TYPE_CHECKING:
    import torch

    from attndsl.runtime.arguments import Call
    from attndsl.runtime.backward import Backward
    from attndsl.runtime.calls import Calls
    from attndsl.runtime.cpp import CompiledProgram
    from attndsl.runtime.driver import DriverProgram
    from attndsl.runtime.execution import Execution


@dataclass(frozen=True)
class BackwardPrograms:
    """A backward for one target: its plan, and one program for a CPU, or one for each stage that a
    GPU has a kernel for, in the order of the stages."""

    plan: Plan
    programs: tuple[Program, ...]


@dataclass(frozen=True, eq=False)
class Artifact:
    """One attention compiled for one dtype and head dimension, for one or several targets.

    It is called as a `Kernel` is. `plan` and `programs` are the forward's, `backwards` by target
    are there if it was compiled in both directions. `files` are its contents by name; `place` is
    the folder that it was loaded from, if it was.
    """

    manifest: Manifest
    plan: Plan
    programs: Mapping[str, Program]
    backwards: Mapping[str, BackwardPrograms]
    files: Mapping[str, bytes]
    place: Path | None = None

    def save(self, directory: str | Path) -> Path:
        """Write the folder, in place of what an earlier `save` wrote there.

        Raises `AttnError` A097 where the folder holds something else or cannot be written.
        """
        target = Path(directory)
        try:
            _check_replaceable(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            # A reader never sees half of it: the folder is written beside its place and moved.
            written = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                for name, data in self.files.items():
                    (written / name).write_bytes(data)
                written.chmod(0o755)
                if target.exists():
                    shutil.rmtree(target)
                written.rename(target)
            finally:
                shutil.rmtree(written, ignore_errors=True)
        except OSError as problem:
            raise error(
                "A097", f"`{target}` cannot be written: {problem.strerror or problem}"
            ) from None
        return target

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any = None,
        *,
        scale: float | None = None,
        offset: int | None = None,
        grid: tuple[int, ...] | Mapping[str, int] | None = None,
        return_lse: bool = False,
        cu_seqlens: torch.Tensor | None = None,
        cu_seqlens_k: torch.Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Compute the attention; see `Kernel.__call__`. Nothing is compiled.

        Differentiable where it was compiled in both directions. Raises `AttnError` A087 where the
        artifact has nothing for these tensors, and A082 where one requires a gradient that the
        artifact does not have.
        """
        options = Options(
            scale, offset, grid, return_lse, cu_seqlens=cu_seqlens, cu_seqlens_k=cu_seqlens_k
        )
        return self._calls(q, k, v, options, inputs)

    def prepare(self, device: str | torch.device) -> None:
        """Load the binaries for a device now, and not at the first call there.

        Raises `AttnError` A087 where the artifact has nothing for the device, and A093 where its
        driver cannot be loaded or refuses the binaries.
        """
        import torch

        place = torch.device(device)
        if place.type == "cuda":
            from attndsl.runtime.driver import driver_api

            driver_api()  # without it, nothing tells what the device is
        target = device_target(place)
        self._check_has(target)
        for part in self._parts(target):
            self._launcher(target, *part).prepare(place)

    def __repr__(self) -> str:
        made = self.manifest.specialization
        kind = f"{made['dtype']}, D = {made['head_dim']}"
        return f"<attndsl artifact {self.manifest.attention}: {kind}, {', '.join(self.programs)}>"

    @cached_property
    def _calls(self) -> Calls:
        from attndsl.runtime.backward import Backwards
        from attndsl.runtime.calls import Calls
        from attndsl.runtime.gradients import has_log_sum_exp

        # One backward serves every call: it was compiled for whatever a call may ask of it.
        return Calls(
            self.plan.attention,
            self._execution_for,
            Backwards(self._backward_for, has_log_sum_exp(self.plan.attention)),
            check_gradient=self._check_gradient,
        )

    @cached_property
    def _executions(self) -> dict[str, Execution]:
        return {}

    @cached_property
    def _loaded_backwards(self) -> dict[str, Backward]:
        return {}

    def _execution_for(self, call: Call, return_lse: bool) -> Execution:
        from attndsl.runtime.execution import CompiledExecution, block_tables

        target = device_target(call.device)
        self._check_has(target)
        program = self.programs[target.name]
        made = program.specialization
        wanted = {
            "dtype": (made.dtype.value, call.dtype.value),
            "D": (made.head_dim, call.sizes["D"]),
            "Dv": (made.value_dim, call.sizes["Dv"]),
        }
        for name, (has, needs) in wanted.items():
            if has != needs:
                raise error("A087", f"the artifact is for {name} = {has}, the call has {needs}")
        if return_lse and not made.log_sum_exp:
            raise error("A087", "the artifact writes no log-sum-exp", help="compile it with it")
        execution = self._executions.get(target.name)
        if execution is None:
            tables = block_tables(self.plan.attend, program, self.plan.attention.axes)
            build = self.manifest.build(target.name).forward
            launcher = self._launcher(target, program, build)
            execution = CompiledExecution(self.plan, program, launcher, tables)
            self._executions[target.name] = execution
        return execution

    def _check_gradient(self, name: str) -> None:
        gradients = self.manifest.gradients
        if not gradients:
            raise error(
                "A082",
                f"`{name}` requires a gradient, and the artifact was compiled forward only",
                help="compile it with `--direction both`, or call it under `torch.no_grad()`",
            )
        if name not in gradients:
            raise error(
                "A082",
                f"`{name}` requires a gradient, and the artifact has those of "
                f"{', '.join(gradients)} only",
                help=f"compile it with `--gradient {name}` too, or detach the tensor",
            )

    def _backward_for(
        self, call: Call, wanted: tuple[str, ...], log_sum_exp_gradient: bool
    ) -> Backward:
        """What was compiled has the gradients of all that is wanted, and of the log-sum-exp."""
        target = device_target(call.device)
        known = self._loaded_backwards.get(target.name)
        if known is None:
            known = self._loaded_backwards[target.name] = self._load_backward(target)
        return known

    def _load_backward(self, target: Target) -> Backward:
        from attndsl.runtime.backward import on_cpu
        from attndsl.runtime.cpp import CompiledProgram

        made = self.backwards[target.name]
        launchers = [self._launcher(target, *part) for part in self._parts(target)[1:]]
        if target.language == "cpp":
            (launcher,), (program,) = launchers, made.programs
            assert isinstance(launcher, CompiledProgram)
            return on_cpu(made.plan, program, launcher)
        from attndsl.runtime.triton_backward import on_gpu, stages_with_kernels

        stages = stages_with_kernels(made.plan)
        return on_gpu(made.plan, dict(zip(stages, launchers, strict=True)))

    def _check_has(self, target: Target) -> None:
        if target.name not in self.programs:
            raise error(
                "A087",
                f"the artifact has nothing for `{target}`, only for {', '.join(self.programs)}",
                help=f"compile it with the target `{target}` too",
            )

    def _parts(self, target: Target) -> list[tuple[Program, ProgramBuild]]:
        """Every program for a target, and what the manifest says of it."""
        programs = [self.programs[target.name]]
        if target.name in self.backwards:
            programs += self.backwards[target.name].programs
        return list(zip(programs, self.manifest.build(target.name).programs, strict=True))

    @cached_property
    def _launchers(self) -> dict[str, CompiledProgram | DriverProgram]:
        return {}

    def _launcher(
        self, target: Target, program: Program, build: ProgramBuild
    ) -> CompiledProgram | DriverProgram:
        """What launches a program; its binaries are loaded once."""
        known = self._launchers.get(build.source)
        if known is None:
            if target.language == "triton":
                from attndsl.runtime.driver import load as load_binaries

                known = load_binaries(program, build.kernels, self.files)
            else:
                known = self._object(target, program, build)
            self._launchers[build.source] = known
        return known

    def _object(self, target: Target, program: Program, build: ProgramBuild) -> CompiledProgram:
        from attndsl.runtime.cpp import load as load_object
        from attndsl.runtime.processor import check_processor

        check_processor(self.manifest.build(target.name).processor)
        name = build.kernels[0].file
        if self.place is not None:
            return load_object(self.place / name, program)
        # Freshly compiled and not saved: the loader needs a file, for as long as it loads.
        with tempfile.TemporaryDirectory(prefix="attndsl-") as directory:
            path = Path(directory) / name
            path.write_bytes(self.files[name])
            return load_object(path, program)


def _check_replaceable(directory: Path) -> None:
    """A folder is replaced only if all that it holds was written by `save`."""
    names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    if not names:
        return
    try:
        ours = {MANIFEST, *read_manifest(directory / MANIFEST).files}
    except AttnError:
        ours = set()
    if not names <= ours:
        raise error(
            "A097",
            f"`{directory}` exists and holds `{min(names - ours)}`, which is of no artifact",
            help="choose another folder, or empty this one",
        )
