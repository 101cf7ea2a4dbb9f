// How a search went: a picture of all its steps, and an outline of them that folds. Only the rows in sight are built, so
// that ten thousand steps stay fluent.

const UNFOLDED = 200; // nodes of a tree that is unfolded at first

// The nodes of `cell.tree` stand depth first, and `above` is the place of the one that each grew from.
function treeView(cell, jump) {
  const nodes = cell.tree;
  const shape = shapeOf(nodes);
  const folded = new Set(nodes.length > UNFOLDED ? [...nodes.keys()].filter((i) => shape.children[i] && !nodes[i].chosen) : []);
  const outline = h("div", { class: "outline", role: "tree", tabindex: 0, "aria-label":
    "Steps. Up and down move, left folds, right unfolds, Enter goes to the answer." });
  const detail = h("div", { class: "step-detail", "aria-live": "polite" });
  const inner = h("div", { role: "presentation" });
  const height = () => parseInt(getComputedStyle(outline).getPropertyValue("--row"));
  let rows = [];
  let current = Math.max(0, nodes.findLastIndex((node) => node.chosen));

  const build = () => {
    rows = [];
    for (let i = 0; i < nodes.length; i = folded.has(i) ? shape.last[i] + 1 : i + 1) rows.push(i);
    const tall = height();
    inner.style.height = `${rows.length * tall}px`;
    outline.style.height = `${rows.length * tall + 2}px`;
  };
  const drawRows = () => {
    const tall = height();
    const from = Math.max(0, Math.floor(outline.scrollTop / tall) - 6);
    const to = from + Math.ceil((outline.clientHeight || 520) / tall) + 12;
    inner.replaceChildren(...rows.slice(from, to).map((i, k) => rowOf(i, (from + k) * tall)));
    outline.setAttribute("aria-activedescendant", `step-${current}`);
  };
  const rowOf = (i, top) => {
    const node = nodes[i];
    return h("div", { class: ["row", node.chosen && "chosen", known(node.pruned) && "pruned"].filter(Boolean).join(" "), role: "treeitem",
      id: `step-${i}`, "aria-level": shape.depth[i] + 1, "aria-selected": String(i === current),
      "aria-posinset": shape.place[i] + 1, "aria-setsize": shape.children[node.above ?? -1],
      "aria-expanded": shape.children[i] ? String(!folded.has(i)) : null,
      style: { top: `${top}px`, paddingLeft: `${4 + Math.min(shape.depth[i], innerWidth < 700 ? 8 : 24) * 14}px` },
      onclick: (event) => {
        if (event.target.classList.contains("fold")) fold(i, !folded.has(i));
        pick(i);
      } },
    h("span", { class: "fold", "aria-hidden": "true" }, shape.children[i] ? (folded.has(i) ? "▸" : "▾") : ""),
    h("b", {}, nameOf(cell, node)), worth(node, shape), h("span", { class: "step" }, line(cell, node)),
    h("span", { class: "side soft" }, folded.has(i) ? `${plural(shape.last[i] - i, "node")} folded · ` : "", figuresOf(node).join(" · ")));
  };
  const fold = (i, shut) => {
    if (!shape.children[i]) return;
    folded[shut ? "add" : "delete"](i);
    build();
    drawRows();
  };
  const pick = (i) => {
    current = i;
    if (!rows.includes(i)) {
      for (let up = nodes[i].above; known(up); up = nodes[up].above) folded.delete(up);
      build();
    }
    const top = rows.indexOf(i) * height();
    if (top < outline.scrollTop) outline.scrollTop = top;
    if (top + height() > outline.scrollTop + outline.clientHeight) outline.scrollTop = top + height() - outline.clientHeight;
    drawRows();
    picture.point(i);
    detail.replaceChildren(...detailOf(cell, shape, i, jump));
  };
  const all = (shut) => {
    nodes.forEach((_, i) => shape.children[i] && folded[shut ? "add" : "delete"](i));
    if (shut) while (known(nodes[current].above)) current = nodes[current].above;
    build();
    pick(current);
  };
  outline.addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  outline.addEventListener("keydown", (event) => {
    const at = rows.indexOf(current);
    const page = Math.max(1, Math.floor(outline.clientHeight / height()) - 1);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + page, PageUp: at - page }[event.key];
    const shut = folded.has(current);
    if (known(to)) pick(rows[Math.max(0, Math.min(rows.length - 1, to))]);
    else if (event.key === "ArrowRight" && shut) fold(current, false);
    else if (event.key === "ArrowRight" && shape.children[current]) pick(current + 1);
    else if (event.key === "ArrowLeft" && shape.children[current] && !shut) fold(current, true);
    else if (event.key === "ArrowLeft" && known(nodes[current].above)) pick(nodes[current].above);
    else if (event.key === "Enter" && nodes[current].answers) jump(nodes[current].answers[0]);
    else if (!["ArrowRight", "ArrowLeft", "Enter"].includes(event.key)) return;
    event.preventDefault();
  });
  const picture = treePicture(nodes, shape, pick, (i) => [h("strong", {}, nameOf(cell, nodes[i])),
    h("span", {}, line(cell, nodes[i]).slice(0, 120)), h("span", { class: "soft" }, figuresOf(nodes[i]).join(" · "))]);
  outline.append(inner);
  let wide = 0;
  new ResizeObserver(() => {
    if (!outline.isConnected || outline.clientWidth === wide) return;
    wide = outline.clientWidth;
    build();
    drawRows();
    picture.draw();
  }).observe(outline);
  requestAnimationFrame(() => pick(current)); // once it is in the page
  const chosen = nodes.findLastIndex((node) => node.chosen);
  const button = (words, does) => h("button", { type: "button", onclick: does }, words);
  return h("div", {}, h("p", { class: "soft" }, [plural(nodes.length, "node"), `${count(nodes.filter((node) => known(node.pruned)).length)} passed over`,
    `${count(nodes.filter((node) => node.open).length)} left open`].join(" · ")),
  picture.figure, h("div", { class: "controls" }, button("Unfold all", () => all(false)), button("Fold all", () => all(true)),
    chosen >= 0 && button("To the selected answer", () => pick(chosen))), outline, detail);
}

