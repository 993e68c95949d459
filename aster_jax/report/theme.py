"""How the page looks, and the few lines of script that filter its trajectories."""

# Of one trajectory, wherever it is shown (the page, a notebook).
EPISODE_CSS = """
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%;
  margin-right: 6px; }
.badge { display: inline-block; font-size: 12.5px; line-height: 1; padding: 4px 8px;
  border-radius: 10px; background: #eceff3; color: #3d4550; margin-left: 4px; }
.badge.ok, .badge.correct { background: #d9f0e6; color: #0a6a55; }
.badge.warn { background: #fdebd0; color: #8a5300; }
.badge.wrong { background: #fadcd9; color: #9c2b22; }
.episode { background: #ffffff; color: #24292f; border: 1px solid #e1e4e8;
  border-radius: 8px; margin: 8px 0; padding: 0 14px; }
.episode > summary { cursor: pointer; padding: 10px 0; font-size: 14.5px; }
.episode .question { display: block; color: #6b7280; margin: 4px 0 0 16px; }
.episode section { margin: 8px 0; border-left: 4px solid; border-radius: 4px;
  padding: 6px 12px 8px; }
.episode section header { font-size: 12.5px; font-weight: 700; text-transform: uppercase;
  letter-spacing: 0.05em; }
.episode section header .badge { text-transform: none; letter-spacing: 0; }
.episode section.prompt { background: #f4f5f7; border-color: #b4bac3; }
.episode section.prompt header { color: #6b7280; }
.episode section.model { background: #eef4fb; border-color: #2f74c0; }
.episode section.model header { color: #2f74c0; }
.episode section.tool { background: #fdf6e7; border-color: #e08a1e; margin-left: 28px; }
.episode section.tool header { color: #a4610b; }
.episode pre, .config pre { margin: 4px 0 0; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 480px; overflow-y: auto;
  font: 13.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; }
.episode pre.code { background: #1f2630; color: #e6edf3; border-radius: 6px; padding: 10px 12px;
  margin: 6px 0; }
.episode pre.after { color: #7d8794; }
.episode pre:empty { display: none; }
"""

CSS = """
:root { --ink: #24292f; --soft: #6b7280; --line: #e1e4e8; --paper: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 80px; }
h1 { font-size: 28px; margin: 8px 0 4px; }
h2 { font-size: 20px; margin: 40px 0 12px; }
p.lead, p.note, .facts { color: var(--soft); }
p.note, .facts { font-size: 14px; margin: 8px 0; }
ul.conclusions { margin: 12px 0; padding: 12px 16px 12px 34px; background: #eaf3ef;
  border-left: 4px solid #0b8a6f; border-radius: 6px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; margin: 12px 0; overflow-x: auto; }
.missing { color: var(--soft); font-style: italic; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: left; white-space: pre;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
tbody tr:last-child td { border-bottom: none; }
.filter { display: flex; flex-wrap: wrap; gap: 12px; align-items: center; font-size: 14.5px;
  position: sticky; top: 0; background: #f6f7f9; padding: 10px 0; z-index: 1; }
.filter[hidden] { display: none; }
.filter select { font: inherit; padding: 4px 8px; border: 1px solid #c5cad1;
  border-radius: 6px; background: white; }
details.config > summary { cursor: pointer; color: var(--soft); }
@media print { .filter { display: none; } pre { max-height: none; } }
""" + EPISODE_CSS

# Without script everything is visible; with it, three menus hide what does not match.
JS = """
"use strict";
const bar = document.querySelector(".filter");
const menus = Array.from(bar.querySelectorAll("select"));
const episodes = Array.from(document.querySelectorAll(".episode"));
const count = bar.querySelector("output");
function filter() {
  let shown = 0;
  for (const episode of episodes) {
    const fits = menus.every((m) => !m.value || episode.dataset[m.name] === m.value);
    episode.hidden = !fits;
    shown += fits;
  }
  count.textContent = shown + " of " + episodes.length + " shown";
}
menus.forEach((m) => m.addEventListener("change", filter));
bar.hidden = false;
filter();
"""
