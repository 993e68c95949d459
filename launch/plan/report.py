"""What a plan found, as one dict for machines and as lines for people."""

import dataclasses

import jax

from aster_jax import mesh as meshes
from aster_jax import policy, settings
from aster_jax.model import transformer
from aster_jax.rollout import engine
from launch.plan import absent, estimate, matmuls, programs, remedies
from launch.plan.chips import GIB, Chip


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is planned for: a config, a topology's name, its chip and what is assumed.

    `memory`: bytes per device, 0 if unknown; `only`: programs whose name has it; `tries`:
    remedies compiled for each program that does not fit; `price`: of a chip for an hour;
    `hours`: whether they are wanted, for which all steps are traced; `arguments`: the
    command's own, to ask about CPUs with; () asks nothing.
    """

    config: object
    topology: str
    chip: Chip
    assumed: estimate.Assumed
    memory: float
    only: str = ""
    tries: int = 3
    price: float = 0.0
    hours: bool = True
    arguments: tuple[str, ...] = ()


def make(wanted: Wanted, say) -> dict:
    """Compile the programs one by one, telling `say` of each, and sum up."""
    c = wanted.config
    mesh = absent.build(wanted.topology, c.mesh)
    cfg = programs.model(c)
    policy.check_rows(c, mesh)
    engine.check(settings.engine_sizes(c.rollout), meshes.batch_shards(meshes.for_rollouts(mesh)))
    params, moments = programs.state_bytes(c, cfg, mesh)
    reference = programs.reference_bytes(c, cfg, mesh)
    weights, cached = programs.rollout_bytes(c, cfg, mesh)
    found = {
        "config": c.name, "topology": wanted.topology, "chip": wanted.chip.name,
        "chips": mesh.size, "mesh": dict(mesh.shape), "memory": wanted.memory,
        "parameters": transformer.count_params(cfg), "jax": jax.__version__,
        "bytes": {
            "parameters": params, "moments": moments, "weights while sampling": weights,
            "cache": cached, **({"reference policy": reference} if reference else {}),
        },
        "rows": estimate.rows(c, cfg, mesh, wanted.assumed),
        "programs": {}, "remedies": {},
    }  # fmt: skip
    say(head(found))
    micro_s, timed = {}, wanted.hours and wanted.chip.flops
    for program in programs.of_run(c, cfg, mesh):
        if wanted.only not in program.name and not (timed and program.phase == "update"):
            continue
        traced = program.trace()
        products = matmuls.traced(program.counted() if program.counted else traced)
        if timed and program.phase == "update":
            micro_s[program.name] = _seconds(products, mesh.size, wanted)
        if wanted.only not in program.name:
            continue
        one = _described(program, absent.compiled(traced.lower()), wanted.memory)
        if one["collectives"] is None and not one["refused"] and wanted.arguments:
            arguments = list(wanted.arguments)
            one["collectives"] = absent.collectives_on_cpu(arguments, mesh.size, program.name)
            if one["collectives"] is not None:
                one["collectives_of"] = "CPU"
        if program.phase == "update":
            one |= {
                "flops": matmuls.flops(products) // mesh.size,
                "matmul_bytes": matmuls.bytes_moved(products) // mesh.size,
            }
        found["programs"][program.name] = one
        say(_line(program.name, one))
        if one["why_not"]:
            found["remedies"][program.name] = _remedy(program, wanted, say)
    if timed:
        found |= _time(c, cfg, mesh, micro_s, wanted)
    return found


def _described(program, compiled: absent.Compiled, memory: float) -> dict:
    total = compiled.bytes + program.beside
    why_not = compiled.refused
    if not why_not and memory and total > memory:
        why_not = f"it takes {size(total)} of the {size(memory)} that a device has"
    return {
        **dataclasses.asdict(compiled), "beside": program.beside, "total": total,
        "why_not": why_not,
    }  # fmt: skip


def _remedy(program, wanted, say) -> dict:
    def fits(trial):
        compiled = absent.compiled(trial.trace().lower())
        return _described(trial, compiled, wanted.memory)["why_not"]

    changes, failed = remedies.first_that_fits(
        wanted.config, program.name, program.phase,
        lambda mesh: absent.build(wanted.topology, mesh), fits, wanted.tries,
    )  # fmt: skip
    shown = " ".join(f"--config.{k}={v}" for k, v in (changes or {}).items())
    say(f"    fits with {shown}" if shown else f"    nothing tried made it fit ({len(failed)} tried)")
    return {"changes": changes, "failed": failed}


def _seconds(products, chips, wanted) -> float:
    flop_rate = wanted.assumed.flop_share * wanted.chip.flops * chips
    byte_rate = wanted.assumed.byte_share * wanted.chip.bandwidth * chips
    return matmuls.seconds(products, flop_rate, byte_rate)


def _time(c, cfg, mesh, micro_s, wanted) -> dict:
    stages = estimate.stages(c, cfg, mesh, wanted.chip, micro_s, wanted.assumed)
    hours = sum(s.hours for s in stages)
    return {
        "microbatch_s": micro_s,
        "stages": [{**dataclasses.asdict(s), "hours": s.hours} for s in stages],
        "hours": hours, "chip_hours": hours * mesh.size,
        "price": hours * mesh.size * wanted.price,
        "assumed": wanted.assumed.sentences(),
    }  # fmt: skip


def _line(name: str, one: dict) -> str:
    if one["refused"]:
        return f"  {name:20} refused: {one['refused']}"
    held = one["arguments"] + one["outputs"] - one["aliased"]
    parts = [
        f"{size(one['total'])} = {size(held)} arguments and results + "
        f"{size(one['temporaries'])} temporary + {size(one['beside'])} beside",
        f"compiled in {one['seconds']:.0f} s",
    ]
    if one.get("flops"):
        parts.insert(1, f"{one['flops']:.3g} FLOPs and {one['matmul_bytes']:.3g} bytes per microbatch")
    if one["why_not"]:
        parts.insert(0, "DOES NOT FIT")
    lines = [f"  {name:20} " + "; ".join(parts)]
    if one["collectives"] is None:
        lines.append("    its text cannot be read, so nothing is known of its collectives")
    if "collectives_of" in one:
        known = "it has these:" if one["collectives"] else "it has none"
        lines.append(f"    its text cannot be read; partitioned for as many CPUs {known}")
    for kind, of in sorted((one["collectives"] or {}).items()):
        lines.append(f"    {of['count']:6} {kind:18} {of['bytes'] / 1e9:10.3f} GB of results")
    return "\n".join(lines)


def size(n: float) -> str:
    """Bytes for people."""
    return f"{n / GIB:.2f} GiB" if n >= GIB / 10 else f"{n / (1 << 20):.2f} MiB"


def head(found: dict) -> str:
    """What is known before anything is compiled."""
    of, mesh = found["bytes"], found["mesh"]
    held = ", ".join(f"{name} {size(n)}" for name, n in of.items())
    memory = f"{size(found['memory'])} each" if found["memory"] else "memory not known"
    rows = ", ".join(f"{name}: {n:.0f}" for name, n in found["rows"].items())
    return (
        f"{found['config']}: {found['parameters'] / 1e9:.2f} B parameters on {found['chips']} x "
        f"{found['chip']} ({memory}), mesh {' x '.join(f'{k} {v}' for k, v in mesh.items())}\n"
        f"  per device: {held}\n  rows under way: {rows}"
    )


def foot(found: dict) -> str:
    """Whether it fits, how long it takes and what that rests on."""
    refused = [name for name, one in found["programs"].items() if one["why_not"]]
    lines = [f"does not fit: {', '.join(refused)}"] if refused else []
    fitting = ", ".join(name for name in found["programs"] if name not in refused)
    if fitting:
        known = "" if found["memory"] else "; give --hbm_gib to see whether they fit"
        lines.append(f"{'compiles' if known else 'fits'}: {fitting}{known}")
    for s in found.get("stages", ()):
        lines.append(
            f"  {s['name']:6} {s['steps']:5} x ({s['rollout_s']:.0f} s rollout + "
            f"{s['update_s']:.0f} s update) = {s['hours']:.1f} h"
        )
    if "hours" in found:
        price = f", {found['price']:,.0f} at the price given" if found["price"] else ""
        lines.append(f"  in all {found['hours']:.0f} h, {found['chip_hours']:,.0f} chip hours{price}")
        lines += ["an estimate, not a measurement:", *(f"  {a}" for a in found["assumed"])]
    return "\n".join(lines)