// Of each node: its depth, its place among its siblings, how many children it has (those at the top are of -1), the last
// node below it, and from where to where it reaches in leaves; of all, the range of rewards.
function shapeOf(nodes) {
  const depth = [], place = [], children = { "-1": 0 }, last = nodes.map((_, i) => i), from = [], to = [];
  nodes.forEach((node, i) => {
    const above = node.above ?? -1;
    depth.push(above < 0 ? 0 : depth[above] + 1);
    place.push(children[above]++);
    children[i] = 0;
  });
  let leaves = 0;
  nodes.forEach((_, i) => {
    from[i] = leaves;
    if (!children[i]) leaves++;
  });
  for (let i = nodes.length - 1; i >= 0; i--) {
    const above = nodes[i].above;
    to[i] = Math.max(to[i] ?? 0, from[i] + 1);
    if (!known(above)) continue;
    last[above] = Math.max(last[above], last[i]);
    to[above] = Math.max(to[above] ?? 0, to[i]);
  }
  const rewards = nodes.map(rewardOf).filter(known);
  const low = rewards.reduce((a, b) => Math.min(a, b), Infinity);
  const high = rewards.reduce((a, b) => Math.max(a, b), -Infinity);
  const colour = (node) => (known(rewardOf(node)) ? shareColour(high > low ? (rewardOf(node) - low) / (high - low) : 1) : null);
  return { depth, place, children, last, from, to, leaves, low, high, colour, deep: depth.reduce((a, b) => Math.max(a, b), 0) + 1 };
}

const rewardOf = (node) => node.reward ?? node.score;

function nameOf(cell, node) {
  const answers = (node.answers ?? []).map((i) => `answer #${i}, ${outcome(cell.candidates[i])}${i === cell.selected ? ", selected" : ""}`);
  const name = { step: node.name, rollout: `roll-out ${node.name}`, part: `part ${node.name}`, answer: "" }[node.kind] ?? node.kind;
  return [name, ...answers].filter(Boolean).join(" · ");
}

const line = (cell, node) => (node.text || (node.answers ? cell.candidates[node.answers[0]].text : "") || "").trim().replace(/\s+/g, " ").slice(0, 300);

function worth(node, shape) {
  return known(rewardOf(node)) && h("span", { class: "mini" }, h("i", { class: "share", style: { background: shape.colour(node) } }), precise(rewardOf(node)));
}

