// Which episodes are shown, in which order, and the address that says so.

const SELECTS = {
  run: (row) => STORE.runs[row.run].name,
  where: (row) => row.where,
  reward: (row) => row.outcome,
  end: (row) => row.end,
  status: (row) => row.statuses,
  family: (row) => row.family,
  calls: (row) => (row.calls < 10 ? String(row.calls) : "10 or more"),
};
const LABELS = {
  run: "run", where: "stage", reward: "outcome", end: "end", status: "call status",
  family: "family", calls: "calls",
};
const SORTS = {
  "": ["as it was made", (row) => row.order],
  newest: ["newest first", (row) => -row.order],
  reward: ["reward, lowest first", (row) => row.reward],
  calls: ["most calls", (row) => -row.calls],
  failed: ["most failed calls", (row) => -row.failed],
  tokens: ["most tokens written", (row) => -row.written],
  seconds: ["longest", (row) => -row.seconds],
  advantage: ["highest advantage", (row) => (row.advantage === null ? Infinity : -row.advantage)],
  problem: ["by problem", null],
};
const FIELDS = ["q", ...Object.keys(SELECTS), "from", "to", "problem", "sort"];

let STORE; // all that the page holds
let SHOWN = []; // rows that pass the filters, in order
const FILTER = Object.fromEntries(FIELDS.map((name) => [name, ""]));
let WORDS = []; // of the search, in lower case
let searches = 0;

// The words of a search: quoted phrases whole, a minus for what must not be there.
function wordsOf(query) {
  const found = Array.from(query.toLowerCase().matchAll(/(-?)(?:"([^"]+)"?|([^\s"]+))/g));
  const words = found.map(([, minus, phrase, word]) => ({ word: phrase || word, not: !!minus }));
  return words.filter(({ word }) => word);
}

function passes(row) {
  for (const [name, value] of Object.entries(SELECTS)) {
    if (!FILTER[name]) continue;
    const has = value(row);
    const fits = name === "status" ? has.split(" ").includes(FILTER[name]) : has === FILTER[name];
    if (!fits) return false;
  }
  if (FILTER.from !== "" && row.step < Number(FILTER.from)) return false;
  if (FILTER.to !== "" && row.step > Number(FILTER.to)) return false;
  return !FILTER.problem || row.problem.includes(FILTER.problem);
}

// Rows that pass, in order; resolves to null when a later call has overtaken this one.
async function filtered() {
  const mine = ++searches;
  const found = STORE.rows.filter(passes);
  const words = wordsOf(FILTER.q);
  let kept = found;
  if (words.length) {
    const wanted = new Set(found.filter((row) => STORE.isHere(row)).map((row) => row.chunk));
    const hits = new Set();
    for (const number of wanted) {
      const texts = STORE.haystacks[number] || (await STORE.haystack(number));
      if (mine !== searches) return null;
      STORE.members[number].forEach((row) => {
        if (words.every(({ word, not }) => texts[row.place].includes(word) !== not)) hits.add(row);
      });
    }
    kept = found.filter((row) => hits.has(row));
  }
  WORDS = words.filter(({ not }) => !not).map(({ word }) => word);
  return sorted(kept);
}

function sorted(rows) {
  const [, value] = SORTS[FILTER.sort] || SORTS[""];
  if (!value) {
    return rows.sort((a, b) => (a.problem < b.problem ? -1 : a.problem > b.problem ? 1 : a.order - b.order));
  }
  return rows.sort((a, b) => value(a) - value(b) || a.order - b.order);
}

// The piece of an episode's text around the first word that was found.
function snippet(row) {
  const texts = STORE.haystacks[row.chunk];
  if (!WORDS.length || !texts) return null;
  const text = texts[row.place];
  const at = Math.min(...WORDS.map((word) => text.indexOf(word)).filter((place) => place >= 0));
  const from = Math.max(0, at - 40);
  return (from ? "…" : "") + text.slice(from, at + 140).replace(/[\s\u0001]+/g, " ");
}

// Search texts are unpacked while nobody waits, so that the first search is quick too.
async function warm() {
  const idle = window.requestIdleCallback || ((then) => setTimeout(then, 30));
  for (let i = 0; i < STORE.members.length && STORE.haystackSize < HAYSTACK_LIMIT; i++) {
    await new Promise((then) => idle(then, { timeout: 200 }));
    await STORE.haystack(i);
  }
  document.documentElement.dataset.searchable = "yes";
}

// The address: `#report`, or `#episodes&where=rl1&e=KEY&view=group`.
function addressOf(view) {
  if (view.tab === "report") return "#report";
  const asked = new URLSearchParams();
  for (const name of FIELDS) if (FILTER[name] !== "") asked.set(name, FILTER[name]);
  if (view.row) asked.set("e", view.row.key);
  if (view.row && view.mode !== "one") asked.set("view", view.mode);
  if (view.row && view.shade) asked.set("shade", view.shade);
  if (view.row && view.mode === "problem" && view.beside.length) {
    asked.set("beside", view.beside.map((row) => row.key).join(" "));
  }
  const text = asked.toString();
  return "#episodes" + (text ? "&" + text : "");
}

// What an address asks for; unknown episodes and modes are as good as none.
function viewOf(address) {
  const [tab, ...rest] = address.replace(/^#/, "").split("&");
  const asked = new URLSearchParams(rest.join("&"));
  for (const name of FIELDS) FILTER[name] = asked.get(name) || "";
  const mode = asked.get("view");
  const keys = (asked.get("beside") || "").split(" ");
  return {
    tab: tab === "episodes" || (tab === "" && document.body.dataset.start === "episodes") ? "episodes" : "report",
    row: STORE.byKey.get(asked.get("e")) || null,
    mode: ["group", "problem"].includes(mode) ? mode : "one",
    shade: ["logprob", "entropy", "mask"].includes(asked.get("shade")) ? asked.get("shade") : "",
    beside: keys.map((key) => STORE.byKey.get(key)).filter(Boolean),
  };
}
