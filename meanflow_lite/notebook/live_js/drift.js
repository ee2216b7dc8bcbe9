// Drifting: points move by V, towards the data and away from each other, step by step.
meanflow.pictures.drift ??= function (stage) {
  const mf = window.meanflow, s = stage.state, show = mf.show, n = 40;
  const plane = stage.plot({
    label: "Generated points and data in the plane", height: (w) => Math.min(w * 0.6, 360), x: [-3.6, 3.6], y: [-2, 2], pad: [4, 4, 4, 4],
  });
  const normal = mf.cloud(n), data = normal.map(([a, b], k) => [(k % 2 ? 1.4 : -1.4) + 0.3 * a, 0.3 * b]);
  const own = (points) => mf.drift(points, points, data, Number(s.tau), true);
  let kept = { key: "", line: [] };
  function at(step) {
    const key = [s.tau, s.a, s.b].join();
    if (kept.key !== key) kept = { key, line: [normal.map(([a, b]) => [s.a + 0.3 * b, s.b + 0.3 * a])] };
    while (kept.line.length <= step) {
      const now = kept.line.at(-1), v = own(now);
      kept.line.push(now.map((p, k) => [p[0] + v[k][0], p[1] + v[k][1]]));
    }
    return kept.line[step];
  }
  plane.handle({
    label: "where the generated points start", step: 0.1, page: 0.5, get: () => [s.a, s.b],
    set: (a, b) => Object.assign(s, { a: mf.clamp(a, -3.2, 3.2), b: mf.clamp(b, -1.6, 1.6) }), say: () => `start at ${show(s.a)}, ${show(s.b)}`,
  });
  stage.slider({ key: "step", label: "step", max: 60, step: 1, text: (k) => `${k}` });
  stage.choice({ key: "tau", label: "Range \u03c4", options: [["0.2", "0.2"], ["0.5", "0.5"], ["1", "1"]] });
  function numbers() {
    const points = at(s.step), drift = own(points);
    const size = Math.sqrt(drift.reduce((sum, [a, b]) => sum + a * a + b * b, 0) / n);
    return { points, drift, size, left: points.filter((p) => p[0] < 0).length / n };
  }
  function draw() {
    const { points, drift, size, left } = numbers();
    for (const p of data) plane.dot(...p, "mf-data mf-pale", 4, "data");
    points.forEach((p, k) => {
      plane.arrow(p, [p[0] + 2 * drift[k][0], p[1] + 2 * drift[k][1]], "mf-u mf-thin mf-pale", "drift");
      plane.dot(...p, "mf-u", 3.5, "samples");
    });
    stage.say(
      `Step ${s.step}: the <b class="mf-u">generated</b> points feel a drift of size ${show(size, 4)} (arrows: twice the drift); ${show(100 * left, 0)}% of them are on the ` +
        `left, where half of the <b class="mf-data">data</b> is. Drag the start onto one mode, or far away, and let it run.`
    );
  }
  return { draw, numbers };
};
