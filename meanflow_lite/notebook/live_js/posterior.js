// Two data points: how likely each is behind z, their mean, and the velocity that points away from it.
meanflow.pictures.posterior ??= function (stage) {
  const mf = window.meanflow, s = stage.state, show = mf.show, points = [-1, 1];
  const plane = stage.plot({
    label: "A point z at time t, noise on the left, and the two data points on the right", height: 300,
    x: [1.04, -0.3], y: [-2.2, 2.2], pad: [8, 4, 24, 4],
  });
  plane.handle({
    label: "time t and state z", step: 0.02, page: 0.5,
    get: () => [s.t, s.z], set: (t, z) => ((s.t = mf.clamp(t, 0.05, 1)), (s.z = mf.clamp(z, -2, 2))),
    say: () => `z = ${show(s.z)} at t = ${show(s.t)}, share of the upper point ${show(numbers().upper)}`,
  });
  function numbers() {
    const logs = points.map((x) => -((s.z - (1 - s.t) * x) ** 2) / (2 * s.t * s.t));
    const upper = 1 / (1 + Math.exp(logs[0] - logs[1])), mean = points[0] * (1 - upper) + points[1] * upper;
    return { upper, mean, v: (s.z - mean) / s.t };
  }
  function draw() {
    const { upper, mean, v } = numbers(), shares = [1 - upper, upper];
    plane.line([[1, -2.2], [1, 2.2]], "mf-grid mf-thin");
    plane.line([[0, -2.2], [0, 2.2]], "mf-grid mf-thin");
    // Straight lines through z: the noise that would have made it from each data point.
    points.forEach((x, k) => {
      const noise = (s.z - (1 - s.t) * x) / s.t;
      const line = plane.line([[1, mf.clamp(noise, -9, 9)], [0, x]], "mf-data", "data");
      line.style.strokeWidth = 1 + 9 * shares[k];
      line.style.opacity = 0.2 + 0.5 * shares[k];
      plane.dot(0, x, "mf-data", 4 + 8 * shares[k], "data");
      plane.text(0, x, `${show(100 * shares[k], 0)}%`, { dx: 18, dy: 5, looks: "mf-data" });
    });
    plane.line([[s.t, s.z], [0, mean]], "mf-v mf-bold mf-dash", "velocity");
    plane.dot(0, mean, "mf-v", 6, "mean");
    plane.text(1, -2.2, "noise, t = 1", { dy: 18 });
    plane.text(0, -2.2, "data, t = 0", { dy: 18, anchor: "middle" });
    stage.say(
      `At z = ${show(s.z)}, t = ${show(s.t)} the points +1 and \u22121 have shares ${show(upper, 3)} and ${show(1 - upper, 3)}. Their mean is E[x | z] = ` +
        `${show(mean, 3)}, and the <b class="mf-v">velocity</b> is v = (z \u2212 E[x | z]) / t = ${show(v, 3)}: the dashed line ends at the mean, on neither point.`
    );
  }
  return { draw, numbers };
};
