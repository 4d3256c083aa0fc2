"""`attndsl.nn.Attention` against `torch.nn.MultiheadAttention` and formulas in eager PyTorch."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import attndsl
from attndsl.diagnostics import AttnError
from attndsl.nn import Attention, alibi_slopes

EXAMPLES = Path(__file__).parent.parent / "examples"
SPECS = attndsl.parse(
    """
    attention full {}
    attention causal { mask = causal }
    attention padded { input present: bool[B, Lk] mask = present[b, j] }
    attention packed { input doc: int[B, Lk] mask = causal and doc[b, i] == doc[b, j] }
    attention alibi(window: int = 64 where window > 0) {
        input slope: float[H]
        score = dot(q, k) * scale - slope[h] * (i - j)
        mask  = causal and i - j < window
    }
    attention sunk {
        input sink: float[H]
        mask = causal
        normalize = softmax(sink = sink[h])
    }
    attention biased {
        input bias: float[H, Lq, Lk]
        score = dot(q, k) * scale + bias[h, row, j]
        mask = causal
    }
    attention relative {
        input embedding: float[Lk, D]
        score = (dot(q, k) + dot(q, embedding[i - j])) * scale
        mask  = causal
    }
    attention warm {
        input temperature: float
        input table: float[4, H]
        score = dot(q, k) * temperature + table[(i - j) % 4, h]
    }
    attention gated {
        input gate: float[B, H, Lk]
        score = dot(q, k) * scale + gate[b, h, j]
    }
    attention latent(size: int = 8 where size > 0) {
        v = k[0:size]
        mask = causal
    }
    """
)


def close(found: Tensor, wanted: Tensor) -> bool:
    return torch.allclose(
        found, wanted, rtol=1e-4, atol=2e-6 * max(1.0, float(wanted.detach().abs().max()))
    )


def heads(x: Tensor, count: int, groups: int = 1) -> Tensor:
    return x.unflatten(2, (count, -1)).transpose(1, 2).repeat_interleave(groups, 1)


def eager(
    layer: Attention,
    x: Tensor,
    change: Callable[[Tensor, Tensor], Tensor],
    context: Tensor | None = None,
) -> Tensor:
    """The layer in plain PyTorch; `change(scores, distances)` gives what softmax is taken of."""
    context = x if context is None else context
    groups = layer.num_heads // layer.num_kv_heads
    q = heads(layer.q_proj(x), layer.num_heads)
    k = heads(layer.k_proj(context), layer.num_kv_heads, groups)
    v = heads(layer.v_proj(context), layer.num_kv_heads, groups)
    lq, lk = x.shape[1], context.shape[1]
    distance = torch.arange(lk - lq, lk)[:, None] - torch.arange(lk)
    weights = change(q @ k.transpose(2, 3) / math.sqrt(layer.head_dim), distance)
    return layer.out_proj((weights.softmax(-1)[..., :lk] @ v).transpose(1, 2).flatten(2))


def causal(scores: Tensor, distance: Tensor) -> Tensor:
    return scores.masked_fill(distance < 0, -torch.inf)


def gradients(output: Tensor, of: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(9)
    loss = (output * torch.randn(output.shape)).sum()
    return dict(zip(of, torch.autograd.grad(loss, list(of.values())), strict=True))


def same_with_gradients(layer: Attention, found: Tensor, wanted: Tensor, x: Tensor) -> None:
    assert close(found, wanted)
    of = {"x": x, **dict(layer.named_parameters())}
    ours, theirs = gradients(found, of), gradients(wanted, of)
    assert [name for name in of if not close(ours[name], theirs[name])] == []


def like_torch(kernel: attndsl.Kernel, **options) -> tuple[Attention, nn.MultiheadAttention]:
    """A layer with the weights of a `MultiheadAttention` of the same shape."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(32, 4, bias=True, batch_first=True, **options)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours = Attention(kernel, 32, 4, bias=True)
    parts = zip(theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3), strict=True)
    with torch.no_grad():
        for linear, (weight, bias) in zip(
            (ours.q_proj, ours.k_proj, ours.v_proj), parts, strict=True
        ):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


