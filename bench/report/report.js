"use strict";
// Sorting and filtering of the ranked table, the copy button, and the examples of single targets.
(() => {
  const byId = (id) => document.getElementById(id);
  document.documentElement.classList.add("scripted");

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---- the ranked table ----

  const table = byId("ranking-table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const filter = byId("filter");

  function say(sorted) {
    const shown = rows.filter((row) => !row.hidden).length;
    byId("filter-count").textContent =
      `${shown} of ${rows.length} method${rows.length === 1 ? "" : "s"}` + (sorted ? `, ${sorted}` : "");
  }

  function compare(key, direction) {
    const texts = key === "method" || key === "group";
    return (a, b) => {
      const [x, y] = [a.dataset[key], b.dataset[key]];
      const missing = (x === undefined) - (y === undefined); // without a value: last, whichever the direction
      if (missing) return missing;
      const order = x === undefined ? 0 : texts ? x.localeCompare(y) : Number(x) - Number(y);
      return direction * order || Number(a.dataset.at) - Number(b.dataset.at);
    };
  }

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-key]");
    if (!button) return;
    const head = button.closest("th");
    const before = head.getAttribute("aria-sort");
    const falls = before ? before === "ascending" : "falls" in button.dataset;
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    rows.sort(compare(button.dataset.key, falls ? -1 : 1));
    body.append(...rows);
    say(`sorted by ${button.textContent}, ${falls ? "descending" : "ascending"}`);
  });

  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    say();
  });

  // ---- the command ----

  const copy = byId("copy");
  if (copy) {
    copy.addEventListener("click", async () => {
      const code = byId("command");
      let done = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        done = true;
      } catch {
        getSelection().selectAllChildren(code); // the clipboard is not to be had: ready for the keyboard
      }
      byId("copied").textContent = done ? "Copied" : "Selected: press Ctrl+C or ⌘C";
    });
  }

  // ---- the examples ----

  const holder = byId("gallery-data");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const strip = byId("strip");
  const STRIP = 60; // buttons at once

  const sheet = new CSSStyleSheet();
  for (const [name, of] of [["target", data.targetSheet], ["train", data.trainSheet]]) {
    if (!of) continue;
    const size = `${100 * of.columns}% ${100 * of.rows}%`;
    sheet.insertRule(`.${name}-tile { background-image: url(${of.url}); background-size: ${size}; --aspect: ${of.aspect}; }`);
  }
  document.adoptedStyleSheets = [sheet];

  const className = (label) => (data.classNames[label] ? `${data.classNames[label]}` : `class ${label}`);
  const number = (value) => (value === null ? "none" : value.toFixed(3).replace("-", "−"));
  const digits = (value) => (value >= 1000 ? String(Math.round(value)) : value.toPrecision(3));
  const score = (value) => `${value > 0 ? "+" : "−"}${digits(Math.abs(value))}`;

  function tile(kind, at, label) {
    const made = element("span", `tile ${kind}-tile`);
    const of = data[`${kind}Sheet`];
    const [x, y] = [at % of.columns, Math.floor(at / of.columns)];
    made.style.backgroundPosition = `${of.columns > 1 ? (100 * x) / (of.columns - 1) : 0}% ${of.rows > 1 ? (100 * y) / (of.rows - 1) : 0}%`;
    if (label) {
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", label);
    } else {
      made.setAttribute("aria-hidden", "true");
    }
    return made;
  }

  const every = data.targets.map((_, at) => at);
  let found = every;
  let here = 0; // position in `found`

  function chosenMethods() {
    const value = byId("method").value;
    return value === "all" ? data.methods : [data.methods[Number(value)]];
  }

  function meanLds(at) {
    const values = chosenMethods().map((method) => method.lds[at]).filter((value) => value !== null);
    return values.length ? values.reduce((a, b) => a + b) / values.length : null;
  }

  // What is written in the search box: a number, a class, worst, best, or nothing.
  function matches(text) {
    const wanted = text.trim().toLowerCase();
    const labelled = wanted.match(/^class\s+(\d+)$/);
    if (!wanted || wanted === "worst" || wanted === "best") return every;
    if (/^#?\d+$/.test(wanted)) {
      const target = Number(wanted.replace("#", ""));
      return every.filter((at) => data.targets[at] === target);
    }
    if (labelled) return every.filter((at) => data.labels[at] === Number(labelled[1]));
    return every.filter((at) => className(data.labels[at]).toLowerCase().includes(wanted));
  }

  function search(keep) {
    const text = byId("search").value;
    const said = text.trim().toLowerCase();
    if (said === "worst" || said === "best") byId("order").value = said;
    const before = found[here];
    found = matches(text).slice();
    const order = byId("order").value;
    if (order !== "number") {
      const sign = order === "worst" ? 1 : -1;
      const value = new Map(found.map((at) => [at, meanLds(at)]));
      found.sort((a, b) => {
        const [x, y] = [value.get(a), value.get(b)];
        return (x === null) - (y === null) || sign * (x - y) || a - b;
      });
    }
    here = keep ? Math.max(0, found.indexOf(before)) : 0;
    show();
  }

  function show(focus) {
    const at = found[here];
    const status = byId("gallery-status");
    byId("previous").disabled = here <= 0;
    byId("next").disabled = here >= found.length - 1;
    strip.replaceChildren();
    const shown = byId("shown");
    shown.replaceChildren();
    if (at === undefined) {
      const part = data.targets.length < data.nTargets ? ` among the ${data.targets.length} of this file` : "";
      status.textContent = `No target is found${part}.`;
      return;
    }
    status.textContent = `Target ${data.targets[at]}, ${className(data.labels[at])}: ${here + 1} of ${found.length} found`;
    fillStrip(focus);
    shown.append(head(at), ...chosenMethods().map((method) => named(method, at)));
  }

  function fillStrip(focus) {
    const start = Math.max(0, Math.min(here - STRIP / 2, found.length - STRIP));
    for (const [offset, at] of found.slice(start, start + STRIP).entries()) {
      const place = start + offset;
      const button = element("button");
      button.type = "button";
      button.tabIndex = place === here ? 0 : -1;
      if (place === here) button.setAttribute("aria-current", "true");
      button.setAttribute("aria-label", `Target ${data.targets[at]}, ${className(data.labels[at])}`);
      if (data.targetSheet) button.append(tile("target", at, ""));
      button.append(String(data.targets[at]));
      button.addEventListener("click", () => go(place, true));
      strip.append(button);
    }
    const current = strip.querySelector("[aria-current]");
    strip.scrollLeft = current.offsetLeft - strip.offsetLeft - strip.clientWidth / 2 + current.offsetWidth / 2;
    if (focus) current.focus({ preventScroll: true });
  }

  function go(place, focus) {
    here = Math.max(0, Math.min(found.length - 1, place));
    show(focus);
  }

  function head(at) {
    const made = element("div", "target");
    const label = className(data.labels[at]);
    if (data.targetSheet) made.append(tile("target", at, `Target ${data.targets[at]}: ${label}`));
    const words = element("div");
    words.append(element("h3", "", `Target ${data.targets[at]}`), element("p", "", label[0].toUpperCase() + label.slice(1)));
    if (data.targetFeatures) words.append(element("p", "soft", `x = (${data.targetFeatures[at]})`));
    const lds = chosenMethods().map((method) => `${method.name} ${number(method.lds[at])}`);
    words.append(element("p", "soft", `LDS on this target: ${lds.join(" · ")}`));
    made.append(words);
    return made;
  }

  function named(method, at) {
    const made = element("div", "method");
    made.append(element("h4", "", method.name));
    for (const [side, title, none] of [
      [0, "Raise its margin most", "No training example has a score above 0."],
      [1, "Lower its margin most", "No training example has a score below 0."],
    ]) {
      const words = element("p", "side", title);
      const list = element("ul", "tiles");
      list.setAttribute("aria-label", `${title}, ${method.name}`);
      for (let i = 0; i < data.each; i += 1) {
        const entry = (2 * at + side) * data.each + i;
        if (method.at[entry] >= 0) list.append(card(method.at[entry], method.score[entry], data.labels[at]));
      }
      made.append(words, list.childElementCount ? list : element("p", "soft", none));
    }
    return made;
  }

  function card(at, value, label) {
    const same = data.trainLabels[at] === label;
    const made = element("li", same ? "same" : "");
    const name = className(data.trainLabels[at]);
    if (data.trainSheet) {
      made.append(tile("train", at, `Training image ${data.train[at]}, ${name}, score ${score(value)}`));
    }
    made.append(element("b", "", score(value)), element("span", "", same ? `${name} ✓` : name));
    made.append(element("span", "soft", `#${data.train[at]}`));
    if (data.trainFeatures) made.append(element("div", "soft", `(${data.trainFeatures[at]})`));
    return made;
  }

  byId("search").addEventListener("input", () => search(false));
  byId("order").addEventListener("change", () => search(false));
  byId("method").addEventListener("change", () => search(true));
  byId("previous").addEventListener("click", () => go(here - 1, false));
  byId("next").addEventListener("click", () => go(here + 1, false));
  strip.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: found.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(steps[event.key], true);
  });
  search(false);
})();
