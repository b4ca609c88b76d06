"use strict";
// Draws the figures in the page's own colours, and filters the failures.
(() => {
  const CONFIG = { displayModeBar: false, responsive: true };
  const PAPER = 660; // pixels, as wide as A4 and Letter have room for; the style sheet fits it to the page
  const paper = matchMedia("print");

  const dressed = (layout, target) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const page = structuredClone(layout);
    if (paper.matches) page.width = target.closest(".grid") ? PAPER / 2 : PAPER;
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--ink") };
    page.font = font;
    page.hoverlabel = { font: { ...font, color: colour("--ink") }, bgcolor: colour("--card"), bordercolor: colour("--line") };
    for (const key of Object.keys(page).filter((name) => /^[xy]axis\d*$/.test(name))) {
      Object.assign(page[key], { gridcolor: colour("--line"), linecolor: colour("--line"), tickfont: { color: colour("--soft") } });
      page[key].title = { ...page[key].title, font: { color: colour("--soft") } };
    }
    return page;
  };

  const plots = [...document.querySelectorAll("[data-plot]")].map((target) => {
    const source = document.getElementById("plot-" + target.dataset.plot);
    return { target, ...JSON.parse(source.textContent) };
  });
  const draw = () => plots.map(async ({ target, data, layout }) => {
    await Plotly.react(target, data, dressed(layout, target), CONFIG);
    for (const image of target.querySelectorAll(".main-svg")) {
      image.setAttribute("viewBox", `0 0 ${image.getAttribute("width")} ${image.getAttribute("height")}`);
    }
  });
  Promise.all(draw()).then(() => { document.documentElement.dataset.drawn = "true"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  paper.addEventListener("change", draw);

  const form = document.getElementById("filter");
  if (form) {
    const { error, problem, words, open, close } = form.elements;
    const failures = [...document.querySelectorAll(".pair")].map((entry) => ({
      entry, error: entry.dataset.error, problem: entry.dataset.problem, text: entry.textContent.toLowerCase(),
    }));
    const fits = (failure, wanted) =>
      (!wanted.error || failure.error === wanted.error) && (!wanted.problem || failure.problem === wanted.problem) &&
      failure.text.includes(wanted.words);
    // A choice that leaves nothing cannot be chosen.
    const limit = (select, name, wanted) => {
      const left = new Set(failures.filter((failure) => fits(failure, { ...wanted, [name]: "" })).map((failure) => failure[name]));
      for (const option of select.options) option.disabled = option.value !== "" && !left.has(option.value);
    };
    const apply = () => {
      const wanted = { error: error.value, problem: problem.value, words: words.value.trim().toLowerCase() };
      let count = 0;
      for (const failure of failures) {
        failure.entry.hidden = !fits(failure, wanted);
        count += failure.entry.hidden ? 0 : 1;
      }
      limit(error, "error", wanted);
      limit(problem, "problem", wanted);
      document.getElementById("shown").textContent = `${count} of ${failures.length} failures`;
    };
    const turn = (state) => () => failures.forEach(({ entry }) => { if (!entry.hidden) entry.open = state; });
    form.addEventListener("input", apply);
    form.addEventListener("reset", () => setTimeout(apply));
    form.addEventListener("submit", (event) => event.preventDefault());
    open.addEventListener("click", turn(true));
    close.addEventListener("click", turn(false));
    form.hidden = false;
    apply();
  }
})();
