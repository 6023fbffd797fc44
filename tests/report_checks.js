// What test_report_browser.py asks of the page: each function gives a list of what is wrong.

// Text on its background, as WCAG 2 defines contrast; large text may have less, and is held to the same.
function contrast() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => [...top.slice(0, 3).map((c, i) => c * top[3] + under[i] * (1 - top[3])), 1];
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(rgba(getComputedStyle(e).backgroundColor));
    return layers.reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const wrong = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || parent.closest("script, title, desc, option, :disabled")) continue;
    if (!parent.getClientRects().length) continue;
    const style = getComputedStyle(parent);
    const back = behind(parent);
    const front = over(rgba(parent.closest("svg") ? style.fill : style.color), back);
    const [more, less] = [light(front), light(back)].sort((a, b) => b - a);
    const ratio = (more + 0.05) / (less + 0.05);
    seen += 1;
    if (ratio < 4.5) wrong.push(`${ratio.toFixed(2)} ${parent.outerHTML.slice(0, 80)}`);
  }
  return [seen, wrong];
}

// The basics that a screen reader, a keyboard or a finger needs.
function basics() {
  const wrong = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const check = (right, what, element) => right || wrong.push(`${what}: ${element ? element.outerHTML.slice(0, 80) : ""}`);
  check(all("h1").length === 1, "one h1");
  check(document.documentElement.lang && all("main").length === 1, "lang and main");
  let before = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6").filter((h) => h.getClientRects().length)) {
    check(Number(h.tagName[1]) <= before + 1, "level of a heading", h);
    before = Number(h.tagName[1]);
  }
  for (const e of all("input, select")) check(e.labels.length === 1, "label", e);
  for (const e of all("button, a")) check(e.ariaLabel || e.textContent.trim(), "name", e);
  for (const e of all("img")) check(e.hasAttribute("alt"), "alt", e);
  for (const e of all("[role=img], [role=region], [role=group]")) {
    check(e.ariaLabel || e.hasAttribute("aria-labelledby"), "name", e);
  }
  for (const key of ["aria-labelledby", "aria-describedby"]) {
    for (const e of all(`[${key}]`)) {
      for (const id of e.getAttribute(key).split(" ")) check(document.getElementById(id), `${key} of nothing`, e);
    }
  }
  for (const e of all("th")) check(["row", "col"].includes(e.scope), "scope", e);
  for (const e of all("table")) check(e.caption && e.tHead, "caption and head", e);
  const ids = all("[id]").map((e) => e.id);
  check(new Set(ids).size === ids.length, "an id twice");
  for (const e of all("button, select, input")) {
    const box = e.getBoundingClientRect();
    check(!box.width || (box.width >= 24 && box.height >= 24), "too small to hit", e);
  }
  return wrong;
}
