"""Where an activation's axes lie on a mesh, said at a few named places of the forward.

Without it the compiler is free to split the width of the residual stream like the weights
are split, and every chip then holds all rows of the batch. The one table is
`mesh.ACTIVATIONS`; `mesh.lay_out` puts it into a `ModelConfig` for a given mesh.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and, by name of the place, the mesh axes of the array that passes it."""

    mesh: Mesh
    specs: tuple[tuple[str, PartitionSpec], ...]


def constrain(x: jax.Array, layout: Layout | None, place: str) -> jax.Array:
    """`x`, laid out as the table says for `place`; its values, and its gradient's, as they are.

    Nothing is said without a layout (one device, rollouts), nor inside a `shard_map`, whose
    arrays are one device's part already.
    """
    if layout is None or jax.sharding.get_abstract_mesh().manual_axes:
        return x
    sharding = NamedSharding(layout.mesh, dict(layout.specs)[place])
    return jax.lax.with_sharding_constraint(x, sharding)


def per_device(run: Callable, layout: Layout | None) -> Callable:
    """`run`(q_BTNH, k_BKHS, v_BKSH, seen_BS, first) on each device's own rows and heads; `seen_BS`
    is what `packed_attention` says of rows, starts or ends.

    The compiler can neither partition a kernel nor a loop whose length depends on the data:
    left to itself it would fetch all rows to every device. Where heads of keys do not divide
    over the devices that heads of queries are on, each is repeated until they do. Inside a
    `shard_map` that is over some axes of the mesh this one is over the others.
    """
    if layout is None:
        return run
    manual = set(jax.sharding.get_abstract_mesh().manual_axes)
    axes = set(layout.mesh.axis_names) - manual
    if not axes:
        return run
    rows, _, heads = _left(dict(layout.specs)["heads"], axes)
    devices = math.prod(layout.mesh.shape[axis] for axis in _names(heads))
    per_row, keys = PartitionSpec(rows), PartitionSpec(rows, heads)
    queries = PartitionSpec(rows, None, heads)
    mapped = jax.shard_map(
        run, mesh=None if manual else layout.mesh,
        in_specs=(queries, keys, keys, per_row, PartitionSpec()),
        out_specs=queries, axis_names=axes, check_vma=False,
    )  # fmt: skip

    def spread(q_BTNH, k_BKHS, v_BKSH, seen_BS, first):
        times = devices // math.gcd(devices, k_BKHS.shape[1])
        if times > 1:
            k_BKHS, v_BKSH = (jnp.repeat(x, times, axis=1) for x in (k_BKHS, v_BKSH))
        return mapped(q_BTNH, k_BKHS, v_BKSH, seen_BS, first)

    return spread


def _left(spec, axes):
    """A table's entry without the mesh axes that are not among `axes`."""
    return tuple(tuple(name for name in _names(entry) if name in axes) or None for entry in spec)


def _names(entry):
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
