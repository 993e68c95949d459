"""The one forward: training (packed rows), prefill and decode all call it.

Everyone outside `model/` sees pure functions of a plain `params` dict; linen stays
inside. With a cache the new keys and values are written to its pages first and attention
reads those; without one the tokens attend to each other inside their
segment.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from aster_jax.model import attention, config, context, layers, matmul, packed_attention
from aster_jax.model import cache as kv
from aster_jax.model.layout import constrain

PRODUCT = "product"  # the name of a matmul's result that remat may keep


class Block(nn.Module):
    """Attention and SwiGLU with pre-norms: x + attn(norm(x)), then x + mlp(norm(x))."""

    cfg: config.ModelConfig

    @nn.compact
    def __call__(self, x_BTD, positions_BT, packed, cached, table_BW):
        normed = self._norm("attn_norm", self.cfg.d_model)(x_BTD)
        attended_BTD, cached = self._attend(normed, positions_BT, packed, cached, table_BW)
        x_BTD = _product(self._place(x_BTD + attended_BTD, "residual"))
        x_BTD = x_BTD + self._mlp(self._norm("mlp_norm", self.cfg.d_model)(x_BTD))
        return self._place(x_BTD, "residual"), cached

    def _place(self, x, name):
        return constrain(x, self.cfg.layout, name)

    def _norm(self, name, size):
        return layers.RMSNorm(size, self.cfg.rms_norm_eps, self.cfg.param_dtype, name=name)

    def _einsum(self, name, shape, fan_in):
        dtypes = (self.cfg.param_dtype, self.cfg.compute_dtype, self.cfg.accum_dtype)
        return layers.Einsum(shape, fan_in, *dtypes, name=name)

    def _attend(self, x_BTD, positions_BT, packed, cached, table_BW):
        c = self.cfg
        D, N, K, H = c.d_model, c.num_heads, c.num_kv_heads, c.head_dim
        q_BTNH = self._einsum("q", (D, N, H), D)("BTD,DNH->BTNH", x_BTD)
        k_BTKH = self._einsum("k", (D, K, H), D)("BTD,DKH->BTKH", x_BTD)
        v_BTKH = self._einsum("v", (D, K, H), D)("BTD,DKH->BTKH", x_BTD)
        if c.qk_norm:
            q_BTNH = self._norm("q_norm", H)(q_BTNH)
            k_BTKH = self._norm("k_norm", H)(k_BTKH)
        q_BTNH = self._place(layers.rotate(q_BTNH, positions_BT, c), "heads")
        k_BTKH = self._place(layers.rotate(k_BTKH, positions_BT, c), "kv_heads")
        v_BTKH = self._place(v_BTKH, "kv_heads")
        q_BTNH, k_BTKH, v_BTKH = (_product(x) for x in (q_BTNH, k_BTKH, v_BTKH))
        if cached is None:
            kernel = "xla" if c.training_attention == "auto" else c.training_attention
            segments_BT, until_BT = packed
            on_cpu = c.platform == "cpu"
            block = packed_attention.CPU_BLOCK if on_cpu else packed_attention.BLOCK
            out_BTNH = context.attend(
                q_BTNH, k_BTKH, v_BTKH, segments_BT, c.layout, c.accum_dtype, kernel, block, until_BT
            )
        else:
            cached = kv.write(cached, k_BTKH, v_BTKH, table_BW, positions_BT)
            pages = (cached, table_BW, positions_BT)
            out_BTNH = attention.attend_pages(q_BTNH, *pages, c.attention, c.accum_dtype)
        out_BTNH = self._place(out_BTNH, "heads")
        return self._einsum("o", (N, H, D), N * H)("BTNH,NHD->BTD", out_BTNH), cached

    def _mlp(self, x_BTD):
        D, F = self.cfg.d_model, self.cfg.d_ff
        gate_BTF = self._einsum("gate", (D, F), D)("BTD,DF->BTF", x_BTD)
        up_BTF = self._einsum("up", (D, F), D)("BTD,DF->BTF", x_BTD)
        gate_BTF, up_BTF = _product(gate_BTF), _product(up_BTF)
        hidden_BTF = self._place(jax.nn.silu(gate_BTF) * up_BTF, "units")
        return self._einsum("down", (F, D), F)("BTF,FD->BTD", hidden_BTF)


def _product(x):
    """What remat keeps where it is told to keep the products (`ModelConfig.keep_products`)."""
    return checkpoint_name(x, PRODUCT)


def _embed(cfg):
    return layers.Embed((cfg.vocab_size, cfg.d_model), cfg.param_dtype, cfg.compute_dtype)


def _final_norm(cfg):
    return layers.RMSNorm(cfg.d_model, cfg.rms_norm_eps, cfg.param_dtype)


def _unembed(cfg):
    dtypes = (cfg.param_dtype, "float32", cfg.accum_dtype)
    return layers.Einsum((cfg.d_model, cfg.vocab_size), cfg.d_model, *dtypes)


def init_params(cfg: config.ModelConfig, key: jax.Array) -> dict:
    """Fresh parameters as a plain dict; leaves under `layers` carry a leading L axis."""
    # They depend on no devices, over which one token could not be spread.
    cfg = dataclasses.replace(cfg, layout=None, training_attention="xla")
    tokens_BT = jnp.zeros((1, 1), jnp.int32)
    x_BTD = jnp.zeros((1, 1, cfg.d_model), jnp.dtype(cfg.compute_dtype))
    embed_key, layers_key, unembed_key = (jax.random.fold_in(key, i) for i in range(3))

    def init_block(block_key):
        packed = (tokens_BT, None)
        return Block(cfg).init(block_key, x_BTD, tokens_BT, packed, None, None)["params"]

    params = {
        "embed": _embed(cfg).init(embed_key, tokens_BT)["params"],
        "layers": jax.vmap(init_block)(jax.random.split(layers_key, cfg.num_layers)),
        "final_norm": _final_norm(cfg).init(embed_key, x_BTD)["params"],
    }
    if not cfg.tie_embeddings:
        params["unembed"] = _unembed(cfg).init(unembed_key, "BTD,DV->BTV", x_BTD)["params"]
    return params


def abstract_params(cfg: config.ModelConfig) -> dict:
    """Shapes and dtypes of the parameters without computing or allocating anything."""
    return jax.eval_shape(lambda: init_params(cfg, jax.random.key(0)))


def count_params(cfg: config.ModelConfig) -> int:
    """Number of parameters, tied embeddings counted once."""
    return sum(x.size for x in jax.tree.leaves(abstract_params(cfg)))


def for_decoding(params: dict) -> dict:
    """The form that decoding reads, made once per rollout phase; `forward` takes either.

    `layers` is a tuple of per-layer dicts: a scan would copy each layer's weights out of
    the stack for every token. Weights of matmuls are `rows` (`layers.as_rows`).
    """
    num_layers = jax.tree.leaves(params["layers"])[0].shape[0]
    per_layer = tuple(
        {name: _for_decoding(name, leaves, i) for name, leaves in params["layers"].items()}
        for i in range(num_layers)
    )
    rest = {name: _for_decoding(name, leaves) for name, leaves in params.items() if name != "layers"}
    return {**rest, "layers": per_layer}


def _for_decoding(name, leaves, layer=None):
    leaves = {k: x if layer is None else x[layer] for k, x in leaves.items()}
    inputs = row_inputs(name, *leaves)
    return {"rows": layers.as_rows(leaves["w"], inputs)} if inputs else leaves


def row_inputs(name: str, kind: str) -> int:
    """Axes that a parameter's matmul sums over; 0 for what decoding keeps as it is.

    That is scales, and the table of tokens, which has a row per output already.
    """
    if kind != "w" or name == "embed":
        return 0
    return 2 if name == "o" else 1  # `o` reads [N, H]


def forward(
    params: dict,
    cfg: config.ModelConfig,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    segments_BT: jax.Array | None = None,
    cache: kv.KVCache | None = None,
    table_BW: jax.Array | None = None,
    until_BT: jax.Array | None = None,
) -> tuple[jax.Array, kv.KVCache | None]:
    """Final hidden states (after the last norm) and the new cache.

    Args:
      params: from `init_params` or a checkpoint, as they are or `for_decoding`.
      cfg: sizes; static.
      tokens_BT: ids.
      positions_BT: rotary position of each token and, with a cache, the index in its row
        that it is written to. A position beyond the table marks padding: written nowhere.
      segments_BT: without a cache, which packed sequence a token belongs to (0 = padding);
        None means one sequence per row.
      cache: keys and values of earlier tokens, or None.
      table_BW: with a cache, the pages of each row in order.
      until_BT: without a cache, where segments share what they begin with, the place up to
        which each token is seen (`data/prefixes.py`); None: each segment sees itself alone.

    Returns:
      hidden_BTD in the compute dtype, and the updated cache (None when none was given). Where
      `cfg.layout` spreads rows over several devices, their tokens are in the order of
      `context.spread`.
    """
    if cache is None:
        segments_BT = jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT
        tokens_BT, positions_BT = (context.spread(x, cfg.layout) for x in (tokens_BT, positions_BT))
    tokens_BT = constrain(tokens_BT, cfg.layout, "looked_for")
    x_BTD = _embed(cfg).apply({"params": params["embed"]}, tokens_BT)
    for place in ("looked_up", "cut", "residual"):
        x_BTD = constrain(x_BTD, cfg.layout, place)
    if cache is not None:
        x_BTD, cache = _decode_layers(params, cfg, x_BTD, positions_BT, cache, table_BW)
    else:
        x_BTD = _train_layers(params, cfg, x_BTD, positions_BT, (segments_BT, until_BT))
    return _final_norm(cfg).apply({"params": params["final_norm"]}, x_BTD), cache


def _train_layers(params, cfg, x_BTD, positions_BT, packed):
    def block(x, layer):
        return Block(cfg).apply({"params": layer}, x, positions_BT, packed, None, None)[0], None

    if cfg.remat:
        # The barriers against common subexpressions are not needed inside a scan, and cost time.
        scanned = not isinstance(params["layers"], tuple)
        names = (packed_attention.KEPT,) if cfg.keep_attention or cfg.keep_products else ()
        names += (PRODUCT,) if cfg.keep_products else ()
        policy = jax.checkpoint_policies.save_only_these_names(*names)
        block = jax.checkpoint(block, prevent_cse=not scanned, policy=policy)
    if isinstance(params["layers"], tuple):
        for layer in params["layers"]:
            x_BTD, _ = block(x_BTD, layer)
        return x_BTD
    return jax.lax.scan(block, x_BTD, params["layers"])[0]


def _decode_layers(params, cfg, x_BTD, positions_BT, cache, table_BW):
    if not isinstance(params["layers"], tuple):
        params = for_decoding(params)
    written = []
    for layer, cached in zip(params["layers"], cache.layers, strict=True):
        args = (x_BTD, positions_BT, None, cached, table_BW)
        x_BTD, cached = Block(cfg).apply({"params": layer}, *args)
        written.append(cached)
    return x_BTD, kv.KVCache(tuple(written))


def logits(params: dict, cfg: config.ModelConfig, hidden_BTD: jax.Array) -> jax.Array:
    """float32 scores over the vocabulary, [B, T, V]."""
    hidden_BTD = hidden_BTD.astype(jnp.dtype(cfg.compute_dtype))
    if cfg.tie_embeddings or "rows" in params["unembed"]:
        rows_VD = params["embed"]["w"] if cfg.tie_embeddings else params["unembed"]["rows"]
        rows_VD = rows_VD.astype(hidden_BTD.dtype)
        return layers.times_rows(hidden_BTD, rows_VD, cfg.accum_dtype, jnp.float32)
    w_DV = params["unembed"]["w"].astype(hidden_BTD.dtype)
    return matmul.einsum("BTD,DV->BTV", hidden_BTD, w_DV, cfg.accum_dtype, jnp.float32)
