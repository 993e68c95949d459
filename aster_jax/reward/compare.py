"""Whether two readings are the same answer: kind by kind, the gold answer's kind leading.

Runs in the comparison's process. Costs are bounded by `value.py`; what still takes too long
is ended from outside.
"""

from aster_jax.reward import limits, prose, read, readings, sets, tree, value

EQUIVALENT, WRONG = "equivalent", "wrong"
COSTLY_ANSWER, COSTLY_GOLD = "costly_answer", "costly_gold"


def compare(gold: str, answer: str, decimals: int) -> str:
    """The verdict for two texts without box or delimiters.

    `decimals`: significant digits that a rounded decimal has to show (`value.rounds_to`).
    Returns EQUIVALENT, WRONG, COSTLY_ANSWER, or COSTLY_GOLD where the gold answer alone is
    already too costly.
    """
    try:
        golds, answers = read.read(gold, is_gold=True), read.read(answer)
        same = any(equal(g, a, decimals) for g in golds for a in answers)
        if not same and any(map(needs_calculus, (*golds, *answers))):
            if not any(map(needs_calculus, golds)):
                limits.hurry(limits.CALCULUS_S)  # unasked: a policy could write many of them
            same = prose.same_calculus(gold, answer)
        return EQUIVALENT if same else WRONG
    except (value.Costly, RecursionError, MemoryError, OverflowError):
        return COSTLY_GOLD if is_costly(gold, decimals) else COSTLY_ANSWER


def is_costly(text: str, decimals: int) -> bool:
    """Whether a text compared with itself is too costly."""
    try:
        reading = read.read(text)[0]
        equal(reading, reading, decimals)
    except (value.Costly, RecursionError, MemoryError, OverflowError):
        return True
    return False


def needs_calculus(reading) -> bool:
    """Whether only math-verify reads it."""
    return isinstance(reading, readings.Opaque) and reading.calculus


def equal(gold, answer, decimals: int) -> bool:
    """Whether an answer's reading is what the gold answer's is."""
    gold, answer = spread(gold), spread(answer)
    if isinstance(gold, readings.Opaque) or isinstance(answer, readings.Opaque):
        return gold == answer
    if isinstance(gold, readings.Assigned) or isinstance(answer, readings.Assigned):
        return _assigned(gold, answer, decimals)
    if isinstance(gold, readings.Same) or isinstance(answer, readings.Same):
        many, one = (gold, answer) if isinstance(gold, readings.Same) else (answer, gold)
        if isinstance(one, readings.Same):
            one = one.items[-1]
        return all(equal(one, item, decimals) for item in many.items)
    if _is_set(gold) or _is_set(answer):
        return _sets(gold, answer, decimals)
    if isinstance(gold, readings.List) or isinstance(answer, readings.List):
        return _lists(gold, answer, decimals)
    if isinstance(gold, readings.Bracket) or isinstance(answer, readings.Bracket):
        return _brackets(gold, answer, decimals)
    if isinstance(gold, readings.Text) or isinstance(answer, readings.Text):
        return _texts(gold, answer)
    if isinstance(gold, readings.Value) and isinstance(answer, readings.Value):
        return _values(gold, answer, decimals)
    if isinstance(gold, readings.Ratio) and isinstance(answer, readings.Ratio):
        return _in_order(gold.parts, answer.parts, decimals)
    return gold == answer


def spread(reading):
    """2 \\pm \\sqrt 7 is a list of two, also inside lists and sets."""
    if isinstance(reading, readings.Value) and tree.has_sign_choice(reading.node):
        nodes = [tree.choose_sign(reading.node, sign) for sign in (1, -1)]
        return readings.List(tuple(readings.Value(node, reading.unit) for node in nodes))
    if isinstance(reading, readings.Assigned):
        item = spread(reading.item)
        if isinstance(item, readings.List) and item is not reading.item:
            return readings.List(tuple(readings.Assigned(reading.name, i) for i in item.items))
    if isinstance(reading, readings.List) or (
        isinstance(reading, readings.Bracket) and reading.opened == "{"
    ):
        items = []
        for item in map(spread, reading.items):
            items += item.items if isinstance(item, readings.List) else [item]
        return reading._replace(items=tuple(items))
    return reading


