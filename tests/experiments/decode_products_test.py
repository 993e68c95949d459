"""The forms that `benchmarks.decode_products` compares are the same product."""

import jax.numpy as jnp
import pytest

from experiments.benchmarks import decode_products


@pytest.mark.parametrize("product", decode_products.FORMS)
def test_forms_are_the_same_product(product):
    x_MI = jnp.arange(24.0).reshape(3, 8)
    w_IO = jnp.arange(32.0).reshape(8, 4)
    weight = w_IO if product is decode_products.trained else w_IO.T
    assert (product(x_MI, weight) == x_MI @ w_IO).all()


def test_a_rate_by_hand():
    # A layer has 576 x (960 + 576 + 3072) + 1536 x 576 = 3,538,944 weights; 30 of them, two
    # operations each, one row, in one millisecond.
    assert decode_products.gigaflops(1.0, 1) == pytest.approx(212.33664)
