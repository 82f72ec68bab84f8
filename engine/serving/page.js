"use strict";
// Everything that comes from outside (names of classes and files, messages) is put in as text, never as HTML.
const $ = id => document.getElementById(id);
const SHOWN = 5;    // bars
const ASKED = 25;   // classes a window: enough for the mean of some windows to be right for those that are shown
const COLOURS = 6;  // the others share the last one
const PICTURES = 200;  // of a video that the browser cannot play
const RATE = 25;    // frames a second where the video does not say
const TITLE = document.title;
const video = $("video");
let model = null, request = null, result = null, lastFile = null, frameRequest = 0, rolling = false;
let entries = [], working = false;  // the videos of the list, and whether one of them is being answered

const percent = p => `${(100 * p).toFixed(1)}\u00a0%`;  // never alone on a line
const clock = s => s >= 60 ? `${Math.floor(s / 60)}:${(s % 60).toFixed(1).padStart(4, "0")}` : `${s.toFixed(1)} s`;
const number = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

async function loadModel() {
  try {
    const answer = await fetch("model");
    if (!answer.ok) return showProblem(`The server answered ${answer.status}.`, false);
    model = await answer.json();
  } catch {
    return showProblem("The server cannot be reached.", false);
  }
  const on = model.dataset ? `, trained on ${model.dataset}` : "";
  const [summary, names] = $("about").children;
  summary.textContent = `${model.model}${on}: ${number(model.classes.length, "class")}`;
  names.textContent = model.classes.join(", ");
  $("about").hidden = false;
  const { max_bytes, max_seconds } = model.limits;
  $("limits").textContent = `Up to ${Math.round(max_bytes / 1e5) / 10} MB and ${Math.round(max_seconds)} s`;
}

// ---- from a file to its answer

function enqueue(files) {
  // while videos are answered, more may come; they wait in a list, whose answers stay until the next one begins
  if (!working) {
    entries = [];
    clear();
  }
  entries.push(...[...files].map(file => ({ file, done: false, state: "waiting" })));
  drawQueue();
  if (!working) work();
}

async function work() {
  working = true;
  for (let entry; (entry = entries.find(({ done }) => !done));) {
    entry.state = "";
    drawQueue();
    const outcome = await ask(entry.file);
    if (!outcome) {  // cancelled, with all that waited
      entries = entries.filter(({ done }) => done);
      break;
    }
    Object.assign(entry, outcome, { done: true, state: outcome.reason || verdict(outcome.answer) });
    lastFile = entry.file;
    if (entries.length === 1) present(entry);
    else if (outcome.answer && !result) present(entry);
    drawQueue();
  }
  working = false;
  drawQueue();
}

const verdict = answer => `${answer.label}, ${percent(answer.top[0].probability)}`;

function present({ file, answer, reason, again }) {
  clear();
  if (answer) show(answer, file);
  else showProblem(reason, again);
}

function drawQueue() {
  $("queue").hidden = entries.length < 2;
  $("queue").replaceChildren(...entries.map(entry => {
    const item = element("li"), name = element(entry.answer ? "button" : "span", entry.file.name);
    name.type = "button";
    name.addEventListener("click", () => present(entry));
    const state = entry.state.replace(`${entry.file.name}: `, "");
    item.append(name, element("span", state, entry.reason ? "bad" : "quiet"));
    return item;
  }));
}

function unfit(file) {
  if (model && file.size > model.limits.max_bytes) {
    const size = Math.round(file.size / 1e5) / 10, most = Math.round(model.limits.max_bytes / 1e5) / 10;
    return `${file.name} has ${size} MB, and this server takes at most ${most} MB.`;
  }
  const isNamed = $("file").accept.split(",").some(ending => file.name.toLowerCase().endsWith(ending));
  const isOther = /^(text|image|audio|font)\/|pdf|zip|json|javascript|msword|officedocument/.test(file.type);
  return isOther && !isNamed ? `${file.name} is not a video.` : "";
}

