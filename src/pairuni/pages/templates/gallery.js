"use strict";
// Filters, sorts and counts the cards. What is shown is what the address says after its #, and nothing else, so that
// every view is a link: #kind=retrieved&tag=x&min=0.7. Without scripts the page shows all cards in the file's order.
(() => {
  const NAMES = ["show", "id", "kind", "reason", "side", "tag", "min", "max", "text", "sort"];
  const cardsOf = (section) =>
    [...section.querySelectorAll(".card")].map((element) => ({
      element,
      kind: element.dataset.kind,
      reason: element.dataset.reason,
      similarity: "similarity" in element.dataset ? Number(element.dataset.similarity) : null,
      tags: JSON.parse(element.dataset.tags),
      sides: JSON.parse(element.dataset.sides),
      ids: JSON.parse(element.dataset.ids),
      text: [...element.querySelectorAll(".find")].map((part) => part.textContent).join("\n").toLowerCase(),
    }));
  const sections = new Map(
    [...document.querySelectorAll("section")].map((element) => {
      const cards = cardsOf(element);
      const known = cards.some((card) => card.similarity !== null);
      // A filter of what a section's cards do not have is not offered there and changes nothing.
      const lacking = [element.dataset.section === "pairs" ? "reason" : "kind", ...(known ? [] : ["min", "max", "sort"])];
      const values = new Set(cards.flatMap((card) => [card.kind, card.reason, ...card.tags, ...card.sides]));
      const list = element.querySelector(".cards");
      return [element.dataset.section, { element, cards, lacking, values, list, order: "" }];
    }),
  );
  const filters = document.getElementById("filters");
  const controls = [...filters.querySelectorAll("select, input")];

  function wanted() {
    const given = new URLSearchParams(location.hash.slice(1));
    return Object.fromEntries(NAMES.map((name) => [name, given.get(name) ?? ""]));
  }

  function number(text) {
    const value = Number(text);
    return text.trim() === "" || Number.isNaN(value) ? null : value;
  }

  function fits(card, view) {
    const least = number(view.min);
    const most = number(view.max);
    return (
      (!view.kind || card.kind === view.kind) &&
      (!view.reason || card.reason === view.reason) &&
      (!view.id || card.ids.includes(view.id)) &&
      (!view.side || card.sides.includes(view.side)) &&
      (!view.tag || card.tags.includes(view.tag)) &&
      (least === null || (card.similarity !== null && card.similarity >= least)) &&
      (most === null || (card.similarity !== null && card.similarity <= most)) &&
      view.text.toLowerCase().split(/\s+/).every((word) => card.text.includes(word))
    );
  }

  function arrange(section, order) {
    if (section.order === order) return;
    section.order = order;
    const sign = order === "falling" ? -1 : 1;
    const value = (card) => (card.similarity === null ? sign * Infinity : card.similarity);
    const cards = [...section.cards];
    if (order === "falling" || order === "rising") cards.sort((a, b) => sign * (value(a) - value(b)) || 0);
    section.list.append(...cards.map((card) => card.element));
  }

  function setControl(control, value) {
    if (control === document.activeElement) return; // it is being typed in
    if (control.tagName === "SELECT" && ![...control.options].some((option) => option.value === value)) {
      control.add(new Option(value, value)); // a value that no card has: said, not passed over
    }
    control.value = value;
  }

  function apply() {
    const view = wanted();
    const name = sections.has(view.show) ? view.show : "pairs";
    const section = sections.get(name);
    for (const lacked of section.lacking) view[lacked] = "";
    for (const [other, { element }] of sections) element.hidden = other !== name;
    for (const tab of document.querySelectorAll(".tab")) {
      if (tab.dataset.tab === name) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    let shown = 0;
    for (const card of section.cards) {
      card.element.hidden = !fits(card, view);
      shown += card.element.hidden ? 0 : 1;
    }
    arrange(section, view.sort);
    for (const option of filters.querySelectorAll("select:not([name=sort]) option")) {
      option.hidden = option.value !== "" && !section.values.has(option.value);
    }
    for (const control of controls) {
      control.parentElement.hidden = section.lacking.includes(control.name);
      setControl(control, view[control.name]);
    }
    section.element.querySelector(".none").hidden = shown > 0;
    document.getElementById("shown").textContent = `${shown} of ${section.cards.length} cards`;
    document.getElementById("all").href = `#show=${name}`;
  }

  function changed(event) {
    const view = { ...wanted(), [event.target.name]: event.target.value };
    const given = NAMES.filter((name) => view[name]).map((name) => [name, view[name]]);
    // Replaced, so that the back button leaves the page instead of undoing letters.
    location.replace("#" + (new URLSearchParams(given).toString() || "show=pairs"));
  }

  filters.hidden = false;
  for (const control of controls) control.addEventListener("input", changed);
  window.addEventListener("hashchange", apply);
  apply();
})();
