// Looks at pages of different widths for what a reader would stumble over, and uses them as one would.
const visible = (node) => { const r = node.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
const all = (root, what) => [...root.querySelectorAll(what)];
const named = (node) => `${node.tagName.toLowerCase()}.${node.getAttribute("class") || ""} ${JSON.stringify((node.textContent || "").trim().slice(0, 40))}`;
const inked = (node) => { const range = node.ownerDocument.createRange(); range.selectNodeContents(node); return [...range.getClientRects()]; };
const touching = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1.5;
const overlap = (some, others) => some.some((a) => others.some((b) => touching(a, b)));

function tooWide(doc, width) {
  const found = doc.documentElement.scrollWidth > width ? [`the page is ${doc.documentElement.scrollWidth} wide`] : [];
  for (const node of all(doc.body, "*")) {
    const r = node.getBoundingClientRect();
    const within = node.closest("svg") && node.tagName !== "svg" && node.tagName !== "text";
    if (visible(node) && !within && !node.closest("details .scroll") && (r.right > width + 1 || r.left < -1)) found.push(named(node));
  }
  return found;
}

function tooSmall(doc, view) {
  const found = [], walker = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || parent.closest("script,style") || !visible(parent)) continue;
    const svg = parent.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / Number(svg.getAttribute("viewBox").split(" ")[2]) : 1;
    const size = parseFloat(view.getComputedStyle(parent).fontSize) * scale;
    if (size < 11) found.push(`${size.toFixed(1)} px: ${named(parent)}`);
  }
  return found;
}

function cut(doc) {
  const found = [];
  for (const text of all(doc, "figure svg text").filter(visible)) {
    const r = text.getBoundingClientRect(), box = text.closest("svg").getBoundingClientRect();
    if (r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1) 
      found.push(`${named(text)} ${[r.left - box.left, box.right - r.right, r.top - box.top, box.bottom - r.bottom].map(Math.round)}`);
  }
  for (const corner of all(doc, ".corner").filter(visible)) {
    const words = all(corner, ".t > *, .tick, .label").filter(visible), panels = all(corner, ".p").filter(visible);
    const legend = all(corner.parentElement, ".legend > p");
    words.forEach((word, i) => {
      const r = inked(word), others = [...words.slice(i + 1), ...legend].map((other) => [other, inked(other)]);
      for (const [other, box] of [...others, ...panels.map((panel) => [panel, [panel.getBoundingClientRect()]])]) if (overlap(r, box))
        found.push(`${named(word)} lies over ${named(other)}`);
    });
    for (const panel of panels) for (const part of legend)
      if (overlap([panel.getBoundingClientRect()], inked(part))) found.push("the legend lies over a panel");
  }
  return found;
}

function used(doc, view) {
  const files = {};
  let made = "";
  view.Blob = class { constructor(parts) { made = parts.join(""); } };
  view.URL.createObjectURL = () => "blob:none";
  view.HTMLAnchorElement.prototype.click = function () { files[this.download] = made; };
  const press = (node, key, shiftKey = false) => node.dispatchEvent(new view.KeyboardEvent("keydown", { key, shiftKey, bubbles: true }));
  const numbers = () => all(doc, ".numbers .value").filter(visible).map((node) => node.textContent);
  const found = { levels: {} }, article = doc.querySelector("article.answer");
  for (const input of all(article, "input[name$=level]")) { input.click(); found.levels[input.nextSibling.textContent] = numbers(); }
  const shown = () => all(article, ".corner .p").filter(visible).length;
  found.panels = [shown()];
  const chips = all(article, ".chips input");
  if (chips.length) { chips[0].click(); found.panels.push(shown()); chips[0].click(); }
  const other = doc.querySelectorAll("article.answer")[1];
  if (other) for (const chip of all(other, ".chips input")) chip.checked = true;
  view.dispatchEvent(new view.Event("resize"));
  if (other) found.hidden = [visible(other.querySelector(".numbers")), all(other, ".chips input").filter((one) => one.checked).length];
  const panel = all(article, ".corner .p").find((node) => visible(node) && node.dataset.r !== node.dataset.c);
  if (panel) {
    panel.focus();
    found.focused = doc.activeElement === panel;
    press(panel, "ArrowRight");
    for (let i = 0; i < 8; i += 1) { press(panel, "ArrowRight", true); press(panel, "ArrowUp", true); }
    for (let i = 0; i < 8; i += 1) { press(panel, "ArrowLeft"); press(panel, "ArrowDown"); }
    found.selected = article.querySelector(".selected").textContent;
    found.bands = all(article, ".chosen-band").length;
    found.lines = all(article, ".chosen-line").map((line) => line.getAttribute("d"));
    found.dots = all(article, ".corner .chosen").length;
    press(panel, "Escape");
    found.after = article.querySelector(".selected").textContent + all(article, ".chosen-band,.brush").length;
  }
  for (const button of all(article, "[data-file], .save")) button.click();
  found.files = files;
  return found;
}

async function inspected(page, width) {
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  await new Promise((resolve) => { frame.onload = resolve; frame.srcdoc = page; });
  const doc = frame.contentDocument, view = frame.contentWindow, found = {};
  await new Promise((resolve) => { setTimeout(resolve, 50); });
  found.scripted = doc.documentElement.classList.contains("scripted");
  found.height = doc.documentElement.scrollHeight;
  found.wide = tooWide(doc, width);
  found.cut = cut(doc);
  for (const one of all(doc, "details")) one.open = true;
  found.small = tooSmall(doc, view);
  found.wide.push(...tooWide(doc, width));
  found.cut.push(...cut(doc));
  for (const chip of all(doc, ".chips input")) if (!chip.disabled && !chip.checked) chip.click();
  found.cut.push(...cut(doc));
  found.small.push(...tooSmall(doc, view));
  all(doc, ".chips input").filter((chip) => chip.checked).slice(3).reverse().forEach((chip) => chip.click());
  found.used = await used(doc, view);
  doc.documentElement.classList.remove("scripted");
  for (const article of all(doc, "article.answer")) article.hidden = false;
  const top = (node) => node.getBoundingClientRect().top;
  const order = all(doc, "article.answer").flatMap((article) => [article, ...all(article, ":scope > .verdict, .prediction")]).map(top);
  found.plain = order.every((one, i) => i === 0 || one >= order[i - 1] - 1);
  frame.remove();
  return found;
}

(async () => {
  const found = {};
  for (const [name, page] of Object.entries(PAGES)) for (const width of WIDTHS) found[`${name} ${width}`] = await inspected(page, width);
  document.getElementById("found").textContent = JSON.stringify(found);
})().catch((error) => { document.getElementById("found").textContent = JSON.stringify({ error: String(error.stack) }); });
