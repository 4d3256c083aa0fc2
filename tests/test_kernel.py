"""Kernels as users call them: binding, calling, what is remembered, what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import attndsl
from attndsl import reference
from attndsl.check.scope import KEYWORDS, RESERVED
from attndsl.diagnostics import AttnError
from attndsl.runtime import compilation, cpp
from attndsl.runtime.kernel import Kernel

SPEC = """
attention window(width: int = 20 where width > 0, wide: bool = False) {
    mask = causal and (i - j < width or wide)
}
attention alibi {
    input slope: float[H]
    score = dot(q, k) * scale - slope[h] * (i - j)
    mask  = causal
}
attention documents {
    input doc: int[B, Lk]
    mask = causal and doc[b, i] == doc[b, j]
}
attention near {
    axes y, x
    mask = abs(i.y - j.y) <= 1 and abs(i.x - j.x) <= 1
}
attention strict { mask = j < i }
attention everywhere {
    mask = causal
    normalize = sigmoid
}
"""


@pytest.fixture(scope="module")
def module() -> attndsl.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attndsl.SpecWarning)
        return attndsl.parse(SPEC)


def operands(*, heads: int = 4, key_heads: int = 2, rows: int = 50, keys: int = 70) -> list[Any]:
    random = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, count, length, 32, generator=random)
        for count, length in ((heads, rows), (key_heads, keys), (key_heads, keys))
    ]


def exact(kernel: attndsl.Kernel, q: Any, k: Any, v: Any, **inputs: Any) -> reference.Result:
    options = {name: inputs.pop(name) for name in ("scale", "offset", "axes") if name in inputs}
    arrays = {name: value.numpy() for name, value in inputs.items()}
    return reference.run(kernel.bind().attention, q, k, v, arrays, **options)


def close(out: torch.Tensor, right: Any) -> None:
    np.testing.assert_allclose(out.float().numpy(), right, rtol=0, atol=1e-5)


def test_a_module_offers_its_attentions(module: attndsl.Module) -> None:
    assert list(module)[:2] == ["window", "alibi"]
    assert module["alibi"] is module.alibi
    assert "documents" in dir(module)
    assert len(module) == 6
    with pytest.raises(AttributeError, match="no attention `alib`; did you mean `alibi`"):
        _ = module.alib
    assert "alibi" in repr(module)


def test_binding(module: attndsl.Module) -> None:
    assert not module.window.is_bound
    kernel = module.window(width=8)
    assert kernel.is_bound
    assert kernel.parameters == {"width": 8, "wide": False}
    assert module.window(width=8) is kernel
    assert module.window(width=True + 7) is kernel
    assert repr(kernel) == "<attndsl kernel window(width=8, wide=False)>"
    assert "width: int = 20 where width > 0" in repr(module.window)
    assert repr(module.alibi) == "<attndsl kernel alibi() of slope>"
    assert kernel() is kernel
    for wrong in ({"widht": 8}, {"width": 0}, {"width": 1.5}, {"width": [8]}, {"wide": 1}):
        with pytest.raises(AttnError):
            module.window(**wrong)
    with pytest.raises(AttnError, match="bound already"):
        kernel(width=9)


def test_defaults_and_parameters_beside_tensors(module: attndsl.Module) -> None:
    q, k, v = operands()
    close(module.window(q, k, v), exact(module.window, q, k, v).output)
    narrow = module.window(width=3)
    close(module.window(q, k, v, width=3), exact(narrow, q, k, v).output)
    assert torch.equal(module.window(q, k, v, width=3), narrow(q, k, v))


def test_inputs_scale_offset_and_log_sum_exp(module: attndsl.Module) -> None:
    q, k, v = operands()
    slope = torch.rand(4)
    right = exact(module.alibi, q, k, v, slope=slope)
    out, log_sum_exp = module.alibi(q, k, v, slope=slope, return_lse=True)
    close(out, right.output)
    close(log_sum_exp, right.log_sum_exp)
    assert log_sum_exp.dtype is torch.float32
    right = exact(module.alibi, q, k, v, slope=slope, scale=0.7, offset=3)
    close(module.alibi(q, k, v, slope=slope, scale=0.7, offset=3), right.output)
    close(module.alibi(q, k, v, slope=slope.double(), scale=0.7, offset=3), right.output)


def test_no_argument_of_a_call_hides_a_parameter() -> None:
    """A spec may not give a parameter or an input the name of one."""
    arguments = inspect.signature(Kernel.__call__).parameters.values()
    keywords = {one.name for one in arguments if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keywords <= KEYWORDS | RESERVED


def test_grids(module: attndsl.Module) -> None:
    q, k, v = operands(rows=70)
    right = exact(module.near, q, k, v, axes={"y": 7, "x": 10}).output
    close(module.near(q, k, v, grid=(7, 10)), right)
    close(module.near(q, k, v, grid={"x": 10, "y": 7}), right)
    assert not np.allclose(module.near(q, k, v, grid=(10, 7)).numpy(), right, atol=1e-3)


def test_any_strides(module: attndsl.Module) -> None:
    right = exact(module.strict, *operands()).output
    turned = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in operands()]
    spread = [torch.stack([t, t], -1)[..., 0] for t in operands()]
    inner = [torch.cat([t, t], -1)[..., 32:] for t in operands()]
    for q, k, v in (turned, spread, inner):
        assert not q.is_contiguous()
        close(module.strict(q, k, v), right)


def test_rows_that_see_nothing(module: attndsl.Module) -> None:
    q, k, v = operands(rows=70)
    out, log_sum_exp = module.strict(q, k, v, return_lse=True)
    assert (out[:, :, 0] == 0).all()
    assert (log_sum_exp[:, :, 0] == -torch.inf).all()


@pytest.mark.parametrize("shape", ["batch", "rows", "keys"])
def test_nothing_to_compute(module: attndsl.Module, shape: str) -> None:
    q, k, v = operands()
    match shape:
        case "batch":
            q, k, v = q[:0], k[:0], v[:0]
        case "rows":
            q = q[:, :, :0]
        case "keys":
            k, v = k[:, :, :0], v[:, :, :0]
    out, log_sum_exp = module.strict(q, k, v, return_lse=True)
    assert out.shape == q.shape
    assert (out == 0).all()
    assert (log_sum_exp == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(module: attndsl.Module, dtype: torch.dtype) -> None:
    q, k, v = (tensor.to(dtype) for tensor in operands())
    out = module.strict(q, k, v)
    assert out.dtype is dtype
    right = exact(module.strict, q.float(), k.float(), v.float()).output
    np.testing.assert_allclose(out.float().numpy(), right, rtol=0, atol=2e-2)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is built while a test runs."""
    built: list[str] = []
    build = cpp.build

    def counting(program: Any) -> Any:
        built.append(program.text)
        return build(program)

    monkeypatch.setattr(cpp, "build", counting)
    return built


