// What a training run takes, as a form: the arithmetic of meanflow_lite.runs.cost.
meanflow.pictures.cost ??= function (stage) {
  const mf = window.meanflow, s = stage.state, show = mf.show, tables = stage.law;
  const chart = stage.plot({ label: "Hours against the number of GPUs, logarithmic", height: 280, x: [0, 6], y: [-1, 4.4], pad: [12, 102, 40, 62] });
  const names = Object.keys(tables.runs), gpus = Object.keys(tables.peaks.bfloat16);
  stage.choice({ key: "run", label: "Run", options: names.map((name) => [name, tables.runs[name].network]) });
  stage.choice({ key: "gpu", label: "GPU", options: gpus.map((name) => [name, name]) });
  stage.choice({ key: "precision", label: "Precision", options: Object.keys(tables.peaks).map((name) => [name, name]) });
  stage.slider({ key: "gpus", label: "GPUs", values: [1, 2, 4, 8, 16, 32, 64], text: (n) => `${n}` });
  stage.slider({ key: "mfu", label: "share of the peak", min: 0.05, max: 0.6, step: 0.01, text: (x) => `${show(100 * x, 0)}%` });
  function hours(count) {
    const run = tables.runs[s.run], rate = (tables.peaks[s.precision][s.gpu] * count * s.mfu) / (2 * run.macs);
    return Object.fromEntries(Object.entries(run.passes).map(([kind, n]) => [kind, (run.steps * run.batch * n) / rate / 3600]));
  }
  const numbers = () => hours(s.gpus);
  const time = (h) => (h >= 48 ? `${show(h / 24, 1)} days` : h >= 1 ? `${show(h, 1)} hours` : `${show(60 * h, 0)} minutes`);
  function draw() {
    const found = numbers(), log = Math.log10, counts = mf.range(7, 0, 6);
    for (const [h, name] of [[0.1, "6 min"], [1, "1 h"], [24, "a day"], [168, "a week"], [720, "a month"], [8760, "a year"]]) {
      chart.line([[0, log(h)], [6, log(h)]], "mf-grid mf-thin");
      chart.text(0, log(h), name, { dx: -8, dy: 4, anchor: "end", looks: "mf-soft" });
    }
    for (const k of counts) chart.text(k, -1, `${2 ** k}`, { dy: 18, anchor: "middle", looks: "mf-soft" });
    chart.text(3, -1, `${s.gpu}s, ${s.precision}`, { dy: 35, anchor: "middle" });
    const looks = { textbook: "mf-wrong mf-dash", step: "mf-u mf-bold", plain: "mf-v" };
    const words = { textbook: "all rows", step: "this library", plain: "flow matching" }, dy = { textbook: -6, step: 5, plain: 17 };
    for (const [kind, look] of Object.entries(looks)) {
      const points = counts.map((k) => [k, log(hours(2 ** k)[kind])]);
      chart.line(points, look, kind);
      chart.text(...points.at(-1), words[kind], { dx: 6, dy: dy[kind], looks: look.split(" ")[0] });
      chart.dot(log(s.gpus) / log(2), log(found[kind]), look.split(" ")[0], 5, kind);
    }
    stage.say(
      `${tables.runs[s.run].network} on ${s.gpus} ${s.gpu}${s.gpus > 1 ? "s" : ""} in ${s.precision}, at ${show(100 * s.mfu, 0)}% of the peak: <b class="mf-u">${time(found.step)}</b>. Flow matching would take ` +
        `<b class="mf-v">${time(found.plain)}</b>, a derivative and guidance on all rows <b class="mf-wrong">${time(found.textbook)}</b>.`
    );
  }
  return { draw, numbers };
};
