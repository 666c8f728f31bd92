"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text"), told = document.getElementById("told");
const places = [...text.querySelectorAll("[data-i]")];
let chosen = -1, activation = data.activations[0];

function make(tag, content, name) {
  const element = document.createElement(tag);
  if (content !== undefined) element.textContent = content;
  if (name) element.className = name;
  return element;
}

function percent(p) {
  return p > 0 && p < 0.005 ? "< 1 %" : Math.round(100 * p) + " %";
}

function row(trial, expected, truth) {
  const line = make("tr");
  line.append(make("th", trial));
  for (let k = 0; k + 1 < expected.length; k += 2) {
    const cell = make("td", undefined, expected[k] === truth ? "true" : ""), bar = make("i");
    bar.style.width = 100 * expected[k + 1] + "%";
    cell.append(make("b", data.texts[expected[k]]), " " + percent(expected[k + 1]), bar);
    line.append(cell);
  }
  line.append(make("td", percent(expected[expected.length - 1])));
  return line;
}

function tell(i) {
  const truth = data.tokens[i + 1], head = make("h2"), table = make("table"), top = make("tr");
  for (const [sign, by, name] of [["\u2190", -1, "previous"], ["\u2192", 1, "next"]]) {
    const button = make("button", sign);
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => choose(i + by, false));
    head.append(button);
  }
  head.append(make("b", data.texts[truth]), make("span", "difference " + activation.pd[i].toFixed(3)));
  const expected = make("th", "expected", "soft");
  expected.colSpan = (activation.expected[i][0].length - 1) / 2;
  top.append(make("th"), expected, make("th", "what came", "soft"));
  table.append(top, ...activation.trials.map((trial, k) => row(trial, activation.expected[i][k], truth)));
  told.replaceChildren(head, table);
  for (const old of text.querySelectorAll(".here")) old.classList.remove("here");
  places[i].classList.add("here");
}

function choose(i, focus) {
  if (i < 0 || i >= places.length) return;
  if (chosen >= 0) places[chosen].tabIndex = -1;
  else places[0].tabIndex = -1;
  chosen = i;
  places[i].tabIndex = 0;
  if (focus) places[i].focus({ preventScroll: true });
  tell(i);
  places[i].scrollIntoView({ block: "nearest" });
}

function paint() {
  places.forEach((place, i) => {
    const level = data.levels.filter(end => activation.pd[i] >= end).length;
    const first = new Set(activation.expected[i].map(told => told[0]));
    place.className = "l" + level + (first.size > 1 ? " x" : "");
  });
  document.getElementById("summary").textContent = activation.summary;
  if (chosen >= 0) tell(chosen);
}

function index(event) {
  const place = event.target.closest("[data-i]");
  return place ? Number(place.dataset.i) : -1;
}

text.addEventListener("pointerover", event => {
  if (event.pointerType !== "touch" && index(event) >= 0) tell(index(event));
});
text.addEventListener("pointerleave", () => { if (chosen >= 0) tell(chosen); });
text.addEventListener("click", event => choose(index(event), false));
text.addEventListener("focusin", event => { if (index(event) >= 0 && index(event) !== chosen) choose(index(event)); });
text.addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 40, ArrowUp: -40 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  choose(Math.min(Math.max(Math.max(chosen, 0) + by, 0), places.length - 1), true);
});
for (const input of document.querySelectorAll("input[name=activation]"))
  input.addEventListener("change", () => { activation = data.activations[Number(input.value)]; paint(); });