function figuresOf(node) {
  return [known(node.pruned) && `passed over in turn ${node.pruned}`, node.stopped && `stopped: ${node.stopped}`, node.open && "left open",
    node.visits > 1 && `${count(node.visits)} visits`, node.branch_tokens && plural(node.branch_tokens, "token")].filter(Boolean);
}

function detailOf(cell, shape, i, jump) {
  const node = cell.tree[i];
  const way = [];
  for (let up = node.above; known(up); up = cell.tree[up].above) way.unshift(cell.tree[up].text);
  const facts = [...figuresOf(node), known(node.turn) && `taken in in turn ${node.turn}`, known(node.reward) && `reward ${precise(node.reward)}`,
    known(node.score) && `score ${precise(node.score)}`, node.tokens && node.tokens < node.branch_tokens && `${plural(node.tokens, "token")} of its own`,
    node.ended && `ended: ${node.ended}`].filter(Boolean);
  return [
    h("p", {}, h("b", {}, nameOf(cell, node)), " ", h("span", { class: "soft" }, facts.join(" · "))),
    node.answers && h("p", {}, node.answers.map((one) => [h("button", { type: "button", class: "link", onclick: () => jump(one) }, `candidate #${one}`), " "])),
    node.text && h("pre", { tabindex: 0 }, node.text.trimEnd()),
    way.some(Boolean) && h("details", {}, h("summary", {}, "What stands before it"), h("pre", { tabindex: 0 }, way.join(node.turn == null ? "\n" : ""))),
  ].filter(Boolean);
}

// The whole tree, the deeper the lower and as wide as it has leaves; colours are rewards, the pale was passed over, and a
// line marks the way to the selected answer.
function treePicture(nodes, shape, pick, told) {
  const tall = Math.max(3, Math.min(16, Math.floor(180 / shape.deep)));
  const canvas = h("canvas", { role: "img", "aria-label": `A picture of ${plural(nodes.length, "node")} in ${plural(shape.deep, "level")}; the outline below has the same` });
  const mark = h("i", { class: "mark" });
  const box = (i, wide) => {
    const [x, end] = [(shape.from[i] * wide) / shape.leaves, (shape.to[i] * wide) / shape.leaves];
    return [x, shape.depth[i] * tall, Math.max(0.4, end - x - (end - x > 4 ? 1 : 0)), tall - 1];
  };
  const draw = () => {
    const [pixel, wide, unknown] = [devicePixelRatio || 1, canvas.clientWidth, css("--line")];
    Object.assign(canvas, { width: wide * pixel, height: shape.deep * tall * pixel });
    canvas.style.height = `${shape.deep * tall}px`;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.scale(pixel, pixel);
    nodes.forEach((node, i) => {
      context.globalAlpha = known(node.pruned) ? 0.4 : 1;
      context.fillStyle = shape.colour(node) ?? unknown;
      context.fillRect(...box(i, wide));
    });
    context.globalAlpha = 1;
    context.fillStyle = css("--ink");
    nodes.forEach((node, i) => {
      const [x, y, width] = box(i, wide);
      if (node.chosen) context.fillRect(x, y + tall - 3, Math.max(2, width), 2);
    });
  };
  const point = (i) => {
    const [x, y, width, height] = box(i, 100);
    Object.assign(mark.style, { left: `${x}%`, top: `${y}px`, width: `max(4px, ${width}%)`, height: `${height}px` });
  };
  const under = (event) => {
    const { left, top, width } = canvas.getBoundingClientRect();
    const leaf = ((event.clientX - left) * shape.leaves) / width;
    const depth = Math.floor((event.clientY - top) / tall);
    return nodes.findIndex((_, i) => shape.depth[i] === depth && shape.from[i] <= leaf && leaf < shape.to[i]);
  };
  canvas.addEventListener("pointermove", (event) => {
    const i = under(event);
    hover(i < 0 ? null : told(i), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("click", (event) => {
    const i = under(event);
    if (i >= 0) pick(i);
  });
  const scale = [0, 0.25, 0.5, 0.75, 1].map((part) => h("i", { style: { background: shareColour(part) } }));
  return { draw, point, figure: h("figure", {}, h("div", { class: "picture" }, canvas, mark), h("figcaption", { class: "scale soft" }, shape.low < Infinity
    ? [h("span", {}, "reward ", precise(shape.low), " ", h("span", { class: "steps" }, scale), " ", precise(shape.high)),
      "pale: passed over · line: the way to the selected answer"]
    : "line: the way to the selected answer")) };
}
