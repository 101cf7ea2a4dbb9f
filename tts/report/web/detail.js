// One problem: what was asked, every candidate with its verdict, how candidates came about, when calls were made, the cost.

let opened = null; // { place, track }
const dialog = $("problem");

function openProblem(place, track = 0) {
  opened = { place, track };
  if (location.hash !== `#problem-${place}`) history.pushState(null, "", `#problem-${place}`);
  if (!dialog.open) dialog.showModal();
  hover(null);
  return showProblem();
}

function closeProblem() {
  if (dialog.open) dialog.close();
}

dialog.addEventListener("close", () => {
  opened = null;
  if (location.hash.startsWith("#problem-")) history.replaceState(null, "", `${location.pathname}${location.search}`);
});
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) closeProblem(); // the ground beside it
});
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step && !event.target.closest("pre, input, select, [role=tablist], [role=tree], svg")) turnProblem(step);
});

function turnProblem(step) {
  const places = order.includes(opened.place) ? order : data.problems.map((_, place) => place);
  const next = places[places.indexOf(opened.place) + step];
  if (next !== undefined) openProblem(next, opened.track);
}

async function showProblem() {
  const { place } = opened;
  const places = order.includes(place) ? order : data.problems.map((_, i) => i);
  const at = places.indexOf(place);
  const step = (by, text) => h("button", { type: "button", "aria-label": `${text} problem`, disabled: places[at + by] === undefined,
    onclick: () => turnProblem(by) }, by < 0 ? "‹" : "›");
  const body = h("div", { class: "body", tabindex: -1 }, h("p", { class: "soft" }, "Unpacking …"));
  dialog.replaceChildren(
    h("header", {}, h("h2", { id: "problem-title" }, data.problems[place]),
      h("span", { class: "soft" }, `${count(at + 1)} of ${count(places.length)}`),
      step(-1, "Previous"), step(1, "Next"),
      h("button", { type: "button", class: "close", "aria-label": "Close", onclick: closeProblem }, "✕")),
    body);
  body.focus();
  let found;
  try {
    found = await source.problem(place);
  } catch (error) {
    return body.replaceChildren(h("p", { class: "bad" }, `This problem cannot be shown: ${error.message}`));
  }
  if (opened?.place !== place) return;
  body.replaceChildren(...(found ? whole(found) : withoutDetails(place)));
}

function withoutDetails(place) {
  const kept = data.chunks.filter((chunk) => chunk !== null).length;
  return [
    h("p", {}, `This file has the candidates of ${count(kept)} of ${plural(data.problems.length, "problem")}, at equal distances; ` +
      "this one is not among them. `tts view` shows all of them. How they came out:"),
    ...data.grid.map((grid, track) => grid.outcomes[place] !== null && h("div", {}, h("h3", {}, name(track)),
      dots([...grid.outcomes[place]].map((letter) => ({ right: "Rrt".includes(letter) ? 1 : letter === "u" ? null : 0,
        passed: "RW".includes(letter) ? true : "rw".includes(letter) ? false : null })), null, null))).filter(Boolean),
  ];
}

function whole(found) {
  const pane = h("div", { role: "tabpanel", id: "cell" });
  const cells = found.cells;
  const seeds = new Set(cells.map((cell) => cell.seed)).size > 1;
  if (!cells.length) pane.append(h("p", { class: "soft" }, "No strategy has come to this problem yet."));
  const first = Math.max(0, cells.findIndex((cell) => cell.track === opened.track));
  const select = (number) => {
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === number));
      tab.tabIndex = i === number ? 0 : -1;
    });
    opened.track = cells[number].track;
    pane.replaceChildren(...cellView(cells[number]));
  };
  const tabs = cells.map((cell, number) => h("button", { type: "button", role: "tab", "aria-controls": "cell",
    onclick: () => select(number),
    onkeydown: (event) => {
      const next = number + ({ ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0);
      if (next === number || !tabs[next]) return;
      tabs[next].focus();
      select(next);
    } }, h("i", { class: "swatch", style: { background: colourOf(cell.track) } }),
  name(cell.track) + (seeds ? ` · seed ${cell.seed}` : "")));
  if (cells.length) select(first);
  return [
    found.prompt ? h("details", { class: "prompt", open: true }, h("summary", {}, "What was asked"),
      found.prompt.map((message) => h("div", { class: "message" }, message.role && h("small", { class: "soft" }, message.role),
        h("pre", { tabindex: 0 }, message.text))))
      : h("p", { class: "soft" }, "What was asked is not stored with a run, and the task could not be read again."),
    h("div", { role: "tablist", class: "tabs", "aria-label": "Strategies" }, tabs), pane];
}

const ENDED = { complete: "ran to its end", settled: "ended early, its selection settled", budget: "stopped by its budget",
  deadline: "stopped by its deadline", failed: "failed" };

