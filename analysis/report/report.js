"use strict";
(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const theme = read("theme");
  const narrow = window.matchMedia("(max-width: 640px)");
  // `ast` has expressions interpreted instead of compiled, so that the page needs no right to evaluate text.
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
  const config = () => ({ ...theme, legend: { ...theme.legend, columns: narrow.matches ? 1 : 0 } });
  // A legend of more columns than two would be cut off on a narrow page; data are texts in here and stay as they are.
  const fitting = (name, value) => name === "columns" && narrow.matches ? Math.min(value, 2) : value;
  const specification = (box) => JSON.parse(document.getElementById(box.dataset.spec).textContent, fitting);
  const boxes = [...document.querySelectorAll(".chart")];
  const views = new Map();

  async function draw(box) {
    try {
      views.get(box)?.finalize();
      const drawn = await vegaEmbed(box, specification(box), { ...options, config: config() });
      views.set(box, drawn);
      if (box.dataset.brush) watch(box, drawn.view);
    } catch (error) {
      box.textContent = "This chart could not be drawn.";
      console.error(error);
    }
  }
  const later = new Set();
  const seen = (box) => { if (box.closest("details.fold")?.open === false) { later.add(box); return false; } return true; };
  const drawAll = () => Promise.all(boxes.filter(seen).map(draw)).then(() => { document.documentElement.dataset.drawn = String(views.size); });

  // A rectangle drawn in one chart narrows the records that the page shows; there is one at a time.
  const SHOWN = 12;
  const cards = [...document.querySelectorAll("#exposed .card")].map((card) => ({ card, values: JSON.parse(card.dataset.values) }));
  const narrowed = document.querySelector(".narrowed");
  let active = null;

  function watch(box, view) {
    let waiting = 0;
    view.addSignalListener(box.dataset.brush, (_, value) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => select(box, value), 60);
    });
  }

  function select(box, value) {
    const some = Array.isArray(value?.x) && Array.isArray(value?.y);
    if (!some && active !== box) return;
    if (active && active !== box) clear(active);
    active = some ? box : null;
    const within = (a, [from, to]) => a >= Math.min(from, to) && a <= Math.max(from, to);
    const inside = (x, y) => within(x, value.x) && within(y, value.y);
    list(box, some ? points(box).filter((row) => inside(row.x, row.y)) : null);
    let left = 0;
    for (const { card, values } of cards) {
      const x = values[box.dataset.x], y = values[box.dataset.y];
      card.hidden = some && !(x !== undefined && y !== undefined && inside(x, y));
      left += card.hidden ? 0 : 1;
    }
    if (!narrowed) return;
    narrowed.hidden = !some;
    narrowed.firstElementChild.textContent = `${left} of these ${cards.length} records lie in the rectangle drawn in the chart of ${box.dataset.y} and ${box.dataset.x}.`;
    for (const more of document.querySelectorAll("#exposed details.rest")) more.open = some;
  }

  function clear(box) {
    list(box, null);
    draw(box);
  }

  function showAll() {
    const box = active;
    if (!box) return;
    select(box, null);
    draw(box);
  }

  const points = (box) => Object.values(read(box.dataset.spec).datasets).map(rowsOf).find((rows) => rows[0]?.sample !== undefined) ?? [];
  const rowsOf = (text) => typeof text === "string" ? JSON.parse(text) : text;

  function list(box, rows) {
    const panel = box.parentElement.querySelector(".picked");
    panel.hidden = rows === null;
    if (rows === null) return;
    rows.sort((one, other) => other.y - one.y);
    const all = points(box).length;
    const first = rows.length > SHOWN ? `; the ${SHOWN} with the highest ${box.dataset.y}:` : rows.length ? ":" : ".";
    panel.querySelector("p").textContent = `${rows.length.toLocaleString("en")} of ${all.toLocaleString("en")} records drawn singly lie in the rectangle${first}`;
    panel.querySelector("tbody").replaceChildren(...rows.slice(0, SHOWN).map((row) => {
      const line = document.createElement("tr");
      for (const text of [`sample ${row.sample}`, row.about ?? "", row.a, row.b]) {
        const cell = document.createElement("td");
        cell.textContent = text;
        line.append(cell);
      }
      return line;
    }));
    panel.querySelector("table").hidden = rows.length === 0;
  }

  narrow.addEventListener("change", drawAll);

  // Sections fold; where a link leads into one, and on paper, they open.
  const folds = [...document.querySelectorAll("details.fold")];
  const all = document.querySelector(".fold-all");
  const open = (section) => { const fold = section?.querySelector("details.fold"); if (fold) fold.open = true; };
  for (const fold of folds) {
    fold.addEventListener("toggle", () => {
      all.textContent = folds.some((one) => one.open) ? "Fold all" : "Open all";
      if (!fold.open) return;
      for (const box of fold.querySelectorAll(".chart")) if (later.delete(box)) draw(box);
      measure();
    });
  }
  all.hidden = false;
  all.addEventListener("click", () => { const some = folds.some((one) => one.open); for (const fold of folds) fold.open = !some; });
  for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", () => open(document.getElementById(link.hash.slice(1))));
  if (location.hash.length > 1) open(document.getElementById(decodeURIComponent(location.hash.slice(1))));
  window.addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });

  // A table that is wider than the page says so.
  function measure() {
    for (const wide of document.querySelectorAll(".wide")) {
      const hint = wide.previousElementSibling, more = wide.scrollWidth > wide.clientWidth + 1;
      hint.classList.toggle("more", more);
      hint.classList.toggle("fits", !more);
    }
  }
  window.addEventListener("resize", measure);
  measure();
  for (const button of document.querySelectorAll(".all")) button.addEventListener("click", showAll);
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      getSelection().selectAllChildren(code);
      try { await navigator.clipboard.writeText(code.textContent); button.textContent = "Copied"; } catch { button.textContent = "Selected"; }
    });
  }
  drawAll();
})();
