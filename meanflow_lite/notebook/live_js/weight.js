// The adaptive weight: what is printed, and what the gradient feels, for an error l.
meanflow.pictures.weight ??= function (stage) {
  const mf = window.meanflow, s = stage.state, show = mf.show, top = 6;
  const chart = stage.plot({ label: "Printed loss and weight against the error", height: 290, x: [0, top], y: [0, 3], pad: [12, 16, 40, 36] });
  const weight = (error) => (error + s.c) ** -s.p, printed = (error) => error * weight(error);
  chart.handle({
    label: "error of one row", axis: "x", step: 0.1, page: 1, get: () => [s.error, mf.clamp(printed(s.error), 0, 3)],
    set: (error) => (s.error = mf.clamp(error, 0.01, top)), say: () => `error ${show(s.error)}, printed ${show(printed(s.error))}`,
  });
  stage.slider({ key: "p", label: "exponent p", step: 0.05 });
  stage.slider({ key: "c", label: "constant c", values: [0.0001, 0.001, 0.01, 0.1, 1, 10], text: (c) => `${c}` });
  const numbers = () => ({ weight: weight(s.error), printed: printed(s.error) });
  function draw() {
    const { weight: w, printed: p } = numbers(), errors = mf.range(201, 0.001, top), inside = ([, y]) => y <= 3;
    for (const level of [0, 1, 2, 3]) {
      chart.line([[0, level], [top, level]], "mf-grid mf-thin");
      chart.text(0, level, `${level}`, { dx: -8, dy: 4, anchor: "end", looks: "mf-soft" });
    }
    for (const e of [0, 1, 2, 3, 4, 5, 6]) chart.text(e, 0, `${e}`, { dy: 18, anchor: "middle", looks: "mf-soft" });
    chart.text(top / 2, 0, "squared error of a row", { dy: 35, anchor: "middle" });
    chart.line(errors.map((e) => [e, e]).filter(inside), "mf-ink mf-thin mf-dash", "error");
    chart.line(errors.map((e) => [e, weight(e)]).filter(inside), "mf-v", "weight");
    chart.line(errors.map((e) => [e, printed(e)]).filter(inside), "mf-wrong mf-bold", "printed");
    chart.text(top, printed(top), "printed loss", { dy: -9, anchor: "end", looks: "mf-wrong" });
    chart.text(top, weight(top), "weight", { dy: -9, anchor: "end", looks: "mf-v" });
    chart.text(2.6, 2.6, "the error itself", { dx: 12, dy: 4 });
    stage.say(
      `With p = ${show(s.p)} and c = ${s.c} an error of ${show(s.error)} has the weight <b class="mf-v">${show(w, 3)}</b> and is printed as <b class="mf-wrong">${show(p, 3)}</b>. ` +
        (s.p > 0.95 && s.c < 0.1 ? "Almost every error prints as 1." : "The nearer p is to 1, the flatter the printed curve.")
    );
  }
  return { draw, numbers };
};
