"""The chat template for serving: its name, its quoting, and the text that it writes.

What a served model reads, in ids, is compared in tests/weights/export_test.py.
"""

import json

import pytest

from aster_jax.data import chat, template


@pytest.mark.parametrize("style", chat.STYLES)
def test_a_template_says_which_style_it_is(style):
    assert chat.detect_style(chat.template(style)) == style


def test_other_templates_are_told_by_how_they_think():
    for text in ("{{ messages }}", "", None):
        assert chat.detect_style(text) == "chatml"
    assert chat.detect_style("{{ '<think>' }}") == "qwen3"
    assert chat.detect_style(r"{{ '<|im_start|>assistant\n<think>\n' }}") == "qwen3_thinking_2507"


@pytest.mark.parametrize("style", chat.STYLES)
def test_it_writes_the_text_of_render(style):
    jinja2 = pytest.importorskip("jinja2.sandbox", reason="needs jinja2 (extra: peers)")
    environment = jinja2.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    written = environment.from_string(chat.template(style))
    call = {"name": "code_interpreter", "arguments": '{"code": "5"}'}
    talk = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "2+2?"},
        chat.call_message("Let me.", "print('é', 2 + 2)\n", reasoning="It's \\n easy."),
        {"role": "tool", "content": "é 4\n"},
        {"role": "assistant", "content": "4", "reasoning_content": "so"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("tha", "", "nks")]},
        {"role": "assistant", "reasoning": "Again.", "tool_calls": [{"function": call}]},
        {"role": "tool", "content": [{"type": "text", "text": "5"}]},
        {"role": "assistant", "content": "5", "reasoning": "x", "reasoning_content": ""},
        {"role": "user"},
    ]
    for tools in (None, [chat.TOOL]):
        for stop in range(1, len(talk) + 1):
            text = written.render(messages=talk[:stop], tools=tools)
            assert text == chat.render_text(talk[:stop], tools, style)


def test_any_text_can_open_a_turn():
    jinja2 = pytest.importorskip("jinja2", reason="needs jinja2 (extra: peers)")
    odd = "it's \\n {{ x }} {% y %}\n\"end\""
    source = template.source("chatml", odd)
    talk = [{"role": "user", "content": "hi"}]
    text = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source).render(
        messages=talk, tools=["t"], add_generation_prompt=True
    )  # fmt: skip
    assert template.AFTER_TOOLS in text and text.endswith(odd)
