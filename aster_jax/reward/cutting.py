"""Lists of tokens cut where a sign stands outside of all brackets."""

from aster_jax.reward.tokens import Refused, Token

OPENERS = {"(", "[", "{", "\\{", "lfloor", "lceil"}
CLOSERS = {")", "]", "}", "\\}", "rfloor", "rceil"}


def is_separator(token: Token) -> bool:
    """What stands between the items of an answer."""
    if token.kind == "sign":
        return token.text in (",", ";")
    if token.kind in ("letters", "word"):
        return token.text in ("and", "or")
    return token.kind == "command" and token.text in ("lor", "land")


def split(found: list[Token], is_cut, ordered: bool = False):
    """(parts, cuts): where `is_cut` holds outside of all brackets."""
    parts, cuts, depth = [[]], [], 0
    for token in found:
        structural = token.kind in ("sign", "command")
        if structural and (token.text in OPENERS or token.text.startswith("begin:")):
            depth += 1
        elif structural and (token.text in CLOSERS or token.text.startswith("end:")):
            depth -= 1
            if depth < 0:
                raise Refused("a bracket that was never opened")
        if depth == 0 and is_cut(token):
            parts.append([])
            cuts.append(token.text)
        else:
            parts[-1].append(token)
    if depth:
        raise Refused("a bracket that is never closed")
    return parts, cuts if ordered else set(cuts)


def enclosed(found: list[Token]):
    """The tokens inside, if the first and the last are brackets of each other, else None."""
    if len(found) < 2 or found[0].text not in OPENERS or found[-1].text not in CLOSERS:
        return None
    if found[0].kind != "sign" or found[-1].kind != "sign":
        return None
    depth = 0
    for i, token in enumerate(found):
        if token.kind == "sign":
            depth += (token.text in OPENERS) - (token.text in CLOSERS)
        if depth == 0 and i < len(found) - 1:
            return None
    return found[1:-1]


def stripped(found: list[Token]) -> list[Token]:
    """Without braces around the whole, and without a full stop at the end."""
    while (
        found
        and found[-1].kind == "sign"
        and found[-1].text == "."
        and (len(found) < 3 or found[-2].text != ".")
    ):
        found = found[:-1]
    while found and found[0].text == "{" and enclosed(found) is not None:
        parts, joins = split(found[1:-1], lambda t: t.text in (",", ";"))
        if joins or not found[1:-1] or any(t.text == "choose" for t in found):
            break
        found = found[1:-1]
    if len(found) == 1 and found[0].kind == "word" and len(found[0].text) == 1:
        return [found[0]._replace(kind="letters")]
    return found