function ask(file) {
  // -> { answer }, { reason, again }, or null where it was cancelled
  return new Promise(resolve => {
    const reason = unfit(file);
    if (reason) return resolve({ reason, again: false });
    const form = new FormData();
    form.append("video", file, file.name);
    const mine = request = new XMLHttpRequest();
    mine.upload.onprogress = event => {
      if (event.lengthComputable) showBusy(`Uploading ${file.name}`, event.loaded / event.total);
    };
    mine.upload.onload = () => showBusy(`Looking at ${file.name}`, null);
    const end = outcome => {
      if (request === mine) cancel();  // nothing is left to abort
      resolve(outcome);
    };
    mine.onload = () => {
      const answer = read(mine.responseText);
      if (mine.status === 200 && answer) return end({ answer });
      const detail = answer && typeof answer.detail === "string" ? answer.detail : `The server answered ${mine.status}.`;
      end({ reason: `${file.name}: ${detail}`, again: mine.status >= 500 || mine.status === 408 });
    };
    mine.onerror = () => end({ reason: "The connection broke, or the server cannot be reached.", again: true });
    mine.onabort = () => resolve(null);
    showBusy(`Uploading ${file.name}`, 0);
    isPlayable(file).then(plays => {
      if (request !== mine) return resolve(null);  // cancelled meanwhile
      mine.open("POST", `predict?top=${ASKED}&pictures=${plays ? 0 : PICTURES}`);
      mine.send(form);
    });
  });
}

function cancel() {
  const old = request;
  request = null;
  $("busy").hidden = true;
  if (old) old.abort();
}

