"""Patterns over images and videos, as the models' code partitions them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from . import dense
from .case import Call, Case, Formula, Inputs, Shape, on

IMAGE = Shape(99, 99, grid=(9, 11))
LAST_ROWS = Shape(40, 99, grid=(9, 11), width=32, value_width=24)
VIDEO = Shape(105, 105, grid=(3, 5, 7))
LATER_FRAMES = Shape(60, 105, grid=(3, 5, 7))
LARGE_IMAGE = Shape(432, 432, batch=1, grid=(18, 24))
LARGE_VIDEO = Shape(432, 432, batch=1, grid=(6, 8, 9))
LINE = Shape(77, 77)
LINE_END = Shape(29, 77)


def natten_window(
    index: int, length: int, window: int, stride: int, dilation: int, causal: bool
) -> list[int]:
    """The neighbours of one coordinate, as NATTEN's `reference/mask.hpp` finds them.

    With dilation, a coordinate's group are the coordinates with its remainder; inside the group it
    is as if there were none.
    """
    group = list(range(index % dilation, length, dilation))
    position, size = group.index(index), len(group)
    first_of_stride = (position // stride) * stride
    if causal:
        leader = min(first_of_stride + stride - 1, size - 1)
        start = max(leader - window + 1, 0)
        return [group[n] for n in range(start, position + 1)]
    leader = min(first_of_stride + stride // 2, size - 1)
    left, right = window // 2, window // 2 + (window % 2 - 1)
    start = max(leader - left, 0)
    if leader + right >= size:
        start += size - right - leader - 1
    return [group[n] for n in range(start, start + window)]


def neighborhoods(call: Call, grid: Sequence[int], axes: Sequence[dict[str, Any]]) -> Tensor:
    """The mask in which a token sees the product of its neighbours along each axis."""

    def keys(p: int) -> list[int]:
        coordinates = np.unravel_index(p, grid)
        along = [
            natten_window(int(c), length, **axis)
            for c, length, axis in zip(coordinates, grid, axes, strict=True)
        ]
        return [int(np.ravel_multi_index(point, grid)) for point in itertools.product(*along)]

    return dense.from_sets(call, keys)


def _axis(window: int, stride: int = 1, dilation: int = 1, causal: bool = False) -> dict[str, Any]:
    return {"window": window, "stride": stride, "dilation": dilation, "causal": causal}


def neighborhood1d(call: Call) -> Tensor:
    p = call.parameters
    axis = _axis(p["window"], p.get("stride", 1), p.get("dilation", 1), p.get("one_sided", False))
    return dense.attend(call, neighborhoods(call, [call.shape.keys], [axis]))


def neighborhood2d(call: Call) -> Tensor:
    p = call.parameters
    axis = _axis(p["window"], p.get("stride", 1), p.get("dilation", 1))
    return dense.attend(call, neighborhoods(call, call.shape.grid or (), [axis, axis]))


def neighborhood3d(call: Call) -> Tensor:
    p = call.parameters
    space = _axis(p["window"], p.get("stride", 1), p.get("dilation", 1))
    axes = [_axis(p["frames"], causal=True), space, space]
    return dense.attend(call, neighborhoods(call, call.shape.grid or (), axes))


def _image(x: Tensor, call: Call) -> Tensor:
    """`[B, H, L, D]` as `[B, H, height, width, D]`."""
    return x.unflatten(2, call.shape.grid)


def _windows(image: Tensor, rows: int, columns: int) -> Tensor:
    """Windows of `rows` by `columns` that do not overlap: `[B, H, windows, tokens, D]`."""
    b, h, height, width, d = image.shape
    parts = image.reshape(b, h, height // rows, rows, width // columns, columns, d)
    return parts.transpose(3, 4).reshape(b, h, -1, rows * columns, d)


def _from_windows(windows: Tensor, rows: int, columns: int, height: int, width: int) -> Tensor:
    b, h, _, _, d = windows.shape
    parts = windows.reshape(b, h, height // rows, width // columns, rows, columns, d)
    return parts.transpose(3, 4).reshape(b, h, height, width, d)


def of_last_rows(naive: Formula) -> Formula:
    """The formula of a whole image, for a call whose queries are its last tokens alone."""

    def attend(call: Call) -> Tensor:
        q = functional.pad(torch.as_tensor(call.q), (0, 0, call.offset, 0))
        shape = dataclasses.replace(call.shape, queries=call.shape.keys)
        whole = dataclasses.replace(call, q=q, shape=shape)
        return naive(whole)[:, :, call.offset :]

    return attend


def _bias_table(window: int, shape: Shape, random: np.random.Generator) -> Inputs:
    return {"bias": random.normal(size=((2 * window - 1) ** 2, shape.heads))}


def swin(call: Call) -> Tensor:
    """`WindowAttention` and the shift of `SwinTransformerBlock` in Microsoft's code."""
    window, shift = call.parameters["window"], call.parameters["shift"]
    height, width = call.shape.grid or ()
    rolled = [
        torch.roll(_image(x, call), shifts=(-shift, -shift), dims=(2, 3))
        for x in dense.tensors(call)
    ]
    q, k, v = (_windows(x, window, window) for x in rolled)
    points = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
    relative = (points[:, :, None] - points[:, None, :]).permute(1, 2, 0) + window - 1
    index = relative[..., 0] * (2 * window - 1) + relative[..., 1]
    bias = dense.tensor(call, "bias")[index].permute(2, 0, 1)
    logits = q @ k.transpose(-1, -2) * call.scale + bias[None, :, None]
    if shift:
        regions = torch.zeros(1, 1, height, width, 1)
        slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
        for number, (rows, columns) in enumerate(itertools.product(slices, slices)):
            regions[:, :, rows, columns] = number
        region = _windows(regions, window, window)[..., 0]
        differs = region[..., :, None] != region[..., None, :]
        logits = logits + torch.where(differs, -100.0, 0.0).to(logits.dtype)
    result = _from_windows(torch.softmax(logits, dim=-1) @ v, window, window, height, width)
    return torch.roll(result, shifts=(shift, shift), dims=(2, 3)).flatten(2, 3)