def test_lengths_batches_and_heads_never_rebuild(module: attndsl.Module, builds: list[str]) -> None:
    kernel = attndsl.Kernel(module.documents.attention)
    for batch, heads, key_heads, rows, keys in (
        (1, 1, 1, 1, 9),
        (2, 4, 2, 33, 33),
        (3, 6, 1, 5, 80),
    ):
        doc = torch.arange(keys).expand(batch, keys) // 7
        q = torch.randn(batch, heads, rows, 32)
        k, v = torch.randn(2, batch, key_heads, keys, 32)
        close(kernel(q, k, v, doc=doc), exact(kernel, q, k, v, doc=doc).output)
    assert len(builds) == 1
    q, k, v = torch.randn(3, 1, 1, 9, 16)
    kernel(q, k, v, doc=torch.zeros(1, 9, dtype=torch.int32))
    assert len(builds) == 2


@pytest.mark.parametrize("by", ["torch", "numpy", "another tensor", "dtype"])
def test_block_lists_are_never_stale(module: attndsl.Module, by: str) -> None:
    q, k, v = operands(rows=70)
    doc = (torch.arange(70) // 10).expand(2, 70).contiguous()
    first = module.documents(q, k, v, doc=doc)
    close(first, exact(module.documents, q, k, v, doc=doc).output)
    match by:
        case "torch":
            doc.zero_()
        case "numpy":
            # Behind torch's back: no version counter moves.
            doc.numpy()[:] = np.arange(70) // 35
        case "another tensor":
            doc = (torch.arange(70) // 5).expand(2, 70)
        case "dtype":
            doc = (doc // 2).to(torch.int16)
    second = module.documents(q, k, v, doc=doc)
    close(second, exact(module.documents, q, k, v, doc=doc).output)
    assert not torch.equal(first, second)


def test_an_output_requires_a_gradient_where_an_argument_does(module: attndsl.Module) -> None:
    q, k, v = operands()
    slope = torch.rand(4, requires_grad=True)
    out = module.alibi(q, k, v, slope=slope)
    (gradient,) = torch.autograd.grad(out.square().sum(), slope)
    assert gradient.shape == slope.shape
    assert gradient.abs().min() > 0
    with torch.no_grad():
        assert not module.alibi(q, k, v, slope=slope).requires_grad
    assert module.strict(q, k, v.requires_grad_()).requires_grad
    assert not module.strict(q, k, v.detach()).requires_grad


def test_arguments_are_checked_at_each_call(module: attndsl.Module) -> None:
    q, k, v = operands()
    slope = torch.rand(4)
    module.alibi(q, k, v, slope=slope)
    for wrong, code in (
        ({"slope": slope[:2]}, "A073"),
        ({"slope": slope.int()}, "A074"),
        ({}, "A071"),
        ({"slope": slope, "slop": slope}, "A072"),
        ({"slope": slope, "scale": [1.0]}, "A079"),
        ({"slope": slope, "grid": [[5], [14]]}, "A077"),
        ({"slope": slope.numpy()}, "A070"),
    ):
        with pytest.raises(AttnError, match=code):
            module.alibi(q, k, v, **wrong)
    with pytest.raises(AttnError, match="A070"):
        module.alibi(slope=slope)
    with pytest.raises(AttnError, match="A079"):
        module.everywhere(q, k, v, return_lse=True)
    # A bool is no number, though Python says that it equals one.
    module.strict(q, k, v, offset=1)
    with pytest.raises(AttnError, match="A079"):
        module.strict(q, k, v, offset=True)


def test_without_a_compiler_the_tiled_path_runs(
    module: attndsl.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    kernel = attndsl.Kernel(module.documents.attention)
    q, k, v = operands(rows=70)
    doc = (torch.arange(70) // 10).expand(2, 70)
    with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler.*tiled torch path"):
        out = kernel(q, k, v, doc=doc)
    close(out, exact(kernel, q, k, v, doc=doc).output)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel(q, k, v, doc=doc)
    with pytest.raises(AttnError, match="A090"):
        attndsl.compile(kernel, "cpu", dtype="fp32")


def test_plan_and_source(module: attndsl.Module) -> None:
    assert "attend" in str(module.window.plan())
    costed = str(module.window(width=64).plan(Lq=4096, Lk=4096))
    assert "i - j < 64" in costed
    assert "operations" in costed
    assert "#include" in module.window.source("cpp")
    assert module.window.source("cpu") == module.window.source("cpp")
    assert "@triton.jit" in module.window.source("triton", dtype="bf16")
    for target in ("cuda", "tpu:5", "cuda:9"):
        with pytest.raises(AttnError, match="A081"):
            module.window.source(target)
    with pytest.raises(AttnError, match="A074"):
        module.window.source("cpp", dtype="fp8")


def test_the_decorator_makes_the_same_kernel(module: attndsl.Module) -> None:
    from attndsl.language import causal, i, j

    @attndsl.kernel
    def window(width: int = 20) -> None:
        mask = causal and (i - j < width or i == j)  # noqa: F841

    q, k, v = operands()
    close(window(q, k, v, width=5), exact(module.window(width=5), q, k, v).output)


def test_values_made_of_keys_have_the_size_that_the_spec_says() -> None:
    text = "attention latent(width: int = 16 where width > 0) { v = k[0:width] mask = causal }"
    kernel = attndsl.parse(text).latent
    q, k, v = operands()
    close(kernel(q, k), exact(kernel, q, k, None).output)
    assert kernel(q, k, v).shape[-1] == 16
    assert "Dv = 8" in kernel(width=8).source("cpp", head_dim=32)
    for head_dim in (8, 15):
        with pytest.raises(AttnError, match="A073"):
            kernel.source("cpp", head_dim=head_dim)


def test_block_lists_of_both_directions_are_forgotten(
    module: attndsl.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attndsl.runtime import block_tables

    built: list[bool] = []
    build = block_tables.build_table

    def counted(*arguments: Any, transposed: bool, **options: Any) -> Any:
        built.append(transposed)
        return build(*arguments, transposed=transposed, **options)

    monkeypatch.setattr(block_tables, "build_table", counted)
    kernel = attndsl.Kernel(module.documents.attention)
    q, k, v = (one.requires_grad_() for one in operands())
    doc = (torch.arange(70) // 20).expand(2, 70)
    for expected in (2, 2):
        kernel(q, k, v, doc=doc).sum().backward()
        assert len(built) == expected
    kernel.forget_tables()
    kernel(q, k, v, doc=doc).sum().backward()
    assert len(built) == 4


def test_plans_are_made_once(module: attndsl.Module) -> None:
    attention = module.window(width=8).attention
    assert compilation.plan_of(attention) is compilation.plan_of(attention)


def test_modules_that_hold_kernels_are_copied_and_saved(module: attndsl.Module) -> None:
    holder = torch.nn.Linear(2, 2)
    holder.attention = module.window(width=8)
    assert copy.deepcopy(holder).attention is copy.copy(holder).attention is holder.attention
    loaded = pickle.loads(pickle.dumps(holder)).attention
    assert repr(loaded) == repr(holder.attention)
    assert torch.equal(loaded(*operands()), holder.attention(*operands()))


def test_threads_may_share_a_kernel(module: attndsl.Module, builds: list[str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    kernel = attndsl.Kernel(module.window.attention)
    q, k, v = operands()
    right = exact(kernel, q, k, v).output
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: kernel(q, k, v), range(8)):
            close(out, right)
    assert len(builds) == 1
