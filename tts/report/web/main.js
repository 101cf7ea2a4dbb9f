// Puts the parts together, and again when a run that goes on has more.

function facts() {
  const tasks = [...new Set(data.runs.map((run) => run.config.task?.name ?? String(run.config.task)))];
  const models = [...new Set(data.tracks.map((track) => track.model))];
  return [
    `${tasks.length > 1 ? "Tasks" : "Task"} ${tasks.join(", ")}`, models.join(", "), plural(data.problems.length, "problem"),
    plural(data.tracks.length, "strategy", "strategies"),
  ].filter(Boolean).join(" · ");
}

function sampledNote() {
  if (!data.chunks || !data.chunks.includes(null)) return null;
  const kept = data.chunks.filter((chunk) => chunk !== null).length;
  return h("p", { class: "note", id: "sampled" }, `All figures are of all ${plural(data.problems.length, "problem")}. The candidates' texts of ` +
    `${count(kept)} of them are in this file, at equal distances; \`tts view\` shows every one.`);
}

function progressNote() {
  const done = data.runs.reduce((sum, run) => sum + run.progress.done, 0);
  const expected = data.runs.reduce((sum, run) => sum + run.progress.expected, 0);
  if (done >= expected) return null;
  return h("div", { class: "note", id: "going" }, h("progress", { max: expected, value: done, "aria-label": "finished" }),
    ` ${count(done)} of ${plural(expected, "cell")} finished; ` + (source.live ? "this page follows." : "this is what there was when the report was written."));
}

function draw() {
  redrawn.length = 0;
  document.title = `${data.title} · tts report`;
  $("title").textContent = data.title;
  $("facts").textContent = facts();
  const parts = [summarySection(), curvesSection(), problemsSection(), verifiersSection(), studiesSection(), madeSection()].filter(Boolean);
  $("main").replaceChildren(...[progressNote(), sampledNote(), ...parts].filter(Boolean));
  $("sections").replaceChildren(...parts.map((part) => h("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  $("foot").textContent = `Made by ${data.made.by}, ${data.made.at.replace("T", " ").replace("+00:00", " UTC")}. ` +
    (source.live ? "" : "This file needs no network. ") + "Charts: uPlot 1.6.32 (MIT).";
  redrawn.push(() => document.querySelectorAll("i.swatch[data-track]").forEach((one) => {
    one.style.background = colourOf(Number(one.dataset.track));
  }));
}

function openFromAddress() {
  const found = location.hash.match(/^#problem-(\d+)$/);
  if (found && Number(found[1]) < data.problems.length) openProblem(Number(found[1]), opened?.track ?? 0);
  else closeProblem();
}

const busy = () => dialog.open || ["SELECT", "INPUT"].includes(document.activeElement?.tagName);

async function follow() {
  for (;;) {
    await new Promise((done) => setTimeout(done, 2000));
    if (document.hidden || busy()) continue;
    try {
      const found = await source.overview();
      $("foot").classList.remove("bad");
      if (!found) continue;
      data = found;
      const top = scrollY;
      draw();
      requestAnimationFrame(() => scrollTo({ top, behavior: "instant" }));
    } catch (error) {
      $("foot").classList.add("bad");
      $("foot").textContent = `The server does not answer (${error.message}); this is its last state.`;
    }
  }
}

async function begin() {
  $("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]));
  try {
    data = await source.overview();
  } catch (error) {
    const why = typeof DecompressionStream === "undefined" ? "this browser is too old to unpack it (it lacks DecompressionStream)" : error.message;
    $("main").replaceChildren(h("p", { class: "bad" }, `The report cannot be shown: ${why}.`));
    return;
  }
  draw();
  addEventListener("hashchange", openFromAddress);
  addEventListener("popstate", openFromAddress);
  if (location.hash.startsWith("#problem-")) openFromAddress();
  document.documentElement.dataset.ready = "";
  if (source.live) follow();
}

begin();
