"""Answers as OpenAI's clients read them: whole ones, and the chunks of a stream."""

import dataclasses
import json
import secrets

from aster_jax.serve.choice import Choice, Delta


@dataclasses.dataclass(frozen=True)
class Reply:
    """What all objects of one answer share; `created` is in seconds since 1970."""

    id: str
    created: int
    model: str
    is_chat: bool

    def whole(self, choices: list[dict], usage: dict) -> dict:
        """The answer in one piece."""
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._object(kind, choices) | {"usage": usage}

    def chunk(self, choices: list[dict], usage: dict | None = None) -> dict:
        """One chunk of a stream."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return self._object(kind, choices) | ({"usage": usage} if usage else {})

    def _object(self, kind, choices):
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model,
                "choices": choices}  # fmt: skip


def reply(created: int, model: str, is_chat: bool) -> Reply:
    """A new answer with an id of its own."""
    prefix = "chatcmpl-" if is_chat else "cmpl-"
    return Reply(prefix + secrets.token_hex(12), created, model, is_chat)


def usage(prompt_tokens: int, completion_tokens: int) -> dict:
    """Tokens of a request; a prompt counts once, whatever `n`."""
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }  # fmt: skip


def event(body: dict | str) -> bytes:
    """A server-sent event."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return f"data: {text}\n\n".encode("utf-8", "replace")


def calls(delta: Delta, before: int, is_stream: bool) -> list[dict]:
    """Calls as OpenAI writes them; `before` is how many the answer had."""
    return [
        ({"index": before + i} if is_stream else {})
        | {"id": f"call_{secrets.token_hex(12)}", "type": "function",
           "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(delta.calls)
    ]  # fmt: skip


def chat_choice(index: int, choice: Choice, delta: Delta, tokenizer, logprobs: bool) -> dict:
    """A whole answer of a chat."""
    made = calls(delta, 0, False)
    message = {"role": "assistant", "content": delta.text or (None if made else "")}
    message |= {"reasoning_content": delta.thought} if delta.thought else {}
    message |= {"tool_calls": made} if made else {}
    return {"index": index, "message": message, "finish_reason": choice.finish,
            "logprobs": chat_logprobs(delta, tokenizer) if logprobs else None}  # fmt: skip


def chat_delta(index: int, delta: Delta, before: int, tokenizer, logprobs: bool) -> dict:
    """What is new in a streamed answer of a chat."""
    made = calls(delta, before, True)
    new = {"content": delta.text} if delta.text else {}
    new |= {"reasoning_content": delta.thought} if delta.thought else {}
    new |= {"tool_calls": made} if made else {}
    return {"index": index, "delta": new, "finish_reason": None,
            "logprobs": chat_logprobs(delta, tokenizer) if logprobs else None}  # fmt: skip


def chat_mark(index: int, delta: dict, finish: str | None) -> dict:
    """The first chunk of a streamed answer, which says whose it is, or the last one."""
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}


def chat_logprobs(delta: Delta, tokenizer) -> dict:
    """Log-probs of the tokens that were sampled, under the distribution they were drawn from."""
    return {
        "content": [
            {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace")),
             "top_logprobs": []}
            for text, logprob in _texts(delta, tokenizer)
        ]
    }  # fmt: skip


def text_choice(
    index: int, delta: Delta, finish: str | None, tokenizer, logprobs: bool, ids: bool, at: int
) -> dict:
    """An answer of a completion, or what is new in it; `at` is where its text begins."""
    made = {"index": index, "text": delta.text, "finish_reason": finish, "logprobs": None}
    if logprobs:
        texts, offsets = _texts(delta, tokenizer), []
        for text, _ in texts:
            offsets.append(at)
            at += len(text)
        made["logprobs"] = {
            "tokens": [text for text, _ in texts], "token_logprobs": [value for _, value in texts],
            "top_logprobs": None, "text_offset": offsets,
        }  # fmt: skip
    return made | ({"token_ids": [i for i, _ in delta.tokens]} if ids else {})


def _texts(delta, tokenizer) -> list[tuple[str, float]]:
    return [(tokenizer.decode([i]), logprob) for i, logprob in delta.tokens]
