// A prediction: buttons that remember the choice, and a later box that scores it.
(function () {
  const mf = (window.meanflow ??= { pictures: {}, shown: {} });
  if (mf.predict) return;
  const memory = {}; // where a page may not store anything
  const name = (id) => "meanflow-predict:" + id;
  function recall(id) {
    try {
      return localStorage.getItem(name(id)) ?? memory[id] ?? null;
    } catch {
      return memory[id] ?? null;
    }
  }
  function keep(id, option) {
    memory[id] = String(option);
    try {
      localStorage.setItem(name(id), option);
    } catch {}
    document.dispatchEvent(new CustomEvent("meanflow-predict", { detail: id }));
  }
  mf.predict = function (id) {
    const box = document.getElementById("predict-" + id), buttons = [...box.querySelectorAll("button")];
    const said = box.querySelector(".mf-said");
    function show() {
      const chosen = recall(id);
      for (const button of buttons) button.setAttribute("aria-pressed", button.dataset.option === chosen);
      said.textContent = chosen === null ? "" : "Noted. The chapter scores it further on; you can change it until then.";
    }
    for (const button of buttons) button.addEventListener("click", () => (keep(id, button.dataset.option), show()));
    show();
  };
  mf.score = function (id) {
    const box = document.getElementById("score-" + id), yours = box.querySelector(".mf-yours");
    const options = JSON.parse(box.dataset.options), right = JSON.parse(box.dataset.right);
    function show() {
      const chosen = recall(id);
      if (chosen === null || !(chosen in options)) {
        yours.innerHTML = `You have not predicted yet: <a href="#predict-${id}">the question</a>.`;
        return;
      }
      const good = right.includes(Number(chosen));
      yours.replaceChildren("You predicted: ");
      const choice = yours.appendChild(document.createElement("b"));
      choice.textContent = options[chosen];
      yours.append(good ? ". That is right." : ". That is not what happens.");
      box.dataset.verdict = good ? "right" : "wrong";
    }
    document.addEventListener("meanflow-predict", (event) => event.detail === id && show());
    show();
  };
})();
