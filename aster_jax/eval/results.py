"""Records of an arm -> its entry of results.json, and the differences between checkpoints."""

from collections.abc import Sequence

from aster_jax.eval import arms, passk

# All that a difference needs of a record, so that texts and ids need not stay in memory.
_COMPARED = ("problem_id", "sample", "reward", "verdict", "end")


def entry(arm: arms.Arm, records: Sequence[dict], is_complete: bool, seed: int) -> dict:
    """The line of results.json: what was asked, and what came of it (`passk.summarise`).

    `complete` is False while something is lost: what it would have been is then between
    avg_at_k and avg_upper.
    """
    c = arm.section
    return {
        "checkpoint": arm.checkpoint,
        "step": arm.step,
        "evaluation": arm.evaluation,
        "arm": arm.name,
        "heldout": arm.heldout,
        "tokens": c.response_tokens,
        "turn_tokens": c.turn_tokens,
        "context_tokens": c.context_tokens,
        "max_calls": arm.max_calls,
        "temperature": c.temperature,
        "top_p": c.top_p,
        "file": arm.file,
        "samples": c.samples,
        "complete": is_complete,
        **passk.summarise(records, seed),
    }


class Book:
    """The entries of all arms as they come in, beside those of earlier settings.

    `before` is what results.json held, if it was there.
    """

    def __init__(self, wanted: list[arms.Arm], before: list[dict], seed: int):
        self._wanted, self._seed = wanted, seed
        # Entries of older versions name no file; their episodes cannot be told apart.
        self._entries = {e["file"]: e for e in before if "file" in e}
        self._compared: dict[str, list[dict]] = {}
        self._is_complete: dict[str, bool] = {}

    def enter(self, arm: arms.Arm, records: Sequence[dict], is_complete: bool) -> dict:
        """Make an arm's entry; which that is."""
        self._entries[arm.file] = entry(arm, records, is_complete, self._seed)
        self._compared[arm.file] = [{key: r[key] for key in _COMPARED} for r in records]
        self._is_complete[arm.file] = is_complete
        return self._entries[arm.file]

    def results(self) -> list[dict]:
        """What results.json holds: the arms that are asked for, then those of earlier settings
        as they were."""
        files = [file for file in self.asked() if file in self._entries]
        return [self._entries[file] for file in dict.fromkeys([*files, *self._entries])]

    def asked(self) -> list[str]:
        """What asked.json holds: the files of the arms that the config asks for."""
        return [arm.file for arm in self._wanted]

    def differences(self) -> list[dict]:
        """What differences.json holds: each checkpoint against every later one, paired over
        problems, within an evaluation and an arm."""
        found = []
        for before, after in arms.pairs(self._wanted):
            records = self._compared[before.file], self._compared[after.file]
            names = {"evaluation": after.evaluation, "arm": after.name}
            names |= {"before": before.checkpoint, "after": after.checkpoint}
            found.append({**names, **passk.difference(*records, self._seed)})
        return found

    def covered(self, config) -> dict[str, dict]:
        """What DONE.json says of the arms, by their files."""
        return {
            arm.file: arms.covered(config, arm, self._is_complete[arm.file])
            for arm in self._wanted
        }
