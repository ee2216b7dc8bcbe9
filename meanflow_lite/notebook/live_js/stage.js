// What every live picture stands on: plots in SVG, handles, sliders, choices, words that act.
// A picture is a function meanflow.pictures.NAME(stage) that makes plots and controls and returns
// { draw(), numbers() }. Its state is a plain object; whatever changes the state calls set().
(function () {
  const mf = (window.meanflow ??= { pictures: {}, shown: {} });
  if (mf.mount) return;
  const clamp = (mf.clamp = (x, low, high) => Math.min(high, Math.max(low, x)));
  mf.range = (n, low = 0, high = 1) => Array.from({ length: n }, (_, i) => low + ((high - low) * i) / (n - 1));
  // A number for a sentence, with a true minus sign and no minus zero.
  mf.show = (x, digits = 2) => {
    const text = x.toFixed(digits);
    return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "\u2212");
  };
  // Colors of a map (dark blue over green to yellow), for x between 0 and 1.
  const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  mf.color = function (x) {
    const place = clamp(x, 0, 0.9999) * 4, i = Math.floor(place), part = place - i;
    return SCALE[i].map((low, c) => Math.round(low + (SCALE[i + 1][c] - low) * part));
  };

  function element(parent, tag, attributes = {}) {
    const svg = ["svg", "g", "path", "circle", "text", "image", "title", "mask", "rect", "defs"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    parent.append(made);
    return made;
  }

  // One drawing: data coordinates in, SVG in CSS pixels out, so that text never shrinks.
  class Plot {
    constructor(stage, { label, x, y, share = 1, height = 280, pad = [10, 14, 22, 14], beside = false }) {
      Object.assign(this, { stage, xs: x, ys: y, share, pad, tall: height, beside, handles: [], pictures: {} });
      this.svg = element(stage.plots, "svg", { role: "group", "aria-label": label });
      this.layer = element(this.svg, "g");
      this.svg.addEventListener("click", (event) => this.tap(event));
    }
    resize(room) {
      // Below 560 pixels plots stand one under the other, unless they ask to stay side by side.
      const alone = room < 560 && !this.beside, gaps = 12 * (this.stage.all.length - 1);
      const basis = alone ? room : Math.floor((room - gaps) * this.share);
      this.w = Math.max(basis, 90);
      this.h = typeof this.tall === "function" ? this.tall(this.w) : this.tall;
      for (const [name, value] of Object.entries({ width: this.w, height: this.h, viewBox: `0 0 ${this.w} ${this.h}` }))
        this.svg.setAttribute(name, value);
    }
    x(value) {
      const [top, right, bottom, left] = this.pad, [a, b] = this.xs;
      return left + ((value - a) / (b - a)) * (this.w - left - right);
    }
    y(value) {
      const [top, right, bottom] = this.pad, [a, b] = this.ys;
      return this.h - bottom - ((value - a) / (b - a)) * (this.h - top - bottom);
    }
    data(event) {
      const box = this.svg.getBoundingClientRect(), [top, right, bottom, left] = this.pad;
      const px = ((event.clientX - box.left) * this.w) / box.width, py = ((event.clientY - box.top) * this.h) / box.height;
      return [
        this.xs[0] + ((px - left) / (this.w - left - right)) * (this.xs[1] - this.xs[0]),
        this.ys[0] + ((this.h - bottom - py) / (this.h - top - bottom)) * (this.ys[1] - this.ys[0]),
      ];
    }
    clear() {
      this.layer.replaceChildren();
    }
    add(tag, attributes, looks, part) {
      const made = element(this.layer, tag, { ...attributes, class: looks });
      if (part) made.dataset.part = part;
      return made;
    }
    path(points) {
      return points.map(([a, b], i) => (i ? "L" : "M") + this.x(a).toFixed(2) + " " + this.y(b).toFixed(2)).join("");
    }
    line(points, looks, part) {
      return this.add("path", { d: this.path(points) }, "mf-line " + looks, part);
    }
    area(points, looks, part) {
      return this.add("path", { d: this.path(points) + "Z" }, "mf-area " + looks, part);
    }
    dot(x, y, looks, radius = 4, part) {
      return this.add("circle", { cx: this.x(x).toFixed(2), cy: this.y(y).toFixed(2), r: radius }, "mf-dot " + looks, part);
    }
    arrow(from, to, looks, part) {
      const [a, b] = [this.x(from[0]), this.y(from[1])], [c, d] = [this.x(to[0]), this.y(to[1])];
      const long = Math.hypot(c - a, d - b) || 1, head = Math.min(9, long / 2), s = (c - a) / long, n = (d - b) / long;
      const side = (way) => `M${c - head * (s + way * n * 0.5)} ${d - head * (n - way * s * 0.5)}L${c} ${d}`;
      return this.add("path", { d: `M${a} ${b}L${c} ${d}${side(1)}${side(-1)}` }, "mf-line " + looks, part);
    }
    // Text at data coordinates, moved by pixels; anchor is start, middle or end.
    text(x, y, words, { looks = "", anchor = "start", dx = 0, dy = 0 } = {}) {
      const made = this.add("text", { x: this.x(x) + dx, y: this.y(y) + dy, "text-anchor": anchor }, looks);
      made.textContent = words;
      return made;
    }
    // A map of columns x rows: color(i, j) gives [r, g, b, a]; it is painted once a key.
    map(key, columns, rows, color) {
      if (!this.pictures[key]) {
        const canvas = document.createElement("canvas"), brush = ((canvas.width = columns), (canvas.height = rows), canvas.getContext("2d"));
        const image = brush.createImageData(columns, rows);
        for (let i = 0; i < columns; i++)
          for (let j = 0; j < rows; j++) image.data.set(color(i, j), 4 * (i + (rows - 1 - j) * columns));
        brush.putImageData(image, 0, 0);
        this.pictures = { [key]: canvas.toDataURL() };
      }
      const [left, top] = [this.x(this.xs[0]), this.y(this.ys[1])];
      const size = { x: left, y: top, width: this.x(this.xs[1]) - left, height: this.y(this.ys[0]) - top };
      return this.add("image", { href: this.pictures[key], preserveAspectRatio: "none", ...size }, "");
    }
    // A point to drag: `get` and `set` in data coordinates, `axis` "x", "y" or "xy".
    handle(given) {
      const made = new Handle(this, given);
      this.handles.push(made);
      return made;
    }
    // A tap beside the handles moves the nearest one there.
    tap(event) {
      if (event.target.closest(".mf-handle") || !this.handles.length) return;
      const box = this.svg.getBoundingClientRect();
      const far = (h) => Math.hypot(event.clientX - box.left - h.at[0], event.clientY - box.top - h.at[1]);
      const near = this.handles.reduce((a, b) => (far(a) <= far(b) ? a : b));
      near.put(this.data(event));
    }
  }

  class Handle {
    constructor(plot, { label, get, set, say, axis = "xy", step = 0.05, page = 0.5, looks = "mf-ink" }) {
      Object.assign(this, { plot, get, set, say, axis, step, page, at: [0, 0] });
      this.node = element(plot.svg, "g", { class: "mf-handle " + looks, role: "slider", tabindex: 0, "aria-label": label });
      if (axis === "y") this.node.setAttribute("aria-orientation", "vertical");
      for (const r of [22, 9, 3]) element(this.node, "circle", { r });
      this.node.addEventListener("pointerdown", (event) => {
        this.node.setPointerCapture(event.pointerId);
        this.node.focus({ preventScroll: true });
        event.preventDefault();
      });
      this.node.addEventListener("pointermove", (event) => {
        if (this.node.hasPointerCapture(event.pointerId)) this.put(this.plot.data(event));
      });
      this.node.addEventListener("keydown", (event) => this.key(event));
    }
    range(axis) {
      return [...(axis === "x" ? this.plot.xs : this.plot.ys)].sort((a, b) => a - b);
    }
    put([x, y]) {
      const old = this.get();
      this.set(this.axis === "y" ? old[0] : clamp(x, ...this.range("x")), this.axis === "x" ? old[1] : clamp(y, ...this.range("y")));
      this.plot.stage.draw();
    }
    // Arrows by `step`, page keys by `page`, Home and End to the ends. Right and up are as drawn.
    key(event) {
      const [x, y] = this.get(), right = this.plot.xs[1] > this.plot.xs[0] ? 1 : -1, long = this.page;
      const flat = this.axis === "x", main = flat ? "x" : "y", sign = flat ? right : 1;
      const along = (by) => (flat ? [x + by, y] : [x, y + by]);
      const side = (way) => (this.axis === "y" ? [x, y + way * this.step] : [x + way * right * this.step, y]);
      const rise = (way) => (flat ? [x + way * right * this.step, y] : [x, y + way * this.step]);
      const [low, high] = this.range(main), ends = sign > 0 ? [low, high] : [high, low];
      const to = {
        ArrowLeft: () => side(-1),
        ArrowRight: () => side(1),
        ArrowDown: () => rise(-1),
        ArrowUp: () => rise(1),
        PageDown: () => along(-sign * long),
        PageUp: () => along(sign * long),
        Home: () => (flat ? [ends[0], y] : [x, ends[0]]),
        End: () => (flat ? [ends[1], y] : [x, ends[1]]),
      }[event.key];
      if (!to) return;
      event.preventDefault();
      this.put(to());
    }
    draw() {
      const [x, y] = this.get();
      this.at = [this.plot.x(x), this.plot.y(y)];
      this.node.setAttribute("transform", `translate(${this.at[0].toFixed(2)} ${this.at[1].toFixed(2)})`);
      const [low, high] = this.range(this.axis === "x" ? "x" : "y");
      const values = { valuemin: low, valuemax: high, valuenow: (this.axis === "x" ? x : y).toFixed(3), valuetext: this.say() };
      for (const [name, value] of Object.entries(values)) this.node.setAttribute("aria-" + name, value);
    }
  }

  class Stage {
    constructor(root, start, law) {
      Object.assign(this, { root, state: start, law, all: [], lit: "", refresh: [] });
      root.replaceChildren();
      this.plots = element(root, "div", { class: "mf-plots" });
      this.knobs = element(root, "div", { class: "mf-knobs" });
      this.words = element(root, "p", { class: "mf-say" });
    }
    plot(given) {
      const made = new Plot(this, given);
      this.all.push(made);
      return made;
    }
    // A slider for state[key]; `values` instead of min, max and step gives uneven steps; `change` turns
    // a value into the change of the state.
    slider({ key, label, min = 0, max = 1, step = 0.01, values, text = (x) => mf.show(x), change = (x) => ({ [key]: x }) }) {
      const box = element(this.knobs, "label", { class: "mf-slide" });
      element(box, "span").textContent = label;
      const [low, high, by] = values ? [0, values.length - 1, 1] : [min, max, step];
      const input = element(box, "input", { type: "range", min: low, max: high, step: by, "data-key": key });
      const shown = element(box, "output");
      input.addEventListener("input", () => this.set(change(values ? values[Number(input.value)] : Number(input.value))));
      this.refresh.push(() => {
        const now = this.state[key];
        const near = values && values.reduce((best, v, i) => (Math.abs(v - now) < Math.abs(values[best] - now) ? i : best), 0);
        input.value = values ? near : now;
        shown.textContent = text(now);
        input.setAttribute("aria-valuetext", text(now));
      });
    }
    // Buttons of which one is chosen: `options` is [[value, words], ...].
    choice({ key, label, options }) {
      const set = element(this.knobs, "fieldset");
      element(set, "legend").textContent = label;
      const inputs = options.map(([value, words]) => {
        const box = element(set, "label");
        const input = element(box, "input", { type: "radio", name: `${this.root.id}-${key}`, "data-key": key });
        box.append(words);
        input.addEventListener("change", () => this.set({ [key]: value }));
        return [input, value];
      });
      this.refresh.push(() => inputs.forEach(([input, value]) => (input.checked = value === this.state[key])));
    }
    button(words, act) {
      const made = element(this.knobs, "button", { type: "button" });
      made.textContent = words;
      made.addEventListener("click", () => (act(), this.draw()));
    }
    say(html) {
      this.words.innerHTML = html;
    }
    set(change) {
      Object.assign(this.state, change);
      this.draw();
    }
    draw() {
      if (!this.picture) return;
      this.picture.tidy?.();
      for (const plot of this.all) plot.clear();
      this.picture.draw();
      for (const plot of this.all) for (const handle of plot.handles) handle.draw();
      for (const update of this.refresh) update();
      this.light(this.lit);
    }
    light(part) {
      this.lit = part;
      for (const node of this.plots.querySelectorAll("[data-part]")) node.classList.toggle("mf-lit", node.dataset.part === part);
    }
    resize() {
      const room = this.plots.clientWidth;
      if (!room || room === this.room) return;
      this.room = room;
      for (const plot of this.all) plot.resize(room);
      this.draw();
    }
  }

  mf.mount = function (id, kind, start, law) {
    const root = document.getElementById(id);
    const stage = (mf.shown[id] = new Stage(root, start, law));
    stage.picture = mf.pictures[kind](stage);
    stage.resize();
    new ResizeObserver(() => stage.resize()).observe(stage.plots);
    bindWords();
  };

  // <span data-live="chord"> lights a part in every picture of the page; <span data-live="ID:t=0.5">
  // sets the state of one. Spans that come later are found when the page is complete.
  function act(word, on) {
    const [, id, what] = /^(?:([^:]*):)?(.*)$/.exec(word.dataset.live);
    const stages = id ? [mf.shown[id]].filter(Boolean) : Object.values(mf.shown);
    if (!what.includes("=")) return stages.forEach((stage) => stage.light(on ? what : ""));
    if (on !== "click") return;
    const change = what.split(",").map((part) => part.split("="));
    const value = (text) => (text === "" || isNaN(text) ? text : Number(text));
    stages.forEach((stage) => stage.set(Object.fromEntries(change.map(([key, text]) => [key.trim(), value(text)]))));
  }
  const LOOKS = { chord: "mf-u", average: "mf-u", tangent: "mf-v", velocity: "mf-v", data: "mf-data", noise: "mf-noise", miss: "mf-wrong" };
  function bindWords() {
    for (const word of document.querySelectorAll("span[data-live]:not(.mf-word)")) {
      word.classList.add("mf-word", "mf-live", LOOKS[word.dataset.live.split(":").pop()] ?? "mf-ink");
      word.tabIndex = 0;
      word.setAttribute("role", "button");
      for (const kind of ["pointerenter", "focus"]) word.addEventListener(kind, () => act(word, "over"));
      for (const kind of ["pointerleave", "blur"]) word.addEventListener(kind, () => act(word, ""));
      word.addEventListener("click", () => act(word, "click"));
      word.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        act(word, "click");
      });
    }
  }
  document.addEventListener("DOMContentLoaded", bindWords);
})();
