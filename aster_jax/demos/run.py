"""The demos stage: a teacher's transcripts -> rules -> ids and masks.

Leaves `transcripts.jsonl` (messages, for people), `demos.jsonl` (ids and masks, for SFT),
`curation.json` and `curation.md` (what each rule kept, and what a teacher cost),
`dropped.jsonl` (every other transcript, and why) and, for a model from scratch,
`tokenizer/` with the vocabulary learned from them.
"""

import dataclasses
import json

from aster_jax import settings, together, weights, workdir
from aster_jax.data import chat, problems, tokenizer
from aster_jax.demos import curate, render, sources, transcript
from aster_jax.errors import GaveUp, InputError
from aster_jax.lifetime import changes
from aster_jax.reward import verify
from aster_jax.train import metrics

PREVIEW = 1  # demonstrations shown on the terminal
MOST_DROPPED = 0.5  # share of the expert's transcripts that may be dropped before it is an error


def run(run: workdir.Run) -> None:
    """Collect, filter and render the demonstrations; process 0 only."""
    together.once("demos", lambda: _run(run))


def _run(run):
    c = run.config
    run.begin("demos")
    run.say("demos", f"{c.demos.count} demonstrations from {sources.name(c)}")
    rules = settings.rules(c)
    found = sources.gather(run)
    judged = _judged(c, found.transcripts)
    kept = curate.by_content(judged, rules, _held_out(c), found.left_out())
    schemas = [chat.TOOL] if c.model.show_tool else None
    directory = run.directory("demos")
    _keep_report(directory, _report(found, kept), found, kept)  # also where nothing is left
    _check_still(c, found, len(kept.transcripts))
    _check(c, found, kept.transcripts, kept)
    words = _tokenizer(run, kept.transcripts, schemas)
    limit = c.rollout.tool_result_tokens
    kept, demos = curate.by_size(
        kept, rules, lambda t: render.render(t, words, c.model.style, schemas, limit)
    )
    report = _report(found, kept)
    _keep_report(directory, report, found, kept)
    if kept.error:
        raise InputError(kept.error)
    transcript.save(directory / "transcripts.jsonl", kept.transcripts)
    render.save_demos(directory / "demos.jsonl", demos)
    for made in kept.transcripts[:PREVIEW]:
        print(chat.render_text(made.messages, None, c.model.style), flush=True)
    if kept.dropped:
        print(curate.table([line for line in kept.lines if line.reasons]), end="", flush=True)
    numbers = {**render.statistics(kept.transcripts, demos), "dropped": report["dropped"]}
    run.say(
        "demos",
        f"kept {numbers['demos']} with {numbers['calls_mean']:.2f} calls and "
        f"{numbers['tokens_mean']:.0f} tokens on average, dropped {numbers['dropped']}",
    )
    if found.account:
        run.say("demos", _cost(report["teacher"]))
    _check_still(c, found, len(demos))
    if rules.exact_count and len(demos) < rules.count:
        raise InputError(
            f"the rules leave {len(demos)} demonstrations, and demos.exact_count asks for "
            f"demos.count={rules.count}; see {directory / 'curation.md'}, and loosen a rule or "
            "bring more"
        )
    run.finish("demos", numbers)


def _held_out(c):
    """Problems that nothing may be trained on, of every file that the config names."""
    return [p for name in changes.heldout_files(c) for p in problems.load(name, "drop")]


def _judged(c, transcripts):
    """With the verifier's verdict where a gold answer is known and nobody has judged yet."""
    asked = [i for i, t in enumerate(transcripts) if _is_open(t)]
    if not asked or not c.demos.right_only:
        return transcripts
    how = verify.VerifyConfig(min_tier=c.tools.min_tier, allow_unsafe=c.tools.allow_unsafe)
    with verify.Verifier(how) as verifier:
        said = [(transcripts[i].final_text, transcripts[i].problem) for i in asked]
        items = [(text, problem.answer, problem.scorer) for text, problem in said]
        verdicts = dict(zip(asked, (v for _, v in verifier.score(items)), strict=True))
    return [
        dataclasses.replace(t, verdict=verdicts[i]) if i in verdicts else t
        for i, t in enumerate(transcripts)
    ]


def _is_open(t) -> bool:
    return t.finished and bool(t.problem.answer) and not t.verdict


