"""The device mesh and the one table that says how arrays are laid out on it.

Axes: `data` replicates parameters, `fsdp` shards them along their width and is a data
axis for batches too, `context` shards the tokens of a row (`model/context.py`) and the
parameters like `fsdp`, `tensor` shards heads and feed-forward units.
"""

import dataclasses
import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aster_jax.errors import InputError
from aster_jax.model import config, kernels, transformer
from aster_jax.model.layout import Layout

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")
# A parameter's width. Devices that share a row need not hold the same parameters, moments and
# gradients: they are fetched block by block over `fsdp` as it is, and here over both.
WIDTH = ("fsdp", "context")

# First match wins; a parameter without a match is an error. Comment = weight shape. The
# optimiser's moments have the same paths with a prefix, hence the same layout.
RULES = (
    (r"(^|/)embed/w$", PartitionSpec("tensor", WIDTH)),  # [V, D]
    (r"(^|/)layers/[qkv]/w$", PartitionSpec(None, WIDTH, "tensor", None)),  # [L, D, N|K, H]
    (r"(^|/)layers/o/w$", PartitionSpec(None, "tensor", None, WIDTH)),  # [L, N, H, D]
    (r"(^|/)layers/(gate|up)/w$", PartitionSpec(None, WIDTH, "tensor")),  # [L, D, F]
    (r"(^|/)layers/down/w$", PartitionSpec(None, "tensor", WIDTH)),  # [L, F, D]
    (r"(^|/)layers/(attn|mlp|q|k)_norm/scale$", PartitionSpec()),  # [L, D|H]
    (r"(^|/)final_norm/scale$", PartitionSpec()),  # [D]
    (r"(^|/)unembed/w$", PartitionSpec(WIDTH, "tensor")),  # [D, V]
    (r"(^|/)(count|step)$", PartitionSpec()),  # scalars of the optimiser and the state
)

# The same for activations in training, by the place of the forward that names them; the
# vocabulary's table comes from RULES. Comment = shape.
ACTIVATIONS = (
    ("looked_for", PartitionSpec("data")),  # [B, T], ids
    # [B, T, D], from the token table: each device looks up its part of the width for all rows
    # of its fsdp x context group; an exchange gives it more of the width of its part of the
    # rows' tokens, another the whole width of its own rows.
    ("looked_up", PartitionSpec("data", None, WIDTH)),
    ("cut", PartitionSpec("data", "context", "fsdp")),
    # [B, T, D], after the embedding and each sub-block
    ("residual", PartitionSpec(BATCH_AXES, "context")),
    ("heads", PartitionSpec(BATCH_AXES, "context", "tensor")),  # [B, T, N, H]
    ("kv_heads", PartitionSpec(BATCH_AXES, "context", "tensor")),  # [B, T, K, H]
    ("units", PartitionSpec(BATCH_AXES, "context", "tensor")),  # [B, T, F]
    ("tokens", PartitionSpec(("context", *BATCH_AXES))),  # [B * T, ...], for the scores
    ("whole_rows", PartitionSpec(BATCH_AXES)),  # [B, T], log-probs for the losses
)


def build(data: int, fsdp: int, tensor: int, devices=None, *, context: int = 1) -> Mesh:
    """A mesh of AXES; -1 for `data` takes the devices that are left over."""
    devices = jax.devices() if devices is None else devices
    if data == -1:
        data = len(devices) // (fsdp * context * tensor)
    if data * fsdp * context * tensor != len(devices) or data < 1:
        raise InputError(
            f"mesh data={data} x fsdp={fsdp} x context={context} x tensor={tensor} does not use "
            f"the {len(devices)} devices present; choose factors of {len(devices)}"
        )
    shape = (data, fsdp, context, tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4, devices=devices)


def for_rollouts(mesh: Mesh) -> Mesh:
    """The same devices as the engine uses them: rows go over `context` too, as a row under way
    always fits one device."""
    data, fsdp, context, tensor = mesh.devices.shape
    if context == 1:
        return mesh
    devices = mesh.devices.reshape(data, fsdp * context, 1, tensor)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 4)


def local(mesh: Mesh) -> Mesh:
    """The part of a mesh that is this process's, for rollouts: all of it where there is one.

    Its `tensor` axis is the whole one, so that a model's weights are all here; InputError
    where that axis goes over several processes.
    """
    if jax.process_count() == 1:
        return for_rollouts(mesh)
    tensor = mesh.shape["tensor"]
    groups = np.moveaxis(mesh.devices, mesh.axis_names.index("tensor"), -1).reshape(-1, tensor)
    here = [g for g in groups if {d.process_index for d in g} == {jax.process_index()}]
    if len(here) * tensor != jax.local_device_count():
        raise InputError(
            f"mesh.tensor={tensor} goes over several processes, which have "
            f"{jax.local_device_count()} devices each; rollouts need every tensor group within "
            "one process: choose a tensor size that divides the devices of one"
        )
    sizes = {"data": len(here), "tensor": tensor}
    shape = [sizes[name] if name in sizes else 1 for name in mesh.axis_names]
    return Mesh(np.array(here).reshape(shape), mesh.axis_names, axis_types=mesh.axis_types)


