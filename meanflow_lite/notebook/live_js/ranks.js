// The flow map by ranks: up from z to its rank under p_t, across, and down to the same rank under p_r.
meanflow.pictures.ranks ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const chart = stage.plot({
    label: "The share of points below each state, at time t and at time r", height: 320,
    x: [-3.4, 3.4], y: [0, 1], pad: [12, 14, 40, 36],
  });
  chart.handle({
    label: "state z at time t", axis: "x", step: 0.05, page: 0.5, looks: "mf-noise",
    get: () => [s.z, law.cdf(s.z, s.t)], set: (z) => (s.z = mf.clamp(z, -3.2, 3.2)),
    say: () => `z = ${show(s.z)}, rank ${show(numbers().rank, 3)}, goes to ${show(numbers().end)}`,
  });
  stage.slider({ key: "t", label: "t", change: (t) => ({ t, r: Math.min(s.r, t) }) });
  stage.slider({ key: "r", label: "r", change: (r) => ({ r, t: Math.max(s.t, r) }) });
  const tidy = () => ((s.t = mf.clamp(s.t, 0.02, 1)), (s.r = mf.clamp(s.r, 0, s.t)));
  const numbers = () => ({ rank: law.cdf(s.z, s.t), end: law.transport(s.z, s.r, s.t), u: law.average(s.z, s.r, s.t) });
  function draw() {
    const { rank, end, u } = numbers(), xs = mf.range(161, -3.4, 3.4);
    for (const p of [0, 0.5, 1]) {
      chart.line([[-3.4, p], [3.4, p]], "mf-grid mf-thin");
      chart.text(-3.4, p, `${p}`, { dx: -10, dy: 4, anchor: "end", looks: "mf-soft" });
    }
    for (const z of [-3, -2, -1, 0, 1, 2, 3]) chart.text(z, 0, show(z, 0), { dy: 16, anchor: "middle", looks: "mf-soft" });
    chart.text(0, 0, "state z", { dy: 34, anchor: "middle" });
    chart.line(xs.map((z) => [z, law.cdf(z, s.t)]), "mf-noise mf-bold", "noise");
    chart.line(xs.map((z) => [z, law.cdf(z, s.r)]), "mf-data mf-bold", "data");
    chart.text(-3.3, 0.93, `share below z at t = ${show(s.t)}`, { looks: "mf-noise" });
    chart.text(-3.3, 0.86, `share below z at r = ${show(s.r)}`, { looks: "mf-data" });
    chart.line([[s.z, 0], [s.z, rank]], "mf-noise mf-dash", "noise");
    chart.line([[s.z, rank], [end, rank]], "mf-u mf-bold", "chord");
    chart.arrow([end, rank], [end, 0], "mf-data mf-dash", "data");
    stage.say(
      `A share of ${show(rank, 3)} of all points at time ${show(s.t)} lies below z = ${show(s.z)}. At time ${show(s.r)} the same share lies below ` +
        `<b class="mf-data">${show(end, 3)}</b>. The point has moved there, so ${s.t > s.r ? `u = (${show(s.z)} \u2212 ${show(end, 3)}) / ${show(s.t - s.r)} = <b class="mf-u">${show(u, 3)}</b>` : `u = v = <b class="mf-u">${show(u, 3)}</b>`}.`
    );
  }
  return { draw, numbers, tidy };
};
