"""What a traceback shows of a cell, of its libraries, of notes and of grouped exceptions."""

import sys

import pytest

from aster_jax.tools import Executor, ToolConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")


@pytest.fixture(scope="module")
def run():
    with Executor(ToolConfig(preload=(), max_calls=1 << 20)) as tools:
        yield lambda code: tools.run(tools.open(), code).text.splitlines()


def test_library_frames_do_not_crowd_out_the_cells_own(run):
    text = run("import json\ndef parse(text):\n    return json.loads(text)\nparse('{')")
    assert text[:6] == [
        "Traceback (most recent call last):",
        '  File "<cell 1>", line 4, in <module>', "    parse('{')",
        '  File "<cell 1>", line 3, in parse', "    return json.loads(text)",
        "  [... 2 library frames ...]",
    ]
    assert text[6].startswith('  File "/') and text[6].endswith(", in raw_decode")
    assert text[7].startswith("json.decoder.JSONDecodeError: ") or text[7].startswith("JSONDecodeError: ")
    assert len(text) == 8


def test_what_a_library_calls_back_is_shown_between_its_frames(run):
    code = (
        "import ast\nclass Visitor(ast.NodeVisitor):\n    def visit_Constant(self, node):\n"
        "        return node.value / 0\nVisitor().visit(ast.parse('1'))"
    )
    text = run(code)
    assert text[1:3] == ['  File "<cell 1>", line 5, in <module>', "    Visitor().visit(ast.parse('1'))"]
    assert text[3].startswith("  [... ") and text[3].endswith(" library frames ...]")
    assert text[4].startswith('  File "/')
    assert text[5:] == ['  File "<cell 1>", line 4, in visit_Constant', "    return node.value / 0",
                        "ZeroDivisionError: division by zero"]


def test_notes_and_the_members_of_a_group_are_shown(run):
    code = (
        "def fail():\n    raise KeyError('k')\nfound = []\nfor job in (fail, lambda: int('x')):\n"
        "    try:\n        job()\n    except Exception as error:\n        found.append(error)\n"
        "group = ExceptionGroup('two jobs', found)\ngroup.add_note('at night')\nraise group"
    )
    text = run(code)
    assert "ExceptionGroup: two jobs (2 sub-exceptions)" in text and "at night" in text
    assert text.index("at night") < text.index("  | ---- 1 of 2 ----") < text.index("  | KeyError: 'k'")
    assert "  | ValueError: invalid literal for int() with base 10: 'x'" in text
    assert '  |   File "<cell 1>", line 2, in fail' in text
