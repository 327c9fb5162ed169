"use strict";
// The table of cases: words to find, flagged ones alone, a click on a heading sorts, a hundred rows at a time.
const STEP = 100;
const table = document.getElementById("cases"), body = table.tBodies[0];
const [tools, find, flagged, count, more] =
  ["tools", "find", "flagged", "count", "more"].map((id) => document.getElementById(id));
const all = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));
let order = all, most = STEP;

function show() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fit = order.filter(({ row, text }) =>
    (!flagged?.checked || "flagged" in row.dataset) && words.every((word) => text.includes(word)));
  body.replaceChildren(...fit.slice(0, most).map(({ row }) => row));
  count.textContent = `${fit.length} of ${all.length} cases`;
  more.hidden = fit.length <= most;
}

function sort(heading) {
  const up = heading.ariaSort !== "ascending", place = heading.cellIndex;
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  heading.ariaSort = up ? "ascending" : "descending";
  const value = ({ row }) => row.cells[place].textContent;
  const numbers = all.some((one) => !isNaN(parseFloat(value(one)))) && place > 1;
  const compare = numbers
    ? (a, b) => parseFloat(value(a)) - parseFloat(value(b))
    : (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
  const unknown = (one) => numbers && isNaN(parseFloat(value(one)));
  const known = all.filter((one) => !unknown(one)).sort(compare);
  order = [...(up ? known : known.reverse()), ...all.filter(unknown)];  // what is not known stays last
  history.replaceState({ place, clicks: up ? 1 : 2 }, "");
  show();
}

// Whoever comes back from a case: the browser has filled in the words of before, the order is made again.
function resume({ persisted }) {
  const { place, clicks } = history.state ?? { clicks: 0 };
  for (let click = 0; click < clicks && !persisted; click++) sort(table.tHead.rows[0].cells[place]);
  show();
}

for (const heading of table.tHead.rows[0].cells) {
  const button = document.createElement("button");
  button.append(...heading.childNodes);
  button.onclick = () => sort(heading);
  heading.append(button);
}
for (const input of [find, flagged]) input?.addEventListener("input", () => { most = STEP; show(); });
more.onclick = () => { most += STEP; show(); };
tools.hidden = false;
addEventListener("pageshow", resume);
addEventListener("beforeprint", () => { most = Infinity; show(); }); // paper has no button for more
show();
