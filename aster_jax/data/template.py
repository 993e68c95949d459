"""The markup of `chat` as a chat template, for serving a trained model elsewhere.

Beside `data/chat.py`, which renders for training and offers this under its own name. A
checkpoint's original template drops the thoughts of earlier turns; a model trained here has
always seen them, so an export carries this one.
"""

# What stands around the schemas of tools.
BEFORE_TOOLS = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
AFTER_TOOLS = (
    "\n</tools>\n\nFor each function call, return a json object with function name and "
    "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
_NAME = "{#- aster_jax chat template, thoughts of all turns kept: %s -#}\n"
# One turn of each kind as `chat._pieces` writes it. What depends on the style is set before.
_BODY = r"""
{%- macro text(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content or [] %}
            {%- if part.text is not string %}
                {{- raise_exception('only parts of type text can be read') }}
            {%- endif %}
            {{- part.text }}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- text(messages[0].content) + '\n\n' }}
    {%- endif %}
    {{- BEFORE_TOOLS }}
    {%- for tool in tools %}
        {{- '\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- AFTER_TOOLS + '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + text(messages[0].content) + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = text(message.content) %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content or message.reasoning or '' %}
        {%- elif message.reasoning is string %}
            {%- set thought = message.reasoning %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\n') %}
            {%- set thought = thought.split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if always_thinks or thought %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if content or not loop.first %}
                {{- '\n' }}
            {%- endif %}
            {%- set call = tool_call.function or tool_call %}
            {{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- GENERATION }}
{%- endif %}
"""


def source(style: str, generation: str) -> str:
    """Jinja source: a style by name, and the opened turn."""
    always = "false" if style == "chatml" else "true"
    body = _BODY.replace("BEFORE_TOOLS", _quoted(BEFORE_TOOLS))
    body = body.replace("AFTER_TOOLS", _quoted(AFTER_TOOLS))
    body = body.replace("GENERATION", _quoted(generation)).strip("\n")
    return f"{_NAME % style}{{%- set always_thinks = {always} %}}\n{body}\n"


def detect(template: str, styles) -> str:
    """The style that a template was made for: `source`'s, else by how it thinks."""
    ours = next((style for style in styles if template.startswith(_NAME % style)), None)
    if ours is not None or "<think>" not in template:
        return ours or "chatml"
    return "qwen3_thinking_2507" if r"assistant\n<think>\n'" in template else "qwen3"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
