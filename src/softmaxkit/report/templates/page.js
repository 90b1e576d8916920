"use strict";

const layouts = new Map();

for (const plot of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(plot.dataset.figure).textContent);
  layouts.set(plot.id, structuredClone(figure.layout));
  Plotly.newPlot(plot, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}

for (const control of document.querySelectorAll("[data-scale-of]")) {
  control.addEventListener("change", (event) => {
    const layout = layouts.get(control.dataset.scaleOf);
    const change = {};
    for (const [name, axis] of Object.entries(layout)) {
      if (!name.startsWith("yaxis") || axis.type !== "log") continue;
      const logarithmic = event.target.value === "log";
      change[`${name}.type`] = logarithmic ? "log" : "linear";
      change[`${name}.dtick`] = logarithmic ? axis.dtick : null;
      change[logarithmic ? `${name}.range` : `${name}.autorange`] = logarithmic ? axis.range : true;
    }
    Plotly.relayout(control.dataset.scaleOf, change);
  });
}

// A chart is drawn for the window's width, which is not the paper's.
const redraw = (width) => {
  for (const id of layouts.keys()) Plotly.relayout(id, width ? { width } : { width: null, autosize: true });
};
window.addEventListener("beforeprint", () => redraw(700));
window.addEventListener("afterprint", () => redraw(null));
