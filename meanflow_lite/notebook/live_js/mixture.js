// A 1-D Gaussian mixture under the linear path z_t = (1 - t) x + t eps, in closed form.
// The same formulas as meanflow_lite.fields.ProductMixture; a test compares the two.
(function () {
  const mf = (window.meanflow ??= { pictures: {}, shown: {} });
  if (mf.mixture) return;

  // erfc: a series of positive terms near zero, a continued fraction in the tail.
  function erfc(x) {
    if (x < 0) return 2 - erfc(-x);
    const bell = Math.exp(-x * x);
    if (x < 2.5) {
      let term = x, sum = x;
      for (let n = 1; term > sum * 1e-17; n++) sum += term *= (2 * x * x) / (2 * n + 1);
      return 1 - (2 / Math.sqrt(Math.PI)) * bell * sum;
    }
    let tail = x;
    for (let n = 60; n > 0; n--) tail = x + n / 2 / tail;
    return bell / Math.sqrt(Math.PI) / tail;
  }
  mf.phi = (x) => erfc(-x / Math.SQRT2) / 2;

  // Solve f(x) = 0 for a rising f with slope df: Newton inside a bracket, halving where it leaves.
  mf.solve = function (f, df, low, high) {
    let x = (low + high) / 2;
    for (let i = 0; i < 90 && high - low > 1e-15 * (1 + Math.abs(x)); i++) {
      const miss = f(x);
      if (miss === 0) return x;
      if (miss < 0) low = x;
      else high = x;
      const next = x - miss / df(x);
      const step = next > low && next < high ? next : (low + high) / 2;
      if (Math.abs(step - x) < 1e-15) return step;
      x = step;
    }
    return x;
  };
  mf.normal = (p) => mf.solve((x) => mf.phi(x) - p, (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI), -9, 9);

  mf.mixture = function ({ weights, means, stds }) {
    const parts = weights.map((_, k) => k);
    const width = (k, t) => Math.hypot((1 - t) * stds[k], t);
    const score = (z, t, k) => (z - (1 - t) * means[k]) / width(k, t);
    // The mass below z (side 1) or above it (side -1).
    const tail = (z, t, side) => parts.reduce((sum, k) => sum + weights[k] * mf.phi(side * score(z, t, k)), 0);
    const density = (z, t) =>
      parts.reduce((sum, k) => sum + (weights[k] * Math.exp(-(score(z, t, k) ** 2) / 2)) / width(k, t), 0) /
      Math.sqrt(2 * Math.PI);
    // The z whose tail is p; far scores bound the root.
    function invert(p, t, side, low = -9, high = 9) {
      const a = Math.min(...parts.map((k) => (1 - t) * means[k] + low * width(k, t)));
      const b = Math.max(...parts.map((k) => (1 - t) * means[k] + high * width(k, t)));
      return mf.solve((z) => side * (tail(z, t, side) - p), (z) => density(z, t), a, b);
    }
    const cdf = (z, t) => tail(z, t, 1);
    const quantile = (p, t) => (p <= 0.5 ? invert(p, t, 1) : invert(1 - p, t, -1));
    // P(k | z), and the mean and the variance of eps - x given z and k.
    function posterior(z, t) {
      const logs = parts.map((k) => Math.log(weights[k]) - score(z, t, k) ** 2 / 2 - Math.log(width(k, t)));
      const top = Math.max(...logs), mass = logs.map((l) => Math.exp(l - top));
      const sum = mass.reduce((a, b) => a + b, 0);
      return parts.map((k) => {
        const s2 = stds[k] ** 2, q2 = width(k, t) ** 2;
        const mean = ((z - (1 - t) * means[k]) * (t - (1 - t) * s2)) / q2 - means[k];
        return { share: mass[k] / sum, mean, variance: s2 / q2 };
      });
    }
    const velocity = (z, t) => posterior(z, t).reduce((sum, k) => sum + k.share * k.mean, 0);
    function variance(z, t) {
      const given = posterior(z, t), v = velocity(z, t);
      return given.reduce((sum, k) => sum + k.share * (k.variance + (k.mean - v) ** 2), 0);
    }
    // The flow keeps the rank of a point: F_r(z_r) = F_t(z_t). The smaller tail keeps the digits.
    function transport(z, r, t) {
      if (r === t) return z;
      const side = cdf(z, t) <= 0.5 ? 1 : -1, scores = parts.map((k) => score(z, t, k));
      return invert(tail(z, t, side), r, side, Math.min(...scores), Math.max(...scores));
    }
    function average(z, r, t) {
      if (t - r >= 1e-4) return (z - transport(z, r, t)) / (t - r);
      const middle = (r + t) / 2;
      return velocity(transport(z, middle, t), middle);
    }
    return { cdf, density, quantile, posterior, velocity, variance, transport, average };
  };

  // One step of a solver from t to r for dz/dt = v(z, t); it calls v once, twice or four times.
  mf.solvers = {
    euler: (v, z, t, r) => z + (r - t) * v(z, t),
    heun(v, z, t, r) {
      const h = r - t, a = v(z, t);
      return z + (h / 2) * (a + v(z + h * a, r));
    },
    rk4(v, z, t, r) {
      const h = r - t, m = t + h / 2;
      const a = v(z, t), b = v(z + (h / 2) * a, m), c = v(z + (h / 2) * b, m), d = v(z + h * c, r);
      return z + (h / 6) * (a + 2 * b + 2 * c + d);
    },
  };
  // All states of a walk in n equal steps from t = from to t = to.
  mf.walk = function (v, z, n, solver = "euler", from = 1, to = 0) {
    const states = [z];
    for (let i = 0; i < n; i++)
      states.push(mf.solvers[solver](v, states[i], from + ((to - from) * i) / n, from + ((to - from) * (i + 1)) / n));
    return states;
  };
})();
