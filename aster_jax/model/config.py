"""What a transformer is made of: sizes and constants, read from a checkpoint's own config.

Sits before everything in the flow: `weights` produces a `ModelConfig`, the pure model
functions take it as a static argument.
"""

import dataclasses

from aster_jax.model.layout import Layout

ACCUM_DTYPES = ("float32", "float64")
TRAINING_ATTENTIONS = ("auto", "xla", "gpu", "tpu", "whole")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A Qwen3- or Llama-type decoder.

    `qk_norm` is the per-head RMSNorm on queries and keys that Qwen3 has and Llama has
    not; it is the only difference in their maths. `num_heads * head_dim` need not equal
    `d_model`. `param_dtype` is what the optimiser holds, `compute_dtype` what matmuls
    run in; norms, softmax and log-softmax are always float32. `accum_dtype` is what the
    forward's matmuls add up in (`matmul.py`). `attention` is what
    computes queries over the cache's pages: "xla" (the reference), or the kernel
    for "gpu" or "tpu". `training_attention` is what computes packed rows: likewise, or "auto"
    for what `mesh.lay_out` finds best for its devices ("xla" without a mesh), or "whole" for
    all scores at once, by which plans count. `remat` computes
    a layer's activations again in the backward pass; `keep_attention` spares it the attention,
    for 2 bytes more per token, layer, head and its size; `keep_products` spares it all products,
    for 10 to 20 bytes more per token, layer and unit of the feed-forward, and computes only norms
    and SwiGLU again. `platform` is what trains, whose sizes of blocks differ, and `layout` says
    how activations are spread over a mesh, None leaves it to the compiler: `mesh.lay_out` sets both.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    d_ff: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    tie_embeddings: bool
    qk_norm: bool
    max_positions: int
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    accum_dtype: str = "float32"
    remat: bool = False
    keep_attention: bool = False
    keep_products: bool = False
    attention: str = "xla"
    training_attention: str = "auto"
    platform: str = "cpu"
    layout: Layout | None = None

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is not a multiple of "
                f"num_kv_heads={self.num_kv_heads}; grouped attention needs it to be"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for rotary positions")
        if self.accum_dtype not in ACCUM_DTYPES:
            raise ValueError(f"accum_dtype={self.accum_dtype!r}; choose one of {ACCUM_DTYPES}")
        if self.training_attention not in TRAINING_ATTENTIONS:
            raise ValueError(
                f"training_attention={self.training_attention!r}; choose one of "
                f"{TRAINING_ATTENTIONS}"
            )


_QWEN3 = dict(
    vocab_size=151_936,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_eps=1e-6,
    tie_embeddings=True,
    qk_norm=True,
    param_dtype="float32",
    compute_dtype="bfloat16",
    remat=True,
)

# Sizes for planning without weights; a real run takes them from the checkpoint's
# config.json. Source: the published Qwen3 configs. The Thinking-2507 release differs
# from the older 4B in rope_theta and max_positions only: mixing them up gives a model
# that runs and is silently worse.
PRESETS = {
    "qwen3_0p6b": ModelConfig(
        num_layers=28, d_model=1024, d_ff=3072, num_heads=16,
        rope_theta=1e6, max_positions=40_960, **_QWEN3,
    ),
    "qwen3_1p7b": ModelConfig(
        num_layers=28, d_model=2048, d_ff=6144, num_heads=16,
        rope_theta=1e6, max_positions=40_960, **_QWEN3,
    ),
    "qwen3_4b": ModelConfig(
        num_layers=36, d_model=2560, d_ff=9728, num_heads=32,
        rope_theta=1e6, max_positions=40_960, **_QWEN3,
    ),
    "qwen3_4b_thinking_2507": ModelConfig(
        num_layers=36, d_model=2560, d_ff=9728, num_heads=32,
        rope_theta=5e6, max_positions=262_144, **_QWEN3,
    ),
}
