// How the runs were made, so that somebody else can make them again.

function madeSection() {
  return section("made", "How it was made", data.runs.map((run) => {
    const { config } = run;
    const models = Object.entries(config.models ?? {}).flatMap(([model, roles]) => Object.entries(roles).map(([role, one]) =>
      `${role === "policy" ? "" : `${role} of `}${model}: ${one.model}${one.base_url ? ` at ${one.base_url}` : ""}, ` +
      `${JSON.stringify({ ...(role === "policy" ? config.sampling : {}), ...one.params })}`));
    const rows = [
      ["run", h("code", {}, run.path)],
      ["task", h("code", {}, specOf(config.task))],
      ["strategies", config.strategies.map((one) => [h("code", {}, specOf(one)), h("br")])],
      ["models", models.map((text) => [h("code", {}, text), h("br")])],
      config.verifier && ["verifier", h("code", {}, specOf(config.verifier))],
      ["seeds", (config.seeds ?? []).join(", ")],
      config.limit && ["limit", plural(config.limit, "problem")],
      ["begun", run.started ? new Date(run.started * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC" : NOTHING],
      ["finished", `${count(run.progress.done)} of ${count(run.progress.expected)} (problem, strategy, model and seed)`],
      ["versions", Object.entries(run.versions ?? {}).map(([what, version]) => `${what} ${version}`).join(", ")],
      ["command", h("code", {}, (run.command ?? []).join(" "))],
    ].filter(Boolean);
    return [run.label && h("h3", {}, run.label), h("dl", { class: "facts" }, rows.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)])),
      h("details", {}, h("summary", {}, "The whole configuration"), h("pre", { tabindex: 0 }, JSON.stringify(config, null, 2)))];
  }));
}

// What else the runs can answer, and where the page has answered it already.
function studiesSection() {
  const here = { verifiers: data.verifiers, imperfect_verifier: data.resampling, heterogeneity: data.heterogeneity };
  const place = (study) => (here[study.name]?.length && (data.verifiers.length || data.resampling.length) ? "#verifiers" : null);
  return section("studies", "Further questions",
    h("p", { class: "soft" }, "The stored runs answer them without asking a model; ",
      h("code", {}, "tts list studies"), " has their parameters."),
    table([
      { name: "study", left: true, cell: (study) => (place(study) ? h("a", { href: place(study) }, study.name) : study.name) },
      { name: "answers", left: true, cell: (study) => study.question },
      { name: "command", left: true, cell: (study) => h("code", {}, study.command) },
    ], data.studies));
}

// `name:key=value,...` without what is not set.
function specOf(config) {
  if (typeof config !== "object" || config === null) return String(config);
  const { name: called, ...rest } = config;
  const parts = Object.entries(rest).filter(([, value]) => known(value))
    .map(([key, value]) => `${key}=${typeof value === "object" && value.name ? specOf(value) : typeof value === "object" ? JSON.stringify(value) : value}`);
  return parts.length ? `${called}:${parts.join(",")}` : called;
}