@pytest.mark.parametrize("case", ["full", "causal", "padded", "cross"])
def test_agrees_with_multihead_attention(case):
    ours, theirs = like_torch(SPECS["full" if case == "cross" else case])
    x = torch.randn(3, 11, 32, requires_grad=True)
    context = torch.randn(3, 7, 32, requires_grad=True) if case == "cross" else x
    present = torch.arange(11) < torch.tensor([[11], [6], [1]])
    hidden = {
        "causal": {"attn_mask": torch.ones(11, 11).triu(1).bool(), "is_causal": True},
        "padded": {"key_padding_mask": ~present},
    }.get(case, {})
    passed = {"present": present} if case == "padded" else {}
    wanted, _ = theirs(x, context, context, need_weights=False, **hidden)
    found = ours(x, context, **passed)
    assert close(found, wanted)
    ours_of, theirs_of = gradients(found, {"x": x}), gradients(wanted, {"x": x})
    assert close(ours_of["x"], theirs_of["x"])
    named = {name: one for name, one in ours.named_parameters() if "proj" in name}
    found_of = gradients(ours(x, context, **passed), named)
    wanted_of = gradients(
        theirs(x, context, context, need_weights=False, **hidden)[0],
        dict(theirs.named_parameters()),
    )
    stacked = torch.cat([found_of[f"{one}_proj.weight"] for one in "qkv"])
    assert close(stacked, wanted_of["in_proj_weight"])
    assert close(found_of["out_proj.weight"], wanted_of["out_proj.weight"])


def test_values_may_differ_from_keys():
    ours, theirs = like_torch(SPECS.full)
    x, key, value = (torch.randn(2, 5, 32) for _ in range(3))
    assert close(ours(x, key, value), theirs(x, key, value, need_weights=False)[0])


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_alibi_with_grouped_heads(kv_heads):
    torch.manual_seed(0)
    layer = Attention(SPECS.alibi(window=5), 32, 4, num_kv_heads=kv_heads)
    x = torch.randn(2, 13, 32, requires_grad=True)

    def change(scores: Tensor, distance: Tensor) -> Tensor:
        scores = scores - layer.input_slope[:, None, None] * distance
        return causal(scores, distance).masked_fill(distance >= 5, -torch.inf)

    assert layer.k_proj.out_features == kv_heads * 8
    same_with_gradients(layer, layer(x), eager(layer, x, change), x)


def test_sinks():
    torch.manual_seed(0)
    layer = Attention(SPECS.sunk, 32, 4, head_dim=16, bias=True)
    assert layer.input_sink.tolist() == [0.0] * 4
    nn.init.normal_(layer.input_sink)
    x = torch.randn(2, 13, 32, requires_grad=True)

    def change(scores: Tensor, distance: Tensor) -> Tensor:
        sink = layer.input_sink[:, None, None].expand(2, 4, 13, 1)
        return torch.cat([causal(scores, distance), sink], -1)

    same_with_gradients(layer, layer(x), eager(layer, x, change), x)


@pytest.mark.parametrize(("queries", "keys"), [(9, 9), (1, 9), (3, 7)])
def test_a_bias_of_positions_is_cut_to_the_call(queries, keys):
    torch.manual_seed(0)
    layer = Attention(SPECS.biased, 32, 4, max_length=12)
    assert layer.input_bias.shape == (4, 12, 12)
    x = torch.randn(2, queries, 32, requires_grad=True)
    context = torch.randn(2, keys, 32)

    def change(scores: Tensor, distance: Tensor) -> Tensor:
        return causal(scores + layer.input_bias[:, keys - queries : keys, :keys], distance)

    same_with_gradients(layer, layer(x, context), eager(layer, x, change, context), x)


@pytest.mark.slow
def test_embeddings_of_distances():
    torch.manual_seed(0)
    layer = Attention(SPECS.relative, 32, 4, max_length=16)
    x = torch.randn(2, 9, 32, requires_grad=True)

    def change(scores: Tensor, distance: Tensor) -> Tensor:
        embedded = layer.input_embedding[distance.clamp(0)]
        q = heads(layer.q_proj(x), 4)
        return causal(scores + torch.einsum("bhid,ijd->bhij", q, embedded) / math.sqrt(8), distance)

    same_with_gradients(layer, layer(x), eager(layer, x, change), x)
    with pytest.raises(AttnError, match="A104"):
        layer(torch.randn(1, 17, 32))


def test_packed_documents_are_apart():
    torch.manual_seed(0)
    layer = Attention(SPECS.packed, 32, 4)
    first, second = torch.randn(1, 6, 32), torch.randn(1, 9, 32)
    doc = torch.tensor([[0] * 6 + [1] * 9])
    packed = layer(torch.cat([first, second], 1), doc=doc)
    for part, one in ((packed[:, :6], first), (packed[:, 6:], second)):
        alone = layer(one, doc=torch.zeros(1, one.shape[1], dtype=torch.int32))
        assert close(part, alone)


