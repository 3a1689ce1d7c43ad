
"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const make = (tag, kind, text) => { const e = document.createElement(tag); if (kind) e.className = kind; if (text !== undefined) e.textContent = text; return e; };

  // Tables: a heading becomes a button that sorts. Missing values stay last in both directions.
  const valueOf = (row, i) => { const v = row.cells[i].dataset.v; return v === undefined ? null : v !== "" && !isNaN(v) ? Number(v) : v; };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const sort = (table, heading, i) => {
    const down = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    all("th[aria-sort]", table).forEach(h => h.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const body = table.tBodies[table.tBodies.length - 1];
    const rows = [...body.rows].map(row => [valueOf(row, i), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : down * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((heading, i) => {
      const body = table.tBodies[table.tBodies.length - 1];
      if (!heading.textContent.trim() || body.rows.length < 2 || ![...body.rows].some(r => r.cells[i].dataset.v !== undefined)) return;
      const button = make("button", "", heading.textContent);
      button.type = "button";
      heading.replaceChildren(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, heading, i));
    });
  }
  // What scrolls can be reached with the keyboard; looked at when it comes into view, so that the page opens without measuring it all.
  const seen = new IntersectionObserver(entries => {
    for (const { target: box, isIntersecting } of entries) {
      if (isIntersecting && (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight + 1)) box.tabIndex = 0;
    }
  });
  all(".scroll").forEach(box => seen.observe(box));

  // Large matrices: say what the pointer is at.
  for (const heat of all("svg[data-matrix]")) {
    let matrix;
    heat.addEventListener("pointermove", event => {
      matrix ??= JSON.parse(document.getElementById(heat.dataset.matrix).textContent);
      const box = heat.getBoundingClientRect();
      const i = Math.floor((event.clientY - box.top) / box.height * matrix.rows.length), j = Math.floor((event.clientX - box.left) / box.width * matrix.columns.length);
      const value = matrix.values[i]?.[j];
      document.getElementById(heat.dataset.matrix + "-out").textContent = value === undefined ? "" : `${matrix.rows[i]} → ${matrix.columns[j]}: ${value === null ? "none" : (100 * value).toFixed(1) + "%"}`;
    });
  }

  // Samples: filters and pages. All text is set as text; the data is read when the section comes near.
  const list = document.getElementById("samples-list");
  if (list) {
    const form = document.getElementById("samples-form"), out = document.getElementById("samples-out"), size = 10;
    let data, matching, page = 0;
    const words = (value, code, secret) => {
      const text = make("p", value ? "text" : "text secret", value ? value[0] : "text of a sensitive source: not in this file");
      text.dir = "auto";
      text.lang = data.languages[code]?.[1] ?? "und";
      if (!value) return [text];
      const rest = value[1] ? [make("small", "", `${value[1]} more characters left out`)] : [];
      if (!secret) return [text, ...rest];
      const hidden = make("details", "hidden");
      hidden.append(make("summary", "", "sensitive text"), text);
      return [hidden, ...rest];
    };
    const answer = (given, k, asked, secret) => {
      const box = make("div", "answer");
      box.append(make("h3", "", data.models[k]));
      if (!given) { box.append(make("p", "fine", "no answer")); return box; }
      const [text, lang, scores] = given;
      box.append(...words(text, lang || asked, secret));
      if (lang && lang !== asked) box.append(make("p", "wrong", `⚠ in ${data.languages[lang][0]}`));
      const marks = make("p", "scores");
      scores.forEach((v, i) => { if (v !== null) { const s = make("span", "", data.scores[i] + " "); s.append(make("b", "", data.binary[i] ? (v ? "✓" : "✗") : String(v))); marks.append(s, " "); } });
      box.append(marks);
      return box;
    };
    const card = ([lang, asked, source, secret, prompt, , answers]) => {
      const box = make("article", "sample"), who = make("p", "who"), ask = make("div", "prompt"), grid = make("div", "answers");
      who.append(make("b", "", data.languages[lang][0]), " ", make("code", "", lang), ` · ${source}`);
      ask.append(...words(prompt, lang, secret));
      grid.append(...answers.map((a, k) => answer(a, k, asked, secret)));
      box.append(who, ask, grid);
      return box;
    };
    const show = () => {
      const last = Math.max(Math.ceil(matching.length / size) - 1, 0);
      page = Math.min(Math.max(page, 0), last);
      list.replaceChildren(...matching.slice(page * size, page * size + size).map(card));
      out.textContent = matching.length ? `${page * size + 1}–${Math.min((page + 1) * size, matching.length)} of ${matching.length.toLocaleString("en")}` : "none";
      form.elements.back.disabled = page === 0;
      form.elements.on.disabled = page === last;
    };
    const filter = () => {
      const { lang, show: which, score, find } = form.elements, needle = find.value.toLowerCase();
      const tests = {
        "": () => true,
        up: (a, b) => a && b && a[2][score.value] !== null && b[2][score.value] > a[2][score.value],
        down: (a, b) => a && b && b[2][score.value] !== null && b[2][score.value] < a[2][score.value],
        same: (a, b) => a && b && a[0] && b[0] && a[0][0] === b[0][0],
        lang: (a, b, asked) => b && b[1] && b[1] !== asked,
      };
      matching = data.rows.filter(([code, asked, , , prompt, , answers]) => (!lang.value || code === lang.value)
        && tests[which.value](answers[0], answers[answers.length - 1], asked)
        && (!needle || [prompt, ...answers.map(a => a && a[0])].some(t => t && t[0].toLowerCase().includes(needle))));
      page = 0;
      show();
    };
    const open = () => {
      if (data) return;
      data = JSON.parse(document.getElementById("samples-data").textContent);
      form.hidden = false;
      form.addEventListener("input", filter);
      form.addEventListener("submit", event => event.preventDefault());
      form.elements.back.addEventListener("click", () => { page--; show(); });
      form.elements.on.addEventListener("click", () => { page++; show(); });
      filter();
    };
    new IntersectionObserver((entries, self) => { if (entries.some(e => e.isIntersecting)) { self.disconnect(); open(); } }, { rootMargin: "600px" }).observe(list);
  }
})();