def _check_still(c, found, number):
    """Raise GaveUp where conversations stand still that demos.count cannot do without."""
    reasons = found.account.reasons if found.account else {}
    still = [reason for reason in ("trouble", "tool", "cap") if reason in reasons]
    if not still or number >= c.demos.count:
        return
    t, asked = c.demos.teacher, found.account.asked
    why = found.account.whys[still[0]] if still[0] in found.account.whys else still[0]
    if still[0] == "cap":
        why = (f"demos.teacher.cap_tokens={t.cap_tokens}, cap_money={t.cap_money:g}; raise the cap, "
               f"or have a smaller demos.count in another workdir, with this demos.teacher.journal "
               f"and demos.teacher.problems={asked // t.samples}")  # fmt: skip
    raise GaveUp(
        f"{sum(reasons[r] for r in still)} of {asked} conversations with the teacher at {t.url} stand "
        f"still, and {number} demonstrations are there of demos.count={c.demos.count}: {why}. What "
        "is paid is in the journal; the same command goes on with them. Where it is a conversation "
        "that its server or the tool fails at every time, give another workdir this "
        "demos.teacher.journal and a demos.count that can do without it"
    )


def _check(c, found, left, kept):
    """Raise an InputError where the rules leave nothing, or too little of the expert's."""
    dropped = curate.reasons(kept.lines)
    least = MOST_DROPPED * len(found.transcripts) if c.demos.source == "expert" else 1
    if len(left) < least:
        raise InputError(
            f"the rules of `demos` left {len(left)} of {len(found.transcripts)} transcripts "
            f"(dropped {dropped}); {_hint(found, kept)}"
        )


def _hint(found, kept) -> str:
    """What to do about the rule that dropped most."""
    worst = max(kept.lines, key=lambda line: line.before - line.after)
    if worst.before == worst.after:
        return "give a source that has some"
    if worst.key:
        keys = " or ".join(f"demos.{key}" for key in worst.key.split(", "))
        return f"most went by the rule {worst.rule!r}, which {keys} loosens"
    if worst.rule == "finished" and found.account:
        ends = ", ".join(f"{n} {reason}" for reason, n in sorted(found.account.reasons.items()))
        return f"most conversations had no answer ({ends}); look at how they ended above"
    if worst.rule == "finished":
        return "most are unfinished; look at the tool with `python -m aster_jax.tools doctor`"
    return f"most went by the rule {worst.rule!r}; look at demos.source"


def _report(found, kept) -> dict:
    made = {
        "source": found.name,
        "rules": [dataclasses.asdict(line) for line in kept.lines],
        "dropped": curate.reasons(kept.lines),
        "kept": len(kept.transcripts),
    }
    if found.account:
        account = found.account
        spent = account.prompt_tokens + account.completion_tokens
        made["teacher"] = {
            **dataclasses.asdict(account),
            "tokens_per_kept": spent / max(len(kept.transcripts), 1),
            "money_per_kept": account.money / max(len(kept.transcripts), 1),
        }
    return made


def _keep_report(directory, report, found, kept):
    metrics.replace(directory / "curation.json", json.dumps(report, indent=1) + "\n")
    text = f"# Demonstrations from {found.name}\n\n{curate.table(kept.lines)}"
    if "teacher" in report:
        text += f"\n{_cost(report['teacher'])}.\n"
    metrics.replace(directory / "curation.md", text)
    everything = [*found.dropped, *kept.dropped]
    metrics.replace(directory / "dropped.jsonl", transcript.lines(everything))


def _cost(teacher: dict) -> str:
    ends = ", ".join(f"{n} {reason}" for reason, n in sorted(teacher["reasons"].items()))
    return (
        f"the teacher was asked {teacher['asked']} times ({ends}): {teacher['prompt_tokens']} + "
        f"{teacher['completion_tokens']} tokens, {teacher['tokens_per_kept']:.0f} per kept "
        f"demonstration, cost {teacher['money']:.4f}"
    )


def _tokenizer(run, kept, schemas):
    """The model's own tokenizer, or one learned from these demonstrations."""
    m = run.config.model
    if m.source != "scratch":
        return weights.describe(m.source).tokenizer
    texts = render.vocabulary_texts(kept, m.style, schemas)
    directory = run.directory("demos") / "tokenizer"
    return tokenizer.train_sentencepiece(texts, m.vocab_size, chat.CONTROL, directory)
