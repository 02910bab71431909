"use strict";
// The server filters, sorts and pages; this page asks, shows texts as texts, and sends marks.

const at = (id) => document.getElementById(id);
const token = location.hash.slice(1);
const LONG = ["query", "passage", "text", "reply", "detail"]; // shown first, as paragraphs
const OPTIONS = { mark: ["good", "bad", "none"], bool: ["true", "false", "none"] };
let parts = [], part, table, open; // `open`: the row that is shown

async function ask(question, body = {}) {
  const headers = { "X-Synth-Token": token, "Content-Type": "application/json" };
  let reply;
  try {
    reply = await fetch(question, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error("The server does not answer: is synth view still running?");
  }
  if (reply.status === 401) throw new Error(await reply.text());
  const found = await reply.json();
  if (found.error) throw new Error(found.error);
  return found;
}

function say(text) {
  at("status").textContent = text;
}

function node(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function written(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return String(Math.round(value * 1e4) / 1e4);
  return value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
}

function column({ name, kind }, n) {
  const select = OPTIONS[kind];
  return {
    field: `c${n}`,
    title: name,
    titleFormatter: () => node("span", name),
    formatter: (cell) => node("span", written(cell.getValue()), kind === "mark" ? `is-${cell.getValue()}` : ""),
    headerFilter: select ? "list" : "input",
    headerFilterParams: select ? { values: select, clearable: true } : {},
    headerFilterPlaceholder: kind === "number" ? ">0.7" : "",
    headerFilterLiveFilter: true,
    hozAlign: kind === "number" ? "right" : "left",
    width: LONG.includes(name) ? 320 : undefined,
    minWidth: 90,
    maxInitialWidth: 240,
  };
}

function showPart(name) {
  part = parts.find((each) => each.name === name) || parts[0];
  close();
  if (table) table.destroy();
  table = new Tabulator("#table", {
    columns: part.columns.map(column),
    index: "row",
    height: "100%",
    nestedFieldSeparator: false,
    layout: "fitData",
    placeholder: "no such rows",
    pagination: true,
    paginationMode: "remote",
    paginationSize: 50,
    paginationCounter: "rows",
    filterMode: "remote",
    sortMode: "remote",
    headerSortTristate: true,
    ajaxURL: "rows",
    ajaxRequestFunc: rows,
    columnDefaults: { headerTooltip: true },
  });
  table.on("rowClick", (_, row) => show(row.getData().row));
  table.on("dataProcessed", highlight);
}

async function rows(_, __, { page, size, sort = [], filter = [] }) {
  const name = (field) => part.columns[Number(field.slice(1))].name;
  const asked = {
    part: part.name,
    page,
    size,
    search: at("search").value,
    filters: filter.map((each) => [name(each.field), each.value]),
    sort: sort.length ? [name(sort[0].field), sort[0].dir === "desc"] : null,
  };
  try {
    const found = await ask("rows", asked);
    say("");
    return { data: found.rows, last_page: Math.max(1, Math.ceil(found.total / size)), last_row: found.total };
  } catch (problem) {
    say(problem.message);
    return { data: [], last_page: 1, last_row: 0 };
  }
}

function highlight() {
  for (const row of table.getRows()) row.getElement().classList.toggle("is-open", open?.number === row.getData().row);
}

async function show(number) {
  try {
    const found = await ask("row", { part: part.name, row: number });
    open = { number, ...found };
  } catch (problem) {
    return say(problem.message);
  }
  at("detail").hidden = false;
  document.body.classList.add("reading");
  at("title").textContent = written(open.row.id);
  at("mark").hidden = !open.item;
  showMark();
  at("content").replaceChildren(...content(open.row, open.passage));
  at("detail").scrollTop = 0;
  highlight();
}

function content(row, passage) {
  const texts = [], facts = node("dl");
  for (const [name, value] of Object.entries({ ...row, ...passage })) {
    if (name === "attempts" && Array.isArray(value)) continue;
    if (value === null || value === "" || name.startsWith("my ")) continue;
    if (LONG.includes(name)) texts.push([LONG.indexOf(name), node("h2", name), node("p", written(value), "text")]);
    else facts.append(node("dt", name), node("dd", typeof value === "object" ? JSON.stringify(value, null, 1) : written(value)));
  }
  texts.sort((a, b) => a[0] - b[0]);
  return [...texts.flatMap((each) => each.slice(1)), ...attempts(row), node("h2", "columns"), facts];
}

function attempts({ attempts: found }) {
  if (!Array.isArray(found)) return [];
  const blocks = found.map((each, n) => {
    const block = node("div", "", "attempt");
    const title = `attempt ${n + 1}, ${each.stage}: ${each.reason || "accepted"}`;
    block.append(node("h3", title), node("pre", each.reply || "(no text was kept)"));
    return block;
  });
  const button = node("button", "show the prompts");
  button.id = "prompts";
  button.onclick = () => prompts(button, blocks);
  return [node("h2", "attempts"), ...(found.length ? [button] : [node("p", "no model was asked")]), ...blocks];
}

async function prompts(button, blocks) {
  button.disabled = true;
  button.textContent = "rendering the prompts …";
  try {
    const { prompts: found } = await ask("prompts", { part: part.name, row: open.number });
    found.forEach((messages, n) => {
      const prompt = node("details");
      prompt.append(node("summary", "prompt"));
      for (const [role, text] of messages) prompt.append(node("h4", role), node("pre", text));
      prompt.open = n === found.length - 1;
      blocks[n].querySelector("h3").after(prompt);
    });
    if (found.length === blocks.length) button.remove();
    else button.textContent = "later prompts need replies that were not kept";
  } catch (problem) {
    button.textContent = problem.message;
  }
}

function showMark() {
  for (const button of document.querySelectorAll("[data-mark]"))
    button.setAttribute("aria-pressed", String(button.dataset.mark === open.row["my mark"]));
  at("comment").value = open.row["my comment"] || "";
}

async function mark(value) {
  if (!open?.item) return;
  const { row, number } = open, comment = at("comment").value.trim();
  try {
    const { marks } = await ask("mark", { id: row.id, mark: value, comment });
    count(marks);
  } catch (problem) {
    return say(problem.message);
  }
  row["my mark"] = value;
  row["my comment"] = comment;
  if (open.number === number) showMark();
  const field = (name) => `c${part.columns.findIndex((each) => each.name === name)}`;
  await table.updateData([{ row: number, [field("my mark")]: value, [field("my comment")]: comment }]).catch(() => {});
}

function count({ good, bad }) {
  at("marks").textContent = good || bad ? `${good} good, ${bad} bad` : "";
}

function close() {
  open = undefined;
  at("detail").hidden = true;
  document.body.classList.remove("reading");
  if (table) highlight();
}

function step(by) {
  const shown = table.getRows(), place = shown.findIndex((row) => row.getData().row === open?.number) + by;
  if (shown[place]) {
    show(shown[place].getData().row);
    shown[place].scrollTo("nearest", false).catch(() => {});
  }
}

const KEYS = { n: () => step(1), p: () => step(-1), g: () => mark("good"), b: () => mark("bad"), Escape: close };

addEventListener("keydown", (event) => {
  if (!open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea") && event.key !== "Escape") return;
  KEYS[event.key]?.();
});
at("close").onclick = close;
at("next").onclick = () => step(1);
at("previous").onclick = () => step(-1);
at("mark").onsubmit = (event) => {
  event.preventDefault();
  mark(open.row["my mark"] || null);
};
for (const button of document.querySelectorAll("[data-mark]"))
  button.onclick = () => mark(open.row["my mark"] === button.dataset.mark ? null : button.dataset.mark);
at("part").onchange = () => showPart(at("part").value);
let waiting;
at("search").oninput = () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => table.setPage(1), 300);
};

ask("about").then((found) => {
  ({ parts } = found);
  document.title = `${found.run} – synth view`;
  at("run").textContent = found.run;
  count(found.marks);
  for (const each of parts) {
    const option = node("option", `${each.name} (${each.rows.toLocaleString("en")})`);
    option.value = each.name;
    at("part").append(option);
  }
  showPart();
}, (problem) => say(problem.message));
