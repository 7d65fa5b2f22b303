"use strict";
// Tables of the page as CSV, JSON and LaTeX, made here from what the page shows.
(() => {
  const cellsOf = (row) => [...row.cells].map((cell) => cell.innerText.trim().replace(/\s+/g, " "));
  const contentOf = (table) => ({
    header: table.tHead ? cellsOf(table.tHead.rows[0]) : [],
    rows: [...table.tBodies].flatMap((body) => [...body.rows].map(cellsOf)),
  });
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const SPECIAL = { "&": "\\&", "%": "\\%", "_": "\\_", "#": "\\#", "$": "\\$", "−": "$-$", "–": "--" };
  const tex = (text) => text.replace(/[&%_#$−–]/g, (sign) => SPECIAL[sign]);

  const FORMS = {
    CSV: ["csv", ({ header, rows }) => [header, ...rows].map((row) => row.map(quoted).join(",")).join("\n")],
    JSON: ["json", ({ header, rows }) => JSON.stringify(rows.map((row) => Object.fromEntries(row.map((cell, i) => [header[i] || String(i), cell]))), null, 1)],
    LaTeX: ["tex", ({ header, rows }) => [
      `\\begin{tabular}{l${"r".repeat(Math.max(0, header.length - 1))}}`, "\\toprule", `${header.map(tex).join(" & ")} \\\\`, "\\midrule",
      ...rows.map((row) => `${row.map(tex).join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}",
    ].join("\n")],
  };

  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/plain" }));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  const tables = [...document.querySelectorAll("#results table, #credit table")];
  tables.forEach((table, number) => {
    const line = document.createElement("p");
    line.className = "hint downloads";
    line.append("Download: ");
    for (const [label, [ending, write]] of Object.entries(FORMS)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "link";
      button.textContent = label;
      button.addEventListener("click", () => save(`table-${number + 1}.${ending}`, write(contentOf(table))));
      line.append(button, " ");
    }
    (table.closest(".scroll") || table).after(line);
  });
})();
