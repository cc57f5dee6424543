// The playground without reloads: the result comes as a part of the page, and the slider works on the vectors in it.

import {
  cut, decode, fit, gram, levelOf, neighboursOf, orderOf, placesOf, planeOf, splitTexts, spread,
} from "./vectors.js";

const APART = 33;

const form = document.querySelector("[data-playground]");
const result = document.querySelector("[data-result]");
if (form && result) play();

function play() {
  const fields = form.elements;
  const button = form.querySelector("[data-run]");
  const status = document.querySelector("[data-status]");
  const count = form.querySelector("[data-count]");
  let running = false;

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = true;
    button.setAttribute("aria-disabled", "true");
    button.textContent = "Running…";
    result.setAttribute("aria-busy", "true");
    status.textContent = "Running.";
    const body = new URLSearchParams(new FormData(form));
    body.set("part", "result");
    const start = performance.now();
    try {
      const reply = await fetch(form.action, { method: "POST", body });
      const part = await reply.text();
      if (reply.headers.get("x-quernel-part") !== "result") throw new Error(reply.statusText);
      result.innerHTML = part;
      explore(result, performance.now() - start);
    } catch {
      result.replaceChildren(document.querySelector("[data-unreachable]").content.cloneNode(true));
    } finally {
      running = false;
      button.removeAttribute("aria-disabled");
      button.textContent = "Run";
      result.removeAttribute("aria-busy");
    }
    result.dispatchEvent(new CustomEvent("quernel:added", { bubbles: true }));
    status.textContent = result.querySelector("[data-summary]")?.textContent ?? "";
    const { top } = result.getBoundingClientRect();
    if (top < 0 || top > innerHeight * 0.6) result.scrollIntoView({ block: "start" });
  });

  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });

  form.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-sample]");
    if (!chip || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    fill(chip);
  });

  function fill(chip) {
    const sample = JSON.parse(chip.dataset.sample);
    for (const name of ["query", "instruction", "texts"]) fields[name].value = sample[name];
    tell();
    status.textContent = `${chip.textContent} is filled in.`;
  }

  function tell() {
    const found = splitTexts(fields.texts.value).length;
    count.textContent = `${found} of ${form.dataset.most}`;
    count.classList.toggle("over", found > Number(form.dataset.most));
  }
  fields.texts.addEventListener("input", tell);
  tell();

  fields.model.addEventListener("change", async () => {
    const option = fields.model.selectedOptions[0];
    for (const part of form.querySelectorAll("[data-of]")) part.hidden = part.dataset.of !== option.dataset.kind;
    form.querySelector("[data-model-page]").href = option.dataset.page;
    history.replaceState(null, "", option.dataset.here);
    fields.instruction.placeholder = "";
    const reply = await fetch(option.dataset.card);
    if (!reply.ok || option !== fields.model.selectedOptions[0]) return;
    const { instructions, samples } = await reply.json();
    fields.instruction.placeholder = instructions?.default ?? "";
    form.querySelector("[data-no-instruction]").hidden = instructions === null || instructions.supported;
    offerOwn(samples);
  });

  // The first sample is the model's own, where it has one.
  function offerOwn(samples) {
    const chips = [...form.querySelectorAll("[data-sample]")];
    const own = chips.find((chip) => JSON.parse(chip.dataset.sample).name === "own");
    const texts = samples.texts.map((sample) => sample.text);
    own?.parentElement.remove();
    if (!texts.length) return;
    const item = chips.at(-1).parentElement.cloneNode(true);
    const chip = item.querySelector("[data-sample]");
    const between = texts.some((text) => text.includes("\n")) ? "\n\n" : "\n";
    chip.textContent = "For this model";
    chip.href = `${fields.model.selectedOptions[0].dataset.here}&sample=own`;
    const filling = { name: "own", query: samples.query ?? "", instruction: "", texts: texts.join(between) };
    chip.dataset.sample = JSON.stringify(filling);
    form.querySelector(".chips").prepend(item);
  }
}

// What can be done with a result: shorter vectors, and the same text in all its places.
function explore(root, milliseconds) {
  const outcome = root.querySelector("[data-outcome]");
  if (!outcome) return;
  const trip = outcome.querySelector("[data-round-trip]");
  const seconds = milliseconds / 1000;
  const taken = seconds >= 1 ? `${seconds.toFixed(1)} s` : `${milliseconds.toFixed(0)} ms`;
  trip.textContent = `${taken} round trip`;
  trip.hidden = false;
  for (const kind of ["pointerover", "pointerout"]) {
    outcome.addEventListener(kind, (event) => {
      const item = event.target.closest("[data-item]");
      if (!item) return;
      for (const same of outcome.querySelectorAll(`[data-item="${item.dataset.item}"]`)) {
        same.classList.toggle("lit", kind === "pointerover");
      }
    });
  }
  const data = outcome.querySelector("[data-vectors]");
  if (data) slide(outcome, JSON.parse(data.textContent));
}