def as_local(tree, mesh: Mesh):
    """Global arrays that are replicated, but for `tensor`, as arrays of one process's `mesh`;
    the shards themselves, nothing is copied."""

    def one(x):
        where = NamedSharding(mesh, x.sharding.spec)
        parts = {s.device: s.data for s in x.addressable_shards}
        arrays = [parts[d] for d in where.addressable_devices_indices_map(x.shape)]
        return jax.make_array_from_single_device_arrays(x.shape, where, arrays)

    return jax.tree.map(one, tree)


def batch_shards(mesh: Mesh) -> int:
    """Number of devices that a batch's rows are spread over."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def kv_heads_axis(cfg: config.ModelConfig, mesh: Mesh) -> str | None:
    """`tensor` where key/value heads divide over it, else None: heads are then replicated.

    Sharding the head size instead would turn each attention into an all-to-all.
    """
    return "tensor" if cfg.num_kv_heads % mesh.shape["tensor"] == 0 else None


def lay_out(cfg: config.ModelConfig, mesh: Mesh) -> config.ModelConfig:
    """`cfg` for training on this mesh: with its kernel, and ACTIVATIONS where devices are many."""
    first = mesh.devices.flat[0]
    capability = str(getattr(first, "compute_capability", ""))
    kernel, _ = kernels.choose_training(cfg.training_attention, first.platform, cfg, capability)
    if kernel != "xla":
        cfg = dataclasses.replace(cfg, training_attention=kernel)
    if first.platform != cfg.platform:
        cfg = dataclasses.replace(cfg, platform=first.platform)
    if mesh.size == 1:
        return cfg
    places = dict(ACTIVATIONS)
    if kv_heads_axis(cfg, mesh) is None:
        places["kv_heads"] = PartitionSpec(BATCH_AXES, "context")
    name, shape = "embed/w", (cfg.vocab_size, cfg.d_model)
    if not cfg.tie_embeddings:
        name, shape = "unembed/w", (cfg.d_model, cfg.vocab_size)
    places["table"] = spec_of(name, shape, mesh)
    places["table_rows"] = PartitionSpec(*(_only_tensor(axis) for axis in places["table"]))
    return dataclasses.replace(cfg, layout=Layout(mesh, tuple(places.items())))


def path_name(path) -> str:
    """A pytree path as `layers/q/w`."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The table's entry for one array, checked against its shape."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            break
    else:
        raise InputError(f"no sharding rule matches parameter {path!r}; add it to mesh.RULES")
    entries = list(spec) + [None] * (len(shape) - len(spec))
    for axis, name in enumerate(entries):
        names = name if isinstance(name, tuple) else (name,) if name else ()
        sizes = {n: mesh.shape[n] for n in names if mesh.shape[n] > 1}
        if shape[axis] % math.prod(sizes.values()) == 0:
            continue
        if re.search(r"(^|/)layers/[kv]/w$", path) and name == "tensor":
            entries[axis] = None  # few key/value heads: replicate them
            continue
        over = " x ".join(f"{n}={size}" for n, size in sizes.items())
        raise InputError(
            f"axis {axis} of {path} ({shape[axis]}) does not divide over mesh axis {over}; choose "
            "a size that divides it"
        )
    return PartitionSpec(*entries)


def shardings(tree, mesh: Mesh):
    """A NamedSharding for every array (or shape) of a params, optimiser or train state."""

    def one(path, leaf):
        return NamedSharding(mesh, spec_of(path_name(path), leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def rollout_shardings(cfg: config.ModelConfig, mesh: Mesh):
    """Layout of weights `for_decoding`: tensor-sharded, replicated over data axes.

    The table's entry of the weight as trained, its axes merged as `layers.as_rows` does:
    heads or units stay whole on their device.
    """

    def one(name, leaves, above=""):
        ((kind, leaf),) = leaves.items()
        spec = spec_of(f"{above}{name}/{kind}", leaf.shape, mesh)
        kept = [_only_tensor(axis) for axis in spec]
        kept = kept[1:] if above else kept
        inputs = transformer.row_inputs(name, kind)
        if inputs:
            kind, kept = "rows", [_merged(kept[inputs:]), _merged(kept[:inputs])]
        return {kind: NamedSharding(mesh, PartitionSpec(*kept))}

    trained = transformer.abstract_params(cfg)
    layer = {name: one(name, x, "layers/") for name, x in trained.pop("layers").items()}
    rest = {name: one(name, x) for name, x in trained.items()}
    return {**rest, "layers": (layer,) * cfg.num_layers}


def _only_tensor(axis):
    return axis if axis == "tensor" else None


def _merged(axes):
    return "tensor" if "tensor" in axes else None


def replicated(mesh: Mesh) -> NamedSharding:
    """The layout of scalars and small control arrays."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The layout of arrays whose first axis is rows."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def put_rows(tree, mesh: Mesh, axis: int = 1):
    """Host arrays with a row axis at `axis` -> global arrays sharded by row.

    Every process passes the same full array and keeps its own part.
    """
    spec = PartitionSpec(*(None,) * axis, BATCH_AXES)
    sharding = NamedSharding(mesh, spec)

    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)