def test_a_scalar_and_a_table_without_projections():
    """The layer then takes and returns what a kernel does."""
    torch.manual_seed(0)
    layer = Attention(SPECS.warm, num_heads=4)
    assert dict(layer.named_parameters()).keys() == {"input_temperature", "input_table"}
    assert layer.input_temperature.item() == 1.0
    q, k, v = (torch.randn(2, 4, 8, 16, requires_grad=True) for _ in range(3))
    distance = torch.arange(8)[:, None] - torch.arange(8)
    table = layer.input_table[distance % 4].permute(2, 0, 1)
    wanted = (q @ k.transpose(2, 3) * layer.input_temperature + table).softmax(-1) @ v
    found = layer(q, k, v)
    assert close(found, wanted)
    of = {"q": q, "k": k, "v": v, **layer.inputs}
    ours, theirs = gradients(found, of), gradients(wanted, of)
    assert [name for name in of if not close(ours[name], theirs[name])] == []


@pytest.mark.slow
def test_floats_of_a_batch_are_passed():
    layer = Attention(SPECS.gated, 32, 4)
    assert layer.inputs == {}
    gate = torch.randn(2, 4, 6, requires_grad=True)
    x = torch.randn(2, 6, 32)
    wanted = eager(layer, x, lambda scores, _: scores + gate[:, :, None])
    found = layer(x, gate=gate)
    assert close(found, wanted)
    assert close(gradients(found, {"g": gate})["g"], gradients(wanted, {"g": gate})["g"])
    with pytest.raises(AttnError, match="A071"):
        layer(x)


def test_floats_may_be_passed_where_the_layer_is_told_so():
    layer = Attention(SPECS.alibi, 32, 4, data=["slope"])
    assert layer.inputs == {}
    x = torch.randn(1, 6, 32)
    with torch.no_grad():
        other = Attention(SPECS.alibi, 32, 4)
        other.load_state_dict(layer.state_dict(), strict=False)
        assert torch.equal(layer(x, slope=alibi_slopes(4)), other(x))


@pytest.mark.slow
def test_values_made_of_keys_need_no_projection():
    torch.manual_seed(0)
    layer = Attention(SPECS.latent, 32, 4, num_kv_heads=1, head_dim=16)
    assert layer.v_proj is None
    assert layer.out_proj.in_features == 4 * 8
    x = torch.randn(2, 6, 32)
    q, k = heads(layer.q_proj(x), 4), heads(layer.k_proj(x), 1, 4)
    distance = torch.arange(6)[:, None] - torch.arange(6)
    weights = causal(q @ k.transpose(2, 3) / 4, distance).softmax(-1)
    wanted = layer.out_proj((weights @ k[..., :8]).transpose(1, 2).flatten(2))
    assert close(layer(x), wanted)
    with pytest.raises(AttnError, match="A073"):
        Attention(SPECS.latent(size=64), 32, 4, head_dim=16)


def test_context_of_another_width():
    torch.manual_seed(0)
    layer = Attention(SPECS.full, 32, 4, context_dim=20)
    x, context = torch.randn(2, 6, 32), torch.randn(2, 9, 20)
    assert close(layer(x, context), eager(layer, x, lambda scores, _: scores, context))


@pytest.mark.slow
def test_a_grid():
    layer = Attention(attndsl.load(EXAMPLES / "lkca.attn").lkca(reach=1), 32, 4)
    assert layer.input_kernel.shape == (4, 3, 3)
    x = torch.randn(1, 12, 32)
    # Unnormalised weights by offset are a convolution of the values.
    values = layer.v_proj(x)[0].T.reshape(4, 8, 3, 4).transpose(0, 1)
    convolved = nn.functional.conv2d(values, layer.input_kernel[:, None], padding=1, groups=4)
    wanted = layer.out_proj(convolved.transpose(0, 1).reshape(32, 12).T[None])
    assert close(layer(x, grid=(3, 4)), wanted)


@pytest.mark.parametrize("name", ["alibi", "sunk", "biased", "warm"])
def test_state_dict_loads_into_a_layer_of_another_seed(name):
    layers = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        layers.append(Attention(SPECS[name], 32, 4, bias=True, max_length=16))
        for parameter in layers[-1].inputs.values():
            nn.init.normal_(parameter)
    first, second = layers
    x = torch.randn(2, 7, 32)
    assert not torch.allclose(first(x), second(x))
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    second.load_state_dict(torch.load(saved))
    assert torch.equal(first(x), second(x))


@pytest.mark.slow
def test_moves_between_dtypes_and_devices():
    torch.manual_seed(0)
    layer = Attention(SPECS.alibi, 32, 4, bias=True)
    x = torch.randn(2, 7, 32)
    wanted = layer(x)
    low = copy.deepcopy(layer).to(torch.bfloat16)
    assert {one.dtype for one in low.parameters()} == {torch.bfloat16}
    found = low(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().max() <= 0.03 * wanted.abs().max()
    found.float().sum().backward()
    assert low.input_slope.grad.dtype == torch.bfloat16
    empty = Attention(SPECS.alibi, 32, 4, bias=True, device="meta", dtype=torch.float64)
    assert {(str(one.device), one.dtype) for one in empty.parameters()} == {("meta", torch.float64)}
    empty = empty.float().to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), wanted)


