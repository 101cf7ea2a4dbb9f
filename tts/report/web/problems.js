// Every problem as a tile for each strategy, and as a list: what is hard, where strategies differ, where verifiers err.

const seen = { filter: "all", order: "task", colour: "right", search: "", page: 0, at: 0 };
const PAGE = 25;
let stats; // for each track an array over problems
let order = []; // the problems shown

// Letters of `outcomes`: true or false, accepted (R, W), refused (r, w) or not decided (t, f); u is not graded.
function countOutcomes(grid) {
  return grid.outcomes.map((letters, place) => {
    if (letters === null) return null;
    const found = { n: letters.length, right: 0, graded: 0, accepted: 0, mistaken: 0 };
    for (const letter of letters) {
      if (letter !== "u") found.graded++;
      if (letter === "R" || letter === "r" || letter === "t") found.right++;
      if (letter === "R" || letter === "W") found.accepted++;
      if (letter === "W") found.mistaken++;
    }
    const solved = grid.solved[place];
    return { ...found, share: found.graded ? found.right / found.graded : null, tokens: grid.tokens[place],
      seconds: grid.seconds[place], failures: grid.failures[place],
      solved: solved && solved.reduce((sum, one) => sum + one, 0) / solved.length };
  });
}

const each = (place) => stats.map((track) => track[place]).filter(Boolean);
const share = (place) => {
  const all = each(place).filter((one) => known(one.share));
  return all.length ? all.reduce((sum, one) => sum + one.share, 0) / all.length : null;
};

const FILTERS = {
  all: ["all problems", () => true],
  none: ["solved by no strategy", (place) => each(place).length > 0 && each(place).every((one) => !one.solved)],
  differ: ["strategies differ", (place) => new Set(each(place).map((one) => one.solved >= 0.5)).size > 1],
  missed: ["a right candidate was not selected", (place) => each(place).some((one) => one.right && known(one.solved) && one.solved < 1)],
  mistaken: ["a wrong candidate was accepted", (place) => each(place).some((one) => one.mistaken)],
  failures: ["samples were lost", (place) => each(place).some((one) => one.failures)],
};

const ORDERS = {
  task: ["as in the task", null],
  hard: ["hardest first", (place) => share(place) ?? -1],
  easy: ["easiest first", (place) => -(share(place) ?? -1)],
  split: ["most undecided first", (place) => Math.abs((share(place) ?? 9) - 0.5)],
  tokens: ["most tokens first", (place) => -each(place).reduce((sum, one) => sum + one.tokens, 0)],
};

const COLOURS = {
  right: ["share of right candidates", (one) => one.share, percent, shareColour],
  solved: ["selected answer is right", (one) => one.solved, percent, shareColour],
  mistaken: ["wrong ones among the accepted", (one) => (one.accepted ? one.mistaken / one.accepted : null), percent, amountColour],
  tokens: ["generated tokens", (one) => one.tokens, count, null],
  seconds: ["seconds", (one) => one.seconds, duration, null],
};

