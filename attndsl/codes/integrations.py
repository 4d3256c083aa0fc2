"""A10x: layers, and the models of other libraries."""

from __future__ import annotations

from attndsl.codes.entry import CodeEntry

_MODEL = '''
from transformers import MistralConfig, MistralModel

from attndsl.integrations.transformers import attach, register

module = attndsl.parse(
    """
    attention whole { mask = causal }
    attention local(window: int where window > 0) { mask = causal and i - j < window }
    """
)
config = MistralConfig(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2, vocab_size=8, sliding_window=4,
)
model = MistralModel(config).eval()
tokens = torch.arange(8)[None]
'''
_BIAS = """
module = attndsl.parse(
    "attention biased { input bias: float[H, Lq, Lk] score = dot(q, k) + bias[h, row, j] }"
)
"""

CODES: dict[str, CodeEntry] = {
    "A100": CodeEntry(
        title="a wish of a model that the spec does not honour",
        explanation="""\
A layer of `transformers` says with each call what it wants: a window, a cap, sinks, a bias,
dropout, attention weights, padding. `register(…, reads={"window": "sliding_window"})` says
which parameter or input of the spec stands for a keyword; what none stands for is refused,
lest a result be wrong without a word. Several kernels may be registered under one name, for
layers that differ; `ignore` names what to do without on purpose.""",
        wrong=_MODEL + 'register("plain", module.whole)\nattach(model, "plain")\nmodel(tokens)\n',
        right=_MODEL + 'register("window", module.local)\nattach(model, "window")\nmodel(tokens)\n',
        language="python",
    ),
    "A101": CodeEntry(
        title="a name that no registered kernel has",
        explanation="""\
The names that `reads` maps are parameters or inputs of the kernels that are registered.""",
        wrong=_MODEL + 'register("window", module.local, reads={"windw": "sliding_window"})\n',
        right=_MODEL + 'register("window", module.local, reads={"window": "sliding_window"})\n',
        language="python",
    ),
    "A102": CodeEntry(
        title="a mask that is not the model's",
        explanation="""\
A model of `transformers` asks for a mask: causal or not, with a window, in chunks, within
packed documents. The spec's own mask must be the same, which is checked on sample rows. A
mask of another form, such as one that shows images both ways, is refused. `own_mask=True`
says that the spec's mask replaces the model's.""",
        wrong=_MODEL
        + 'register("all", module.whole, ignore=["sliding_window"])\n'
        + 'attach(model, "all")\nmodel(tokens)\n',
        right=_MODEL
        + 'register("all", module.whole, own_mask=True)\n'
        + 'attach(model, "all")\nmodel(tokens)\n',
        language="python",
    ),
    "A103": CodeEntry(
        title="a model whose attention cannot be replaced",
        explanation="""\
`attach` sets a model's attention implementation, by a name that `register` made known.
Models whose layers compute attention in their own code, and ask for no implementation,
cannot use one; for MPT and Bloom, `attach` brings layers that do.""",
        wrong=_MODEL + 'attach(model, "windows")\n',
        right=_MODEL + 'register("windows", module.local)\nattach(model, "windows")\n',
        language="python",
    ),
    "A104": CodeEntry(
        title="a learned input whose size is not known",
        explanation="""\
A layer makes its parameters before it sees a call. A dimension `Lq` or `Lk` is known with
`max_length`, and a call uses the part for the positions that it has; other dimensions of
lengths, and sizes of heads that were not given, are not known. An input that `data` names is
passed with each call instead.""",
        wrong=_BIAS + "attndsl.nn.Attention(module.biased, 32, 4)\n",
        right=_BIAS + "attndsl.nn.Attention(module.biased, 32, 4, max_length=16)\n",
        language="python",
    ),
    "A105": CodeEntry(
        title="a layer that cannot be built or called like this",
        explanation="""\
Heads share the width `embed_dim`, and queries' heads those of keys and values, evenly.
`initial` and `data` name inputs of the spec, and `initial` begins in their shape; an input that
is learned is not passed. `dropout` and `scale` are chosen when the layer is built; for
`return_lse` and `cu_seqlens`, call its kernel.""",
        wrong=_BIAS + "attndsl.nn.Attention(module.biased, 32, 5, max_length=16)\n",
        right=_BIAS + "attndsl.nn.Attention(module.biased, 32, 4, max_length=16)\n",
        language="python",
    ),
}
