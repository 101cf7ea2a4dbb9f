// Accuracy against compute, and the strategies that are worth their compute.

const drawn = { x: null, log: true, coverage: true, bands: true, frontier: true, zero: false, hidden: new Set() };

function curvesSection() {
  if (!data.measures.length) return null;
  const panels = data.panels.map((panel) => ({ ...panel, host: h("div", { class: "chart" }), steps: h("div") }));
  const headed = (panel, ...rest) => [panels.length > 1 && h("h3", {}, panel.task), ...rest];
  drawn.x ??= (data.measures.find((one) => one.name === data.measure) ?? data.measures[0]).name;
  const draw = () => {
    document.querySelectorAll("i.swatch[data-track]").forEach((one) => {
      one.style.background = colourOf(Number(one.dataset.track));
    });
    for (const panel of panels) {
      drawCurves(panel);
      panel.steps.replaceChildren(frontierTable(panel));
    }
  };
  const set = (field) => (value) => {
    drawn[field] = value;
    draw();
  };
  redrawn.push(draw);
  requestAnimationFrame(draw);
  const axis = (one) => [one.name, one.unit ? `${one.label} (${one.unit})` : one.label];
  return section("curves", "Accuracy against compute",
    h("p", { class: "soft" }, "What a strategy reaches with a given budget for each problem. Solid: the answer it selects. " +
      "Dashed: coverage, whether any candidate is right: over all subsets where candidates are independent of each other, " +
      "else (plan search) replayed in the one order in which they were asked for."),
    h("div", { class: "controls" },
      choice("Compute", data.measures.map(axis), drawn.x, set("x")),
      tick("log scale", drawn.log, set("log")),
      tick("coverage", drawn.coverage, set("coverage")),
      tick("intervals", drawn.bands, set("bands")),
      tick("frontier", drawn.frontier, set("frontier")),
      tick("0 to 100 %", drawn.zero, set("zero"))),
    h("div", { id: "curves-chart" }, panels.map((panel) => headed(panel, legend(draw, panel), panel.host))),
    h("h3", {}, "Compute frontier"),
    h("p", { class: "soft" }, "The least compute, mean per problem, that bought each accuracy among the strategies shown; " +
      "those that use the hidden truth do not take part. Steps whose intervals overlap may not differ."),
    h("div", { id: "frontier" }, panels.map((panel) => headed(panel, panel.steps))), filteredTable());
}

// Of the accepted candidates k are submitted: the columns are powers of two, beyond its last k a strategy submits all.
function filteredTable() {
  if (!data.filtered.length) return null;
  const ks = [...new Set(data.filtered.flatMap((curve) => curve.k))].filter((k) => Number.isInteger(Math.log2(k)));
  const most = Math.max(...data.filtered.map((curve) => curve.k.at(-1)));
  const at = (curve, k) => {
    const i = curve.k.findLastIndex((one) => one <= k);
    return [h("b", {}, percent(curve.y[i])), h("small", {}, ` ${interval(curve.low[i], curve.high[i])}`)];
  };
  return h("div", { id: "filtered" }, h("h3", {}, "Filtered pass@k"),
    h("p", { class: "soft" }, "Whether any of k submitted candidates is right, where only those are submitted that the " +
      "verifier accepted: over all subsets of the accepted, after all candidates are paid for."),
    table([
      { name: "strategy", left: true, cell: (curve) => h("code", {}, titled(labelled(curve.track))) },
      ...ks.sort((a, b) => a - b).map((k) => ({ name: `k = ${k}`, cell: (curve) => at(curve, k) })),
      ...(ks.includes(most) ? [] : [{ name: "all accepted", cell: (curve) => at(curve, most) }]),
    ], data.filtered));
}

function legend(draw, { task, tracks }) {
  return h("div", { class: "legend", role: "group", "aria-label": `Strategies shown for ${task}` }, tracks.map((i) => {
    const button = h("button", { type: "button", "aria-pressed": String(!drawn.hidden.has(i)), "data-track": i,
      onclick: () => {
        if (!drawn.hidden.delete(i)) drawn.hidden.add(i);
        button.setAttribute("aria-pressed", String(!drawn.hidden.has(i)));
        draw();
      } }, h("i", { class: "swatch", "data-track": i, style: { background: colourOf(i) } }), name(i));
    return button;
  }));
}

