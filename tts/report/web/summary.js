// The head of the report: what it comes to, and a row for each strategy.

// The model is named where there are several.
const severalModels = () => new Set(data.tracks.map((track) => track.model)).size > 1;
const titled = (track) => (severalModels() ? track.label : track.label.replace(` · ${track.model}`, ""));
const name = (track) => titled(data.tracks[track]);
const labelled = (label) => data.tracks.find((track) => track.label === label);

function summarySection() {
  return section("summary", "Summary", cards(), summaryTable(), notes());
}

function cards() {
  if (!data.tracks.some((track) => known(track.accuracy))) return h("p", { class: "soft" }, "Nothing is graded yet.");
  const sum = (field) => data.tracks.reduce((total, track) => total + track[field], 0);
  const tokens = sum("paid_completion_tokens"), alone = sum("completion_tokens");
  const money = data.tracks.every((track) => known(track.paid_money)) ? sum("paid_money") : null;
  return h("div", { class: "cards" },
    data.contests.map(contestCard),
    data.contests.length === 1 && sampleCard(data.contests[0]),
    data.contests.length === 1 && coverageCard(labelled(data.contests[0].best)),
    card("Spent", short(tokens), "generated tokens, each paid once",
      alone > tokens && `${short(alone)} if every strategy had run alone, as the table counts`,
      `${plural(data.tracks.reduce((sum, track) => sum + track.candidates, 0), "candidate")} of ` +
      plural(data.problems.length, "problem"), known(money) && money > 0 && `${precise(money)} ${data.tracks[0].currency}`));
}

const card = (title, value, ...words) => h("div", { class: "card" },
  h("h3", {}, title), h("p", { class: "figure" }, value), words.filter(Boolean).map((text) => h("p", {}, text)));

const inWords = ({ words }) => (severalModels() ? words : words.replaceAll(` · ${data.tracks[0].model}`, ""));

// Who is ahead, and whether that is more than chance.
function contestCard(contest) {
  const best = labelled(contest.best);
  const title = !contest.others.length ? "Accuracy" : contest.equals.length ? "Most accurate" : "Best strategy";
  return card(best.oracle ? `${title}, by the hidden truth` : title, percent(best.accuracy),
    known(best.low) && `95 %: ${interval(best.low, best.high)}`, h("code", {}, titled(best)), inWords(contest));
}

function sampleCard({ one, sample }) {
  return one && card("One sample", percent(one.mean), `95 %: ${interval(one.low, one.high)}`,
    sample && `the most accurate: ${signed(sample.difference)} points (${signed(sample.low)} to ${signed(sample.high)})`);
}

const coverageCard = (track) => card("Coverage", percent(track.coverage),
  known(track.coverage_low) && `95 %: ${interval(track.coverage_low, track.coverage_high)}`,
  "problems with any right candidate", h("code", {}, titled(track)));

const signed = (difference) => `${difference < 0 ? "−" : "+"}${Math.abs(100 * difference).toFixed(1)}`;

// Whether tracks, by default all, were tried on problems in common: otherwise their accuracies say nothing of each other.
function comparable(tracks = data.tracks.keys()) {
  const tried = [...tracks].map((track) =>
    new Set(data.grid[track].outcomes.flatMap((letters, place) => (letters === null ? [] : [place]))));
  return tried.every((places) => [...places].some((place) => tried[0].has(place)));
}

function summaryTable() {
  const money = data.tracks.some((track) => track.money > 0);
  const verified = data.tracks.some((track) => track.verifier_seconds >= 0.1);
  const lost = data.tracks.some((track) => track.lost_samples > 0);
  const models = severalModels();
  const low = Math.min(...data.tracks.map((track) => track.low ?? track.accuracy ?? 1));
  const from = Math.max(0, Math.floor((low - 0.05) * 10) / 10);
  const label = (track) => track.label.replace(` · ${track.model}`, "");
  return table([
    { name: "strategy", left: true, sort: (track) => track.label, cell: (track) => [
      h("i", { class: "swatch", style: { background: colourOf(data.tracks.indexOf(track)) }, "data-track": data.tracks.indexOf(track) }),
      h("code", {}, label(track))] },
    ...(models ? [{ name: "model", left: true, sort: (track) => track.model, cell: (track) => track.model }] : []),
    { name: "problems", sort: (track) => track.problems, cell: (track) => count(track.problems) },
    { name: "accuracy", sort: (track) => track.accuracy, cell: (track) => h("b", {}, percent(track.accuracy)) },
    { name: `95 %, ${100 * from} to 100 %`, left: true, cell: (track) => forest(track, from) },
    ...(data.contests.some((contest) => contest.others.length) ? [{ name: "behind the most accurate", left: true, cell: behind }] : []),
    { name: "coverage", sort: (track) => track.coverage, cell: (track) => [percent(track.coverage),
      known(track.coverage_low) && h("small", {}, ` ${interval(track.coverage_low, track.coverage_high)}`)] },
    { name: "candidates", sort: (track) => track.candidates, cell: (track) => count(track.candidates) },
    { name: "generated tokens", sort: (track) => track.completion_tokens, cell: (track) => count(track.completion_tokens) },
    { name: "requests", sort: (track) => track.requests, cell: (track) => count(track.requests) },
    ...(verified ? [{ name: "verifying", sort: (track) => track.verifier_seconds,
      cell: (track) => duration(track.verifier_seconds) }] : []),
    ...(money ? [{ name: "money", sort: (track) => track.money, cell: (track) => `${precise(track.money)} ${track.currency}` }] : []),
    ...(lost ? [{ name: "lost", sort: (track) => track.lost_samples, cell: (track) => count(track.lost_samples) }] : []),
  ], data.tracks);
}

