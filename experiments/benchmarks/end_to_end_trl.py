"""TRL's GRPOTrainer at the end-to-end benchmark's step; run by the interpreter that has trl.

`PYTHON end_to_end_trl.py MODEL_DIR WORK OUT_DIR` loads the model, says what it runs on, and then
makes one step of RL for every line on standard input (see `end_to_end.Peer`). WORK is the JSON
of `end_to_end.Work`. The tool is a stateful Python without any isolation, an
environment of the library's own kind (`environment_factory`): `exec` in this process. What
the library leaves open is chosen for speed on a CPU: no gradient checkpointing, a turn's
tokens capped as ours are, rewards by a comparison of strings.
"""

import ast
import contextlib
import io
import json
import os
import re
import sys
import time
import traceback

MARK = "aster "  # begins the lines that are meant for the benchmark
RESULT_CHARACTERS = 200  # of a tool result; ours keeps 64 tokens
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


class Interpreter:
    """A Python session of one trajectory: variables are kept until `reset`."""

    calls = 0  # of all sessions so far

    def __init__(self):
        self._names = {}

    def reset(self, **kwargs) -> None:
        """Forget everything."""
        self._names = {"__name__": "__main__"}

    def code_interpreter(self, code: str) -> str:
        """Runs Python code and returns what it printed.

        Args:
            code: The code to run.

        Returns:
            What it printed, and the value of a last expression.
        """
        Interpreter.calls += 1
        printed = io.StringIO()
        try:
            body, last = ast.parse(code).body, None
            if body and isinstance(body[-1], ast.Expr):
                last = ast.Expression(body.pop().value)
            with contextlib.redirect_stdout(printed):
                exec(compile(ast.Module(body, []), "<cell>", "exec"), self._names)
                value = last and eval(compile(last, "<cell>", "eval"), self._names)
                if value is not None:
                    print(value)
        except BaseException as error:  # model-written code may raise anything, SystemExit too
            printed.write(traceback.format_exception_only(error)[-1])
        return printed.getvalue().strip()[:RESULT_CHARACTERS]


def reward(completions, answer, **kwargs) -> list[float]:
    """1 where the last boxed text of the last turn is the answer, letter for letter."""
    scores = []
    for turns, wanted in zip(completions, answer, strict=True):
        found = BOXED.findall(turns[-1]["content"]) if turns[-1]["role"] == "assistant" else []
        scores.append(float(bool(found) and found[-1].strip() == wanted.strip()))
    return scores


def say(**values) -> None:
    """One line for the benchmark."""
    print(MARK + json.dumps(values), flush=True)


def settings(work: dict, out_dir: str):
    """The library's own settings for the work that both sides do."""
    import trl

    return trl.GRPOConfig(
        output_dir=out_dir, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        logging_strategy="no", bf16=False, fp16=False, seed=0, shuffle_dataset=False,
        dataloader_pin_memory=False, gradient_checkpointing=False,
        max_steps=work["steps"], num_generations=work["samples"],
        per_device_train_batch_size=work["micro_rows"],
        gradient_accumulation_steps=work["problems"] * work["samples"] // work["micro_rows"],
        max_completion_length=work["completion_tokens"],
        max_tool_calling_iterations=work["max_calls"],
        generation_kwargs={"max_new_tokens": work["turn_tokens"]},
        temperature=work["temperature"], top_p=1.0, top_k=0,
        beta=0.0, epsilon=work["clip_low"], epsilon_high=work["clip_high"], num_iterations=1,
        learning_rate=work["learning_rate"], lr_scheduler_type="constant",
        weight_decay=work["weight_decay"], adam_beta1=work["beta1"], adam_beta2=work["beta2"],
        max_grad_norm=work["clip_norm"],
    )  # fmt: skip


def tokenizer_of(model_dir: str):
    """The exported tokenizer; prompts without the tool's schema, as ours are."""
    import transformers
    from trl import chat_template_utils

    tokenizer = transformers.AutoTokenizer.from_pretrained(model_dir, padding_side="left")
    tokenizer.chat_template = "{%- set tools = none -%}" + tokenizer.chat_template
    # The markup of calls is Qwen3's, whose reader the library has.
    if getattr(chat_template_utils, "_SUPPORTS_RESPONSE_TEMPLATE", False):
        tokenizer.response_template = chat_template_utils.qwen3_template
    else:
        tokenizer.response_schema = chat_template_utils.qwen3_schema
    return tokenizer


class Clock:
    """Where a step's seconds go; stands around one trainer's methods."""

    def __init__(self, trainer):
        self.rollout_s, self.found, self._begun = 0.0, {}, 0.0
        self._played, self._scored = trainer._generate, trainer._generate_and_score_completions
        trainer._generate = self._generate
        trainer._generate_and_score_completions = self._score

    def _generate(self, *args, **kwargs):
        made = self._played(*args, **kwargs)
        prompt_ids, completion_ids, tool_mask = made[:3]
        self.found = {
            "prompt_tokens": sum(map(len, prompt_ids)),
            "tokens": sum(map(len, completion_ids)) + sum(map(len, prompt_ids)),
            "sampled_tokens": sum(map(sum, tool_mask)),
            "trajectories": len(completion_ids),
        }
        return made

    def _score(self, *args, **kwargs):
        begun = time.perf_counter()
        made = self._scored(*args, **kwargs)
        self.rollout_s = time.perf_counter() - begun
        self.found["informative"] = int((made["advantages"] != 0).sum())
        return made

    def begin(self) -> None:
        """The step begins when the benchmark asks for it."""
        if not sys.stdin.readline():
            sys.exit("the benchmark has ended")
        self._begun, self._calls = time.perf_counter(), Interpreter.calls

    def end(self) -> None:
        """The step has ended, parameters included."""
        step_s = time.perf_counter() - self._begun
        calls = Interpreter.calls - self._calls
        say(step_s=step_s, rollout_s=self.rollout_s, update_s=step_s - self.rollout_s,
            calls=calls, **self.found)  # fmt: skip


def callback_of(clock: Clock):
    """The library's hooks, which have to be of its own class."""
    import transformers

    hooks = {
        "on_step_begin": lambda self, *args, **kwargs: clock.begin(),
        "on_step_end": lambda self, *args, **kwargs: clock.end(),
    }
    return type("Hooks", (transformers.TrainerCallback,), hooks)()


def main(model_dir: str, work_path: str, out_dir: str) -> None:
    """Trains as long as it is asked to."""
    import datasets
    import torch
    import transformers
    import trl

    with open(work_path) as file:
        work = json.load(file)
    torch.set_num_threads(work["threads"])
    transformers.set_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    asked = datasets.Dataset.from_list(
        [{"prompt": [{"role": "user", "content": q}], "answer": a} for q, a in work["questions"]]
    )
    tokenizer = tokenizer_of(model_dir)
    trainer = trl.GRPOTrainer(
        model=model, args=settings(work, out_dir), reward_funcs=reward, train_dataset=asked,
        processing_class=tokenizer, environment_factory=Interpreter,
    )  # fmt: skip
    clock = Clock(trainer)
    trainer.add_callback(callback_of(clock))
    first = tokenizer.apply_chat_template(
        asked[0]["prompt"], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    say(
        prompt_ids=list(map(int, first)), threads=torch.get_num_threads(),
        attention=model.config._attn_implementation,
        versions={"python": sys.version.split()[0], "torch": torch.__version__,
                  "transformers": transformers.__version__, "trl": trl.__version__},
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    main(*sys.argv[1:])