function cellView(cell) {
  const { candidates } = cell;
  const right = candidates.filter((one) => one.right).length;
  const facts = [
    plural(candidates.length, "candidate"), `${right} right`, ENDED[cell.ended] ?? cell.ended, `in ${duration(cell.seconds)}`,
    cell.selected == null ? "no answer selected" : `selected candidate ${cell.selected}`,
  ];
  const list = h("div", { class: "candidates" });
  const jump = (i) => {
    const one = () => list.querySelector(`[data-position="${i}"]`);
    if (!one()) fillCandidates(list, cell, "all", Infinity);
    const shown = one();
    shown.open = true;
    shown.scrollIntoView({ block: "nearest" });
    shown.querySelector("summary").focus();
  };
  const show = (filter) => fillCandidates(list, cell, filter);
  show("all");
  const way = cell.tree && h("h3", {}, "How they came about");
  return [
    h("p", { class: "soft" }, facts.join(" · "), way && [" · ",
      h("button", { type: "button", class: "link", onclick: () => way.scrollIntoView() }, "how they came about")]),
    cell.failures.length ? h("details", { class: "bad" }, h("summary", {}, `${plural(cell.failures.length, "sample")} or verdicts were lost`),
      h("ul", {}, cell.failures.slice(0, 50).map((reason) => h("li", {}, reason)))) : null,
    dots(candidates, cell.selected, jump),
    h("h3", {}, "Candidates"),
    h("div", { class: "controls" }, choice("Show", [["all", "all"], ["right", "right"], ["wrong", "wrong"],
      ["mistaken", "wrong, but accepted"], ["refused", "right, but refused"]], "all", show)),
    list,
    way, cell.tree && treeView(cell, jump),
    cell.calls.length ? h("h3", {}, "When") : null, cell.calls.length ? timeline(cell) : null,
    h("h3", {}, "What it cost"), costTable(cell),
  ].filter(Boolean);
}

const outcome = (one) => (one.right == null ? "not graded" : one.right ? "right" : "wrong");
const decision = (one) => (one.passed === true ? "accepted" : one.passed === false ? "refused" : "");

// A mark for each candidate: filled is right, a cross is wrong, a ring around it accepted, the bar below it selected.
function dots(candidates, selected, jump) {
  return h("div", { class: "dots", role: "group", "aria-label": "Candidates in order" }, candidates.map((one, i) => {
    const words = [`candidate ${i}`, outcome(one), decision(one), i === selected ? "selected" : ""].filter(Boolean).join(", ");
    const kind = [one.right == null ? "unknown" : one.right ? "right" : "wrong", one.passed === true && "accepted",
      i === selected && "selected"].filter(Boolean).join(" ");
    return h(jump ? "button" : "span", { type: jump && "button", class: `dot ${kind}`, title: words, "aria-label": words,
      onclick: jump && (() => jump(i)) });
  }));
}

const FILTER = {
  all: () => true,
  right: (one) => one.right === 1,
  wrong: (one) => one.right === 0,
  mistaken: (one) => one.right === 0 && one.passed === true,
  refused: (one) => one.right === 1 && one.passed === false,
};
const AT_ONCE = 64;

function fillCandidates(list, cell, filter, most = AT_ONCE) {
  const chosen = cell.candidates.map((one, i) => [one, i]).filter(([one]) => FILTER[filter](one));
  chosen.sort(([, a], [, b]) => (b === cell.selected) - (a === cell.selected) || a - b);
  list.replaceChildren(...chosen.slice(0, most).map(([one, i]) => candidate(one, i, i === cell.selected)));
  if (!chosen.length) list.append(h("p", { class: "soft empty" }, "None."));
  if (chosen.length > most) {
    list.append(h("button", { type: "button", onclick: () => fillCandidates(list, cell, filter, Infinity) },
      `Show the other ${count(chosen.length - most)}`));
  }
}

function candidate(one, i, selected) {
  const badge = (text, kind) => text && h("span", { class: `badge ${kind}` }, text);
  const details = h("details", { "data-position": i, class: selected ? "candidate selected" : "candidate", open: selected },
    h("summary", {}, h("b", {}, `#${i}`),
      badge(outcome(one), one.right == null ? "" : one.right ? "good" : "bad"),
      badge(decision(one), one.passed ? "good" : "bad"),
      known(one.score) && h("span", { class: "badge" }, `score ${precise(one.score)}`),
      badge(selected && "selected", "picked"),
      badge(one.finish && one.finish !== "stop" && one.finish, "bad"),
      h("span", { class: "preview soft" }, preview(one)),
      h("span", { class: "soft side" }, [one.tokens ? plural(one.tokens, "token") : "", one.elapsed ? `at ${duration(one.elapsed)}` : ""]
        .filter(Boolean).join(" · "))));
  const openBody = () => {
    if (details.open && details.children.length === 1) details.append(...candidateBody(one));
  };
  details.addEventListener("toggle", openBody);
  openBody();
  return details;
}

