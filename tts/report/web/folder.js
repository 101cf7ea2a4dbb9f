// The runs of a folder: how far they are, what they reach; one or several open as a report.

const picked = new Set();
const address = (names) => `/report?${new URLSearchParams(names.map((one) => ["run", one]))}`;

const STATE = { finished: "finished", running: "running", stalled: "running, but nothing new for minutes",
  stopped: "stopped: continue it with tts run --resume --out" };
const ORDER = {
  latest: (a, b) => b.touched - a.touched,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  accuracy: (a, b) => best(b) - best(a),
};
const best = (run) => Math.max(-1, ...(run.tracks ?? []).map((track) => track.accuracy ?? -1));
let known_runs = [];
let shown = { words: "", order: "latest", state: "any" };

// Whether the words looked for are in what a run is called or made of.
function isSought(run) {
  const told = [run.name, run.task, ...(run.tracks ?? []).flatMap((track) => [track.strategy, track.model]),
    ...Object.entries(run.settings ?? {}).map((pair) => pair.join("="))].join(" ").toLowerCase();
  return (shown.state === "any" || run.state === shown.state)
    && shown.words.toLowerCase().split(/\s+/).every((word) => told.includes(word));
}

// The settings in which a run differs from others of its task.
function differences(run, runs) {
  const others = runs.filter((other) => other.task === run.task && other.settings);
  return Object.keys(run.settings ?? {}).filter((key) => others.some((other) => other.settings[key] !== run.settings[key]))
    .map((key) => `${key} = ${run.settings[key]}`);
}

function draw() {
  const runs = known_runs.filter(isSought).sort(ORDER[shown.order]);
  $("facts").textContent = known_runs.length ? `${count(runs.length)} of ${plural(known_runs.length, "run")}` : "There is no run in this folder yet.";
  $("main").replaceChildren(compare, ...runs.map((run) => runCard(run, differences(run, known_runs))));
}

function controls() {
  const pick = (key) => (value) => { shown = { ...shown, [key]: value }; draw(); };
  const words = h("input", { type: "search", placeholder: "name, task, strategy, model, setting", "aria-label": "Find runs",
    oninput: (event) => pick("words")(event.target.value) });
  return h("div", { class: "controls" }, words,
    choice("Order", [["latest", "the latest first"], ["name", "by name"], ["accuracy", "the most accurate first"]], "latest", pick("order")),
    choice("State", [["any", "any"], ["running", "running"], ["stalled", "stalled"], ["stopped", "stopped"], ["finished", "finished"]],
      "any", pick("state")));
}

function runCard(run, differs) {
  const title = h("a", { href: address([run.name]) }, run.name);
  if (run.error) return h("section", {}, h("h2", {}, run.name), h("p", { class: "soft" }, run.error));
  const { done, expected } = run.progress;
  const ended = run.state === "finished";
  return h("section", { class: "run", "data-run": run.name }, h("div", { class: "bar" }, h("h2", {}, title),
    tick("compare", picked.has(run.name), (on) => {
      if (on) picked.add(run.name);
      else picked.delete(run.name);
      showCompare();
    })),
  h("p", { class: "soft" }, `${run.task}${run.started ? ` · begun ${new Date(run.started * 1000).toLocaleString()}` : ""}`),
  h("p", {}, h("progress", { max: Math.max(1, expected), value: done, "aria-label": "finished" }),
    h("span", { class: `badge ${{ running: "good", finished: "" }[run.state] ?? "bad"}`, "data-state": run.state }, STATE[run.state]),
    ended ? ` ${plural(done, "cell")}` : ` ${count(done)} of ${plural(expected, "cell")}`),
  differs.length ? h("details", {}, h("summary", {}, `${plural(differs.length, "setting")} other than in other runs of the task`),
    h("ul", {}, differs.map((words) => h("li", {}, h("code", {}, words))))) : null,
  table([
    { name: "strategy", left: true, cell: (track) => h("code", {}, track.strategy + (track.oracle ? " (oracle)" : "")) },
    { name: "model", left: true, cell: (track) => track.model },
    { name: "problems", cell: (track) => count(track.problems) },
    { name: "right so far", cell: (track) => h("b", {}, percent(track.accuracy)) },
  ], run.tracks));
}

const compare = h("p", { class: "note", hidden: true });
function showCompare() {
  compare.hidden = picked.size < 2;
  compare.replaceChildren(h("a", { href: address([...picked]) }, `Compare ${[...picked].join(" and ")}`));
}

async function refresh() {
  try {
    const answer = await fetch("/api/runs");
    known_runs = await answer.json();
    draw();
    $("foot").textContent = "This page follows what happens in the folder.";
  } catch (error) {
    $("foot").textContent = `The server does not answer (${error.message}); this is its last state.`;
  }
}

async function begin() {
  $("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]));
  $("facts").after(controls());
  for (;;) {
    if (!document.hidden && !$("main").contains(document.activeElement)) await refresh();
    document.documentElement.dataset.ready = "";
    await new Promise((done) => setTimeout(done, 2000));
  }
}

begin();
