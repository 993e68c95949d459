"""The profile of a decode step: names to parts, and starts to seconds."""

import pytest

from experiments.benchmarks import decode_parts

STEP = "jit(decode)/shard_map/while/body/"
PROGRAM = f"""
  %dot.7 = f32[576,32]{{1,0}} dot(%a, %b), metadata={{op_name="{STEP}Block/Block._mlp/down/OI,BTI->OBT/dot_general" x=1}}
  ROOT %wrapped.1 = (f32[], s32[]{{:T(8)}}) while(%t), condition=%c, metadata={{op_name="{STEP}Block/Block._attend/while"}}
  copy.3 = s32[4]{{0}} copy(s32[4]{{0}} %p)
"""


@pytest.mark.parametrize(
    "operation, name, part",
    [
        ("dot", "Block/Block._attend/q/OI,BTI->OBT/dot_general", "q"),
        ("fusion", "Block/Block._attend/q_norm/mul", "norms and rotary positions"),
        ("fusion", "Block/Block._attend/while/body/closed_call/exp", "attention over pages"),
        ("dot", "Block/Block._attend/while/body/BKRH,BKHS->BKRS/dot_general", "attention over pages"),
        ("scatter", "Block/Block._attend/scatter", "writing the cache"),
        ("fusion", "Block/mlp_norm/rsqrt", "norms and rotary positions"),
        ("dot", "OI,BTI->OBT/dot_general", "scores over the vocabulary"),
        ("fusion", "RMSNorm/mul", "norms and rotary positions"),
        ("fusion", "jit(argmax)/reduce", "sampling"),
        ("copy", "add", "copies and the rest"),
    ],
)
def test_a_name_says_which_part_it_belongs_to(operation, name, part):
    assert decode_parts.part_of(operation, STEP + name) == part


def test_instructions_are_read_with_and_without_a_name():
    assert decode_parts.parts(PROGRAM) == {
        "dot.7": "down", "wrapped.1": "attention over pages", "copy.3": "copies and the rest",
    }  # fmt: skip


def test_an_operation_takes_the_time_until_the_next_one_starts():
    known = {"dot.7": "down", "copy.3": "copies and the rest"}
    events = [(5.0, "copy.3"), (1.0, "dot.7"), (2.0, "a thread's own"), (9.0, "dot.7")]
    assert decode_parts.seconds(events, 10.0, known) == {"dot.7": 5.0, "copy.3": 4.0}
