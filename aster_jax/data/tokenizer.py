"""Text <-> ids behind one small interface, whatever the vocabulary came from.

Sits under `data/chat.py`, the only caller that puts control ids into a sequence. Three
sources: a `tokenizer.json` (through `tokenizers`), a SentencePiece `.model`, and the BPE
tables of a GGUF file. All of them encode *ordinary* text only: a control token's name
inside a problem, a tool's output or a model's code becomes plain pieces, so no text can
forge a turn. Control ids are taken by name from `control`.
"""

import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

import sentencepiece
import tokenizers

from aster_jax.data import files
from aster_jax.errors import InputError

END_OF_TURN = "<|im_end|>"
TEMPLATE_FILE = "chat_template.jinja"

# Words split off before BPE merges, by the name a GGUF file gives to them. SmolLM2 splits
# digits one by one and then works as GPT-2 does; Qwen normalises to NFC first.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# SentencePiece writes a space as U+2581 and so reads that character back as a space.
_SPACE_MARK = "\u2581"


class Tokenizer(Protocol):
    """What the rest of the project knows of a tokenizer.

    `vocab_size` is the number of embedding rows its ids need; `control` maps the names of
    control tokens to ids; `pad_id` and `eos_id` are ids. `decode(encode(x))` is x, up to
    the Unicode normalisation (NFC) and leading space that some vocabularies prescribe;
    ids outside the vocabulary decode to U+FFFD.
    """

    vocab_size: int
    pad_id: int
    eos_id: int
    control: Mapping[str, int]

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text; never a control id, no BOS or EOS added."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; control ids appear by name."""

    def save(self, directory) -> None:
        """Write the files that `load` reads back, into a directory made if needed."""