def maxvit_block(call: Call) -> Tensor:
    window = call.parameters["window"]
    q, k, v = (_windows(_image(x, call), window, window) for x in dense.tensors(call))
    weights = torch.softmax(q @ k.transpose(-1, -2) * call.scale, dim=-1)
    return _from_windows(weights @ v, window, window, *call.shape.grid).flatten(2, 3)


def maxvit_grid(call: Call) -> Tensor:
    """Grid partition: `[B, g, h/g, g, w/g, C]`, and attention over the two axes of length g."""
    grid = call.parameters["side"]
    height, width = call.shape.grid or ()

    def partition(x: Tensor) -> Tensor:
        parts = x.reshape(*x.shape[:2], grid, height // grid, grid, width // grid, x.shape[-1])
        return parts.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5)

    q, k, v = (partition(x) for x in dense.tensors(call))
    result = torch.softmax(q @ k.transpose(-1, -2) * call.scale, dim=-1) @ v
    result = result.unflatten(4, (grid, grid)).permute(0, 1, 4, 2, 5, 3, 6)
    return result.reshape(*result.shape[:2], height * width, -1)


def _halo_embeddings(block: int, halo: int, shape: Shape, random: np.random.Generator) -> Inputs:
    size = (2 * (block + halo) - 1, shape.width)
    return {name: random.normal(size=size) for name in ("row_embedding", "column_embedding")}


