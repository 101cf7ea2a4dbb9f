// The runs of a folder: how far they are, what they reach; one or several open as a report.

const picked = new Set();
const address = (names) => `/report?${new URLSearchParams(names.map((one) => ["run", one]))}`;

function runCard(run) {
  const title = h("a", { href: address([run.name]) }, run.name);
  if (run.error) return h("section", {}, h("h2", {}, run.name), h("p", { class: "soft" }, run.error));
  const { done, expected } = run.progress;
  const ended = done >= expected;
  return h("section", { class: "run", "data-run": run.name }, h("div", { class: "bar" }, h("h2", {}, title),
    tick("compare", picked.has(run.name), (on) => {
      if (on) picked.add(run.name);
      else picked.delete(run.name);
      showCompare();
    })),
  h("p", { class: "soft" }, `${run.task}${run.started ? ` · begun ${new Date(run.started * 1000).toLocaleString()}` : ""}`),
  h("p", {}, h("progress", { max: Math.max(1, expected), value: done, "aria-label": "finished" }),
    h("span", { class: ended ? "soft" : "" }, ended ? ` finished, ${count(done)} parts` : ` ${count(done)} of ${count(expected)} parts`)),
  table([
    { name: "strategy", left: true, cell: (track) => h("code", {}, track.strategy + (track.oracle ? " (oracle)" : "")) },
    { name: "model", left: true, cell: (track) => track.model },
    { name: "problems", cell: (track) => count(track.cells) },
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
    const runs = await answer.json();
    $("facts").textContent = runs.length ? `${plural(runs.length, "run")}, the latest first` : "There is no run in this folder yet.";
    $("main").replaceChildren(compare, ...runs.map(runCard));
    $("foot").textContent = "This page follows what happens in the folder.";
  } catch (error) {
    $("foot").textContent = `The server does not answer (${error.message}); this is its last state.`;
  }
}

async function begin() {
  $("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]));
  for (;;) {
    if (!document.hidden && !$("main").contains(document.activeElement)) await refresh();
    document.documentElement.dataset.ready = "";
    await new Promise((done) => setTimeout(done, 2000));
  }
}

begin();
