// Export of tables: CSV with all digits if the page includes them; Markdown and LaTeX with the digits shown.

const squeeze = (text) => text.replace(/\s+/g, " ").trim();

// A cell's text: the figure, followed by the remark below it, a spread or a range.
function cellText(cell) {
  const remark = cell.querySelector("small");
  if (!remark) return squeeze(cell.textContent);
  const figure = [...cell.childNodes].filter((node) => node !== remark).map((node) => node.textContent).join("");
  const beneath = squeeze(remark.textContent);
  return beneath.startsWith("±") ? `${squeeze(figure)} ${beneath}` : `${squeeze(figure)} (${beneath})`;
}

// A table's head as a grid; a cell that spans columns or rows has its text in its first column and last row.
function headGrid(table) {
  const rows = [...(table.tHead?.rows ?? [])];
  const grid = rows.map(() => []);
  rows.forEach((row, top) => {
    let column = 0;
    for (const cell of row.cells) {
      while (grid[top][column]) column += 1;
      for (let down = 0; down < cell.rowSpan; down += 1) {
        for (let right = 0; right < cell.colSpan; right += 1) {
          const home = down === cell.rowSpan - 1 && right === 0;
          grid[top + down][column + right] = { text: home ? cellText(cell) : "", span: home ? cell.colSpan : right ? 0 : 1, over: cell };
        }
      }
    }
  });
  return grid;
}

const bodyOf = (table) => [...table.tBodies].flatMap((body) => [...body.rows].map((row) => [...row.cells]));

// One heading per column, e.g. "Loss, nats, float".
function headings(table) {
  const grid = headGrid(table);
  return (grid.at(-1) ?? []).map((_, column) =>
    squeeze([...new Set(grid.map((row) => row[column].over))].map(cellText).filter(Boolean).join(", ")));
}

const quoted = (text) => (/[",\r\n]/.test(text) || text !== text.trim() ? `"${text.replaceAll('"', '""')}"` : text);

function toCsv(table) {
  const sheet = document.getElementById(`${table.id}-sheet`);
  const { headings: head, rows } = sheet
    ? JSON.parse(sheet.textContent)
    : { headings: headings(table), rows: bodyOf(table).map((row) => row.map(cellText)) };
  return [head, ...rows].filter((row) => row.length).map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

const MARKDOWN = /[\\`*_{}[\]<>|~&$#!]/g;

function toMarkdown(table) {
  const rows = bodyOf(table);
  const head = headings(table);
  const line = (cells) => `| ${cells.map((text) => text.replace(MARKDOWN, "\\$&")).join(" | ")} |\n`;
  const rule = rows[0].map((cell) => (alignment(cell) === "r" ? "---:" : ":---"));
  return line(head.length ? head : rows[0].map(() => "")) + `| ${rule.join(" | ")} |\n` + rows.map((row) => line(row.map(cellText))).join("");
}

const LATEX = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_",
  "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
  "[": "{[}", "]": "{]}", "*": "{*}", // these have a meaning after the end of a row
  "−": "$-$", "±": "$\\pm$", "×": "$\\times$", "∞": "$\\infty$", "–": "--", "µ": "$\\mu$", "²": "$^2$", "…": "\\ldots{}",
};

const escapeLatex = (text) => text.replace(/[\\{}$&#%_^~<>|[\]*−±×∞–µ²…]/g, (sign) => LATEX[sign]);

function toLatex(table) {
  const rows = bodyOf(table);
  const line = (cells) => `${cells.join(" & ")} \\\\\n`;
  const head = headGrid(table).map((row) => {
    let column = 1;
    const rules = [], cells = [];
    for (const { text, span } of row) {
      if (span > 1) {
        cells.push(`\\multicolumn{${span}}{c}{${escapeLatex(text)}}`);
        rules.push(`\\cmidrule(lr){${column}-${column + span - 1}}`);
      } else if (span === 1) cells.push(escapeLatex(text));
      column += 1;
    }
    return line(cells) + (rules.length ? `${rules.join(" ")}\n` : "");
  });
  return "% \\usepackage{booktabs}\n" +
    `\\begin{tabular}{${rows[0].map(alignment).join("")}}\n\\toprule\n` +
    (head.length ? `${head.join("")}\\midrule\n` : "") +
    rows.map((row) => line(row.map((cell) => escapeLatex(cellText(cell))))).join("") +
    "\\bottomrule\n\\end{tabular}\n";
}

const alignment = (cell) => (["right", "end"].includes(getComputedStyle(cell).textAlign) ? "r" : "l");

const FORMATS = {
  csv: { write: toCsv, ending: "csv", type: "text/csv" },
  markdown: { write: toMarkdown, ending: "md", type: "text/markdown" },
  latex: { write: toLatex, ending: "tex", type: "application/x-tex" },
};

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // not allowed or not available: some browsers have no clipboard for pages opened from a file
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("the browser does not let this page copy");
  }
}

function download(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

for (const tools of document.querySelectorAll("[data-export]")) {
  tools.hidden = false;
  const table = document.getElementById(tools.dataset.export);
  const said = tools.querySelector("output");
  tools.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { write, ending, type } = FORMATS[button.dataset.format];
    const name = `softmaxkit-${table.id.replace(/-table$/, "")}.${ending}`;
    try {
      if (button.dataset.verb === "copy") await copy(write(table));
      else download(write(table), name, type);
      said.textContent = button.dataset.verb === "copy" ? `${button.textContent} copied` : `${name} saved`;
    } catch (error) {
      said.textContent = `Not copied: ${error.message}. Download it instead.`;
    }
    setTimeout(() => { said.textContent = ""; }, 4000);
  });
}

// A table wider than its box shows a hint and a shadow; the shadow disappears when it is scrolled to the end.
for (const box of document.querySelectorAll(".wide")) {
  const hint = box.closest(".tabular").querySelector(".hint");
  const update = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    hint.hidden = hidden <= 1;
    box.classList.toggle("scrolled", box.scrollLeft > 1);
    box.parentElement.classList.toggle("more", hidden - box.scrollLeft > 1);
  };
  box.addEventListener("scroll", update, { passive: true });
  new ResizeObserver(update).observe(box);
  update();
}
