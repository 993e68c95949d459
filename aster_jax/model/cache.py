"""The key/value cache: pages of a pool, an explicit pytree in and out of `forward`.

A row's positions [w S, (w + 1) S) lie on the w-th page of its table row, so memory follows
the tokens that are there, and rows may hold the same page of a prompt that they share.
Which page is whose is decided on the host (`rollout.pages`) and comes in as `table_BW`;
an entry equal to the number of pages means that there is none. The layout is the one of
the paged-attention kernels that ship with JAX.
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
    """

    k_KZSH: tuple[jax.Array, ...]
    v_KZSH: tuple[jax.Array, ...]

    @property
    def pages(self) -> int:
        """Number of pages in the pool."""
        return self.k_KZSH[0].shape[1]

    @property
    def page_tokens(self) -> int:
        """Tokens that one page holds."""
        return self.k_KZSH[0].shape[2]


def init(cfg: config.ModelConfig, pages: int, page_tokens: int, dtype: str) -> KVCache:
    """A pool of `pages` pages of `page_tokens` tokens each."""
    shape = (cfg.num_kv_heads, pages, page_tokens, cfg.head_dim)

    def zeros():
        return tuple(jnp.zeros(shape, jnp.dtype(dtype)) for _ in range(cfg.num_layers))

    return KVCache(zeros(), zeros())


def bytes_per_token(cfg: config.ModelConfig, dtype: str) -> int:
    """Bytes that one token of one row costs over all layers."""
    return 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * jnp.dtype(dtype).itemsize


def write(
    k_KZSH: jax.Array,
    v_KZSH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    table_BW: jax.Array,
    positions_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Put T new keys and values of each row at their positions.

    A position outside [0, W S), or one whose table entry is empty, is dropped, never
    clamped: padding is written nowhere and no row can reach a page that is not its own.
    """
    pages, size = k_KZSH.shape[1:3]
    inside_BT = (positions_BT >= 0) & (positions_BT < table_BW.shape[1] * size)
    inside = jnp.where(inside_BT, positions_BT, 0)
    page_BT = jnp.take_along_axis(table_BW, inside // size, axis=1)
    page_BT = jnp.where(inside_BT, page_BT, pages)

    # Each head is named among the indices: a scatter of whole [K, H] windows would make
    # TPUs keep the cache in another order than attention reads it, and copy it every step.
    heads_K11 = jnp.arange(k_KZSH.shape[0])[:, None, None]

    def put(x_KZSH, new_BTKH):
        new_KBTH = new_BTKH.transpose(2, 0, 1, 3).astype(x_KZSH.dtype)
        at = (heads_K11, page_BT[None], (inside % size)[None])
        return x_KZSH.at[at].set(new_KBTH, mode="drop")

    return put(k_KZSH, k_BTKH), put(v_KZSH, v_BTKH)


def copy(cache: KVCache, sources_P: jax.Array, targets_P: jax.Array) -> KVCache:
    """Copy pages `sources_P` to pages `targets_P`; a target outside the pool is dropped.

    How the last, partly filled page of a prompt reaches each member of its group.
    """

    def one(x_KZSH):
        pages_KPSH = x_KZSH.at[:, sources_P].get(mode="clip")
        return x_KZSH.at[:, targets_P].set(pages_KPSH, mode="drop")

    return jax.tree.map(one, cache)
