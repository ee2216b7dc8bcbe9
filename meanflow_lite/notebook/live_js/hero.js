// The same noises three times: many steps of v, one step of v, one step of u; errors in numbers.
meanflow.pictures.hero ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const count = 41, noises = mf.range(count, 0.5 / count, 1 - 0.5 / count).map(mf.normal);
  const follow = (z) => mf.range(61, 1, 0).map((t) => [t, law.transport(z, t, 1)]);
  const step = (z, n) => mf.walk(law.velocity, z, n).map((state, i) => [1 - i / n, state]);
  const jump = (z) => [[1, z], [0, z - law.average(z, 0, 1)]];
  const exact = noises.map(follow), ends = exact.map((line) => line[60][1]);
  const bell = mf.range(121, -3.4, 3.4).map((z) => [-0.05 - 0.3 * law.density(z, 0), z]);
  const color = (k) => `rgb(${mf.color(0.04 + (0.9 * k) / (count - 1)).join()})`;
  const kept = {}, jumps = noises.map(jump);
  const walks = (n) => (kept[n] ??= noises.map((z) => step(z, n)));
  const panels = [
    { name: () => `${s.n} ${s.n > 1 ? "steps" : "step"} of v`, all: () => walks(s.n), own: () => step(s.z, s.n) },
    { name: () => "1 step of v", all: () => walks(1), own: () => step(s.z, 1) },
    { name: () => "1 step of u", all: () => jumps, own: () => jump(s.z) },
  ];
  for (const panel of panels) {
    panel.plot = stage.plot({
      label: ["Many steps of the velocity", "One step of the velocity", "One step of the average velocity"][panels.indexOf(panel)],
      beside: true, share: 1 / 3, height: 270, x: [1.06, -0.32], y: [-3.4, 3.4], pad: [26, 2, 24, 2],
    });
    panel.plot.handle({
      label: "one noise, followed in every panel", axis: "y", step: 0.05, page: 0.5,
      get: () => [1, s.z], set: (_, z) => (s.z = mf.clamp(z, -3, 3)),
      say: () => `noise ${show(s.z)} ends at ${show(panel.own().at(-1)[1])}; its path ends at ${show(law.transport(s.z, 0, 1))}`,
    });
  }
  stage.slider({ key: "n", label: "steps of v", values: [1, 2, 3, 4, 6, 8, 12, 16, 25, 50, 100], text: (n) => `${n}` });
  const error = (lines) => Math.sqrt(lines.reduce((sum, line, k) => sum + (line.at(-1)[1] - ends[k]) ** 2, 0) / count);
  function numbers() {
    const [many, one, average] = panels.map((panel) => error(panel.all()));
    return { many, one, average, ends: panels.map((panel) => panel.own().at(-1)[1]), exact: law.transport(s.z, 0, 1) };
  }
  function draw() {
    for (const { plot, name, all, own } of panels) {
      plot.area(bell, "mf-data", "data");
      for (const line of exact) plot.line(line, "mf-grid mf-thin", "path");
      all().forEach((line, k) => {
        plot.line(line, "mf-thin").style.stroke = color(k);
        plot.dot(...line.at(-1), "", 2.5).style.fill = color(k);
      });
      plot.line(own(), "mf-ink mf-bold");
      plot.dot(...own().at(-1), "mf-ink", 5);
      plot.text(0.5, 3.4, name(), { anchor: "middle", dy: -8 }).style.fontWeight = 650;
      plot.text(0.5, -3.4, `error ${show(error(all()))}`, { anchor: "middle", dy: 18 });
    }
    const { many, one, average } = numbers();
    stage.say(
      `The same ${count} noises in each panel; the gray lines are their exact paths. Error at the data: <b class="mf-v">${show(many)}</b> after ` +
        `${s.n} step${s.n > 1 ? "s" : ""} of the velocity v, <b class="mf-v">${show(one)}</b> after one, and <b class="mf-u">${show(average)}</b> after one step of the average velocity u.`
    );
  }
  return { draw, numbers };
};
