"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const list = byId("cards"), search = byId("search"), sort = byId("sort"), large = byId("large");
  const fold = byId("fold");
  const least = byId("least"), expected = byId("expected"), supported = byId("supported");
  const most = byId("most"), cut = byId("cut");
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").replace(/\s+/g, " ").toLowerCase();
  const number = (text) => (text === undefined ? NaN : Number(text));

  // Read once: searching then touches no text of the page, and sorting no attribute.
  const cards = Array.from(list.children, (node) => {
    const texts = Array.from(node.querySelectorAll(".find"), (part) => plain(part.textContent));
    return {
      node,
      text: texts.join("\n"),
      name: node.querySelector("h2").textContent,
      confidence: number(node.dataset.confidence),
      expected: number(node.dataset.expected),
      support: number(node.dataset.support),
      cider: number(node.dataset.cider),
      evidence: number(node.dataset.evidence),
      cut: node.querySelector(".best .cut") !== null,
    };
  });

  const applySearch = () => {
    const words = Array.from(search.value.matchAll(/"([^"]+)"|[^\s"]+/g), (match) => plain(match[1] ?? match[0]));
    // A field that is empty filters nothing; one that is filled leaves out cards without the figure.
    const floor = least.value === "" ? NaN : Math.log(least.valueAsNumber / 100);
    const promise = expected.value === "" ? NaN : expected.valueAsNumber / 100;
    const ground = supported.value === "" ? NaN : supported.valueAsNumber / 100;
    const ceiling = most.value === "" ? NaN : most.valueAsNumber / 100;
    let shown = 0;
    for (const card of cards) {
      const hit = (!cut.checked || card.cut)
        && (Number.isNaN(floor) || card.confidence >= floor)
        && (Number.isNaN(promise) || card.expected >= promise)
        && (Number.isNaN(ground) || card.support >= ground)
        && (Number.isNaN(ceiling) || card.cider <= ceiling)
        && words.every((word) => card.text.includes(word));
      if (card.node.hidden === hit) card.node.hidden = !hit;
      shown += hit;
    }
    const active = [least, expected, supported, most].filter((field) => field.value !== "").length + cut.checked;
    fold.textContent = active ? `Sort and filter (${active})` : "Sort and filter";
    byId("shown").textContent = `${shown} of ${cards.length} shown`;
    byId("nothing").hidden = shown > 0 || cards.length === 0;
  };

  const applySort = () => {
    const [key, sign] = sort.value.split(",");
    const collator = new Intl.Collator(undefined, { numeric: true });
    const order = cards.slice(); // Array.sort is stable, so ties keep the given order
    if (key === "name") order.sort((a, b) => collator.compare(a.name, b.name));
    else if (key !== "given") {
      order.sort((a, b) => {
        // Cards without the figure go last, in either direction.
        if (Number.isNaN(a[key]) || Number.isNaN(b[key])) return Number.isNaN(a[key]) - Number.isNaN(b[key]);
        return a[key] === b[key] ? 0 : Math.sign(a[key] - b[key]) * Number(sign);
      });
    }
    const fragment = document.createDocumentFragment();
    for (const card of order) fragment.append(card.node);
    list.append(fragment);
  };

  const step = (direction) => {
    const visible = Array.from(list.children).filter((node) => !node.hidden);
    const current = document.activeElement.closest(".card");
    let index = visible.indexOf(current);
    if (index >= 0) index += direction;
    else {
      const top = byId("bar").getBoundingClientRect().bottom;
      index = visible.findIndex((node) => node.getBoundingClientRect().bottom > top + 40);
    }
    const next = visible[Math.max(0, Math.min(index, visible.length - 1))];
    if (!next) return;
    document.documentElement.style.setProperty("--bar", `${byId("bar").offsetHeight}px`);
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  };

  let pictures = [], at = 0;
  const show = (index) => {
    at = Math.max(0, Math.min(index, pictures.length - 1));
    const picture = pictures[at], figure = picture.closest("figure"), card = picture.closest(".card");
    const [image, caption, about] = large.children;
    image.src = picture.src;
    image.alt = picture.alt;
    caption.textContent = card.querySelector(".best").firstElementChild?.textContent ?? "";
    const evidence = figure.querySelector(".owed")?.title;
    const time = figure.querySelector("figcaption span").textContent;
    about.textContent = [`Frame at ${time}, ${at + 1} of ${pictures.length}.`, evidence].filter(Boolean).join(" ");
    if (!large.open) large.showModal();
  };
  const enlarge = (event) => {
    const picture = event.target.closest(".strip img");
    if (!picture) return;
    event.preventDefault();
    pictures = Array.from(picture.closest(".strip").querySelectorAll("img"));
    show(pictures.indexOf(picture));
  };
  list.addEventListener("click", enlarge);
  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") enlarge(event);
  });
  for (const picture of list.querySelectorAll(".strip img")) {
    picture.tabIndex = 0;
    picture.setAttribute("role", "button");
  }
  fold.addEventListener("click", () => {
    fold.setAttribute("aria-expanded", String(fold.getAttribute("aria-expanded") === "false"));
  });
  large.addEventListener("click", () => large.close());
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(at + 1);
    else if (event.key === "ArrowLeft") show(at - 1);
    else return;
    event.preventDefault();
  });

  for (const key of ["confidence", "expected", "support", "cider", "evidence"]) {
    if (cards.every((card) => Number.isNaN(card[key]))) {
      for (const option of sort.querySelectorAll(`[value^="${key}"]`)) option.remove();
      document.querySelector(`[data-key="${key}"]`)?.parentNode.remove();
    }
  }
  if (!cards.some((card) => card.cut)) cut.parentNode.hidden = true;
  for (const field of [least, expected, supported, most, cut]) field.addEventListener("input", applySearch);
  search.addEventListener("input", applySearch);
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (search.value) { search.value = ""; applySearch(); } else search.blur();
    event.preventDefault();
  });
  sort.addEventListener("change", applySort);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, dialog")) return;
    if (event.key === "/") { event.preventDefault(); search.focus(); search.select(); }
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });
  byId("bar").hidden = false;
  applySearch();
})();
