// What verifiers are worth: their rates against the truth, selecting by them, and whether more samples pay.

const looked = { verifier: 0, resampling: 0 };

function verifiersSection() {
  if (!data.verifiers.length && !data.resampling.length) return null;
  return section("verifiers", "Verifiers",
    data.verifiers.length ? [rates(), selecting()] : null,
    data.resampling.length ? paying() : null,
    data.heterogeneity.length ? roomForVerifier() : null);
}

const titledAs = (label) => {
  const track = data.tracks.find((one) => one.label === label);
  return track ? titled(track) : label;
};
const decimal = (value) => (known(value) ? value.toFixed(3) : NOTHING);

function rates() {
  return [
    h("p", { class: "soft" }, "Completeness: the share of right candidates that is accepted. Soundness: the share of wrong ones that is refused. " +
      "AUROC within problems is what selection depends on; 0.5 is chance."),
    table([
      { name: "verifier", left: true, cell: (one) => [h("code", {}, one.verifier), h("br"), h("small", { class: "soft" }, titledAs(one.track))] },
      { name: "rated", cell: (one) => count(one.rated) },
      { name: "right", cell: (one) => percent(one.right) },
      { name: "completeness", cell: (one) => percent(one.decisions.completeness) },
      { name: "soundness", cell: (one) => percent(one.decisions.soundness) },
      { name: "false discovery", cell: (one) => percent(one.decisions.false_discovery) },
      { name: "AUROC", cell: (one) => decimal(one.auroc) },
      { name: "within problems", cell: (one) => decimal(one.auroc_within) },
      { name: "calibration error", cell: (one) => decimal(one.calibration?.error) },
    ], data.verifiers)];
}

// A chart with a choice of what it is about and sentences beneath.
function chosen(items, field, title, about, draw) {
  if (!items.length) return null;
  const host = h("div", { class: "chart" });
  const words = h("ul", { class: "findings" });
  const show = () => {
    const one = items[looked[field]];
    draw(host, one);
    words.replaceChildren(...one.findings.map((text) => h("li", {}, text)));
  };
  redrawn.push(show);
  requestAnimationFrame(show);
  return [h("h3", {}, title), h("p", { class: "soft" }, about),
    items.length > 1 && h("div", { class: "controls" }, choice("Of", items.map((one, i) => [i, one.name]), looked[field], (value) => {
      looked[field] = Number(value);
      show();
    })), host, words];
}

const along = (k, part) => k.map((x, i) => ({ x, y: part.mean[i], low: part.low[i], high: part.high[i], k: x }));

function selecting() {
  const items = data.verifiers.filter((one) => one.selection).map((one) => ({ ...one, name: `${one.verifier} · ${titledAs(one.track)}` }));
  looked.verifier = Math.min(looked.verifier, Math.max(0, items.length - 1));
  return chosen(items, "verifier", "Selecting by it", "Accuracy of the best-rated of N samples, against a random one and the most frequent answer.",
    (host, { selection, verifier }) => lineChart(host, {
      series: [
        { label: verifier, colour: colourOf(0), points: along(selection.n, selection.verifier) },
        { label: "a random sample", colour: colourOf(7), dash: [5, 5], points: along(selection.n, selection.random) },
        ...(selection.majority ? [{ label: "the majority", colour: colourOf(2), points: along(selection.n, selection.majority) }] : []),
      ],
      x: { label: "samples N", log: true, base: 2, name: "samples" }, y: { label: "accuracy", share: true }, bands: true, legend: true, height: 320,
      about: "Accuracy of selecting one of N" }));
}

function paying() {
  const items = data.resampling.map((one) => ({ ...one, name: titledAs(one.track) }));
  looked.resampling = Math.min(looked.resampling, items.length - 1);
  return [chosen(items, "resampling", "Do more samples pay?", "Worth of drawing until one is accepted, K times at most: an accepted right answer gains 1, " +
    "an accepted wrong one costs λ, no answer is 0. The ring is K*, where to stop (Stroebl et al. 2024).",
  (host, one) => lineChart(host, {
    series: one.rewards.map((reward, i) => ({ label: `λ = ${reward.best.ratio}`, colour: colourOf(i), points: along(reward.k, reward.value),
    })),
    marks: one.rewards.flatMap((reward, i) => (reward.best.k >= 1 ? [{ x: reward.best.k, y: reward.best.reward, colour: colourOf(i) }] : [])),
    x: { label: "K, samples at most", log: true, base: 2, name: "samples" }, y: { label: "worth R(K, λ)" }, bands: true, legend: true, height: 360,
    about: "Worth of resampling against its limit" })),
  lambdas(items), contests()];
}

function lambdas(items) {
  const host = h("div", { class: "lambda" });
  const rows = items.flatMap((one) => one.rewards.map((reward) => ({ track: one.track, reward })));
  const k = (best) => (best.k === null ? "∞" : `${count(best.k)}${best.at_most ? " or more" : ""}`);
  host.append(h("details", {}, h("summary", {}, "K* for each λ"), table([
    { name: "strategy", left: true, cell: (row) => h("code", {}, titledAs(row.track)) },
    { name: "λ", cell: (row) => row.reward.best.ratio },
    { name: "K*", cell: (row) => h("b", {}, k(row.reward.best)) },
    { name: "worth there", cell: (row) => decimal(row.reward.best.reward) },
    { name: "K* by the model of two types", cell: (row) => k(row.reward.model) },
    { name: "worth of all samples", cell: (row) => decimal(row.reward.value.mean.at(-1)) },
  ], rows)));
  return host;
}

function contests() {
  if (!data.rivalries.length) return null;
  return h("ul", { class: "findings" }, data.rivalries.map((one) => h("li", {}, `${one.weak} against ${one.strong}: `,
    one.hopeless ? `no number of samples catches up, ${percent(one.conditional_accuracy)} against ${percent(one.strong_accuracy)}`
      : one.k === null ? "it does not catch up with the samples there are" : `as often right from ${one.k} attempts on`)));
}

function roomForVerifier() {
  return [h("h3", {}, "Would a better verifier find something?"),
    h("p", { class: "soft" }, "How different the attempts at the same problem are, and for which share of the problems a verifier, a majority or neither gains."),
    table([
      { name: "strategy", left: true, cell: (one) => h("code", {}, titledAs(one.track)) },
      { name: "mean", cell: (one) => percent(one.mean) },
      { name: "spread", cell: (one) => decimal(one.spread) },
      { name: "for a verifier", cell: (one) => percent(one.shares.verifier) },
      { name: "for a majority", cell: (one) => percent(one.shares.majority) },
      { name: "hopeless", cell: (one) => percent(one.shares.neither) },
      { name: "in all", left: true, cell: (one) => one.advice },
    ], data.heterogeneity)];
}
