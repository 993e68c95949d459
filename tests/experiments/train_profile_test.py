"""The benchmark of the train step: to which part of it an instruction belongs."""

import pytest

from experiments.benchmarks import train_profile

SCAN = "jit(train_step)/while/body/jvp()/while/body/closed_call"
BACK = "jit(train_step)/while/body/transpose(jvp())/while/body/closed_call"
BLOCK = "checkpoint/Block/Block._mlp"


@pytest.mark.parametrize(
    ("origin", "part"),
    [
        (f"{SCAN}/Block/Block._mlp/up/BTD,DF->BTF/dot_general fusion", "weights: forward"),
        (f"{BACK}/checkpoint/rematted_computation/Block/Block._mlp/up/BTD,DF->BTF/dot_general fusion",
         "weights: forward again"),
        (f"{BACK}/{BLOCK}/up/TD,TF->DF/dot_general dot", "weights: gradients"),
        (f"{BACK}/{BLOCK}/mul fusion", "SwiGLU"),
        (f"{SCAN}/Block/Block._attend/closed_call/while/body/closed_call/while/body/KRH,KHC->KRC/dot_general dot",
         "attention"),
        (f"{BACK}/RC,RD->CD/dot_general dot", "vocabulary: gradients"),
        (f"{SCAN}/exp fusion", "vocabulary: softmax"),
        ("jit(train_step)/div fusion", "optimiser and norms of the gradient"),
        ("jit(train_step)/while/body/add fusion", "sum over microbatches"),
        (" copy", "copies and the rest"),
    ],
)  # fmt: skip
def test_an_instruction_belongs_to_a_part(origin, part):
    assert train_profile.part(origin) == part


def test_the_table_adds_up():
    found = {"a": ("jit(train_step)/div fusion", 1.0, 1), "b": (" copy", 3.0, 2)}
    lines = train_profile.table(found, longest=1).splitlines()
    assert [line.split()[0] for line in lines] == ["75.0", "25.0", "3.000", "sum"]
    assert "b: copies" in lines[2] and lines[3] == "sum 4.00 s"
