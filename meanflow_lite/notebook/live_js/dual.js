// Dual numbers, one operation at a time: each value carries how fast it changes along (v, 1).
meanflow.pictures.dual ??= function (stage) {
  const mf = window.meanflow, s = stage.state, show = mf.show;
  const board = stage.plot({ label: "The computation of u = z\u00b2 t + tanh z, as boxes", height: 300, x: [0, 4], y: [0, 3], pad: [10, 10, 10, 10] });
  const times = ([a, da], [b, db]) => [a * b, da * b + a * db], plus = ([a, da], [b, db]) => [a + b, da + db];
  const tanh = ([a, da]) => [Math.tanh(a), (1 - Math.tanh(a) ** 2) * da];
  stage.slider({ key: "step", label: "operation", max: 4, step: 1, text: (n) => `${n} of 4` });
  stage.slider({ key: "z", label: "z", min: -2, max: 2, step: 0.1 });
  stage.slider({ key: "t", label: "t", step: 0.05 });
  stage.slider({ key: "v", label: "v", min: -2, max: 2, step: 0.1 });
  stage.choice({ key: "along", label: "Direction", options: [["total", "(v, 1)"], ["partial", "(0, 1)"], ["space", "(v, 0)"]] });
  function boxes() {
    const z = [s.z, s.along === "partial" ? 0 : s.v], t = [s.t, s.along === "space" ? 0 : 1];
    const square = times(z, z), product = times(square, t), bent = tanh(z);
    return [
      { name: "z", at: [0.5, 2.3], dual: z, from: [], rule: "" },
      { name: "t", at: [0.5, 0.7], dual: t, from: [], rule: "" },
      { name: "a = z\u00b2", at: [1.55, 2.3], dual: square, from: [0], rule: "a\u2032 = 2 z z\u2032" },
      { name: "b = a t", at: [2.55, 0.7], dual: product, from: [2, 1], rule: "b\u2032 = a\u2032 t + a t\u2032" },
      { name: "c = tanh z", at: [2.55, 2.3], dual: bent, from: [0], rule: "c\u2032 = (1 \u2212 c\u00b2) z\u2032", bow: true },
      { name: "u = b + c", at: [3.5, 1.5], dual: plus(product, bent), from: [3, 4], rule: "u\u2032 = b\u2032 + c\u2032" },
    ];
  }
  function numbers() {
    const all = boxes(), h = 1e-6, [z, t] = all, at = (x, y) => x * x * y + Math.tanh(x);
    const difference = (at(s.z + h * z.dual[1], s.t + h * t.dual[1]) - at(s.z - h * z.dual[1], s.t - h * t.dual[1])) / (2 * h);
    return { value: all[5].dual[0], derivative: all[5].dual[1], difference };
  }
  function draw() {
    const all = boxes(), done = all.slice(0, 2 + s.step), last = done.at(-1), wide = Math.min(58, board.w / 9.4);
    for (const box of all)
      for (const k of box.from) {
        const from = all[k].at, ready = done.includes(box), looks = (ready ? "mf-ink" : "mf-grid") + " mf-thin";
        if (box.bow) board.line([from, [1.0, 2.95], [2.1, 2.95], box.at], looks);
        else board.line([from, box.at], looks);
      }
    for (const box of all) {
      const ready = done.includes(box), [x, y] = [board.x(box.at[0]), board.y(box.at[1])];
      const frame = board.add("rect", { x: x - wide, y: y - 34, width: 2 * wide, height: 68, rx: 8 }, box === last && s.step ? "mf-box mf-wrong" : "mf-box mf-gray");
      frame.dataset.part = box.name[0];
      const write = (words, dy, looks) => board.text(...box.at, words, { anchor: "middle", dy, looks });
      write(box.name, -14, ready ? "" : "mf-soft");
      if (!ready) continue;
      write(show(box.dual[0], 3), 6, "mf-data");
      write(`\u2032 ${show(box.dual[1], 3)}`, 25, "mf-u");
    }
    const { value, derivative, difference } = numbers();
    stage.say(
      s.step < 4
        ? `Each box holds a <b class="mf-data">value</b> and how fast it changes, its <b class="mf-u">derivative</b> (\u2032) along the direction. ` +
            (s.step ? `Operation ${s.step}: ${last.name}, with ${last.rule}.` : "The inputs start with the direction itself.")
        : `The last box holds <b class="mf-data">u = ${show(value, 4)}</b> and its derivative along the direction, <b class="mf-u">${show(derivative, 4)}</b>, from one pass. A difference quotient gives ${show(difference, 4)}.`
    );
  }
  return { draw, numbers };
};