def _assigned(gold, answer, decimals) -> bool:
    both = isinstance(gold, readings.Assigned) and isinstance(answer, readings.Assigned)
    if both and gold.name == answer.name:
        return equal(gold.item, answer.item, decimals)
    if both or isinstance(gold, readings.Relation) or isinstance(answer, readings.Relation):
        sides = [_as_relation(r) for r in (gold, answer)]
        return None not in sides and same_relation(*sides)
    gold, answer = (r.item if isinstance(r, readings.Assigned) else r for r in (gold, answer))
    return equal(gold, answer, decimals)


def _as_relation(reading) -> readings.Relation | None:
    """y = 2x+3 as an equation, or None where its name is not one of mathematics."""
    if isinstance(reading, readings.Relation):
        return reading
    if isinstance(reading, readings.Assigned) and isinstance(reading.item, readings.Value):
        if len(reading.name) == 1 and not reading.item.unit:
            return readings.Relation((("sym", reading.name), reading.item.node), ("=",))
    return None


def same_relation(one: readings.Relation, other: readings.Relation) -> bool:
    """Whether two equations or inequalities say the same: as they stand, turned round, or
    as multiples of each other."""
    if one.signs and one.signs[0] in (">", ">="):
        one = _turned(one)
    for candidate in (other, _turned(other)):
        if one.signs == candidate.signs and len(one.sides) == len(candidate.sides):
            try:
                if all(value.equal(a, b) for a, b in zip(one.sides, candidate.sides)):
                    return True
            except value.Undefined:
                pass
            if len(one.signs) == 1:
                factor = value.multiple(_difference(one), _difference(candidate))
                if factor > 0 or factor < 0 and one.signs[0] in ("=", "!="):
                    return True
    return False


def _turned(relation: readings.Relation) -> readings.Relation:
    opposite = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    signs = tuple(opposite[s] if s in opposite else s for s in reversed(relation.signs))
    return readings.Relation(tuple(reversed(relation.sides)), signs)


def _difference(relation: readings.Relation) -> tuple:
    left, right = relation.sides
    return ("sum", (left, tree.negative(right)))


def _is_set(reading) -> bool:
    return isinstance(reading, readings.SetOf | readings.Relation)


def _sets(gold, answer, decimals) -> bool:
    single = readings.Value | readings.Text | readings.Ratio | readings.Based
    if isinstance(gold, single) or isinstance(answer, single):
        return False
    one, other = sets.real_set(gold), sets.real_set(answer)
    if one is not None and other is not None:
        return sets.same(one, other)
    if isinstance(gold, readings.Relation) and isinstance(answer, readings.Relation):
        return same_relation(gold, answer)
    if isinstance(gold, readings.SetOf) and isinstance(answer, readings.SetOf):
        if gold.sign != answer.sign:
            return False
        if gold.sign == "setminus":
            return _in_order(gold.parts, answer.parts, decimals)
        return _in_any_order(gold.parts, answer.parts, decimals)
    return False


def _lists(gold, answer, decimals) -> bool:
    if isinstance(gold, readings.List) and isinstance(answer, readings.List):
        names = [[i.name for i in side.items if isinstance(i, readings.Assigned)]
                 for side in (gold, answer)]  # fmt: skip
        named = [len(set(n)) == len(n) > 1 for n in names]
        if named[0] != named[1]:
            return _in_order(gold.items, answer.items, decimals)
        return _in_any_order(gold.items, answer.items, decimals)
    if isinstance(gold, readings.Bracket):
        if gold.opened == "{":
            return _in_any_order(_unique(gold.items), _unique(answer.items), decimals)
        return (
            gold.opened == "("
            and gold.closed == ")"
            and (_in_order(gold.items, answer.items, decimals))
        )
    if isinstance(answer, readings.Bracket) and isinstance(gold, readings.List):
        if answer.opened == "(" and answer.closed == ")":
            return _in_order(gold.items, answer.items, decimals)
        if answer.opened + answer.closed in ("{}", "[]"):
            return _in_any_order(gold.items, answer.items, decimals)
    return False


