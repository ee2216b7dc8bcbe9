// Boxes that scroll by themselves: a formula that is a little too wide is set smaller, one that is much
// too wide scrolls and fades at its end; whatever scrolls can be reached by keyboard, nothing else can.
const SMALLEST = 0.8;
function fit(box) {
  const inner = box.querySelector("mjx-math"), room = box.closest("div.math, p, li, td, dd, figcaption") ?? box.parentElement;
  if (!inner) return box.scrollWidth > box.clientWidth + 1;
  box.style.removeProperty("font-size");
  const wide = inner.getBoundingClientRect().width, ratio = room.clientWidth / wide;
  if (ratio >= 1) return false;
  if (ratio < SMALLEST) return true;
  const size = parseFloat(getComputedStyle(box).fontSize);
  box.style.setProperty("font-size", `${Math.floor(size * ratio * 10) / 10}px`, "important");
  return inner.getBoundingClientRect().width > room.clientWidth + 1;
}
function reach() {
  for (const formula of document.querySelectorAll(".bd-article mjx-container")) formula.removeAttribute("tabindex");
  const kinds = ".pst-scrollable-table-container, div.math > mjx-container, span.math > mjx-container, .cell_output, pre";
  for (const box of document.querySelectorAll(`.bd-article :is(${kinds})`)) {
    const formula = box.tagName === "MJX-CONTAINER", holder = formula && box.parentElement.tagName === "DIV" ? box.parentElement : box;
    const scrolls = formula ? fit(box) : box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
    if (box.matches("pre") && !scrolls) continue;
    holder.classList.toggle("mf-scroll", scrolls);
    if (!scrolls) {
      holder.removeAttribute("tabindex");
      continue;
    }
    holder.tabIndex = 0;
    if (formula && !holder.hasAttribute("role")) holder.setAttribute("role", "group");
    if (formula) holder.setAttribute("aria-label", "formula, scrolls sideways");
    const end = () => holder.classList.toggle("mf-end", holder.scrollLeft + holder.clientWidth > holder.scrollWidth - 4);
    holder.onscroll = end;
    end();
  }
}

// The form above cards: it shows those that have the words and the chosen values.
function filter(form) {
  const cards = [...document.querySelectorAll(".mf-row")], fields = [...form.querySelectorAll("[data-filter]")];
  const shown = form.querySelector("output");
  function apply() {
    let count = 0;
    for (const card of cards) {
      const good = ({ dataset: { filter }, value }) =>
        !value || (filter === "words" ? card.textContent.toLowerCase().includes(value.toLowerCase()) : card.dataset[filter] === value);
      card.hidden = !fields.every(good);
      count += !card.hidden;
    }
    for (const group of document.querySelectorAll(".mf-rows")) {
      const section = group.closest("section");
      if (section?.querySelector("h2")) section.hidden = ![...group.querySelectorAll(".mf-row")].some((card) => !card.hidden);
    }
    shown.textContent = count === cards.length ? `${count} rows` : `${count} of ${cards.length} rows`;
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}

// A finger on a point of a live picture drags the point, and does not scroll the page.
const grab = (event) => event.target.closest?.(".mf-handle") && event.preventDefault();
document.addEventListener("touchstart", grab, { passive: false });

window.addEventListener("load", () => {
  for (const arrow of document.querySelectorAll("summary:has(.toctree-toggle)")) arrow.setAttribute("aria-label", "Pages of this section");
  document.querySelectorAll(".mf-filter").forEach(filter);
  reach();
  window.MathJax?.startup?.promise?.then(reach);
});
window.addEventListener("resize", reach);
