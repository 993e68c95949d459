"""The ways to sum that `benchmarks.summation` compares, on sums whose rounding is known by hand."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import summation

FORMS = [(summation.decode, 1), (summation.train, 0)]


@pytest.mark.parametrize("matmul, input_axis", FORMS)
def test_pieces_and_float64_round_where_they_should(matmul, input_axis):
    # 2^24 is the first float32 whose neighbour is 2 away: one more 1 is lost to it (a tie,
    # to even), the 2 of the second piece is not, and the exact sum 2^24 + 3 rounds up.
    x_MI = jnp.array([[2.0**24, 1.0, 1.0, 1.0]])
    weight = jnp.ones((1, 4) if input_axis else (4, 1))
    assert summation.in_pieces(matmul, 2, input_axis)(x_MI, weight) == 2**24 + 2
    with jax.enable_x64(True):
        assert summation.in_float64(matmul)(x_MI, weight) == 2**24 + 4


@pytest.mark.parametrize("matmul, input_axis", FORMS)
@pytest.mark.parametrize("pieces", summation.PIECES)
def test_pieces_sum_all_inputs(matmul, input_axis, pieces):
    x_MI = jnp.arange(24.0).reshape(3, 8)
    w_IO = jnp.arange(16.0).reshape(8, 2)
    weight = w_IO.T if input_axis else w_IO
    summed = summation.in_pieces(matmul, pieces, input_axis)
    assert (summed(x_MI, weight) == x_MI @ w_IO).all()
    assert (summed(x_MI, jnp.split(weight, pieces, input_axis)) == x_MI @ w_IO).all()
