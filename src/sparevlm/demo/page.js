/* What the slider and the view change, in the browser alone: no call to the server. */
window.sparevlm = (() => {
  const parsed = new WeakMap();
  const LEGIBLE = 11; // pixels; smaller numbers are left out, and colours alone tell the order
  let last = null;
  const read = (element, name) => {
    if (!element) return null;
    const text = element.dataset[name];
    const known = parsed.get(element);
    if (known && known.text === text) return known.value;
    const value = JSON.parse(text);
    parsed.set(element, { text, value });
    return value;
  };
  const percent = (share) => share > 0 && share < 1e-5 ? "less than 0.001 %" : `${Number((100 * share).toPrecision(2))} %`;

  function kept(look, said, keep) {
    if (look.ranks) return look.ranks.map((rank) => rank >= 0 && rank < keep);
    const found = read(said, "kept");
    if (!found || found.keep !== keep) return null;
    const set = new Set(found.kept);
    return Array.from({ length: look.total }, (_, token) => set.has(token));
  }

  function panel(figure, keep, view) {
    const look = read(figure, "look");
    const said = document.querySelector(`#sv-said-${look.side} [data-kept]`);
    const chosen = kept(look, said, keep);
    figure.classList.toggle("sv-waiting", !chosen);
    figure.querySelector(".sv-count").textContent = `${keep} of ${look.total} tokens`;
    const left = figure.querySelector(".sv-left");
    left.textContent = !look.curve ? "" : keep < look.curve.length
      ? `${percent(look.curve[keep])} of the features\u2019 energy is not explained; the least possible is ${percent(look.bound[keep])}`
      : "all of the features\u2019 energy is explained";
    const drawing = figure.querySelector("svg");
    if (!drawing) return;
    const heat = view === "Scores" && look.heat;
    const order = view === "Order picked" && look.ranks;
    const note = figure.querySelector(".sv-view");
    note.classList.toggle("sv-scale", Boolean(heat));
    note.textContent = heat ? "low score \u2013 high score"
      : view === "Scores" ? "This method gives no scores."
      : order ? "from yellow, picked first, over red and blue to green"
      : view === "Order picked" ? "This method picks anew for every budget." : "";
    drawing.classList.toggle("sv-show-heat", Boolean(heat));
    drawing.classList.toggle("sv-show-order", Boolean(order));
    drawing.setAttribute("aria-label", `The picture with ${keep} of ${look.total} patches kept, ` +
      `the others darkened`);
    if (!chosen) return;
    const clips = drawing.querySelectorAll("clipPath rect");
    const cells = drawing.querySelectorAll(".sv-cells rect");
    const numbers = drawing.querySelectorAll(".sv-numbers text");
    const legible = numbers.length && drawing.getScreenCTM()
      && parseFloat(getComputedStyle(numbers[0]).fontSize) * drawing.getScreenCTM().a >= LEGIBLE;
    for (let token = 0; token < cells.length; token++) {
      clips[token].style.display = chosen[token] ? "" : "none";
      cells[token].style.display = chosen[token] ? "" : "none";
      const rank = look.ranks ? look.ranks[token] : -1;
      const numbered = order && chosen[token];
      numbers[token].textContent = numbered && legible ? rank + 1 : "";
      cells[token].style.fill = numbered ? `hsl(${50 - 260 * (rank / Math.max(keep - 1, 1))} 90% 55%)` : "";
    }
  }

  function curve(figure, keep) {
    const place = read(figure, "place");
    const drawing = figure.querySelector("svg");
    let line = drawing.querySelector(".sv-now");
    if (!line) {
      line = document.createElementNS("http://www.w3.org/2000/svg", "line");
      line.setAttribute("class", "sv-now");
      drawing.append(line);
    }
    const x = place.x0 + keep * place.step;
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    line.setAttribute("y1", place.top); line.setAttribute("y2", place.bottom);
  }

  /* What belongs to other settings than the present ones is out of date: it was asked with them. */
  function date(now) {
    document.querySelectorAll("[data-asked]").forEach((element) => {
      const asked = read(element, "asked");
      const side = element.closest("[id$='-b']") ? 1 : 0;
      const current = (asked.question === undefined || asked.question === now.question)
        && (asked.picture === undefined || asked.picture === now.picture)
        && (asked.keep === undefined || asked.keep === now.keep)
        && (asked.method === undefined || asked.method === now.methods[side])
        && (asked.methods === undefined || asked.methods.every((name, i) => name === now.methods[i]));
      element.classList.toggle("sv-out-of-date", !current);
      element.setAttribute("aria-busy", String(!current));
    });
  }

  function show(keep, view, first, second, question, example, picture) {
    last = [keep, view, first, second, question, example, picture];
    date({ keep, methods: [first, second], question, picture: picture ? picture.path : null });
    document.querySelectorAll(".sv-panel").forEach((figure) => panel(figure, keep, view));
    document.querySelectorAll(".sv-curve").forEach((figure) => curve(figure, keep));
  }

  /* Settings, and never the picture itself, go into the address. */
  function address(keep, view, first, second, question, example) {
    const kept = new URLSearchParams(location.search);
    const settings = { methods: `${first},${second}`, keep, view, question, picture: example || "" };
    for (const [name, value] of Object.entries(settings)) {
      if (value === "" || value === null) kept.delete(name);
      else kept.set(name, value);
    }
    history.replaceState(null, "", `?${kept}`);
  }

  function name(selector, names) {
    document.querySelectorAll(selector).forEach((button, i) => button.setAttribute("aria-label", names[i]));
  }

  window.addEventListener("resize", () => last && show(...last));

  return { show, address, name };
})();
