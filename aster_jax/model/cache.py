"""The key/value cache: pages of a pool, an explicit pytree in and out of `forward`.

A row's positions [w S, (w + 1) S) lie on the w-th page of its table row, so memory follows
the tokens that are there, and rows may hold the same page of a prompt that they share.
Which page is whose is decided on the host (`rollout.pages`) and comes in as `table_BW`;
an entry equal to the number of pages means that there is none.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from aster_jax.model import config


@flax.struct.dataclass
class Layer:
    """Keys and values of one layer, in one of two layouts.

    Heads first: keys and values [K, Z, S, H], what the kernels over pages read.
    Else pages first: keys [Z, K, H, S] and values [Z, K, S, H]. Where the plain path
    decodes, a page is then one piece of memory to fetch, and XLA's CPU matmul need not
    turn its keys for every token.
    """

    keys: jax.Array
    values: jax.Array
    heads_first: bool = flax.struct.field(pytree_node=False)

    @property
    def pages(self) -> int:
        """Number of pages in the pool."""
        return self.values.shape[1 if self.heads_first else 0]

    @property
    def heads(self) -> int:
        """Key/value heads."""
        return self.values.shape[0 if self.heads_first else 1]

    @property
    def page_tokens(self) -> int:
        """Tokens that one page holds."""
        return self.values.shape[2]

    def at(self, pages: jax.Array) -> tuple:
        """The index of whole pages in either array."""
        return (slice(None), pages) if self.heads_first else (pages,)


@flax.struct.dataclass
class KVCache:
    """The pool: one `Layer` of arrays per layer of the model.

    Arrays per layer, not one with a layer axis: a decode step then updates each in place
    (the state is donated) where a scan would copy the whole cache every token.
    """

    layers: tuple[Layer, ...]

    @property
    def pages(self) -> int:
        """Number of pages in the pool."""
        return self.layers[0].pages

    @property
    def page_tokens(self) -> int:
        """Tokens that one page holds."""
        return self.layers[0].page_tokens


def init(cfg: config.ModelConfig, pages: int, page_tokens: int, dtype: str) -> KVCache:
    """A pool of `pages` pages of `page_tokens` tokens, laid out for `cfg.attention`."""
    K, Z, S, H = cfg.num_kv_heads, pages, page_tokens, cfg.head_dim
    heads_first = cfg.attention != "xla"
    shapes = ((K, Z, S, H), (K, Z, S, H)) if heads_first else ((Z, K, H, S), (Z, K, S, H))

    def layer():
        return Layer(*(jnp.zeros(shape, jnp.dtype(dtype)) for shape in shapes), heads_first)

    return KVCache(tuple(layer() for _ in range(cfg.num_layers)))


def specs(cache: KVCache, pages, heads=None) -> KVCache:
    """The mesh axes that pages and heads lie on, in the place of every array."""

    def one(layer):
        axes = (heads, pages) if layer.heads_first else (pages, heads)
        return layer.replace(keys=PartitionSpec(*axes), values=PartitionSpec(*axes))

    return KVCache(tuple(one(layer) for layer in cache.layers))


def bytes_per_token(cfg: config.ModelConfig, dtype: str) -> int:
    """Bytes that one token of one row costs over all layers."""
    return 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * jnp.dtype(dtype).itemsize


def write(
    layer: Layer,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    table_BW: jax.Array,
    positions_BT: jax.Array,
) -> Layer:
    """Put T new keys and values of each row at their positions.

    A position outside [0, W S), or one whose table entry is empty, is dropped, never
    clamped: padding is written nowhere and no row can reach a page that is not its own.
    """
    size = layer.page_tokens
    inside_BT = (positions_BT >= 0) & (positions_BT < table_BW.shape[1] * size)
    inside = jnp.where(inside_BT, positions_BT, 0)
    page_BT = jnp.take_along_axis(table_BW, inside // size, axis=1)
    page_1BT, place_1BT = jnp.where(inside_BT, page_BT, layer.pages)[None], (inside % size)[None]

    # Each head is named among the indices: a scatter of whole [K, H] windows would make
    # TPUs keep the cache in another order than attention reads it, and copy it every step.
    heads_K11 = jnp.arange(layer.heads)[:, None, None]

    def put(x, at, new_BTKH):
        new_KBTH = new_BTKH.transpose(2, 0, 1, 3).astype(x.dtype)
        return x.at[at].set(new_KBTH, mode="drop")

    if layer.heads_first:
        at_keys = at = (heads_K11, page_1BT, place_1BT)
    else:
        at_keys = (page_1BT, heads_K11, slice(None), place_1BT)
        at = (page_1BT, heads_K11, place_1BT)
    return layer.replace(
        keys=put(layer.keys, at_keys, k_BTKH), values=put(layer.values, at, v_BTKH)
    )


def page(layer: Layer, pages_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One page of every row: keys [B, K, H, S] and values [B, K, S, H], zeros where none is.

    Rows first, and times one: XLA's CPU backend divides the copy among threads along the
    first axis, and a bare copy becomes scalar moves. Both are exact.
    """
    there_B111 = (pages_B < layer.pages)[:, None, None, None]

    def fetch(x):
        found = x.at[layer.at(pages_B)].get(mode="clip")
        found_B = found.swapaxes(0, 1) if layer.heads_first else found
        return found_B * there_B111.astype(x.dtype)

    keys, v_BKSH = fetch(layer.keys), fetch(layer.values)
    return keys.swapaxes(2, 3) if layer.heads_first else keys, v_BKSH


def copy(cache: KVCache, sources_P: jax.Array, targets_P: jax.Array) -> KVCache:
    """Copy pages `sources_P` to pages `targets_P`; a target outside the pool is dropped.

    How the last, partly filled page of a prompt reaches each member of its group.
    """

    def one(layer):
        def move(x):
            moved = x.at[layer.at(sources_P)].get(mode="clip")
            return x.at[layer.at(targets_P)].set(moved, mode="drop")

        return layer.replace(keys=move(layer.keys), values=move(layer.values))

    return KVCache(tuple(one(layer) for layer in cache.layers))
