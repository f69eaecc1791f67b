"use strict";
for (const head of document.querySelectorAll("table.sortable th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.ariaSort === "descending" || (head.ariaSort === null && !head.classList.contains("number"));
    for (const other of head.parentElement.children) other.ariaSort = null;
    head.ariaSort = down ? "ascending" : "descending";
    const body = head.closest("table").tBodies[0];
    const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
    const compare = head.classList.contains("number")
      ? (a, b) => key(a) - key(b)
      : (a, b) => key(a).localeCompare(key(b));
    body.append(...[...body.rows].sort((a, b) => (down ? compare(a, b) : compare(b, a))));
  });
}
