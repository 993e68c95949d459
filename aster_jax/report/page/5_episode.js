// One episode, turn by turn: what was given, what the model wrote, what the tool answered.

const SHADES = { "": "none", logprob: "log-prob", entropy: "entropy", mask: "loss mask" };
const THINKING = /<think>([^]*?)(<\/think>|$)/;

// The turns of a record: its spans with the call that each one made or answers, and with
// the seconds that each took. The n-th model turn made the n-th call, if there is one.
function turnsOf(record) {
  let asked = 0;
  let answered = 0;
  let before = 0;
  return record.spans.map((span) => {
    const turn = { ...span, call: null, tokens: (span.stop || 0) - (span.start || 0) };
    if (span.kind === "model") turn.call = record.calls[asked++] || null;
    if (span.kind === "tool") turn.call = record.calls[answered++] || null;
    turn.seconds = span.end_s ? Math.max(0, span.end_s - before) : null;
    if (span.end_s) before = span.end_s;
    if (turn.seconds === null && span.kind === "tool" && turn.call) turn.seconds = turn.call.wall_s;
    return turn;
  });
}

// Two bars, seconds and tokens, a piece for every turn.
function timeline(turns, go) {
  const box = el("div", { class: "timeline" });
  for (const [unit, value, write] of [
    ["seconds", (turn) => turn.seconds || 0, seconds],
    ["tokens", (turn) => (turn.kind === "prompt" ? 0 : turn.tokens), count],
  ]) {
    const total = turns.reduce((sum, turn) => sum + value(turn), 0);
    if (!total) continue;
    const bar = el("div", { class: "bar" });
    turns.forEach((turn, i) => {
      if (!value(turn)) return;
      const kind = turn.kind === "tool" && turn.call && turn.call.status !== "ok" ? "tool failed" : turn.kind;
      const piece = el("button", {
        class: kind, type: "button", title: `turn ${i}, ${turn.kind}: ${write(value(turn))} ${unit === "tokens" ? "tokens" : ""}`,
        "aria-label": `go to turn ${i}`, onclick: () => go(i),
      });
      piece.style.flexGrow = value(turn) / total;
      bar.append(piece);
    });
    box.append(el("span", { class: "soft" }, unit), bar, el("span", { class: "soft total" }, write(total)));
  }
  return box;
}

// A turn as a section; `tokens` are those of the whole episode where they are shaded.
function section(turn, i, shade, tokens) {
  const facts = [];
  if (turn.tokens) facts.push(`${count(turn.tokens)} tokens`);
  if (turn.end_s && turn.kind !== "prompt") facts.push(seconds(turn.seconds));
  const head = el(
    "header", {},
    el("b", {}, { prompt: "given", model: "model", tool: "tool" }[turn.kind]),
    turn.kind === "tool" && turn.call ? status(turn.call) : null,
    el("span", { class: "soft" }, facts.join(" · ")),
    turn.kind === "tool" && turn.call ? el("span", { class: "soft" }, ran(turn.call)) : null,
    el("a", { class: "anchor", href: "#", title: "link to this turn", "data-turn": i }, `${i}`),
  );
  const body = el("div", { class: "body" });
  if (shade && tokens) shaded(body, turn, shade, tokens);
  else if (turn.kind === "model") written(body, turn);
  else if (turn.kind === "tool") output(body, turn);
  else long(body.appendChild(el("pre")), turn.text);
  return el("section", { class: turn.kind, id: `turn-${i}` }, head, body);
}

function status(call) {
  return el("span", { class: `badge ${call.status === "ok" ? "right" : "warn"}` }, plain(call.status));
}

function ran(call) {
  return `ran ${seconds(call.wall_s)}` + (call.queue_s > 0.001 ? `, waited ${seconds(call.queue_s)}` : "");
}

// What the model wrote: its thinking, its words, and its code as code.
function written(body, turn) {
  let text = turn.text;
  const thought = text.match(THINKING);
  if (thought) {
    const before = text.slice(0, thought.index);
    if (before.trim()) words(body, before);
    body.append(long(el("pre", { class: "thinking" }), thought[1].trim()));
    text = text.slice(thought.index + thought[0].length);
  }
  const code = turn.call && turn.call.code;
  const spelled = code ? spellings(code).find((spelling) => text.lastIndexOf(spelling) >= 0) : null;
  if (!spelled) {
    words(body, text);
    return;
  }
  const [said, opened] = upToCall(text.slice(0, text.lastIndexOf(spelled)));
  if (said.trim()) words(body, said);
  body.append(long(el("pre", { class: "code", title: opened.trim() ? plain(opened.trim()) : null }), code, python));
}

