"""Text that somebody else wrote, before it is shown: in a page, in a file, on a terminal."""

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def escaped(text: str) -> str:
    """Text with what is invisible, reorders it, moves a terminal or cannot be encoded as
    visible escapes such as `\\x1b`. Newlines and tabs stay."""
    shown = []
    for char in text:
        if char not in "\n\t" and unicodedata.category(char) in _HIDDEN:
            shown.append(char.encode("unicode_escape", "surrogatepass").decode("ascii"))
        else:
            shown.append(char)
    return "".join(shown)