function slide(outcome, { whole, hasQuery, numbers }) {
  const vectors = decode(numbers, whole);
  const [low, high, levels, width, height, margin] = ["low", "high", "levels", "width", "height", "margin"]
    .map((name) => Number(outcome.dataset[name]));
  const all = (name) => [...outcome.querySelectorAll(`[data-${name}]`)];
  const one = (name) => outcome.querySelector(`[data-${name}]`);
  const cells = all("cell");
  const points = all("point");
  const leaders = all("leader");
  const neighbours = all("neighbour");
  const likenesses = all("likeness");
  const rows = new Map(all("row").map((row) => [Number(row.dataset.row), row]));
  const labels = points.map((point) => point.dataset.item);
  const before = vectors.map((vector) => cut(vector, whole));
  const placesBefore = hasQuery ? placesOf(orderOf(gram(before)[0].slice(1))) : [];
  const plane = planeOf(before).places;

  function look(dimensions) {
    const short = vectors.map((vector) => cut(vector, dimensions));
    const similarities = gram(short);
    one("dimensions-now").firstElementChild.textContent = dimensions.toLocaleString("en-US");
    for (const said of all("dimensions-said")) said.textContent = dimensions;
    for (const size of all("bytes")) {
      size.textContent = Math.ceil(dimensions * Number(size.dataset.bytes)).toLocaleString("en-US");
    }
    for (const chip of all("length")) {
      chip.setAttribute("aria-pressed", String(Number(chip.dataset.length) === dimensions));
    }
    if (hasQuery) order(similarities[0].slice(1), dimensions);
    if (!points.length) return;
    heat(similarities);
    draw(short);
  }

  function order(scores, dimensions) {
    const now = orderOf(scores);
    let moved = 0;
    now.forEach((index, place) => {
      const row = rows.get(index + 1);
      const up = placesBefore[index] - place - 1;
      const part = (name) => row.querySelector(`[data-part="${name}"]`);
      part("place").textContent = place + 1;
      part("score").textContent = scores[index].toFixed(3);
      const share = Math.min(Math.max(scores[index], 0), 1);
      row.querySelector(".meter .fill").setAttribute("width", (100 * share).toFixed(2));
      const mark = part("moved").firstElementChild;
      mark.className = up > 0 ? "moved up" : up < 0 ? "moved down" : "moved";
      mark.textContent = up > 0 ? `up ${up}` : up < 0 ? `down ${-up}` : "same";
      if (up !== 0) moved += 1;
      if (one("order").children[place] !== row) one("order").insertBefore(row, one("order").children[place]);
    });
    one("order-summary").textContent = dimensions === whole ? "With whole vectors."
      : moved ? `${moved} of ${now.length} have another place than with whole vectors.`
        : "The same order as with whole vectors.";
  }

  function heat(similarities) {
    const nearest = neighboursOf(similarities);
    similarities.forEach((row, i) => row.forEach((value, j) => {
      const cell = cells[i * row.length + j];
      cell.textContent = value.toFixed(2);
      cell.className = i === j ? "self" : `h${levelOf(value, low, high, levels)}`;
      cell.classList.toggle("nearest", nearest[i] === j);
    }));
    nearest.forEach((other, index) => {
      neighbours[index].textContent = labels[other];
      neighbours[index].classList.toggle("query", labels[other] === "Q");
      likenesses[index].textContent = similarities[index][other].toFixed(2);
    });
  }

  function draw(short) {
    const { places, share } = planeOf(short, plane);
    const exact = fit(places, width, height, margin);
    const shown = spread(exact, APART, width, height, APART / 2 + 4);
    points.forEach((point, index) => {
      const [x1, y1, x2, y2] = [...exact[index], ...shown[index]].map((number) => number.toFixed(1));
      point.setAttribute("transform", `translate(${x2} ${y2})`);
      for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) leaders[index].setAttribute(name, value);
    });
    one("share").textContent = `${(100 * share).toFixed(0)}\u00a0%`;
  }

  const range = one("slider");
  if (range) {
    let waiting = 0;
    const set = () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(() => look(Number(range.value)));
    };
    range.addEventListener("input", set);
    for (const chip of all("length")) {
      chip.addEventListener("click", () => {
        range.value = chip.dataset.length;
        set();
      });
    }
    range.hidden = one("ladder").hidden = false;
  }
  look(whole);
}
