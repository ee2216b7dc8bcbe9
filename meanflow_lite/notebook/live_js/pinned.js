// A chord pinned at r whose other end slides along the path: its slope is a running mean of v.
meanflow.pictures.pinned ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const path = stage.plot({
    label: "A path, and a chord pinned at r; slide its other end t", share: 0.5, height: 270, x: [1.06, -0.06], y: [-3.3, 3.3], pad: [24, 6, 24, 6],
  });
  const rates = stage.plot({
    label: "Velocity and average velocity against time", share: 0.5, height: 270, x: [1.06, -0.06], y: [-4, 4], pad: [24, 6, 24, 26],
  });
  const state = (t) => law.transport(s.z, t, 1), slope = (t) => law.velocity(state(t), t);
  const mean = (t) => (t >= s.r ? law.average(state(t), s.r, t) : NaN);
  path.handle({
    label: "pinned end r", axis: "x", step: 0.02, page: 0.2, looks: "mf-gray", get: () => [s.r, state(s.r)],
    set: (r) => ((s.r = mf.clamp(r, 0, 0.96)), (s.t = Math.max(s.t, s.r + 0.02))), say: () => `r = ${show(s.r)}`,
  });
  path.handle({
    label: "sliding end t", axis: "x", step: 0.02, page: 0.2, looks: "mf-u", get: () => [s.t, state(s.t)],
    set: (t) => ((s.t = mf.clamp(t, 0.04, 1)), (s.r = Math.min(s.r, s.t - 0.02))), say: () => `t = ${show(s.t)}, u = ${show(mean(s.t))}`,
  });
  stage.slider({ key: "z", label: "noise", min: -3, max: 3, step: 0.05 });
  const tidy = () => ((s.t = mf.clamp(s.t, 0.04, 1)), (s.r = mf.clamp(s.r, 0, s.t - 0.02)));
  function numbers() {
    const v = slope(s.t), u = mean(s.t), change = (v - u) / (s.t - s.r);
    return { z: state(s.t), v, u, change };
  }
  function draw() {
    const { z, v, u, change } = numbers(), times = mf.range(101, 1, 0);
    const below = times.filter((t) => t >= s.r), ends = times.map(state), middle = (Math.min(...ends) + Math.max(...ends)) / 2;
    path.ys = [middle - 1.6, middle + 1.6];
    path.line(times.map((t) => [t, state(t)]), "mf-ink", "path");
    path.line([[s.t, z], [s.r, state(s.r)]], "mf-u mf-bold", "chord");
    path.line([[s.t + 0.16, z + 0.16 * v], [s.t - 0.16, z - 0.16 * v]], "mf-v mf-bold mf-dash", "tangent");
    path.text(1.06, path.ys[1], "path, chord and tangent", { dy: -8 });
    rates.text(1.06, 4, "their slopes", { dy: -8 });
    for (const plot of [path, rates]) {
      plot.text(1.06, plot.ys[0], "t = 1", { dy: 18 });
      plot.text(-0.06, plot.ys[0], "t = 0", { dy: 18, anchor: "end" });
    }
    for (const level of [-4, -2, 0, 2, 4]) {
      rates.line([[1.06, level], [-0.06, level]], "mf-grid mf-thin");
      rates.text(1.06, level, show(level, 0), { dx: -6, dy: 4, anchor: "end", looks: "mf-soft" });
    }
    const inside = ([, value]) => Math.abs(value) <= 4;
    rates.line(times.map((t) => [t, slope(t)]).filter(inside), "mf-v", "velocity");
    rates.line(below.map((t) => [t, mean(t)]).filter(inside), "mf-u mf-bold", "average");
    rates.line([[s.t, u], [s.t, v]].map(([t, x]) => [t, mf.clamp(x, -4, 4)]), "mf-wrong mf-bold", "gap");
    rates.line([[s.r, -4], [s.r, 4]], "mf-gray mf-thin mf-dash");
    rates.dot(s.t, mf.clamp(v, -4, 4), "mf-v", 5, "velocity");
    rates.dot(s.t, mf.clamp(u, -4, 4), "mf-u", 6, "average");
    stage.say(
      `The <b class="mf-u">average</b> is u = ${show(u, 3)}, the newest value of the <b class="mf-v">velocity</b> v = ${show(v, 3)}. As t grows, u moves towards v at the rate ` +
        `<b class="mf-wrong">(v \u2212 u)</b> / (t \u2212 r) = ${show(v - u, 3)} / ${show(s.t - s.r)} = ${show(change, 3)} = du/dt. That is the identity u = v \u2212 (t \u2212 r) du/dt.`
    );
  }
  return { draw, numbers, tidy };
};
