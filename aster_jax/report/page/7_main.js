// The page at work: tabs, filters, keys, the address, and what is opened.

const VIEW = { tab: "report", row: null, mode: "one", shade: "", beside: [] };
const $ = (selector) => document.querySelector(selector);
let list;
let drawn = ""; // the filters that the list shows

// Theme: as the system says, until somebody says otherwise.
function theme(next) {
  const root = document.documentElement;
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  $("#theme").textContent = { light: "light", dark: "dark" }[next] || "auto";
  try {
    localStorage.setItem("theme", next || "");
  } catch {
    // A page from disk may have no storage; then the choice lasts as long as the page.
  }
}

function startTheme() {
  let kept = "";
  try {
    kept = localStorage.getItem("theme") || "";
  } catch {
    // As above.
  }
  theme(kept);
  const order = ["", "dark", "light"];
  $("#theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "";
    theme(order[(order.indexOf(now) + 1) % order.length]);
  });
}

// Go to what VIEW says; a new entry of the history where something else is opened.
async function go(changes, isNew = true) {
  const before = VIEW.row;
  Object.assign(VIEW, changes);
  const address = addressOf(VIEW);
  if (address !== location.hash) history[isNew && before !== VIEW.row ? "pushState" : "replaceState"](null, "", address);
  await draw();
}

async function fromAddress() {
  Object.assign(VIEW, viewOf(location.hash));
  for (const field of document.querySelectorAll("#filters [name]")) field.value = FILTER[field.name];
  await draw();
}

async function draw() {
  const isReport = VIEW.tab === "report";
  $("#report").hidden = !isReport;
  $("#episodes").hidden = isReport;
  document.body.classList.toggle("viewing", !isReport);
  for (const tab of document.querySelectorAll("nav [data-tab]")) {
    tab.setAttribute("aria-current", String(tab.dataset.tab === VIEW.tab));
  }
  if (isReport) return;
  const filters = JSON.stringify(FILTER);
  if (filters !== drawn) {
    const found = await filtered();
    if (!found) return;
    SHOWN = found;
    drawn = filters;
    list.fill(VIEW.row);
    performance.mark("listed");
    const total = STORE.rows.length;
    $("#count").textContent = SHOWN.length === total ? `${count(total)} episodes` : `${count(SHOWN.length)} of ${count(total)}`;
    $("#right").textContent = SHOWN.length ? `${((100 * SHOWN.filter((row) => row.outcome === "right").length) / SHOWN.length).toFixed(1)} % right` : "nothing passes the filters";
    $("#clear").hidden = FIELDS.every((name) => !FILTER[name]);
    document.documentElement.dataset.searched = FILTER.q;
  }
  await detail();
}

let details = 0;
let detailed = ""; // what the right-hand side shows

// The right-hand side: an episode, or several side by side.
async function detail() {
  const pane = $("#detail");
  const wanted = JSON.stringify([VIEW.row?.key, VIEW.mode, VIEW.shade, VIEW.beside.map((row) => row.key), WORDS]);
  if (wanted === detailed) return; // and so it keeps its place while somebody filters
  detailed = wanted;
  const mine = ++details;
  document.body.classList.toggle("opened", Boolean(VIEW.row));
  if (!VIEW.row) {
    pane.replaceChildren(el("p", { class: "empty soft" }, "Choose an episode: j and k move, Enter opens, / searches, ? tells more."));
    return;
  }
  const row = VIEW.row;
  if (!STORE.isHere(row)) {
    pane.replaceChildren(toolbar(row, null), elsewhere(row));
    return;
  }
  const record = await STORE.record(row);
  const tokens = VIEW.shade ? await STORE.tokens(row) : null;
  if (mine !== details) return;
  const parts = [toolbar(row, record), show(el("h2", { class: "question" }), record.question)];
  if (VIEW.shade && !tokens) parts.push(el("p", { class: "soft" }, "This record keeps no ids and log-probs."));
  if (VIEW.mode === "one") parts.push(...one(row, record, tokens));
  if (VIEW.mode === "group") {
    const members = groupOf(row);
    parts.push(groupTable(members, open), legend(VIEW.shade), columns(members, open, VIEW.shade));
  }
  if (VIEW.mode === "problem") parts.push(...problem(row));
  pane.replaceChildren(...parts.filter(Boolean));
  pane.scrollTop = 0;
  pane.dataset.key = `${VIEW.mode} ${row.key}`;
}

function one(row, record, tokens) {
  const turns = turnsOf(record);
  const jump = (i) => $("#detail").querySelector(`#turn-${i}`)?.scrollIntoView({ block: "start", behavior: "smooth" });
  return [
    el("div", { class: "line wrap" }, ...badges(row)),
    facts(row, record), timeline(turns, jump), tokens ? legend(VIEW.shade) : null,
    ...turns.map((turn, i) => section(turn, i, VIEW.shade, tokens)),
  ];
}

function problem(row) {
  if (!VIEW.beside.length || VIEW.beside.some((other) => other.problem !== row.problem)) VIEW.beside = chosenOf(row);
  const toggle = (other) => {
    const without = VIEW.beside.filter((chosen) => chosen !== other);
    const beside = without.length < VIEW.beside.length ? without : [...VIEW.beside, other].slice(-MOST_BESIDE);
    if (beside.length) go({ beside });
  };
  return [matrix(row, VIEW.beside, toggle), legend(VIEW.shade), columns(VIEW.beside, open, VIEW.shade)];
}

