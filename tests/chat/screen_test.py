"""What reaches a terminal: nothing that it would act on but our own colours."""

import io
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.chat import screen
from aster_jax.data import visible


class Terminal(io.StringIO):
    """A terminal that keeps what it is sent."""

    encoding = "utf-8"

    def isatty(self):
        return True


NASTY = st.text(st.characters() | st.sampled_from("\x1b\x07\r\x9b\u202e\u2028[]mH2J\n\t\\\"é😀"), max_size=30)


@settings(derandomize=True, max_examples=80, deadline=None, database=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(screen.COLOURS)), NASTY), max_size=5))
def test_only_our_own_colours_control_the_terminal(parts):
    out = Terminal()
    shown = screen.Screen(out)
    for kind, text in parts:
        shown.begin(kind, text)
        shown.write(text)
        shown.line(text)
    rest = re.sub("\x1b\\[(?:[0-9]+(?:;[0-9]+)?)?m", "", out.getvalue())
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", rest)
    assert "".join(rest.split()) == "".join("".join(
        visible.escaped(text) * (3 if text else 1) for _, text in parts).split())  # fmt: skip


def test_no_colours_where_it_is_no_terminal():
    out = io.StringIO()
    shown = screen.Screen(out)
    shown.begin("code", "[code]")
    shown.write("print(1)\n\x1b[2J")
    shown.line("done")
    assert out.getvalue() == "[code]\nprint(1)\n\\x1b[2J\ndone\n"
    dumb = Terminal()
    screen.Screen(dumb, dumb=True).line("x")
    assert dumb.getvalue() == "x\n"


def test_an_old_terminal_gets_escapes():
    bytes_ = io.BytesIO()
    out = io.TextIOWrapper(bytes_, encoding="ascii")
    screen.Screen(out).line("é😀")
    assert bytes_.getvalue() == b"\\xe9\\U0001f600\n"


@settings(derandomize=True, max_examples=80, deadline=None, database=None)
@given(st.text(max_size=20), st.booleans())
def test_code_grows_as_its_json_comes(code, ascii_only):
    call = json.dumps({"name": "code_interpreter", "arguments": {"code": code}},
                      ensure_ascii=ascii_only)  # fmt: skip
    shown = [screen.code_so_far(call[:n]) for n in range(len(call) + 1)]
    assert all(later.startswith(earlier) for earlier, later in zip(shown, shown[1:], strict=False))
    assert shown[-1] == code.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
