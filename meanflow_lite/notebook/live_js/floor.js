// Why the flow-matching loss does not go to zero: at one z many pairs (x, eps) meet.
meanflow.pictures.floor ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const cloud = stage.plot({ label: "The targets at z, as a density, and their mean", share: 0.5, height: 280, x: [-6, 6], y: [0, 1], pad: [26, 12, 40, 12] });
  const chart = stage.plot({ label: "Variance of the targets over time", share: 0.5, height: 280, x: [1, 0], y: [0, 8], pad: [26, 14, 40, 30] });
  // The mean over z by the trapezoidal rule, which is exact to rounding for sums of bells.
  const grid = mf.range(301, -7.5, 7.5), kept = {};
  const mean = (t) => (kept[t] ??= grid.reduce((sum, z) => sum + 0.05 * law.density(z, t) * law.variance(z, t), 0));
  const curve = () => mf.range(50, 0.02, 1).map((t) => [t, mean(t)]);
  cloud.handle({
    label: "state z", axis: "x", step: 0.05, page: 0.5, get: () => [s.z, 0], set: (z) => (s.z = mf.clamp(z, -3, 3)),
    say: () => `z = ${show(s.z)}, variance ${show(numbers().variance)}`,
  });
  chart.handle({
    label: "time t", axis: "x", step: 0.02, page: 0.2, get: () => [s.t, Math.min(8, mean(s.t))], set: (t) => (s.t = mf.clamp(t, 0.02, 1)),
    say: () => `t = ${show(s.t)}, floor ${show(mean(s.t))}`,
  });
  const numbers = () => ({ v: law.velocity(s.z, s.t), variance: law.variance(s.z, s.t), floor: mean(s.t) });
  function draw() {
    const { v, variance, floor } = numbers(), parts = law.posterior(s.z, s.t);
    const density = (a) => parts.reduce((sum, { share, mean, variance }) => sum + (share * Math.exp(-((a - mean) ** 2) / 2 / variance)) / Math.sqrt(2 * Math.PI * variance), 0);
    const points = mf.range(241, -6, 6).map((a) => [a, density(a)]), top = Math.max(...points.map((p) => p[1]));
    cloud.area([[-6, 0], ...points.map(([a, d]) => [a, (0.92 * d) / top]), [6, 0]], "mf-data", "targets");
    cloud.line([[-6, 0], [6, 0]], "mf-gray mf-thin");
    cloud.line([[v, 0], [v, 1]], "mf-v mf-bold", "velocity");
    const wide = Math.sqrt(variance);
    cloud.line([[v - wide, 0.06], [v + wide, 0.06]], "mf-wrong mf-bold", "spread");
    for (const a of [-6, -4, -2, 0, 2, 4, 6]) cloud.text(a, 0, show(a, 0), { dy: 18, anchor: "middle", looks: "mf-soft" });
    cloud.text(0, 0, "z, and targets \u03b5 \u2212 x there", { dy: 35, anchor: "middle" });
    cloud.text(-6, 1, `at t = ${show(s.t)}`, { dy: -8 });
    for (const level of [0, 2, 4, 6, 8]) {
      chart.line([[1, level], [0, level]], "mf-grid mf-thin");
      chart.text(1, level, `${level}`, { dx: -8, dy: 4, anchor: "end", looks: "mf-soft" });
    }
    chart.line(curve().filter(([, y]) => y <= 8), "mf-wrong", "floor");
    chart.text(1, 8, "variance of the targets, mean over z", { dy: -8, dx: -18 });
    chart.text(1, 0, "t = 1", { dy: 18 });
    chart.text(0, 0, "t = 0", { dy: 18, anchor: "end" });
    stage.say(
      `At z = ${show(s.z)}, t = ${show(s.t)} the targets \u03b5 \u2212 x have the mean <b class="mf-v">v = ${show(v, 3)}</b> and the variance ${show(variance, 3)}: no network can guess ` +
        `better than v. Averaged over all z at this time that is <b class="mf-wrong">${show(floor, 3)}</b>, the floor of the loss.`
    );
  }
  return { draw, numbers };
};
