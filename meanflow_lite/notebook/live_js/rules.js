// One jump from t to r is two jumps, over s. The three rules differ in where s stands.
meanflow.pictures.rules ??= function (stage) {
  const mf = window.meanflow, law = mf.mixture(stage.law), s = stage.state, show = mf.show;
  const flow = stage.plot({ label: "One long chord and the two short ones over s", share: 0.62, height: 300, x: [1.06, -0.06], y: [-3.3, 3.3], pad: [6, 4, 22, 4] });
  const triangle = stage.plot({ label: "The triangle of times; drag the jump", share: 0.38, height: (w) => Math.min(w, 300), x: [0, 1], y: [0, 1], pad: [26, 18, 38, 30] });
  const about = {
    eulerian: "The start moves: the first piece becomes a step of v (MeanFlow, consistency)",
    lagrangian: "The end moves: the last piece becomes a step of v (terminal velocity, Lagrangian self-distillation)",
    compositional: "Both pieces are jumps of the same field (shortcut, SplitMeanFlow)",
  };
  triangle.handle({
    label: "times r and t of the jump", step: 0.02, page: 0.2, looks: "mf-u", get: () => [s.r, s.t],
    set: (r, t) => ((s.t = mf.clamp(t, 0.1, 1)), (s.r = mf.clamp(r, 0, s.t - 0.05))), say: () => `r = ${show(s.r)}, t = ${show(s.t)}`,
  });
  flow.handle({
    label: "state z at time t", axis: "y", step: 0.05, page: 0.5, get: () => [s.t, s.z], set: (_, z) => (s.z = mf.clamp(z, -3, 3)),
    say: () => `z = ${show(s.z)} at t = ${show(s.t)}`,
  });
  stage.choice({ key: "rule", label: "Rule", options: [["eulerian", "Eulerian"], ["lagrangian", "Lagrangian"], ["compositional", "Compositional"]] });
  stage.slider({ key: "part", label: "short piece", min: 0.02, max: 0.5, text: (x) => `${show(100 * x, 0)}%` });
  function numbers() {
    const { r, t, z, part, rule } = s, middle = rule === "lagrangian" ? r + part * (t - r) : t - part * (t - r);
    const at = law.transport(z, middle, t), end = law.transport(z, r, t);
    const first = rule === "eulerian" ? law.velocity(z, t) : law.average(z, middle, t);
    const last = rule === "lagrangian" ? law.velocity(at, middle) : law.average(at, r, middle);
    const whole = (t - r) * law.average(z, r, t), two = (t - middle) * first + (middle - r) * last;
    return { middle, at, end, first, last, whole, two, gap: two - whole };
  }
  const fan = mf.range(13, 1 / 14, 13 / 14).map((p) => mf.range(41, 1, 0).map((t) => [t, law.quantile(p, t)]));
  function draw() {
    for (const line of fan) flow.line(line, "mf-grid mf-thin");
    const { middle, at, end, first, last, whole, two, gap } = numbers(), { r, t, z, rule } = s;
    flow.line(mf.range(81, 1, 0).map((a) => [a, law.transport(z, a, t)]), "mf-ink mf-thin", "path");
    flow.line([[t, z], [r, end]], "mf-u mf-bold", "chord");
    const looks = [rule === "eulerian" ? "mf-v" : "mf-other", rule === "lagrangian" ? "mf-v" : "mf-other"];
    const start = rule === "eulerian" ? z - (t - middle) * first : at;
    flow.line([[t, z], [middle, start]], looks[0] + " mf-bold mf-dash", "first");
    flow.line([[middle, at], [r, at - (middle - r) * last]], looks[1] + " mf-bold mf-dash", "last");
    flow.dot(middle, at, "mf-ink", 4);
    for (const [time, name] of [[t, "t"], [middle, "s"], [r, "r"]]) {
      flow.line([[time, -3.3], [time, -3.05]], "mf-gray mf-thin");
      flow.text(time, -3.3, name, { dy: 16, anchor: "middle" });
    }
    triangle.line([[0, 0], [1, 1], [0, 1], [0, 0]], "mf-gray mf-thin");
    triangle.line([[r, t], [middle, t], [middle, middle]], looks[0] + " mf-thin mf-dash");
    triangle.line([[r, t], [r, middle], [middle, middle]], looks[1] + " mf-thin mf-dash");
    triangle.dot(middle, t, looks[0], 6, "first");
    triangle.dot(r, middle, looks[1], 6, "last");
    triangle.text(middle, t, "(s, t)", { dx: 10, dy: -9, anchor: "end", looks: looks[0] });
    triangle.text(r, middle, "(r, s)", { dx: 9, dy: 16, looks: looks[1] });
    triangle.text(0.5, 0, "end r \u2192", { dy: 30, anchor: "middle" });
    triangle.text(0, 0.5, "t \u2191", { dx: -28 });
    stage.say(
      `${about[rule]}. Long jump: (t \u2212 r) u = <b class="mf-u">${show(whole, 4)}</b>. Two pieces: ` +
        `${show(t - middle)} \u00b7 ${show(first, 3)} + ${show(middle - r)} \u00b7 ${show(last, 3)} = ${show(two, 4)}. They differ by ${show(Math.abs(gap), 4)}` +
        (rule === "compositional" ? ", at any s." : ", and by ever less as the short piece shrinks.")
    );
  }
  return { draw, numbers };
};
