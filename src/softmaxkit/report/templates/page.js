// The charts: each is drawn for its current width, and redrawn when that changes.

const NARROW = 560;
const PAPER = 940; // A4 or Letter, landscape
const byTouch = matchMedia("(pointer: coarse)").matches;
const darkColours = Object.entries(JSON.parse(document.getElementById("dark-colours").textContent));
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const plots = new Map();
const legendKeys = [];
let printing = false;

// Return a part of a figure in the reader's colour scheme; charts are defined in light colours, and printed in them.
function inScheme(part) {
  if (printing || !prefersDark.matches) return part;
  return JSON.parse(darkColours.reduce((text, [light, dark]) => text.replaceAll(light, dark), JSON.stringify(part)));
}

for (const element of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
  const plot = { element, figure, scale: "log", width: 0 };
  plots.set(element, plot);
  if (figure.layout.showlegend) element.before(legend(plot));
}

function layoutOf({ figure, scale }, width) {
  const { meta = {}, ...given } = figure.layout;
  const layout = structuredClone({ ...given, ...(width < (meta.narrow_below ?? NARROW) ? meta.narrow : {}), width, showlegend: false });
  if (meta.scales) {
    const axis = layout[meta.scales.axis];
    Object.assign(axis, { type: scale, range: meta.scales[scale] ?? undefined, dtick: scale === "log" ? axis.dtick : undefined });
  }
  if (byTouch) { // dragging over a chart scrolls the page
    layout.dragmode = false;
    for (const [name, axis] of Object.entries(layout)) if (/^[xy]axis/.test(name)) axis.fixedrange = true;
  }
  return meta.labels ? labelled(layout, meta.labels, meta.line, meta.bars) : layout;
}

function draw(plot, width) {
  plot.width = width;
  return Plotly.react(plot.element, inScheme(plot.figure.data), inScheme(layoutOf(plot, width)), { displayModeBar: false });
}

function paintLegends() {
  for (const { key, style, colour } of legendKeys) key.style.borderTop = `2px ${style} ${inScheme(colour)}`;
}

// While the window is being resized, wait until its size is stable.
let waiting = 0;
const redraw = () => {
  for (const plot of plots.values()) {
    const width = Math.floor(plot.element.clientWidth);
    if (width > 0 && width !== plot.width) draw(plot, width);
  }
};
const observer = new ResizeObserver(() => {
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 80);
});
for (const plot of plots.values()) {
  draw(plot, Math.floor(plot.element.clientWidth));
  observer.observe(plot.element);
}
paintLegends();

function repaint() {
  for (const plot of plots.values()) plot.width = 0;
  redraw();
  paintLegends();
}
prefersDark.addEventListener("change", repaint);

// A legend of buttons, each of which hides and shows its traces.
function legend(plot) {
  const list = document.createElement("ul");
  list.className = "legend";
  for (const name of new Set(plot.figure.data.map((trace) => trace.name))) {
    const traces = plot.figure.data.filter((trace) => trace.name === name);
    const { color, dash } = traces[0].line ?? traces[0].marker;
    const button = document.createElement("button");
    const key = document.createElement("span");
    const text = document.createElement("span");
    key.className = "key";
    const style = { dash: "dashed", dot: "dotted" }[dash] ?? (dash && dash !== "solid" ? "dashed" : "solid");
    legendKeys.push({ key, style, colour: color });
    text.innerHTML = name.replace(/<(?!\/?b>)/g, "&lt;"); // allow only <b> in names
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(key, text);
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const trace of traces) trace.visible = shown;
      draw(plot, plot.width);
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  }
  return list;
}

for (const control of document.querySelectorAll("[data-scale-of]")) {
  control.addEventListener("change", (event) => {
    for (const plot of plots.values()) {
      if (!plot.element.closest(`#${control.dataset.scaleOf}`)) continue;
      plot.scale = event.target.value;
      draw(plot, plot.width);
    }
  });
}

for (const control of document.querySelectorAll("[data-figures-of]")) {
  control.addEventListener("change", (event) => {
    const plot = plots.get(document.getElementById(control.dataset.figuresOf));
    plot.figure = JSON.parse(document.getElementById(event.target.value).textContent);
    draw(plot, plot.width);
  });
}

// For printing, redraw at the width of the paper, in light colours.
window.addEventListener("beforeprint", () => {
  printing = true;
  paintLegends();
  for (const plot of plots.values()) draw(plot, plot.element.closest(".panels") ? Math.floor(PAPER / 3) - 16 : PAPER);
});
window.addEventListener("afterprint", () => {
  printing = false;
  repaint();
});
