"use strict";
// Without scripts all of the page is there; with them it can be filtered and sorted.
{
  const box = document.querySelector("#filter"), none = document.querySelector("#none-left");
  const parts = [...document.querySelectorAll("section.finding, #devices tbody tr")];
  const texts = parts.map(part => part.textContent.toLowerCase());
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/);
    parts.forEach((part, n) => { part.hidden = !words.every(word => texts[n].includes(word)); });
    for (const group of document.querySelectorAll("section.cause"))
      group.hidden = !group.querySelector("section.finding:not([hidden])");
    none.hidden = parts.some(part => !part.hidden);
  };
  if (box) {
    box.closest("p").hidden = false;
    box.addEventListener("input", filter);
  }
  // A link leads to what the filter may hide.
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (box && target && target.closest("[hidden]")) { box.value = ""; filter(); target.scrollIntoView(); }
  });
  for (const table of document.querySelectorAll("table.sorts")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = row => row.cells[column].textContent;
        const number = head.classList.contains("num");
        const rows = [...table.tBodies[0].rows].sort((a, b) => number
          ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, { numeric: true }));
        table.tBodies[0].append(...(down ? rows.reverse() : rows));
      });
    });
  }
}