const measure = () => data.measures.find((one) => one.name === drawn.x);

// Of one sample coverage is accuracy.
const oneSample = (curve) => curve.k.at(-1) === 1;

function visibleCurves({ tracks }) {
  const seen = new Set();
  const shown = data.curves[drawn.x].filter((curve) => tracks.includes(curve.track) && !drawn.hidden.has(curve.track));
  const coverage = shown.filter((curve) => curve.kind === "coverage" && (drawn.coverage || oneSample(curve)));
  return [...shown.filter((curve) => curve.kind === "selected"), ...coverage].filter((curve) => {
    const same = JSON.stringify([curve.x, curve.y]); // strategies that share their samples share coverage
    return !seen.has(same) && seen.add(same);
  });
}

// Of several points at the same compute, the last one: what it comes to.
const points = (curve) => curve.x.map((x, i) => ({
  x, y: curve.y[i], low: curve.low[i], high: curve.high[i], k: curve.k[i], cap: curve.cap?.[i], note: curve.estimator }))
  .filter(({ x }, i) => x !== curve.x[i + 1]);

function drawCurves(panel) {
  const { label, unit, name: x } = measure();
  const series = visibleCurves(panel).map((curve) => ({
    label: name(curve.track) + (curve.kind === "coverage" && !oneSample(curve) ? ", coverage" : ""),
    colour: colourOf(curve.track), dash: curve.kind === "coverage" && !oneSample(curve) ? [5, 5] : undefined, points: points(curve) }));
  const steps = frontier(panel);
  if (drawn.frontier && steps.length > 1 && comparable(panel.tracks)) {
    series.unshift({ label: "frontier", colour: isDark() ? "#56606c" : "#c9c5ba", width: 7, step: true,
      points: steps.map(({ x: at, y, k, track }) => ({ x: at, y, k, note: name(track) })) });
  }
  const base = x === "samples" || ratio(series) < 100 ? 2 : 10;
  lineChart(panel.host, { series, bands: drawn.bands, x: { label: unit ? `${label} (${unit})` : label, log: drawn.log, base, name: x },
    y: { label: "accuracy", share: true, zero: drawn.zero }, about: `${panel.task}: accuracy against ${label}` });
}

function ratio(series) {
  const xs = series.flatMap((one) => one.points.map((point) => point.x)).filter((value) => value > 0);
  return Math.max(...xs) / Math.min(...xs);
}

// Points of selected accuracy over the problems that all have, in order of compute, each better than all cheaper ones.
function frontier({ tracks, frontier: common }) {
  const all = (common?.curves ?? data.curves)[drawn.x]
    .filter((curve) => tracks.includes(curve.track))
    .filter((curve) => curve.kind === "selected" || oneSample(curve))
    .filter((curve) => !drawn.hidden.has(curve.track) && !data.tracks[curve.track].oracle)
    .flatMap((curve) => points(curve).map((point) => ({ ...point, track: curve.track })))
    .sort((a, b) => a.x - b.x || b.y - a.y);
  let reached = 0;
  return all.filter((point) => point.y > reached + 1e-9 && ((reached = point.y), true));
}

function frontierTable(panel) {
  const { label, unit } = measure();
  const steps = frontier(panel);
  const soft = (words) => h("p", { class: "soft" }, words);
  if (!comparable(panel.tracks) || panel.frontier?.problems === 0)
    return soft("The strategies were not tried on the same problems; there is no common frontier.");
  if (!steps.length) return soft("None of the strategies shown can be used without the hidden truth.");
  const shared = panel.frontier && soft(`Over the ${plural(panel.frontier.problems, "problem")} that all strategies have ` +
    "finished; the curves are over their own.");
  return h("div", {}, shared, table([
    { name: unit ? `${label} (${unit})` : label, left: true, cell: (point) => precise(point.x) },
    { name: "accuracy", cell: (point) => h("b", {}, percent(point.y)) },
    { name: "95 %", cell: (point) => interval(point.low, point.high) },
    { name: "strategy", left: true, cell: (point) => h("code", {}, name(point.track)) },
    { name: "samples", cell: (point) => count(point.k) },
  ], steps));
}
