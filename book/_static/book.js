// What scrolls by itself has to be reachable by keyboard: a wide table, formula or output on a phone.
function reach() {
  const kinds = ".pst-scrollable-table-container, div.math, span.math > mjx-container, .cell_output";
  for (const box of document.querySelectorAll(`.bd-article :is(${kinds})`)) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
window.addEventListener("load", () => {
  reach();
  window.MathJax?.startup?.promise?.then(reach);
});
window.addEventListener("resize", reach);
