// SPDX-License-Identifier: GPL-2.0-only
// Sorts, filters, and shows the details of a cell. Texts only ever become text nodes.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const text = (number) => data.texts[number];
  const MARKS = {
    F: ["fail", "✗", "fails", 7], L: ["lost", "?", "has no result", 6],
    E: ["error", "!", "is broken", 5], K: ["known", "~", "fails, known", 4],
    P: ["pass", "✓", "passes", 3], U: ["unsupported", "–", "is not supported", 2],
    ".": ["absent", "", "was not planned", 1],
  };
  const STYLES = {
    fail: "fail", error: "error", lost: "lost", pass: "pass",
    unsupported: "unsupported", warning: "error", infrastructure: "error",
  };

  /** An element with a class and children: elements, or text. */
  function make(tag, style, ...children) {
    const made = document.createElement(tag);
    if (style) made.className = style;
    made.append(...children.filter((child) => child !== "" && child !== null));
    return made;
  }

  /** The worst letter of a check over the families of a kernel. */
  function letter(kernel, check) {
    let worst = ".";
    for (const marks of Object.values(kernel.marks))
      if (MARKS[marks[check]][3] > MARKS[worst][3]) worst = marks[check];
    return worst;
  }

  // The panel.

  function pairs(rows) {
    const list = make("dl");
    for (const [label, value] of rows)
      if (value) list.append(make("dt", "", label), make("dd", "", make("code", "", value)));
    return list;
  }

  function bytes([type, offset, values], detail) {
    const [name, fields] = data.structs[type];
    const body = make("tbody");
    fields.forEach(([field, start, size], number) => {
      const value = number < values.length ? values[number] : "not filled";
      const row = make("tr", detail.split(/\W+/).includes(field) ? "hit" : "");
      row.append(make("td", "", `${offset + start}`), make("td", "", make("code", "", field)));
      row.append(make("td", "", `${size}`), make("td", "", make("code", "", value)));
      body.append(row);
    });
    const head = make("tr");
    for (const title of ["offset", "field", "bytes", "value"]) {
      const cell = make("th", "", title);
      cell.scope = "col";
      head.append(cell);
    }
    const part = make("details", "bytes", make("summary", "", `struct ${name}`));
    part.open = true;
    part.append(make("table", "fields", make("thead", "", head), body));
    return part;
  }

  function command(kernel, check) {
    const label = (pair) => pair[0] === "repeat";
    let words = text(kernel.about.find(label)[1]);
    const id = check === null ? "" : data.checks[check];
    if (/^\w[\w.]*$/.test(id) && !id.startsWith("capability.")) words += ` --check ${id}`;
    return make("p", "command", make("code", "", words));
  }

  function hexadecimal(raw) {
    return /^([0-9a-f]{2})+$/.test(raw) ? raw.replace(/(.{8})(?=.)/g, "$1 ") : raw;
  }

  function failure(kernel, [check, verdict, places, planned, known, variants]) {
    const badge = make("span", `badge ${text(known) ? "known" : STYLES[verdict]}`, verdict);
    const where = make("small", "", ` at ${places} of ${planned} place${planned === 1 ? "" : "s"}`);
    const part = make("div", "failure");
    part.append(make("h3", "", make("code", "", data.checks[check]), " ", badge, where));
    if (data.meanings[check]) part.append(make("p", "meaning", data.meanings[check]));
    if (text(known)) part.append(make("p", "known-why", text(known)));
    for (const [at, detail, expected, got, raw, structures] of variants) {
      part.append(pairs([
        ["at", text(at)], ["what", text(detail)], ["expected", text(expected)],
        ["got", text(got)], ["raw", hexadecimal(text(raw))],
      ]));
      part.append(...structures.map((one) => bytes(one, text(detail))));
    }
    part.append(command(kernel, check));
    return part;
  }

  function incident([kind, title, during, fingerprint, known, lines, marked]) {
    const badge = make("span", `badge ${text(known) ? "known" : "fail"}`, kind);
    const part = make("div", "failure", make("h3", "", badge, " ", make("code", "", text(title))));
    if (text(known)) part.append(make("p", "known-why", text(known)));
    part.append(pairs([["during", text(during)], ["fingerprint", text(fingerprint)]]));
    const console = make("pre");
    console.tabIndex = 0;
    console.setAttribute("role", "region");
    console.setAttribute("aria-label", "Console");
    lines.forEach((line, number) => {
      console.append(marked.includes(number) ? make("mark", "", line) : line, "\n");
    });
    part.append(console);
    return part;
  }

  /** The checks that did not fail, folded, by what became of them. */
  function others(kernel, checks) {
    const said = new Map();
    for (const [number, about] of kernel.details)
      for (const check of about) said.set(check, [...(said.get(check) || []), text(number)]);
    const parts = [];
    for (const mark of "LPU") {
      const found = checks.filter((check) => letter(kernel, check) === mark);
      if (!found.length) continue;
      const list = make("ul", "checks");
      for (const check of found) {
        const more = [data.meanings[check], ...(said.get(check) || [])].filter(Boolean);
        const line = make("li", "", make("code", "", data.checks[check]));
        for (const sentence of more) line.append(make("span", "", sentence));
        list.append(line);
      }
      const what = `${found.length} ${found.length === 1 ? "check" : "checks"}: ${MARKS[mark][0]}`;
      const part = make("details", "", make("summary", "", what), list);
      part.open = found.length <= 30;
      parts.push(part);
    }
    return parts;
  }

  /** All about a kernel, or about some of its checks. */
  function body(kernel, checks) {
    const whole = checks === null;
    const wanted = whole ? data.checks.map((_, number) => number) : checks;
    const names = wanted.map((check) => data.checks[check]);
    const during = (one) => names.some((name) => text(one[2]).includes(` ${name} `));
    const failures = kernel.failures.filter((one) => whole || wanted.includes(one[0]));
    const parts = [];
    if (whole && kernel.new.length) {
      const list = make("ul", "news", ...kernel.new.map((one) => make("li", "", text(one))));
      parts.push(make("h3", "", "Newly wrong"), list);
    }
    parts.push(...kernel.incidents.filter((one) => whole || during(one)).map(incident));
    parts.push(...failures.map((one) => failure(kernel, one)));
    if (whole && kernel.lost[0].length) {
      const [count, first] = kernel.lost[0];
      parts.push(make("p", "", `${count} results are missing, the first: ${text(first)}`));
    }
    if (whole && kernel.lost[1]) parts.push(make("p", "", `… and ${kernel.lost[1]} more failures`));
    parts.push(...others(kernel, wanted));
    const fixes = kernel.fixes.filter((fix) => whole || fix[3].some((one) => wanted.includes(one)));
    if (fixes.length) {
      const list = make("ul", "fixes");
      for (const [commit, version, title] of fixes) {
        const line = `(${text(version)}) ${text(title)}`;
        list.append(make("li", "", make("code", "", text(commit)), " ", line));
      }
      parts.push(make("h3", "", "Missing fixes"), list);
    }
    if (whole) parts.push(make("h3", "", "About"), pairs(kernel.about.map(([a, b]) => [a, text(b)])));
    else if (!failures.length) parts.push(command(kernel, wanted.length === 1 ? wanted[0] : null));
    return parts;
  }

  const panel = byId("panel");

  function show(number, checks, subject) {
    const kernel = data.kernels[number];
    const title = make("h2", "", text(kernel.name), subject ? `: ${subject}` : "");
    title.id = "panel-title";
    const close = make("button", "close", "Close");
    close.type = "button";
    close.addEventListener("click", () => panel.close());
    const badge = make("span", `badge ${STYLES[kernel.verdict] || "fail"}`, kernel.verdict);
    const why = make("p", "", badge, ` ${text(kernel.release)}. ${text(kernel.reason)}`);
    const head = make("div", "panel-head", make("div", "", title, why), close);
    panel.replaceChildren(head, make("div", "panel-body", ...body(kernel, checks)));
    panel.showModal();
    panel.scrollTop = 0;
    const place = `#${encodeURIComponent(text(kernel.name))}/${encodeURIComponent(subject)}`;
    history.replaceState(null, "", place);
  }

  panel.addEventListener("click", (event) => {
    if (event.target === panel) panel.close();
  });
  panel.addEventListener("close", () => history.replaceState(null, "", "#"));

  // The columns: what a cell opens.

  const capability = (name) => {
    const check = data.checks.indexOf(`capability.${name}`);
    return [name, check < 0 ? [] : [check]];
  };
  const columns = [...data.capabilities.map(capability), ...data.groups];
  let shown = columns;

  function open(row, index) {
    const number = Number(row.dataset.k);
    if (index < 2) show(number, null, "");
    else show(number, shown[index - 2][1], shown[index - 2][0]);
  }

  // The matrix.

  const matrix = byId("matrix");
  const overview = { head: matrix.tHead, rows: [...matrix.tBodies[0].rows] };
  const isRow = (row) => row.dataset.k !== undefined;

  function haystack(kernel) {
    const bad = kernel.failures.map((one) => data.checks[one[0]]);
    const titles = kernel.incidents.map((one) => text(one[1]));
    const own = [text(kernel.name), text(kernel.release), kernel.verdict, text(kernel.reason)];
    return [...own, ...bad, ...titles].join(" ").toLowerCase();
  }
  const haystacks = data.kernels.map(haystack);

  function filter() {
    const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = byId("verdict").value;
    let count = 0;
    for (const row of matrix.tBodies[0].rows) {
      if (!isRow(row)) continue;
      const kernel = data.kernels[row.dataset.k];
      const fits = { "": true, "!": !kernel.expected, new: kernel.new.length > 0 };
      const hay = haystacks[row.dataset.k];
      const ok = words.every((word) => hay.includes(word));
      row.hidden = !(ok && (fits[verdict] ?? kernel.verdict === verdict));
      count += row.hidden ? 0 : 1;
    }
    byId("count").textContent = `${count} of ${data.kernels.length} kernels`;
    roam();
  }

  /** One stop for the Tab key; the arrow keys move between cells. */
  function roam() {
    const links = [...matrix.tBodies[0].querySelectorAll("a")];
    for (const link of links) link.tabIndex = -1;
    const first = links.find((link) => !link.closest("tr").hidden);
    if (first) first.tabIndex = 0;
  }

  function sort(index, button) {
    const head = button.closest("th");
    const before = head.getAttribute("aria-sort");
    const down = before === null ? index > 0 : before === "ascending";
    for (const other of matrix.tHead.querySelectorAll("[aria-sort]"))
      other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const name = (row) => row.cells[0].textContent;
    const value = (row) => Number(row.cells[index]?.dataset.v ?? 0);
    const natural = (a, b) => name(a).localeCompare(name(b), "en", { numeric: true });
    const compare = index ? (a, b) => value(a) - value(b) : natural;
    const rows = [...matrix.tBodies[0].rows];
    rows.sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
    matrix.tBodies[0].append(...rows);
    roam();
  }

  function sortable(head) {
    [...head.rows].at(-1).querySelectorAll("th > span").forEach((label) => {
      const button = make("button", "", label.textContent);
      button.type = "button";
      const index = label.parentElement.cellIndex;
      button.addEventListener("click", () => sort(index, button));
      label.replaceWith(button);
    });
  }

  /** The single checks of a group as columns, or all groups. */
  function drill() {
    const choice = byId("group").value;
    const group = choice === "" ? null : data.groups[choice];
    shown = group === null ? columns : group[1].map((check) => [data.checks[check], [check]]);
    const body = make("tbody");
    if (group === null) {
      matrix.tHead.replaceWith(overview.head);
      body.append(...overview.rows);
    } else {
      matrix.tHead.replaceWith(heads(group));
      body.append(...overview.rows.filter(isRow).map((row) => drilled(row, group[1])));
      sortable(matrix.tHead);
    }
    matrix.tBodies[0].replaceWith(body);
    filter();
  }

  function heads(group) {
    const row = make("tr", "heads");
    const add = (style, label) => {
      const cell = make("th", style, make("span", "", label));
      cell.scope = "col";
      cell.title = label;
      row.append(cell);
    };
    add("name", "kernel");
    add("verdict", "verdict");
    const names = group[1].map((check) => data.checks[check]);
    const start = names[0].slice(0, names[0].indexOf(".") + 1);
    const same = names.every((name) => name.startsWith(start));
    for (const name of names) add("up", same ? name.slice(start.length) : name);
    return make("thead", "", row);
  }

  function drilled(row, checks) {
    const copy = make("tr");
    copy.dataset.k = row.dataset.k;
    copy.append(row.cells[0].cloneNode(true), row.cells[1].cloneNode(true));
    for (const check of checks) {
      const [style, symbol, word, rank] = MARKS[letter(data.kernels[row.dataset.k], check)];
      const cell = make("td", style);
      cell.dataset.v = rank;
      if (symbol) {
        const link = make("a", "", symbol);
        link.href = `#k${row.dataset.k}`;
        link.setAttribute("aria-label", word);
        cell.append(link);
      }
      copy.append(cell);
    }
    return copy;
  }

  matrix.addEventListener("click", (event) => {
    const link = event.target.closest("tbody a");
    if (!link) return;
    event.preventDefault();
    roam();
    link.tabIndex = 0;
    open(link.closest("tr"), link.closest("td, th").cellIndex);
  });

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  matrix.addEventListener("keydown", (event) => {
    const link = event.target.closest("tbody a");
    if (!link || !STEPS[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const [down, right] = STEPS[event.key];
    const rows = [...matrix.tBodies[0].rows].filter((row) => !row.hidden && isRow(row));
    let y = rows.indexOf(link.closest("tr")) + down;
    let x = link.closest("td, th").cellIndex + right;
    while (rows[y] && rows[y].cells[x]) {
      const next = rows[y].cells[x].querySelector("a");
      if (next) {
        roam();
        next.tabIndex = 0;
        next.focus();
        next.scrollIntoView({ block: "nearest", inline: "nearest" });
        return;
      }
      if (right === 0) y += down;
      x += right;
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || panel.open || /input|select/i.test(event.target.tagName)) return;
    event.preventDefault();
    byId("text").focus();
  });

  /** `#KERNEL/GROUP`, as a link in a mail says it. */
  function follow() {
    const [name, subject] = location.hash.slice(1).split("/").map((part) => {
      try { return decodeURIComponent(part); } catch { return part; }
    });
    if (subject === undefined) return;
    const number = data.kernels.findIndex((kernel) => text(kernel.name) === name);
    const column = columns.find((one) => one[0] === subject);
    const check = data.checks.indexOf(subject);
    if (number < 0) return;
    if (column) show(number, column[1], subject);
    else show(number, check < 0 ? null : [check], check < 0 ? "" : subject);
  }

  sortable(matrix.tHead);
  byId("tools").hidden = false;
  for (const id of ["text", "verdict"]) byId(id).addEventListener("input", filter);
  byId("group").addEventListener("input", drill);
  filter();
  follow();
  addEventListener("hashchange", follow);
})();