def _brackets(gold, answer, decimals) -> bool:
    if isinstance(gold, readings.Bracket) and isinstance(answer, readings.Bracket):
        if (gold.opened, gold.closed) != (answer.opened, answer.closed):
            return False
        if gold.opened == "{":
            return _in_any_order(_unique(gold.items), _unique(answer.items), decimals)
        return _in_order(gold.items, answer.items, decimals)
    many, one = (gold, answer) if isinstance(gold, readings.Bracket) else (answer, gold)
    if len(many.items) == 1 and many.opened + many.closed in ("{}", "[]"):
        return isinstance(one, readings.Value) and equal(many.items[0], one, decimals)
    if isinstance(one, readings.Value) and one.node[0] == "matrix":
        return _as_vector(many, one, decimals)
    return False


def _as_vector(many: readings.Bracket, one: readings.Value, decimals) -> bool:
    """A column written as a point."""
    rows = one.node[1]
    if any(len(row) != 1 for row in rows) or len(rows) != len(many.items):
        return False
    if many.opened + many.closed not in ("()", "[]"):
        return False
    return _in_order(tuple(readings.Value(row[0]) for row in rows), many.items, decimals)


def _in_order(one: tuple, other: tuple, decimals) -> bool:
    return len(one) == len(other) and all(
        equal(_bare(a), _bare(b), decimals) for a, b in zip(one, other)
    )


def _bare(item):
    return item.item if isinstance(item, readings.Assigned) else item


def _in_any_order(golds: tuple, answers: tuple, decimals) -> bool:
    """Whether each of the one is one of the other, each used once."""
    if len(golds) != len(answers):
        return False
    if len(golds) > MOST_ITEMS:
        raise value.Costly("a list of too many items")
    rest = list(answers)
    for item in golds:
        found = next((i for i, other in enumerate(rest) if equal(item, other, decimals)), None)
        if found is None:
            return False
        del rest[found]
    return True


MOST_ITEMS = 200


def _unique(items: tuple) -> tuple:
    """Without repetitions in the same spelling."""
    return tuple(dict.fromkeys(items))


def _texts(gold, answer) -> bool:
    if isinstance(gold, readings.Text) and isinstance(answer, readings.Text):
        return gold.words == answer.words
    text, other = (gold, answer) if isinstance(gold, readings.Text) else (answer, gold)
    if text.node is None or not isinstance(other, readings.Value) or other.unit:
        return False
    try:
        return value.equal(text.node, other.node)
    except value.Undefined:
        return False


def _values(gold: readings.Value, answer: readings.Value, decimals) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if same_value(gold.node, answer.node, decimals):
        # "0.1%" is not 0.1: only what cannot be a share stands for a percentage.
        risky = answer.unit == "%" and not gold.unit
        return not risky or _above_one(gold.node)
    if "%" in (gold.unit, answer.unit) and gold.unit != answer.unit:
        share = [("div", r.node, tree.integer(100)) if r.unit == "%" else r.node
                 for r in (gold, answer)]  # fmt: skip
        return same_value(*share, decimals)
    return False


def _above_one(node: tuple) -> bool:
    at = sets.endpoint(node)
    return at is not None and abs(at) > 1


def same_value(gold: tuple, answer: tuple, decimals: int) -> bool:
    """Whether two expressions (or matrices of them) are equal, or one is the other rounded."""
    matrices = [combined(node) for node in (gold, answer)]
    if any(m is not None for m in matrices):
        if None in matrices or [len(m) for m in matrices] != [len(m) for m in matrices[::-1]]:
            return False
        pairs = [(a, b) for one, two in zip(*matrices) for a, b in zip(one, two, strict=False)]
        same_width = {len(row) for row in matrices[0]} == {len(row) for row in matrices[1]}
        return same_width and all(same_value(a, b, decimals) for a, b in pairs)
    endpoints = [sets.endpoint(node) for node in (gold, answer)]
    if float("inf") in map(abs, (e for e in endpoints if e is not None)):
        return endpoints[0] == endpoints[1]
    try:
        if value.equal(gold, answer):
            return True
        if tree.symbols(gold) or tree.symbols(answer):
            return False
        return value.rounds_to(answer, gold, decimals) or value.rounds_to(gold, answer, decimals)
    except value.Undefined:
        return False


def combined(node: tuple):
    """The rows of a matrix, of a sum of matrices or of a multiple of one; None for a number."""
    if node[0] == "matrix":
        return node[1]
    if node[0] == "prod" and len(node[1]) == 2:
        first, second = (combined(part) for part in node[1])
        if second is not None and first is None:
            return tuple(tuple(("prod", (node[1][0], c)) for c in row) for row in second)
    return None