def halonet(call: Call) -> Tensor:
    """Block by block: the queries of a block against a slice of the image with its border.

    The border's own queries form blocks too, which reach past the border on one side.
    """
    block, halo = call.parameters["block"], call.parameters["halo"]
    height, width = call.shape.grid or ()
    q, k, v = (_image(x, call) for x in dense.tensors(call))
    of_row, of_column = dense.tensor(call, "row_embedding"), dense.tensor(call, "column_embedding")
    result = torch.zeros_like(v)

    def blocks(length: int) -> list[tuple[range, range]]:
        """Ranges of query and key coordinates, clipped to the image with its border."""
        found = []
        for start in range(halo - math.ceil(halo / block) * block, length, block):
            queries = range(max(start, 0), min(start + block, length))
            keys = range(max(start - halo, 0), min(start + block + halo, length))
            found.append((queries, keys))
        return found

    for (y, key_y), (x, key_x) in itertools.product(blocks(height), blocks(width)):
        query = q[:, :, y.start : y.stop, x.start : x.stop]
        key = k[:, :, key_y.start : key_y.stop, key_x.start : key_x.stop]
        value = v[:, :, key_y.start : key_y.stop, key_x.start : key_x.stop].flatten(2, 3)
        content = torch.einsum("bhyxd,bhuvd->bhyxuv", query, key)
        up = torch.tensor(key_y)[None, :] - torch.tensor(y)[:, None] + block + halo - 1
        left = torch.tensor(key_x)[None, :] - torch.tensor(x)[:, None] + block + halo - 1
        vertical = torch.einsum("bhyxd,yud->bhyxu", query, of_row[up])
        horizontal = torch.einsum("bhyxd,xvd->bhyxv", query, of_column[left])
        logits = content + vertical[..., :, None] + horizontal[..., None, :]
        weights = torch.softmax((logits * call.scale).flatten(4, 5), dim=-1)
        result[:, :, y.start : y.stop, x.start : x.stop] = torch.einsum(
            "bhyxn,bhnd->bhyxd", weights, value
        )
    return result.flatten(2, 3)


def clear(call: Call) -> Tensor:
    """Liu et al. 2024, section 3.3: keys at a Euclidean distance below the radius."""
    height, width = call.shape.grid or ()
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([y.flatten(), x.flatten()], dim=-1).double()
    near = torch.cdist(points, points) < call.parameters["radius"] - 1e-9
    return dense.attend(call, near[call.offset :])


