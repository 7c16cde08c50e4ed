"use strict";
// Choices, selections, downloads and copies in a report; without it the page can be read all the same.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const articles = [...document.querySelectorAll("article.answer")];
  const all = (root, what) => [...root.querySelectorAll(what)];
  const SIDE = 200, NARROWEST = 62;

  function element(kind, content, attributes = {}) {
    const made = document.createElement(kind);
    made.textContent = content;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function shape(kind, path) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
    made.setAttribute("class", kind);
    made.setAttribute("d", path);
    return made;
  }

  // --- files and copies ---

  function save(name, type, text) {
    const link = element("a", "", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).innerText.trim();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.body.appendChild(element("textarea", text));
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  const thinned = (one) => `${one.draws.length} of ${one.of} draws${one.weighted ? ", resampled to equal weight" : ""}, ` +
    `rounded; all of them are in draws.h5`;
  const quoted = (word) => (/[",\n]/.test(word) ? `"${word.replaceAll('"', '""')}"` : word);

  function csv(one) {
    const head = one.names.map((name, i) => quoted(one.units[i] ? `${name} [${one.units[i]}]` : name));
    return [head, ...one.draws].map((row) => row.join(",")).join("\n") + "\n";
  }

  function ecsv(one) {
    const columns = one.names.map((name, i) =>
      `# - {name: ${JSON.stringify(name)}, ${one.units[i] ? `unit: ${JSON.stringify(one.units[i])}, ` : ""}datatype: float64}`);
    const head = ["# %ECSV 1.0", "# ---", "# delimiter: ','", "# datatype:", ...columns,
      `# meta: {comments: [${JSON.stringify(thinned(one))}]}`, "# schema: astropy-2.0"];
    return [...head, ...[one.names.map(quoted), ...one.draws].map((row) => row.join(","))].join("\n") + "\n";
  }

  const FILES = {
    csv: (one) => one.draws && ["draws.csv", "text/csv", csv(one)],
    ecsv: (one) => one.draws && ["draws.ecsv", "text/plain", ecsv(one)],
    tex: (one, level) => one.latex.length && ["table.tex", "text/x-tex", one.latex[level]],
    bib: () => ["references.bib", "text/x-bibtex", data.bibtex],
  };

  // --- figures as files, always in the light colours ---

  const rules = () => [...document.styleSheets[0].cssRules];
  const style = () => `<style>${rules()[0].cssText}text{font-family:var(--sans);fill:var(--ink)}svg path{vector-effect:non-scaling-stroke}` +
    `${rules().filter((r) => /^\.(corner|chosen)/.test(r.selectorText || "")).map((r) => r.cssText.replaceAll(".corner ", "")).join("")}</style>`;
  const asText = (node) => new XMLSerializer().serializeToString(node);
  const wrapped = (width, height, inside) =>
    `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 ${width} ${height}" ` +
    `width="${width}" height="${height}">${style()}${inside}</svg>`;

  function drawingFile(figure) {
    const drawings = all(figure, ".drawing > svg");
    const svg = drawings[drawings.length - 1].cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    return wrapped(width, height, [...svg.childNodes].map(asText).join(""));
  }

  function cornerFile(corner) {
    const box = corner.getBoundingClientRect(), parts = [];
    for (const cell of all(corner, ".p:not([hidden])")) {
      const at = cell.getBoundingClientRect(), svg = cell.querySelector("svg").cloneNode(true);
      const place = { x: at.x - box.x, y: at.y - box.y, width: at.width, height: at.height };
      for (const [name, value] of Object.entries(place)) svg.setAttribute(name, value);
      for (const path of all(cell, "path")) if (getComputedStyle(path).display === "none") {
        const same = [...svg.querySelectorAll("path")].find((one) => one.getAttribute("d") === path.getAttribute("d") &&
          one.getAttribute("class") === path.getAttribute("class"));
        if (same) same.remove();
      }
      const frame = `<rect x="${place.x}" y="${place.y}" width="${place.width}" height="${place.height}" fill="none" stroke="var(--rule)"/>`;
      parts.push(asText(svg), frame);
    }
    const words = all(corner, ":is(.t,.x,.y):not([hidden]) :is(.name,.value,.unit,.tick,.label)");
    for (const word of words) {
      const at = word.getBoundingClientRect(), upright = word.matches(".y .label");
      if (!at.width) continue;
      const x = at.x - box.x + at.width / 2, y = at.y - box.y + at.height / 2, text = element("i", word.innerText.replace(/\s+/g, " "));
      parts.push(`<text x="${x}" y="${y}" font-size="${parseFloat(getComputedStyle(word).fontSize)}" text-anchor="middle" ` +
        `dominant-baseline="central"${upright ? ` transform="rotate(-90 ${x} ${y})"` : ""}>${text.innerHTML}</text>`);
    }
    return wrapped(Math.ceil(box.width), Math.ceil(box.height), parts.join(""));
  }

  function saveButton(after, name, make, words = "Save as SVG") {
    const button = element("button", words, { type: "button", class: "save" });
    button.addEventListener("click", () => save(`${name}.svg`, "image/svg+xml", make()));
    after.append(" ", button);
  }

  // --- the corner: which parameters, and which draws ---

  function layOut(corner, chosen) {
    const shown = chosen.length;
    corner.toggleAttribute("data-few", shown < 2);
    corner.style.gridTemplateColumns = `max-content repeat(${shown},minmax(0,1fr))`;
    corner.style.setProperty("--shown", shown);
    for (const cell of corner.children) {
      const kind = cell.classList[0], r = chosen.indexOf(Number(cell.dataset.r)), c = chosen.indexOf(Number(cell.dataset.c));
      const seen = kind === "x" ? c >= 0 : kind === "y" ? r > 0 : r >= 0 && c >= 0;
      cell.hidden = !seen;
      if (!seen) continue;
      const left = c < shown / 2;
      const column = kind === "t" ? (left ? `${c + 2}/-1` : `1/${c + 3}`) : kind === "y" ? 1 : c + 2;
      cell.style.gridRow = String(kind === "x" ? 2 * shown + 1 : kind === "t" ? 2 * r + 1 : 2 * r + 2);
      cell.style.gridColumn = String(column);
      cell.classList.toggle("end", kind === "t" && !left);
      cell.classList.toggle("first", kind === "t" && c === 0);
    }
  }

  function chips(article, corner) {
    const boxes = all(article, ".chips input");
    const room = () => Math.max(2, Math.floor((corner.parentElement.clientWidth - 60) / NARROWEST));
    function update() {
      if (!corner.parentElement.clientWidth) return; // another observation is shown
      const chosen = boxes.filter((one) => one.checked);
      chosen.slice(room()).forEach((one) => { one.checked = false; });
      const kept = chosen.slice(0, room());
      boxes.forEach((one) => { one.disabled = one.checked ? kept.length === 1 : kept.length >= room(); });
      layOut(corner, kept.map((one) => Number(one.value)));
    }
    if (corner.parentElement.clientWidth < 480) boxes.slice(3).forEach((one) => { one.checked = false; });
    boxes.forEach((one) => one.addEventListener("change", update));
    addEventListener("resize", update);
    if (boxes.length) update();
  }

  const clip = (value) => Math.min(Math.max(value, 0), 1);
  const pair = (cell) => [Number(cell.dataset.c), Number(cell.dataset.r)];
  const along = (value, [low, high]) => (value - low) / (high - low);

  function quantile(sorted, q) {
    return sorted[Math.min(Math.floor(q * sorted.length), sorted.length - 1)];
  }

  function overPrediction(article, one, rows) {
    all(article, ".chosen-band,.chosen-line").forEach((old) => old.remove());
    if (rows.length < 3 || !one.predicted) return;
    all(article, "figure[data-places]").forEach((figure, index) => {
      const places = JSON.parse(figure.dataset.places);
      all(figure, ".drawing > svg").forEach((svg, size) => (one.predicted[index] || []).forEach((part, panel) => {
        const [x, y, width, height, left, right, bottom, top, log, level, linear, room] = places[size][panel];
        const withZero = (v) => (v > linear ? room + Math.log10(v / linear) : room * v / linear);
        const scale = linear ? withZero : log ? Math.log : (v) => v, wide = level ? Math.log : (v) => v;
        const across = (v) => x + (width * (wide(v) - wide(left))) / (wide(right) - wide(left));
        const up = (v) => y + height * clip((scale(top) - scale(Math.max(v, log ? 1e-300 : -Infinity))) / (scale(top) - scale(bottom)));
        const ends = part.x.map((place, k) => {
          const values = rows.map((row) => part.rows[row][k]).filter((v) => v !== null).sort((a, b) => a - b);
          return values.length ? [across(place), ...[0.05, 0.5, 0.95].map((q) => up(quantile(values, q)))] : null;
        }).filter(Boolean);
        const line = (points) => points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L");
        const band = [...ends.map(([a, low]) => [a, low]), ...ends.map(([a, , , high]) => [a, high]).reverse()];
        svg.append(shape("chosen-band", `M${line(band)}Z`), shape("chosen-line", `M${line(ends.map(([a, , middle]) => [a, middle]))}`));
      }));
    });
  }

  function selection(article, corner, one) {
    const ranges = JSON.parse(corner.dataset.ranges);
    let cell = null, box = null;

    const inside = (row) => {
      const [c, r] = pair(cell), x = along(row[c], ranges[c]), y = along(row[r], ranges[r]);
      return x >= box[0] && x <= box[1] && (c === r || (y >= box[2] && y <= box[3]));
    };

    function show() {
      all(corner, ".brush,.chosen,.chosen-bars").forEach((old) => old.remove());
      const words = article.querySelector(".selected");
      const found = cell ? one.draws.filter(inside) : [];
      words.textContent = cell ? `${found.length} of ${one.draws.length} draws selected.` : "";
      overPrediction(article, one, cell && one.from ? one.from.flatMap((row, i) => (inside(row) ? [i] : [])) : []);
      if (!cell) return;
      const brush = cell.appendChild(element("div", "", { class: "brush" })), whole = cell.dataset.r === cell.dataset.c;
      const [left, right, bottom, top] = whole ? [box[0], box[1], 0, 1] : box;
      Object.assign(brush.style, { left: `${100 * left}%`, right: `${100 - 100 * right}%`, top: `${100 - 100 * top}%`, bottom: `${100 * bottom}%` });
      for (const panel of all(corner, ".p")) {
        const [c, r] = pair(panel), svg = panel.querySelector("svg");
        if (c === r) {
          const bins = new Array(25).fill(0);
          for (const row of found) { const at = along(row[c], ranges[c]); if (at >= 0 && at < 1) bins[Math.floor(25 * at)] += 1; }
          const most = Math.max(...bins, 1);
          svg.append(shape("chosen-bars", bins.map((n, i) => `M${8 * i} ${SIDE}v${-Math.round((90 * n) / most)}h8V${SIDE}Z`).join("")));
        } else {
          const dots = found.slice(0, 300).map((row) => [SIDE * along(row[c], ranges[c]), SIDE * (1 - along(row[r], ranges[r]))]);
          svg.append(shape("chosen", dots.map(([x, y]) => `M${x.toFixed(0)} ${y.toFixed(0)}h0`).join("")));
        }
      }
    }

    function begin(event) {
      if (event.button) return;
      const panel = event.currentTarget, frame = panel.getBoundingClientRect();
      const at = (e) => [clip((e.clientX - frame.left) / frame.width), clip(1 - (e.clientY - frame.top) / frame.height)];
      const [x, y] = at(event);
      let moved = false;
      const move = (e) => {
        const [a, b] = at(e);
        moved = moved || Math.abs(a - x) + Math.abs(b - y) > 0.04;
        if (!moved) return;
        [cell, box] = [panel, [Math.min(x, a), Math.max(x, a), Math.min(y, b), Math.max(y, b)]];
        show();
      };
      const end = () => {
        removeEventListener("pointermove", move);
        removeEventListener("pointerup", end);
        removeEventListener("pointercancel", end);
        if (!moved) { cell = null; show(); }
      };
      addEventListener("pointermove", move);
      addEventListener("pointerup", end);
      addEventListener("pointercancel", end);
    }

    function press(event) {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (event.key === "Escape") cell = null;
      else if (!step) return;
      else if (cell !== event.currentTarget) [cell, box] = [event.currentTarget, [0.35, 0.65, 0.35, 0.65]];
      else {
        const [dx, dy] = step.map((d) => 0.05 * d), near = event.shiftKey ? 0 : 1;
        box = [clip(box[0] + near * dx), clip(box[1] + dx), clip(box[2] + near * dy), clip(box[3] + dy)];
        if (box[1] <= box[0]) box[1] = clip(box[0] + 0.05);
        if (box[3] <= box[2]) box[3] = clip(box[2] + 0.05);
      }
      event.preventDefault();
      show();
    }

    for (const panel of all(corner, ".p")) {
      panel.tabIndex = 0;
      panel.addEventListener("pointerdown", begin);
      panel.addEventListener("keydown", press);
    }
  }

  // --- one answer after the other ---

  function observations() {
    const show = (chosen) => {
      articles.forEach((article, index) => { article.hidden = index !== chosen; });
      dispatchEvent(new Event("resize"));
    };
    all(document, "#answers tbody th").forEach((head, index) => {
      const label = element("label", ""), input = element("input", "", { type: "radio", name: "observation", value: index });
      input.checked = index === 0;
      input.addEventListener("change", () => show(index));
      label.append(input, element("span", head.textContent));
      head.replaceChildren(label);
      head.classList.add("choice");
    });
    show(0);
  }

  document.documentElement.classList.add("scripted");
  articles.forEach((article, index) => {
    const one = data.answers[index] || {}, corner = article.querySelector(".corner");
    for (const input of all(article, "input[name$=level]")) input.addEventListener("change", () => { article.dataset.level = input.value; });
    for (const button of all(article, "[data-file]")) {
      const made = () => FILES[button.dataset.file](one, Number(article.dataset.level));
      if (!("name" in one) || !made()) button.disabled = true;
      button.addEventListener("click", () => { const [name, type, text] = made(); save(`${one.name}_${name}`, type, text); });
    }
    const among = article.querySelector(".many > .caption");
    if (among) among.append(element("br", ""));
    all(article, ".prediction figure").forEach((figure, place) => {
      const named = among ? [`Save ${figure.querySelector("b").textContent.slice(0, -1)} as SVG`] : [];
      const file = `${one.name || data.simulator}_prediction${place || ""}`;
      saveButton(among || figure.querySelector("figcaption"), file, () => drawingFile(figure), ...named);
    });
    if (!corner) return;
    chips(article, corner);
    if (one.draws) selection(article, corner, one);
    saveButton(article.querySelector(".posterior .caption"), `${one.name}_posterior`, () => cornerFile(corner));
  });
  for (const button of all(document, "[data-copy]")) button.addEventListener("click", () => copy(button));
  if (articles.length > 1) observations();
})();
