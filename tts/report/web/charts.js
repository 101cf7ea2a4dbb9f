// A line chart over uPlot: bands, logarithmic axis, hover and arrow keys that name the nearest point, a table beneath.

// `spec`: { series: [{ label, colour, dash, width, step, points: [{ x, y, low, high, k, note }] }],
//           x: { label, log, base }, y: { label, share, zero }, bands, about, marks: [{ x, y, colour, label }] }
function lineChart(host, spec) {
  const series = spec.series
    .map((one) => ({ ...one, points: one.points.filter((point) => !spec.x.log || point.x > 0) }))
    .filter((one) => one.points.length);
  const plot = h("div", { class: "plot", tabindex: 0, role: "group", "aria-roledescription": "chart",
    "aria-label": `${spec.about}. Arrow keys move along a line and between lines.` });
  host.replaceChildren(...[spec.legend && h("p", { class: "keys soft" }, series.map((one) => h("span", {},
    h("i", { class: "swatch", style: { background: one.colour } }), one.label))), plot].filter(Boolean));
  if (!series.length) {
    plot.append(h("p", { class: "soft empty" }, "There is nothing to draw with these choices."));
    return;
  }
  const [xs, columns] = joined(series);
  const ink = css("--soft");
  const grid = { stroke: css("--line"), width: 1 };
  const font = '12px system-ui, -apple-system, "Segoe UI", sans-serif';
  const own = [{}];
  const bands = [];
  for (const one of series) {
    const line = own.length;
    own.push({
      stroke: one.colour, width: one.width ?? 2, dash: one.dash, spanGaps: true,
      paths: one.step ? uPlot.paths.stepped({ align: 1 }) : undefined,
      points: { show: !one.step, size: 6, stroke: one.colour, fill: one.dash ? css("--card") : one.colour },
    });
    own.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
    own.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
    if (spec.bands && !one.step) bands.push({ series: [line + 2, line + 1], fill: faded(one.colour, one.dash || series.length > 4 ? 0.07 : 0.13) });
  }
  const axis = { stroke: ink, font, labelFont: font, grid, ticks: { ...grid, size: 4 } };
  const width = () => Math.max(240, plot.clientWidth);
  const height = () => (width() < 520 ? 300 : spec.height ?? 400);
  const chart = new uPlot({
    width: width(), height: height(), legend: { show: false }, cursor: { show: false }, padding: [12, 12, 0, 0],
    scales: {
      x: {
        time: false, distr: spec.x.log ? 3 : 1, log: spec.x.base ?? 10,
        range: (_, low, high) => (spec.x.log ? [low / 1.12, high * 1.12] : [Math.min(0, low), high * 1.03 || 1]),
      },
      y: { range: (_, low, high) => spread(spec, series) ?? [low, high] },
    },
    axes: [
      { ...axis, label: spec.x.label, size: 34, labelSize: 20, values: (_, splits) => splits.map(short), space: 52,
        ...(spec.x.log && { splits: (_, __, low, high) => powers(low, high, spec.x.base, width() / 56), filter: (_, splits) => splits }) },
      { ...axis, label: width() < 520 ? undefined : spec.y.label, labelSize: 22, size: 52,
        values: (_, splits) => splits.map((v) => (spec.y.share ? `${+(100 * v).toFixed(1)} %` : short(v))) },
    ],
    series: own,
    bands,
    hooks: { draw: [(u) => drawWhiskers(u, series, spec)] },
  }, [xs, ...columns], plot);
  inspect(plot, chart, series, spec);
  plot.append(asTable(series, spec));
  new ResizeObserver(() => {
    if (plot.isConnected && Math.abs(chart.width - width()) > 1) chart.setSize({ width: width(), height: height() });
  }).observe(plot);
  plot.chart = chart; // for tests and curious people
}

// Ticks of a logarithmic axis: 1, 2, 4, ... or 1, 2, 5, 10, ..., thinned to `most`.
function powers(low, high, base, most) {
  const found = [];
  const steps = base === 2 ? [1] : [1, 2, 5];
  for (let power = Math.floor(Math.log(low) / Math.log(base)); base ** power <= high; power++) {
    found.push(...steps.map((step) => step * base ** power).filter((value) => value >= low && value <= high));
  }
  const every = Math.ceil(found.length / most);
  return found.filter((_, i) => i % every === 0);
}

