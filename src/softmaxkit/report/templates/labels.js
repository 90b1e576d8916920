"use strict";

// Placement of point labels such that no two overlap and none hides a point. Boxes and positions are in pixels from the
// upper left corner of the plot area.

const LABEL = { font: 12, height: 17, padding: 3, gap: 3, marker: 9, near: 40, background: "rgba(255, 255, 255, 0.85)" };
const RINGS = [3, 8, 14, 22, 32, 44, 58, 74, 92, 112, 136, 164];
const DIRECTIONS = Array.from({ length: 24 }, (_, turn) => [Math.cos((turn * Math.PI) / 12), Math.sin((turn * Math.PI) / 12)]);

const overlap = (one, other, gap = 0) =>
  one.x - gap < other.x + other.width && other.x - gap < one.x + one.width &&
  one.y - gap < other.y + other.height && other.y - gap < one.y + one.height;

// Whether the line from (x, y) to (toX, toY) crosses a box.
function crosses(line, box) {
  let enter = 0, leave = 1;
  for (const [from, to, low, high] of [
    [line.x, line.toX, box.x, box.x + box.width],
    [line.y, line.toY, box.y, box.y + box.height],
  ]) {
    const step = to - from;
    if (step === 0) {
      if (from < low || from > high) return false;
      continue;
    }
    const ends = [(low - from) / step, (high - from) / step];
    enter = Math.max(enter, Math.min(...ends));
    leave = Math.min(leave, Math.max(...ends));
  }
  return enter <= leave;
}

function meet(one, other) {
  const side = (line, x, y) => Math.sign((line.toX - line.x) * (y - line.y) - (line.toY - line.y) * (x - line.x));
  return side(one, other.x, other.y) !== side(one, other.toX, other.toY) &&
    side(other, one.x, one.y) !== side(other, one.toX, one.toY);
}

// Yield candidate boxes for a point's label: first near it in all directions, then, if `everywhere`, on a grid.
function* candidates(point, area, everywhere) {
  const { width, height } = point;
  for (const ring of RINGS) {
    for (const [right, down] of DIRECTIONS) {
      const reach = LABEL.marker + ring;
      yield { x: point.x + right * (reach + width / 2) - width / 2, y: point.y + down * (reach + height / 2) - height / 2, width, height };
    }
  }
  if (!everywhere) return;
  for (let y = 0; y + height <= area.height; y += height / 2) {
    for (let x = 0; x + width <= area.width; x += 12) yield { x, y, width, height };
  }
}

// Return a box for each point, given as x, y and the label's width and height; null if there is no room. Labels avoid
// `lines` if possible. Earlier points choose first; then each point may choose again.
function placeLabels(points, area, lines = []) {
  const markers = points.map(({ x, y }) => ({
    x: x - LABEL.marker, y: y - LABEL.marker, width: 2 * LABEL.marker, height: 2 * LABEL.marker,
  }));
  const boxes = [];
  for (let round = 0; round < 3; round += 1) {
    for (const [place, point] of points.entries()) {
      const others = boxes.filter((_, which) => which !== place);
      const best = bestBox(point, area, others, markers, markers[place], lines);
      if (!best) return null;
      boxes[place] = best;
    }
  }
  return boxes;
}

function bestBox(point, area, others, markers, own, lines) {
  let best = null, least = Infinity;
  for (const everywhere of [false, true]) {
    for (const box of candidates(point, area, everywhere)) {
      if (box.x < 0 || box.y < 0 || box.x + box.width > area.width || box.y + box.height > area.height) continue;
      if (others.some((other) => overlap(box, other, LABEL.gap)) || markers.some((marker) => overlap(box, marker))) continue;
      const leader = { x: point.x, y: point.y, toX: box.x + box.width / 2, toY: box.y + box.height / 2 };
      const nearX = Math.min(Math.max(point.x, box.x), box.x + box.width);
      const nearY = Math.min(Math.max(point.y, box.y), box.y + box.height);
      const away = Math.hypot(nearX - point.x, nearY - point.y);
      // Prefer the right and above, where readers look first.
      let cost = away + (leader.toX < point.x ? 4 : 0) + (leader.toY > point.y ? 2 : 0);
      if (cost >= least) continue;
      cost += 14 * lines.filter((line) => crosses(line, box)).length;
      cost += 60 * others.filter((other) => crosses(leader, other)).length;
      cost += 60 * others.filter((other) => crosses(other.leader, box) || meet(other.leader, leader)).length;
      cost += 40 * markers.filter((marker) => marker !== own && crosses(leader, marker)).length;
      if (cost < least) [best, least] = [{ ...box, away, leader }, cost];
    }
    if (best) break;
  }
  return best;
}

