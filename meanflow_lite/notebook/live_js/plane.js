// Two dimensions: mixtures with classes, guidance, the drift of Drifting; as in meanflow_lite.
(function () {
  const mf = (window.meanflow ??= { pictures: {}, shown: {} });
  if (mf.plane) return;

  // n points that fill the plane like a standard normal, by Halton's sequence in ranks.
  mf.cloud = function (n) {
    const digits = (k, base) => {
      let sum = 0;
      for (let unit = 1 / base; k; k = Math.floor(k / base), unit /= base) sum += unit * (k % base);
      return sum;
    };
    return Array.from({ length: n }, (_, k) => [mf.normal(digits(k + 1, 2)), mf.normal(digits(k + 1, 3))]);
  };

  // v(z, t | y) of a mixture of round Gaussians; y null means all components.
  mf.plane = function ({ weights, means, stds, labels }) {
    function velocity(z, t, y = null) {
      let sum = 0, top = -Infinity;
      const keep = 1 - t, parts = [];
      for (let k = 0; k < weights.length; k++) {
        if (y !== null && labels[k] !== y) continue;
        const var_ = (keep * stds[k]) ** 2 + t * t, dx = z[0] - keep * means[k][0], dy = z[1] - keep * means[k][1];
        const log = Math.log(weights[k] / var_) - (dx * dx + dy * dy) / (2 * var_);
        parts.push({ log, slope: (t - keep * stds[k] ** 2) / var_, dx, dy, k });
        top = Math.max(top, log);
      }
      let vx = 0, vy = 0;
      for (const { log, slope, dx, dy, k } of parts) {
        const mass = Math.exp(log - top);
        sum += mass;
        vx += mass * (slope * dx - means[k][0]);
        vy += mass * (slope * dy - means[k][1]);
      }
      return [vx / sum, vy / sum];
    }
    function guided(z, t, y, omega) {
      const own = velocity(z, t, y), all = velocity(z, t);
      return own.map((v, i) => all[i] + omega * (v - all[i]));
    }
    return { velocity, guided };
  };

  // The walk of one point by Runge and Kutta from t = 1 to 0 in n steps.
  mf.travel = function (v, z, n) {
    const along = (z, h, d) => [z[0] + h * d[0], z[1] + h * d[1]], states = [z];
    for (let i = 0; i < n; i++) {
      const t = 1 - i / n, r = 1 - (i + 1) / n, h = r - t, m = (t + r) / 2;
      const a = v(z, t), b = v(along(z, h / 2, a), m), c = v(along(z, h / 2, b), m), d = v(along(z, h, c), r);
      z = [0, 1].map((k) => z[k] + (h / 6) * (a[k] + 2 * b[k] + 2 * c[k] + d[k]));
      states.push(z);
    }
    return states;
  };

  // V at points: towards data, away from generated; pairs (i, i) of points that are the generated do not count.
  mf.drift = function (points, generated, data, tau, own) {
    const n = generated.length, others = [...generated, ...data];
    const log = points.map((a, i) => others.map((b, j) => (own && i === j ? -1e6 : -Math.hypot(a[0] - b[0], a[1] - b[1]) / tau)));
    const logsum = (values) => {
      const top = Math.max(...values);
      return top + Math.log(values.reduce((sum, x) => sum + Math.exp(x - top), 0));
    };
    const rows = log.map(logsum), columns = others.map((_, j) => logsum(log.map((row) => row[j])));
    return points.map((_, i) => {
      let away = 0, towards = 0;
      const pull = [0, 0], push = [0, 0];
      others.forEach((b, j) => {
        const k = own && i === j ? 0 : Math.exp(log[i][j] - (rows[i] + columns[j]) / 2), side = j < n ? push : pull;
        if (j < n) away += k;
        else towards += k;
        side[0] += k * b[0];
        side[1] += k * b[1];
      });
      return [0, 1].map((c) => pull[c] * away - push[c] * towards);
    });
  };
})();
