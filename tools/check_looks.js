// What a reader sees of a page; tools/check_looks.py calls these functions in the page.
(function () {
const article = document.querySelector("article") ?? document.body;
const seen = e => e.checkVisibility() && e.getBoundingClientRect().width > 0;
const name = e => (e.closest("[id]")?.id ?? "") + ": " + e.textContent.trim().slice(0, 50);
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 1;
const brush = canvas.getContext("2d", {willReadFrequently: true});
const rgba = color => {
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = "#000";
  brush.fillStyle = color;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data];
};
const light = rgb => rgb.slice(0, 3).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = e => {
  for (; e; e = e.parentElement) {
    const color = rgba(getComputedStyle(e).backgroundColor);
    if (color[3] > 128) return color;
  }
  return [255, 255, 255, 255];
};
function cut() {
  const found = [];
  for (const pre of article.querySelectorAll("pre"))
    if (seen(pre) && pre.scrollWidth > pre.clientWidth + 1) found.push("code is cut, " + name(pre));
  for (const box of article.querySelectorAll("mjx-container")) {
    const inner = box.querySelector("mjx-math"), block = box.closest("div.math");
    const holder = block ?? box;
    if (!inner || !seen(box)) continue;
    const room = (block ?? box.closest("p, li, td, th, dd, div") ?? article).getBoundingClientRect();
    const over = inner.getBoundingClientRect().width > room.width + 2;
    const tells = holder.classList.contains("mf-scroll") && holder.tabIndex === 0;
    if (over && !tells) found.push("a formula is cut without a sign, " + name(box));
  }
  for (const stop of article.querySelectorAll("[tabindex='0']")) {
    if (stop.closest(".mf-live") || stop.matches("a, button, input, summary, [role]:not([role=group])")) continue;
    if (seen(stop) && stop.scrollWidth <= stop.clientWidth + 1) found.push("a tab stop where nothing scrolls, " + name(stop));
  }
  for (const box of article.querySelectorAll("mjx-container:not([display=true])")) {
    const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    let after = box.nextSibling;
    while (after && !after.textContent) after = after.nextSibling;
    if (after?.nodeType !== 3 || !/^[,.;:!?)]/.test(after.textContent)) continue;
    const range = document.createRange();
    range.setStart(after, 0);
    range.setEnd(after, 1);
    if (range.getBoundingClientRect().top > box.getBoundingClientRect().bottom - 1)
      found.push("a line begins with punctuation, " + after.textContent.slice(0, 30));
  }
  return found;
}
function figures(least) {
  const found = [];
  for (const text of article.querySelectorAll("svg text")) {
    if (!seen(text) || !text.textContent.trim()) continue;
    const style = getComputedStyle(text);
    if (style.fill === "none") continue;
    const [a, b] = [light(rgba(style.fill)), light(ground(text))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < least) found.push(`a word in a figure has contrast ${contrast.toFixed(1)}, ` + name(text));
  }
  return found;
}
function white() {
  const found = [];
  for (const box of article.querySelectorAll("figure, figure > div, img, svg, .cell_output > .output")) {
    if (!seen(box)) continue;
    const color = rgba(getComputedStyle(box).backgroundColor);
    if (color[3] > 128 && light(color) > 0.5) found.push("a white box in the dark, " + (box.id || box.className || box.tagName));
  }
  for (const picture of article.querySelectorAll("img:not(.mf-photo)")) {
    if (!picture.complete || !picture.naturalWidth || picture.naturalWidth < 8) continue;
    const page = document.createElement("canvas");
    [page.width, page.height] = [picture.naturalWidth, picture.naturalHeight];
    const pen = page.getContext("2d");
    pen.drawImage(picture, 0, 0);
    const at = (x, y) => [...pen.getImageData(x, y, 1, 1).data];
    const [w, h] = [page.width - 2, page.height - 2];
    const corners = [at(1, 1), at(w, 1), at(1, h), at(w, h)];
    const filter = getComputedStyle(picture).filter.includes("invert");
    if (!filter && corners.every(c => c[3] > 128 && light(c) > 0.8))
      found.push("a picture with a white ground in the dark, " + picture.src.slice(-40));
  }
  return found;
}
function lost() {
  const found = [];
  const room = document.documentElement.clientWidth;
  for (const box of article.querySelectorAll("pre, table, .cell_output, div.math, .pst-scrollable-table-container")) {
    if (!seen(box)) continue;
    const style = getComputedStyle(box), hides = style.overflowX !== "visible" && box.scrollWidth > box.clientWidth + 1;
    if (hides || box.getBoundingClientRect().right > room + 3)
      found.push("paper would cut " + box.tagName.toLowerCase() + " " + name(box));
  }
  for (const box of article.querySelectorAll("pre"))
    if (seen(box) && box.scrollWidth > box.clientWidth + 1) found.push("paper would cut code " + name(box));
  return found;
}
window.looks = { cut, figures, white, lost };
})();