function elsewhere(row) {
  const file = STORE.fileOf(row);
  const said = el("p", { class: "soft" }, file ? "The text of this episode is in another page: " : "No page holds the text of this episode, as it would be too much; it is ");
  if (file) said.append(el("a", { href: `${file}#episodes&e=${encodeURIComponent(row.key)}` }, file));
  return el("div", {}, said, el("p", {}, plain(`${row.file}, line ${row.line}`)));
}

function toolbar(row, record) {
  const button = (text, does, title) => el("button", { type: "button", onclick: does, title }, text);
  const mode = (name, text, key) =>
    el("button", { type: "button", "aria-pressed": String(VIEW.mode === name), title: `key ${key}`, onclick: () => go({ mode: VIEW.mode === name ? "one" : name }) }, text);
  const shades = el("select", { id: "shade", "aria-label": "colour of tokens", title: "key t", onchange: (event) => go({ shade: event.target.value }) });
  for (const [value, text] of Object.entries(SHADES)) shades.append(el("option", { value, selected: value === VIEW.shade }, `tokens: ${text}`));
  return el(
    "div", { class: "toolbar" },
    button("←", () => go({ row: null, mode: "one" }), "back to the list (Escape)"),
    button("↑", () => step(-1), "the one before (k)"), button("↓", () => step(1), "the next one (j)"),
    mode("group", `group (${groupOf(row).length})`, "g"), mode("problem", `problem (${problemOf(row).length})`, "p"),
    shades, record && button("copy link", () => copy(location.href)), record && button("copy text", () => copy(transcript(record))),
    record && button("record", () => download(row), "download the record as JSON"),
  );
}

function open(row) {
  return go({ row, mode: "one", beside: [] });
}

function step(by) {
  const row = list.move(by);
  return row && VIEW.row ? go({ row, beside: [] }) : null;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("copied");
}

async function download(row) {
  const text = JSON.stringify(await STORE.whole(row)) + "\n";
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: row.key.replace(/[^\w.-]+/g, "_") + ".json" });
  link.click();
  URL.revokeObjectURL(link.href);
  say("saved as " + link.download);
}

function say(text) {
  $("#said").textContent = text;
  setTimeout(() => { $("#said").textContent = ""; }, 2500);
}

const KEYS = {
  j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
  Enter: () => (SHOWN.length ? open(SHOWN[list.cursor]) : null),
  Escape: () => (VIEW.mode !== "one" ? go({ mode: "one" }) : go({ row: null })),
  "/": () => $("#filters [name=q]").focus(),
  g: () => VIEW.row && go({ mode: VIEW.mode === "group" ? "one" : "group" }),
  p: () => VIEW.row && go({ mode: VIEW.mode === "problem" ? "one" : "problem" }),
  t: () => { const all = Object.keys(SHADES); return VIEW.row && go({ shade: all[(all.indexOf(VIEW.shade) + 1) % all.length] }); },
  "?": () => $("#help").showModal(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("#help").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (typing && event.key === "Escape") event.target.blur();
  if (typing || (event.key === "Enter" && event.target.matches("button, a, summary"))) return;
  if (event.key === "Escape" && VIEW.tab === "report") return;
  if (VIEW.tab === "report" || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

function fillFilters() {
  for (const [name, value] of Object.entries(SELECTS)) {
    const counts = new Map();
    for (const row of STORE.rows) {
      for (const part of name === "status" ? row.statuses.split(" ") : [value(row)]) {
        if (part) counts.set(part, (counts.get(part) || 0) + 1);
      }
    }
    const select = $(`#filters [name=${name}]`);
    select.append(el("option", { value: "" }, `${LABELS[name]}: all`));
    const values = name === "calls" ? Array.from(counts.keys()).sort((a, b) => parseInt(a) - parseInt(b)) : Array.from(counts.keys());
    for (const part of values) select.append(el("option", { value: part }, plain(`${part} (${count(counts.get(part))})`)));
    select.hidden = counts.size < 2 && name !== "status";
  }
  for (const [value, [text]] of Object.entries(SORTS)) $("#filters [name=sort]").append(el("option", { value }, text));
}

function listen() {
  let typed;
  $("#filters").addEventListener("input", (event) => {
    FILTER[event.target.name] = event.target.value.trim();
    clearTimeout(typed);
    typed = setTimeout(() => go({}, false), event.target.matches("select") ? 0 : 120);
  });
  $("#filters").addEventListener("submit", (event) => event.preventDefault());
  $("#clear").addEventListener("click", () => {
    for (const name of FIELDS) FILTER[name] = "";
    for (const field of document.querySelectorAll("#filters [name]")) field.value = "";
    go({}, false);
  });
  $("#detail").addEventListener("click", (event) => {
    const anchor = event.target.closest("[data-turn]");
    if (!anchor) return;
    event.preventDefault();
    copy(location.href.replace(/&turn=\d+|$/, `&turn=${anchor.dataset.turn}`));
  });
  for (const tab of document.querySelectorAll("nav [data-tab]")) {
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      go({ tab: tab.dataset.tab });
    });
  }
  document.addEventListener("keydown", onKey);
  window.addEventListener("popstate", fromAddress);
  window.addEventListener("hashchange", fromAddress);
}

async function start() {
  startTheme();
  const index = $("#index");
  if (!index) return;
  STORE = new Store(await unpack(index));
  list = new List($("#list"), open);
  $("nav").hidden = false;
  $("#more").open = !matchMedia("(max-width: 820px)").matches;
  fillFilters();
  listen();
  const turn = location.hash.match(/&turn=(\d+)/);
  await fromAddress();
  if (turn) document.getElementById(`turn-${turn[1]}`)?.scrollIntoView();
  document.documentElement.dataset.ready = "yes";
  warm();
}

start();