function problemsSection() {
  stats = data.grid.map(countOutcomes);
  const map = h("div", { class: "map" });
  const list = h("div", { id: "problem-list" });
  const draw = () => {
    order = data.problems.map((_, place) => place).filter(FILTERS[seen.filter][1]);
    if (seen.search) order = order.filter((place) => data.problems[place].toLowerCase().includes(seen.search.toLowerCase()));
    const key = ORDERS[seen.order][1];
    if (key) {
      const keys = new Map(order.map((place) => [place, key(place)]));
      order.sort((a, b) => keys.get(a) - keys.get(b));
    }
    seen.page = Math.min(seen.page, Math.max(0, Math.ceil(order.length / PAGE) - 1));
    drawMap(map);
    list.replaceChildren(problemList(draw));
  };
  const set = (field) => (value) => {
    seen[field] = value;
    seen.page = 0;
    draw();
  };
  redrawn.push(draw);
  requestAnimationFrame(draw);
  new ResizeObserver(() => {
    if (map.isConnected && map.clientWidth !== drawnWidth) drawMap(map);
  }).observe(map);
  const options = (table_) => Object.entries(table_).map(([key, [text]]) => [key, text]);
  const offered = Object.entries(FILTERS).filter(([key, [, test]]) => key === "all" || data.problems.some((_, place) => test(place)));
  return section("problems", "Problem by problem",
    h("p", { class: "soft" }, "A tile is a problem, in the same place for every strategy. Choose one to see its candidates; " +
      "with the keyboard, arrows and Enter."),
    h("div", { class: "controls" },
      choice("Show", offered.map(([key, [text]]) => [key, text]), seen.filter, set("filter")),
      choice("Order", options(ORDERS), seen.order, set("order")),
      choice("Colour", options(COLOURS).filter(([key]) => key !== "mistaken" || stats.some((track) => track.some((one) => one?.accepted))),
        seen.colour, set("colour")),
      h("label", { class: "control" }, h("span", {}, "Find"), h("input", { type: "search", placeholder: "name",
        value: seen.search, oninput: (event) => set("search")(event.target.value) }))),
    map, list);
}

// -- tiles -----------------------------------------------------------------------------------------------------------

let drawnWidth = 0; // of the map, as it is drawn

function drawMap(host) {
  drawnWidth = host.clientWidth;
  host.replaceChildren(scaleLegend());
  if (!order.length) return host.append(h("p", { class: "soft empty" }, "No problem is like that."));
  const width = drawnWidth;
  if (width < 100) return; // not laid out yet
  const fitted = Math.floor(width / order.length);
  const tile = Math.max(order.length > 3000 ? 7 : order.length > 600 ? 10 : 14, Math.min(26, fitted));
  const columns = Math.max(1, Math.floor(width / tile));
  stats.forEach((_, track) => host.append(band(track, tile, columns)));
}

function values(track) {
  const value = COLOURS[seen.colour][1];
  return order.map((place) => (stats[track][place] ? value(stats[track][place]) : null));
}

function amounts() {
  const all = stats.flatMap((_, track) => values(track)).filter(known);
  return all.reduce((highest, value) => Math.max(highest, value), 0) || 1;
}

function scaleLegend() {
  const [text, , format, colour] = COLOURS[seen.colour];
  const most = colour ? 1 : amounts();
  const steps = [0, 0.25, 0.5, 0.75, 1].map((part) => h("i", { style: { background: (colour ?? amountColour)(part) } }));
  return h("p", { class: "scale soft" }, `${plural(order.length, "problem")} · ${text}: `, format(0), h("span", { class: "steps" }, steps), format(most));
}

