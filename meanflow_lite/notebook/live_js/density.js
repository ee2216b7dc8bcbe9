// The density p_t as a map over time and state, with points that the flow carries from noise to data.
meanflow.pictures.density ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const plane = stage.plot({
    label: "The density over time, noise on the left and data on the right", height: 330,
    x: [1.04, -0.34], y: [-3.3, 3.3], pad: [6, 4, 40, 4],
  });
  // Ranks in an order that fills (0, 1) evenly at every count.
  const rank = (k) => [...k.toString(2)].reverse().reduce((sum, bit, i) => sum + Number(bit) / 2 ** (i + 1), 0);
  const ranks = Array.from({ length: 63 }, (_, k) => rank(k + 1));
  const here = () => law.transport(s.z, s.t, 1);
  plane.handle({
    label: "time t", axis: "x", step: 0.02, page: 0.2, looks: "mf-wrong",
    get: () => [s.t, -3.3], set: (t) => (s.t = mf.clamp(t, 0, 1)), say: () => `t = ${show(s.t)}`,
  });
  plane.handle({
    label: "one point", axis: "y", step: 0.05, page: 0.5,
    get: () => [s.t, here()], set: (_, z) => (s.z = mf.clamp(law.transport(mf.clamp(z, -2.9, 2.9), 1, s.t), -3, 3)),
    say: () => `z = ${show(here())} at t = ${show(s.t)}, rank ${show(law.cdf(s.z, 1))}`,
  });
  stage.slider({ key: "n", label: "points", values: [0, 7, 15, 31, 63], text: (n) => `${n}` });
  const numbers = () => ({ t: s.t, at: here(), density: law.density(here(), s.t), rank: law.cdf(here(), s.t) });
  function draw() {
    const { at, density, rank } = numbers(), columns = 70, rows = 110;
    const paint = (i, j) => {
      const t = 1.04 - (1.38 * (i + 0.5)) / columns, z = -3.3 + (6.6 * (j + 0.5)) / rows;
      return [30, 130, 200, t < 0 || t > 1 ? 0 : 255 * Math.min(1, law.density(z, t) / 0.75)];
    };
    plane.map("density", columns, rows, paint);
    for (const p of ranks.slice(0, s.n)) plane.line(mf.range(41, 1, 0).map((t) => [t, law.quantile(p, t)]), "mf-gray mf-thin mf-pale");
    plane.line(mf.range(61, 1, 0).map((t) => [t, law.transport(s.z, t, 1)]), "mf-ink mf-bold", "path");
    const curve = mf.range(141, -3.3, 3.3).map((z) => [s.t - 0.28 * law.density(z, s.t), z]);
    plane.area([...curve, [s.t, 3.3], [s.t, -3.3]], "mf-data", "data");
    plane.line(curve, "mf-data", "data");
    plane.line([[s.t, -3.3], [s.t, 3.3]], "mf-ink mf-thin");
    for (const p of ranks.slice(0, s.n)) plane.dot(s.t, law.quantile(p, s.t), "mf-ink", 3);
    plane.text(1.04, -3.3, "noise, t = 1", { dy: 34 });
    plane.text(-0.02, -3.3, "data, t = 0", { dy: 34, anchor: "middle" });
    stage.say(
      `At t = ${show(s.t)} the marked point is at z = ${show(at)}, where the density <b class="mf-data">p<sub>t</sub></b> is ${show(density)}. ` +
        `A share of ${show(rank)} of all points lies below it, at every time: no path overtakes another.`
    );
  }
  return { draw, numbers };
};
