"use strict";
(() => {
  const box = document.getElementById("flicker");
  const play = document.getElementById("play");
  const shown = document.getElementById("shown");
  const which = [...document.querySelectorAll("button[data-pair]")];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let pair = "after", timer = 0, top = true;
  const show = () => {
    box.className = "row " + (top ? "phase-" + pair : "phase-fixed");
    shown.textContent = !top ? "fixed image" : pair === "after" ? "moved image" : "moving image";
  };
  const run = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => { top = !top; show(); }, 700) : 0;
    play.textContent = on ? "Pause" : "Play";
    shown.setAttribute("aria-live", on ? "off" : "polite");
  };
  const choose = (name) => {
    pair = name;
    top = true;
    for (const button of which) button.setAttribute("aria-pressed", String(button.dataset.pair === name));
    show();
  };
  const still = (on) => { run(false); top = on; show(); };
  play.addEventListener("click", () => run(!timer));
  document.getElementById("swap").addEventListener("click", () => still(!top));
  for (const button of which) button.addEventListener("click", () => choose(button.dataset.pair));
  const keys = {
    ArrowLeft: () => still(false), ArrowRight: () => still(true), ArrowUp: () => choose("before"),
    ArrowDown: () => choose("after"), " ": () => run(!timer),
  };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  show();
  run(!calm.matches);
  calm.addEventListener("change", () => run(!calm.matches));

  const data = document.getElementById("volumes");
  if (!data) return;
  const say = (text) => { document.getElementById("viewer-note").textContent = text; };
  const begin = async () => {
    if (!document.createElement("canvas").getContext("webgl2")) {
      document.getElementById("viewer-body").hidden = true;
      return say("This browser has no WebGL 2, so the viewer is left out. The pictures above show the same result.");
    }
    const volumes = JSON.parse(data.textContent);
    const bytes = (name) => Uint8Array.from(atob(volumes[name]), (c) => c.charCodeAt(0)).buffer;
    const image = async (name, colormap, opacity, low, high) => niivue.NVImage.new(
      bytes(name), name + ".nii.gz", colormap, opacity, null, low, high);
    const options = { backColor: [0, 0, 0, 1], show3Dcrosshair: false, isRadiologicalConvention: true, isColorbar: false,
      dragAndDropEnabled: false, logLevel: "error", multiplanarLayout: 2, multiplanarShowRender: 0 };
    const left = new niivue.Niivue(options), right = new niivue.Niivue(options);
    await left.attachTo("left");
    await right.attachTo("right");
    const jac = { R: [5, 67, 247, 230, 127], G: [48, 147, 247, 140, 59], B: [97, 195, 247, 40, 8],
      A: [255, 160, 0, 160, 255], I: [0, 64, 128, 192, 255] };
    right.addColormap("volume_change", jac);
    for (const [view, names] of [[left, ["fixed", "moved"]], [right, ["moved", "jacobian"]]]) {
      view.addVolume(await image(names[0], "gray", 1, 0, 1));
      view.addVolume(names[1] === "jacobian" ? await image("jacobian", "volume_change", 0, -1, 1)
        : await image("moved", "gray", 0, 0, 1));
      view.setSliceType(view.sliceTypeMultiplanar);
    }
    left.broadcastTo([right], { "2d": true, "3d": true });
    right.broadcastTo([left], { "2d": true, "3d": true });
    const slider = (id, view) => document.getElementById(id).addEventListener("input",
      (event) => view.setOpacity(1, event.target.value / 100));
    slider("blend", left);
    slider("change", right);
    // radiological: the patient's right is on the left, so the left arrow leads to it
    const where = document.getElementById("where");
    const steps = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
      PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
    const tell = (view) => {
      const mm = view.frac2mm(view.scene.crosshairPos);
      where.textContent = "At " + [0, 1, 2].map((i) => mm[i].toFixed(1)).join(", ") + " mm (RAS+).";
    };
    for (const view of [left, right]) view.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(steps, event.key)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      view.moveCrosshairInVox(...steps[event.key]);
      tell(view);
    }, { capture: true });
    for (const view of [left, right]) view.onLocationChange = () => tell(view);
    tell(left);
    document.documentElement.dataset.viewer = "ready";
  };
  begin().catch((error) => {
    document.getElementById("viewer-body").hidden = true;
    say("The viewer could not start (" + error.message + "). The pictures above show the same result.");
  });
})();
