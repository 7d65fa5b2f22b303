"use strict";
// Draws the curves and the browser of trajectories. All text goes in as text nodes, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const byId = (id) => document.getElementById(id);
  const [REFERENCE, OTHER] = data.methods;
  const SVG = "http://www.w3.org/2000/svg";

  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function draw(tag, attributes, parent) {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (parent) parent.append(element);
    return element;
  }

  const signed = (value) => {
    const text = Math.abs(value).toFixed(2);
    if (text === "0.00") return "0.00";
    return (value < 0 ? "−" : "+") + text;
  };

  // ---- Curves ---------------------------------------------------------------------------------

  const WIDTH = 360, HEIGHT = 200, LEFT = 42, RIGHT = 10, TOP = 8, BOTTOM = 34;

  function niceTicks(low, high, wanted) {
    const rough = (high - low || 1) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
    return ticks;
  }

  const decimals = (ticks) => Math.max(...ticks.map((tick) => (String(Number(tick.toPrecision(6))).split(".")[1] || "").length));
  const known = (value) => value !== null && Number.isFinite(value);

  function extent(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (known(value)) { low = Math.min(low, value); high = Math.max(high, value); }
    return low <= high ? [low, high] : [0, 1];
  }

  function linePath(xs, ys, x, y) {
    let path = "", pen = "M";
    ys.forEach((value, i) => {
      if (!known(value)) { pen = "M"; return; }
      path += `${pen}${x(xs[i]).toFixed(1)},${y(value).toFixed(1)}`;
      pen = "L";
    });
    return path;
  }

  function makePanel(panel) {
    const values = panel.curves.flatMap((c) => [...c.mean, ...(c.low || []), ...(c.high || []), ...Object.values(c.by_seed).flat()]);
    let [low, high] = extent(values);
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    low = low >= 0 ? Math.max(0, low - pad) : low - pad;
    high += pad;
    const [first, last] = extent(panel.curves.flatMap((c) => c.updates));
    const x = (u) => LEFT + ((u - first) / (last - first || 1)) * (WIDTH - LEFT - RIGHT);
    const y = (v) => TOP + ((high - v) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
    const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0", "aria-label": describe(panel) });
    const ticks = niceTicks(low, high, 4);
    for (const tick of ticks) {
      draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }, svg);
      draw("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, svg).textContent = tick.toFixed(decimals(ticks));
    }
    const places = niceTicks(first, last, 5).filter((tick) => panel.axis !== "update" || Number.isInteger(tick));
    for (const tick of places) {
      draw("text", { x: x(tick), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" }, svg).textContent = tick.toFixed(decimals(places));
    }
    draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, svg).textContent = panel.axis;
    for (const curve of panel.curves) drawCurve(svg, curve, x, y);
    const readout = make("div", "readout");
    readout.setAttribute("aria-live", "polite");
    addCursor(svg, panel, x, readout, [first, last]);
    const caption = make("figcaption", "", panel.title, make("small", "", panel.unit));
    return make("figure", "panel", caption, svg, readout);
  }

  function drawCurve(svg, curve, x, y) {
    const colour = data.colours[curve.arm];
    if (curve.low) {
      const back = [...curve.updates].reverse(), low = [...curve.low].reverse();
      const path = linePath(curve.updates, curve.high, x, y) + linePath(back, low, x, y).replace("M", "L") + "Z";
      draw("path", { d: path, fill: colour, "fill-opacity": 0.15, stroke: "none" }, svg);
    }
    for (const line of Object.values(curve.by_seed)) {
      draw("path", { d: linePath(curve.updates, line, x, y), fill: "none", stroke: colour, "stroke-width": 1, "stroke-opacity": 0.4 }, svg);
    }
    draw("path", { d: linePath(curve.updates, curve.mean, x, y), fill: "none", stroke: colour, "stroke-width": 2.4, "stroke-linejoin": "round" }, svg);
  }

  function describe(panel) {
    const ends = panel.curves.map((curve) => {
      const values = curve.mean.filter(known);
      return values.length ? `${curve.arm} from ${values[0].toFixed(3)} to ${values[values.length - 1].toFixed(3)}` : curve.arm;
    });
    return `${panel.title}, ${panel.unit}, over ${panel.axis}: ${ends.join("; ")}.`;
  }

  function addCursor(svg, panel, x, readout, [first, last]) {
    const line = draw("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, svg);
    const updates = [...new Set(panel.curves.flatMap((c) => c.updates))].sort((a, b) => a - b);
    let index = updates.length - 1;
    const show = (i) => {
      index = Math.max(0, Math.min(updates.length - 1, i));
      const update = updates[index];
      line.setAttribute("x1", x(update));
      line.setAttribute("x2", x(update));
      line.setAttribute("visibility", "visible");
      const parts = panel.curves.map((curve) => {
        const value = curve.mean[curve.updates.indexOf(update)];
        return `${curve.arm} ${known(value) ? value.toFixed(3) : "–"}`;
      });
      readout.textContent = `${panel.axis} ${update}: ${parts.join(" · ")}`;
    };
    const hide = () => { line.setAttribute("visibility", "hidden"); readout.textContent = ""; };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const at = ((event.clientX - box.left) / box.width) * WIDTH;
      const update = first + ((at - LEFT) / (WIDTH - LEFT - RIGHT)) * (last - first);
      let best = 0;
      updates.forEach((u, i) => { if (Math.abs(u - update) < Math.abs(updates[best] - update)) best = i; });
      show(best);
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("focus", () => show(index));
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); show(index + step); }
    });
  }

  for (const [arm, colour] of Object.entries(data.colours)) {
    const swatch = make("i");
    swatch.style.background = colour;
    byId("legend").append(make("li", "", swatch, arm));
  }
  byId("panels").append(...data.panels.map(makePanel));

  // ---- Browser of trajectories ----------------------------------------------------------------

  function tint(element, advantage) {
    const strength = 0.7 * Math.min(1, Math.abs(advantage) / data.fullColour) ** 0.7;
    const colour = advantage < 0 ? "--minus" : "--plus";
    element.style.backgroundColor = Math.abs(advantage) < 0.005 ? "transparent" : `rgba(var(${colour}), ${strength.toFixed(3)})`;
    return element;
  }

  for (let i = -6; i <= 6; i++) byId("ramp").append(tint(make("i"), (i / 6) * data.fullColour));

  // True advantages are differences of returns, those of estimators mostly multiples of a deviation.
  const TRUTH_SCALE = 3;

  const VERDICTS = {
    spared: ["spared", `punished by ${REFERENCE}, spared by ${OTHER}`],
    eased: ["spared", `punished by ${REFERENCE}, eased by ${OTHER}`],
    punished: ["punished", "punished by both"],
  };
  const isSilver = (turn) => turn.silver !== null && turn.silver > 1e-6;
  const isCorrect = (turn) => turn.is_gold_hit || isSilver(turn);
  const badge = (kind, text) => make("span", `badge ${kind}`, text);

  function advantageCell(name, value) {
    const cell = make("div", "advantage", make("small", "", name), make("strong", "", signed(value)));
    cell.dataset.method = name;
    cell.setAttribute("aria-label", `advantage under ${name}: ${signed(value)}`);
    cell.setAttribute("role", "group");
    return tint(cell, value);
  }

  function truthCell(turn) {
    const cell = advantageCell("Truth", turn.truth);
    cell.append(make("small", "", `± ${turn.truth_error.toFixed(2)}`));
    return tint(cell, turn.truth * TRUTH_SCALE);
  }

  function field(name, text) {
    return make("p", `field ${name}`, make("span", "name", name), make("span", "text", text));
  }

  function passageItem([number, isGold, isSilverPassage]) {
    const [id, title, text] = data.passages[number];
    const head = make("div", "head", make("span", "title", title || id), title ? make("span", "id", id) : null,
      isGold ? badge("gold", "gold") : null, isSilverPassage ? badge("silver", "silver") : null);
    const body = make("div", "text", text === null ? "(cut off: the policy did not see it)" : text);
    return make("li", `passage${isGold ? " gold" : ""}`, head, body);
  }

  // Calls of environments of pages whose passages were read, not only shown.
  const READ = { open: "opened", find: "found in" };

  function turnItem(turn, index) {
    const badges = make("div", "badges", make("span", "kind", `Turn ${index + 1} · ${turn.kind}`));
    const step = turn.kind in READ ? turn.kind : "search";
    if (turn.is_gold_hit) badges.append(badge("gold", `correct ${step}: new gold passage`));
    if (isSilver(turn)) badges.append(badge("silver", `correct ${step}: silver ${turn.silver.toFixed(2)}`));
    if (turn.verdict) badges.append(badge(...VERDICTS[turn.verdict]));
    const content = make("div", "content", badges);
    if (turn.think) content.append(field("think", turn.think));
    const name = { search: "query", answer: "answer", open: "calls", find: "calls" }[turn.kind] || "text";
    content.append(field(name, turn.body || "(empty)"));
    if (turn.passages.length) {
      const gold = turn.passages.filter((passage) => passage[1]).length;
      const noun = READ[turn.kind] || "passages";
      const summary = make("summary", "", `${turn.passages.length} ${noun}${gold ? `, ${gold} gold` : ""}`);
      const details = make("details", "", summary, make("ol", "passages", ...turn.passages.map(passageItem)));
      details.open = true;
      content.append(details);
    }
    if (turn.observation) content.append(field("observation", turn.observation));
    const cells = [advantageCell(REFERENCE, turn.reference), advantageCell(OTHER, turn.other)];
    if (turn.truth !== null) cells.unshift(truthCell(turn));
    return make("li", `turn${turn.truth === null ? "" : " measured"}`, ...cells, content);
  }

  function lastAnswer(trajectory) {
    const turn = trajectory.turns[trajectory.turns.length - 1];
    if (turn.kind === "answer") return `answer: ${turn.body || "(empty)"}`;
    return trajectory.stop_reason ? `no answer (${trajectory.stop_reason})` : "no answer";
  }

  function trajectoryCard(trajectory, index) {
    const verdicts = trajectory.turns.map((turn) => turn.verdict).filter(Boolean);
    const facts = [`reward ${trajectory.reward.toFixed(2)}`];
    if (trajectory.f1 !== null) facts.push(`F1 ${trajectory.f1.toFixed(2)}`);
    if (trajectory.is_format_valid === false) facts.push("invalid format");
    const summary = make("summary", "", make("b", "", `Trajectory ${index + 1}`), make("span", "", facts.join(" · ")),
      make("span", "soft", lastAnswer(trajectory)),
      verdicts.length ? badge("punished", `${verdicts.length} mis-penalised`) : null);
    const card = make("details", "trajectory", summary, make("ol", "turns", ...trajectory.turns.map(turnItem)));
    card.id = `trajectory-${index + 1}`;
    return card;
  }

  function pairCell(turn) {
    const isMeasured = turn.truth !== null;
    const pair = make("span", `pair${isCorrect(turn) ? " correct" : ""}${isMeasured ? " measured" : ""}`,
      isMeasured ? tint(make("span", "", signed(turn.truth)), turn.truth * TRUTH_SCALE) : null,
      tint(make("span", "", signed(turn.reference)), turn.reference), tint(make("span", "", signed(turn.other)), turn.other));
    const note = isCorrect(turn) ? ", correct search" : "";
    pair.setAttribute("role", "img");
    pair.setAttribute("aria-label", `${turn.kind}${note}: ${isMeasured ? `truth ${signed(turn.truth)}, ` : ""}${REFERENCE} ${signed(turn.reference)}, ${OTHER} ${signed(turn.other)}`);
    return make("td", "", pair);
  }

  function overview(group, cards) {
    const width = Math.max(...group.trajectories.map((trajectory) => trajectory.turns.length));
    const head = make("tr", "", make("th", "", "Trajectory"), make("th", "", "Reward"));
    for (let i = 1; i <= width; i++) head.append(make("th", "", `Turn ${i}`));
    for (const cell of head.children) cell.scope = "col";
    const rows = group.trajectories.map((trajectory, index) => {
      const button = make("button", "link", `Trajectory ${index + 1}`);
      button.type = "button";
      button.addEventListener("click", () => {
        cards[index].open = true;
        cards[index].scrollIntoView({ block: "start" });
        cards[index].querySelector("summary").focus({ preventScroll: true });
      });
      const name = make("th", "", button);
      name.scope = "row";
      return make("tr", "", name, make("td", "", trajectory.reward.toFixed(2)), ...trajectory.turns.map(pairCell));
    });
    const table = make("table", "", make("thead", "", head), make("tbody", "", ...rows));
    const region = make("div", "scroll", table);
    region.tabIndex = 0;
    region.setAttribute("role", "region");
    region.setAttribute("aria-label", "Advantages of every turn of the group");
    const isMeasured = group.trajectories[0].turns[0].truth !== null;
    const order = isMeasured ? `truth, ${REFERENCE}, ${OTHER}` : `${REFERENCE} left, ${OTHER} right`;
    const note = make("p", "hint", `Advantage of each turn: ${order}. Ringed: correct search.`);
    return make("div", "overview", note, region);
  }

  function showGroup(group) {
    const viewer = byId("viewer");
    if (!group) {
      viewer.replaceChildren(make("p", "empty", data.groups.length ? "No group fits the filter." : "No trajectories were recorded."));
      return;
    }
    const cards = group.trajectories.map(trajectoryCard);
    const worst = group.trajectories.findIndex((trajectory) => trajectory.turns.some((turn) => turn.verdict));
    cards[Math.max(0, worst)].open = true;
    const fact = (name, value) => make("span", "", `${name} `, make("b", "", value));
    const facts = make("p", "facts", fact("golden answers:", group.golden_answers.join(" | ") || "unknown"),
      fact("method:", group.arm), fact("seed:", String(group.seed)), fact("update:", String(group.update)),
      group.hops ? fact("hops:", String(group.hops)) : null, fact("task:", group.task_id));
    viewer.replaceChildren(make("div", "question", make("h3", "", group.question), facts, overview(group, cards)), ...cards);
  }

  function options(select, values, all, text = String) {
    const chosen = select.value;
    const items = [...(all ? [["", all]] : []), ...values.map((value) => [String(value), text(value)])];
    select.replaceChildren(...items.map(([value, shown]) => {
      const option = make("option", "", shown);
      option.value = value;
      return option;
    }));
    select.value = items.some(([value]) => value === chosen) ? chosen : (items[0] || [""])[0];
    select.disabled = !items.length;
  }

  const distinct = (values) => [...new Set(values)];
  const brief = (text, size) => (text.length > size ? `${text.slice(0, size - 1)}…` : text);
  let shown = [];

  function holds(group, words) {
    const texts = [group.question, ...group.golden_answers, ...group.trajectories.flatMap((trajectory) => trajectory.turns.flatMap((turn) => [turn.body, turn.think]))];
    return texts.some((text) => text.toLowerCase().includes(words));
  }

  function fits(group, upTo) {
    return (!byId("only").checked || group.num_mispenalized > 0)
      && (!byId("find").value.trim() || holds(group, byId("find").value.trim().toLowerCase()))
      && (upTo < 1 || !byId("arm").value || group.arm === byId("arm").value)
      && (upTo < 2 || !byId("seed").value || String(group.seed) === byId("seed").value)
      && (upTo < 3 || !byId("update").value || String(group.update) === byId("update").value);
  }

  function refresh() {
    const numbers = (key, upTo) => distinct(data.groups.filter((g) => fits(g, upTo)).map((g) => g[key]));
    options(byId("arm"), numbers("arm", 0), "all");
    options(byId("seed"), numbers("seed", 1).sort((a, b) => a - b), "all");
    options(byId("update"), numbers("update", 2).sort((a, b) => a - b), "all");
    shown = data.groups.map((group, index) => index).filter((index) => fits(data.groups[index], 3));
    options(byId("group"), shown, "", (index) => {
      const group = data.groups[index];
      const count = group.num_mispenalized ? `${group.num_mispenalized} mis-penalised` : "none mis-penalised";
      return `${group.arm}, seed ${group.seed}, update ${group.update} · ${brief(group.question, 90)} · ${count}`;
    });
    byId("count").textContent = `${shown.length} of ${data.groups.length} groups`;
    select();
  }

  function select() {
    const position = shown.indexOf(Number(byId("group").value));
    byId("previous").disabled = position <= 0;
    byId("next").disabled = position < 0 || position >= shown.length - 1;
    showGroup(shown.length ? data.groups[shown[Math.max(0, position)]] : null);
  }

  function step(by) {
    byId("group").value = String(shown[shown.indexOf(Number(byId("group").value)) + by]);
    select();
  }

  // What is chosen stands in the address, so that a link shows the same group to others.
  function writeAddress() {
    const chosen = new URLSearchParams();
    for (const id of ["arm", "seed", "update", "find", "group"]) if (byId(id).value) chosen.set(id, byId(id).value);
    if (byId("only").checked) chosen.set("only", "1");
    history.replaceState(null, "", `#${chosen}`);
  }

  function readAddress() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    if (!chosen.has("group")) return false;
    byId("only").checked = chosen.has("only");
    byId("find").value = chosen.get("find") || "";
    refresh();
    for (const id of ["arm", "seed", "update"]) { byId(id).value = chosen.get(id) || ""; refresh(); }
    byId("group").value = chosen.get("group");
    select();
    document.getElementById("browser").scrollIntoView();
    return true;
  }

  // A page of runs that are going on is loaded again, but not under the hands of its reader.
  if (data.live) {
    const { refreshS, writtenAt } = data.live, loaded = Date.now();
    let touched = 0;
    for (const kind of ["pointerdown", "keydown", "wheel", "touchmove"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
    const timer = setInterval(() => {
      if (Date.now() / 1000 - writtenAt > 40 * refreshS) {
        clearInterval(timer);
        byId("live").textContent = "Nothing was written for a long time, so this page is not loaded again by itself. Did the runs end without a word?";
      } else if (Date.now() - loaded > 1000 * refreshS && Date.now() - touched > 500 * refreshS) location.reload();
    }, 1000);
  }

  const chosen = (act) => () => { act(); writeAddress(); };
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["arm", "seed", "update", "only"]) byId(id).addEventListener("change", chosen(refresh));
  byId("find").addEventListener("input", chosen(refresh));
  byId("group").addEventListener("change", chosen(select));
  byId("previous").addEventListener("click", chosen(() => step(-1)));
  byId("next").addEventListener("click", chosen(() => step(1)));
  const richest = data.groups.reduce((best, group, index) => (group.num_mispenalized > (data.groups[best] || { num_mispenalized: -1 }).num_mispenalized ? index : best), 0);
  refresh();
  if (!readAddress() && shown.length) { byId("group").value = String(richest); select(); }
})();