function joined(series) {
  const xs = [...new Set(series.flatMap((one) => one.points.map((point) => point.x)))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const columns = series.flatMap((one) => ["y", "low", "high"].map((name) => {
    const column = Array(xs.length).fill(null);
    for (const point of one.points) column[place.get(point.x)] = point[name] ?? point.y;
    return column;
  }));
  return [xs, columns];
}

function spread(spec, series) {
  const values = series.flatMap((one) => one.points.flatMap((point) =>
    spec.bands && known(point.low) ? [point.low, point.y, point.high] : [point.y]));
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (spec.y.zero && spec.y.share) return [0, 1.02];
  if (spec.y.zero) [low, high] = [Math.min(0, low), Math.max(0, high)];
  const room = Math.max((high - low) * 0.06, 0.01 * (spec.y.share ? 1 : Math.abs(high) || 1));
  return spec.y.share ? [Math.max(0, low - room), Math.min(1.02, high + room)] : [low - room, high + room];
}

function faded(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

// The interval of a line that has a single point, which no band could show; and marked points.
function drawWhiskers(u, series, spec) {
  const at = (x, y) => [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];
  const pixel = devicePixelRatio;
  u.ctx.save();
  for (const { points: [point, more], colour } of series) {
    if (!spec.bands || more || !known(point.low)) continue;
    const [[x, low], [, high]] = [at(point.x, point.low), at(point.x, point.high)];
    u.ctx.strokeStyle = colour;
    u.ctx.lineWidth = 1.5 * pixel;
    u.ctx.beginPath();
    u.ctx.moveTo(x, low);
    u.ctx.lineTo(x, high);
    for (const y of [low, high]) {
      u.ctx.moveTo(x - 4 * pixel, y);
      u.ctx.lineTo(x + 4 * pixel, y);
    }
    u.ctx.stroke();
  }
  for (const mark of spec.marks ?? []) {
    const [x, y] = at(mark.x, mark.y);
    u.ctx.beginPath();
    u.ctx.arc(x, y, 6.5 * pixel, 0, 2 * Math.PI);
    u.ctx.fillStyle = css("--card");
    u.ctx.fill();
    u.ctx.lineWidth = 3 * pixel;
    u.ctx.strokeStyle = mark.colour;
    u.ctx.stroke();
  }
  u.ctx.restore();
}

// Names the point nearest to the pointer, or the one that arrow keys have reached.
function inspect(plot, chart, series, spec) {
  const ring = h("div", { class: "ring", hidden: true });
  chart.over.append(ring);
  let at = null;
  const show = ([line, i], spoken) => {
    at = [line, i];
    const { label, colour, points } = series[line];
    const point = points[i];
    const [left, top] = [chart.valToPos(point.x, "x"), chart.valToPos(point.y, "y")];
    ring.hidden = false;
    Object.assign(ring.style, { left: `${left}px`, top: `${top}px`, borderColor: colour });
    const box = chart.over.getBoundingClientRect();
    hover([
      h("strong", {}, h("i", { class: "swatch", style: { background: colour } }), label),
      h("span", { class: "big" }, spec.y.share ? percent(point.y) : precise(point.y)),
      known(point.low) && h("span", {}, spec.y.share ? `95 %: ${interval(point.low, point.high)}`
        : `95 %: ${precise(point.low)} to ${precise(point.high)}`),
      h("span", {}, `${precise(point.x)} ${spec.x.label}`),
      known(point.cap) && h("span", {}, `at most ${precise(point.cap)} for each problem`),
      known(point.k) && spec.x.name !== "samples" && h("span", {}, (known(point.cap) ? "up to " : "") + plural(point.k, "sample")),
      point.note && h("span", { class: "soft" }, point.note),
    ], box.left + left, box.top + top, spoken);
  };
  const hide = () => {
    ring.hidden = true;
    hover(null);
  };
  const nearest = (event) => {
    const box = chart.over.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let [best, closest] = [null, Infinity];
    series.forEach((one, line) => !one.step && one.points.forEach((point, i) => {
      const distance = Math.hypot(chart.valToPos(point.x, "x") - px, chart.valToPos(point.y, "y") - py);
      if (distance < closest) [best, closest] = [[line, i], distance];
    }));
    if (best && closest < 120) show(best);
    else hide();
  };
  chart.over.addEventListener("pointermove", nearest);
  chart.over.addEventListener("pointerdown", nearest);
  chart.over.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    if (event.target !== plot) return;
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Escape") return hide();
    if (!steps) return;
    event.preventDefault();
    const lines = series.flatMap((one, line) => (one.step ? [] : [line]));
    if (!at) return show([lines[0], 0], true);
    const line = lines[(lines.indexOf(at[0]) + steps[0] + lines.length) % lines.length];
    const last = series[line].points.length - 1;
    show([line, Math.max(0, Math.min(last, at[1] + steps[1]))], true);
  });
}

// The box beside a point. What keys have reached is read aloud as well.
function hover(lines, x, y, spoken) {
  const box = $("hover");
  box.hidden = !lines;
  if (!lines) return;
  box.setAttribute("aria-live", spoken ? "polite" : "off");
  box.replaceChildren(...lines.filter(Boolean));
  const [width, height] = [box.offsetWidth, box.offsetHeight];
  const left = x + 14 + width > innerWidth - 8 ? Math.max(8, x - width - 14) : x + 14;
  const top = Math.max(8, Math.min(innerHeight - height - 8, y - height / 2));
  Object.assign(box.style, { left: `${left}px`, top: `${top}px` });
}

function asTable(series, spec) {
  const rows = series.flatMap((one) => one.points.map((point) => ({ label: one.label, ...point })));
  const value = (y) => (spec.y.share ? percent(y) : precise(y));
  const columns = [
    { name: "line", left: true, cell: (row) => row.label },
    ...(rows.some((row) => known(row.k)) ? [{ name: "k", cell: (row) => count(row.k) }] : []),
    ...(rows.some((row) => known(row.cap)) ? [{ name: "at most", cell: (row) => (known(row.cap) ? precise(row.cap) : "") }] : []),
    { name: spec.x.label, cell: (row) => precise(row.x) },
    { name: spec.y.label, cell: (row) => value(row.y) },
    { name: "95 %", cell: (row) => (known(row.low) ? `${value(row.low)} to ${value(row.high)}` : "") },
  ];
  const details = h("details", { class: "numbers", ontoggle: () => {
    if (details.open && details.children.length === 1) details.append(table(columns, rows));
  } }, h("summary", {}, "The same in numbers"));
  return details;
}