function isPlayable(file) {
  // no browser plays the MPEG-4 of UCF101's AVI files, and some play the sound alone
  return new Promise(resolve => {
    const probe = document.createElement("video"), source = URL.createObjectURL(file);
    const done = plays => {
      clearTimeout(late);
      probe.onloadedmetadata = probe.onerror = null;
      probe.removeAttribute("src");
      URL.revokeObjectURL(source);
      resolve(plays);
    };
    const late = setTimeout(() => done(true), 5000);  // one that loads nothing before a person asks may still play it
    probe.onloadedmetadata = () => done(probe.videoWidth > 0);
    probe.onerror = () => done(false);
    probe.preload = "metadata";
    probe.muted = true;
    probe.src = source;
  });
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function clear() {
  stop();
  $("problem").hidden = $("result").hidden = $("unplayable").hidden = true;
  result = null;
  document.title = TITLE;
  for (const link of [video, $("json")]) {
    const old = link.src || link.href;
    link.removeAttribute(link === video ? "src" : "href");
    if (old) URL.revokeObjectURL(old);
  }
}

function showBusy(state, done) {
  $("busy").hidden = false;
  $("state").textContent = done === null ? `${state} ...` : `${state}: ${Math.floor(100 * done)} %`;
  if (done === null) $("progress").removeAttribute("value");
  else $("progress").value = done;
}

function showProblem(reason, mayTryAgain) {
  $("problem").hidden = false;
  $("reason").textContent = reason;
  $("again").hidden = !(mayTryAgain && lastFile);
}

// ---- the answer

function show({ pictures, ...answer }, file) {
  // a video that does not say its frame rate has no seconds: then a frame is the unit
  const timed = answer.seconds !== null && answer.seconds > 0;
  const span = entry => timed ? [entry.start, entry.end] : [entry.first_frame, entry.last_frame + 1];
  result = { answer, timed, span, length: timed ? answer.seconds : answer.num_frames, now: 0, colours: new Map(),
    pictures: pictures || [] };

  const shares = new Map();
  for (const segment of answer.timeline) {
    const [start, end] = span(segment);
    shares.set(segment.label, (shares.get(segment.label) || 0) + (end - start) / result.length);
  }
  const byShare = [...shares].sort((a, b) => b[1] - a[1]);
  const known = new Set([...byShare.map(([label]) => label), ...answer.top.map(({ label }) => label)]);
  [...known].slice(0, COLOURS).forEach((label, place) => result.colours.set(label, `var(--s${place})`));

  $("label").textContent = verdict(answer);
  const rate = answer.fps === null ? "" : ` at ${Number(answer.fps.toFixed(2))} fps`;
  const facts = [file.name, number(answer.num_frames, "frame") + rate, number(answer.windows.length, "window")];
  if (timed) facts.splice(1, 0, clock(answer.seconds));
  if (answer.num_damaged) facts.push(number(answer.num_damaged, "damaged place"));
  if (answer.lost) facts.push(answer.lost);
  $("facts").textContent = facts.join(" · ");
  document.title = `${answer.label}: ${file.name}`;

  $("segments").replaceChildren(...answer.timeline.map(drawSegment));
  $("legend").replaceChildren(...byShare.slice(0, COLOURS).map(drawShare));
  if (byShare.length > COLOURS) {
    const rest = byShare.slice(COLOURS).reduce((sum, entry) => sum + entry[1], 0);
    $("legend").append(drawShare([`${byShare.length - COLOURS} others`, rest]));
  }
  drawBars($("whole"), answer.top.slice(0, SHOWN));
  const json = new Blob([JSON.stringify(answer, null, 2)], { type: "application/json" });
  $("json").href = URL.createObjectURL(json);
  $("json").download = `${file.name.replace(/\.[^.]*$/, "")}.json`;
  $("timeline").setAttribute("aria-valuemax", result.length.toFixed(1));
  $("result").hidden = false;
  $("drop").classList.add("small");
  video.hidden = result.pictures.length > 0;
  $("still").hidden = !video.hidden;
  if (!video.hidden) video.src = URL.createObjectURL(file);
  showMoment(0);
  $("label").focus();
  if (!model) loadModel();
}

const colour = label => result.colours.get(label) || `var(--s${COLOURS})`;

function drawSegment(segment) {
  const [start, end] = result.span(segment);
  const drawn = element("div", (end - start) / result.length > 0.04 ? segment.label : "");
  drawn.title = `${segment.label}, ${percent(segment.probability)}, ${moment(start)} to ${moment(end)}`;
  drawn.style.left = `${100 * start / result.length}%`;
  drawn.style.width = `${100 * (end - start) / result.length}%`;
  drawn.style.background = colour(segment.label);
  return drawn;
}

function drawShare([label, share]) {
  const drawn = element("li"), dot = element("span", "", "dot");
  dot.style.background = colour(label);
  drawn.append(dot, `${label}: ${Math.round(100 * share)} % of the time`);
  return drawn;
}

function drawBars(list, likely) {
  while (list.children.length > likely.length) list.lastChild.remove();
  likely.forEach(({ label, probability }, place) => {
    let item = list.children[place];
    if (!item) {
      item = element("li");
      const name = element("div", "", "name"), track = element("div", "", "track");
      name.append(element("span"), element("span"));
      track.append(element("div"));
      item.append(name, track);
      list.append(item);
    }
    const [text, value] = item.querySelectorAll("span"), bar = item.querySelector(".track div");
    text.textContent = label;
    value.textContent = percent(probability);
    bar.style.width = `${100 * probability}%`;
    bar.style.background = colour(label);
  });
}

// ---- the moment

const moment = at => result.timed ? clock(at) : `frame ${Math.floor(at)}`;

function likelyAt(at) {
  // the mean of the windows that show the moment, as the timeline has it; of the nearest where none does
  const windows = result.answer.windows;
  let around = windows.filter(w => { const [start, end] = result.span(w); return start <= at && at < end; });
  if (!around.length) {
    const far = w => { const [start, end] = result.span(w); return Math.max(start - at, at - end); };
    around = [windows.reduce((best, w) => far(w) < far(best) ? w : best)];
  }
  const sums = new Map();
  for (const window of around) {
    for (const { label, probability } of window.top) sums.set(label, (sums.get(label) || 0) + probability / around.length);
  }
  return [...sums].map(([label, probability]) => ({ label, probability }))
    .sort((a, b) => b.probability - a.probability).slice(0, SHOWN);
}

function showMoment(at) {
  at = Math.min(Math.max(at, 0), result.length);
  result.now = at;
  const likely = likelyAt(Math.min(at, result.length * (1 - 1e-9)));
  if (result.pictures.length) showPicture(at);
  $("cursor").style.left = `${100 * at / result.length}%`;
  $("when").textContent = `At ${moment(at)}`;
  drawBars($("bars"), likely);
  $("timeline").setAttribute("aria-valuenow", at.toFixed(1));
  $("timeline").setAttribute("aria-valuetext", `${moment(at)}: ${likely[0].label}, ${percent(likely[0].probability)}`);
}

function showPicture(at) {
  let picture = result.pictures[0];
  for (const other of result.pictures) if ((result.timed ? other.start : other.frame) <= at) picture = other;
  if (picture === result.picture) return;
  result.picture = picture;
  $("picture").src = `data:image/jpeg;base64,${picture.jpeg}`;
  $("picture").alt = `Frame ${picture.frame}`;
}

function roll() {
  // plays the pictures
  if (result.now >= result.length) showMoment(0);
  const start = performance.now(), from = result.now, speed = result.timed ? 1 : RATE;
  const next = time => {
    showMoment(from + Math.max(time - start, 0) / 1000 * speed);
    if (result.now >= result.length) return stop();
    frameRequest = requestAnimationFrame(next);
  };
  rolling = true;
  $("play").textContent = "Pause";
  frameRequest = requestAnimationFrame(next);
}

function stop() {
  cancelAnimationFrame(frameRequest);
  rolling = false;
  $("play").textContent = "Play";
}

const playable = () => !video.hidden && Number.isFinite(video.duration) && video.duration > 0;

function seek(at) {
  at = Math.min(Math.max(at, 0), result.length);
  if (rolling) stop();
  if (playable()) video.currentTime = result.timed ? at : at / result.length * video.duration;
  showMoment(at);
}

function follow() {
  if (!result || !playable()) return;
  showMoment(result.timed ? video.currentTime : video.currentTime / video.duration * result.length);
  cancelAnimationFrame(frameRequest);
  if (!video.paused) frameRequest = requestAnimationFrame(follow);
}

// ---- what a person does

$("file").addEventListener("change", event => {
  if (event.target.files.length) enqueue(event.target.files);
  event.target.value = "";  // so that the same file can be chosen again
});
$("cancel").addEventListener("click", cancel);
$("play").addEventListener("click", () => rolling ? stop() : roll());
$("again").addEventListener("click", () => enqueue([lastFile]));
for (const event of ["play", "seeking", "timeupdate"]) video.addEventListener(event, follow);
video.addEventListener("error", () => {
  if (!result || result.pictures.length) return;
  video.hidden = true;
  $("unplayable").hidden = false;
});

const timeline = $("timeline");
const pointed = event => {
  const box = timeline.getBoundingClientRect();
  seek((event.clientX - box.left) / box.width * result.length);
};
timeline.addEventListener("pointerdown", event => { timeline.setPointerCapture(event.pointerId); pointed(event); });
timeline.addEventListener("pointermove", event => { if (timeline.hasPointerCapture(event.pointerId)) pointed(event); });
timeline.addEventListener("keydown", event => {
  const step = result.length / 100, steps = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step,
    PageDown: -10 * step, PageUp: 10 * step, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  seek(result.now + steps[event.key]);
});

let depth = 0;  // a drag enters and leaves the elements inside, too
const isFile = event => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
const over = change => { depth = change; $("drop").classList.toggle("over", depth > 0); };
addEventListener("dragenter", event => { if (isFile(event)) { event.preventDefault(); over(depth + 1); } });
addEventListener("dragleave", event => { if (isFile(event)) over(Math.max(depth - 1, 0)); });
addEventListener("dragover", event => { if (isFile(event)) event.preventDefault(); });
addEventListener("drop", event => {
  if (!isFile(event)) return;
  event.preventDefault();
  over(0);
  const folder = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry()).find(entry => entry?.isDirectory);
  if (folder) return showProblem(`${folder.name} is a folder. Drop the videos in it.`, false);
  if (event.dataTransfer.files.length) enqueue(event.dataTransfer.files);
});

loadModel();
