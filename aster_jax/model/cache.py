"""The key/value cache: an explicit pytree that goes in and comes out of `forward`.

Index s of the cache axis *is* position s of the row, so the causal rule is `s <= position`
and whatever lies beyond a row's own length is hidden by that same rule.
"""

import flax.struct
import jax
import jax.numpy as jnp

from aster_jax.model import config


@flax.struct.dataclass
class KVCache:
    """Keys and values of every layer, one pair of arrays per layer.

    Arrays per layer, not one with a layer axis: a decode step then updates each in place
    (the state is donated) where a scan would copy the whole cache every token.
    [B, K, S, H] keeps both attention matmuls free of transposes.
    """

    k_BKSH: tuple[jax.Array, ...]
    v_BKSH: tuple[jax.Array, ...]

    @property
    def rows(self) -> int:
        return self.k_BKSH[0].shape[0]

    @property
    def capacity(self) -> int:
        """Positions a row can hold, in tokens."""
        return self.k_BKSH[0].shape[2]


def init(cfg: config.ModelConfig, rows: int, capacity: int, dtype: str) -> KVCache:
    """An empty cache of `rows` rows with room for `capacity` tokens each."""
    shape = (rows, cfg.num_kv_heads, capacity, cfg.head_dim)
    zeros = tuple(jnp.zeros(shape, jnp.dtype(dtype)) for _ in range(cfg.num_layers))
    return KVCache(zeros, tuple(jnp.zeros(shape, jnp.dtype(dtype)) for _ in range(cfg.num_layers)))


def bytes_per_token(cfg: config.ModelConfig, dtype: str) -> int:
    """Bytes that one token of one row costs over all layers."""
    return 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * jnp.dtype(dtype).itemsize


def write(
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    positions_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Put T new keys and values of each row at their positions.

    A position outside [0, S) is dropped, never clamped: padding is written nowhere and the
    last chunk of a full row cannot overwrite good entries.
    """
    rows_B1 = jnp.arange(k_BKSH.shape[0])[:, None]
    capacity = k_BKSH.shape[2]
    positions_BT = jnp.where(positions_BT < 0, capacity, positions_BT)
    put = dict(mode="drop", unique_indices=False)
    k_BKSH = k_BKSH.at[rows_B1, :, positions_BT].set(k_BTKH.astype(k_BKSH.dtype), **put)
    v_BKSH = v_BKSH.at[rows_B1, :, positions_BT].set(v_BTKH.astype(v_BKSH.dtype), **put)
    return k_BKSH, v_BKSH


def clone(cache: KVCache, sources_P: jax.Array, targets_P: jax.Array, length: int) -> KVCache:
    """Copy the first `length` positions of rows `sources_P` to rows `targets_P`.

    How a prompt's cache, computed once, reaches its whole group. A target equal to the
    number of rows is dropped (padding of a fixed-size request). `length` is static.
    """

    def copy(x_BKSH):
        prefix_PKSH = x_BKSH[sources_P, :, :length]
        return x_BKSH.at[targets_P, :, :length].set(prefix_PKSH, mode="drop")

    return jax.tree.map(copy, cache)


def take(cache: KVCache, rows_P: jax.Array) -> KVCache:
    """The cache of some rows, as a smaller cache (for prefilling only those)."""
    return jax.tree.map(lambda x_BKSH: x_BKSH.at[rows_P].get(mode="clip"), cache)
