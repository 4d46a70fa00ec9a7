"use strict";
// Sorting and filtering of the tables of cases. The page is whole without it.
const names = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.cases")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent;
      const value = (row) => {
        const found = parseFloat(text(row).replace("\u2212", "-").replaceAll("\u202f", ""));
        return Number.isNaN(found) ? -Infinity : found;
      };
      rows.sort((a, b) => (up ? 1 : -1) * (value(a) - value(b) || names.compare(text(a), text(b))));
      body.append(...rows);
    });
  });
  if (rows.length > 20) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.type = "search";
    label.className = "filter";
    label.append("Show only rows with ", input);
    table.parentElement.before(label);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }
}
