"""Where an activation's axes lie on a mesh, said at a few named places of the forward.

Without it the compiler is free to split the width of the residual stream like the weights
are split, and every chip then holds all rows of the batch. The one table is
`mesh.ACTIVATIONS`; `mesh.lay_out` puts it into a `ModelConfig` for a given mesh.
"""

import dataclasses

import jax
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
