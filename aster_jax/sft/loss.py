"""SFT: masked next-token cross-entropy, the second of the two losses.

loss = sum_t w_t * -log p(token_t | before), with w the loss mask divided by the number of
trained tokens of the whole batch (packing.sft_batch does the division once).
"""

import jax
import jax.numpy as jnp

from aster_jax import types
from aster_jax.model import config, logprobs


def loss_fn(
    params: dict, cfg: config.ModelConfig, batch: types.SftBatch
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean negative log-prob (nats per trained token) of one microbatch's share.

    Metrics: `entropy`, of the model's distribution at trained tokens; `tokens`.
    """
    logp_BT, entropy_BT = logprobs.token_logprobs(
        params, cfg, batch.tokens_BT, batch.positions_BT, batch.segments_BT,
        wanted_BT=batch.weights_BT > 0,
    )  # fmt: skip
    loss = -jnp.sum(batch.weights_BT * logp_BT)
    metrics = {
        "entropy": jnp.sum(batch.weights_BT * entropy_BT),
        "tokens": jnp.sum(batch.weights_BT > 0).astype(jnp.float32),
    }
    return loss, metrics
