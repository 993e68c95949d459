"""The demos stage: problems -> demonstrations in the real tool -> filters -> ids and masks.

Leaves `transcripts.jsonl` (messages, for people), `demos.jsonl` (ids and masks, for SFT)
and, for a model from scratch, `tokenizer/` with the vocabulary learned from them.
"""

from aster_jax import pools, settings, together, tools, types, weights, workdir
from aster_jax.data import chat, problems, tokenizer
from aster_jax.demos import collect, curate, sharegpt
from aster_jax.errors import InputError
from aster_jax.lifetime import changes
from aster_jax.reward import verify

PREVIEW = 1  # demonstrations shown on the terminal
MOST_DROPPED = 0.5  # share of transcripts that the filters may drop before it is an error


def run(run: workdir.Run) -> None:
    """Collect, filter and render the demonstrations; process 0 only."""
    together.once("demos", lambda: _run(run))


def _run(run):
    c = run.config
    run.begin("demos")
    run.say("demos", f"{c.demos.count} demonstrations from {c.demos.source}, {c.demos.style}")
    if c.demos.source == "expert":
        kept, dropped = _from_expert(run)
    else:
        transcripts, skipped = sharegpt.load(c.demos.source)
        fits = [t for t in transcripts if len(t.statuses) >= c.demos.min_calls]
        free = _not_held_out(c, fits)
        kept = free[: c.demos.count]
        dropped = {
            "too_few_calls": len(transcripts) - len(fits),
            "unusable_row": len(skipped),
            "held_out": len(fits) - len(free),
            "more_than_count": len(free) - len(kept),
        }
    schemas = [chat.TOOL] if c.model.show_tool else None
    words = _tokenizer(run, kept, schemas)
    limit = c.rollout.tool_result_tokens
    demos = [curate.render(t, words, c.model.style, schemas, limit) for t in kept]
    fitting = [i for i, d in enumerate(demos) if len(d.tokens) <= c.sft.row_tokens]
    if not fitting:
        raise InputError(
            f"none of {len(demos)} demonstrations fits sft.row_tokens={c.sft.row_tokens}; the "
            f"shortest has {min(len(d.tokens) for d in demos)} tokens: raise it"
        )
    dropped["too_long"] = len(demos) - len(fitting)
    kept, demos = [kept[i] for i in fitting], [demos[i] for i in fitting]
    directory = run.directory("demos")
    curate.save_transcripts(directory / "transcripts.jsonl", kept)
    curate.save_demos(directory / "demos.jsonl", demos)
    numbers = {**curate.statistics(kept, demos), "dropped": dropped}
    for transcript in kept[:PREVIEW]:
        print(chat.render_text(transcript.messages, None, c.model.style), flush=True)
    run.say(
        "demos",
        f"kept {numbers['demos']} with {numbers['calls_mean']:.2f} calls and "
        f"{numbers['tokens_mean']:.0f} tokens on average, dropped {dropped}",
    )
    run.finish("demos", numbers)


def _not_held_out(c, transcripts) -> list[curate.Transcript]:
    """Those whose question is in no file of held-out problems, up to spelling."""
    held = [p for name in changes.heldout_files(c) for p in problems.load(name, "drop")]
    free = problems.without_overlap([t.problem for t in transcripts], held)
    known = {problem.id for problem in free}
    return [t for t in transcripts if t.problem.id in known]


def _from_expert(run) -> tuple[list[curate.Transcript], dict]:
    c = run.config
    asked = pools.demos(c, c.demos.count)
    with tools.Executor(settings.tool(c)) as executor:
        run.say("demos", f"tool ready, isolation tier {executor.tier}")
        transcripts = collect.collect(
            asked, c.demos.style, executor, c.demos.slip_share, c.seed,
            think=c.model.style != "chatml",
        )
    verdicts = _verdicts(c, transcripts)
    kept, dropped = curate.keep(transcripts, verdicts, c.demos.min_calls, c.demos.keep_errors)
    if len(kept) < MOST_DROPPED * len(asked):
        raise InputError(
            f"the filters kept {len(kept)} of {len(asked)} demonstrations (dropped {dropped}); "
            "lower demos.min_calls, or look at the tool with `python -m aster_jax.tools doctor`"
        )
    return kept, dropped


def _verdicts(c, transcripts) -> list[str]:
    asked: list[types.Problem] = [t.problem for t in transcripts]
    how = verify.VerifyConfig(min_tier=c.tools.min_tier, allow_unsafe=c.tools.allow_unsafe)
    with verify.Verifier(how) as verifier:
        texts = [t.final_text for t in transcripts]
        return [v for _, v in verifier.score(list(zip(texts, [p.answer for p in asked])))]


def _tokenizer(run, kept, schemas):
    """The model's own tokenizer, or one learned from these demonstrations."""
    m = run.config.model
    if m.source != "scratch":
        return weights.describe(m.source).tokenizer
    texts = curate.vocabulary_texts(kept, m.style, schemas)
    directory = run.directory("demos") / "tokenizer"
    return tokenizer.train_sentencepiece(texts, m.vocab_size, chat.CONTROL, directory)
