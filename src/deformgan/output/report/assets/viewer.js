"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const say = (text) => { $("viewer-note").textContent = text; };
  const volumes = JSON.parse($("volumes").textContent), bars = JSON.parse($("bars").textContent);
  const named = Object.fromEntries(volumes.map((one) => [one.name, one]));
  const palette = ["ff6b6b", "ffd166", "06d6a0", "4cc9f0", "c77dff", "ff9f1c", "90e36b", "f15bb5", "00bbf9", "e0aaff",
    "f4f1bb", "ff8fab"];
  const channels = (colours) => [0, 2, 4].map((at) => colours.map((c) => parseInt(c.slice(at, at + 2), 16)));
  const colormap = (colours, opaque) => {
    const [R, G, B] = channels(colours), steps = colours.map((_, n) => Math.round(255 * n / (colours.length - 1)));
    return { R, G, B, A: opaque, I: steps };
  };
  const colormaps = () => {
    const found = {}, bare = (name) => bars[name].colours.split(",").map((c) => c.slice(1));
    for (const name of ["displacement", "local", "error"]) {
      const colours = bare(name);
      found[name] = colormap(colours, colours.map((_, n) => n ? 255 : 0));
    }
    found.change = colormap(bare("change"), [255, 160, 0, 160, 255]);
    found.lesion = colormap(["ff4fa3", "ff4fa3"], [0, 255]);
    if (named.labels) {
      const label = (n) => Math.round(n * named.labels.high / 255);
      const all = [...Array(256).keys()];
      found.labels = colormap(all.map((n) => palette[label(n) % palette.length]), all.map((n) => label(n) ? 255 : 0));
    }
    return found;
  };
  const bytes = (name) => Uint8Array.from(atob(named[name].data), (c) => c.charCodeAt(0)).buffer;
  const image = (name, map, opacity) => niivue.NVImage.new(
    bytes(name), name + ".nii.gz", map, opacity, null, named[name].low, named[name].high);
  const THIN = Number($("volumes").dataset.voxel) / 3; // mm, of the crosshairs
  const digits = (value) => Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3).replace(/\.?0+$/, "");
  const told = {
    change: (value) => value === 0 ? "unchanged" : (value > 0 ? "grew to " : "shrank to ") + digits(2 ** value) + " ×",
    lesion: (value) => value > 0.5 ? "inside the lesion" : "outside the lesion",
    labels: (value) => "label " + Math.round(value),
    displacement: (value) => "moved by " + value.toFixed(1) + " mm",
    local: (value) => "moved by " + value.toFixed(1) + " mm beside the affine part",
    error: (value) => "expected error " + value.toFixed(1) + " mm",
  };

  const begin = async () => {
    if (!document.createElement("canvas").getContext("webgl2")) {
      $("viewer-body").hidden = true;
      return say("This browser has no WebGL 2, so the viewer is left out. The pictures above show the same result.");
    }
    const options = { backColor: [0, 0, 0, 1], show3Dcrosshair: false, isRadiologicalConvention: true,
      sagittalNoseLeft: true, isOrientationTextVisible: true, showAllOrientationMarkers: true, fontMinPx: 14,
      fontColor: [0.85, 0.88, 0.92, 1], crosshairColor: [1, 0.82, 0.4, 0.9], isColorbar: false,
      dragAndDropEnabled: false, logLevel: "error", multiplanarLayout: 2, multiplanarShowRender: 0,
      crosshairWidth: THIN, crosshairWidthUnit: "mm" };
    const left = new niivue.Niivue(options), right = new niivue.Niivue(options), both = [left, right];
    await left.attachTo("left");
    await right.attachTo("right");
    for (const [name, map] of Object.entries(colormaps())) for (const view of both) view.addColormap("own_" + name, map);
    left.addVolume(await image("fixed", "gray", 1));
    left.addVolume(await image("moved", "gray", 0));
    right.addVolume(await image("moved", "gray", 1));
    for (const view of both) view.setSliceType(view.sliceTypeMultiplanar);
    left.broadcastTo([right], { "2d": true, "3d": true });
    right.broadcastTo([left], { "2d": true, "3d": true });

    let overlay = "", laid = [];
    const tell = (view) => {
      const mm = view.frac2mm(view.scene.crosshairPos);
      const at = (volume) => volume.getValue(...volume.mm2vox([mm[0], mm[1], mm[2]]));
      const parts = ["fixed " + digits(at(left.volumes[0])), "moved " + digits(at(left.volumes[1]))];
      if (overlay) parts.push(told[overlay](at(laid[0])));
      $("where").textContent = "x " + mm[0].toFixed(1) + ", y " + mm[1].toFixed(1) + ", z " + mm[2].toFixed(1)
        + " mm (RAS+): " + parts.join(", ");
    };
    const share = (id) => $(id).value / 100;
    const lay = async () => {
      const name = $("overlay").value;
      const next = name ? await Promise.all(both.map(() => image(name, "own_" + name, share("opacity")))) : [];
      if (name !== $("overlay").value) return; // another one was chosen meanwhile
      for (const [n, one] of laid.entries()) both[n].removeVolume(one);
      for (const [n, one] of next.entries()) both[n].addVolume(one);
      [overlay, laid] = [name, next];
      $("overlay-bar").hidden = !Object.hasOwn(bars, name);
      if (Object.hasOwn(bars, name)) {
        $("overlay-bar").querySelector(".ramp").style.background = "linear-gradient(90deg," + bars[name].colours + ")";
        $("overlay-bar").querySelectorAll(".ticks span").forEach((span, n) => { span.textContent = bars[name].ticks[n]; });
      }
      tell(left);
    };
    const fade = () => {
      for (const [n, view] of both.entries()) if (laid.length) view.setOpacity(view.volumes.indexOf(laid[n]), share("opacity"));
    };
    const windowed = () => {
      const black = share("black"), white = Math.max(share("white"), black + 0.02);
      for (const [view, names] of [[left, ["fixed", "moved"]], [right, ["moved"]]]) {
        for (const [n, name] of names.entries()) {
          const { low, high } = named[name];
          view.volumes[n].cal_min = low + black * (high - low);
          view.volumes[n].cal_max = low + white * (high - low);
        }
        view.updateGLVolume();
      }
    };
    const zoom = (factor) => {
      const [x, y, z, old] = left.scene.pan2Dxyzmm, mm = left.frac2mm(left.scene.crosshairPos);
      const now = factor ? Math.min(8, Math.max(1, old * factor)) : 1;
      // what is under the crosshairs stays where it is
      const pan = now === 1 ? [0, 0, 0] : [x, y, z].map((p, i) => p + mm[i] * (old - now));
      for (const view of both) {
        view.setPan2Dxyzmm([...pan, now]);
        view.setCrosshairWidth(THIN / now);
      }
      $("zoom").textContent = digits(now) + " ×";
    };
    const reset = () => {
      for (const [id, value] of [["blend", 0], ["opacity", 60], ["black", 0], ["white", 100]]) $(id).value = value;
      $("overlay").value = "";
      left.setOpacity(1, 0);
      windowed();
      zoom(0);
      for (const view of both) view.scene.crosshairPos = [0.5, 0.5, 0.5];
      for (const view of both) view.drawScene();
      return lay();
    };
    $("blend").addEventListener("input", () => left.setOpacity(1, share("blend")));
    $("overlay").addEventListener("change", lay);
    $("opacity").addEventListener("input", fade);
    for (const id of ["black", "white"]) $(id).addEventListener("input", windowed);
    $("zoom-in").addEventListener("click", () => zoom(1.5));
    $("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
    $("reset").addEventListener("click", reset);
    // radiological: the patient's right is on the left, so the left arrow leads to it
    const steps = { ArrowLeft: [1, 0, 0], ArrowRight: [-1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
      PageUp: [0, 0, 1], PageDown: [0, 0, -1] };
    const others = { "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: reset };
    for (const view of both) view.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (Object.hasOwn(others, event.key)) others[event.key]();
      else if (Object.hasOwn(steps, event.key)) view.moveCrosshairInVox(...steps[event.key]);
      else return;
      event.preventDefault();
      event.stopImmediatePropagation();
      tell(view);
    }, { capture: true });
    for (const view of both) view.onLocationChange = () => tell(view);
    tell(left);
    document.documentElement.dataset.viewer = "ready";
  };
  begin().catch((error) => {
    $("viewer-body").hidden = true;
    say("The viewer could not start (" + error.message + "). The pictures above show the same result.");
  });
})();