def multi_diagonal(call: Call) -> Tensor:
    """Diagonals laid one by one: `width` of them around each multiple of the frame."""
    frame, width, keys = (*map(call.parameters.get, ("frame", "width")), call.shape.keys)
    allowed = torch.zeros(keys, keys, dtype=torch.bool)
    for multiple in range(-keys - keys % frame - frame, keys + frame):
        if multiple % frame == 0:
            for diagonal in range(multiple - width // 2, multiple - width // 2 + width):
                # A query sees the key that lies `diagonal` behind it.
                if abs(diagonal) < keys:
                    allowed.diagonal(-diagonal).fill_(True)
    return dense.attend(call, allowed[call.offset :])


def vertical_stripe(call: Call) -> Tensor:
    frame, width = call.parameters["frame"], call.parameters["width"]
    allowed = torch.zeros(call.shape.queries, call.shape.keys, dtype=torch.bool)
    for start in range(0, call.shape.keys, frame):
        allowed[:, start : start + width] = True
    return dense.attend(call, allowed)


def tile(call: Call) -> Tensor:
    """A matrix of frames, its diagonal and the reference frames' columns, blown up to tokens."""
    frame, every = call.parameters["frame"], call.parameters["every"]
    frames = -(-call.shape.keys // frame)
    layout = torch.eye(frames, dtype=torch.bool)
    layout[:, ::every] = True
    tokens = torch.kron(layout.int(), torch.ones(frame, frame, dtype=torch.int32)).bool()
    return dense.attend(call, tokens[call.offset : call.shape.keys, : call.shape.keys])


def _kernel(reach: int, shape: Shape, random: np.random.Generator) -> Inputs:
    return {"kernel": random.normal(size=(shape.heads, 2 * reach + 1, 2 * reach + 1))}


def lkca(call: Call) -> Tensor:
    """The convolution itself: every head's kernel over each channel of its values."""
    reach = call.parameters["reach"]
    _, _, v = dense.tensors(call)
    images = _image(v, call).movedim(-1, 2).flatten(1, 2)
    kernels = dense.tensor(call, "kernel").repeat_interleave(v.shape[-1], dim=0)[:, None]
    result = functional.conv2d(images, kernels, padding=reach, groups=images.shape[1])
    result = result.unflatten(1, (v.shape[1], v.shape[-1])).movedim(2, -1)
    return result.flatten(2, 3)[:, :, call.offset :]


_FRAMES = (Shape(90, 90), Shape(37, 101, width=32, value_width=24))
_WINDOWED = (
    Shape(108, 108, grid=(9, 12)),
    Shape(50, 108, grid=(9, 12), width=32, value_width=24),
)

CASES = (
    Case("neighborhood1d", neighborhood1d, {"window": 13}, shapes=(LINE, LINE_END)),
    Case(
        "neighborhood1d",
        neighborhood1d,
        {"window": 6, "dilation": 3, "stride": 4},
        shapes=(LINE, LINE_END),
        variant="dilated",
    ),
    Case(
        "neighborhood1d",
        neighborhood1d,
        {"window": 9, "dilation": 2, "stride": 3, "one_sided": True},
        shapes=(LINE, LINE_END),
        variant="causal",
    ),
    Case(
        "neighborhood2d",
        neighborhood2d,
        {"window": 5},
        shapes=(IMAGE, LAST_ROWS),
        large=LARGE_IMAGE,
    ),
    Case(
        "neighborhood2d",
        neighborhood2d,
        {"window": 3, "dilation": 2},
        shapes=(IMAGE,),
        variant="dilated",
        large=LARGE_IMAGE,
    ),
    Case(
        "neighborhood2d",
        neighborhood2d,
        {"window": 6, "stride": 4},
        shapes=(IMAGE, LAST_ROWS),
        variant="strided",
        large=LARGE_IMAGE,
    ),
    Case(
        "neighborhood2d",
        neighborhood2d,
        {"window": 3, "stride": 3},
        shapes=(on(IMAGE, queries=108, keys=108, grid=(9, 12)),),
        variant="blocked",
        large=LARGE_IMAGE,
    ),
    Case(
        "neighborhood3d",
        neighborhood3d,
        {"frames": 2, "window": 3},
        shapes=(VIDEO, LATER_FRAMES),
        large=LARGE_VIDEO,
    ),
    Case(
        "neighborhood3d",
        neighborhood3d,
        {"frames": 2, "window": 4, "stride": 2},
        shapes=(VIDEO,),
        variant="strided",
        large=LARGE_VIDEO,
    ),
    Case(
        "neighborhood3d",
        neighborhood3d,
        {"frames": 3, "window": 2, "dilation": 2},
        shapes=(VIDEO,),
        variant="dilated",
        large=LARGE_VIDEO,
    ),
    Case(
        "swin",
        of_last_rows(swin),
        {"window": 3, "shift": 1},
        lambda shape, random: _bias_table(3, shape, random),
        shapes=_WINDOWED,
        large=LARGE_IMAGE,
    ),
    Case(
        "swin",
        of_last_rows(swin),
        {"window": 3, "shift": 0},
        lambda shape, random: _bias_table(3, shape, random),
        shapes=_WINDOWED,
        variant="unshifted",
        large=LARGE_IMAGE,
    ),
    Case(
        "maxvit_block",
        of_last_rows(maxvit_block),
        {"window": 3},
        shapes=_WINDOWED,
        large=LARGE_IMAGE,
    ),
    Case(
        "maxvit_grid", of_last_rows(maxvit_grid), {"side": 3}, shapes=_WINDOWED, large=LARGE_IMAGE
    ),
    Case(
        "halonet",
        of_last_rows(halonet),
        {"block": 3, "halo": 1},
        lambda shape, random: _halo_embeddings(3, 1, shape, random),
        shapes=(
            Shape(88, 88, grid=(8, 11)),
            Shape(41, 88, grid=(8, 11), width=32, value_width=24),
        ),
        large=on(LARGE_IMAGE, queries=460, keys=460, grid=(20, 23)),
    ),
    Case("clear", clear, {"radius": 4}, shapes=(IMAGE, LAST_ROWS), large=LARGE_IMAGE),
    Case("multi_diagonal", multi_diagonal, {"frame": 15, "width": 5}, shapes=_FRAMES),
    Case("vertical_stripe", vertical_stripe, {"frame": 15, "width": 4}, shapes=_FRAMES),
    Case("tile", tile, {"frame": 15, "every": 3}, shapes=_FRAMES),
    Case(
        "lkca",
        lkca,
        {"reach": 2},
        lambda shape, random: _kernel(2, shape, random),
        shapes=(IMAGE, LAST_ROWS),
        large=LARGE_IMAGE,
    ),
)
