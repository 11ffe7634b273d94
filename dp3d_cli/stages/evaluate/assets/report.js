"use strict";
// The turntable: one subject, one view, all methods in lockstep. The address says where it stands
// (#subject=ID&view=NUMBER), so that a view can be linked to.
(() => {
  const data = JSON.parse(document.getElementById("turntable-data").textContent);
  const $ = (id) => document.getElementById(id);
  const viewer = $("viewer"), stage = $("stage"), slider = $("view"), where = $("where"), play = $("play");
  const marks = [...document.querySelectorAll(".results thead .swatch")];
  const state = { subject: 0, step: 0, number: 0, timer: 0 };
  const STEP_PX = 14; // of dragging to the next view
  const FRAME_MS = 140;
  const DIAL_WIDTH = 120, DIAL_HEIGHT = 64;

  const make = (tag, css, text) => {
    const element = document.createElement(tag);
    if (css) element.className = css;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const source = (n) => "data:image/jpeg;base64," + data.pictures[n];
  const subject = () => data.subjects[state.subject];
  const view = () => subject().views[state.step];

  const panels = []; // {image, over, value, box, pick(view) -> picture number, method}
  const addPanel = (title, method, pick, mark) => {
    const box = make("div", "panel" + (method === null ? "" : " method"));
    const head = make("p", "title");
    if (mark) head.append(mark.cloneNode(true));
    head.append(make("span", "", title));
    const frame = make("div", "frame");
    const empty = make("span", "", "no picture");
    const image = make("img"), over = make("img", "over");
    over.alt = "";
    image.decoding = over.decoding = "sync"; // all panels change in the same frame
    frame.append(empty, image, over);
    const value = make("p", "value");
    box.append(head, frame, value);
    stage.append(box);
    panels.push({ box, image, over, value, pick, method, title });
  };
  const setImage = (image, picture) => {
    image.hidden = picture === null || picture === undefined;
    if (image.hidden) image.removeAttribute("src");
    else image.src = source(picture);
  };

  const some = (key) => data.subjects.some((s) => s.views.some((v) => v[key] !== null));
  if (some("reference")) addPanel("Reference", null, (v) => v.reference);
  if (some("truth")) addPanel("Ground truth", null, (v) => v.truth);
  const hasTruth = some("truth");
  data.methods.forEach((name, n) => addPanel(name, n, (v) => v.methods[n] && v.methods[n].picture, marks[n]));

  data.subjects.forEach((s, n) => $("subject").append(new Option(s.id, n)));
  data.metrics.forEach((m, n) => $("number").append(new Option(m.name, n)));
  if (!hasTruth) $("difference").closest("label").hidden = true;

  const angles = (v) => [["yaw", v.yaw], ["pitch", v.pitch]]
    .filter(([, a]) => a !== null).map(([name, a]) => `${name} ${a.toFixed(1)}°`).join(", ");

  const show = () => {
    const v = view(), count = subject().views.length;
    const metric = data.metrics[state.number];
    for (const panel of panels) {
      const picture = panel.pick(v);
      setImage(panel.image, picture);
      panel.image.alt = `${panel.title}, view ${v.view}`;
      if (panel.method === null) continue;
      const own = v.methods[panel.method];
      setImage(panel.over, own ? v.truth : null);
      panel.box.classList.toggle("compared", Boolean(own) && v.truth !== null);
      const text = own && metric ? own.values[state.number] : null;
      panel.value.textContent = text === null ? "–" : `${metric.name} ${text}${metric.unit && text !== "no face" ? " " + metric.unit : ""}`;
    }
    const text = [`View ${v.view} (${state.step + 1} of ${count})`, angles(v)].filter(Boolean).join(", ");
    where.textContent = text;
    slider.max = stage.ariaValueMax = count - 1;
    slider.value = stage.ariaValueNow = state.step;
    slider.setAttribute("aria-valuetext", text);
    stage.setAttribute("aria-valuetext", text);
    stage.dataset.view = v.view;
    stage.dataset.subject = subject().id;
    $("subject").value = state.subject;
    drawDial();
  };

  const drawDial = () => {
    const dial = $("dial"), views = subject().views;
    const known = views.every((v) => v.yaw !== null && v.pitch !== null);
    dial.style.display = known ? "" : "none";
    if (!known) return;
    const reach = Math.max(...views.map((v) => Math.max(Math.abs(v.yaw) / DIAL_WIDTH, Math.abs(v.pitch) / DIAL_HEIGHT)), 1e-6);
    const scale = 0.42 / reach;
    const dot = (v, css, r) => {
      const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      circle.setAttribute("cx", DIAL_WIDTH / 2 + v.yaw * scale);
      circle.setAttribute("cy", DIAL_HEIGHT / 2 + v.pitch * scale); // negative pitch is above
      circle.setAttribute("r", r);
      circle.setAttribute("class", css);
      return circle;
    };
    const frame = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["width", DIAL_WIDTH], ["height", DIAL_HEIGHT], ["rx", 6], ["class", "frame"]]) frame.setAttribute(name, value);
    dial.replaceChildren(frame, ...views.map((v) => dot(v, "", 2)), dot(view(), "here", 4.5));
  };

  const write = () => {
    const hash = `#subject=${encodeURIComponent(subject().id)}&view=${view().view}`;
    history.replaceState(null, "", hash);
  };
  const go = (step, keep) => {
    const count = subject().views.length;
    state.step = ((step % count) + count) % count;
    show();
    if (!keep) write();
  };
  const choose = (n, viewNumber) => {
    const old = viewNumber === undefined ? view().view : viewNumber;
    state.subject = n;
    const same = subject().views.findIndex((v) => v.view === old);
    state.step = same < 0 ? 0 : same;
    show();
  };
  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    if (!wanted.has("subject") && !wanted.has("view")) return false;
    const n = data.subjects.findIndex((s) => s.id === wanted.get("subject"));
    choose(n < 0 ? state.subject : n, wanted.has("view") ? Number(wanted.get("view")) : undefined);
    return true;
  };

  const setPlaying = (on) => {
    clearInterval(state.timer);
    state.timer = on ? setInterval(() => go(state.step + 1, true), FRAME_MS) : 0;
    play.textContent = on ? "Pause" : "Play";
    play.setAttribute("aria-pressed", String(on));
    if (!on) write();
  };

  $("subject").addEventListener("change", (event) => { choose(Number(event.target.value)); write(); });
  $("number").addEventListener("change", (event) => { state.number = Number(event.target.value); show(); });
  $("difference").addEventListener("change", (event) => stage.classList.toggle("difference", event.target.checked));
  slider.addEventListener("input", () => go(Number(slider.value)));
  play.addEventListener("click", () => setPlaying(!state.timer));
  stage.addEventListener("keydown", (event) => {
    const last = subject().views.length - 1;
    const to = { ArrowRight: state.step + 1, ArrowUp: state.step + 1, ArrowLeft: state.step - 1,
      ArrowDown: state.step - 1, Home: 0, End: last }[event.key];
    if (event.key === " ") setPlaying(!state.timer);
    else if (to !== undefined) go(to);
    else return;
    event.preventDefault();
  });
  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    drag = { x: event.clientX, step: state.step };
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const step = drag.step + Math.round((event.clientX - drag.x) / STEP_PX);
    const count = subject().views.length;
    if (((step % count) + count) % count !== state.step) go(step, true);
  });
  const drop = () => { if (drag) { drag = null; write(); } };
  stage.addEventListener("pointerup", drop);
  stage.addEventListener("pointercancel", drop);
  window.addEventListener("hashchange", () => { if (read()) $("turntable").scrollIntoView(); });

  viewer.hidden = false;
  stage.ariaValueMin = 0;
  show();
  if (read()) $("turntable").scrollIntoView();
})();