function band(track, tile, columns) {
  const rows = Math.ceil(order.length / columns);
  const canvas = h("canvas", { tabindex: 0, role: "application", "data-track": track,
    "aria-label": `${name(track)}: ${plural(order.length, "problem")} as tiles. Arrows move, Enter opens.` });
  const pixel = devicePixelRatio || 1;
  const used = Math.min(columns, order.length);
  Object.assign(canvas, { width: used * tile * pixel, height: rows * tile * pixel });
  Object.assign(canvas.style, { width: `${used * tile}px`, height: `${rows * tile}px` });
  const context = canvas.getContext("2d", { willReadFrequently: true }); // drawn at once, not when there is time
  const gap = tile >= 10 ? 2 : 1;
  const [, , format, colour] = COLOURS[seen.colour];
  const all = values(track);
  const most = colour ? 1 : amounts();
  const paint = (i, marked) => {
    const [x, y] = [(i % columns) * tile, Math.floor(i / columns) * tile];
    context.clearRect(x, y, tile, tile);
    context.fillStyle = known(all[i]) ? (colour ?? amountColour)(all[i] / most) : css("--line");
    context.globalAlpha = known(all[i]) ? 1 : 0.45;
    if (tile < 10) {
      context.fillRect(x, y, tile - gap, tile - gap);
    } else {
      context.beginPath();
      context.roundRect(x, y, tile - gap, tile - gap, 3);
      context.fill();
    }
    context.globalAlpha = 1;
    if (!marked) return;
    context.strokeStyle = css("--ink");
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, tile - gap - 2, tile - gap - 2);
  };
  context.scale(pixel, pixel);
  for (let i = 0; i < order.length; i++) paint(i, false);

  let at = null;
  const mark = (i, spoken) => {
    if (at !== null) paint(at, false);
    at = i;
    if (i === null) return hover(null);
    paint(i, true);
    const place = order[i];
    const one = stats[track][place];
    const box = canvas.getBoundingClientRect();
    hover([
      h("strong", {}, data.problems[place]), h("span", { class: "soft" }, name(track)),
      ...(one ? [h("span", { class: "big" }, format(all[i])), h("span", {}, `${one.right} of ${plural(one.graded, "candidate")} right`),
        known(one.solved) && h("span", {}, `selected answer ${one.solved >= 1 ? "right" : one.solved > 0 ? "sometimes right" : "wrong or none"}`)]
        : [h("span", {}, "not tried yet")]),
    ], box.left + ((i % columns) + 0.5) * tile, box.top + (Math.floor(i / columns) + 0.5) * tile, spoken);
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top].map((value) => Math.floor(value / tile));
    const i = y * columns + x;
    return x >= 0 && x < columns && i >= 0 && i < order.length ? i : null;
  };
  canvas.addEventListener("pointermove", (event) => {
    const i = under(event);
    if (i !== at) mark(i);
  });
  canvas.addEventListener("pointerleave", () => mark(null));
  canvas.addEventListener("blur", () => mark(null));
  canvas.addEventListener("click", (event) => {
    const i = under(event);
    if (i !== null) openProblem(order[i], track);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (event.key === "Enter" && at !== null) return openProblem(order[at], track);
    if (!step) return;
    event.preventDefault();
    const next = at === null ? 0 : at + step;
    if (next >= 0 && next < order.length) mark(next, true);
  });
  return h("figure", {}, h("figcaption", {}, h("i", { class: "swatch", "data-track": track, style: { background: colourOf(track) } }), name(track)),
    canvas);
}

// -- list ------------------------------------------------------------------------------------------------------------

function problemList(draw) {
  const begin = seen.page * PAGE;
  const places = order.slice(begin, begin + PAGE);
  const turn = (pages) => {
    seen.page += pages;
    draw();
  };
  const cell = (place, track) => {
    const one = stats[track][place];
    if (!one) return NOTHING;
    const words = `${one.right} of ${one.graded} right`;
    return h("span", { class: "mini", title: words },
      h("i", { class: "share", style: { background: known(one.share) ? shareColour(one.share) : css("--line") } }),
      known(one.share) ? `${one.right}/${one.graded}` : NOTHING,
      known(one.solved) && h("b", { class: one.solved >= 0.5 ? "good" : "bad",
        "aria-label": one.solved >= 0.5 ? "selected answer right" : "selected answer wrong" }, one.solved >= 0.5 ? "✓" : "✗"));
  };
  if (!places.length) return "";
  const pager = h("div", { class: "pager" },
    h("button", { type: "button", disabled: seen.page === 0, onclick: () => turn(-1) }, "Previous"),
    h("span", { class: "soft" }, `${count(begin + 1)} to ${count(begin + places.length)} of ${count(order.length)}`),
    h("button", { type: "button", disabled: begin + PAGE >= order.length, onclick: () => turn(1) }, "Next"));
  return h("details", { open: innerWidth > 700 || seen.page > 0 || seen.search !== "" }, h("summary", {}, "As a list: right candidates, and whether the selected answer is right"),
    table([
      { name: "problem", left: true, cell: (place) => h("button", { type: "button", class: "link", onclick: () => openProblem(place, 0) },
        data.problems[place]) },
      ...data.tracks.map((track, i) => ({ name: name(i), left: true, cell: (place) => cell(place, i) })),
    ], places), pager);
}
