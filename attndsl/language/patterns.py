"""The standard patterns, as editors see them.

Made of `grammar/std.attn` by `pytest tests/test_language.py --update-golden`: do not edit.
"""

from __future__ import annotations

from attndsl.language.value import Operand, Value, outside_kernel

causal = Value("causal", "`j <= i`")


def sliding(window: Operand) -> Value:
    """sliding(window) = i - j < window"""
    raise outside_kernel("sliding")


def band(before: Operand, after: Operand) -> Value:
    """band(before, after) = -after <= i - j <= before"""
    raise outside_kernel("band")


def dilated(window: Operand, step: Operand) -> Value:
    """dilated(window, step) = abs(i - j) <= window * step and (i - j) % step == 0"""
    raise outside_kernel("dilated")


def strided(stride: Operand) -> Value:
    """strided(stride) = (i - j) % stride == 0"""
    raise outside_kernel("strided")


def summaries(block: Operand, count: Operand) -> Value:
    """summaries(block, count) = j % block >= block - count"""
    raise outside_kernel("summaries")


def global_tokens(count: Operand) -> Value:
    """global_tokens(count) = i < count or j < count"""
    raise outside_kernel("global_tokens")


def sinks(count: Operand) -> Value:
    """sinks(count) = j < count"""
    raise outside_kernel("sinks")


def prefix(length: Operand) -> Value:
    """prefix(length) = causal or j < length"""
    raise outside_kernel("prefix")


def chunked(size: Operand) -> Value:
    """chunked(size) = i // size == j // size"""
    raise outside_kernel("chunked")


def chunk_causal(size: Operand) -> Value:
    """chunk_causal(size) = j // size <= i // size"""
    raise outside_kernel("chunk_causal")


def a_shape(sink: Operand, recent: Operand) -> Value:
    """a_shape(sink, recent) = sinks(sink) or sliding(recent)"""
    raise outside_kernel("a_shape")


def documents(doc: Operand) -> Value:
    """documents(doc) = doc[b, i] == doc[b, j]"""
    raise outside_kernel("documents")


def global_flags(flag: Operand) -> Value:
    """global_flags(flag) = flag[b, i] or flag[b, j]"""
    raise outside_kernel("global_flags")


def blocks(layout: Operand, block: Operand) -> Value:
    """blocks(layout, block) = layout[h, row // block, j // block]"""
    raise outside_kernel("blocks")


def neighborhood1d(
    position: Operand,
    key: Operand,
    length: Operand,
    window: Operand,
    dilation: Operand = 1,
    stride: Operand = 1,
    causal: Operand = False,
) -> Value:
    """neighborhood1d(position, key, length, window: int, dilation: int = 1, stride: int =
    1, causal: bool = False) = position % dilation == key % dilation and
    neighborhood_undilated( position // dilation, key // dilation, cdiv(length -
    position % dilation, dilation), window, stride, causal)
    """
    raise outside_kernel("neighborhood1d")


def neighborhood_undilated(
    position: Operand,
    key: Operand,
    length: Operand,
    window: Operand,
    stride: Operand,
    causal: Operand,
) -> Value:
    """neighborhood_undilated(position, key, length, window, stride, causal) =
    (neighborhood_causal_start(position, length, window, stride) <= key and key <=
    position) if causal else (neighborhood_start(position, length, window, stride) <=
    key and key < neighborhood_start(position, length, window, stride) + window)
    """
    raise outside_kernel("neighborhood_undilated")


def neighborhood_start(
    position: Operand, length: Operand, window: Operand, stride: Operand
) -> Value:
    """neighborhood_start(position, length, window, stride) = max(min(min(position //
    stride * stride + stride // 2, length - 1) - window // 2, length - window), 0)
    """
    raise outside_kernel("neighborhood_start")


def neighborhood_causal_start(
    position: Operand, length: Operand, window: Operand, stride: Operand
) -> Value:
    """neighborhood_causal_start(position, length, window, stride) = max(min(position //
    stride * stride + stride - 1, length - 1) - window + 1, 0)
    """
    raise outside_kernel("neighborhood_causal_start")


def circle(radius: Operand) -> Value:
    """circle(radius) = (i.y - j.y) ** 2 + (i.x - j.x) ** 2 < radius ** 2"""
    raise outside_kernel("circle")


def softcap(x: Operand, cap: Operand) -> Value:
    """softcap(x, cap) = cap * tanh(x / cap)"""
    raise outside_kernel("softcap")


def alibi(slope: Operand) -> Value:
    """alibi(slope) = -slope[h] * abs(i - j)"""
    raise outside_kernel("alibi")


def distance_bucket(distance: Operand, exact: Operand, furthest: Operand) -> Value:
    """distance_bucket(distance, exact, furthest) = distance if distance < exact else
    min(distance_bucket_wide(distance, exact, furthest), 2 * exact - 1)
    """
    raise outside_kernel("distance_bucket")


