"""Which page of the cache belongs to whom: free lists, counts, and every slot's pages.

Plain host bookkeeping, no arrays, so it is tested without a device. A page holds a fixed
number of tokens of one row; the whole pages of a prompt are held by its group together
and never written again, every other page has one holder, which alone writes to it. Slots
and pages are split evenly into shards (one per device of the data axes); a slot only
holds pages of its own shard, and pages are numbered within their shard.
"""


class Pages:
    """The pool and the slots' holdings.

    Args:
      slots: number of slots, over all shards.
      pool_pages: number of pages, over all shards.
      page_tokens: tokens per page.
      shards: parts that share nothing.
    """

    def __init__(self, slots: int, pool_pages: int, page_tokens: int, shards: int = 1):
        self.per_shard = pool_pages // shards
        self._slots_per_shard = slots // shards
        self._page_tokens = page_tokens
        self._free = [list(range(self.per_shard))[::-1] for _ in range(shards)]
        self._holders = [[0] * self.per_shard for _ in range(shards)]
        self._held: list[list[int]] = [[] for _ in range(slots)]

    def shard(self, slot: int) -> int:
        """The shard that a slot belongs to."""
        return slot // self._slots_per_shard

    def held(self, slot: int) -> list[int]:
        """A slot's pages, in the order of the positions they hold."""
        return self._held[slot]

    @property
    def total(self) -> int:
        """Pages that there are, over all shards."""
        return self.per_shard * len(self._free)

    @property
    def used(self) -> int:
        """Pages that somebody holds, over all shards; a shared one counts once."""
        return self.total - sum(map(len, self._free))

    def count(self, tokens: int) -> int:
        """Pages that so many tokens of one row take."""
        return -(-tokens // self._page_tokens)

    def reserve(self, slot: int, tokens: int, spare: int = 0) -> bool:
        """See that the slot has pages for its first `tokens` tokens.

        False, and nothing changes, where that would leave less than `spare` pages free.
        """
        return self._take(slot, self.count(tokens) - len(self._held[slot]), spare)

    def fork(
        self, source: int, target: int, length: int, tokens: int, spare: int = 0
    ) -> list[tuple[int, int]] | None:
        """Let an empty slot start with the first `length` tokens of another one.

        Whole pages are held by both from now on; the rest of the prefix is on a page of
        the source's own, to be copied: the answer is that (source page, target page) or
        nothing to copy. Pages for `tokens` tokens are reserved too; None, and nothing
        changes, where the pool has not enough.
        """
        whole, rest = divmod(length, self._page_tokens)
        if not self._take(target, self.count(tokens) - whole, spare):
            return None
        shared = self._held[source][:whole]
        for page in shared:
            self._holders[self.shard(target)][page] += 1
        self._held[target][:0] = shared
        return [(self._held[source][whole], self._held[target][whole])] if rest else []

    def release(self, slot: int) -> None:
        """Give up all pages of a slot; those that nobody else holds are free again."""
        shard = self.shard(slot)
        for page in self._held[slot]:
            self._holders[shard][page] -= 1
            if not self._holders[shard][page]:
                self._free[shard].append(page)
        self._held[slot] = []

    def _take(self, slot, count, spare) -> bool:
        shard = self.shard(slot)
        free = self._free[shard]
        if count > 0 and count + spare > len(free):
            return False
        for _ in range(count):
            page = free.pop()
            self._holders[shard][page] = 1
            self._held[slot].append(page)
        return True
