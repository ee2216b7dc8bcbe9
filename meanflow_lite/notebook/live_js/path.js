// A point of a path, the tangent and the chord from it, and how far apart they land.
meanflow.pictures.path ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const flow = stage.plot({
    label: "Paths from noise on the left to data on the right; drag the point", share: 0.68, height: 300,
    x: [1.14, -0.2], y: [-3.3, 3.3], pad: [4, 4, 22, 4],
  });
  const triangle = stage.plot({
    label: "The triangle of times r below t; drag the handle", share: 0.32, height: (w) => Math.min(w, 300),
    x: [0, 1], y: [0, 1], pad: [44, 14, 38, 28],
  });
  const fan = mf.range(17, 1 / 18, 17 / 18).map((p) => mf.range(41, 1, 0).map((t) => [t, law.quantile(p, t)]));
  const bell = (t, x, size) => mf.range(121, -3.3, 3.3).map((z) => [x - size * law.density(z, t), z]);
  const ranks = mf.range(11, 1 / 12, 11 / 12), N = 30;
  const gap = (r, t) => Math.sqrt(ranks.reduce((sum, p) => {
    const z = law.quantile(p, t);
    return sum + (law.average(z, r, t) - law.velocity(z, t)) ** 2;
  }, 0) / ranks.length);
  flow.handle({
    label: "state z at time t", axis: "y", step: 0.05, page: 0.5,
    get: () => [s.t, s.z], set: (_, z) => (s.z = mf.clamp(z, -3.2, 3.2)),
    say: () => `z = ${show(s.z)} at t = ${show(s.t)}`,
  });
  triangle.handle({
    label: "times r and t", step: 0.02, page: 0.2, looks: "mf-wrong",
    get: () => [s.r, s.t], set: (r, t) => ((s.t = mf.clamp(t, 0.02, 1)), (s.r = mf.clamp(r, 0, s.t))),
    say: () => `r = ${show(s.r)}, t = ${show(s.t)}`,
  });
  function numbers() {
    const { z, r, t } = s, v = law.velocity(z, t), u = law.average(z, r, t), end = law.transport(z, r, t);
    return { z, r, t, v, u, end, miss: z - (t - r) * v - end };
  }
  function draw() {
    const { z, r, t, v, u, end, miss } = numbers(), euler = z - (t - r) * v;
    flow.area([...bell(0, -0.02, 0.2), [-0.02, 3.3], [-0.02, -3.3]], "mf-data", "data");
    flow.area([...bell(1, 1.02, -0.2), [1.02, 3.3], [1.02, -3.3]], "mf-noise", "noise");
    for (const line of fan) flow.line(line, "mf-grid mf-thin");
    const trip = mf.range(41, t, r);
    flow.line(trip.map((a) => [a, law.transport(z, a, t)]), "mf-ink mf-bold", "path");
    flow.line([[t, z], [r, euler]], "mf-v mf-dash mf-bold", "tangent");
    flow.line([[t, z], [r, end]], "mf-u mf-bold", "chord");
    flow.line([[r, euler], [r, end]], "mf-wrong", "miss");
    flow.dot(r, euler, "mf-v", 5, "tangent");
    flow.dot(r, end, "mf-u", 5, "chord");
    flow.text(1.14, -3.3, "noise, t = 1", { dy: 16 });
    flow.text(-0.2, -3.3, "data, t = 0", { dy: 16, anchor: "end" });
    const cell = (i, j) => [...mf.color(i < j ? gap((i + 0.5) / N, (j + 0.5) / N) / 1.6 : 0), 255];
    triangle.map("gap", N, N, cell).style.clipPath = "polygon(0 0, 100% 0, 0 100%)";
    triangle.text(0, 1, "color: how far u is from v", { dx: -28, dy: -26, looks: "mf-soft" });
    triangle.text(0, 1, "0 (dark) to 1.6 (yellow)", { dx: -28, dy: -9, looks: "mf-soft" });
    triangle.text(0.5, 0, "end r \u2192", { dy: 30, anchor: "middle" });
    triangle.text(0, 0.5, "t \u2191", { dx: -26 });
    stage.say(
      `From z = ${show(z)} at t = ${show(t)} to r = ${show(r)}: the <b class="mf-u">chord</b> has the slope u = ${show(u, 3)} and ends on the ` +
        `path; the <b class="mf-v">tangent</b> has the slope v = ${show(v, 3)} and ends <b class="mf-wrong">${show(Math.abs(miss), 3)}</b> away from it.`
    );
  }
  return { draw, numbers };
};
