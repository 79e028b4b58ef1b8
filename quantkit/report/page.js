"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function sortBy(table, column, header) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[column];
    return cell.dataset.v !== undefined ? (cell.dataset.v === "" ? NaN : Number(cell.dataset.v)) : cell.textContent;
  };
  const order = (a, b) => {
    const x = key(a), y = key(b);
    if (typeof x === "string") return (descending ? -1 : 1) * x.localeCompare(y, undefined, { numeric: true });
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return descending ? y - x : x - y;
  };
  body.append(...[...body.rows].sort(order));
  for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const table of all("table.sortable")) {
  all("thead th", table).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    header.replaceChildren(button);
    button.addEventListener("click", () => sortBy(table, column, header));
  });
}

const count = document.getElementById("layer-count");
const filter = document.getElementById("layer-filter");
const layerRows = all("#layers tbody tr");
function filterLayers() {
  const wanted = filter.value.toLowerCase();
  let shown = 0;
  for (const row of layerRows) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${layerRows.length} layers`;
}
if (filter) {
  filter.addEventListener("input", filterLayers);
  filterLayers();
}

const select = document.getElementById("layer-select");
function showLayer(index) {
  for (const figure of all("[data-histogram]")) figure.hidden = figure.dataset.histogram !== index;
  for (const row of layerRows) row.classList.toggle("chosen", row.dataset.layer === index);
  select.value = index;
}
function reachLayer(index) {
  showLayer(index);
  document.getElementById("distribution").scrollIntoView({ block: "nearest" });
}
if (select) {
  for (const dot of all("svg [data-layer]")) dot.addEventListener("click", () => reachLayer(dot.dataset.layer));
  select.addEventListener("change", () => showLayer(select.value));
  for (const row of layerRows) {
    const name = row.querySelector("th.name");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...name.childNodes);
    button.title = "Show its distribution";
    button.addEventListener("click", () => reachLayer(row.dataset.layer));
    name.replaceChildren(button);
  }
  showLayer(select.value);
}

for (const button of all("[data-kind-filter]")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.kindFilter;
    for (const other of all("[data-kind-filter]")) other.setAttribute("aria-pressed", String(other === button));
    for (const entry of all("[data-kind]")) entry.hidden = kind !== "all" && entry.dataset.kind !== kind;
  });
}
