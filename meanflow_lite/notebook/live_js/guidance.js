// Guidance with any scale: the cloud of one class under omega v(z | y) + (1 - omega) v(z).
meanflow.pictures.guidance ??= function (stage) {
  const mf = window.meanflow, law = mf.plane(stage.law), s = stage.state, show = mf.show, steps = 24;
  const plane = stage.plot({
    label: "Samples of the class in the plane of the data", height: (w) => Math.min(w * 0.8, 420), x: [-3.6, 3.6], y: [-2.8, 2.8], pad: [4, 4, 4, 4],
  });
  const noises = mf.cloud(160), kept = {};
  const travel = (z, omega) => mf.travel((x, t) => law.guided(x, t, Number(s.y), omega), z, steps);
  const cloud = (omega) => (kept[`${s.y} ${omega}`] ??= noises.map((z) => travel(z, omega).at(-1)));
  plane.handle({
    label: "one noise", step: 0.1, page: 0.5, get: () => [s.a, s.b], set: (a, b) => ((s.a = mf.clamp(a, -3, 3)), (s.b = mf.clamp(b, -2.6, 2.6))),
    say: () => `noise ${show(s.a)}, ${show(s.b)}`,
  });
  stage.slider({ key: "omega", label: "scale \u03c9", max: 5, step: 0.1, text: (x) => show(x, 1) });
  stage.choice({ key: "y", label: "Class", options: [["0", "0"], ["1", "1"]] });
  const moments = (points) => {
    const mean = [0, 1].map((c) => points.reduce((sum, p) => sum + p[c], 0) / points.length);
    const spread = Math.sqrt(points.reduce((sum, p) => sum + (p[0] - mean[0]) ** 2 + (p[1] - mean[1]) ** 2, 0) / points.length);
    return { mean, spread };
  };
  const numbers = () => ({ ...moments(cloud(s.omega)), end: travel([s.a, s.b], s.omega).at(-1), plain: moments(cloud(1)) });
  function ring(center, radius) {
    return mf.range(49, 0, 2 * Math.PI).map((a) => [center[0] + radius * Math.cos(a), center[1] + radius * Math.sin(a)]);
  }
  function draw() {
    const { mean, spread, plain } = numbers(), y = Number(s.y);
    stage.law.means.forEach((center, k) => {
      const own = stage.law.labels[k] === y;
      for (const wide of [1, 2]) plane.line(ring(center, wide * stage.law.stds[k]), `${own ? "mf-data" : "mf-grid"} mf-thin`, own ? "data" : "others");
    });
    for (const p of cloud(s.omega)) plane.dot(...p, "mf-u mf-pale", 3, "samples");
    plane.line(travel([s.a, s.b], 1), "mf-ink mf-dash", "plain");
    plane.line(travel([s.a, s.b], s.omega), "mf-wrong mf-bold", "path");
    plane.dot(...travel([s.a, s.b], s.omega).at(-1), "mf-wrong", 5, "path");
    plane.text(-3.6, 2.8, `circles: the class (blue) and the other one`, { dy: 12, dx: 2, looks: "mf-soft" });
    stage.say(
      `At \u03c9 = ${show(s.omega, 1)} the <b class="mf-u">samples</b> have their mean at (${show(mean[0])}, ${show(mean[1])}) and a spread of ${show(spread)}; ` +
        `at \u03c9 = 1, which is the class itself, (${show(plain.mean[0])}, ${show(plain.mean[1])}) and ${show(plain.spread)}. The <b class="mf-wrong">path</b> of the marked noise bends away from the dashed one.`
    );
  }
  return { draw, numbers };
};