const answerOf = (one) => one.notes?.said ?? one.notes?.answer ?? one.graded?.answer;

const preview = (one) => {
  const said = answerOf(one);
  const line = (said ? `answer ${said} · ` : "") + (one.graded?.expected ? `expected ${one.graded.expected} · ` : "") + (one.text ?? "").trim().replace(/\s+/g, " ");
  return line.slice(0, 160);
};

function candidateBody(one) {
  const told = { answer: answerOf(one), expected: one.graded?.expected, "finish reason": one.finish };
  const rest = Object.entries({ ...one.notes, ...one.verdict, ...told }).filter(([, value]) => value != null);
  return [
    one.image ? h("img", { src: one.image, alt: "the drawn image" }) : h("pre", { tabindex: 0 }, one.text ?? ""),
    one.feedback && h("div", { class: "feedback" }, h("small", { class: "soft" }, "the verifier says"), h("pre", { tabindex: 0 }, one.feedback)),
    one.graded?.feedback && h("div", { class: "feedback" }, h("small", { class: "soft" }, "grading says"),
      h("pre", { tabindex: 0 }, one.graded.feedback)),
    rest.length ? h("dl", {}, rest.map(([key, value]) => [h("dt", {}, key.replaceAll("_", " ")),
      h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))])) : null,
  ].filter(Boolean);
}

// -- when ----------------------------------------------------------------------------------------------------------------

function timeline(cell) {
  const lanes = laneOf(cell.calls);
  const end = Math.max(...cell.calls.map((call) => call[3])) || 1;
  const kinds = [...new Set(cell.calls.map((call) => call[1]))].sort();
  const rows = Math.max(...lanes) + 1;
  const height = Math.max(4, Math.min(16, 420 / rows));
  const bars = cell.calls.map(([lane, kind, from, to, prompt, written], i) => svg("rect", {
    x: (1000 * from) / end, width: Math.max(1.5, (1000 * (to - from)) / end), y: lanes[i] * height + height * 0.12, height: height * 0.76,
    rx: 1.5, fill: colourOf(kinds.indexOf(kind)),
    onpointerenter: (event) => hover([
      h("strong", {}, h("i", { class: "swatch", style: { background: colourOf(kinds.indexOf(kind)) } }), kind),
      h("span", { class: "big" }, duration(to - from)), h("span", {}, `from ${duration(from)} to ${duration(to)}`),
      h("span", {}, `${plural(prompt, "prompt token")}, ${count(written)} generated`),
      h("span", { class: "soft" }, lane === null ? "no candidate came of it" : `candidate ${lane}`)], event.clientX, event.clientY),
    onpointerleave: () => hover(null),
  }));
  return h("figure", { class: "timeline" },
    h("figcaption", { class: "soft" }, kinds.map((kind, i) => [h("i", { class: "swatch", style: { background: colourOf(i) } }), `${kind} `]),
      `· ${plural(cell.calls.length, "call")}, a row is a candidate`),
    svg("svg", { viewBox: `0 0 1000 ${rows * height}`, preserveAspectRatio: "none", height: rows * height, role: "img",
      "aria-label": `${plural(cell.calls.length, "call")} in ${duration(end)}` }, bars),
    h("div", { class: "ends soft" }, h("span", {}, "0"), h("span", {}, duration(end))));
}

// Calls of no candidate fill rows of their own below, as few as they need.
function laneOf(calls) {
  const positions = [...new Set(calls.map((call) => call[0]).filter((lane) => lane !== null))].sort((a, b) => a - b);
  const ends = [];
  return calls.map(([lane, , from, to]) => {
    if (lane !== null) return positions.indexOf(lane);
    let free = ends.findIndex((end) => end <= from);
    if (free < 0) free = ends.length;
    ends[free] = to;
    return positions.length + free;
  });
}

// -- cost ----------------------------------------------------------------------------------------------------------------

function costTable(cell) {
  const rows = [["spent", "paid for in this run"], ["reused", "taken from stored answers"], ["wasted", "failed or cancelled"]]
    .flatMap(([field, words]) => Object.entries(cell[field]).map(([role, usage]) => ({ role, words, ...usage })));
  if (!rows.length) return h("p", { class: "soft" }, "Nothing.");
  const figure = (field, title) => ({ name: title, cell: (row) => count(row[field] ?? 0) });
  return table([
    { name: "role", left: true, cell: (row) => row.role }, { name: "", left: true, cell: (row) => row.words },
    figure("requests", "requests"), figure("prompt_tokens", "prompt tokens"), figure("cached_tokens", "of them cached"),
    figure("completion_tokens", "generated tokens"), { name: "seconds of calls", cell: (row) => duration(row.seconds ?? 0) },
    { name: "verifying", cell: (row) => duration(row.verifier_seconds ?? 0) },
  ], rows);
}
