"""Packing: every text comes back, pages hold no more than they should, and know what is where."""

import json
import random
import re
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from aster_jax.report import pack
from tests.report import made_run

ANY_TEXT = st.text(alphabet=st.characters(codec=None), max_size=60)


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_TEXT, max_size=4))
def test_any_text_comes_back_and_packed_it_is_no_markup(texts):
    packed = pack.deflated(json.dumps(texts))
    assert json.loads(pack.inflated(packed)) == texts
    assert re.fullmatch(r"[A-Za-z0-9+/=]*", packed)


def packed(records, page_bytes, most_pages=pack.MOST_PAGES):
    packer, rows = pack.Packer(page_bytes, most_pages), [{} for _ in records]
    for row, record in zip(rows, records, strict=True):
        packer.add(row, record)
    return packer, packer.close(), rows


def found(pages, row):
    page = pages[row["page"]]
    texts = json.loads(pack.inflated(page.texts[row["chunk"]]))[row["place"]]
    return texts | json.loads(pack.inflated(page.numbers[row["chunk"]]))[row["place"]]


def test_a_record_is_found_whole_where_its_row_says():
    records = [made_run.with_tokens(made_run.episode(sample=i)) for i in range(300)]
    _, pages, rows = packed(records, 1 << 20)
    assert len(pages) == 1 and len(pages[0].texts) > 1
    assert [found(pages, row) for row in rows] == records
    assert "tokens" not in json.loads(pack.inflated(pages[0].texts[0]))[0]


def long_ones(count):
    """Episodes of half a chunk each that do not deflate well."""
    return [
        made_run.episode(question="".join(random.Random(i).choices(string.ascii_letters, k=100_000)))
        for i in range(count)
    ]


def test_pages_are_filled_in_order_up_to_their_size_and_the_rest_is_left_out():
    records = long_ones(12)
    packer, pages, rows = packed(records, 210_000, most_pages=3)
    assert len(pages) == 3 and all(page.texts for page in pages)
    assert all(page.size <= 210_000 for page in pages)
    numbers = [row["page"] for row in rows]
    kept = [n for n in numbers if n >= 0]
    assert kept == sorted(kept) and numbers == kept + [-1] * packer.left_out
    assert packer.left_out > 0
    assert all(found(pages, row) == record for row, record in zip(rows, records) if row["page"] >= 0)


def test_one_that_is_larger_than_a_page_has_a_page_of_its_own():
    _, pages, rows = packed(long_ones(2), 10)
    assert [row["page"] for row in rows] == [0, 1] and len(pages) == 2


def test_nothing_to_pack_is_one_page():
    _, pages, _ = packed([], 10)
    assert len(pages) == 1 and "id=\"index\"" in pack.elements(pages[0], {"count": 0})
