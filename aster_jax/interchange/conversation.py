"""An episode's record -> messages as OpenAI's chat interface has them, with its tools.

What trainers of other projects read (`messages` and `tools` per line), and `atif` is made
of. Read from the record's text, so it needs no tokenizer; the ids stay in the record.
"""

from aster_jax.data import chat, turns


def to_messages(record: dict) -> list[dict]:
    """The messages of an episode (`rollout.record.to_record`), thoughts of all turns kept.

    Calls are numbered in order, and a result names the call it is of. What answers a call
    that could not be run is a tool's message without a number.
    """
    prompt = record["spans"][0]["text"]
    system = turns.system_of(prompt)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": record["question"]})
    opener, number, called = record["opener"], 0, None
    for span in record["spans"][1:]:
        if span["kind"] == "tool":
            message = {"role": "tool", "content": turns.inside_result(span["text"])}
            messages.append(message | ({"tool_call_id": called} if called else {}))
            called = None
            continue
        message, calls = said(opener + span["text"], turns.opens_thought(prompt) and not opener)
        opener, called = "", None
        if calls:
            made = []
            for name, arguments in calls:
                called, number = f"call_{number}", number + 1
                function = {"name": name, "arguments": arguments}
                made.append({"id": called, "type": "function", "function": function})
            message["tool_calls"] = made
        messages.append(message)
    return messages


def to_line(record: dict) -> dict:
    """What one line of an exported file holds: messages, tools, and how the episode went."""
    about = ("problem_id", "family", "gold", "sample", "reward", "verdict", "end")
    line = {"messages": to_messages(record), "tools": tools(record)}
    return line | {name: record[name] for name in about}


def tools(record: dict) -> list[dict]:
    """The tools that could be called: ours, where the prompt shows it or it was called."""
    shown = "\n<tools>\n" in record["spans"][0]["text"]
    return [chat.TOOL] if shown or record["calls"] else []


def said(text: str, is_thinking: bool) -> tuple[dict, list[tuple[str, str]]]:
    """A sampled turn as an assistant's message without calls, and its (name, arguments)."""
    parts = {"text": "", "thought": ""}
    calls = []
    for piece in turns.read_text(text.removesuffix(turns.END_TURN), is_thinking):
        call = turns.call_of(piece.text) if piece.kind == "called" else None
        if call:
            calls.append(call)
        elif piece.kind == "called":
            parts["text"] += turns.CALL + piece.text + turns.END_CALL
        elif piece.kind == "broken":
            parts["text"] += piece.text
        elif piece.kind in parts:
            parts[piece.kind] += piece.text
    message = {"role": "assistant", "content": parts["text"]}
    return message | ({"reasoning_content": parts["thought"]} if parts["thought"] else {}), calls
