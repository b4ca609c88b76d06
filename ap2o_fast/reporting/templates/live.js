"use strict";
// Asks whether the run has written something, and then shows the new report as the old one was left.
(() => {
  const EVERY = 2000; // milliseconds
  const state = document.getElementById("state");
  const reports = document.getElementById("reports");
  let frame = null;
  let shown = null;

  // What can be opened or focused, by its words and, among equal ones, by its place.
  const named = (page, kinds) => {
    const count = new Map();
    return new Map([...page.querySelectorAll(kinds)].map((element) => {
      const words = element.name || (element.matches("details") ? element.querySelector("summary") : element).textContent.trim();
      count.set(words, (count.get(words) ?? 0) + 1);
      return [`${words} ${count.get(words)}`, element];
    }));
  };

  const carry = (from, to) => {
    const details = named(to, "details");
    for (const [key, old] of named(from, "details")) if (details.has(key)) details.get(key).open = old.open;
    const [old, form] = [from.getElementById("filter"), to.getElementById("filter")];
    if (old && form) {
      for (const field of ["error", "problem", "words"]) {
        form.elements[field].value = old.elements[field].value;
        if (form.elements[field].selectedIndex === -1) form.elements[field].value = "";
      }
      form.dispatchEvent(new Event("input"));
    }
    const fields = "summary, select, input, button";
    for (const [key, old] of named(from, fields)) {
      if (old === from.activeElement) named(to, fields).get(key)?.focus({ preventScroll: true });
    }
    const top = from.scrollingElement.scrollTop;
    to.defaultView.scrollTo({ top, behavior: "instant" });
  };

  const renew = () => new Promise((done) => {
    const next = document.createElement("iframe");
    next.title = "Report";
    next.className = "next";
    next.src = "page";
    next.addEventListener("load", () => {
      if (frame) {
        carry(frame.contentDocument, next.contentDocument);
        frame.remove();
      }
      next.className = "";
      frame = next;
      document.documentElement.dataset.renewed = String(Number(document.documentElement.dataset.renewed ?? 0) + 1);
      done();
    }, { once: true });
    reports.append(next);
  });

  const look = async () => {
    try {
      const reply = await fetch("state", { cache: "no-store" });
      if (!reply.ok) throw new Error(reply.statusText);
      const { mark, changed, trouble } = await reply.json();
      if (mark && mark !== shown) {
        shown = mark;
        await renew();
      }
      const when = changed ? new Date(1000 * changed).toLocaleTimeString() : "";
      state.textContent = "Live" + (when ? ": the run as of " + when : "") + (trouble ? ". Nothing newer can be shown: " + trouble : "");
      state.className = trouble ? "lost" : "";
    } catch {
      state.textContent = "The server has ended or cannot be reached; what is shown stays.";
      state.className = "lost";
    }
    setTimeout(look, EVERY);
  };
  look();
})();
