"use strict";
// Draws the figures in the page's own colours, and filters the pairs.
(() => {
  const CONFIG = { displayModeBar: false, responsive: true };

  const dressed = (layout) => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const page = structuredClone(layout);
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
  const draw = () => plots.map(({ target, data, layout }) => Plotly.react(target, data, dressed(layout), CONFIG));
  Promise.all(draw()).then(() => { document.documentElement.dataset.drawn = "true"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);

  const form = document.getElementById("filter");
  if (form) {
    const pairs = [...document.querySelectorAll(".pair")];
    const apply = () => {
      const error = form.elements.error.value;
      const problem = form.elements.problem.value;
      let count = 0;
      for (const pair of pairs) {
        const fits = (!error || pair.dataset.error === error) && (!problem || pair.dataset.problem === problem);
        pair.hidden = !fits;
        count += fits ? 1 : 0;
      }
      document.getElementById("shown").textContent = `${count} of ${pairs.length} pairs`;
    };
    form.addEventListener("change", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }
})();
