// The list: only the rows in sight are in the document, however many there are.

const ROW_HEIGHT = 60; // px, as in page.css
const SPARE = 8; // rows above and below those in sight

class List {
  constructor(box, open) {
    this.box = box;
    this.open = open;
    this.body = el("div", { class: "rows" });
    this.box.append(this.body);
    this.made = new Map();
    this.cursor = 0;
    box.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(box);
  }

  // New rows; the cursor stays on its episode where that is still there.
  fill(current) {
    this.body.replaceChildren();
    this.made.clear();
    this.body.style.height = `${SHOWN.length * ROW_HEIGHT}px`;
    this.cursor = Math.max(0, current ? SHOWN.indexOf(current) : 0);
    this.reveal();
    this.draw();
  }

  move(by) {
    if (!SHOWN.length) return null;
    this.cursor = Math.min(Math.max(this.cursor + by, 0), SHOWN.length - 1);
    this.reveal();
    this.draw();
    return SHOWN[this.cursor];
  }

  reveal() {
    const top = this.cursor * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    if (top + ROW_HEIGHT > scrollTop + clientHeight) {
      this.box.scrollTop = top + ROW_HEIGHT - clientHeight;
    }
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - SPARE);
    const last = Math.min(
      SHOWN.length,
      Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW_HEIGHT) + SPARE,
    );
    for (const [i, node] of this.made) {
      if (i < first || i >= last) {
        node.remove();
        this.made.delete(i);
      }
    }
    for (let i = first; i < last; i++) {
      if (!this.made.has(i)) {
        const node = this.row(SHOWN[i], i);
        this.made.set(i, node);
        this.body.append(node);
      }
      this.made.get(i).classList.toggle("cursor", i === this.cursor);
    }
  }

  row(row, i) {
    const found = snippet(row);
    const line = el("div", { class: "line second" });
    if (found) marked(line, found, WORDS);
    else show(line, row.question);
    const node = el(
      "div",
      { class: "row", role: "option", "data-key": row.key, onclick: () => this.pick(i) },
      el("div", { class: "line" }, ...badges(row, true)),
      line,
    );
    node.style.top = `${i * ROW_HEIGHT}px`;
    return node;
  }

  pick(i) {
    this.cursor = i;
    this.draw();
    this.open(SHOWN[i]);
  }
}

// What an episode is, in short.
function badges(row, isShort) {
  const badge = (text, kind) => el("span", { class: `badge ${kind || ""}` }, plain(String(text)));
  const made = [el("span", { class: `dot c-${row.color}` })];
  if (STORE.runs.length > 1) made.push(badge(STORE.runs[row.run].name, "run"));
  made.push(el("span", { class: "where" }, plain(row.where)));
  if (row.stage !== "eval") made.push(el("span", { class: "soft" }, `step ${row.step}`));
  made.push(badge({ right: "✓ right", wrong: "✗ wrong", lost: "? lost" }[row.outcome], row.outcome));
  if (row.end !== "answered") made.push(badge(row.end.replace(/_/g, " "), "warn"));
  made.push(el("span", { class: "soft" }, `${row.calls} call${row.calls === 1 ? "" : "s"}`));
  if (row.failed) made.push(el("span", { class: "failed" }, `${row.failed} failed`));
  if (!isShort || row.family) made.push(el("span", { class: "soft family" }, plain(row.family)));
  made.push(el("span", { class: "soft tokens" }, `${count(row.written)} tok`));
  if (!STORE.isHere(row)) made.push(badge(row.page < 0 ? "listed only" : "in another page"));
  return made;
}