const pen = document.createElement("canvas").getContext("2d");

function textWidth(label, family) {
  const width = (style, text) => {
    pen.font = `${style} ${LABEL.font}px ${family}`;
    return pen.measureText(text).width;
  };
  return width("bold", label.title) + (label.name ? width("normal", ` ${label.name}`) : 0);
}

// Return a label no wider than `most` pixels, shortening its name and then its title if necessary.
function fitted(label, family, most) {
  let { title, name } = label;
  while (textWidth({ title, name }, family) > most && (name || title).length > 1) {
    const shorter = `${(name || title).replace(/…$/, "").slice(0, -1)}…`;
    if (name) name = shorter === "…" ? "" : shorter;
    else title = shorter;
  }
  return { ...label, title, name };
}

// Plotly interprets some HTML in text.
const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);

// Return a layout with the labels of its points as annotations, increasing its height until all fit near their points.
function labelled(layout, given, line, bars = []) {
  const most = layout.width - layout.margin.l - layout.margin.r - 2 * LABEL.padding;
  const labels = given.map((label) => fitted(label, layout.font.family, most));
  let best = null;
  for (let higher = 0; higher <= 4000; higher += 60) {
    const tried = placedAt(layout, layout.height + higher, labels, line, bars);
    if (tried && (!best || tried.farthest < best.farthest)) best = tried;
    if (best && (best.farthest < LABEL.near || higher >= 240)) break;
  }
  return { ...layout, height: best?.height ?? layout.height, annotations: best?.annotations ?? [] };
}

function placedAt(layout, height, labels, line, bars) {
  const { l, r, t, b } = layout.margin;
  const [x, y] = [layout.xaxis.range, layout.yaxis.range];
  const area = { width: layout.width - l - r, height: height - t - b };
  const at = (right, up) => ({
    x: ((right - x[0]) / (x[1] - x[0])) * area.width, y: ((y[1] - up) / (y[1] - y[0])) * area.height,
  });
  const points = labels.map((label) => ({
    ...at(label.x, label.y),
    width: textWidth(label, layout.font.family) + 2 * LABEL.padding,
    height: LABEL.height,
  }));
  const steps = [];
  for (let place = 1; place < line.x.length; place += 1) { // across first, then down
    const [from, to] = [at(line.x[place - 1], line.y[place - 1]), at(line.x[place], line.y[place])];
    steps.push({ x: from.x, y: from.y, toX: to.x, toY: from.y }, { x: to.x, y: from.y, toX: to.x, toY: to.y });
  }
  for (const bar of bars) {
    const [from, to] = [at(bar.x, bar.y), at(bar.toX, bar.y)];
    steps.push({ x: from.x, y: from.y, toX: to.x, toY: to.y });
  }
  const boxes = placeLabels(points, area, steps);
  return boxes && {
    height,
    farthest: Math.max(...boxes.map((box) => box.away)),
    annotations: boxes.map((box, place) => annotation(labels[place], points[place], box)),
  };
}

function annotation(label, point, box) {
  const [right, down] = [box.x + box.width / 2 - point.x, box.y + box.height / 2 - point.y];
  const shared = {
    x: label.x, y: label.y, text: `<b>${escaped(label.title)}</b> ${escaped(label.name)}`.trim(),
    xanchor: "center", yanchor: "middle", font: { size: LABEL.font }, bgcolor: LABEL.background,
    borderpad: 0,
  };
  if (box.away < LABEL.marker + 6) return { ...shared, showarrow: false, xshift: right, yshift: -down };
  return { ...shared, showarrow: true, ax: right, ay: down, arrowhead: 0, arrowwidth: 1, arrowcolor: label.colour, standoff: 7 };
}