// By how much a track is less accurate than the most accurate one, on the problems that all have.
function behind(track) {
  const found = data.contests.flatMap((contest) => contest.others).find((other) => other.track === track.label);
  if (!found) return NOTHING;
  return [signed(-found.difference), h("small", {}, ` ${signed(-found.high)} to ${signed(-found.low)}`)];
}

// The interval as a line with a dot, on one scale for all rows.
function forest(track, from) {
  if (!known(track.accuracy)) return NOTHING;
  const x = (value) => 4 + ((value - from) / (1 - from)) * 132;
  const colour = colourOf(data.tracks.indexOf(track));
  return h("span", { class: "forest" }, svg("svg", { width: 140, height: 18, viewBox: "0 0 140 18", role: "img",
    "aria-label": interval(track.low, track.high) },
  svg("line", { x1: 4, x2: 136, y1: 9, y2: 9, class: "rail" }),
  known(track.low) && svg("line", { x1: x(track.low), x2: x(track.high), y1: 9, y2: 9, stroke: colour, "stroke-width": 3,
    "stroke-linecap": "round" }),
  svg("circle", { cx: x(track.accuracy), cy: 9, r: 5, fill: colour })),
  h("small", {}, interval(track.low, track.high)));
}

function notes() {
  const sum = (field) => data.tracks.reduce((total, track) => total + (track[field] || 0), 0);
  const words = [
    data.tracks.some((track) => track.oracle) && "(oracle): the hidden truth was used to find or select the answer; " +
      "no such verifier exists where the answer is not known.",
    sum("failed") && `Without a usable candidate, and so not solved: ${plural(sum("failed"), "problem")}.`,
    sum("abstained") && `Without a selected answer, and so not solved: ${plural(sum("abstained"), "problem")}.`,
    sum("ungraded") && `Not graded, and so left out of the accuracy: ${plural(sum("ungraded"), "problem")}.`,
    sum("ungraded_candidates") && `${plural(sum("ungraded_candidates"), "candidate")} could not be graded: what grades ` +
      "them failed, see their details.",
    sum("unrated_candidates") && `${plural(sum("unrated_candidates"), "candidate")} could not be rated: their verifier ` +
      "failed, see their details.",
    sum("settled_early") && `${plural(sum("settled_early"), "search", "searches")} ended early, their selection settled.`,
    sum("budget_ended") && `${plural(sum("budget_ended"), "search", "searches")} ended because their budget was spent.`,
    sum("cut_off") && "Cut off by the budget, and left out of pass@k, best-of-k and majority@k: " +
      `${plural(sum("cut_off"), "candidate")}.`,
    data.tracks.some((track) => track.estimator !== "replay") && "Accuracies by best-of-k and majority are means over " +
      "all orders of the samples, ties averaged, as in the curves.",
    ...data.lacks.map((text) => `${text}.`),
    ...data.uneven.map((text) => `${text}.`),
    sum("estimated_tokens") && `Estimates, which the server did not count: ${plural(sum("estimated_tokens"), "token")}.`,
    comparable() && known(data.tracks[0]?.shared_problems) && "The strategies have finished different problems or seeds, " +
      `and rows are over their own. Over the ${plural(data.tracks[0].shared_problems, "problem")} that all have: ` +
      data.tracks.map((track) => `${titled(track)} ${percent(track.shared_accuracy)}` +
        (known(track.shared_low) ? ` (${interval(track.shared_low, track.shared_high)})` : "")).join(", ") + ".",
    !comparable() && (data.panels.length > 1 ? "Accuracies on different tasks do not compare."
      : "The strategies were not tried on the same problems: their accuracies do not compare."),
    ...data.contests.filter((contest) => contest.others.length)
      .map((contest) => `${inWords(contest).replace(/^no /, "No ")}.`),
    "Intervals are 95 % intervals over problems.",
    ...data.without_curves.map((text) => `No curve of ${text}.`),
  ].filter(Boolean);
  return h("ul", { class: "notes soft" }, words.map((text) => h("li", {}, text)));
}
