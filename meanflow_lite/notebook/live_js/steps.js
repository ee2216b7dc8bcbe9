// The steps of a solver along one path, and the error of all noises against the evaluations of v.
meanflow.pictures.steps ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const calls = { euler: 1, heun: 2, rk4: 4 }, names = { euler: "Euler", heun: "Heun", rk4: "RK4" };
  const looks = { euler: "mf-v", heun: "mf-data", rk4: "mf-other" }, counts = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64];
  const flow = stage.plot({
    label: "The path of one noise and the steps along it", share: 0.58, height: 300, x: [1.06, -0.1], y: [-3.3, 3.3], pad: [6, 4, 22, 4],
  });
  const chart = stage.plot({
    label: "Error against evaluations, both on logarithmic axes", share: 0.42, height: 300, x: [-0.1, 2.5], y: [-7, 1], pad: [24, 14, 38, 40],
  });
  const noises = mf.range(41, 0.5 / 41, 40.5 / 41).map(mf.normal), ends = noises.map((z) => law.transport(z, 0, 1));
  const rms = (states) => Math.sqrt(states.reduce((sum, z, k) => sum + (z - ends[k]) ** 2, 0) / ends.length);
  const kept = {}, error = (name, n) => (kept[name + n] ??= rms(noises.map((z) => mf.walk(law.velocity, z, n, name).at(-1))));
  const nothing = rms(noises), fan = mf.range(13, 1 / 14, 13 / 14).map((p) => mf.range(41, 1, 0).map((t) => [t, law.quantile(p, t)]));
  flow.handle({
    label: "noise z at t = 1", axis: "y", step: 0.05, page: 0.5, get: () => [1, s.z], set: (_, z) => (s.z = mf.clamp(z, -3, 3)),
    say: () => `z = ${show(s.z)}, ends at ${show(numbers().end)}`,
  });
  stage.choice({ key: "solver", label: "Solver", options: Object.entries(names) });
  stage.slider({ key: "n", label: "steps", values: counts, text: (n) => `${n}` });
  const numbers = () => ({
    end: mf.walk(law.velocity, s.z, s.n, s.solver).at(-1), exact: law.transport(s.z, 0, 1),
    error: error(s.solver, s.n), calls: calls[s.solver] * s.n, nothing,
  });
  function draw() {
    const { end, exact, error: wrong, calls: nfe } = numbers(), look = looks[s.solver];
    for (const line of fan) flow.line(line, "mf-grid mf-thin");
    flow.line(mf.range(61, 1, 0).map((t) => [t, law.transport(s.z, t, 1)]), "mf-ink mf-bold", "path");
    const walk = mf.walk(law.velocity, s.z, s.n, s.solver).map((z, i) => [1 - i / s.n, z]);
    flow.line(walk, look, "steps");
    for (const [t, z] of walk.slice(1)) flow.dot(t, z, look, 3.5, "steps");
    flow.line([[-0.03, end], [-0.03, exact]], "mf-wrong mf-bold", "miss");
    flow.text(1.06, -3.3, "noise, t = 1", { dy: 16 });
    flow.text(-0.1, -3.3, "data, t = 0", { dy: 16, anchor: "end" });
    const log = Math.log10;
    for (const power of [-6, -4, -2, 0]) {
      chart.line([[-0.1, power], [2.5, power]], "mf-grid mf-thin");
      chart.text(-0.1, power, power ? `10${[..."\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076"][-power].replace(/^/, "\u207b")}` : "1", { dx: -34, dy: 4, looks: "mf-soft" });
    }
    for (const n of [1, 4, 16, 64, 256]) chart.text(log(n), -7, `${n}`, { dy: 16, anchor: "middle", looks: "mf-soft" });
    chart.text(1.2, -7, "evaluations of v", { dy: 33, anchor: "middle" });
    chart.text(-0.1, 1, "error", { dx: -34, dy: -8 });
    chart.line([[-0.1, log(nothing)], [2.5, log(nothing)]], "mf-noise mf-dash", "noise");
    chart.text(2.5, log(nothing), "noise, untouched", { anchor: "end", dy: -7, looks: "mf-noise" });
    for (const name of Object.keys(names)) {
      const points = counts.map((n) => [log(n * calls[name]), log(error(name, n))]);
      chart.line(points, looks[name] + (name === s.solver ? " mf-bold" : " mf-thin"));
      if (name === s.solver) chart.text(...points.at(-1), names[name], { looks: looks[name], dx: -8, dy: 16, anchor: "end" });
    }
    chart.dot(log(nfe), log(wrong), look, 6);
    stage.say(
      `${s.n} step${s.n > 1 ? "s" : ""} of ${names[s.solver]} evaluate v ${nfe} time${nfe > 1 ? "s" : ""}. This noise ends at ${show(end, 3)} instead of ` +
        `${show(exact, 3)}. Over all noises the error is <b class="${look}">${wrong < 1e-3 ? wrong.toExponential(1) : show(wrong, 3)}</b>; leaving the noise untouched costs ${show(nothing)}.`
    );
  }
  return { draw, numbers };
};