def distance_bucket_wide(distance: Operand, exact: Operand, furthest: Operand) -> Value:
    """distance_bucket_wide(distance, exact, furthest) = exact + floor(log2(max(distance,
    1) / exact) / log2(furthest / exact) * exact)
    """
    raise outside_kernel("distance_bucket_wide")


def logsigmoid(x: Operand = 0) -> Value:
    """logsigmoid(x) = -softplus(-x)"""
    raise outside_kernel("logsigmoid")


def silu(x: Operand = 0) -> Value:
    """silu(x) = x * sigmoid(x)"""
    raise outside_kernel("silu")


def gelu(x: Operand = 0) -> Value:
    """gelu(x) = 0.5 * x * (1 + erf(x / sqrt(2)))"""
    raise outside_kernel("gelu")


def clamp(x: Operand, low: Operand, high: Operand) -> Value:
    """clamp(x, low, high) = max(low, min(x, high))"""
    raise outside_kernel("clamp")


def relu2(x: Operand = 0) -> Value:
    """relu2(x) = relu(x) ** 2"""
    raise outside_kernel("relu2")


def laplace(x: Operand, mean: Operand = 0.707107, deviation: Operand = 0.282095) -> Value:
    """laplace(x, mean = 0.707107, deviation = 0.282095) = 0.5 * (1 + erf((x - mean) /
    (deviation * sqrt(2))))
    """
    raise outside_kernel("laplace")


def taylor2(x: Operand = 0) -> Value:
    """taylor2(x) = 1 + x + x ** 2 / 2"""
    raise outside_kernel("taylor2")


def normalized(x: Operand = 0) -> Value:
    """normalized(x) = x / norm(x)"""
    raise outside_kernel("normalized")


def rms_norm(x: Operand, epsilon: Operand = 1e-6) -> Value:
    """rms_norm(x, epsilon = 1e-6) = x * rsqrt(mean(x * x) + epsilon)"""
    raise outside_kernel("rms_norm")


def layer_norm(x: Operand, epsilon: Operand = 1e-5) -> Value:
    """layer_norm(x, epsilon = 1e-5) = centred(x) * rsqrt(mean(centred(x) * centred(x)) +
    epsilon)
    """
    raise outside_kernel("layer_norm")


def centred(x: Operand = 0) -> Value:
    """centred(x) = x - mean(x)"""
    raise outside_kernel("centred")


def elu1(x: Operand = 0) -> Value:
    """elu1(x) = relu(x) + exp(min(x, 0))"""
    raise outside_kernel("elu1")


def softmax_features(x: Operand = 0) -> Value:
    """softmax_features(x) = concat(softmax(x), softmax(-x))"""
    raise outside_kernel("softmax_features")


def rope(x: Operand, position: Operand, base: Operand = 10000.0) -> Value:
    """rope(x, position, base = 10000.0) = x * cos(rope_angles(x, position, base)) +
    rotate_half(x) * sin(rope_angles(x, position, base))
    """
    raise outside_kernel("rope")


def rope_angles(x: Operand, position: Operand, base: Operand) -> Value:
    """rope_angles(x, position, base) = position * concat(rope_frequencies(x, base),
    rope_frequencies(x, base))
    """
    raise outside_kernel("rope_angles")


def rope_frequencies(x: Operand, base: Operand) -> Value:
    """rope_frequencies(x, base) = base ** (-2 * arange(size(x) // 2) / size(x))"""
    raise outside_kernel("rope_frequencies")


def rope_pairs(x: Operand, position: Operand, base: Operand = 10000.0) -> Value:
    """rope_pairs(x, position, base = 10000.0) = x * cos(rope_pair_angles(x, position,
    base)) + rotate_pairs(x) * sin(rope_pair_angles(x, position, base))
    """
    raise outside_kernel("rope_pairs")


def rope_pair_angles(x: Operand, position: Operand, base: Operand) -> Value:
    """rope_pair_angles(x, position, base) = position * base ** (-(arange(size(x)) -
    arange(size(x)) % 2) / size(x))
    """
    raise outside_kernel("rope_pair_angles")


def rope_partial(x: Operand, position: Operand, width: Operand, base: Operand = 10000.0) -> Value:
    """rope_partial(x, position, width, base = 10000.0) = concat(rope(x[0:width], position,
    base), x[width:size(x)])
    """
    raise outside_kernel("rope_partial")


def rope2d(x: Operand, row: Operand, column: Operand, base: Operand = 10000.0) -> Value:
    """rope2d(x, row, column, base = 10000.0) = concat(rope(x[0:size(x) // 2], row, base),
    rope(x[size(x) // 2:size(x)], column, base))
    """
    raise outside_kernel("rope2d")
