"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const box = $("compare"), play = $("play"), shown = $("shown"), cut = $("cut");
  const buttons = (name) => [...document.querySelectorAll("button[data-" + name + "]")];
  const modes = buttons("mode"), pairs = buttons("pair");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const named = { fixed: "fixed image", before: "moving image before registration", after: "moved image" };
  const state = { mode: "flicker", a: "fixed", b: "after", top: true };
  let timer = 0;
  const show = () => {
    const { mode, a, b, top } = state;
    Object.assign(box.dataset, { mode, a, b, phase: top ? "b" : "a" });
    for (const button of modes) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    for (const button of pairs) {
      button.setAttribute("aria-pressed", String(button.dataset.pair === a + "-" + b));
      button.disabled = mode === "side";
    }
    $("flicker-controls").hidden = mode !== "flicker";
    $("cut-label").hidden = mode !== "slider";
    shown.textContent = mode === "flicker" ? named[top ? b : a]
      : mode === "side" ? "all three images" : named[a] + " and " + named[b];
  };
  const run = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => { state.top = !state.top; show(); }, 800) : 0;
    play.textContent = on ? "Pause" : "Play";
    shown.setAttribute("aria-live", on ? "off" : "polite");
  };
  const choose = (a, b) => { Object.assign(state, { a, b, top: true }); show(); };
  const still = (on) => { run(false); state.top = on; show(); };
  const compare = (mode) => { run(false); Object.assign(state, { mode, top: true }); show(); };
  const divide = (percent) => {
    cut.value = Math.min(100, Math.max(0, percent));
    for (const one of box.querySelectorAll(".pic")) one.style.setProperty("--cut", cut.value + "%");
  };
  const aside = (on) => state.mode === "slider" ? divide(Number(cut.value) + (on ? 2 : -2)) : still(on);
  play.addEventListener("click", () => run(!timer));
  $("swap").addEventListener("click", () => still(!state.top));
  for (const button of modes) button.addEventListener("click", () => compare(button.dataset.mode));
  for (const button of pairs) button.addEventListener("click", () => choose(...button.dataset.pair.split("-")));
  cut.addEventListener("input", () => divide(cut.value));
  const keys = {
    ArrowLeft: () => aside(false), ArrowRight: () => aside(true), ArrowUp: () => choose("fixed", "before"),
    ArrowDown: () => choose("fixed", "after"), " ": () => { if (state.mode !== "flicker") compare("flicker"); run(!timer); },
  };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  const drag = (event) => {
    const at = event.target.closest(".pic");
    if (state.mode !== "slider" || !at || (event.type === "pointermove" && !(event.buttons & 1))) return;
    const place = at.getBoundingClientRect();
    divide(Math.round(100 * (event.clientX - place.left) / place.width));
  };
  box.addEventListener("pointerdown", drag);
  box.addEventListener("pointermove", drag);
  box.addEventListener("dragstart", (event) => event.preventDefault());
  for (const check of document.querySelectorAll("input[data-mark]")) {
    const apply = () => document.body.classList.toggle("no-" + check.dataset.mark, !check.checked);
    check.addEventListener("change", apply);
    apply();
  }
  // in a narrow window strips scroll: begin in the middle, let keys reach them, and keep those of one plane together
  const strips = [...document.querySelectorAll(".strip")];
  const fit = () => {
    for (const strip of strips) {
      const most = strip.scrollWidth - strip.clientWidth;
      if (most > 1 && strip.tabIndex < 0) strip.scrollLeft = most / 2;
      if (most > 1) strip.tabIndex = 0; else strip.removeAttribute("tabindex");
    }
  };
  fit();
  addEventListener("resize", fit);
  for (const strip of strips) {
    strip.addEventListener("scroll", () => {
      for (const other of strip.parentElement.querySelectorAll(".strip")) {
        if (Math.abs(other.scrollLeft - strip.scrollLeft) > 1) other.scrollLeft = strip.scrollLeft;
      }
    }, { passive: true });
  }
  const copied = (text) => { $("copied").textContent = text; };
  for (const button of document.querySelectorAll("button[data-copy]")) button.addEventListener("click", async () => {
    const from = $(button.dataset.copy);
    const range = document.createRange();
    range.selectNodeContents(from);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    try {
      await navigator.clipboard.writeText(from.innerText.trim());
      copied("Copied.");
    } catch {
      copied("Selected: copy it with Ctrl+C.");
    }
  });
  show();
  run(!calm.matches);
  calm.addEventListener("change", () => run(!calm.matches && state.mode === "flicker"));
})();
