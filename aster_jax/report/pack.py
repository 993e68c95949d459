"""Episodes packed into a page: deflated JSON in base64, in chunks that are opened one by one.

A page grows with what its texts say anew and not with their length, and a browser unpacks
what somebody looks at. Texts and the numbers per token are packed apart, so that a search
reads no numbers. What does not fit into one page goes into further ones beside it; what
does not fit into those either is listed with its file and line and nothing else.
"""

import base64
import dataclasses
import json
import zlib

from aster_jax.rollout import record as records

CHUNK = 192 * 1024  # characters of JSON that are packed together
MOST_PAGES = 8
NUMBERS = (*records.PACKED, "chars")
KINDS = {**records.PACKED, "chars": records.CHARS}


@dataclasses.dataclass
class Page:
    """The data elements of one file: chunks of texts, the chunks of their numbers, and bytes."""

    texts: list[str] = dataclasses.field(default_factory=list)
    numbers: list[str] = dataclasses.field(default_factory=list)
    size: int = 0


class Packer:
    """Takes episodes one by one and fills pages with them.

    Args:
      page_bytes: of packed episodes in one page; a chunk is never split.
      most_pages: pages at most.

    `pages` is whole once `close` was called, and so are the rows' `page`, `chunk` and
    `place`: in which page an episode is (-1: in none), in which of its chunks, and at
    which place there.
    """

    def __init__(self, page_bytes: int, most_pages: int = MOST_PAGES):
        self._page_bytes, self._most = page_bytes, most_pages
        self._rows: list[dict] = []
        self._texts: list[str] = []
        self._numbers: list[str] = []
        self._length = 0
        self.pages = [Page()]
        self.left_out = 0

    def add(self, row: dict, record: dict) -> None:
        """Pack a record; `row` learns where it is."""
        texts = json.dumps({k: v for k, v in record.items() if k not in NUMBERS})
        numbers = json.dumps({k: record[k] for k in NUMBERS if k in record})
        if self._texts and self._length + len(texts) > CHUNK:
            self._flush()
        self._rows.append(row)
        self._texts.append(texts)
        self._numbers.append(numbers)
        self._length += len(texts)

    def close(self) -> list[Page]:
        """The pages, the first of them even if there was nothing to pack."""
        self._flush()
        return self.pages

    def _flush(self):
        if not self._rows:
            return
        texts, numbers = deflated(_list(self._texts)), deflated(_list(self._numbers))
        page = self._page_with_room(len(texts) + len(numbers))
        if page is None:
            self.left_out += len(self._rows)
        else:
            page.texts.append(texts)
            page.numbers.append(numbers)
            page.size += len(texts) + len(numbers)
        for place, row in enumerate(self._rows):
            row["page"] = -1 if page is None else len(self.pages) - 1
            row["chunk"] = -1 if page is None else len(page.texts) - 1
            row["place"] = place
        self._rows, self._texts, self._numbers, self._length = [], [], [], 0

    def _page_with_room(self, size: int) -> Page | None:
        """The last page, or a new one; None from the first chunk on that had room nowhere."""
        page = self.pages[-1]
        if not self.left_out and page.size and page.size + size > self._page_bytes:
            if len(self.pages) == self._most:
                return None
            self.pages.append(Page())
        return None if self.left_out else self.pages[-1]


def _list(items) -> str:
    return f"[{','.join(items)}]"


def deflated(text: str) -> str:
    """ASCII text, deflated (zlib) and in base64: what `inflated` and a browser read."""
    return base64.b64encode(zlib.compress(text.encode("ascii"), 7)).decode("ascii")


def inflated(packed: str) -> str:
    """What `deflated` was given."""
    return zlib.decompress(base64.b64decode(packed)).decode("ascii")


def elements(page: Page, index: dict) -> str:
    """The page's data as elements that no browser runs; base64 has no character of markup."""
    made = [_element('id="index"', deflated(json.dumps(index)))]
    made += [_element('data-kind="texts"', chunk) for chunk in page.texts]
    made += [_element('data-kind="numbers"', chunk) for chunk in page.numbers]
    return "\n".join(made)


def _element(name: str, data: str) -> str:
    return f'<script type="application/octet-stream" {name}>{data}</script>'
