// Texts into the document. Everything a model or a tool wrote goes through `show`, which
// sets text and never markup, and makes characters visible that would hide or reorder it.

const HEAD = 20000; // characters of one text that are shown at first
const TAIL = 2000;
const MORE = 200000;

function el(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;
const HIDDEN_RUNS = /([^\P{Cc}\n\t]|[\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}])/gu;

function escapeOf(char) {
  const code = char.codePointAt(0);
  if (code < 256) return "\\x" + code.toString(16).padStart(2, "0");
  if (code < 65536) return "\\u" + code.toString(16).padStart(4, "0");
  return "\\U" + code.toString(16).padStart(8, "0");
}

// A text without characters that hide: for attributes, and for texts on one line.
function plain(text) {
  return HIDDEN.test(text) ? text.replace(HIDDEN_RUNS, escapeOf) : text;
}

// Text into an element, hidden characters as marked escapes.
function show(parent, text) {
  if (!HIDDEN.test(text)) {
    parent.append(text);
    return parent;
  }
  text.split(HIDDEN_RUNS).forEach((part, i) => {
    if (i % 2) parent.append(el("span", { class: "escape" }, escapeOf(part)));
    else if (part) parent.append(part);
  });
  return parent;
}

// Head and tail of a text, and a button for what is between; `paint` shows one piece.
function long(parent, text, paint = show) {
  if (text.length <= HEAD + TAIL) {
    paint(parent, text);
    return parent;
  }
  let at = HEAD;
  const end = text.length - TAIL;
  const gap = el("button", { class: "gap", type: "button" });
  const label = () => {
    gap.textContent = `${count(end - at)} characters not shown; show ${count(Math.min(MORE, end - at))} more`;
  };
  gap.addEventListener("click", () => {
    const piece = document.createDocumentFragment();
    paint(piece, text.slice(at, Math.min(at + MORE, end)));
    gap.before(piece);
    at = Math.min(at + MORE, end);
    if (at >= end) gap.remove();
    else label();
  });
  label();
  paint(parent, text.slice(0, HEAD));
  parent.append(gap);
  paint(parent, text.slice(end));
  return parent;
}

const PYTHON = new RegExp(
  [
    /(?<comment>#[^\n]*)/,
    /(?<string>[rbfuRBFU]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?))/,
    /(?<number>\b(?:0[xob][\da-f_]+|\d[\d_]*\.?\d*(?:e[+-]?\d+)?j?)\b)/,
    /(?<keyword>\b(?:and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield|True|False|None)\b)/,
    /(?<builtin>\b(?:abs|all|any|bool|dict|divmod|enumerate|filter|float|format|int|isinstance|len|list|map|max|min|next|open|pow|print|range|repr|reversed|round|set|sorted|str|sum|tuple|type|zip)\b(?=\())/,
  ].map((part) => part.source).join("|"),
  "gi",
);

// Python with its words in colour.
function python(parent, code) {
  let at = 0;
  for (const found of code.matchAll(PYTHON)) {
    if (found.index > at) show(parent, code.slice(at, found.index));
    const kind = Object.keys(found.groups).find((name) => found.groups[name] !== undefined);
    parent.append(show(el("span", { class: `py-${kind}` }), found[0]));
    at = found.index + found[0].length;
  }
  if (at < code.length) show(parent, code.slice(at));
  return parent;
}

// Text with the words that were searched for marked.
function marked(parent, text, words) {
  const lower = text.toLowerCase();
  // Where lower case has another length, places would not be those of the text.
  let at = 0;
  while (words.length && lower.length === text.length) {
    const next = words
      .map((word) => [lower.indexOf(word, at), word.length])
      .filter(([place]) => place >= 0)
      .sort((a, b) => a[0] - b[0])[0];
    if (!next) break;
    show(parent, text.slice(at, next[0]));
    parent.append(show(el("mark"), text.slice(next[0], next[0] + next[1])));
    at = next[0] + next[1];
  }
  show(parent, text.slice(at));
  return parent;
}

function count(number) {
  return Math.round(number).toLocaleString("en");
}

function seconds(value) {
  if (value < 0.0995) return `${(1000 * value).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  if (value < 99.5) return `${value.toFixed(value < 9.95 ? 2 : 1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

function signed(value, digits = 2) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
}
