"""What users call: specs become modules, and a module's attentions are kernels."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from attndsl.diagnostics import error
from attndsl.runtime.kernel import Kernel
from attndsl.runtime.modules import SpecModule, load_file, load_text

if TYPE_CHECKING:
    from attndsl.runtime.artifact import Artifact


class SpecWarning(UserWarning):
    """What the checker noticed in a spec that is legal and yet probably not meant."""


class Module:
    """The attentions of one spec as attributes: `module.gemma2` is a `Kernel`."""

    def __init__(self, module: SpecModule, name: str):
        self._kernels = {one.name: Kernel(one) for one in module.attentions}
        self._name = name

    def __getattr__(self, name: str) -> Kernel:
        # Python asks for names such as `__wrapped__` on any object.
        if name.startswith("_"):
            raise AttributeError(name)
        kernel = self._kernels.get(name)
        if kernel is None:
            near = difflib.get_close_matches(name, self._kernels, 1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise AttributeError(f"`{self._name}` has no attention `{name}`{hint}")
        return kernel

    def __getitem__(self, name: str) -> Kernel:
        return self._kernels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kernels)

    def __len__(self) -> int:
        return len(self._kernels)

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._kernels])

    def __repr__(self) -> str:
        return f"<attndsl module `{self._name}`: {', '.join(self._kernels) or 'empty'}>"

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        """Every attention by name, in the order in which they are written."""
        return dict(self._kernels)


def load(path: str | Path) -> Module:
    """The module of a `.attn` file. Raises `AttnError` for what is wrong in it."""
    return _module(load_file(Path(path)), Path(path).name)


def parse(text: str, name: str = "<text>") -> Module:
    """The module of a spec given as text; diagnostics call it `name`."""
    return _module(load_text(text, name), name)


def compile(
    kernel: Kernel,
    target: str | tuple[str, ...] = "cpu",
    *,
    head_dim: int = 64,
    value_dim: int | None = None,
    dtype: str = "bf16",
    return_lse: bool = False,
    direction: str = "forward",
    gradients: Iterable[str] | None = None,
    **parameters: bool | int | float,
) -> Artifact:
    """Compile ahead of time, for machines that need not be this one.

    `target` is one or several of `cpu`, `cuda:80`, `cuda:90`, `hip:gfx942` …; `dtype` is `fp32`,
    `bf16` or `fp16`. `value_dim` is `head_dim` unless given. With the direction `both` the artifact
    is differentiable, in the arguments that `gradients` names: `q`, `k`, `v` and every input of
    floats unless given. Further keywords bind parameters.

    Raises `AttnError` A08x where a target cannot run the spec, and A072 for a gradient that there
    is not.
    """
    if not isinstance(kernel, Kernel):
        raise error("A070", f"`compile` takes a kernel, got `{type(kernel).__qualname__}`")
    targets = (target,) if isinstance(target, str) else tuple(target)
    return kernel.bind(**parameters).artifact(
        *targets,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        return_lse=return_lse,
        direction=direction,
        gradients=gradients,
    )


def load_artifact(directory: str | Path) -> Artifact:
    """An artifact that `Artifact.save` wrote; it runs without compiling anything.

    Raises `AttnError` A096 where the directory is damaged or is no artifact.
    """
    from attndsl.runtime.artifact_files import load_artifact as load_from

    return load_from(Path(directory))


def _module(module: SpecModule, name: str) -> Module:
    for warning in module.warnings:
        warnings.warn(str(warning), SpecWarning, stacklevel=3)
    return Module(module, name)