// What was said before a call's code, and the markup between the two. No regular expression:
// one for white space at an end looks again from every blank of a long run of them.
function upToCall(text) {
  const at = text.indexOf("<tool_call>");
  const said = (at < 0 ? text : text.slice(0, at)).trimEnd();
  return [said, text.slice(said.length)];
}

// The spellings of code as a JSON string: with every character, or as ASCII.
function spellings(code) {
  const all = JSON.stringify(code);
  const ascii = all.replace(/[\u007f-\uffff]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  return [ascii, all];
}

function words(body, text) {
  const trimmed = text.trimEnd().replace(/^\n+/, "");
  const end = trimmed.match(/<\|[\w]+\|>$/);
  const pre = long(el("pre"), end ? trimmed.slice(0, end.index) : trimmed, (parent, piece) => marked(parent, piece, WORDS));
  if (end) pre.append(el("span", { class: "control" }, end[0]));
  body.append(pre);
}

// What the tool said: all of it, where the record keeps more than the model was shown.
function output(body, turn) {
  const text = turn.call ? turn.call.text : turn.text;
  const kind = turn.call && turn.call.status !== "ok" ? "output bad" : "output";
  if (!text) body.append(el("p", { class: "soft" }, "no output"));
  else body.append(long(el("pre", { class: kind }), text, (parent, piece) => marked(parent, piece, WORDS)));
  if (turn.call && text && !turn.text.includes(text.trim())) {
    const shown = el("details", {}, el("summary", {}, "cut for the model, which read this"));
    shown.append(long(el("pre"), turn.text));
    body.append(shown);
  }
}

// The turn token by token, each with a colour.
function shaded(body, turn, shade, tokens) {
  const pre = el("pre", { class: `shaded ${shade}` });
  const characters = Array.from(turn.text);
  let at = 0;
  for (let t = turn.start; t < turn.stop; t++) {
    const text = characters.slice(at, at + tokens.chars[t]).join("");
    at += tokens.chars[t];
    const isModel = turn.kind === "model";
    const title = isModel
      ? `id ${tokens.tokens[t]} · log-prob ${tokens.logprobs[t].toFixed(3)} (p ${Math.exp(tokens.logprobs[t]).toFixed(3)}) · entropy ${tokens.entropies[t].toFixed(3)}`
      : `id ${tokens.tokens[t]} · not trained on`;
    pre.append(show(el("span", { class: `t s${level(shade, isModel, tokens, t)}`, title }), text));
  }
  if (at < characters.length) show(pre, characters.slice(at).join(""));
  body.append(pre);
}

// The strength of a token's colour, 0 to 8: nats of surprise or of entropy, or trained on.
function level(shade, isModel, tokens, t) {
  if (!isModel) return "none";
  if (shade === "mask") return 8;
  const nats = shade === "logprob" ? -tokens.logprobs[t] / 5 : tokens.entropies[t] / 2.5;
  return Math.max(0, Math.min(8, Math.round(8 * nats)));
}

function legend(shade) {
  const said = {
    logprob: ["log-prob of what was sampled: 0", "−5 nats or less"],
    entropy: ["entropy of the choice: 0", "2.5 nats or more"],
    mask: ["trained on, if its advantage is not 0:", ""],
  }[shade];
  if (!said) return null;
  const steps = shade === "mask" ? [8] : [0, 1, 2, 3, 4, 5, 6, 7, 8];
  return el(
    "p", { class: `legend ${shade}` }, said[0],
    ...steps.map((step) => el("span", { class: `t s${step}` }, "\u00a0\u00a0")), said[1],
  );
}

// The numbers of an episode as a list of terms.
function facts(row, record) {
  const pairs = [
    ["expected", record.gold],
    ["reward", `${record.reward} (${record.verdict.replace(/_/g, " ")})`],
    ["advantage", row.advantage === null ? null : signed(row.advantage)],
    ["end", record.end.replace(/_/g, " ")],
    ["written", `${count(record.num_model_tokens)} of ${count(record.num_tokens)} tokens`],
    ["took", row.seconds ? seconds(row.seconds) : null],
    ["problem", `${record.problem_id}, sample ${record.sample}`],
    ["record", `${row.file}, line ${row.line}`],
  ];
  const list = el("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value !== null) list.append(el("div", {}, el("dt", {}, name), show(el("dd"), String(value))));
  }
  return list;
}

// The whole episode as text, to be copied.
function transcript(record) {
  const lines = [`# ${record.problem_id}, sample ${record.sample}`, record.question, `expected ${record.gold}; reward ${record.reward} (${record.verdict})`, ""];
  for (const turn of turnsOf(record)) {
    lines.push(`--- ${turn.kind}${turn.kind === "tool" && turn.call ? ` (${turn.call.status})` : ""}`, turn.text, "");
  }
  return lines.join("\n");
}
