// Episodes side by side: the members of a group, or the same problem across steps,
// checkpoints and runs.

const MOST_BESIDE = 8;

// The members of an episode's group: the same problem in the same step or evaluation.
function groupOf(row) {
  return STORE.rows.filter(
    (other) =>
      other.run === row.run && other.where === row.where && other.step === row.step && other.problem === row.problem,
  );
}

function problemOf(row) {
  return STORE.rows.filter((other) => other.problem === row.problem);
}

// Of a problem's episodes, those to begin with: its own, and one of each evaluated checkpoint
// with the tool; where there is none, the first and last that were trained on.
function chosenOf(row) {
  const all = problemOf(row).filter((other) => STORE.isHere(other));
  const first = new Map();
  for (const other of all) {
    const name = `${other.where} ${other.run}`;
    if (other.arm === "main" && other.stage === "eval" && !first.has(name)) first.set(name, other);
  }
  // The runs of a checkpoint beside each other.
  const order = new Map(Array.from(first.values(), (other) => [other.where, other.order]).reverse());
  let chosen = Array.from(first.values()).sort((a, b) => order.get(a.where) - order.get(b.where) || a.run - b.run);
  if (!chosen.length) {
    const byTime = all.filter((other) => other.sample === row.sample).sort((a, b) => a.order - b.order);
    chosen = byTime.length > 2 ? [byTime[0], byTime[byTime.length - 1]] : byTime;
  }
  if (!chosen.includes(row)) chosen.unshift(row);
  return chosen.slice(0, MOST_BESIDE);
}

// A column for each episode. A group has its text at once, so that it can be printed; where
// there are many, it comes when a column is scrolled into sight.
const MOST_AT_ONCE = 16;
function columns(rows, open, shade) {
  const box = el("div", { class: "columns" });
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      fillColumn(target, rows[Number(target.dataset.at)], shade);
    }
  }, { rootMargin: "200px" });
  rows.forEach((row, at) => {
    const column = el(
      "article", { class: "column", "data-at": at, "data-key": row.key },
      el("div", { class: "line wrap" }, ...badges(row), el("span", { class: "soft" }, `sample ${row.sample}`)),
      el(
        "div", { class: "line" },
        el("b", {}, `reward ${row.reward}`),
        row.advantage === null ? null : el("span", { class: row.advantage < 0 ? "minus" : "plus" }, `advantage ${signed(row.advantage)}`),
        el("button", { type: "button", class: "link", onclick: () => open(row) }, "open"),
      ),
      el("div", { class: "turns soft" }, STORE.isHere(row) ? "…" : "not in this page"),
    );
    box.append(column);
    if (!STORE.isHere(row)) return;
    if (rows.length <= MOST_AT_ONCE) fillColumn(column, row, shade);
    else seen.observe(column);
  });
  return box;
}

async function fillColumn(column, row, shade) {
  const record = await STORE.record(row);
  const tokens = shade ? await STORE.tokens(row) : null;
  const turns = turnsOf(record);
  const body = el("div", { class: "turns" });
  body.append(timeline(turns, (i) => body.querySelector(`#turn-${i}`)?.scrollIntoView({ block: "nearest" })));
  turns.forEach((turn, i) => {
    if (turn.kind !== "prompt") body.append(section(turn, i, shade, tokens));
  });
  column.querySelector(".turns").replaceWith(body);
}

// The group in one line each: how rewards and advantages are spread.
function groupTable(rows, open) {
  const rewards = rows.map((row) => row.reward);
  const mean = rewards.reduce((a, b) => a + b, 0) / rows.length;
  const most = Math.max(...rows.map((row) => Math.abs(row.advantage || 0)), 1e-9);
  const table = el("div", { class: "spread" });
  for (const row of rows) {
    const bar = el("i", { class: row.advantage < 0 ? "minus" : "plus" });
    bar.style.width = `${(46 * Math.abs(row.advantage || 0)) / most}px`;
    table.append(el(
      "button", { type: "button", onclick: () => open(row), title: `sample ${row.sample}` },
      el("span", { class: `badge ${row.outcome}` }, `${row.reward}`), bar,
      el("span", { class: "soft" }, row.advantage === null ? "–" : signed(row.advantage)),
    ));
  }
  const said = `${rows.length} samples, mean reward ${mean.toFixed(3)}` +
    (rows.every((row) => row.advantage === null) ? "" : "; advantages as the update had them");
  return el("div", {}, el("p", { class: "soft" }, said), table);
}

// Every episode of a problem as a dot, a line for each stage and a column for each run; a
// click puts it beside the others or takes it away.
function matrix(row, chosen, toggle) {
  const lines = new Map();
  for (const other of problemOf(row)) {
    if (!lines.has(other.where)) lines.set(other.where, STORE.runs.map(() => []));
    lines.get(other.where)[other.run].push(other);
  }
  const box = el("div", { class: "matrix" });
  box.style.gridTemplateColumns = `auto repeat(${STORE.runs.length}, minmax(0, 1fr))`;
  if (STORE.runs.length > 1) box.append(el("span"), ...STORE.runs.map(({ name }) => el("b", {}, plain(name))));
  for (const [where, runs] of lines) {
    box.append(el("span", {}, plain(where)), ...runs.map((members) => dots(members, chosen, toggle)));
  }
  return box;
}

function dots(members, chosen, toggle) {
  const box = el("div", { class: "dots" });
  let step = null;
  for (const other of members.sort((a, b) => a.order - b.order)) {
    if (other.stage !== "eval" && other.step !== step) box.append(el("span", { class: "soft" }, `${other.step}:`));
    step = other.step;
    box.append(el("button", {
      type: "button", class: `pick ${other.outcome}${chosen.includes(other) ? " chosen" : ""}`,
      title: plain(`step ${other.step}, sample ${other.sample}: reward ${other.reward}, ${other.calls} calls, ${other.end}`),
      "aria-pressed": String(chosen.includes(other)), onclick: () => toggle(other),
    }));
  }
  const right = members.filter((other) => other.outcome === "right").length;
  if (members.length > 1) box.append(el("span", { class: "soft" }, `${right} of ${members.length} right`));
  return box;
}