def test_copies_and_pickles_run_the_same():
    torch.manual_seed(0)
    layer = Attention(SPECS.alibi(window=4), 32, 4)
    x = torch.randn(2, 7, 32)
    copied = copy.deepcopy(layer)
    assert copied.kernel is layer.kernel
    assert copied.input_slope is not layer.input_slope
    for again in (copied, pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), layer(x))
        assert again.kernel.parameters == {"window": 4}


def test_slopes_are_those_of_the_paper():
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(1).tolist() == [2.0**-8]
    for count in (3, 6, 12, 20):
        below = 2 ** int(math.log2(count))
        wanted = [2 ** (-8 * n / below) for n in range(1, below + 1)]
        wanted += [2 ** (-4 * n / below) for n in range(1, 2 * below, 2)][: count - below]
        assert alibi_slopes(count).tolist() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(
    ("file", "name", "bound"),
    [
        ("retention", "log_decay", None),
        ("cosine", "log_scale", None),
        ("transformer_xl", "content", 1 / math.sqrt(8)),
        ("neural", "second", 1 / math.sqrt(16)),
        ("bidaf", "w", 1 / math.sqrt(8)),
        ("t5", "bias", 0.2),
    ],
)
def test_inputs_begin_by_their_part(file, name, bound):
    torch.manual_seed(0)
    layer = Attention(attndsl.load(EXAMPLES / f"{file}.attn")[file], 32, 4, max_length=16)
    value = layer.inputs[name].detach()
    match name:
        case "log_decay":
            assert torch.allclose(value.exp(), 1 - 2.0 ** (-5.0 - torch.arange(4)))
        case "log_scale":
            assert torch.allclose(value, torch.full((4,), math.log(10.0)))
        case _:
            assert value.abs().max() <= bound
            assert value.std() > bound / 20


def test_inputs_begin_as_told_and_again():
    layer = Attention(
        SPECS.warm,
        32,
        4,
        initial={"temperature": 0.5, "table": lambda shape: torch.full(shape, 2.0)},
    )
    assert layer.input_temperature.item() == 0.5
    assert (layer.input_table == 2).all()
    nn.init.zeros_(layer.input_table)
    layer.reset_parameters()
    assert (layer.input_table == 2).all()
    slopes = torch.rand(4)
    layer = Attention(SPECS.alibi, 32, 4, initial={"slope": slopes})
    assert torch.equal(layer.input_slope, slopes)


def test_says_what_it_is():
    layer = Attention(SPECS.alibi(window=4), 32, 4, num_kv_heads=2)
    shown = (
        "alibi(window=4), embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8, learned: slope [4]"
    )
    assert layer.extra_repr() == shown
    assert Attention(SPECS.packed, 32, 4).extra_repr().endswith("passed: doc")


def test_a_step_of_training_lowers_the_loss():
    torch.manual_seed(0)
    layer = Attention(SPECS.alibi, 16, 2)
    x, y = torch.randn(4, 10, 16), torch.randn(4, 10, 16)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    assert not torch.equal(layer.input_slope, alibi_slopes(2))


def test_pairs_are_dropped_in_training():
    kernel = attndsl.parse("attention it { mask = causal }").it
    layer = Attention(kernel, dropout=0.3)
    q = torch.randn(2, 4, 20, 16)
    assert torch.equal(layer(q, seed=7), kernel(q, q, q, dropout=0.3, seed=7))
    torch.manual_seed(1)
    drawn = layer(q)
    torch.manual_seed(1)
    assert torch.equal(layer(q), drawn)
    assert torch.equal(layer.eval()(q), kernel(q, q, q))
    assert "dropout=0.3" in repr(layer)
    with pytest.raises(AttnError, match="A079"):
        Attention(kernel, dropout=1.5)


def test_a_layer_is_compiled_whole():
    """One graph for all lengths, and its gradients."""
    torch._dynamo.reset()
    kernel = attndsl.load(EXAMPLES / "alibi.attn").alibi
    layer = Attention(kernel, 32, 4, num_kv_heads=2)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    made = 0
    for length in (20, 33, 47):
        x = torch.randn(2, length, 32)
        for parameter in layer.parameters():
            parameter.grad = None
        wanted = layer(x)
        gradients = torch.autograd.grad(wanted.square().sum(), list(layer.parameters()))
        found = compiled(x)
        found.square().sum().backward()
        torch.testing.assert_close(found, wanted)
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        made = counter.frame_count if length == 20 else made
        assert counter.frame_count == made
