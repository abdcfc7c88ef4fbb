"use strict";
(() => {
  const box = document.getElementById("flicker");
  const play = document.getElementById("play");
  const which = [...document.querySelectorAll("button[data-pair]")];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let pair = "after", timer = 0, top = true;
  const show = () => { box.className = "row " + (top ? "phase-" + pair : "phase-fixed"); };
  const run = (on) => {
    clearInterval(timer);
    timer = on ? setInterval(() => { top = !top; show(); }, 700) : 0;
    play.textContent = on ? "Pause" : "Play";
  };
  play.addEventListener("click", () => run(!timer));
  document.getElementById("swap").addEventListener("click", () => { run(false); top = !top; show(); });
  for (const button of which) button.addEventListener("click", () => {
    pair = button.dataset.pair; top = true;
    for (const other of which) other.setAttribute("aria-pressed", String(other === button));
    show();
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
      dragAndDropEnabled: false, logLevel: "error" };
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
    document.documentElement.dataset.viewer = "ready";
  };
  begin().catch((error) => {
    document.getElementById("viewer-body").hidden = true;
    say("The viewer could not start (" + error.message + "). The pictures above show the same result.");
  });
})();
