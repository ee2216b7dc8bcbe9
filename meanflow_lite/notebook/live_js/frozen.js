// From the partial derivative (keep 0) to the total one (keep 1): what the identity's solution becomes.
// (t - r) du/dt + u = v, with dz/dt = keep * v in the derivative, has the solution
// u = mean over [r, t] of v(z(tau), tau) on the curve dz/dtau = keep * v(z, tau) through z at t.
meanflow.pictures.frozen ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const fan = stage.plot({ label: "One step of the field, from noise on the left", share: 0.62, height: 310, x: [1.06, -0.04], y: [-3.3, 3.3], pad: [6, 4, 22, 4] });
  const side = stage.plot({ label: "Where one-step samples go, against the data", share: 0.38, height: 310, x: [0, 0.9], y: [-3.3, 3.3], pad: [6, 4, 22, 4] });
  const count = 241, noises = mf.range(count, 0.5 / count, 1 - 0.5 / count).map(mf.normal), kept = {};
  // Runge and Kutta for the pair (curve, integral of v), from time 1 to 0.
  function curve(z, keep, n) {
    let total = 0;
    const points = [z], h = -1 / n, v = law.velocity;
    for (let i = 0; i < n; i++) {
      const t = 1 - i / n, m = t + h / 2, e = t + h, g = (h / 2) * keep;
      const a = v(z, t), b = v(z + g * a, m), c = v(z + g * b, m), d = v(z + h * keep * c, Math.max(e, 0)), mean = (a + 2 * b + 2 * c + d) / 6;
      total -= h * mean;
      points.push((z += h * keep * mean));
    }
    return { u: total, points };
  }
  const cloud = (keep) => (kept[keep] ??= noises.map((z) => z - curve(z, keep, 32).u));
  fan.handle({
    label: "noise z", axis: "y", step: 0.05, page: 0.5, get: () => [1, s.z], set: (_, z) => (s.z = mf.clamp(z, -3, 3)),
    say: () => `z = ${show(s.z)}, lands at ${show(numbers().end)}`,
  });
  stage.slider({ key: "keep", label: "partial (0) to total (1)", step: 0.05 });
  function numbers() {
    const { u } = curve(s.z, s.keep, 160);
    return { u, end: s.z - u, exact: law.transport(s.z, 0, 1) };
  }
  const spread = (states) => {
    const mean = states.reduce((a, b) => a + b) / count;
    return Math.sqrt(states.reduce((sum, x) => sum + (x - mean) ** 2, 0) / count);
  };
  function draw() {
    const ends = cloud(s.keep), { end, exact } = numbers(), right = s.keep > 0.99, looks = right ? "mf-u" : "mf-wrong";
    noises.forEach((z, k) => k % 6 === 0 && fan.line([[1, z], [0, ends[k]]], looks + " mf-thin mf-pale", "chord"));
    fan.line(mf.range(61, 1, 0).map((t) => [t, law.transport(s.z, t, 1)]), "mf-ink", "path");
    fan.line(curve(s.z, s.keep, 60).points.map((z, i) => [1 - i / 60, z]), "mf-v mf-dash", "velocity");
    fan.line([[1, s.z], [0, end]], looks + " mf-bold", "chord");
    fan.dot(0, end, looks, 5, "chord");
    fan.text(1.06, -3.3, "noise, t = 1", { dy: 16 });
    fan.text(-0.04, -3.3, "one step", { dy: 16, anchor: "end" });
    const bins = 44, low = -3.3, width = 6.6 / bins, mass = Array(bins).fill(0);
    for (const x of ends) mass[mf.clamp(Math.floor((x - low) / width), 0, bins - 1)] += 1 / count / width;
    side.area([[0, low], ...mass.map((m) => Math.min(m, 0.9)).flatMap((m, i) => [[m, low + i * width], [m, low + (i + 1) * width]]), [0, 3.3]], looks, "samples");
    side.line(mf.range(141, -3.3, 3.3).map((z) => [law.density(z, 0), z]), "mf-data mf-bold", "data");
    side.text(0, -3.3, "samples", { dy: 16, looks });
    side.text(0.9, -3.3, "data", { dy: 16, anchor: "end", looks: "mf-data" });
    stage.say(
      `With ${show(100 * s.keep, 0)}% of the movement of z in the derivative, this noise lands at <b class="${looks}">${show(end, 3)}</b>; its path ends at ${show(exact, 3)}. ` +
        `One-step samples have a standard deviation of <b class="${looks}">${show(spread(ends))}</b>, the data ${show(spread(cloud(1)))}. The dashed curve is where v is averaged.`
    );
  }
  return { draw, numbers };
};