@dataclasses.dataclass(frozen=True)
class BpeTokenizer:
    """A `tokenizer.json`: `plain` is the same vocabulary with no added tokens to match."""

    vocab_size: int
    pad_id: int
    eos_id: int
    control: Mapping[str, int]
    source: str  # the text of tokenizer.json
    settings: str  # the text of tokenizer_config.json
    full: tokenizers.Tokenizer
    plain: tokenizers.Tokenizer

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`. Lone surrogates, which no UTF-8 has, become U+FFFD."""
        return self.plain.encode(_valid(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`; bytes that are no UTF-8 become U+FFFD."""
        runs, known = [], []
        for i in ids:
            if 0 <= i < self.vocab_size:
                known.append(int(i))
            else:
                runs += [self.full.decode(known, skip_special_tokens=False), "\ufffd"]
                known = []
        return "".join([*runs, self.full.decode(known, skip_special_tokens=False)])

    def save(self, directory) -> None:
        """Write tokenizer.json and tokenizer_config.json."""
        directory = _directory(directory)
        (directory / "tokenizer.json").write_text(self.source, encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(self.settings, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model; `byte_ids` are the ids of its 256 byte pieces, or empty."""

    vocab_size: int
    pad_id: int
    eos_id: int
    control: Mapping[str, int]
    proto: bytes
    processor: sentencepiece.SentencePieceProcessor
    byte_ids: tuple[int, ...]
    names: Mapping[int, str]  # of the control ids

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`. With byte pieces any text can be encoded exactly."""
        text = _valid(text)
        if not self.byte_ids or _SPACE_MARK not in text:
            return self.processor.encode(text)
        # A literal U+2581 must not come back as a space: spell it with its three bytes.
        mark = [self.byte_ids[b] for b in _SPACE_MARK.encode()]
        first, *rest = text.split(_SPACE_MARK)
        ids = self.processor.encode(first)
        for part in rest:
            ids += mark + self.processor.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        texts, run = [], []
        for i in ids:
            if i in self.names:
                texts += [self.processor.decode(run), self.names[i]]
                run = []
            elif 0 <= i < self.vocab_size:
                run.append(int(i))
            else:
                texts += [self.processor.decode(run), "\ufffd"]
                run = []
        return "".join([*texts, self.processor.decode(run)])

    def save(self, directory) -> None:
        """Write tokenizer.model."""
        (_directory(directory) / "tokenizer.model").write_bytes(self.proto)


def load(path) -> Tokenizer:
    """The tokenizer of a directory (tokenizer.json first, else tokenizer.model) or file.

    Raises ValueError when there is none, or when it would read control names in text.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        found = [path / n for n in ("tokenizer.json", "tokenizer.model") if (path / n).exists()]
        if not found:
            raise InputError(f"{path} holds neither tokenizer.json nor tokenizer.model")
        path = found[0]
    if not path.exists():
        raise InputError(f"tokenizer file {path} does not exist")
    if path.suffix == ".json":
        settings = _whole(f"the tokenizer_config.json of {path}", _settings, path)
        return _whole(str(path), _from_json, files.read_text(path), settings, str(path))
    return _whole(str(path), _from_proto, files.read_bytes(path), str(path))


def chat_template(tokenizer: Tokenizer) -> str | None:
    """The chat template (Jinja source) that a tokenizer's own settings hold."""
    if not isinstance(tokenizer, BpeTokenizer):
        return None
    settings = json.loads(tokenizer.settings)
    found = settings["chat_template"] if "chat_template" in settings else None
    if isinstance(found, list):  # several named templates
        named = [e["template"] for e in found if {"name": "default"}.items() <= e.items()]
        found = named[0] if named else None
    return found


def from_gguf(fields: Mapping, path) -> BpeTokenizer:
    """The BPE tokenizer of a GGUF header (pre-tokenisers smollm, qwen2 and gpt-2).

    `fields` maps header keys to values; `path` is for messages. Raises ValueError for a
    vocabulary of another kind, or one that is damaged.
    """
    return _whole(str(path), _from_fields, fields, path)


def _from_fields(fields: Mapping, path) -> BpeTokenizer:
    def read(key):
        if key not in fields:
            raise InputError(f"{path} has no {key}; it is not a GGUF file with a BPE vocabulary")
        return fields[key]

    if read("tokenizer.ggml.model") != "gpt2":
        raise InputError(
            f"{path}: tokenizer {read('tokenizer.ggml.model')!r} is not supported, only 'gpt2' "
            "(byte-level BPE); convert the model to a Hugging Face directory"
        )
    names, kinds = read("tokenizer.ggml.tokens"), read("tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in read("tokenizer.ggml.merges")]
    whole = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=merges)
    )
    whole.normalizer, whole.pre_tokenizer = _splitter(read("tokenizer.ggml.pre"), path)
    whole.decoder = tokenizers.decoders.ByteLevel()
    whole.add_special_tokens([
        tokenizers.AddedToken(name, special=kind == 3)
        for name, kind in zip(names, kinds, strict=True)
        if kind in (3, 4)  # control, user defined
    ])  # fmt: skip

    def name_of(key):
        i = read(key)
        if not isinstance(i, int) or not 0 <= i < len(names):
            raise InputError(f"{path}: {key}={i!r:.40} is none of the {len(names)} tokens")
        return names[i]

    eos, pad = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.padding_token_id"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": name_of(eos),
        "pad_token": name_of(pad if pad in fields else eos),
    }
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = read("tokenizer.chat_template")
    return _from_json(whole.to_str(), json.dumps(settings, ensure_ascii=False), str(path))


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, control: Iterable[str], directory
) -> SentencePieceTokenizer:
    """Learn a byte-pair SentencePiece vocabulary, save it in `directory` and return it.

    Digits stay single pieces, every other text may be merged over spaces and newlines, so
    fixed markup costs one id; bytes cover whatever was not in `texts`. The same input
    gives the same file. `control` names become control ids and are cut out of the texts
    before learning. Raises ValueError when `vocab_size` is too small for the characters.
    """
    control = list(control)
    if END_OF_TURN not in control:
        raise InputError(f"control={control} lacks {END_OF_TURN}, which ends every turn")
    cut = re.compile("|".join(re.escape(c) for c in control))
    # The trainer drops white space at the end of a text, and with it every piece that ends
    # in a newline; a digit, which never merges with anything, keeps it.
    runs = [run + "0" for text in texts for run in cut.split(text) if run]
    floor = 256 + 2 + len(control) + len(set("".join(runs)))
    if vocab_size < floor:
        raise InputError(
            f"vocab_size={vocab_size} is too small: bytes, control tokens and the characters "
            f"of the texts alone need {floor}"
        )
    learned = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(runs), model_writer=learned, model_type="bpe",
        vocab_size=vocab_size, hard_vocab_limit=False, control_symbols=control,
        pad_id=0, pad_piece="<pad>", unk_id=1, bos_id=-1, eos_id=-1,
        byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
        split_by_whitespace=False, split_by_unicode_script=False, split_by_number=False,
        allow_whitespace_only_pieces=True, max_sentencepiece_length=256,
        max_sentence_length=1 << 20, num_threads=1, shuffle_input_sentence=False,
        minloglevel=2,
    )  # fmt: skip
    made = _from_proto(learned.getvalue(), "the vocabulary just learned")
    made.save(directory)
    return made


def _whole(origin: str, make, *given):
    """`make(*given)`, and whatever it raises at a damaged file as one error that names it.

    The libraries under it promise nothing: they raise bare exceptions, among others.
    """
    try:
        return make(*given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{origin} is damaged or of a kind that is not known ({error!r:.300})"
                         ) from error  # fmt: skip


def _settings(path) -> str:
    """The tokenizer_config.json beside a tokenizer.json, with a chat template in its own file.

    Newer checkpoints keep the template apart; put together, the two travel together.
    """
    config, template = path.with_name("tokenizer_config.json"), path.with_name(TEMPLATE_FILE)
    settings = files.read_text(config) if config.exists() else "{}"
    chosen = files.parse_object(settings, config)
    if not template.exists():
        return settings
    return json.dumps({**chosen, "chat_template": files.read_text(template)}, indent=2,
                      ensure_ascii=False)  # fmt: skip


def _check_template(chosen: dict, origin):
    """A chat template is a text, or several of them by name."""
    found = chosen["chat_template"] if "chat_template" in chosen else None
    for text in [e["template"] for e in found] if isinstance(found, list) else [found]:
        if text is not None and not isinstance(text, str):
            raise InputError(f"{origin}: chat_template is {text!r:.60}, not a text")


def _from_json(source: str, settings: str, origin: str) -> BpeTokenizer:
    parsed, chosen = files.parse_object(source, origin), json.loads(settings)
    _check_template(chosen, origin)
    full = tokenizers.Tokenizer.from_str(source)
    full.no_truncation()
    full.no_padding()
    control = {token["content"]: token["id"] for token in parsed["added_tokens"]}
    # With no added tokens there is nothing that the library would match inside a text.
    parsed.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    plain = tokenizers.Tokenizer.from_str(json.dumps(parsed))
    ids = set(control.values())
    for name in control:
        if not ids.isdisjoint(plain.encode(name, add_special_tokens=False).ids):
            raise InputError(f"{origin}: the text {name!r} cannot be told from its control token")
    eos_id = _named_id(origin, chosen, "eos_token", control, (END_OF_TURN, "<|endoftext|>", "</s>"))
    if eos_id is None:
        raise InputError(f"{origin}: no end-of-sequence token known; set eos_token in its config")
    pad_id = _named_id(origin, chosen, "pad_token", control, ("<|endoftext|>", "<pad>"))
    return BpeTokenizer(
        vocab_size=max(full.get_vocab(with_added_tokens=True).values()) + 1,
        pad_id=eos_id if pad_id is None else pad_id,
        eos_id=eos_id, control=control, source=source, settings=settings, full=full, plain=plain,
    )  # fmt: skip


def _named_id(origin, chosen: dict, key: str, control: dict, otherwise: tuple) -> int | None:
    """The id of the token a config names, else of the first customary one that exists."""
    if key in chosen and chosen[key] is not None:
        name = chosen[key]["content"] if isinstance(chosen[key], dict) else chosen[key]
        if name not in control:
            raise InputError(f"{origin}: {key}={name!r} is not among its added tokens")
        return control[name]
    return next((control[n] for n in otherwise if n in control), None)


def _from_proto(proto: bytes, origin: str) -> SentencePieceTokenizer:
    try:
        sp = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise InputError(f"{origin} is not a SentencePiece model: {error}") from error
    size = sp.get_piece_size()
    control = {sp.id_to_piece(i): i for i in range(size) if sp.is_control(i)}
    as_byte = {sp.id_to_piece(i): i for i in range(size) if sp.is_byte(i)}
    eos_id = control[END_OF_TURN] if END_OF_TURN in control else sp.eos_id()
    if eos_id < 0:
        raise InputError(f"{origin} has neither {END_OF_TURN} nor an end-of-sequence piece")
    return SentencePieceTokenizer(
        vocab_size=size,
        pad_id=sp.pad_id() if sp.pad_id() >= 0 else eos_id,
        eos_id=eos_id,
        control=control,
        proto=proto,
        processor=sp,
        byte_ids=tuple(as_byte[f"<0x{b:02X}>"] for b in range(256)) if as_byte else (),
        names={i: name for name, i in control.items()},
    )


def _splitter(pre: str, path) -> tuple:
    """Normaliser and pre-tokeniser for the name a GGUF file states."""
    split = tokenizers.pre_tokenizers
    if pre == "smollm":
        words = [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
        return None, split.Sequence(words)
    if pre == "qwen2":
        isolate = split.Split(tokenizers.Regex(_QWEN2_WORDS), "isolated")
        words = [isolate, split.ByteLevel(add_prefix_space=False, use_regex=False)]
        return tokenizers.normalizers.NFC(), split.Sequence(words)
    if pre == "gpt-2":
        return None, split.ByteLevel(add_prefix_space=False)
    raise InputError(
        f"{path}: pre-tokeniser {pre!r} is not supported (smollm, qwen2, gpt-2); convert the "
        "model to a Hugging Face directory with a tokenizer.json"
    )


def _valid(text: str) -> str:
    """The text with lone surrogates replaced: they have no UTF-8 form at all."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _directory(path) -> pathlib.Path:
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    return path
